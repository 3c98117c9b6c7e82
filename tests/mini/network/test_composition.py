"""Constraints between clips: given clips are kept, and what they determine is copied exactly."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from layerflow.core.schema import CLIPS
from layerflow.mini.network.composition import composite, copy_planes, solve_composition, visibility
from layerflow.models.layout import Layout

FRAMES, SIZE = 3, 8
GATES = ("here", "anywhere", "score", "residual")
HERE, ANYWHERE, SCORE, RESIDUAL = range(copy_planes(1))


def scene(seed: int = 0, moving: bool = True) -> dict[str, Tensor]:
    """Return clips in model space (1, F, C, H, W): a moving or still square over a still background."""
    generator = torch.Generator().manual_seed(seed)
    alpha = -torch.ones(1, FRAMES, 1, SIZE, SIZE)
    for frame in range(FRAMES):
        left = 3 * frame if moving else 3
        alpha[:, frame, :, 3:5, left : left + 2] = 1
    share = (alpha + 1) / 2
    background = torch.rand(1, 1, 3, SIZE, SIZE, generator=generator).expand(-1, FRAMES, -1, -1, -1) * 2 - 1
    foreground = (torch.rand(1, FRAMES, 3, SIZE, SIZE, generator=generator) * 2 - 1) * share
    blended = foreground + (1 - share) * background
    return {"foreground": foreground, "alpha": alpha, "background": background, "blended": blended}


def solve(clips: dict[str, Tensor], names: set[str], drawn: dict[str, Tensor] | None = None, **gates: float):
    layout = Layout(FRAMES)
    space = {name: clip.expand(-1, -1, 3, -1, -1) for name, clip in clips.items()}
    copy = torch.zeros(1, FRAMES, copy_planes(1), SIZE, SIZE)
    for index, name in enumerate(GATES):
        copy[:, :, index] = gates.get(name, 0.0)
    timestep = layout.timesteps(torch.ones(1), layout.given_mask(names))
    drawn = drawn or {name: torch.zeros_like(clip) for name, clip in clips.items()}
    return solve_composition(drawn, copy, layout.pack(space), timestep, layout)


@settings(max_examples=25, deadline=None)
@given(names=st.sets(st.sampled_from(CLIPS)), seed=st.integers(0, 99))
def test_given_clips_are_kept_and_noise_is_not_copied(names: set[str], seed: int) -> None:
    clips = scene(seed)
    solved = solve(clips, names, here=1.0, anywhere=1.0, residual=1.0)
    for name in names:
        assert torch.equal(solved[name], clips[name])
    if "blended" not in names:
        for name in {"foreground", "background"} - names:
            assert not solved[name].any(), name  # as drawn


@settings(max_examples=25, deadline=None)
@given(names=st.sets(st.sampled_from(CLIPS)), seed=st.integers(0, 99))
def test_blended_is_the_composite(names: set[str], seed: int) -> None:
    clips = scene(seed)
    solved = solve(clips, names)
    over = solved["foreground"] + (0.5 - 0.5 * solved["alpha"]) * solved["background"]
    assert torch.allclose(solved["blended"], clips["blended"] if "blended" in names else over, atol=1e-6)


def test_background_is_copied_from_other_frames() -> None:
    clips = scene()
    drawn = {name: torch.zeros_like(clip) for name, clip in clips.items()} | {"alpha": clips["alpha"]}
    solved = solve(clips, {"blended"}, drawn, anywhere=1.0)["background"]
    seen = visibility(clips["alpha"]).amax(dim=1, keepdim=True) == 1
    assert seen.float().mean() > 0.9
    assert torch.allclose(torch.where(seen, solved, 0), torch.where(seen, clips["background"], 0), atol=1e-5)


def test_still_background_needs_no_gate() -> None:
    clips = scene()
    drawn = {name: torch.zeros_like(clip) for name, clip in clips.items()} | {"alpha": clips["alpha"]}
    solved = solve(clips, {"blended"}, drawn)["background"]
    seen = (visibility(clips["alpha"]).amax(dim=1, keepdim=True) == 1).expand_as(solved)
    assert torch.allclose(solved[seen], clips["background"][seen], atol=1e-3)
    clips["blended"] = torch.stack([clips["blended"][:, frame].roll(2 * frame, -1) for frame in range(FRAMES)], dim=1)
    solved = solve(clips, {"blended"}, drawn)["background"]
    assert float(solved.abs().max()) < 1e-3  # as drawn


def test_hidden_background_is_kept_as_drawn() -> None:
    clips = scene(moving=False)
    drawn = {name: torch.full_like(clip, 0.25) for name, clip in clips.items()} | {"alpha": clips["alpha"]}
    solved = solve(clips, {"blended"}, drawn, anywhere=1.0)["background"]
    hidden = clips["alpha"].expand_as(solved) == 1
    assert torch.allclose(solved[hidden], torch.tensor(0.25), atol=5e-3)


def test_foreground_is_uncomposed() -> None:
    clips = scene()
    drawn = {name: torch.zeros_like(clip) for name, clip in clips.items()} | {"alpha": clips["alpha"]}
    solved = solve(clips, {"blended", "background"}, drawn, residual=1.0)
    assert torch.allclose(solved["foreground"], clips["foreground"], atol=1e-6)


def test_pool_weights_frames_by_score() -> None:
    clips = scene(moving=False)
    clips["alpha"] = torch.full_like(clips["alpha"], -1)
    # Frames that differ, so that the background does not count as still.
    clips["blended"] = torch.stack([torch.full((1, 3, SIZE, SIZE), value) for value in (-1.0, 0.0, 1.0)], dim=1)
    layout, copy = Layout(FRAMES), torch.zeros(1, FRAMES, copy_planes(1), SIZE, SIZE)
    copy[:, :, ANYWHERE] = 1
    copy[:, 2, SCORE] = 20
    space = {name: clip.expand(-1, -1, 3, -1, -1) for name, clip in clips.items()}
    timestep = layout.timesteps(torch.ones(1), layout.given_mask({"blended", "alpha"}))
    drawn = {name: torch.zeros_like(clip) for name, clip in clips.items()}
    solved = solve_composition(drawn, copy, layout.pack(space), timestep, layout)["background"]
    assert torch.allclose(solved, torch.ones_like(solved), atol=1e-4)


@pytest.mark.parametrize("value", [-1.0, 1.0])
def test_visibility_range_and_rim(value: float) -> None:
    shown = visibility(torch.full((2, 3, 1, 4, 4), value))
    assert shown.min() > 0
    assert shown.max() == (1 if value < 0 else shown.min())
    rim = visibility(F.pad(torch.ones(1, 1, 1, 1, 1), (3, 3, 3, 3), value=-1.0))
    assert float(rim[0, 0, 0, 2, 2]) == float(rim[0, 0, 0, 3, 3]) < 1 == float(rim[0, 0, 0, 1, 1])


def solve_part(clips: dict[str, Tensor], frames: dict[str, list[int]], drawn: dict[str, Tensor], **gates: float):
    """Solve with some frames given; noise stands in the others."""
    layout = Layout(FRAMES, tuple(clips))
    masks = {name: torch.zeros(FRAMES, dtype=torch.bool) for name in frames}
    for name, numbers in frames.items():
        masks[name][numbers] = True
    given = layout.given_mask(masks)
    noise = torch.Generator().manual_seed(9)
    shown = {}
    for index, (name, clip) in enumerate(clips.items()):
        clean = given[index].expand(FRAMES)[None, :, None, None, None]
        noised = torch.where(clean, clip, torch.randn(clip.shape, generator=noise))
        shown[name] = noised.expand(-1, -1, 3, -1, -1)
    count = sum(name.startswith("foreground") for name in clips)
    copy = torch.zeros(1, FRAMES, copy_planes(count), SIZE, SIZE)
    for index, name in enumerate([*GATES[:3], *[f"residual-{n}" for n in range(1, count + 1)]]):
        copy[:, :, index] = gates.get(name, 0.0)
    return solve_composition(drawn, copy, layout.pack(shown), layout.timesteps(torch.ones(1), given), layout)


@settings(max_examples=25, deadline=None)
@given(
    frames=st.dictionaries(st.sampled_from(CLIPS), st.lists(st.integers(0, FRAMES - 1), min_size=1)),
    seed=st.integers(0, 99),
)
def test_given_frames_are_kept_and_noise_is_not_copied(frames: dict[str, list[int]], seed: int) -> None:
    clips = scene(seed)
    drawn = {name: torch.zeros_like(clip) for name, clip in clips.items()} | {"alpha": clips["alpha"]}
    solved = solve_part(clips, frames, drawn, here=1.0, anywhere=1.0, **{"residual-1": 1.0})
    for name, numbers in frames.items():
        assert torch.equal(solved[name][:, numbers], clips[name][:, numbers])
    for name, clip in solved.items():
        assert float(clip.abs().max()) <= 3.01, name  # noise is larger somewhere


def test_background_is_copied_from_the_frames_that_are_given() -> None:
    """The square leaves its first place in the second frame; nothing is known of the third."""
    clips = scene()
    drawn = {name: torch.zeros_like(clip) for name, clip in clips.items()} | {"alpha": clips["alpha"]}
    solved = solve_part(clips, {"blended": [0, 1]}, drawn, anywhere=1.0)["background"]
    seen = visibility(clips["alpha"])[:, :2].amax(dim=1, keepdim=True) == 1
    copied = torch.where(seen, solved - clips["background"], 0)[:, :2]
    assert float(copied.abs().max()) < 1e-3


def test_given_background_frames_complete_a_still_background() -> None:
    """A foreground that does not move hides the same place in all frames, but one frame without it is given."""
    clips = scene(moving=False)
    drawn = {name: torch.zeros_like(clip) for name, clip in clips.items()} | {"alpha": clips["alpha"]}
    solved = solve_part(clips, {"blended": [0, 1, 2], "background": [1]}, drawn)["background"]
    assert torch.allclose(solved, clips["background"].expand_as(solved), atol=1e-2)


def two_foregrounds(seed: int = 0) -> dict[str, Tensor]:
    """Return clips of a scene with a second square behind the first, which overlap in the last frame."""
    clips, generator = scene(seed), torch.Generator().manual_seed(seed + 1)
    alpha = -torch.ones(1, FRAMES, 1, SIZE, SIZE)
    alpha[..., 4:7, 5:8] = 1
    share = (alpha + 1) / 2
    foreground = (torch.rand(1, FRAMES, 3, SIZE, SIZE, generator=generator) * 2 - 1) * share
    behind = foreground + (1 - share) * clips["background"]
    blended = clips["foreground"] + (0.5 - 0.5 * clips["alpha"]) * behind
    return clips | {"blended": blended, "foreground-2": foreground, "alpha-2": alpha}


def test_blended_is_the_composite_of_all_foregrounds() -> None:
    clips = two_foregrounds()
    drawn = dict(clips, blended=torch.zeros_like(clips["blended"]))
    solved = solve_part(clips, {}, drawn)
    assert torch.allclose(solved["blended"], clips["blended"], atol=1e-6)
    assert torch.allclose(composite(solved), clips["blended"], atol=1e-6)


def test_each_foreground_is_uncomposed_where_it_is_seen() -> None:
    clips = two_foregrounds()
    empty = {name: torch.zeros_like(clips[name]) for name in ("foreground", "foreground-2")}
    given = {"blended": [0, 1, 2], "background": [0, 1, 2]}
    for number, name in ((1, "foreground"), (2, "foreground-2")):
        drawn = clips | {name: empty[name]}
        solved = solve_part(clips, given, drawn, **{f"residual-{number}": 1.0})
        hidden = (clips["alpha"] == 1) if number == 2 else torch.zeros_like(clips["alpha"], dtype=torch.bool)
        wrong = torch.where(hidden, 0, solved[name] - clips[name])
        assert float(wrong.abs().max()) < 1e-5
        assert not (solved[name] * hidden).any()


def test_background_is_hidden_by_any_foreground() -> None:
    clips = two_foregrounds()
    drawn = {name: torch.full_like(clip, 0.25) for name, clip in clips.items()}
    drawn |= {name: clips[name] for name in ("alpha", "alpha-2")}
    solved = solve_part(clips, {"blended": [0, 1, 2]}, drawn, anywhere=1.0)["background"]
    hidden = (clips["alpha-2"] == 1).expand_as(solved)
    assert torch.allclose(solved[hidden], torch.tensor(0.25), atol=5e-3)
