"""The backbone protocol and diffusers' switches, for every family alike; a new family joins `FAMILIES`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from full_size import LATENT_SIZE, TINY_COGVIDEOX, TINY_WAN
from peft import LoraConfig
from torch import Tensor, nn

from layerflow.core.errors import UserError
from layerflow.core.schema import CLIPS, model_clips, prompt_layers
from layerflow.mini.network.transformer import CompactTransformer3DModel
from layerflow.models.backbone import Backbone
from layerflow.models.cogvideox.transformer import CogVideoXLayerTransformer3DModel
from layerflow.models.layout import Layout
from layerflow.models.registry import BACKBONES
from layerflow.models.wan import WanLayerTransformer3DModel

FRAMES, WORDS, TEXT = 2, 5, 16
LAYOUT = Layout(FRAMES)


def compact(clips: tuple[str, ...] = CLIPS) -> CompactTransformer3DModel:
    return CompactTransformer3DModel(
        clips=clips,
        widths=(8, 8, 8),
        blocks_up=(1, 1, 1),
        dim=16,
        num_layers=2,
        num_heads=2,
        cond_dim=16,
        cell_layers=3,
        cell_dim=32,
        image_features=True,
        sketch_width=16,
        fill_width=8,
        text_dim=TEXT,
        sample_size=32,
        sample_frames=FRAMES,
    )


def cogvideox(clips: tuple[str, ...] = CLIPS) -> CogVideoXLayerTransformer3DModel:
    return CogVideoXLayerTransformer3DModel(
        clips=clips, **TINY_COGVIDEOX, sample_size=LATENT_SIZE, sample_frames=FRAMES, text_length=WORDS
    )


def wan(clips: tuple[str, ...] = CLIPS) -> WanLayerTransformer3DModel:
    return WanLayerTransformer3DModel(
        clips=clips, **TINY_WAN, sample_size=LATENT_SIZE, sample_frames=FRAMES, text_length=WORDS
    )


@dataclass(frozen=True)
class Family:
    build: Callable[..., Backbone]
    """Build a network with random weights of some clips."""
    size: tuple[int, int]
    """Height and width in latents."""
    attentions: int
    """Attentions of a block."""
    blocks: str
    """Name of the list of transformer blocks."""


FAMILIES = {
    "compact": Family(compact, (32, 32), 2, "blocks"),
    "cogvideox": Family(cogvideox, LATENT_SIZE, 1, "transformer_blocks"),
    "wan": Family(wan, LATENT_SIZE, 2, "blocks"),
}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture
def model(family: Family) -> Any:
    return filled(family.build)


def filled(build: Callable[..., Backbone], *args: Any) -> Any:
    """Return a network all of whose weights matter."""
    torch.manual_seed(0)
    built = build(*args)
    for parameter in built.parameters():  # new networks predict nothing
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    return built.eval()


@pytest.fixture
def blocks(model: Any, family: Family) -> nn.ModuleList:
    return getattr(model, family.blocks)


@pytest.fixture
def inputs(model: Any, family: Family) -> dict[str, Any]:
    return inputs_of(model, family, LAYOUT)


def inputs_of(model: Any, family: Family, layout: Layout, foregrounds: int = 1) -> dict[str, Any]:
    generator, prompts = torch.Generator().manual_seed(1), len(prompt_layers(foregrounds))
    sequence = torch.zeros(2, layout.length, model.config.in_channels, *family.size)
    mask = torch.ones(2, prompts, WORDS, dtype=torch.bool)
    mask[:, 1, 3:] = False
    return {
        "hidden_states": layout.noise(sequence, generator),
        "timestep": torch.rand(2, len(layout.clips), 1, generator=generator),
        "encoder_hidden_states": torch.randn(2, prompts, WORDS, TEXT, generator=generator),
        "encoder_attention_mask": mask,
        "layout": layout,
    }


def test_every_registered_family_is_here() -> None:
    assert {family.build().__class__.__name__ for family in FAMILIES.values()} == set(BACKBONES)


def test_prediction_has_the_shape_of_the_sequence(model: Any, inputs: dict[str, Any]) -> None:
    assert isinstance(model, Backbone)
    assert model.prediction_type in ("sample", "flow", "v_prediction")
    with torch.no_grad():
        sample = model(**inputs).sample
        (again,) = model(**inputs, return_dict=False)
    assert sample.shape == inputs["hidden_states"].shape
    assert torch.equal(sample, again)


@torch.no_grad()
def test_noise_level_of_each_frame(model: Any, inputs: dict[str, Any]) -> None:
    """One level for all frames of a clip and the same level for each are the same; other levels are not."""
    whole = model(**inputs).sample
    levels = inputs["timestep"].expand(-1, -1, FRAMES).clone()
    assert torch.allclose(model(**{**inputs, "timestep": levels}).sample, whole, atol=1e-6)
    levels[:, 1, 0] = 0
    largest = levels.amax((1, 2)).equal(inputs["timestep"].amax((1, 2)))
    changed = model(**{**inputs, "timestep": levels}).sample
    shared = isinstance(model, CogVideoXLayerTransformer3DModel)  # one level for all tokens, the largest
    assert torch.allclose(changed, whole, atol=1e-6) == (shared and largest)


foregrounds = pytest.mark.parametrize("count", [1, 2, 3])


@foregrounds
@torch.no_grad()
def test_several_foregrounds(family: Family, count: int) -> None:
    """Each clip and each prompt of each foreground matters, and a frame of it can be given."""
    layout = Layout(FRAMES, model_clips(count))
    model = filled(family.build, layout.clips)
    inputs = inputs_of(model, family, layout, count)
    sample = model(**inputs).sample
    assert sample.shape == inputs["hidden_states"].shape
    text = inputs["encoder_hidden_states"]
    for layer in range(len(prompt_layers(count))):
        other = text.clone()
        other[:, layer, 0] += 1
        assert not torch.allclose(model(**{**inputs, "encoder_hidden_states": other}).sample, sample, atol=1e-6)
    for name in layout.clips:
        other = inputs["hidden_states"].clone()
        other[:, layout.clip_slice(name)] += 1
        assert not torch.allclose(model(**{**inputs, "hidden_states": other}).sample, sample, atol=1e-6)
    mask = layout.given_mask({layout.clips[-1]: torch.tensor([True, False])})
    levels = layout.timesteps(torch.tensor([0.5, 1.0]), mask)
    assert levels.shape == (2, len(layout.clips), FRAMES)
    assert model(**{**inputs, "timestep": levels}).sample.isfinite().all()


@torch.no_grad()
def test_foregrounds_are_told_apart(family: Family) -> None:
    """Swapped contents of two foregrounds do not give swapped predictions."""
    layout = Layout(FRAMES, model_clips(2))
    if family.build is compact:
        model = filled(compact, layout.clips)
    else:
        torch.manual_seed(0)
        model = family.build().resized({"clips": layout.clips})
        nn.init.normal_(model.proj_out.weight)  # fresh weights predict nothing
    inputs = inputs_of(model, family, layout, 2)
    inputs["encoder_hidden_states"][:, 3] = inputs["encoder_hidden_states"][:, 0]
    inputs["timestep"][:] = 0.5

    def swapped(sequence: Tensor) -> Tensor:
        clips = layout.unpack(sequence)
        names = {"foreground": "foreground-2", "alpha": "alpha-2"}
        names |= {other: name for name, other in names.items()}
        return layout.pack({name: clips[names.get(name, name)] for name in clips})

    straight = model(**inputs).sample
    crossed = swapped(model(**{**inputs, "hidden_states": swapped(inputs["hidden_states"])}).sample)
    assert float((straight - crossed).abs().max()) > 1e-4 * float(straight.std())


@torch.no_grad()
def test_model_that_grew_by_a_foreground_predicts_the_same_without_it(model: Any, inputs: dict[str, Any]) -> None:
    larger = model.resized({"clips": model_clips(2)})
    if not model.needs_all_clips:
        assert torch.allclose(larger(**inputs).sample, model(**inputs).sample, atol=1e-6)
    smaller = larger.resized({"clips": CLIPS})
    assert torch.allclose(smaller(**inputs).sample, model(**inputs).sample, atol=1e-6)


def test_size_that_does_not_divide_is_refused(model: Any, inputs: dict[str, Any]) -> None:
    height, width = inputs["hidden_states"].shape[-2:]
    odd = torch.zeros(2, LAYOUT.length, model.config.in_channels, height + 1, width)
    with pytest.raises(ValueError, match=f"{width}x{height + 1}"):
        model(**{**inputs, "hidden_states": odd})
    assert height % model.size_multiple == width % model.size_multiple == 0


def test_tokens_are_those_that_blocks_see(
    model: Any, family: Family, blocks: nn.ModuleList, inputs: dict[str, Any]
) -> None:
    seen: list[Tensor] = []
    blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(**inputs)
    assert model.video_tokens(LAYOUT, *family.size) == seen[0].numel() // (2 * seen[0].shape[-1])


def test_sampling_inputs_follow_from_the_generators_and_are_taken(model: Any, inputs: dict[str, Any]) -> None:
    drawn, again = (model.sampling_inputs(2, [torch.Generator().manual_seed(s) for s in (3, 4)]) for _ in range(2))
    (alone,) = (model.sampling_inputs(1, torch.Generator().manual_seed(4)),)
    assert drawn.keys() == alone.keys()
    for name, tensor in drawn.items():
        assert tensor.shape[0] == 2
        assert torch.equal(tensor, again[name])
        assert torch.equal(tensor[1:], alone[name])
    with torch.no_grad():
        assert model(**inputs, **drawn).sample.shape == inputs["hidden_states"].shape


def test_training_inputs_are_those_of_sampling(model: Any, inputs: dict[str, Any]) -> None:
    given = torch.tensor([[True, False, False, False], [False, False, True, False]])[..., None]
    positions = torch.arange(FRAMES).expand(2, -1)
    text, mask = inputs["encoder_hidden_states"], inputs["encoder_attention_mask"]
    sequence = inputs["hidden_states"].clamp(-1, 1)
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    found = model.training_inputs(sequence, LAYOUT, given, text, mask, positions, generators)
    drawn = model.sampling_inputs(1, torch.Generator().manual_seed(3))
    assert found.keys() == drawn.keys()
    for name, tensor in found.items():  # the first sample's foreground is given, so its place is not known
        assert torch.allclose(tensor[:1], drawn[name], atol=1e-6)
        assert not torch.allclose(tensor[1], tensor[0])


def test_refining_keeps_given_clips_and_the_shape(model: Any, inputs: dict[str, Any]) -> None:
    sequence = inputs["hidden_states"].clamp(-1, 1)
    for name in CLIPS:
        refined = model.refine(sequence, LAYOUT.given_mask([name], sequence.device).expand(2, -1, -1), LAYOUT)
        assert refined.shape == sequence.shape
        assert torch.equal(LAYOUT.unpack(refined)["background"], LAYOUT.unpack(sequence)["background"])


def test_default_adapter_layers_take_an_adapter(model: Any, inputs: dict[str, Any]) -> None:
    names = [name for name, part in model.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    layers = model.adapter_layers(names)
    assert layers
    assert set(layers) <= set(names)
    with torch.no_grad():
        base = model(**inputs).sample
        config = LoraConfig(r=2, target_modules=layers, init_lora_weights=False)
        model.add_adapter(config, "motion")
        assert not torch.allclose(model(**inputs).sample, base)
        model.set_adapters("motion", 0.0)
        assert torch.allclose(model(**inputs).sample, base, atol=1e-4)
        model.disable_adapters()
        assert torch.allclose(model(**inputs).sample, base, atol=1e-4)


def test_fitted_parts_belong_to_the_network(model: Any) -> None:
    assert set(model.fitted_parts()) <= set(model.modules())


def test_resizing_keeps_the_prediction_or_is_refused(model: Any, inputs: dict[str, Any]) -> None:
    if isinstance(model, CompactTransformer3DModel):
        with torch.no_grad():
            base, larger = model(**inputs).sample, model.resized({"num_layers": 3, "blocks_up": (1, 2, 1)})
            assert torch.allclose(larger(**inputs).sample, base, atol=1e-5)
        with pytest.raises(UserError, match="other sizes"):
            model.resized({"dim": 32})
    else:
        with pytest.raises(UserError, match=f"a {type(model).__name__} cannot be resized"):
            model.resized({"num_layers": 3})


def test_gradient_checkpointing_gives_the_same_gradients(
    model: Any, blocks: nn.ModuleList, inputs: dict[str, Any]
) -> None:
    calls: list[int] = []
    blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))

    def gradients() -> list[Tensor]:
        model.zero_grad()
        model(**inputs).sample.square().mean().backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    plain = gradients()
    model.train()
    model.enable_gradient_checkpointing()
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(gradients(), plain, strict=True))
    assert len(calls) == 3  # once, then once and once more on the way back


@torch.no_grad()
def test_chosen_attention_backend_is_used(
    model: Any, family: Family, blocks: nn.ModuleList, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, calls = AttentionBackendName._NATIVE_MATH, []
    real = _AttentionBackendRegistry._backends[chosen]
    monkeypatch.setitem(
        _AttentionBackendRegistry._backends, chosen, lambda *args, **kwargs: calls.append(1) or real(*args, **kwargs)
    )
    expected = model(**inputs).sample
    assert not calls
    with monkeypatch.context() as patch:  # choosing a backend also makes it the default of every other model
        patch.setattr(_AttentionBackendRegistry, "_active_backend", _AttentionBackendRegistry._active_backend)
        model.set_attention_backend(chosen.value)
        assert torch.allclose(model(**inputs).sample, expected, atol=1e-5)
    assert len(calls) == family.attentions * len(blocks) + len(model.cells.blocks if hasattr(model, "cells") else ())


@torch.no_grad()
def test_first_block_cache_is_used(model: Any, blocks: nn.ModuleList, inputs: dict[str, Any]) -> None:
    calls: list[int] = []
    attention = next(part for name, part in blocks[1].named_children() if name.startswith("attn"))
    attention.register_forward_hook(lambda *_: calls.append(1))
    model.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    with model.cache_context("cond"):
        model(**inputs)
        model(**inputs)
    assert len(calls) == 1
    model.disable_cache()


@torch.no_grad()
def test_repeated_blocks_exist_and_compile_whole(model: Any, inputs: dict[str, Any]) -> None:
    names = {type(module).__name__ for module in model.modules()}
    assert set(model._repeated_blocks) | set(model._no_split_modules) <= names
    expected = model(**inputs).sample
    model.compile_repeated_blocks(backend="eager", fullgraph=True)
    assert torch.allclose(model(**inputs).sample, expected, atol=1e-5)
