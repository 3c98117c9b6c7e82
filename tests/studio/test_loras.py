"""LoRAs of the studio: named files of one folder that its owner chose, and no others."""

from pathlib import Path

import pytest
import torch
from conftest import ended, serving
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from layerflow import LayerFlowPipeline
from layerflow.core.errors import FieldError
from layerflow.generation.request import ModelOptions
from layerflow.studio.app import Settings
from layerflow.studio.entry_points import ModelStart
from layerflow.studio.limits import Limits
from layerflow.studio.runner import find_lora

PROMPTS = {"foreground": "a fox", "background": "hills", "steps": 1}


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder with a LoRA for the tiny model, and a file beside the folder."""
    folder = tmp_path_factory.mktemp("owner") / "loras"
    folder.mkdir()
    layer = LayerFlowPipeline.from_pretrained(tiny_model).transformer.blocks[0].attn.to_q
    weights = {
        "transformer.blocks.0.attn.to_q.lora_A.weight": torch.ones(2, layer.in_features),
        "transformer.blocks.0.attn.to_q.lora_B.weight": torch.ones(layer.out_features, 2),
    }
    save_file(weights, folder / "style.safetensors")
    save_file(weights, folder.parent / "secret.safetensors")
    return folder


def test_lora_of_the_folder_is_used_and_recorded(tmp_path: Path, tiny_model: Path, loras: Path) -> None:
    start = ModelStart(ModelOptions(model=str(tiny_model)), Limits(), loras)
    with serving(Settings(tmp_path, start)) as client:
        for bad in ("../secret.safetensors", "/etc/passwd", "a/b", "style.safetensors:x", ""):
            assert client.post("/api/jobs", json={**PROMPTS, "lora": [bad]}).status_code == 422
        id = client.post("/api/jobs", json={**PROMPTS, "lora": ["style.safetensors:0.5"]}).json()["id"]
        job = ended(client, id)
        assert job["state"] == "done", job["error"]
        index = client.get(f"/api/jobs/{id}/files/layers.json")
        assert index.json()["metadata"]["lora"] == ["style.safetensors:0.5"]
        assert str(loras) not in index.text
        missing = ended(client, client.post("/api/jobs", json={**PROMPTS, "lora": ["other"]}).json()["id"])
        assert missing["state"] == "failed"
        assert "other does not exist; this studio has style.safetensors" in missing["error"]


def test_studio_without_a_folder_has_no_loras() -> None:
    with pytest.raises(FieldError, match="this studio has no LoRAs"):
        find_lora("style.safetensors", None)


@given(st.text())
def test_names_stay_in_the_folder(loras: Path, text: str) -> None:
    try:
        resolved = find_lora(text, loras)
    except FieldError:
        return
    assert resolved.startswith(f"{loras}/style.safetensors")
