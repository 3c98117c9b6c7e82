"""From folders of footage to shards: every kind, restarts, failures, damage, Ray."""

import json
import re
import shutil
import time
from pathlib import Path

import pytest
import torch
from drawn_footage import FRAMES, moving_square
from forked import fork

from layerflow.cli import run
from layerflow.core.config import ConfigError
from layerflow.core.layered_video import LayeredVideo
from layerflow.datasets import FootageRecipe, build, build_shards, find_items, load_footage_recipe
from layerflow.datasets.builder import make_clip, plug_in
from layerflow.datasets.copy_paste import bounds, cast_shadow, harmonise, place
from layerflow.datasets.inspection import read_index, statistics, write_page
from layerflow.datasets.recipe import SourceRecipe
from layerflow.datasets.scan import Item
from layerflow.datasets.shards import Sample, decode, encode, read_shards
from layerflow.media import MediaError

SOURCES = (
    SourceRecipe("masks", folder="davis"),
    SourceRecipe("layered", folder="mulan"),
    SourceRecipe("pairs", foregrounds="cutouts", backgrounds="photos", count=2),
    SourceRecipe("copy-paste", foregrounds="rgba", backgrounds="videos", shadow=0.4),
    SourceRecipe("copy-paste", foregrounds="davis", backgrounds="photos"),
    SourceRecipe("backgrounds", folder="videos"),
)


def recipe_of(footage: Path, *sources: SourceRecipe, **changes: object) -> FootageRecipe:
    settings: dict[str, object] = {"size": (32, 24), "frames": 4, "per_shard": 3, "dilate": 2, **changes}
    return FootageRecipe("test", sources or SOURCES, folder=str(footage), **settings)  # type: ignore[arg-type]


def shards_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("shard-*.tar")}


# --- clips ------------------------------------------------------------------------------------------------


def test_every_kind_of_footage_is_found_and_gives_layers(footage: Path) -> None:
    recipe = recipe_of(footage)
    items = find_items(recipe)
    kinds = sorted(item.source.kind for item in items)
    assert kinds == ["backgrounds", "copy-paste", "copy-paste", "layered", "masks", "pairs", "pairs"]
    assert len({item.id for item in items}) == len(items)
    for item in items:
        video = make_clip(item, recipe)
        frozen = item.source.kind in ("layered", "pairs")
        assert (video.frames, video.height, video.width) == (1 if frozen else 4, 24, 32), item.id
        assert set(video.clips()) == {"foreground", "alpha", "background", "blended"}
        if item.source.kind in ("pairs", "copy-paste", "layered"):
            assert torch.allclose(video.blended, video.replace(blended=None).compose().blended, atol=1e-6)  # type: ignore[arg-type]


def test_a_masked_video_becomes_its_object_and_the_background_behind_it(footage: Path) -> None:
    recipe = recipe_of(footage, SOURCES[0], size=(64, 48), frames=FRAMES)
    (item,) = find_items(recipe)
    video = make_clip(item, recipe)
    colour, masks, background = moving_square()
    assert video.background is not None
    assert torch.equal(video.alpha, masks.float())  # type: ignore[arg-type]
    assert torch.allclose(video.blended, colour, atol=0.01)  # type: ignore[arg-type]
    assert float((video.background - background).abs().mean()) < 0.01
    assert item.about == "red-square"


def test_long_footage_gives_several_clips_and_short_footage_none(footage: Path) -> None:
    clips = find_items(recipe_of(footage, SOURCES[0], frames=2))
    assert sorted(item.start for item in clips) == [0, 2, 4]
    assert [item.start for item in find_items(recipe_of(footage, SOURCES[0], frames=2, stride=3))] == [0]
    (short,) = find_items(recipe_of(footage, SOURCES[0], frames=FRAMES + 1))
    assert "has 6 frames with a mask, fewer than the 7 needed" in short.problem
    (footage / "empty").mkdir()
    with pytest.raises(MediaError, match=r"source 1 \(masks\): no footage of that kind is in empty"):
        find_items(recipe_of(footage, SourceRecipe("masks", folder="empty")))
    with pytest.raises(MediaError, match="there is no such folder"):
        find_items(recipe_of(footage, SourceRecipe("masks", folder="nowhere")))


def test_objects_that_are_pasted_stay_whole_and_exact() -> None:
    video, masks, _ = moving_square()
    front = LayeredVideo(video, masks.float())
    for seed in range(5):
        placed = place(front, 40, 60, 0.8, torch.Generator().manual_seed(seed))
        assert (placed.height, placed.width) == (40, 60)
        assert placed.alpha is not None
        assert float(placed.alpha.max()) > 0.99
        shadowed = cast_shadow(placed, 0.5)
        assert shadowed.alpha is not None
        assert (shadowed.alpha >= placed.alpha).all()
        assert float(shadowed.alpha[placed.alpha == 0].max()) > 0.2
        solid = (placed.alpha == 1).expand(-1, 3, -1, -1)
        assert torch.allclose(shadowed.foreground[solid], placed.foreground[solid])  # type: ignore[index]
    assert cast_shadow(front, 0) is front
    with pytest.raises(ValueError, match="transparent everywhere"):
        place(LayeredVideo(video, torch.zeros_like(masks, dtype=torch.float32)), 40, 60, 0.8, torch.Generator())


def test_a_small_cut_out_is_not_blown_up() -> None:
    video, masks, _ = moving_square(frames=1)  # 14 pixels
    placed = place(LayeredVideo(video, masks.float()), 200, 200, 0.9, torch.Generator().manual_seed(0))
    assert placed.alpha is not None
    assert bounds(placed.alpha)[2] - bounds(placed.alpha)[0] == 28


def test_harmonising_moves_the_mean_as_far_as_it_is_told() -> None:
    colour, alpha = torch.rand(2, 3, 8, 8) * 0.2, torch.ones(2, 1, 8, 8)
    background = torch.rand(2, 3, 8, 8) * 0.4 + 0.5
    assert torch.equal(harmonise(colour, alpha, background, 0), colour)
    moved = harmonise(colour, alpha, background, 0.5).mean()
    assert abs(float(moved) - float(colour.mean() + background.mean()) / 2) < 0.03


def test_captions_come_from_a_file_or_from_names(footage: Path) -> None:
    recipe = recipe_of(footage)
    captions = {item.id: build.make_sample(item, recipe)[0]["captions"] for item in find_items(recipe)}
    assert captions["red-square-object1-0"] == {"foreground": "red square"}
    assert captions["pairs-0-toy_car-beach"] == {"foreground": "toy car", "background": "beach"}
    assert captions["background-meadow"] == {"background": "meadow"}
    (footage / "davis" / "captions.json").write_text('{"red-square": {"foreground": "a square", "blended": "both"}}')
    (footage / "photos" / "captions.json").write_text('{"beach": "a sandy beach"}')
    recipe = recipe_of(footage.rename(footage.with_name("moved")))
    captions = {item.id: build.make_sample(item, recipe)[0]["captions"] for item in find_items(recipe)}
    assert captions["red-square-object1-0"] == {"foreground": "a square", "blended": "both"}
    assert captions["pairs-0-toy_car-beach"]["background"] == "a sandy beach"


def no_background(frames: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
    """An inpainting plug-in."""
    return torch.zeros_like(frames)


def test_plug_ins_are_loaded_by_name(footage: Path) -> None:
    recipe = recipe_of(footage, SOURCES[0], inpainting="tests_plug_in:no_background")
    with pytest.raises(ValueError, match="tests_plug_in:no_background cannot be loaded"):
        build_shards(recipe, footage / "out")
    assert plug_in(f"{__name__}:no_background", {}) is no_background
    recipe = recipe_of(footage, SOURCES[0], inpainting=f"{__name__}:no_background", matting="crude")
    video = make_clip(find_items(recipe)[0], recipe)
    assert not video.background.any()  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="best is not known; choose plain, crude"):
        build_shards(recipe_of(footage, SOURCES[0], matting="best"), footage / "out")


# --- shards -----------------------------------------------------------------------------------------------


def test_a_sample_comes_back_as_it_went_in() -> None:
    generator = torch.Generator().manual_seed(0)
    clips = {
        name: torch.randint(0, 256, (3, channels, 8, 10), generator=generator).float() / 255
        for name, channels in (("foreground", 3), ("alpha", 1), ("background", 3), ("blended", 3))
    }
    clips["background"][1:] = clips["background"][0]  # WebP keeps equal frames once
    clips["alpha"] = clips["alpha"].clamp(min=1 / 255)  # and no colour where alpha is 0
    record = {"schema": 1, "id": "a", "frames": 3, "fps": 12.0, "captions": {"foreground": "x"}}
    sample = decode(encode("a", LayeredVideo(**clips, fps=12.0), record))
    assert sample.captions == {"foreground": "x"}
    for name, clip in sample.video.clips().items():
        assert torch.equal(clip, clips[name]), name


def test_shards_hold_every_clip_and_are_the_same_whoever_builds_them(footage: Path, tmp_path: Path) -> None:
    recipe = recipe_of(footage)
    reports: list[tuple[int, int, int]] = []
    index = build_shards(recipe, tmp_path / "one", workers=1, report=lambda *now: reports.append(now))
    assert reports == [(1, 3, 0), (2, 3, 0), (3, 3, 0)]
    assert index["clips"] == 7
    assert index["failed"] == []
    samples = list(read_shards(sorted((tmp_path / "one").glob("*.tar"))))
    assert [sample.record["id"] for sample in samples] == [item.id for item in find_items(recipe)]
    assert all(isinstance(sample, Sample) and sample.video.height == 24 for sample in samples)
    build_shards(recipe, tmp_path / "two", workers=2)
    assert shards_in(tmp_path / "one") == shards_in(tmp_path / "two")


def test_a_build_goes_on_where_it_was(footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, out = recipe_of(footage), tmp_path / "out"
    build_shards(recipe, out, workers=1)
    whole = shards_in(out)
    (out / "shard-00001.json").unlink()  # as when it was killed before the record was written
    (out / "shard-00002.tar").write_bytes(b"cut short")
    (out / ".0123.partial").mkdir()  # what a killed build had not finished
    (out / ".0123.partial" / "shard-00002.tar").write_bytes(b"cut short")
    made: list[int] = []
    make = build.make_shard
    monkeypatch.setattr(build, "make_shard", lambda shard, outcomes: (made.append(shard.number), make(shard, outcomes)))
    build_shards(recipe, out, workers=1)
    assert made == [1, 2]
    assert shards_in(out) == whole
    build_shards(recipe_of(footage, per_shard=4), out, workers=1)
    assert made == [1, 2, 0, 1]
    assert len(shards_in(out)) == 2  # what a longer build left is gone
    assert not list(out.glob(".*"))


def test_bad_files_are_listed_and_stop_nothing(footage: Path, tmp_path: Path) -> None:
    frames = sorted((footage / "davis" / "JPEGImages" / "480p" / "red-square").iterdir())
    frames[2].write_bytes(b"no picture")
    shutil.copytree(footage / "mulan" / "0001", footage / "mulan" / "0002")
    (footage / "mulan" / "0002" / "foreground.png").write_bytes(frames[0].read_bytes())  # has no alpha
    index = build_shards(recipe_of(footage, *SOURCES[:3]), tmp_path / "out", workers=1)
    assert index["clips"] == 3
    errors = {failure["id"]: failure["error"] for failure in index["failed"]}
    assert set(errors) == {"red-square-object1-0", "0002"}
    assert "has no alpha" in errors["0002"]


def test_a_worker_that_dies_takes_one_clip_with_it(footage: Path, tmp_path: Path) -> None:
    for name in ("deadly", "meadow2", "meadow3", "meadow4"):
        shutil.copytree(footage / "videos" / "meadow", footage / "videos" / name)
    recipe = recipe_of(footage, SOURCES[5], captioning="drawn_footage:deadly_captions")
    reports: list[tuple[int, int, int]] = []
    index = build_shards(recipe, tmp_path / "out", workers=2, report=lambda *now: reports.append(now))
    assert reports[-1] == (2, 2, 1)
    assert index["clips"] == 4
    error = "its process died, perhaps for lack of memory"
    assert index["failed"] == [{"id": "background-deadly", "error": error}]
    ids = [sample.record["id"] for sample in read_shards(sorted((tmp_path / "out").glob("*.tar")))]
    assert ids == [item.id for item in find_items(recipe) if item.about != "deadly"]


def test_an_object_that_is_hardly_there_is_left_out(footage: Path, tmp_path: Path) -> None:
    for path in (footage / "mulan" / "0001").glob("foreground.png"):
        from PIL import Image

        Image.new("RGBA", (64, 48), (255, 0, 0, 0)).save(path)
    index = build_shards(recipe_of(footage, SOURCES[1]), tmp_path / "out", workers=1)
    assert index["clips"] == 0
    assert "covers 0.00% of the frame" in index["failed"][0]["error"]


def test_a_killed_build_leaves_only_whole_shards(footage: Path, tmp_path: Path) -> None:
    (footage / "set.yaml").write_text("per_shard: 1\n" + RECIPE.replace("photos,", "photos, count: 40,"))
    recipe, out = load_footage_recipe(footage / "set.yaml"), tmp_path / "out"
    build_shards(recipe, tmp_path / "whole", workers=1)
    whole = shards_in(tmp_path / "whole")
    words = ["data", "build", str(footage / "set.yaml"), "-o", str(out), "--workers", "1"]
    process = fork(run, words)
    try:
        while process.is_alive() and len(list(out.glob("shard-*.json"))) < 2:
            time.sleep(0.01)
    finally:
        process.kill()
        process.join()
    assert 2 <= len(shards_in(out)) < len(whole)
    assert all(whole[name] == content for name, content in shards_in(out).items())
    build_shards(recipe, out, workers=1)
    assert shards_in(out) == whole


def test_a_cluster_builds_the_same_shards(footage: Path, tmp_path: Path) -> None:
    recipe = recipe_of(footage, *SOURCES[1:3])
    build_shards(recipe, tmp_path / "here", workers=1)
    build_shards(recipe, tmp_path / "there", ray="local", workers=2)
    assert shards_in(tmp_path / "here") == shards_in(tmp_path / "there")


# --- looking at it ----------------------------------------------------------------------------------------


def test_damage_is_found_and_named(footage: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build_shards(recipe_of(footage, SOURCES[1]), out, workers=1)
    assert read_index(out)["clips"] == 1
    shard = out / "shard-00000.tar"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(MediaError, match=r"shard-00000.tar is missing or has changed"):
        read_index(out)
    (out / "index.json").write_text("{")
    with pytest.raises(MediaError, match="is damaged"):
        read_index(out)
    with pytest.raises(MediaError, match="holds no index"):
        read_index(tmp_path)
    with pytest.raises(MediaError, match="sample a is damaged"):
        decode({"__key__": "a", "json": b"{}"})


def test_the_page_shows_numbers_and_samples(footage: Path, tmp_path: Path) -> None:
    (footage / "mulan" / "captions.json").write_text(json.dumps({"0001": "<b>a square</b>"}))
    build_shards(recipe_of(footage), tmp_path / "out", workers=1)
    numbers = statistics(tmp_path / "out")
    assert numbers["pairs"]["clips"] == numbers["pairs"]["frozen"] == 2
    assert numbers["masks"]["change"] > 0
    assert 0 < numbers["masks"]["coverage"] < 0.5
    assert numbers["backgrounds"]["coverage"] == 0
    page = write_page(tmp_path / "out", tmp_path / "page")
    text = page.read_text()
    assert "&lt;b&gt;a square&lt;/b&gt;" in text
    assert len(list(page.parent.glob("*.webp"))) == 7


# --- recipes and the command ------------------------------------------------------------------------------

RECIPE = """
size: [32, 24]
frames: 4
sources:
  - {kind: masks, folder: davis}
  - {kind: pairs, foregrounds: cutouts, backgrounds: photos, share: [0.4, 0.6]}
"""


def test_the_command_builds_and_inspects(footage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (footage / "set.yaml").write_text(RECIPE)
    out = tmp_path / "out"
    assert run(["data", "build", str(footage / "set.yaml"), "-o", str(out), "--workers", "1"]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == str(out / "index.json")
    assert "2 clips (1 masks, 1 pairs) in 1 shards; 0 failed" in captured.err
    assert re.search(r"^cores busy \d+%$", captured.err, re.MULTILINE)
    assert run(["data", "inspect", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out / "page" / "index.html")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sources: []", "sources is empty, but must list at least one"),
        ("sources: [{kind: films, folder: a}]", "kind 'films' is not known"),
        ("sources: [{kind: masks}]", "a source of kind masks needs folder"),
        ("sources: [{kind: pairs, foregrounds: a}]", "needs backgrounds"),
        ("sources: [{kind: masks, folder: a, share: [0.9, 0.1]}]", "share"),
        ("sources: [{kind: masks, folder: a, objects: some}]", "must be each, all or stack"),
        ("sources: [{kind: masks, folder: a, most_foregrounds: 0}]", "must be from 1 to 8"),
        ("sources: [{kind: masks, folder: a, most_foregrounds: 9}]", "must be from 1 to 8"),
        ("size: [64]\nsources: [{kind: masks, folder: a}]", "expected a list of 2"),
        ("size: [64, 8]\nsources: [{kind: masks, folder: a}]", "at least 16 each way"),
        ("frames: 0\nsources: [{kind: masks, folder: a}]", "frames is 0"),
        ("sources: {kind: masks}", "expected a list"),
        ("folder: /\nsources: [{kind: masks, folder: a}]", "unknown key 'folder'"),
    ],
)
def test_recipes_that_cannot_be_followed_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "set.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_footage_recipe(tmp_path / "set.yaml")


def test_a_cluster_that_is_not_there_is_a_users_mistake(
    footage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:  # the real one tries for minutes
        raise ConnectionError("nobody there")

    monkeypatch.setattr("ray.init", refuse)
    (footage / "set.yaml").write_text(RECIPE)
    words = ["data", "build", str(footage / "set.yaml"), "-o", str(tmp_path / "out"), "--ray", "nowhere:1"]
    assert run(words) == 2
    assert "--ray nowhere:1: no cluster could be reached there (nobody there)" in capsys.readouterr().err


def test_items_are_whole_numbers_and_texts(footage: Path) -> None:
    """So that any process or machine makes the same clip of one."""
    for item in find_items(recipe_of(footage)):
        assert isinstance(item, Item)
        assert json.loads(json.dumps(item.files)) == item.files
