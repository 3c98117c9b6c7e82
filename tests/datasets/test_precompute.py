"""Latents and text states in shards: what training makes of them, and when it refuses them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn_shards import write_set
from full_size import FRAMES, build
from tiny_recipe import TINY, losses_of
from torch import nn

from layerflow.cli import run
from layerflow.core.config import ConfigError
from layerflow.datasets import encoding, precompute
from layerflow.datasets.inspection import statistics
from layerflow.datasets.precompute import check_identity, identity_of
from layerflow.datasets.reader import HELD, LATENTS, TEXT, UNCONDITIONAL, ShardSet
from layerflow.media import MediaError
from layerflow.training import objective
from layerflow.training.batches import ClipBatches
from layerflow.training.recipe import DataRecipe, PhaseRecipe, StageRecipe, load_recipe

TOLERANCE = 1e-5
"""Relative, of losses: a batch is encoded together, precomputed samples one by one, which sums in another order."""


@pytest.fixture(scope="module", params=["wan", "cogvideox"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A family, and a folder with a model, shards, and shards with what was precomputed."""
    family, home = request.param, tmp_path_factory.mktemp(request.param)
    build(family).save_pretrained(home / "model")
    video = FRAMES[family], 32, 48, "masks"
    write_set(home / "shards", {"a": video, "b": video, "still": (1, 32, 48, "pairs"), "short": (2, 32, 48, "masks")})
    words = ["data", "precompute", str(home / "shards"), str(home / "model"), "-o", str(home / "ready"), "--frozen"]
    assert run(words) == 0
    return family, home


def recipe_of(home: Path, frames: int, *sources: DataRecipe, **changes: Any) -> StageRecipe:
    settings: dict[str, Any] = {
        "phases": (PhaseRecipe(3, {frames: 1.0}),),
        "data": sources,
        "start_from": str(home / "model"),
        "size": 48,
        "clip_frames": frames,
        "frames_per_batch": 3 * frames,
        "optimizer": "adamw",
        "workers": 0,
        "warmup": 1,
        "prompt_dropout": 0.3,
        "layer_dropout": 0.3,
        "hidden_weight": 2.0,
        "learning_rate": 1e-5,  # AdamW makes whole steps of what is nearly no gradient, so last bits would grow
        **changes,
    }
    return StageRecipe("test", **settings)


def source_of(folder: Path, **changes: Any) -> DataRecipe:
    return DataRecipe(kind="shards", folder=str(folder), **changes)


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("nothing is encoded where all is precomputed")


def test_training_has_the_same_losses_and_encodes_nothing(
    made: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, home = made
    frames = FRAMES[family]
    recipe = recipe_of(home, frames, source_of(home / "ready", precomputed=False))
    encoded = losses_of(recipe, tmp_path / "encoding")
    monkeypatch.setattr(encoding, "encode_prompts", refuse)
    monkeypatch.setattr(objective, "encode_sequence", refuse)
    ready = losses_of(recipe_of(home, frames, source_of(home / "ready")), tmp_path / "ready")
    assert ready == pytest.approx(encoded, rel=TOLERANCE)
    assert len(set(ready)) == 3


def test_latents_are_there_for_every_clip_that_is_long_enough(made: tuple[str, Path]) -> None:
    family, home = made
    found = ShardSet(home / "ready")
    rows = {row.id: row for row in found.rows}
    assert {id: row.latents for id, row in rows.items()} == {"a": True, "b": True, "still": True, "short": False}
    assert set(found.tensors(rows["a"], TEXT)) == {"foreground", "background", "blended"}
    still, held = found.tensors(rows["still"], LATENTS), found.tensors(rows["a"], HELD)
    assert still.keys() == held.keys() == found.tensors(rows["b"], LATENTS).keys()
    assert {tensor.dtype for tensor in still.values()} == {torch.float32}
    with pytest.raises(MediaError, match="sample short cannot be read"):
        found.tensors(rows["short"], LATENTS)
    assert torch.equal(found.read(rows["a"]).video.alpha, ShardSet(home / "shards").read(rows["a"]).video.alpha)  # type: ignore[arg-type]
    assert statistics(home / "ready")["masks"]["clips"] == 3
    batch = ClipBatches(recipe_of(home, FRAMES[family], source_of(home / "ready", frozen=True)), scattered=False)[0]
    assert batch.latents is not None
    assert batch.sequence.shape[1] == batch.latents.length


def test_what_latents_cannot_give_is_refused(made: tuple[str, Path], tmp_path: Path) -> None:
    family, home = made
    frames, ready = FRAMES[family], source_of(home / "ready")
    with pytest.raises(ConfigError, match=rf"was precomputed for {frames} frames and phases ask for 1; .*`frames` 1"):
        ClipBatches(recipe_of(home, 1, ready))
    with pytest.raises(ConfigError, match=r"precomputed text and .*shards has none"):
        ClipBatches(recipe_of(home, frames, ready, source_of(home / "shards")))
    shutil.copytree(home / "ready", tmp_path / "unfrozen")
    index = json.loads((tmp_path / "unfrozen" / "index.json").read_text())
    index["precomputed"]["frozen"] = False
    (tmp_path / "unfrozen" / "index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match="precompute with `frozen`, or set precomputed: false"):
        ClipBatches(recipe_of(home, frames, source_of(tmp_path / "unfrozen", frozen=True)))


def test_another_model_is_refused_and_a_copy_in_half_precision_is_not(made: tuple[str, Path]) -> None:
    family, home = made
    sources = ClipBatches(recipe_of(home, FRAMES[family], source_of(home / "ready")), scattered=False).sources
    pipeline = build(family)
    check_identity(pipeline, sources)
    check_identity(build(family).to(torch.bfloat16), sources)
    nn.init.normal_(next(pipeline.text_encoder.parameters()))
    with pytest.raises(ConfigError, match=r"precomputed by .*model, whose text encoder differs from that of the model"):
        check_identity(pipeline, sources)
    nn.init.normal_(next(pipeline.vae.parameters()))
    with pytest.raises(ConfigError, match="whose autoencoder differs"):
        check_identity(pipeline, sources)


# --- the compact backbone has text states alone -----------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("small")
    write_set(home / "shards", {f"c{i}": (2, 32, 32, "masks") for i in range(4)})
    return home


def test_a_set_is_the_same_whoever_makes_it_and_goes_on_where_it_was(
    small: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = small / "one", small / "two"
    index = precompute.precompute(small / "shards", tiny_model, one)
    assert index["precomputed"]["has"] == [TEXT]
    assert index["clips"] == 4
    precompute.precompute(small / "shards", tiny_model, two, workers=2)
    whole = {path.name: path.read_bytes() for path in one.iterdir()}
    assert {path.name: path.read_bytes() for path in two.iterdir()} == whole
    (one / "shard-00001.json").unlink()  # as when it was killed before the record was written
    again: list[int] = []
    make = precompute.Encoded.make
    monkeypatch.setattr(precompute.Encoded, "make", lambda part: (again.append(part.number), make(part)))
    precompute.precompute(small / "shards", tiny_model, one)
    assert again == [1]
    assert {path.name: path.read_bytes() for path in one.iterdir()} == whole
    precompute.precompute(small / "shards", tiny_model, one, frames=1, dtype="bfloat16")
    assert again == [1, 0, 1]


def test_the_compact_backbone_trains_on_precomputed_text(small: Path, tiny_model: Path, tmp_path: Path) -> None:
    assert run(["data", "precompute", str(small / "shards"), str(tiny_model), "-o", str(small / "ready")]) == 0
    losses = []
    for precomputed in ("false", "true"):
        data = f"data: [{{kind: shards, folder: ready, precomputed: {precomputed}}}]"
        phases = "learning_rate: 0.00001\nphases: [{steps: 3, frames: {1: 0.5, 2: 0.5}}]"
        (small / "r.yaml").write_text("\n".join([TINY, "frames_per_batch: 4", phases, data]))
        losses.append(losses_of(load_recipe(small / "r.yaml").stages[0], tmp_path / precomputed))
    assert losses[1] == pytest.approx(losses[0], rel=TOLERANCE)


def test_damage_is_named(small: Path, tiny_model: Path, tmp_path: Path) -> None:
    precompute.precompute(small / "shards", tiny_model, tmp_path / "set")
    (tmp_path / "set" / UNCONDITIONAL).write_bytes(b"something else")
    with pytest.raises(MediaError, match=r"nothing\.safetensors has changed"):
        ShardSet(tmp_path / "set").unconditional()
    shutil.copytree(small / "shards", tmp_path / "shards")
    tar = tmp_path / "shards" / "shard-00000.tar"
    tar.write_bytes(tar.read_bytes()[:-1] + b"x")
    with pytest.raises(MediaError, match=r"shard-00000\.tar has changed"):
        precompute.precompute(tmp_path / "shards", tiny_model, tmp_path / "other")
    with pytest.raises(ValueError, match="name another folder"):
        precompute.precompute(small / "shards", tiny_model, small / "shards")


def test_sizes_that_the_model_does_not_take_are_named(tmp_path: Path) -> None:
    build("wan").save_pretrained(tmp_path / "model")
    write_set(tmp_path / "shards", {"a": (6, 32, 48, "masks")})
    with pytest.raises(ValueError, match="6 frames do not fit this model"):
        precompute.precompute(tmp_path / "shards", tmp_path / "model", tmp_path / "out")
    assert identity_of(build("wan"))["autoencoder"] != identity_of(build("cogvideox"))["autoencoder"]
