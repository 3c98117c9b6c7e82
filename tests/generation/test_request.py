"""The request: each field is declared once, and every front end has it."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from layerflow import LayerFlowPipeline
from layerflow.cli import app, run
from layerflow.core.errors import FieldError
from layerflow.generation.batch import fingerprint
from layerflow.generation.jobs import KEYS, read_jobs
from layerflow.generation.record import arguments
from layerflow.generation.request import ModelOptions, Request, flag, format_size, options, parse_lora, parse_size
from layerflow.training import adapters

FIELDS = sorted(options(Request))
OTHER: dict[str, Any] = {
    "foreground": ("a cat", "a dog"), "object": ("3,4@0",), "not_object": ("9,9.5@-1",),
    "background": "the sea", "blended": "a cat by the sea", "negative_prompt": "rain",
    "formats": ("png",), "frames": 2, "size": (32, 48), "upscale": 2, "fps": 12.0, "seed": 3, "steps": 5,
    "guidance": 2.5, "guidance_scale_2": 1.5, "noise_scale": 0.5, "lora": ("someone/a-lora:0.5",),
}  # fmt: skip
"""A value other than the default for each field."""


def plain(name: str) -> Any:
    """Return the value of `OTHER` in JSON's types."""
    value = OTHER[name]
    return format_size(value) if name == "size" else list(value) if isinstance(value, tuple) else value


def test_every_field_is_covered() -> None:
    assert sorted(OTHER) == FIELDS


@pytest.mark.parametrize("command", ["generate", "decompose", "add-background", "add-foreground", "complete"])
def test_command_line_has_every_field(command: str) -> None:
    parameters = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    flags = {text for parameter in parameters for text in parameter.opts}
    assert {flag(Request, name) for name in FIELDS} <= flags


@pytest.mark.parametrize("name", FIELDS)
def test_job_file_has_every_field(name: str, tmp_path: Path) -> None:
    assert name in KEYS
    file = tmp_path / "jobs.jsonl"
    file.write_text(json.dumps({"foreground": "a dog", "background": "hills", name: plain(name)}))
    (job,) = read_jobs(file, tmp_path / "out")
    assert getattr(job.request, name) == OTHER[name]


@pytest.mark.parametrize("name", [name for name in FIELDS if name != "formats"])
def test_studio_takes_and_describes_every_field(name: str) -> None:
    pytest.importorskip("fastapi", reason="the studio's packages are not installed")
    from layerflow.studio.requests import JobRequest

    assert JobRequest.model_json_schema()["properties"][name]["description"] == options(Request)[name].help
    value = ["a-lora:0.5"] if name == "lora" else plain(name)
    kept = JobRequest(**{"foreground": "a dog", "background": "hills", name: value}).kept()
    assert kept[name] == value


def test_comfyui_has_every_field() -> None:
    path = Path(__file__).parents[2] / "integrations" / "comfyui" / "nodes.py"
    spec = importlib.util.spec_from_file_location("comfyui_nodes", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sockets = module.NODE_CLASS_MAPPINGS["LayerFlowGenerate"].INPUT_TYPES()
    names = {*sockets["required"], *sockets["optional"]}
    assert {module.socket_name(name) for name in FIELDS if name not in module.LEFT_OUT} <= names


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_changes_the_fingerprint(name: str) -> None:
    base = Request(foreground="a dog", background="hills")
    prints = {fingerprint(one, ModelOptions(), "0") for one in (base, dataclasses.replace(base, **{name: OTHER[name]}))}
    assert len(prints) == 2


def test_fingerprints_of_older_jobs_hold() -> None:
    base = Request(foreground="a", background="b")
    sha256 = fingerprint(base, ModelOptions(device="cpu", dtype="float32"), "0")
    assert sha256 == "2b7a504331fb7f8b33ee62af7096cb28d325f8cb21a0c9b28466f07151429a21"


@pytest.mark.parametrize("name", FIELDS)
def test_command_that_makes_layers_again_has_every_field(name: str) -> None:
    words = arguments(Request(**{"foreground": "a dog", "background": "hills", name: OTHER[name]}))
    place = words.index(flag(Request, name))
    texts = {
        "foreground": "a cat", "object": "3,4@0", "not_object": "9,9.5@-1",
        "size": "48x32", "formats": "png", "lora": "someone/a-lora:0.5", "fps": "12", "guidance": "2.5",
    }  # fmt: skip
    assert words[place + 1] == texts.get(name, str(OTHER[name]))


def test_unguided_negative_prompt_is_noted(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", "--foreground", "a", "--background", "b", "--model", str(tiny_model), "--steps", "1"]
    command += ["--negative-prompt", "rain", "--format", "png", "-o"]
    assert run([*command, str(tmp_path / "plain")]) == 0
    assert "--negative-prompt has no effect without guidance; set --guidance above 1" in capsys.readouterr().err
    assert run([*command, str(tmp_path / "guided"), "--guidance", "3"]) == 0
    assert "no effect" not in capsys.readouterr().err
    metadata = json.loads((tmp_path / "guided" / "layers.json").read_text())["metadata"]
    assert metadata["negative_prompt"] == "rain"
    assert "--negative-prompt rain" in metadata["command"]


def test_second_guidance_scale_needs_a_second_transformer(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", "--foreground", "a", "--background", "b", "--model", str(tiny_model)]
    assert run([*command, "--guidance-scale-2", "2", "-o", str(tmp_path / "out")]) == 2
    assert "--guidance-scale-2 2: this model has no second transformer; leave it out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def lora(tiny_model: Path, tmp_path: Path) -> Path:
    """A folder with a LoRA that changes what the tiny model makes."""
    transformer = LayerFlowPipeline.from_pretrained(tiny_model).transformer
    torch.manual_seed(1)
    config = LoraConfig(r=2, lora_alpha=2, target_modules=["stem", "head"], init_lora_weights="gaussian")
    transformer.add_adapter(config, adapter_name="style")
    for name, parameter in transformer.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=2.0)
    adapters.save(transformer, "style", tmp_path / "lora")
    return tmp_path / "lora"


def test_lora_changes_layers_by_its_weight(tiny_model: Path, lora: Path, tmp_path: Path) -> None:
    command = ["generate", "--foreground", "a", "--background", "b", "--model", str(tiny_model), "--steps", "2"]
    command += ["--format", "ffv1"]
    loras: dict[str, list[str]] = {
        "none": [], "zero": ["--lora", f"{lora}:0"], "whole": ["--lora", str(lora)], "again": ["--lora", f"{lora}:1"],
        "twice": ["--lora", f"{lora}:0.5", "--lora", f"{lora}:0.5"],
    }  # fmt: skip
    contents = {}
    for name, more in loras.items():
        assert run([*command, *more, "-o", str(tmp_path / name)]) == 0
        contents[name] = (tmp_path / name / "background.mkv").read_bytes()
    assert contents["none"] == contents["zero"] != contents["whole"] == contents["again"]
    assert contents["twice"] != contents["none"]
    metadata = json.loads((tmp_path / "twice" / "layers.json").read_text())["metadata"]
    assert metadata["lora"] == [f"{lora}:0.5", f"{lora}:0.5"]


def test_lora_weights_change_the_fingerprint(lora: Path) -> None:
    request = Request(foreground="a", background="b", lora=(str(lora),))
    before = fingerprint(request, ModelOptions(), "0")
    (file,) = lora.iterdir()
    weights = {name: 2 * tensor for name, tensor in load_file(file).items()}
    save_file(weights, file)
    assert fingerprint(request, ModelOptions(), "0") != before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps is 0 but must be a whole number from 1 on"),
        ({"fps": 0.0}, "fps is 0 but must be a number above 0 and at most 240"),
        ({"guidance": float("nan")}, "guidance is nan but must be a number from 0 to 100; usual is 1 to 7"),
        ({"seed": True}, "seed is True but must be a whole number from 0 to 2^63 - 1"),
        ({"foreground": "a\0b"}, r"foreground is ('a\x00b',) but must be text"),
        (
            {"foreground": ("a",) * 9},
            "foreground is ('a', 'a', 'a', 'a', 'a', 'a', ...) but must be text or a list of at",
        ),
        (
            {"object": ("1;2",)},
            "object '1;2' is neither a click X,Y@FRAME, such as 320,200@0, nor a matte PATH@FRAME",
        ),
        ({"not_object": ("matte.png@0",)}, "not_object 'matte.png@0' is no click; write X,Y@FRAME, such as 320,200@0"),
        ({"given": {"sky": Path("a.png")}}, "given names 'sky', which is no clip; the clips are foreground, alpha,"),
        ({"given": {"alpha": {"one": Path("a.png")}}}, "given a.png@one: 'one' are no frames; write numbers such as 0"),
        ({"given": {"alpha": {}}}, "given names no file for alpha; leave the clip out"),
        ({"trimap": {"blended": Path("a.png")}}, "trimap names 'blended', which is no clip; the clips are alpha"),
        ({"lora": ("a/b:20",)}, "lora a/b:20 has weight 20; usual is 0 to 1"),
        ({"lora": ("nowhere.safetensors",)}, "lora nowhere.safetensors does not exist; name a safetensors file"),
        ({"formats": ()}, "formats is empty; name at least one"),
    ],
)
def test_value_that_no_model_takes_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(FieldError) as error:
        Request(**values)
    assert str(error.value).startswith(message)
    assert error.value.field in values


@given(st.integers(1, 16384), st.integers(1, 16384))
def test_sizes_are_read_as_written(height: int, width: int) -> None:
    assert parse_size(format_size((height, width))) == (height, width)


@given(st.text(min_size=1), st.floats(-10, 10))
def test_loras_are_read_as_written(path: str, weight: float) -> None:
    assert parse_lora(f"{path}:{weight!r}") == (path, weight)
