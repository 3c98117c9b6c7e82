"""Given frames: which frames of which clips, hints at mattes, and mistakes."""

import numpy as np
import pytest
import torch
from hypothesis import given as cases
from hypothesis import strategies as st

from layerflow.core.given import Given, frame_numbers
from layerflow.core.layered_video import LayeredVideo

FRAMES = 4


def video(seed: int = 0) -> LayeredVideo:
    generator = torch.Generator().manual_seed(seed)
    clips = {"foreground": 3, "alpha": 1, "background": 3}
    return LayeredVideo(**{name: torch.rand(FRAMES, n, 2, 3, generator=generator) for name, n in clips.items()})


def test_whole_clips_are_given_in_all_frames() -> None:
    given = Given(video())
    assert given.clips == ("foreground", "alpha", "background")
    assert given.whole == {"foreground", "alpha", "background"}
    assert given.mask("blended").tolist() == [False] * FRAMES
    assert Given.of(given) is given
    assert Given.of(video()).frames == given.frames


@pytest.mark.parametrize(
    ("frames", "numbers"),
    [(0, (0,)), (-1, (3,)), ([3, 1, 1], (1, 3)), (slice(0, 2), (0, 1)), (slice(None, None, -2), (1, 3))],
)
def test_frames_are_numbered_from_either_end(frames: object, numbers: tuple[int, ...]) -> None:
    given = Given(video(), {"alpha": frames})
    assert given.numbers("alpha") == numbers
    assert given.whole == {"foreground", "background"}


@cases(st.dictionaries(st.sampled_from(["foreground", "alpha", "background"]), st.sets(st.integers(0, 3)), min_size=3))
def test_restored_frames_are_the_given_ones_bit_for_bit(frames: dict[str, set[int]]) -> None:
    if not any(frames.values()):
        return
    own, made = video(), video(1).compose()
    restored = Given(own, frames).restore(made)
    for name, clip in restored.clips().items():
        for number in range(FRAMES):
            source = own if number in frames.get(name, ()) else made
            assert torch.equal(clip[number], source.clips()[name][number])


def test_stills_are_put_at_their_frames() -> None:
    still, other = torch.rand(3, 2, 3), torch.rand(3, 2, 3)
    given = Given.from_frames(FRAMES, {"foreground": {0: still, -1: other}, "background": video().background})
    assert given.numbers("foreground") == (0, 3)
    assert given.whole == {"background"}
    assert torch.equal(given.video.foreground[0], still)
    assert torch.equal(given.video.foreground[3], other)


def test_hints_alone_are_enough() -> None:
    known = torch.zeros(FRAMES, 1, 2, 3, dtype=torch.bool)
    known[0, 0, 1, 1] = True
    given = Given(LayeredVideo(alpha=known.float()), {"alpha": ()}, {"alpha": known})
    assert given.clips == ()


@pytest.mark.parametrize(
    ("frames", "hints", "message"),
    [
        ({"alpha": 4}, {}, "frame 4 of alpha does not exist: there are 4, from 0 to 3"),
        ({"alpha": [0, True]}, {}, r"frames of alpha are \[0, True\]: they must be whole numbers"),
        ({"blended": 0}, {}, "frames names 'blended', but the given clips are foreground, alpha, background"),
        ({"alpha": (), "foreground": (), "background": ()}, {}, "no frame of any clip is given"),
        ({}, {"foreground": torch.ones(FRAMES, 3, 2, 3, dtype=torch.bool)}, "only mattes have hints"),
        ({}, {"alpha": torch.ones(FRAMES, 1, 2, 2, dtype=torch.bool)}, "the hint of alpha has shape"),
        ({}, {"alpha": torch.ones(FRAMES, 1, 2, 3)}, "must be bool"),
    ],
)
def test_mistakes_are_named(frames: dict[str, object], hints: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Given(video(), frames, hints)


def test_stills_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"frame 1 of alpha has shape \(1, 2, 2\), but frame 0 \(1, 2, 3\)"):
        Given.from_frames(FRAMES, {"alpha": {0: torch.zeros(1, 2, 3), 1: torch.zeros(1, 2, 2)}})
    with pytest.raises(ValueError, match="frame 9 of alpha does not exist"):
        Given.from_frames(FRAMES, {"alpha": {9: torch.zeros(1, 2, 3)}})
    with pytest.raises(ValueError, match="alpha has no frames"):
        Given.from_frames(FRAMES, {"alpha": {}})
    assert frame_numbers("alpha", range(2), 3) == (0, 1)


def test_frame_numbers_of_other_libraries_are_numbers() -> None:
    assert frame_numbers("alpha", torch.tensor([0, 2]), 3) == (0, 2)
    assert frame_numbers("alpha", np.int64(1), 3) == (1,)
    assert Given.from_frames(2, {"alpha": {np.int64(-1): torch.zeros(1, 2, 3)}}).numbers("alpha") == (1,)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ({"alpha": torch.zeros(2, 1, 2, 3)}, "alpha has 2 frames, but the scene 4: cut it, or change frames"),
        ({"alpha": [torch.zeros(1, 2, 3)]}, "alpha is a list: it must be a tensor, or tensors by frame"),
        ({"alpha": {"0": torch.zeros(1, 2, 3)}}, "frames of alpha are .*: they must be whole numbers"),
    ],
)
def test_frames_that_cannot_be_built_are_named(clips: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Given.from_frames(FRAMES, clips)


def test_other_things_than_videos_are_refused() -> None:
    with pytest.raises(ValueError, match="given is a dict: it must be a LayeredVideo or a Given, or a list of them"):
        Given.of({"alpha": torch.zeros(1, 1, 2, 3)})
    with pytest.raises(ValueError, match="frames is 0: a scene has at least one"):
        Given.from_frames(0, {"alpha": {0: torch.zeros(1, 2, 3)}})
