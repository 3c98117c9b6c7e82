"""Frames whose blended clip is given are taken apart by a network of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from layerflow.core.schema import CLIPS, model_clips, prompt_layers
from layerflow.mini.network.separation import bounded, drawn_clips
from layerflow.mini.network.transformer import CompactTransformer3DModel
from layerflow.models.layout import Layout

FRAMES, SIZE = 3, 32
SIZES: dict[str, Any] = {
    "widths": (8, 8, 16), "blocks_up": (1, 1, 1), "dim": 16, "num_layers": 1, "num_heads": 2, "cond_dim": 16,
    "sketch_width": 16, "fill_width": 8, "text_dim": 12, "sample_size": SIZE, "sample_frames": FRAMES, "hints": True,
    "separation_layers": 3, "separation_dim": 32, "separation_width": 8,
}  # fmt: skip


def built(foregrounds: int = 1) -> CompactTransformer3DModel:
    torch.manual_seed(0)
    model = CompactTransformer3DModel(**SIZES, clips=model_clips(foregrounds)).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def inputs_of(foregrounds: int = 1, seed: int = 0, **given: list[int]) -> dict[str, Any]:
    """Return inputs of two samples with given frames by clip, the same clips for each seed, noised by it."""
    layout = Layout(FRAMES, model_clips(foregrounds))
    known = layout.given_mask(
        {name: torch.isin(torch.arange(FRAMES), torch.tensor(own)) for name, own in given.items()}
    )
    known = known.expand(2, -1, -1)
    clean = torch.rand(2, layout.length, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(9)) * 2 - 1
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    words = torch.Generator().manual_seed(8)
    return {
        "hidden_states": torch.where(layout.per_frame(known), clean, noise),
        "timestep": torch.where(known, 0.0, 1.0),
        "encoder_hidden_states": torch.randn(2, len(prompt_layers(foregrounds)), 4, 12, generator=words),
        "encoder_attention_mask": torch.ones(2, len(prompt_layers(foregrounds)), 4, dtype=torch.bool),
        "layout": layout,
    }


ALL = list(range(FRAMES))


@torch.no_grad()
@pytest.mark.parametrize("foregrounds", [1, 2])
def test_a_given_video_is_taken_apart_without_noise_and_without_the_transformer(foregrounds: int) -> None:
    model = built(foregrounds)
    calls: list[int] = []
    model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    one, other = (model(**inputs_of(foregrounds, seed, blended=ALL)).sample for seed in (1, 2))
    assert torch.equal(one, other)
    assert not calls
    assert one.isfinite().all()


@torch.no_grad()
def test_what_is_drawn_depends_on_what_is_given() -> None:
    model = built()
    base = inputs_of(blended=ALL)
    expected = model(**base).sample
    hints = torch.zeros(2, 1, FRAMES, 2, SIZE, SIZE)
    assert torch.allclose(model(**base, hints=hints).sample, expected, atol=1e-5)
    hints[:, 0, 0, :, :8, :8] = 1
    changed = {
        "hint": {**base, "hints": hints},
        "prompt": {**base, "encoder_hidden_states": -base["encoder_hidden_states"]},
        "matte of a frame": inputs_of(blended=ALL, alpha=[0]),
        "background": inputs_of(blended=ALL, background=ALL),
    }
    for name, inputs in changed.items():
        alpha = base["layout"].unpack(model(**inputs).sample)["alpha"]
        assert not torch.allclose(alpha[:, 1:], base["layout"].unpack(expected)["alpha"][:, 1:]), name


@torch.no_grad()
def test_frames_without_a_blended_one_are_drawn_by_the_transformer() -> None:
    model = built()
    one, other = (model(**inputs_of(seed=seed, blended=[0, 2])).sample for seed in (1, 2))
    layout = Layout(FRAMES)
    one, other = (layout.unpack(sample)["alpha"] for sample in (one, other))  # colours may be copied from other frames
    assert [torch.equal(one[:, frame], other[:, frame]) for frame in ALL] == [True, False, True]


@torch.no_grad()
def test_samples_of_a_batch_are_independent() -> None:
    model = built()
    layout, both = Layout(FRAMES), inputs_of(blended=ALL)
    generate = inputs_of()
    mixed = {**both}
    for name in ("hidden_states", "timestep"):
        own, other = (
            inputs[name].expand(-1, -1, FRAMES) if name == "timestep" else inputs[name] for inputs in (both, generate)
        )
        mixed[name] = torch.stack([own[0], other[1]])
    sample = model(**mixed).sample
    apart = layout.unpack(model(**both).sample)
    drawn = layout.unpack(model(**generate).sample)
    for name in CLIPS:
        found = layout.unpack(sample)[name]
        assert torch.allclose(found[0], apart[name][0], atol=1e-4), name
        assert torch.allclose(found[1], drawn[name][1], atol=1e-4), name


@torch.no_grad()
def test_the_number_of_frames_and_the_size_are_free() -> None:
    model = built()
    layout = Layout(5)
    sequence = torch.rand(1, layout.length, 3, 48, 64)
    timestep = torch.tensor([1.0, 1.0, 1.0, 0.0]).view(1, 4, 1)
    text, mask = torch.zeros(1, 3, 2, 12), torch.ones(1, 3, 2, dtype=torch.bool)
    assert model(sequence, timestep, text, mask, layout).sample.shape == sequence.shape


def test_planes_are_read_by_foreground() -> None:
    planes = torch.arange(10.0).view(1, 1, 10, 1, 1) - 8
    clips, residuals = drawn_clips(planes, ["foreground", "foreground-2"])

    def values(x: Tensor) -> list[float]:
        return x.flatten().tolist()

    assert values(clips["foreground"]) == [-8, -7, -6]
    assert values(clips["alpha"]) == [pytest.approx(-1)]  # bounded
    assert values(clips["alpha-2"]) == [0]
    assert values(residuals) == [-4, 1]


def test_all_but_the_encoder_is_trained() -> None:
    model = built().train()
    layout = Layout(FRAMES)
    sample = model(**inputs_of(blended=ALL, alpha=[0])).sample
    sum(clip.square().sum() for name, clip in layout.unpack(sample).items() if name != "blended").backward()
    for name, parameter in model.separation.named_parameters():
        kind = name.startswith("observation.clips.") and ".blended." not in name
        assert (parameter.grad is not None) == (not name.startswith("observation.encoder.") and not kind), name


@torch.no_grad()
def test_moments_of_given_videos_have_a_scale_of_their_own() -> None:
    model, inputs = built(), inputs_of(blended=ALL)
    other = CompactTransformer3DModel(**SIZES | {"sample_frames": 5, "separation_frames": FRAMES}).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(**inputs).sample, model(**inputs).sample)
    assert not torch.equal(other(**inputs_of()).sample, model(**inputs_of()).sample)


def test_an_alpha_that_is_confidently_wrong_has_the_gradient_of_the_cross_entropy() -> None:
    logits = torch.linspace(-6, 6, 13, requires_grad=True)
    target = torch.tensor([0.0, 1.0]).repeat(7)[:13]
    alpha = bounded(logits / 2)  # in [-1, 1]: 2 * sigmoid(logits) - 1
    assert torch.allclose(alpha, 2 * torch.sigmoid(logits) - 1)
    ((alpha - (2 * target - 1)).square().sum() / 2).backward()
    own = logits.detach().requires_grad_()
    torch.nn.functional.binary_cross_entropy_with_logits(own, target, reduction="sum").backward()
    assert torch.allclose(logits.grad, own.grad)
