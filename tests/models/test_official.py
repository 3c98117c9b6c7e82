"""Conversion of official checkpoints: all eight configurations, invalid input, and folders whole or absent."""

import argparse
import errno
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderKLCogVideoX
from forked import fork
from torch import Tensor

from layerflow.cli import run
from layerflow.core.schema import LAYERS, TASKS
from layerflow.models.cogvideox import conversion
from layerflow.models.cogvideox.conversion import CHECKPOINT, convert, read_checkpoint
from layerflow.models.cogvideox.official import (
    ADAPTERS,
    CONFIGURATIONS,
    TOKENS_PER_PROMPT,
    ConversionError,
    OfficialConfiguration,
    adapter_moves,
    convert_autoencoder,
    detect_configuration,
    network_moves,
)
from layerflow.models.cogvideox.sampler import LayerFlowDPMScheduler
from layerflow.models.cogvideox.transformer import CogVideoXLayerTransformer3DModel
from layerflow.models.layout import Layout

SIZE, BLOCKS, WIDTH, HEAD, TIME, TEXT = (4, 6), 2, 32, 8, 12, 10
RANKS = {"motion": 2, "content": 3}
BY_NAME = {one.name: one for one in CONFIGURATIONS}
every_configuration = pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=BY_NAME)


def official_state(configuration: OfficialConfiguration, lora: bool = True) -> dict[str, Tensor]:
    """Return a random state dict of a tiny network under official names."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "mixins.pos_embed.pos_embedding": (1, configuration.table_rows(SIZE), WIDTH),
        "mixins.patch_embed.proj.weight": (WIDTH, 16, 2, 2),
        "mixins.patch_embed.text_proj.weight": (WIDTH, TEXT),
        "mixins.final_layer.adaLN_modulation.1.weight": (2 * WIDTH, TIME),
        "mixins.final_layer.norm_final.weight": (WIDTH,),
        "mixins.final_layer.linear.weight": (64, WIDTH),
        "transformer.final_layernorm.weight": (WIDTH,),
        "time_embed.0.weight": (TIME, WIDTH),
        "time_embed.2.weight": (TIME, TIME),
    }
    if configuration.layer_embedding:
        shapes["mixins.pos_embed.txt_embedder.0.weight"] = (WIDTH, 1)
        shapes["mixins.pos_embed.txt_embedder.1.weight"] = (WIDTH,)
    wrapped = ".original" if lora else ""
    for n in range(BLOCKS):
        layer = f"transformer.layers.{n}"
        shapes |= {
            f"mixins.adaln_layer.adaLN_modulations.{n}.1.weight": (12 * WIDTH, TIME),
            f"mixins.adaln_layer.query_layernorm_list.{n}.weight": (HEAD,),
            f"mixins.adaln_layer.key_layernorm_list.{n}.weight": (HEAD,),
            f"{layer}.input_layernorm.weight": (WIDTH,),
            f"{layer}.post_attention_layernorm.weight": (WIDTH,),
            f"{layer}.attention.query_key_value{wrapped}.weight": (3 * WIDTH, WIDTH),
            f"{layer}.attention.dense{wrapped}.weight": (WIDTH, WIDTH),
            f"{layer}.mlp.dense_h_to_4h.weight": (4 * WIDTH, WIDTH),
            f"{layer}.mlp.dense_4h_to_h.weight": (WIDTH, 4 * WIDTH),
        }
    shapes |= {
        f"{name.removesuffix('weight')}bias": shape[:1] for name, shape in shapes.items() if name.endswith("weight")
    }
    for n in range(BLOCKS if lora else 0):
        for place, count in (("query_key_value", 3), ("dense", 1)):
            for adapter, (down, up) in ADAPTERS.items():
                for i in range(count):
                    matrix = f"transformer.layers.{n}.attention.{place}.matrix"
                    shapes[f"{matrix}_{down}.{i}"] = (RANKS[adapter], WIDTH)
                    shapes[f"{matrix}_{up}.{i}"] = (WIDTH, RANKS[adapter])
    return {f"model.diffusion_model.{k}": torch.randn(v, generator=generator) * 0.2 for k, v in shapes.items()}


def save_checkpoint(folder: Path, state: dict, **others: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"module": state, **others}, folder / CHECKPOINT)
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The folder of a checkpoint whose configuration its tensors tell."""
    return save_checkpoint(tmp_path / "official", official_state(BY_NAME["gen_rgba"]))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A stand-in for CogVideoX-2B in diffusers layout."""
    folder = tmp_path / "base"
    index = {
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "vae": ["diffusers", "AutoencoderKLCogVideoX"],
    }
    for part in index:
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text("{}")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "CogVideoXPipeline", **index}))
    return folder


def left_behind(folder: Path) -> list[str]:
    """Return the names that a failed conversion left in the output's parent."""
    return sorted(path.name for path in folder.iterdir() if path.name not in ("official", "official-whole", "base"))


@every_configuration
@torch.no_grad()
def test_every_official_configuration_converts(configuration: OfficialConfiguration, tmp_path: Path) -> None:
    state = official_state(configuration)
    official = save_checkpoint(tmp_path / "official", state)
    made = convert(official, tmp_path / "model", task=configuration.task, latent_size=SIZE)
    assert made.configuration == configuration
    assert made.parts == ("transformer", "scheduler", "adapters/motion", "adapters/content")
    assert made.missing == ("text_encoder", "tokenizer", "vae")
    assert left_behind(tmp_path) == ["model"]

    model = CogVideoXLayerTransformer3DModel.from_pretrained(made.folder / "transformer")
    assert set(model.config.given_frames or ()) == set(configuration.given_frames or ())
    for name in ADAPTERS:
        model.load_lora_adapter(made.folder / "adapters" / name, adapter_name=name, use_safetensors=True)
        assert model.peft_config[name].r == RANKS[name]
        layer = model.transformer_blocks[0].attn1.to_out[0]
        assert layer.scaling[name] == pytest.approx(1 / RANKS[name])
    layout = Layout(model.config.sample_frames, tuple(model.config.clips), model.config.lead_frames)
    assert layout.length == configuration.frames
    latents = torch.randn(1, layout.length, 16, *SIZE)
    text = torch.randn(1, len(LAYERS), TOKENS_PER_PROMPT, TEXT)
    sample = model(latents, torch.full((1, len(layout.clips), 1), 0.5), text, None, layout).sample
    assert sample.shape == latents.shape
    assert sample.isfinite().all()

    index = json.loads((made.folder / "model_index.json").read_text())
    assert index["_class_name"] == "LayerFlowPipeline"
    assert index["transformer"] == ["layerflow.models.cogvideox.transformer", "CogVideoXLayerTransformer3DModel"]
    LayerFlowDPMScheduler.from_pretrained(made.folder / "scheduler")


@every_configuration
def test_given_frames_are_those_of_the_tasks_clips(configuration: OfficialConfiguration) -> None:
    layout = Layout(4, configuration.clips, configuration.lead_frames)
    slices = [layout.clip_slice(name) for name in configuration.clips if name in TASKS[configuration.task]]
    if configuration.name == "seg_rgb":
        assert configuration.given_frames == (slices[0].stop - 2, slices[0].stop)
    else:
        assert configuration.given_frames == ((slices[0].start, slices[-1].stop) if slices else None)


def test_full_size_tables_have_the_official_rows() -> None:
    rows = {name: one.table_rows((60, 90)) for name, one in BY_NAME.items()}
    assert rows == {
        "gen_rgba": 22278,
        "seg_rgba": 22052,
        "fg2bg_rgba": 23628,
        "bg2fg_rgba": 23628,
        "gen_rgb": 18228,
        "seg_rgb": 18002,
        "fg2bg_rgb": 18228,
        "bg2fg_rgb": 18228,
    }


def test_all_official_tensors_are_accounted_for() -> None:
    moves = [*network_moves(BLOCKS, True, True)]
    moves += [move for letters in ADAPTERS.values() for move in adapter_moves(BLOCKS, letters)]
    sources = [f"model.diffusion_model.{move.source}" for move in moves]
    assert len(set(sources)) == len(sources)
    assert set(sources) == set(official_state(BY_NAME["gen_rgba"]))


def test_the_configuration_is_told_by_the_tensors_or_by_the_task(tmp_path: Path) -> None:
    for configuration in CONFIGURATIONS:
        network = {
            "mixins.pos_embed.pos_embedding": torch.empty(1, configuration.table_rows(SIZE), 1),
            **({"mixins.pos_embed.txt_embedder.0.bias": torch.empty(1)} if configuration.layer_embedding else {}),
        }
        if configuration.name in ("gen_rgba", "seg_rgba", "seg_rgb"):
            assert detect_configuration(network, None, SIZE) == configuration
        else:
            with pytest.raises(ConversionError, match="choose one of them with `task`"):
                detect_configuration(network, None, SIZE)
        assert detect_configuration(network, configuration.task, SIZE) == configuration
    with pytest.raises(ConversionError, match="a model for decompose, not for generate"):
        detect_configuration({"mixins.pos_embed.pos_embedding": torch.empty(1, 452 + 16 * 6, 1)}, "generate", SIZE)
    with pytest.raises(ConversionError, match=r"a position table of 452 rows .* is no official model"):
        detect_configuration({"mixins.pos_embed.pos_embedding": torch.empty(1, 452, 1)}, None, SIZE)


def test_a_checkpoint_without_lora_converts_without_adapters(tmp_path: Path) -> None:
    official = save_checkpoint(tmp_path / "official", official_state(BY_NAME["seg_rgb"], lora=False))
    made = convert(official, tmp_path / "model", latent_size=SIZE)
    assert made.configuration.name == "seg_rgb"
    assert made.parts == ("transformer", "scheduler")


def test_number_formats_are_kept(tmp_path: Path) -> None:
    state = {name: tensor.bfloat16() for name, tensor in official_state(BY_NAME["gen_rgba"]).items()}
    made = convert(save_checkpoint(tmp_path / "official", state), tmp_path / "model", latent_size=SIZE)
    weights = safetensors.torch.load_file(made.folder / "transformer" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}


def test_text_encoder_tokenizer_and_autoencoder_come_from_the_base_model(checkpoint: Path, base: Path) -> None:
    made = convert(checkpoint, checkpoint.parent / "model", base=base, latent_size=SIZE)
    assert not made.missing
    index = json.loads((made.folder / "model_index.json").read_text())
    for part in ("text_encoder", "tokenizer", "vae"):
        assert (made.folder / part / "config.json").is_file()
        assert part in index
    (base / "tokenizer" / "config.json").unlink()
    (base / "tokenizer").rmdir()
    with pytest.raises(ConversionError, match="has no tokenizer/; `base` must be a CogVideoX-2B"):
        convert(checkpoint, checkpoint.parent / "other", base=base, latent_size=SIZE)
    with pytest.raises(ConversionError, match="not a model in diffusers layout"):
        convert(checkpoint, checkpoint.parent / "other", base=checkpoint, latent_size=SIZE)


def official_autoencoder() -> tuple[AutoencoderKLCogVideoX, dict[str, Tensor]]:
    """Return a tiny autoencoder, and its tensors under official names."""
    torch.manual_seed(0)
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(32, 64, 32, 32),
        latent_channels=4,
        layers_per_block=1,
    )
    names = {}
    for ours in vae.state_dict():
        name = ours.replace(".mid_block.resnets.0", ".mid.block_1").replace(".mid_block.resnets.1", ".mid.block_2")
        for level in range(4):
            name = name.replace(f".down_blocks.{level}.", f".down.{level}.")
            name = name.replace(f".up_blocks.{level}.", f".up.{3 - level}.")
        name = (
            name.replace(".resnets.", ".block.")
            .replace("samplers.0.", "sample.")
            .replace("conv_shortcut", "nin_shortcut")
        )
        names[name] = ours
    return vae, {name: vae.state_dict()[ours] for name, ours in names.items()}


def test_an_autoencoder_in_the_checkpoint_or_beside_it_is_converted(checkpoint: Path, base: Path) -> None:
    vae, state = official_autoencoder()
    state["loss.logvar"] = torch.zeros(1)
    converted = convert_autoencoder(state)
    assert converted.config.block_out_channels == (32, 64, 32, 32)
    assert all(torch.equal(tensor, vae.state_dict()[name]) for name, tensor in converted.state_dict().items())

    torch.save({"state_dict": state}, checkpoint / "3d-vae.pt")
    beside = convert(checkpoint, checkpoint.parent / "beside", base=base, latent_size=SIZE)
    inside_state = official_state(BY_NAME["gen_rgba"]) | {f"first_stage_model.{k}": v for k, v in state.items()}
    inside = convert(
        save_checkpoint(checkpoint.parent / "official-whole", inside_state),
        checkpoint.parent / "inside",
        latent_size=SIZE,
    )
    for made in (beside, inside):
        loaded = AutoencoderKLCogVideoX.from_pretrained(made.folder / "vae")
        assert all(torch.equal(tensor, vae.state_dict()[name]) for name, tensor in loaded.state_dict().items())

    del state["encoder.norm_out.weight"]
    with pytest.raises(ConversionError, match=r"no tensor for encoder\.norm_out\.weight"):
        convert_autoencoder(state)
    with pytest.raises(ConversionError, match=r"unexpected tensor first_stage_model\.encoder\.extra"):
        convert_autoencoder(official_autoencoder()[1] | {"encoder.extra": torch.zeros(1)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time_embed.2.bias": None}, r"tensor time_embed\.2\.bias is missing"),
        ({"transformer.layers.1.attention.query_key_value.matrix_D.2": None}, r"layers\.1.*matrix_D\.2 is missing"),
        ({"mixins.pos_embed.pos_embedding": None}, r"tensor mixins\.pos_embed\.pos_embedding is missing"),
        ({"mixins.patch_embed.proj.bias": torch.zeros(5)}, r"proj\.bias has shape \(5,\), this model needs \(32,\)"),
        ({"mixins.patch_embed.proj.weight": torch.zeros(5)}, r"proj\.weight has shape \(5,\), which should have 4"),
        ({"transformer.layers.0.attention.dense.matrix_A.0": torch.zeros(9, 32)}, r"shape \(9, 32\).*\(2, 32\)"),
        ({"mixins.controlnet.weight": torch.zeros(1)}, r"unexpected tensor model\.diffusion_model\.mixins\.controlnet"),
        ({"time_embed.0.weight": "text"}, r"entry model.*time_embed\.0\.weight is not a tensor but str"),
    ],
)
def test_a_missing_misshapen_or_unexpected_tensor_is_named(
    change: dict, message: str, checkpoint: Path, tmp_path: Path
) -> None:
    state = official_state(BY_NAME["gen_rgba"]) | {f"model.diffusion_model.{k}": v for k, v in change.items()}
    save_checkpoint(checkpoint, {name: tensor for name, tensor in state.items() if tensor is not None})
    with pytest.raises(ConversionError, match=message):
        convert(checkpoint, tmp_path / "model", latent_size=SIZE)
    assert left_behind(tmp_path) == []


def test_tensors_outside_the_known_parts_are_unexpected(checkpoint: Path, tmp_path: Path) -> None:
    state = official_state(BY_NAME["gen_rgba"]) | {"conditioner.embedders.0.shared.weight": torch.zeros(1)}
    convert(save_checkpoint(checkpoint, state), tmp_path / "model", latent_size=SIZE)
    with pytest.raises(ConversionError, match=r"unexpected tensor lm_head\.weight"):
        convert(save_checkpoint(checkpoint, {**state, "lm_head.weight": torch.zeros(1)}), tmp_path / "other")


def test_pickles_run_no_code_and_bad_files_are_named(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "official", {"a": torch.zeros(1)}, args=argparse.Namespace(load="x"))
    with pytest.raises(ConversionError, match=rf"{CHECKPOINT} cannot be opened: it holds argparse\.Namespace"):
        convert(folder, tmp_path / "model")
    file = folder / CHECKPOINT
    file.write_bytes(b"no checkpoint")
    with pytest.raises(ConversionError, match="cannot be opened"):
        convert(folder, tmp_path / "model")
    save_checkpoint(folder, official_state(BY_NAME["gen_rgba"]))
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ConversionError, match="cannot be opened"):
        convert(folder, tmp_path / "model")
    torch.save({"weights": {}}, file)
    with pytest.raises(ConversionError, match="no weights under 'module'"):
        convert(folder, tmp_path / "model")
    file.unlink()
    with pytest.raises(ConversionError, match=f"has no {CHECKPOINT}"):
        convert(folder, tmp_path / "model")
    assert left_behind(tmp_path) == []


def test_what_training_saves_beside_the_weights_does_no_harm(tmp_path: Path) -> None:
    flat = torch.randn(12)
    state = {"a": flat[:4], "b": flat[4:].view(2, 4)}  # views of one buffer
    folder = save_checkpoint(tmp_path, state, np_rng_state=np.random.default_rng(0).integers(0, 9, 5), iteration=1)
    read = read_checkpoint(folder / CHECKPOINT, "module")
    assert all(torch.equal(read[name], state[name]) for name in state)
    assert read["b"].untyped_storage().nbytes() == 32


def test_checkpoints_in_folders_of_steps_are_found(tmp_path: Path) -> None:
    for step in ("500", "1000"):
        save_checkpoint(tmp_path / step, {"a": torch.zeros(1)})
    with pytest.raises(ConversionError, match="several checkpoints"):
        conversion.find_checkpoint(tmp_path)
    (tmp_path / "latest").write_text("1000\n")
    assert conversion.find_checkpoint(tmp_path) == tmp_path / "1000" / CHECKPOINT


def test_a_disk_that_fills_leaves_nothing(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(conversion, "save_file", no_space)  # the adapters, after the transformer
        with pytest.raises(OSError, match="No space left"):
            convert(checkpoint, tmp_path / "model", latent_size=SIZE)
    assert left_behind(tmp_path) == []
    assert convert(checkpoint, tmp_path / "model", latent_size=SIZE).folder.is_dir()


def convert_until_the_adapters(checkpoint: Path, model: Path) -> None:
    conversion.save_file = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
    convert(checkpoint, model, latent_size=SIZE)


def test_a_killed_conversion_leaves_no_model_and_the_next_one_cleans_up(checkpoint: Path, tmp_path: Path) -> None:
    process = fork(convert_until_the_adapters, checkpoint, tmp_path / "model")
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert left_behind(tmp_path) == [".model.partial"]
    convert(checkpoint, tmp_path / "model", latent_size=SIZE)
    assert left_behind(tmp_path) == ["model"]


def test_a_folder_that_has_something_in_it_is_not_touched(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    with pytest.raises(ConversionError, match="is there already"):
        convert(checkpoint, tmp_path / "model", latent_size=SIZE)
    assert (tmp_path / "model" / "mine.txt").read_text() == "mine"


def test_the_command_converts_and_says_what_it_made(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ("--size", "48x32")
    assert run(["convert", str(checkpoint), "-o", str(tmp_path / "model"), *size]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(tmp_path / "model")
    assert "gen_rgba: a model for generate, with transformer, scheduler, adapters/motion" in err
    assert "still without text_encoder, tokenizer, vae" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", "48x32", "--task", "decompose"), "a model for generate, not for decompose"),
        (("--task", "segment"), "--task segment is not known; choose generate"),
        (("--size", "50x32"), "--size 50x32 does not fit"),
        ((), "no official model at 720x480 pixels"),
    ],
)
def test_the_command_says_a_mistake_in_one_sentence(
    arguments: tuple[str, ...], message: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["convert", str(checkpoint), "-o", str(tmp_path / "model"), *arguments]) == 2
    err = capsys.readouterr().err.strip()
    assert message in err
    assert len(err.splitlines()) == 1
    assert left_behind(tmp_path) == []


def test_the_command_says_that_the_disk_is_full(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(conversion, "save_file", no_space)
    assert run(["convert", str(checkpoint), "-o", str(tmp_path / "model"), "--size", "48x32"]) == 2
    assert "could not be written, and nothing of it is left" in capsys.readouterr().err
    assert left_behind(tmp_path) == []
