"""What given frames show the mini: features, motion, and likeness to what is known of a matte."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from layerflow.core.schema import ALPHA_OF, BACKGROUND, BLENDED, model_clips
from layerflow.mini.network.image_features import CHANNELS, ImageFeatures, folded_weights
from layerflow.mini.network.observation import REACH, Observation, normalised

B, FRAMES, SIZE, DIM, FINE = 2, 3, 32, 8, 4


@pytest.fixture
def observation() -> Observation:
    torch.manual_seed(0)
    own = Observation(DIM, FINE, foregrounds=True)
    for kind in own.clips.values():
        torch.nn.init.normal_(kind.fine.weight)
    return own


def clips_of(foregrounds: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.rand(B, FRAMES, 3, SIZE, SIZE, generator=generator) * 2 - 1 for name in model_clips(foregrounds)
    }


def nothing(foregrounds: int = 1) -> dict[str, Tensor]:
    return {name: torch.zeros(B, FRAMES, dtype=torch.bool) for name in model_clips(foregrounds)}


@torch.no_grad()
def test_nothing_given_shows_nothing(observation: Observation) -> None:
    cells, fine = observation(clips_of(), nothing())
    assert cells.shape == (B * FRAMES, DIM, SIZE // 8, SIZE // 8)
    assert fine.shape == (B * FRAMES, FINE, SIZE // 4, SIZE // 4)
    assert not cells.any()
    assert not fine.any()


@torch.no_grad()
@pytest.mark.parametrize("name", [BLENDED, BACKGROUND, "foreground"])
def test_only_given_frames_are_seen(observation: Observation, name: str) -> None:
    clips, given = clips_of(), nothing()
    given[name][0, 1] = True
    cells, fine = observation(clips, given)
    seen = cells.unflatten(0, (B, FRAMES)).flatten(2).any(2), fine.unflatten(0, (B, FRAMES)).flatten(2).any(2)
    assert torch.equal(seen[0], given[name])
    assert torch.equal(seen[1], given[name])
    clips[name] = torch.where(given[name][..., None, None, None], clips[name], torch.zeros(()))
    assert torch.allclose(observation(clips, given)[0], cells)


@torch.no_grad()
def test_displacement_is_where_the_next_frame_shows_the_same() -> None:
    torch.manual_seed(0)
    still = torch.randn(1, 16, 12, 12)
    moved = torch.roll(still, (2, -1), (2, 3))  # two cells down and one to the left
    both = torch.ones(1, 2, dtype=torch.bool)
    planes = Observation(DIM, FINE)._displacements(torch.cat([still, moved]), both, (1, 2))
    side = 2 * REACH + 1
    before, after = planes.view(2, 2, side, side, 12, 12).unbind(1)
    place = 6, 6
    assert after[0, REACH + 2, REACH - 1][place] == pytest.approx(1, abs=1e-5)
    assert before[1, REACH - 2, REACH + 1][place] == pytest.approx(1, abs=1e-5)
    assert after[0, :, :, *place].argmax() == (REACH + 2) * side + REACH - 1
    assert not after[1].any()  # there is no frame after the last
    assert not before[0].any()
    both[0, 1] = False
    assert not Observation(DIM, FINE)._displacements(torch.cat([still, moved]), both, (1, 2)).any()


@torch.no_grad()
def test_likeness_finds_what_looks_like_the_known_pixels() -> None:
    known, other = F.normalize(torch.randn(2, 6), dim=1)
    cells = torch.stack([known, other, known, other])[None]  # of two frames of one row of two cells
    shares = torch.zeros(1, 2, 2, 1, 2)
    shares[0, 0, 0, 0, 0] = 0.05  # a click on the first cell
    inside, outside = Observation._likeness(cells, shares)
    expected = torch.tensor([1, float(known @ other)] * 2).view(2, 1, 1, 2)
    assert torch.allclose(inside, expected.expand(2, 2, 1, 2), atol=1e-6)
    assert not outside.any()


@torch.no_grad()
def test_a_hint_changes_what_is_seen_of_its_sample_alone(observation: Observation) -> None:
    clips, given = clips_of(), nothing()
    given[BLENDED][:] = True
    hints = torch.zeros(B, 1, FRAMES, 2, SIZE, SIZE)
    plain = observation(clips, given, hints)[0].unflatten(0, (B, FRAMES))
    hints[1, 0, 0, :, 4:12, 4:12] = 1
    hinted = observation(clips, given, hints)[0].unflatten(0, (B, FRAMES))
    assert torch.allclose(plain[0], hinted[0], atol=1e-5)
    assert all(not torch.allclose(plain[1, frame], hinted[1, frame]) for frame in range(FRAMES))  # at every frame


@torch.no_grad()
def test_the_matte_of_one_frame_counts_like_a_hint_at_all_of_it(observation: Observation) -> None:
    clips, given = clips_of(), nothing()
    given[BLENDED][:] = True
    clips["alpha"] = clips["alpha"][:, :, :1].expand(-1, -1, 3, -1, -1)
    hints = torch.zeros(B, 1, FRAMES, 2, SIZE, SIZE)
    hints[:, 0, 0, 0], hints[:, 0, 0, 1] = clips["alpha"][:, 0, 0], 1
    hinted = observation(clips, given, hints)[0]
    given["alpha"][:, 0] = True
    assert torch.allclose(observation(clips, given)[0], hinted, atol=1e-5)


@torch.no_grad()
def test_foregrounds_are_told_apart(observation: Observation) -> None:
    clips, given = clips_of(2), nothing(2)
    clips["foreground-2"] = clips["foreground"]
    first, second = ({**given, name: torch.ones(B, FRAMES, dtype=torch.bool)} for name in list(ALPHA_OF)[:2])
    assert not torch.allclose(observation(clips, first)[0], observation(clips, second)[0])


def test_features_come_at_strides_4_8_and_16_and_are_frozen() -> None:
    encoder = ImageFeatures()
    levels = encoder(torch.rand(5, 3, 32, 48) * 2 - 1)
    assert [tuple(level.shape) for level in levels] == [
        (5, channels, 32 // stride, 48 // stride) for channels, stride in zip(CHANNELS, (4, 8, 16), strict=True)
    ]
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert torch.allclose(normalised(levels[0]).mean(1), torch.zeros(5, 8, 12), atol=1e-5)


def test_batch_normalisation_is_folded_into_the_convolutions() -> None:
    torch.manual_seed(0)
    own = ImageFeatures().state_dict()
    convolution, norm = torch.nn.Conv2d(3, 32, 3, 2, 1, bias=False), torch.nn.BatchNorm2d(32, eps=1e-3)
    torch.nn.init.uniform_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    norm.running_mean, norm.running_var = torch.randn(32), torch.rand(32) + 0.5
    state = original(own, convolution.weight.detach(), norm)
    folded = folded_weights(state)
    assert set(folded) == set(own)
    pixels = torch.rand(1, 3, 8, 8)
    expected = norm.eval()(F.conv2d(pixels, convolution.weight))
    assert torch.allclose(F.conv2d(pixels, folded["first.weight"], folded["first.bias"]), expected, atol=1e-5)


def original(own: dict[str, Tensor], first: Tensor, norm: torch.nn.BatchNorm2d) -> dict[str, Tensor]:
    """Return the weights of an unfolded network, random but for the first layer."""
    state = {"_conv_stem.weight": first}
    norms = {"_bn0": norm}
    number = -1
    for name in own:
        if name.startswith("first.") or name.endswith("bias"):
            continue
        _, _, _, layer, _ = name.split(".")
        block_norm = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}[layer]
        number += layer == "expand" or number < 0
        place = f"_blocks.{number}"
        state[f"{place}._{layer}_conv.weight"] = torch.randn_like(own[name])
        norms[f"{place}.{block_norm}"] = torch.nn.BatchNorm2d(own[name].shape[0])
    for name, one in norms.items():
        state |= {f"{name}.{part}": tensor for part, tensor in one.state_dict().items()}
    return state
