"""The sprite book from its recipe to a network that draws with it."""

from pathlib import Path

import pytest
import torch
from small_atlas import small_atlas, write_atlas

from layerflow.cli import run
from layerflow.mini.fitting.sprite_book import load_book
from layerflow.pipeline import LayerFlowPipeline
from layerflow.training.network import build_pipeline
from layerflow.training.recipe import load_recipe

BOOK = """
name: small-book
folder: atlas
model: {model}
fit:
  parameters: 1200000
  code: 4
  captions: 300
  drawn_captions: 50
  epochs: 1
  looks: {{encoder_steps: 2, steps: 2, encoder_batch: 4, batch: 4}}
"""
TRAINING = """
start_from: {model}
size: 32
clip_frames: 4
frames_per_batch: 4
data: [{{kind: scenes, folder: atlas}}]
mini: {{book: {book}, sketch_scenes: 250, sketch_epochs: 2}}
phases: [{{steps: 1, frames: {{1: 1.0}}}}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("book")
    write_atlas(small_atlas(), folder / "atlas")
    return folder


def fitted_book(folder: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    recipe = folder / "small-book.yaml"
    recipe.write_text(BOOK.format(model=model))
    assert run(["mini", "book", str(recipe), "-o", str(folder / "runs")]) == 0
    return Path(capsys.readouterr().out.strip().splitlines()[-1])


def test_a_network_gets_a_fitted_book(folder: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = fitted_book(folder, tiny_model, capsys)
    assert file == folder / "runs" / "small-book" / "book.safetensors"
    book, concepts, styles = load_book(file)
    assert "thing-0" in concepts
    assert "thing-8" not in concepts  # held out
    assert "flat moving" in styles
    again, _, _ = load_book(fitted_book(folder, tiny_model, capsys))  # what is done is not done again
    for name, tensor in book.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)

    (folder / "training.yaml").write_text(TRAINING.format(model=tiny_model, book=file))
    recipe = load_recipe(folder / "training.yaml").stages[0]
    before = LayerFlowPipeline.from_pretrained(tiny_model).transformer.sketch
    shares: list[float] = []
    pipeline = build_pipeline(recipe, report=lambda _, values: shares.extend(values.values()))
    sketch = pipeline.transformer.sketch
    for name, tensor in book.state_dict().items():
        assert torch.equal(sketch.object.book.state_dict()[name], tensor)
    assert shares[-1] == 1
    poses = "poses.to_motions.weight"  # fitted to the recipe's scenes
    assert not torch.equal(sketch.object.state_dict()[poses], before.object.state_dict()[poses])
    resumed = build_pipeline(recipe, fit=False).transformer.sketch
    assert torch.equal(resumed.object.state_dict()[poses], before.object.state_dict()[poses])

    video = pipeline(foreground="a fox walking", background="a photograph", num_inference_steps=1)[0][0]
    pipeline.save_pretrained(folder / "model")
    loaded = LayerFlowPipeline.from_pretrained(folder / "model")
    assert loaded.transformer.config.sprite_book == pipeline.transformer.config.sprite_book
    assert video.alpha is not None


def test_unknown_key_of_a_book_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yaml").write_text("folder: atlas\npages: 1\n")
    assert run(["mini", "book", str(tmp_path / "bad.yaml"), "-o", str(tmp_path)]) == 2
    assert "unknown key 'pages'" in capsys.readouterr().err


def test_missing_atlas_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "book.yaml").write_text("folder: nowhere\n")
    assert run(["mini", "book", str(tmp_path / "book.yaml"), "-o", str(tmp_path)]) == 2
    assert "nowhere" in capsys.readouterr().err
