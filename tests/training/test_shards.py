"""Batches from shards: rounds, buckets by size and length, any number of processes."""

import dataclasses
import pickle
from collections import Counter
from pathlib import Path

import pytest
import torch
from drawn_shards import drawn_video, write_set

from layerflow.core.config import ConfigError
from layerflow.core.schema import CLIPS, LAYERS
from layerflow.datasets.reader import ShardSet
from layerflow.media import MediaError
from layerflow.training.batches import Batch, ClipBatches
from layerflow.training.card import stage_card
from layerflow.training.recipe import DataRecipe, PhaseRecipe, StageRecipe, load_recipe

CLIPS_IN_SET = {
    **{f"video{i}": (4, 32, 32, "copy-paste") for i in range(5)},
    **{f"still{i}": (1, 32, 32, "pairs") for i in range(3)},
    **{f"wide{i}": (4, 32, 64, "masks") for i in range(2)},
    "short": (2, 32, 32, "masks"),
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("sets") / "shards", CLIPS_IN_SET)


def recipe_of(shards: Path, **changes: object) -> StageRecipe:
    settings: dict[str, object] = {
        "phases": (PhaseRecipe(40, {4: 1.0}),), "data": (DataRecipe(kind="shards", folder=str(shards)),), "size": 32,
        "clip_frames": 4, "frames_per_batch": 16, "prompt_dropout": 0.0, "layer_dropout": 0.0, **changes,
    }  # fmt: skip
    return StageRecipe("test", **settings)  # type: ignore[arg-type]


def names(batch: Batch) -> list[str]:
    return [prompts[LAYERS.index("foreground")].removeprefix("square ") for prompts in batch.prompts]


def test_samples_are_read_by_index(shards: Path) -> None:
    found = ShardSet(shards)
    assert [row.id for row in found.rows] == list(CLIPS_IN_SET)
    for place in (7, 0, 3):
        row = found.rows[place]
        video, (frames, height, width, _) = found.read(row).video, CLIPS_IN_SET[row.id]
        expected = drawn_video(place, frames, height, width)
        assert torch.equal(video.alpha, expected.alpha)  # type: ignore[arg-type]
        assert torch.allclose(video.blended, expected.blended, atol=1 / 255)  # type: ignore[arg-type]


def test_each_round_has_every_clip_once(shards: Path) -> None:
    recipe = recipe_of(shards, data=(DataRecipe(kind="shards", folder=str(shards), kinds=("copy-paste",)),))
    source = ClipBatches(recipe)
    seen = [name for step in range(5) for name in names(source[step])]  # 4 samples each of 5 clips: 4 rounds
    rounds = [seen[i : i + 5] for i in range(0, 20, 5)]
    assert all(sorted(one) == [f"video{i}" for i in range(5)] for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1


def test_batches_are_buckets_by_size_and_length(shards: Path) -> None:
    source = ClipBatches(recipe_of(shards, phases=(PhaseRecipe(60, {2: 0.5, 4: 0.5}),)))
    shapes: Counter[tuple[int, int, int]] = Counter()
    for number in range(60):
        step = source.step(number)
        shapes[step.frames, *step.size] += 1
        assert len(step.picks) == 16 // step.frames // (step.size[1] // 32)  # twice as wide, half as many
        batch = source[number] if number < 12 else None
        if batch is not None:
            assert batch.sequence.shape[-2:] == step.size
            assert "short" not in names(batch) or step.frames == 2
            assert {n.startswith("wide") for n in names(batch)} == {step.size == (32, 64)}
    assert set(shapes) == {(f, 32, w) for f in (2, 4) for w in (32, 64)}
    # Sizes are drawn by how many clips there are: 8 of 10 that show 4 frames are narrow.
    assert shapes[4, 32, 32] > shapes[4, 32, 64]


def test_stills_are_held_and_have_their_adapters(shards: Path) -> None:
    recipe = recipe_of(
        shards,
        data=(
            DataRecipe(kind="shards", folder=str(shards), kinds=("pairs",)),
            DataRecipe(kind="shards", folder=str(shards), kinds=("copy-paste",)),
        ),
    )
    source, mixed = ClipBatches(recipe), 0
    for number in range(6):
        batch = source[number]
        stills = torch.tensor([name.startswith("still") for name in names(batch)])
        assert torch.equal(batch.adapters["motion"], stills)
        assert bool(batch.adapters["content"].all())
        alpha = batch.sequence[:, batch.layout.clip_slice("alpha")]
        assert torch.equal((alpha.diff(dim=1) == 0).flatten(1).all(1), stills)
        mixed += bool(stills.any() and not stills.all())
    assert mixed


@pytest.mark.parametrize("processes", [2, 4])
def test_shares_of_processes_form_the_batch(shards: Path, processes: int) -> None:
    recipe = recipe_of(shards, batch_multiple=4, frames_per_batch=32)
    whole = ClipBatches(recipe)
    for number in (0, 5):
        batch, shares = whole[number], [ClipBatches(recipe, rank, processes)[number] for rank in range(processes)]
        for name in ("sequence", "given", "positions", "weight"):
            assert torch.equal(torch.cat([getattr(share, name) for share in shares]), getattr(batch, name))
        assert [text for share in shares for text in share.prompts] == batch.prompts
        assert [share.first for share in shares] == [i * batch.size // processes for i in range(processes)]


def test_batch_is_the_same_in_another_process(shards: Path) -> None:
    recipe = recipe_of(shards)
    source = ClipBatches(recipe)
    for number in range(8):
        source[number]
    again = pickle.loads(pickle.dumps(ClipBatches(recipe)))
    assert torch.equal(again[7].sequence, source[7].sequence)
    assert again[7].prompts == source[7].prompts
    other = ClipBatches(dataclasses.replace(recipe, seed=1))
    assert any(names(other[number]) != names(source[number]) for number in range(4))


def test_long_clips_are_cut_to_consecutive_frames(shards: Path) -> None:
    recipe = recipe_of(shards, clip_frames=2, phases=(PhaseRecipe(4, {2: 1.0}),))
    batch = ClipBatches(recipe, scattered=False)[0]
    assert batch.positions.tolist() == [[0, 1]] * len(batch.tasks)
    alpha = batch.sequence[:, batch.layout.clip_slice("alpha")]
    assert sorted(CLIPS) == sorted(batch.layout.clips)
    assert alpha.shape[1] == 2


def test_mistakes_in_data_are_refused(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be shared evenly by 3 processes; set batch_multiple: 3"):
        ClipBatches(recipe_of(shards), 0, 3)
    with pytest.raises(ConfigError, match="holds no clips of kind layered"):
        ClipBatches(recipe_of(shards, data=(DataRecipe(kind="shards", folder=str(shards), kinds=("layered",)),)))
    with pytest.raises(MediaError, match=r"index\.json is missing"):
        ClipBatches(recipe_of(tmp_path))
    long = recipe_of(
        shards,
        clip_frames=8,
        phases=(PhaseRecipe(1, {8: 1.0}),),
        data=(DataRecipe(kind="shards", folder=str(shards), kinds=("copy-paste",)),),
    )
    with pytest.raises(ConfigError, match="no source of data has clips of 8 frames"):
        ClipBatches(long)
    with pytest.raises(ConfigError, match="shards need a folder"):
        DataRecipe(kind="shards")


def test_damaged_shards_are_refused(shards: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in shards.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    tar = copy / "shard-00000.tar"
    whole = tar.read_bytes()
    tar.write_bytes(b"\0" * len(whole))
    found = ShardSet(copy)
    with pytest.raises(MediaError, match=r"shard-00000\.tar: sample video0 cannot be read"):
        found.read(found.rows[0])
    tar.write_bytes(whole[:-512])
    with pytest.raises(MediaError, match="differ in its length"):
        ShardSet(copy)


def test_shard_folders_are_relative_to_the_recipe(shards: Path) -> None:
    path = shards.parent / "recipe.yaml"
    data = f"data: [{{kind: shards, folder: {shards.name}}}]"
    path.write_text("\n".join(["size: 32", "clip_frames: 4", "phases: [{steps: 1, frames: {4: 1.0}}]", data]))
    assert Path(load_recipe(path).stages[0].data[0].folder) == shards
    assert len(ClipBatches(load_recipe(path).stages[0])[0].tasks) == 8


def test_card_counts_samples(shards: Path) -> None:
    recipe = recipe_of(shards, stage="content")
    card = stage_card(recipe, ClipBatches(recipe))
    assert "the content adapter, 40 steps" in card
    assert f"| shards {shards.name}, every kind |" in card
    assert "| 10 |" in card  # different clips: all but the short one
    assert "| 4 | 64x32 |" in card
    assert "motion on for" in card
