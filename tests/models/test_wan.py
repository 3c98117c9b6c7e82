"""Layers on Wan: what stays of the plain model, what layers change, and that diffusers' switches are really taken."""

import inspect
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig, WanTransformer3DModel
from forked import fork_two
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from layerflow.core.schema import CLIPS, LAYERS
from layerflow.models.layout import Layout
from layerflow.models.wan import WanLayerTransformer3DModel

STYLES = {"wan2.1": 16, "wan2.2-5b": 48}
"""Latent channels; the second style takes a timestep per token."""
FRAMES, HEIGHT, WIDTH, WORDS = 3, 8, 4, 6
TOKENS = FRAMES * (HEIGHT // 2) * (WIDTH // 2)


def build_plain(style: str, **config) -> WanTransformer3DModel:
    torch.manual_seed(0)
    channels = STYLES[style]
    config = {"in_channels": channels, "out_channels": channels, **config}
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        text_dim=16,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
        **config,
    ).eval()


def build_layered(style: str = "wan2.1", trained: bool = True) -> WanLayerTransformer3DModel:
    model = WanLayerTransformer3DModel.from_plain(build_plain(style), text_length=WORDS)
    if trained:
        for embedding in (model.clip_embedding, model.layer_embedding):
            torch.nn.init.normal_(embedding.weight, generator=torch.Generator().manual_seed(2))
    return model


def inputs(style: str = "wan2.1", layout: Layout | None = None, batch: int = 2) -> dict:
    generator = torch.Generator().manual_seed(1)
    layout = layout or Layout(FRAMES)
    mask = torch.ones(batch, len(LAYERS), WORDS, dtype=torch.bool)
    mask[:, 1, 3:] = False
    return {
        "hidden_states": torch.randn(batch, layout.length, STYLES[style], HEIGHT, WIDTH, generator=generator),
        "timestep": torch.rand(batch, len(layout.clips), 1, generator=generator),
        "encoder_hidden_states": torch.randn(batch, len(LAYERS), WORDS, 16, generator=generator),
        "encoder_attention_mask": mask,
        "layout": layout,
    }


def cut_self_attention(model: WanLayerTransformer3DModel) -> None:
    for block in model.blocks:
        block.attn1.register_forward_hook(lambda module, args, output: torch.zeros_like(output))


@torch.no_grad()
def changed_clips(model: WanLayerTransformer3DModel, values: dict, changed: dict) -> set[str]:
    layout = values["layout"]
    before, after = (layout.unpack(model(**v).sample) for v in (values, changed))
    return {name for name in layout.clips if not torch.allclose(before[name], after[name], atol=1e-6)}


@pytest.fixture(params=STYLES)
def style(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model() -> WanLayerTransformer3DModel:
    return build_layered()


@torch.no_grad()
def test_with_layers_switched_off_it_is_the_plain_model(style: str) -> None:
    plain, model = build_plain(style), build_layered(style, trained=False)
    values = inputs(style, Layout(FRAMES, ("background",)))
    text = values["encoder_hidden_states"][:, LAYERS.index("background")].clone()
    text[:, 3:] = 0  # as Wan's pipeline pads prompts
    timestep = values["timestep"][:, 0, 0] * 1000
    if style == "wan2.2-5b":
        timestep = timestep[:, None].expand(-1, TOKENS)
    expected = plain(values["hidden_states"].transpose(1, 2), timestep, text).sample.transpose(1, 2)
    assert torch.allclose(model(**values).sample, expected, atol=1e-5)


@torch.no_grad()
def test_clips_with_a_timestep_each_are_plain_tokens_with_a_timestep_each_at_restarting_positions(style: str) -> None:
    plain, model = build_plain(style), build_layered(style, trained=False)
    values = inputs(style)
    values["timestep"][:, 3] = 0  # given
    values["encoder_hidden_states"] = values["encoder_hidden_states"][:, :1].expand(-1, len(LAYERS), -1, -1)
    values["encoder_attention_mask"][:] = True
    one_clip = plain.rope(torch.zeros(1, STYLES[style], FRAMES, HEIGHT, WIDTH))
    plain.rope.forward = lambda _: tuple(waves.repeat(1, len(CLIPS), 1, 1) for waves in one_clip)
    expected = plain(
        values["hidden_states"].transpose(1, 2),
        (values["timestep"][..., 0] * 1000).repeat_interleave(TOKENS, dim=1),
        values["encoder_hidden_states"][:, 0],
    ).sample.transpose(1, 2)
    assert torch.allclose(model(**values).sample, expected, atol=1e-5)


def test_the_timestep_of_a_given_clip_modulates_that_clip_alone(style: str) -> None:
    model, values, given = build_layered(style), inputs(style), inputs(style)
    given["timestep"][:, CLIPS.index("blended")] = 0
    assert changed_clips(model, values, given) == set(CLIPS)  # by self-attention
    cut_self_attention(model)
    assert changed_clips(model, values, given) == {"blended"}


@pytest.mark.parametrize(
    ("layer", "clips"),
    [("foreground", {"foreground", "alpha"}), ("background", {"background"}), ("blended", {"blended"})],
)
def test_a_prompt_is_read_by_the_clips_of_its_layer_alone(style: str, layer: str, clips: set[str]) -> None:
    model, values, other = build_layered(style), inputs(style), inputs(style)
    other["encoder_hidden_states"][:, LAYERS.index(layer), 0] += 1
    assert changed_clips(model, values, other) == set(CLIPS)  # by self-attention
    cut_self_attention(model)
    assert changed_clips(model, values, other) == clips


def test_clips_and_frames_see_each_other(model: WanLayerTransformer3DModel) -> None:
    other = inputs()
    other["hidden_states"][:, -1] += 1  # the last frame of the last clip
    with torch.no_grad():
        difference = (model(**inputs()).sample - model(**other).sample).abs().amax(dim=(0, 2, 3, 4))
    assert (difference > 1e-6).all()


@torch.no_grad()
def test_clips_are_alike_until_embeddings_tell_them_apart() -> None:
    values = inputs()
    first = Layout(FRAMES).unpack(values["hidden_states"])["foreground"]
    values["hidden_states"] = first.repeat(1, len(CLIPS), 1, 1, 1)
    values["timestep"][:] = 0.5
    values["encoder_hidden_states"][:] = values["encoder_hidden_states"][:, :1].clone()
    values["encoder_attention_mask"][:] = True
    model = build_layered(trained=False)

    def clips() -> list[Tensor]:
        return list(values["layout"].unpack(model(**values).sample).values())

    assert all(torch.allclose(clip, clips()[0], atol=1e-5) for clip in clips())
    torch.nn.init.normal_(model.layer_embedding.weight)
    foreground, alpha, background, _ = clips()
    assert torch.allclose(foreground, alpha, atol=1e-5)  # one layer
    assert not torch.allclose(foreground, background, atol=1e-3)
    torch.nn.init.normal_(model.clip_embedding.weight)
    foreground, alpha, *_ = clips()
    assert not torch.allclose(foreground, alpha, atol=1e-3)


def test_fresh_embeddings_can_learn() -> None:
    model = build_layered(trained=False)
    model(**inputs()).sample.square().mean().backward()
    for embedding in (model.clip_embedding, model.layer_embedding):
        assert embedding.weight.grad.abs().amax(dim=1).min() > 0


@torch.no_grad()
def test_a_layout_may_use_some_clips_in_any_order(model: WanLayerTransformer3DModel) -> None:
    there, back = Layout(FRAMES, ("blended", "alpha")), Layout(FRAMES, ("alpha", "blended"))
    values = inputs(layout=there)
    mirrored = {
        **values,
        "layout": back,
        "hidden_states": back.pack(there.unpack(values["hidden_states"])),
        "timestep": values["timestep"].flip(1),
    }
    expected, got = there.unpack(model(**values).sample), back.unpack(model(**mirrored).sample)
    assert all(torch.allclose(got[name], expected[name], atol=1e-5) for name in there.clips)


@torch.no_grad()
def test_padding_of_prompts_counts_as_the_zeros_that_wan_was_trained_with(model: WanLayerTransformer3DModel) -> None:
    expected = model(**inputs()).sample
    filled = inputs()
    filled["encoder_hidden_states"][:, 1, 3:] = float("nan")
    assert torch.allclose(model(**filled).sample, expected, atol=1e-6)
    values = inputs()
    values["encoder_attention_mask"][..., 4:] = False
    short = {**values, **{name: values[name][:, :, :4] for name in ("encoder_hidden_states", "encoder_attention_mask")}}
    assert torch.allclose(model(**short).sample, model(**values).sample, atol=1e-6)


@torch.no_grad()
def test_frame_positions_say_which_moment_a_frame_is(model: WanLayerTransformer3DModel) -> None:
    expected = model(**inputs()).sample
    default = torch.arange(FRAMES).expand(2, -1)
    assert torch.equal(model(**inputs(), frame_positions=default).sample, expected)
    spread = torch.tensor([[0, 1, 2], [0, 2, 7]])
    sample = model(**inputs(), frame_positions=spread).sample
    assert torch.allclose(sample[0], expected[0], atol=1e-6)
    assert not torch.allclose(sample[1], expected[1], atol=1e-5)


@torch.no_grad()
def test_samples_of_a_batch_do_not_see_each_other(model: WanLayerTransformer3DModel) -> None:
    values = inputs()
    alone = {name: value[:1] if torch.is_tensor(value) else value for name, value in values.items()}
    assert torch.allclose(model(**values).sample[:1], model(**alone).sample, atol=1e-5)


def test_what_does_not_fit_is_an_error_that_says_so(model: WanLayerTransformer3DModel) -> None:
    values = inputs()
    values["hidden_states"] = torch.zeros(2, 4 * FRAMES, 16, 8, 5)
    with pytest.raises(ValueError, match="latents of 5x8 do not divide into patches of 2x2; the nearest is 4x8"):
        model(**values)
    with pytest.raises(ValueError, match="has 12 latent frames, the layout 8"):
        model(**{**inputs(), "layout": Layout(2)})
    with pytest.raises(ValueError, match="lead must be 0"):
        model(**inputs(layout=Layout(FRAMES, lead=1)))
    fewer = WanLayerTransformer3DModel.from_plain(build_plain("wan2.1"), clips=("foreground", "alpha"))
    with pytest.raises(ValueError, match="has the clips foreground, alpha, not 'background'"):
        fewer(**inputs())
    with pytest.raises(ValueError, match="layers need a Wan text-to-video model"):
        WanLayerTransformer3DModel.from_plain(build_plain("wan2.1", in_channels=36))


def test_configurations_of_plain_models_mean_the_same_here() -> None:
    plain, layered = (
        inspect.signature(cls.__init__).parameters for cls in (WanTransformer3DModel, WanLayerTransformer3DModel)
    )
    assert {name: p.default for name, p in plain.items()} == {name: layered[name].default for name in plain}
    assert build_layered().config.num_layers == 2
    again = WanLayerTransformer3DModel.from_config(build_layered().config)
    assert {k: v for k, v in again.config.items() if k[0] != "_"} == {
        k: v for k, v in build_layered().config.items() if k[0] != "_"
    }


@torch.no_grad()
def test_saving_and_loading_keeps_the_prediction(style: str, tmp_path: Path) -> None:
    model = build_layered(style)
    model.save_pretrained(tmp_path)
    loaded = WanLayerTransformer3DModel.from_pretrained(tmp_path)
    assert torch.equal(loaded(**inputs(style)).sample, model(**inputs(style)).sample)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]


@torch.no_grad()
def test_a_folder_of_a_plain_model_loads_with_fresh_embeddings(style: str, tmp_path: Path) -> None:
    build_plain(style).save_pretrained(tmp_path)
    loaded = WanLayerTransformer3DModel.from_pretrained(tmp_path, text_length=WORDS)
    assert torch.equal(loaded(**inputs(style)).sample, build_layered(style, trained=False)(**inputs(style)).sample)
    half = WanLayerTransformer3DModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.clip_embedding.weight.dtype == half.patch_embedding.weight.dtype == torch.bfloat16


@torch.no_grad()
def test_an_adapter_can_be_added_scaled_fused_and_dropped(style: str) -> None:
    model, values = build_layered(style), inputs(style)
    base = model(**values).sample
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    model.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False), "motion")
    adapted = model(**values).sample
    assert not torch.allclose(adapted, base, atol=1e-3)
    model.set_adapters("motion", 0.0)
    assert torch.allclose(model(**values).sample, base, atol=1e-5)
    model.set_adapters("motion", 1.0)
    model.fuse_lora()
    assert torch.allclose(model(**values).sample, adapted, atol=1e-5)
    model.unfuse_lora()
    model.unload_lora()
    assert torch.allclose(model(**values).sample, base, atol=1e-5)


@torch.no_grad()
def test_fused_projections_keep_the_prediction(model: WanLayerTransformer3DModel) -> None:
    expected = model(**inputs()).sample
    model.fuse_qkv_projections()
    assert hasattr(model.blocks[0].attn1, "to_qkv")
    assert torch.allclose(model(**inputs()).sample, expected, atol=1e-5)


@torch.no_grad()
def predict_in_parallel(rank: int, folder: Path) -> None:
    """Run one of two processes; write its prediction and the shape of the tokens in its second block."""
    torch.accelerator.device_count = lambda: 1  # diffusers counts accelerators, also where there are none
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model, shapes = build_layered(), []
    model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
    model.blocks[1].register_forward_pre_hook(lambda module, args: shapes.append(args[0].shape))
    sample = model(**inputs()).sample
    save_file({"sample": sample.contiguous(), "shape": torch.tensor(shapes[0])}, folder / f"{rank}.safetensors")
    dist.destroy_process_group()


@torch.no_grad()
def test_two_processes_in_context_parallel_give_what_one_gives(tmp_path: Path) -> None:
    fork_two(predict_in_parallel, tmp_path)
    expected = build_layered()(**inputs()).sample
    for rank in range(2):
        got = load_file(tmp_path / f"{rank}.safetensors")
        assert got["shape"].tolist() == [2, len(CLIPS), FRAMES, TOKENS // FRAMES // 2, 32]  # half of every frame
        assert torch.allclose(got["sample"], expected, atol=1e-5)
