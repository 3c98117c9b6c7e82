"""Layers on CogVideoX: what stays of the plain model, what layers change, and that diffusers' switches are taken."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel, ContextParallelConfig
from forked import fork_two
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from layerflow.core.schema import CLIPS, LAYERS
from layerflow.models.cogvideox.embeddings import sequence_positions
from layerflow.models.cogvideox.sampler import DynamicGuidance, LayerFlowDPMScheduler
from layerflow.models.cogvideox.transformer import CogVideoXLayerTransformer3DModel
from layerflow.models.layout import Layout

FRAMES, HEIGHT, WIDTH, WORDS = 2, 4, 6, 4
TOKENS = FRAMES * (HEIGHT // 2) * (WIDTH // 2)
TINY = {"num_attention_heads": 2, "attention_head_dim": 16, "time_embed_dim": 16, "text_embed_dim": 12, "num_layers": 2}


def build_model(**config) -> CogVideoXLayerTransformer3DModel:
    torch.manual_seed(0)
    sizes = {"sample_size": (HEIGHT, WIDTH), "sample_frames": FRAMES, "text_length": WORDS}
    return CogVideoXLayerTransformer3DModel(**{**TINY, **sizes, **config}).eval()


def inputs(layout: Layout | None = None, batch: int = 2) -> dict:
    generator = torch.Generator().manual_seed(1)
    layout = layout or Layout(FRAMES)
    return {
        "hidden_states": torch.randn(batch, layout.length, 16, HEIGHT, WIDTH, generator=generator),
        "timestep": torch.rand(batch, len(layout.clips), 1, generator=generator),
        "encoder_hidden_states": torch.randn(batch, len(LAYERS), WORDS, 12, generator=generator),
        "encoder_attention_mask": torch.ones(batch, len(LAYERS), WORDS, dtype=torch.bool),
        "layout": layout,
    }


@pytest.fixture
def model() -> CogVideoXLayerTransformer3DModel:
    return build_model()


STYLES = {
    "2b": {},
    "5b": {"use_rotary_positional_embeddings": True},
    "1.5": {"use_rotary_positional_embeddings": True, "patch_size_t": 2},
}


def build_plain(style: str = "2b") -> CogVideoXTransformer3DModel:
    torch.manual_seed(0)
    return CogVideoXTransformer3DModel(
        **TINY, **STYLES[style], sample_height=HEIGHT, sample_width=WIDTH, sample_frames=5, max_text_seq_length=WORDS
    ).eval()


def plain_rotary(plain: CogVideoXTransformer3DModel, frames: int) -> tuple[Tensor, Tensor] | None:
    """Return rotary positions as diffusers' pipeline makes them."""
    if not plain.config.use_rotary_positional_embeddings:
        return None
    pipeline = SimpleNamespace(transformer=plain, vae_scale_factor_spatial=8)
    make = CogVideoXPipeline._prepare_rotary_positional_embeddings
    return make(pipeline, HEIGHT * 8, WIDTH * 8, frames, torch.device("cpu"))


@torch.no_grad()
@pytest.mark.parametrize("style", STYLES)
def test_with_layers_switched_off_it_is_the_plain_model(style: str) -> None:
    plain, values = build_plain(style), inputs(Layout(FRAMES, ("background",)))
    text, timestep = values["encoder_hidden_states"][:, :1], values["timestep"]
    rotary = plain_rotary(plain, FRAMES)
    expected = plain(values["hidden_states"], text[:, 0], timestep[:, 0, 0] * 1000, image_rotary_emb=rotary).sample
    one_prompt = CogVideoXLayerTransformer3DModel.from_plain(plain, prompt_prefixes=("",), layer_embedding=False)
    assert torch.allclose(one_prompt(**values).sample, expected, atol=1e-5)
    fresh = CogVideoXLayerTransformer3DModel.from_plain(plain, prompt_prefixes=("",))
    assert torch.allclose(fresh(**values).sample, expected, atol=1e-5)


def test_a_fresh_layer_embedding_can_learn() -> None:
    model = CogVideoXLayerTransformer3DModel.from_plain(build_plain())
    model(**inputs()).sample.square().mean().backward()
    assert model.patch_embed.layer_embedding.norm.weight.grad.any()


def test_models_that_also_take_images_are_refused() -> None:
    plain = CogVideoXTransformer3DModel(**TINY, use_rotary_positional_embeddings=True, ofs_embed_dim=16)
    with pytest.raises(ValueError, match=r"choose CogVideoX-2B, 5B or 1\.5-5B"):
        CogVideoXLayerTransformer3DModel.from_plain(plain)


@torch.no_grad()
@pytest.mark.parametrize("style", STYLES)
def test_frame_positions_say_where_a_frame_stands(style: str) -> None:
    model = CogVideoXLayerTransformer3DModel.from_plain(build_plain(style), sample_frames=FRAMES)
    expected = model(**inputs()).sample
    default = torch.arange(FRAMES).repeat(2, 1)
    assert torch.allclose(model(**inputs(), frame_positions=default).sample, expected, atol=1e-5)
    longer = CogVideoXLayerTransformer3DModel.from_plain(build_plain(style), sample_frames=2 * FRAMES)
    first = longer(**inputs(), frame_positions=default).sample
    default[1] += FRAMES
    moved = longer(**inputs(), frame_positions=default).sample
    assert torch.equal(moved[0], first[0])
    assert not torch.equal(moved[1], first[1])  # rotary positions tell little of a shift of all frames


def test_a_patch_of_frames_wants_clips_that_divide() -> None:
    model = CogVideoXLayerTransformer3DModel.from_plain(build_plain("1.5"))
    with pytest.raises(ValueError, match="clips of 3 latent frames do not divide into patches of 2"):
        model(**inputs(Layout(3)))


@torch.no_grad()
def test_the_largest_timestep_of_the_clips_counts(model: CogVideoXLayerTransformer3DModel) -> None:
    values = inputs()
    values["timestep"][:] = torch.tensor([0.7, 0.0, 0.7, 0.0])[:, None]
    whole = {**values, "timestep": torch.full((2, 4, 1), 0.7)}
    assert torch.equal(model(**values).sample, model(**whole).sample)
    with pytest.raises(ValueError, match="timestep_per_clip is not implemented"):
        build_model(timestep_per_clip=True)


@torch.no_grad()
def test_each_prompt_of_the_model_changes_the_prediction_and_no_other() -> None:
    for prefixes in (("0, ", "1, ", "2, "), ("0, ", "1, ")):
        model = build_model(prompt_prefixes=prefixes)
        base = model(**inputs()).sample
        for layer in range(len(LAYERS)):
            changed = inputs()
            changed["encoder_hidden_states"][:, layer, 0] += 1
            same = torch.equal(model(**changed).sample, base)
            assert same == (layer >= len(prefixes)), f"prompt {layer} of {len(prefixes)}"


@torch.no_grad()
def test_the_layer_embedding_tells_equal_prompts_apart(model: CogVideoXLayerTransformer3DModel) -> None:
    values = inputs()
    text = values["encoder_hidden_states"]
    text[:] = text[:, :1].clone()
    tokens, _ = model.patch_embed(text, values["hidden_states"], values["layout"], None)
    by_prompt = (tokens - model.patch_embed.pos_embedding[:, : 3 * WORDS]).unflatten(1, (3, WORDS))
    assert not torch.allclose(by_prompt[:, 0], by_prompt[:, 1], atol=1e-3)
    assert torch.allclose(by_prompt[:, 1] - by_prompt[:, 0], (by_prompt[:, 1] - by_prompt[:, 0])[:, :1], atol=1e-5)


@torch.no_grad()
def test_frame_positions_say_which_moment_a_frame_is(model: CogVideoXLayerTransformer3DModel) -> None:
    expected = model(**inputs()).sample
    default = torch.arange(FRAMES).expand(2, -1)
    assert torch.allclose(model(**inputs(), frame_positions=default).sample, expected, atol=1e-6)
    still = model(**inputs(), frame_positions=torch.tensor([[0, 1], [1, 1]])).sample
    assert torch.allclose(still[0], expected[0], atol=1e-6)
    assert not torch.allclose(still[1], expected[1], atol=1e-5)
    table = model.patch_embed.pos_embedding[0, 3 * WORDS :].unflatten(0, (4 * FRAMES, -1))
    _, places = sequence_positions(Layout(1), torch.tensor([[1]]), FRAMES)
    assert places is not None
    assert torch.equal(table[places[0]], table[1::FRAMES])  # one frame, at the second place of every clip


@torch.no_grad()
def test_a_first_clip_with_a_lead_fits() -> None:
    model, layout = build_model(lead_frames=1), Layout(FRAMES, lead=1)
    values = inputs(layout)
    assert values["hidden_states"].shape[1] == 4 * FRAMES + 1
    sample = model(**values).sample
    assert {name: clip.shape[1] for name, clip in layout.unpack(sample).items()} == {
        "foreground": FRAMES + 1,
        "alpha": FRAMES,
        "background": FRAMES,
        "blended": FRAMES,
    }
    positions = torch.arange(FRAMES).expand(2, -1)
    assert torch.allclose(model(**values, frame_positions=positions).sample, sample, atol=1e-6)


@torch.no_grad()
def test_sine_positions_take_any_size() -> None:
    model = build_model(learned_positions=False)
    for height, width in ((4, 6), (8, 2)):
        values = inputs()
        values["hidden_states"] = torch.randn(2, 4 * FRAMES, 16, height, width)
        assert model(**values).sample.shape == values["hidden_states"].shape


def test_what_does_not_fit_is_an_error_that_says_so(model: CogVideoXLayerTransformer3DModel) -> None:
    def size(height: int, width: int) -> dict:
        return {**inputs(), "hidden_states": torch.zeros(2, 4 * FRAMES, 16, height, width)}

    with pytest.raises(ValueError, match="latents of 5x4 do not divide into patches of 2; the nearest is 4x4"):
        model(**size(4, 5))
    with pytest.raises(ValueError, match="latents of 4x4 do not fit this model: its learned positions are for 6x4"):
        model(**size(4, 4))
    with pytest.raises(ValueError, match="has 8 latent frames, the layout 12"):
        model(**{**inputs(), "layout": Layout(3)})
    with pytest.raises(ValueError, match="the sequence has 12 latent frames, this model has positions for 8"):
        model(**inputs(Layout(3)))
    with pytest.raises(ValueError, match="prompts have 3 tokens, this model attends to exactly 4"):
        model(**{**inputs(), "encoder_hidden_states": torch.zeros(2, 3, 3, 12)})
    with pytest.raises(ValueError, match="needs 3 prompts, got 2"):
        model(**{**inputs(), "encoder_hidden_states": torch.zeros(2, 2, WORDS, 12)})


@torch.no_grad()
def test_saving_and_loading_keeps_the_prediction(model: CogVideoXLayerTransformer3DModel, tmp_path: Path) -> None:
    torch.nn.init.normal_(model.patch_embed.pos_embedding)
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = CogVideoXLayerTransformer3DModel.from_pretrained(tmp_path)
    assert torch.equal(loaded(**inputs()).sample, model(**inputs()).sample)


@torch.no_grad()
def test_an_adapter_can_be_added_scaled_fused_and_dropped(model: CogVideoXLayerTransformer3DModel) -> None:
    base = model(**inputs()).sample
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    model.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False), "motion")
    adapted = model(**inputs()).sample
    assert not torch.allclose(adapted, base, atol=1e-3)
    model.set_adapters("motion", 0.0)
    assert torch.allclose(model(**inputs()).sample, base, atol=1e-5)
    model.set_adapters("motion", 1.0)
    model.fuse_lora()
    assert torch.allclose(model(**inputs()).sample, adapted, atol=1e-5)
    model.unfuse_lora()
    model.unload_lora()
    assert torch.allclose(model(**inputs()).sample, base, atol=1e-5)


@torch.no_grad()
def predict_in_parallel(rank: int, folder: Path, style: str) -> None:
    """Run one of two processes; write its prediction and the numbers of tokens in its second block."""
    torch.accelerator.device_count = lambda: 1  # diffusers counts accelerators, also where there are none
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model, tokens = CogVideoXLayerTransformer3DModel.from_plain(build_plain(style)), []
    model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
    model.transformer_blocks[1].register_forward_pre_hook(
        lambda module, args: tokens.extend(a.shape[1] for a in args[:2])
    )
    sample = model(**inputs()).sample
    save_file({"sample": sample.contiguous(), "tokens": torch.tensor(tokens)}, folder / f"{rank}.safetensors")
    dist.destroy_process_group()


@torch.no_grad()
@pytest.mark.parametrize("style", ["2b", "5b"])
def test_two_processes_in_context_parallel_give_what_one_gives(tmp_path: Path, style: str) -> None:
    fork_two(predict_in_parallel, tmp_path, style)
    expected = CogVideoXLayerTransformer3DModel.from_plain(build_plain(style))(**inputs()).sample
    for rank in range(2):
        got = load_file(tmp_path / f"{rank}.safetensors")
        assert got["tokens"].tolist() == [len(CLIPS) * TOKENS // 2, len(LAYERS) * WORDS // 2]
        assert torch.allclose(got["sample"], expected, atol=1e-5)


def test_the_sampler_draws_from_its_generator_and_ends_clean() -> None:
    def run(seed: int) -> Tensor:
        scheduler, generator = LayerFlowDPMScheduler(), torch.Generator().manual_seed(seed)
        scheduler.set_timesteps(5)
        x = torch.ones(1, 2, 3)
        for timestep in scheduler.timesteps:
            x, clean = scheduler.step(0.1 * x, timestep, x, generator=generator, return_dict=False)
        assert torch.equal(x, clean)
        return x

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_the_sampler_learns_what_it_samples() -> None:
    scheduler = LayerFlowDPMScheduler()
    scheduler.set_timesteps(4)
    clean, noise, timestep = torch.randn(1, 2, 3), torch.randn(1, 2, 3), scheduler.timesteps[1]
    noisy = scheduler.add_noise(clean, noise, timestep[None])
    velocity = scheduler.get_velocity(clean, noise, timestep[None])
    recovered = scheduler.convert_model_output(velocity, timestep, noisy)
    # Not quite: on selected steps the level is the table's nearest to the rescaled one.
    assert torch.allclose(recovered, clean, atol=0.05)
    assert torch.allclose(scheduler.add_noise(clean, noise, torch.tensor([999])), noise)


def test_sampler_and_guidance_are_configured_and_refuse_what_they_cannot(tmp_path: Path) -> None:
    LayerFlowDPMScheduler(snr_shift_scale=1.0).save_pretrained(tmp_path)
    assert LayerFlowDPMScheduler.from_pretrained(tmp_path).config.snr_shift_scale == 1.0
    guider = DynamicGuidance.from_config(DynamicGuidance(guidance_scale=4.0, exponent=2.0).config)
    assert 1 <= guider.scale_at(999, 50) <= 5
    scheduler = LayerFlowDPMScheduler()
    with pytest.raises(ValueError, match="call set_timesteps"):
        scheduler.step(torch.zeros(1), 999, torch.zeros(1))
    with pytest.raises(ValueError, match="from 2 to 1000, got 1"):
        scheduler.set_timesteps(1)
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="timestep 5 is not one"):
        scheduler.step(torch.zeros(1), 5, torch.zeros(1))
    with pytest.raises(ValueError, match="'epsilon'"):
        LayerFlowDPMScheduler(prediction_type="epsilon")
