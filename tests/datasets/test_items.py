"""What is found in footage of others: their layouts, masks, captions and lengths, and what is broken in them."""

import json
from pathlib import Path

import pytest
import torch
from drawn_footage import FRAMES, moving_square, save, save_mask
from PIL import Image

from layerflow.datasets import FootageRecipe, build_shards, find_items
from layerflow.datasets.builder import make_clip, metadata_captions
from layerflow.datasets.recipe import SourceRecipe
from layerflow.datasets.scan import length, read_mask
from layerflow.media import write_video


def recipe_of(folder: Path, kind: str = "masks", frames: int = 3, **changes: object) -> FootageRecipe:
    source = SourceRecipe(kind, **{"folder": ".", **changes.pop("source", {})})  # type: ignore[arg-type, dict-item]
    settings = {"size": (32, 24), **changes}
    return FootageRecipe("test", (source,), frames=frames, folder=str(folder), **settings)  # type: ignore[arg-type]


@pytest.fixture
def vos(tmp_path: Path) -> Path:
    """YouTube-VOS: no folder of a resolution, a mask for every second frame, and an object that appears late."""
    root = tmp_path / "train"
    video, masks, _ = moving_square(frames=12, step=3)
    for index in range(12):
        save(root / "JPEGImages" / "0a1b" / f"{index:05d}.png", video[index])
        if index % 2 == 0:
            shown = masks[index].int() + 2 * masks[index].roll(16, 1).int() * (index >= 6)
            path = root / "Annotations" / "0a1b" / f"{index:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(shown[0].byte().numpy()).save(path)  # grey, and as dark as the numbers are
    objects = {"1": {"category": "red panda"}, "2": {"category": "dog"}, "3": {"category": "dog"}}
    (root / "meta.json").write_text(json.dumps({"videos": {"0a1b": {"objects": objects}}}))
    return root


def test_a_mask_that_cannot_be_read_is_a_failure_and_not_the_end(footage: Path, tmp_path: Path) -> None:
    for kind in ("JPEGImages", "Annotations"):
        home = footage / "davis" / kind / "480p"
        (home / "broken").mkdir()
        for path in (home / "red-square").iterdir():
            (home / "broken" / path.name).write_bytes(path.read_bytes())
    for path in (footage / "davis" / "Annotations" / "480p" / "broken").iterdir():
        path.write_bytes(path.read_bytes()[:-40])
    index = build_shards(recipe_of(footage / "davis"), tmp_path / "out", workers=1)
    assert index["clips"] == 2
    (failure,) = index["failed"]
    assert failure["id"] == "broken"
    assert failure["error"]
    pasted = recipe_of(
        footage, "copy-paste", source={"folder": "", "foregrounds": "davis", "backgrounds": "photos", "count": 2}
    )
    assert sorted(bool(item.problem) for item in find_items(pasted)) == [False, False, True]


def test_objects_that_appear_late_are_found_where_they_are(vos: Path) -> None:
    found = {(item.start, item.object) for item in find_items(recipe_of(vos))}
    assert found == {(0, 1), (3, 1), (3, 2)}
    assert {(item.start, item.object) for item in find_items(recipe_of(vos, frames=6))} == {(0, 1), (0, 2)}
    assert set(read_mask(vos / "Annotations" / "0a1b" / "00006.png").flatten().tolist()) == {0, 1, 2}


def test_of_sparse_masks_only_frames_that_have_one_are_taken(vos: Path) -> None:
    recipe = recipe_of(vos, frames=3)
    item = next(item for item in find_items(recipe) if item.start == 0)
    video = make_clip(item, recipe)
    assert video.fps == 12  # of 24, for every second frame has a mask
    colour, _, _ = moving_square(frames=12, step=3)
    recipe = recipe_of(vos, frames=3, stride=2, size=(64, 48))
    (item,) = {item.start: item for item in find_items(recipe)}.values()
    video = make_clip(item, recipe)
    assert video.fps == 6
    assert video.blended is not None
    assert torch.allclose(video.blended, colour[0:12:4], atol=0.01)


def test_no_clip_jumps_over_masks_that_are_missing(footage: Path) -> None:
    (footage / "davis" / "Annotations" / "480p" / "red-square" / "00001.png").unlink()
    recipe = recipe_of(footage / "davis", frames=4, size=(64, 48))
    (item,) = find_items(recipe)
    video = make_clip(item, recipe)
    colour, _, _ = moving_square()
    assert video.blended is not None
    assert torch.allclose(video.blended, colour[2:6], atol=0.01)
    assert video.fps == 24


def test_meta_json_names_objects_that_captions_json_does_not(vos: Path) -> None:
    recipe = recipe_of(vos)
    items = find_items(recipe)
    video = make_clip(items[0], recipe)
    captions = {(item.start, item.object): metadata_captions(recipe, item, video) for item in items}
    assert captions[0, 1] == {"foreground": "red panda"}
    assert captions[3, 2] == {"foreground": "dog"}
    recipe = recipe_of(vos, source={"objects": "all"})
    assert metadata_captions(recipe, find_items(recipe)[0], video) == {"foreground": "red panda and dog"}
    (vos / "captions.json").write_text('{"0a1b": "a panda that climbs"}')
    recipe = recipe_of(vos.rename(vos.with_name("moved")))
    assert metadata_captions(recipe, find_items(recipe)[0], video) == {"foreground": "a panda that climbs"}


def test_a_video_that_shows_no_object_is_a_failure(tmp_path: Path) -> None:
    video, masks, _ = moving_square()
    for index in range(FRAMES):
        save(tmp_path / "JPEGImages" / "empty" / f"{index:05d}.png", video[index])
        save_mask(tmp_path / "Annotations" / "empty" / f"{index:05d}.png", masks[index] & False)
    (item,) = find_items(recipe_of(tmp_path))
    assert "shows no object" in item.problem
    for path in (tmp_path / "Annotations" / "empty").iterdir():
        path.rename(path.with_name(f"other{path.name}"))
    (item,) = find_items(recipe_of(tmp_path))
    assert "has no mask for any frame" in item.problem


def test_long_videos_of_every_kind_give_several_clips_at_the_rate_of_their_stride(footage: Path) -> None:
    video, masks, background = moving_square(frames=9, step=3, pan=2)
    write_video(footage / "films" / "meadow.mp4", background, None, 10.0)
    write_video(footage / "layers" / "one" / "foreground.webm", video, masks.float(), 10.0)
    write_video(footage / "layers" / "one" / "background.mp4", background, None, 10.0)
    assert length(footage / "films" / "meadow.mp4") == 9
    assert length(footage / "videos" / "meadow") == FRAMES
    for kind, source in (
        ("backgrounds", {"folder": "films"}),
        ("layered", {"folder": "layers"}),
        ("copy-paste", {"folder": "", "foregrounds": "layers/one", "backgrounds": "photos"}),
    ):
        recipe = recipe_of(footage, kind, frames=2, stride=2, source=source)
        items = [item for item in find_items(recipe) if "background.mp4" not in item.files.get("foreground", "")]
        assert sorted(item.start for item in items) == [0, 3, 6], kind
        assert len({item.id for item in items}) == 3
        clips = {item.start: make_clip(item, recipe) for item in items}
        assert {(clip.frames, clip.fps) for clip in clips.values()} == {(2, 5.0)}, kind
        assert not torch.equal(clips[0].blended, clips[6].blended)  # type: ignore[arg-type]


def test_a_video_too_short_is_a_failure(footage: Path, tmp_path: Path) -> None:
    recipe = recipe_of(footage, "backgrounds", frames=FRAMES + 1, source={"folder": "videos"})
    index = build_shards(recipe, tmp_path / "out", workers=1)
    assert [failure["id"] for failure in index["failed"]] == ["background-meadow"]
    pasted = {"folder": "", "foregrounds": "davis", "backgrounds": "photos"}
    (item,) = find_items(recipe_of(footage, "copy-paste", frames=FRAMES + 1, source=pasted))
    assert "fewer than the 7 needed" in item.problem
