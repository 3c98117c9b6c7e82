"""Layout: packing, given clips, timesteps and noise."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layerflow.core.schema import CLIPS, TASKS
from layerflow.models.layout import Layout


@given(
    frames=st.integers(1, 4),
    order=st.permutations(CLIPS).flatmap(lambda p: st.integers(1, 4).map(lambda n: tuple(p[:n]))),
)
def test_unpacking_what_was_packed_gives_the_clips_back(frames: int, order: tuple[str, ...]) -> None:
    layout = Layout(frames, order)
    clips = {name: torch.randn(2, frames, 3, 4, 4) for name in order}
    packed = layout.pack(clips)
    assert packed.shape == (2, layout.length, 3, 4, 4)
    unpacked = layout.unpack(packed)
    assert list(unpacked) == list(order)
    assert all(torch.equal(unpacked[name], clips[name]) for name in order)


def test_clips_stand_one_after_another_in_time() -> None:
    layout = Layout(2, ("foreground", "alpha"))
    packed = layout.pack({"alpha": torch.ones(1, 2, 3, 4, 4), "foreground": torch.zeros(1, 2, 3, 4, 4)})
    assert packed[0, :, 0, 0, 0].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("task", TASKS)
def test_given_clips_stand_at_time_zero_and_generated_ones_at_t(task: str) -> None:
    layout = Layout(3)
    times = layout.timesteps(torch.tensor([0.25, 1.0]), layout.given_mask(TASKS[task]))
    for i, name in enumerate(layout.clips):
        assert times[:, i, 0].tolist() == ([0, 0] if name in TASKS[task] else [0.25, 1.0])
    assert layout.per_frame(times).shape == (2, 12, 1, 1, 1)
    assert torch.equal(layout.per_frame(times)[:, layout.clip_slice("blended"), 0, 0, 0], times[:, 3].expand(2, 3))


def test_alpha_gets_the_same_noise_in_each_channel_and_other_clips_do_not() -> None:
    layout = Layout(2)
    noise = layout.unpack(layout.noise(torch.zeros(1, 8, 3, 8, 8), torch.Generator().manual_seed(0)))
    assert torch.equal(noise["alpha"][:, :, 0], noise["alpha"][:, :, 2])
    assert not torch.equal(noise["blended"][:, :, 0], noise["blended"][:, :, 2])


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="unknown clip 'shadow'"):
        Layout(2, ("shadow",))
    with pytest.raises(ValueError, match="at least one clip and each once"):
        Layout(2, ("alpha", "alpha"))
    with pytest.raises(ValueError, match="at least one frame"):
        Layout(0)
    with pytest.raises(ValueError, match="'alpha' of the layout is missing"):
        Layout(1).pack({"foreground": torch.zeros(1, 1, 3, 2, 2)})
    with pytest.raises(ValueError, match="has 5 frames, the layout 8"):
        Layout(2).unpack(torch.zeros(1, 5, 3, 2, 2))
    with pytest.raises(ValueError, match="not in the layout"):
        Layout(1, ("alpha",)).given_mask({"blended"})
