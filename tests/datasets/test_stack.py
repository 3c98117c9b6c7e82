"""Clips of several foregrounds: from masks, layers and cut-outs, through shards, to what a model is trained on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn_footage import FRAMES, HEIGHT, WIDTH, save, texture
from full_size import build as build_model
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_recipe import losses_of
from torch import Tensor

from layerflow.cli import run
from layerflow.core.atomic import hash_path
from layerflow.core.compositing import blend_all
from layerflow.core.config import ConfigError
from layerflow.core.layered_video import Foreground, LayeredVideo
from layerflow.core.schema import ALPHA_OF, CLIPS, model_clips, prompt_layers
from layerflow.datasets import FootageRecipe, build, build_shards, find_items
from layerflow.datasets.builder import make_clip, owned, stack_mattes
from layerflow.datasets.encoding import HIDDEN, NEAR, clips_for, coverage, encode_sequence, held, marked, prompts_of
from layerflow.datasets.inspection import read_index, statistics, write_page
from layerflow.datasets.precompute import check_identity
from layerflow.datasets.reader import LATENTS, TEXT, ShardSet
from layerflow.datasets.recipe import SourceRecipe
from layerflow.datasets.scan import Item, stacked
from layerflow.datasets.shards import decode, encode, schema_of, write_shard
from layerflow.media import MediaError
from layerflow.models.layout import Layout
from layerflow.models.model_space import to_model_space
from layerflow.training.batches import ClipBatches
from layerflow.training.recipe import DataRecipe, PhaseRecipe, StageRecipe

COLOURS = {1: (0.9, 0.1, 0.1), 2: (0.1, 0.2, 0.9), 3: (0.1, 0.8, 0.2)}
NAMES = {1: "bird", 2: "cow", 3: "ball"}


def numbers_of(index: int) -> np.ndarray:
    """Return the objects of a frame: a bird above, a larger cow below on the ground, a small ball in a corner."""
    numbers = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    numbers[2:6, 50:56] = 3
    numbers[8:18, 4 + 6 * index : 18 + 6 * index] = 1
    numbers[24:42, 40 - 5 * index : 60 - 5 * index] = 2
    return numbers


def masks_of(*objects: int) -> Tensor:
    """Return masks (F, N, H, W) of objects."""
    frames = [np.stack([numbers_of(index) == number for number in objects]) for index in range(FRAMES)]
    return torch.from_numpy(np.stack(frames)).float()


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    """DAVIS: a video with three objects that do not touch, beside a background."""
    root = tmp_path / "davis"
    wall = texture(HEIGHT, WIDTH)
    for index in range(FRAMES):
        numbers = numbers_of(index)
        frame = wall.clone()
        for number, colour in COLOURS.items():
            frame = torch.where(torch.from_numpy(numbers == number), torch.tensor(colour).view(3, 1, 1), frame)
        save(root / "JPEGImages" / "480p" / "farm-yard" / f"{index:05d}.png", frame)
        path = root / "Annotations" / "480p" / "farm-yard" / f"{index:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(numbers, mode="P")
        picture.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200] + [0] * 756)
        picture.save(path)
    save(tmp_path / "walls" / "wall.png", wall)
    return root


def recipe_of(home: Path, /, **source: Any) -> FootageRecipe:
    """Return a recipe of one source beside `home`, of clips as large and long as the footage."""
    settings = {"kind": "masks", "folder": home.name, "objects": "stack", **source}
    settings |= {"folder": ""} if "foregrounds" in settings else {}
    sources = (SourceRecipe(**settings),)
    return FootageRecipe("test", sources, size=(WIDTH, HEIGHT), frames=FRAMES, dilate=2, folder=str(home.parent))


def mean_colour(clip: Tensor, alpha: Tensor) -> Tensor:
    return (clip * alpha).sum((0, 2, 3)) / alpha.sum()


# --- from masks -------------------------------------------------------------------------------------------


def test_stack_of_masks_has_a_foreground_of_each_of_the_largest_objects(davis: Path) -> None:
    recipe = recipe_of(davis)
    (item,) = find_items(recipe)
    assert (item.id, item.object, item.objects) == ("farm-yard-0", None, (2, 1))  # the cow stands lower
    video = make_clip(item, recipe)
    assert len(video.foregrounds) == 2
    for number, foreground in zip(item.objects, video.foregrounds, strict=True):
        assert torch.equal(foreground.alpha, masks_of(number))  # type: ignore[arg-type]
        colour = mean_colour(foreground.colour, foreground.alpha)  # type: ignore[arg-type]
        assert colour.tolist() == pytest.approx(COLOURS[number], abs=0.01)
    assert video.background is not None
    wall = texture(HEIGHT, WIDTH).expand(FRAMES, -1, -1, -1)
    ball = masks_of(3)
    error = (video.background - wall).abs().mean(1, keepdim=True)
    assert float((error * (1 - ball)).mean()) < 0.01  # both objects are gone
    assert mean_colour(video.background, ball).tolist() == pytest.approx(COLOURS[3], abs=0.02)  # the third is left
    assert float((video.compose().blended - video.blended).abs().mean()) < 0.005  # type: ignore[operator]


def test_most_foregrounds_and_single_objects(davis: Path) -> None:
    (three,) = find_items(recipe_of(davis, most_foregrounds=3))
    assert three.objects == (2, 1, 3)
    recipe = recipe_of(davis, most_foregrounds=1)
    (one,) = find_items(recipe)
    assert one.objects == (2,)
    video = make_clip(one, recipe)
    each = recipe_of(davis, objects="each")
    (same,) = (item for item in find_items(each) if item.object == 2)
    assert video == make_clip(same, each)  # a stack of one is a clip of one foreground
    record, _ = build.make_sample(one, recipe)
    assert record["schema"] == 1
    assert "foregrounds" not in record


def write_masks(folder: Path, *frames: np.ndarray) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{index}.png" for index in range(len(frames))]
    for path, frame in zip(paths, frames, strict=True):
        Image.fromarray(frame.astype(np.uint8)).save(path)
    return paths


def test_depth_order_is_lowest_point_then_area_within_the_crop(tmp_path: Path) -> None:
    frame = np.zeros((40, 80))
    frame[10:30, 20:26] = 4  # equally low as the next, smaller
    frame[10:30, 30:40] = 7
    frame[5:20, 45:60] = 5  # largest, higher
    frame[0:40, 0:15] = 9  # lowest and largest of all, cropped away
    paths = write_masks(tmp_path / "a", frame, np.zeros_like(frame), frame)  # none is shown in the second
    assert stacked(paths, (40, 40), 8) == (7, 4, 5)
    assert stacked(paths, (40, 40), 2) == (7, 5)  # the smallest is dropped before they are ordered
    assert stacked(paths, (80, 40), 1) == (9,)
    tiny = np.zeros((40, 80))
    tiny[0, 40] = 3
    assert stacked(write_masks(tmp_path / "b", tiny), (80, 40), 2) == (3,)  # its clip then fails and is listed
    tiny[20:30, 40:50] = 2
    assert stacked(write_masks(tmp_path / "c", tiny), (80, 40), 2) == (2,)


def test_empty_clips_of_a_stack_fail(davis: Path, tmp_path: Path) -> None:
    for path in (davis / "Annotations" / "480p" / "farm-yard").iterdir():
        Image.fromarray(np.zeros((HEIGHT, WIDTH), dtype=np.uint8), mode="P").save(path)
    index = build_shards(recipe_of(davis), tmp_path / "out", workers=1)
    assert index["clips"] == 0
    assert "shows no object" in index["failed"][0]["error"]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 4))
def test_mattes_side_by_side_become_a_stack_with_the_same_composite(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shares = torch.rand(2, count + 1, 4, 5, generator=generator) ** 3
    shares /= shares.sum(1, keepdim=True)  # the last is that of the background
    colours = torch.rand(count + 1, 2, 3, 4, 5, generator=generator)
    expected = sum(shares[:, [index]] * colours[index] for index in range(count + 1))
    stack = stack_mattes([shares[:, [index]] for index in range(count)])
    composite = blend_all(list(zip(colours, stack, strict=False)), colours[-1])
    assert torch.allclose(composite, expected, atol=1e-5)  # type: ignore[arg-type]
    assert torch.equal(stack[0], shares[:, :1])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 5))
def test_a_pixel_has_one_owner_where_objects_cover_half_of_it(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shares = torch.randint(0, 5, (2, count, 6, 6), generator=generator) / 4
    owners = owned(shares)
    assert torch.equal(owners.sum(1) == 1, shares.sum(1) > 0.5)
    if count == 1:
        assert torch.equal(owners, shares > 0.5)


# --- from layers and cut-outs -----------------------------------------------------------------------------


def test_layered_footage_keeps_all_its_foregrounds(tmp_path: Path) -> None:
    home = tmp_path / "scenes" / "one"
    wall, masks = texture(HEIGHT, WIDTH), masks_of(2, 1)[0]
    for index, name in enumerate(("foreground", "foreground-2")):
        colour = torch.tensor(COLOURS[2 - index]).view(3, 1, 1).expand(3, HEIGHT, WIDTH)
        save(home / f"{name}.png", colour, masks[[index]])
    save(home / "background.png", wall)
    recipe = recipe_of(home.parent, kind="layered", objects="each")
    (item,) = find_items(recipe)
    video = make_clip(item, recipe)
    assert [torch.equal(one.alpha, masks[[index]][None]) for index, one in enumerate(video.foregrounds)] == [True] * 2  # type: ignore[arg-type]
    assert torch.equal(video.compose().blended, video.blended)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["pairs", "copy-paste"])
def test_pasted_cut_outs_make_an_exact_stack(davis: Path, kind: str) -> None:
    recipe = recipe_of(davis, kind=kind, foregrounds="cutouts", backgrounds="walls", count=4, shadow=0.4)
    for number in (1, 2):
        alpha, colour = masks_of(number), torch.tensor(COLOURS[number]).view(3, 1, 1).expand(3, HEIGHT, WIDTH)
        for index in range(FRAMES):
            path = f"{NAMES[number]}.png" if kind == "pairs" else f"{NAMES[number]}/{index:03d}.png"
            save(davis.parent / "cutouts" / path, colour, alpha[index])
    items = find_items(recipe)
    assert len(items) == 4
    for item in items:
        (second,) = item.behind
        assert {item.about, second.about} == {"bird", "cow"}  # two different ones
        assert json.loads(json.dumps(build._origin(item)))["behind"][0]["files"] == second.files
        video = make_clip(item, recipe)
        assert video == make_clip(item, recipe)
        assert len(video.foregrounds) == 2
        assert torch.equal(video.compose().blended, video.blended)  # type: ignore[arg-type]
        assert all(float(one.alpha.max()) > 0.99 for one in video.foregrounds)  # type: ignore[union-attr]
        captions = build.make_sample(item, recipe)[0]["captions"]
        assert captions == {"foreground": item.about, "foreground-2": second.about, "background": "wall"}


def test_pasted_objects_of_masked_videos_make_a_stack(davis: Path) -> None:
    recipe = recipe_of(davis, kind="copy-paste", foregrounds="davis", backgrounds="walls", most_foregrounds=3)
    items = find_items(recipe)
    assert [len(item.behind) for item in items] == [2, 2, 2]
    assert all(sorted([item.object, *(one.object for one in item.behind)]) == [1, 2, 3] for item in items)
    assert len(make_clip(items[0], recipe).foregrounds) == 3


def test_too_few_cut_outs_are_pasted_twice(davis: Path) -> None:
    save(davis.parent / "cutouts" / "bird.png", torch.full((3, HEIGHT, WIDTH), 0.5), masks_of(1)[0])
    recipe = recipe_of(davis, kind="pairs", foregrounds="cutouts", backgrounds="walls")
    (item,) = find_items(recipe)
    assert [one.about for one in (item, *item.behind)] == ["bird", "bird"]
    first, second = make_clip(item, recipe).foregrounds
    assert not torch.equal(first.alpha, second.alpha)  # type: ignore[arg-type]


# --- shards -----------------------------------------------------------------------------------------------


def test_captions_of_a_stack_come_by_object(davis: Path) -> None:
    def captions() -> dict[str, str]:
        recipe = recipe_of(davis)
        (item,) = find_items(recipe)
        return build.make_sample(item, recipe)[0]["captions"]

    assert captions() == {"blended": "farm yard"}  # a name of the footage says which of them it means for none
    objects = {str(number): {"category": name} for number, name in NAMES.items()}
    (davis / "meta.json").write_text(json.dumps({"videos": {"farm-yard": {"objects": objects}}}))
    moved = davis.rename(davis.with_name("moved"))  # files are read once in a process
    davis = moved
    assert captions() == {"foreground": "cow", "foreground-2": "bird"}
    davis = moved.rename(moved.with_name("again"))
    texts = {"1": "a red bird", "foreground": "a cow that walks", "background": "a yard", "3": "a ball"}
    (davis / "captions.json").write_text(json.dumps({"farm-yard": texts}))
    assert captions() == {"foreground": "a cow that walks", "foreground-2": "a red bird", "background": "a yard"}
    recipe = recipe_of(davis, objects="each")
    found = {item.object: build.make_sample(item, recipe)[0]["captions"] for item in find_items(recipe)}
    assert found[1] == {"foreground": "a cow that walks", "background": "a yard"}
    davis = davis.rename(davis.with_name("again2"))
    (davis / "captions.json").write_text(json.dumps({"farm-yard": "a farm"}))
    assert captions() == {"foreground": "cow", "foreground-2": "bird", "blended": "a farm"}


def test_stack_from_footage_to_the_sequence_of_a_model(davis: Path, tmp_path: Path) -> None:
    (tmp_path / "set.yaml").write_text(
        f"size: [{WIDTH}, {HEIGHT}]\nframes: {FRAMES}\nsources:\n"
        "  - {kind: masks, folder: davis, objects: stack}\n  - {kind: masks, folder: davis, objects: each}\n"
    )
    objects = {str(number): {"category": name} for number, name in NAMES.items()}
    (davis / "meta.json").write_text(json.dumps({"videos": {"farm-yard": {"objects": objects}}}))
    out = tmp_path / "out"
    assert run(["data", "build", str(tmp_path / "set.yaml"), "-o", str(out), "--workers", "1"]) == 0
    found = ShardSet(out)
    rows = {row.id: row for row in found.rows}
    assert {row.id: row.foregrounds for row in found.rows}.pop("farm-yard-0") == 2
    sample = found.read(rows["farm-yard-0"])
    assert sample.record["schema"] == 2
    assert sample.record["source"]["objects"] == [2, 1]
    assert sample.captions == {"foreground": "cow", "foreground-2": "bird"}
    assert torch.equal(torch.cat([one.alpha for one in sample.video.foregrounds], 1), masks_of(2, 1))  # type: ignore[misc]

    names = model_clips(2)
    one = found.read(rows["farm-yard-object1-0"])
    clips = {name: torch.stack([clips_for(s.video.clips(), names)[name] for s in (sample, one)]) for name in names}
    sequence = Layout(FRAMES, names).pack(to_model_space(clips))
    assert sequence.shape == (2, 6 * FRAMES, 3, HEIGHT, WIDTH)
    parts = Layout(FRAMES, names).unpack(sequence)
    assert not parts["foreground-2"][1].any()  # transparent: mid-grey
    assert bool((parts["alpha-2"][1] == -1).all())
    near, hidden = marked(coverage(clips), names)
    assert near.shape == hidden.shape == (2, 6, FRAMES, 1, HEIGHT, WIDTH)
    assert torch.equal(hidden[0, names.index("background")], masks_of(2, 1).sum(1, keepdim=True))
    assert prompts_of(sample.captions, names) == ["cow", "", "cow and bird", "bird"]
    assert prompts_of(one.captions, names) == ["bird", "", "bird", ""]


def test_sets_with_stacks_have_their_own_schema(davis: Path, tmp_path: Path) -> None:
    assert build_shards(recipe_of(davis, objects="each"), tmp_path / "each", workers=1)["schema"] == 1
    out = tmp_path / "out"
    assert build_shards(recipe_of(davis), out, workers=1)["schema"] == 2
    assert statistics(out)["masks"]["stacks"] == 1
    page = write_page(out, tmp_path / "page")
    assert "Stacks are clips of several foregrounds" in page.read_text()
    content = json.loads((out / "index.json").read_text())
    (out / "index.json").write_text(json.dumps(content | {"schema": 3}))
    with pytest.raises(MediaError, match="is of schema 3, but 1 to 2 are read here"):
        read_index(out)


def test_shards_of_earlier_versions_stay_up_to_date() -> None:
    source = SourceRecipe("masks", folder="davis")
    item = Item("a", source, {"frames": "/f", "masks": "/m"}, object=1, about="a")
    shard = build.Shard(0, "/out", (item,), FootageRecipe("test", (source,)))
    assert (
        shard.fingerprint == "29257b689d428ee1a1b24900c0008ce8c6d7ba78446c647db35da2a4d52a6cd1"
    )  # as released before there were stacks


def test_damaged_stacks_are_named(davis: Path) -> None:
    recipe = recipe_of(davis)
    record, sample = build.make_sample(find_items(recipe)[0], recipe)
    assert len(decode(sample).video.foregrounds) == 2
    lacking = {name: part for name, part in sample.items() if name != "foreground-2.webp"}
    with pytest.raises(MediaError, match="sample farm-yard-0 is damaged"):
        decode(lacking)
    for count in (0, 9, 10**9, "2", None):
        with pytest.raises(MediaError, match="is damaged"):
            decode({**sample, "json": json.dumps(record | {"foregrounds": count}).encode()})
    with pytest.raises(MediaError, match="is of schema 3, but 1 to 2 are read here"):
        decode({**sample, "json": json.dumps(record | {"schema": 3}).encode()})


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_stack_comes_back_from_a_shard_as_it_went_in(count: int) -> None:
    video = random_stack(count, seed=1, frames=3)
    record = {"schema": 2, "id": "a", "frames": 3, "fps": 8.0, "captions": {}, "foregrounds": count}
    assert decode(encode("a", video, record)).video == video


def write_stacks(folder: Path, frames: int) -> Path:
    """Write shards of clips with one, two and three foregrounds, and a still of two."""
    folder.mkdir()
    samples, records = [], []
    for count, own in ((1, frames), (2, frames), (3, frames), (2, 1)):
        video = random_stack(count, seed=count, frames=own, size=(32, 48)).compose()
        record = {
            "schema": schema_of(count), "id": f"s{count}{own}", "kind": "layered" if count == 3 else "masks",
            "frames": own, "height": 32, "width": 48, "fps": 8.0, "frozen": own == 1, "foregrounds": count,
            "captions": {name: f"a {name}" for name in list(ALPHA_OF)[:count]},
        }  # fmt: skip
        records.append(record)
        samples.append(encode(str(record["id"]), video, record))
    path = folder / "shard-00000.tar"
    write_shard(path, samples)
    path.with_suffix(".json").write_text(json.dumps({"samples": records}))
    shard = {"file": path.name, "bytes": path.stat().st_size, "sha256": hash_path(path), "clips": len(records)}
    (folder / "index.json").write_text(json.dumps({"schema": 2, "shards": [shard], "failed": []}))
    return folder


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    return write_stacks(tmp_path_factory.mktemp("stacks") / "shards", frames=9)


@pytest.mark.parametrize("family", ["wan", "cogvideox"])
@pytest.mark.parametrize("count", [1, 2])
def test_latents_of_a_stack_are_those_of_the_models_clips(
    stacks: Path, tmp_path: Path, family: str, count: int
) -> None:
    pipeline, names = build_model(family), model_clips(count)
    if count > 1:
        pipeline.register_modules(transformer=pipeline.transformer.resized({"clips": names}))
    pipeline.save_pretrained(tmp_path / "model")
    frames = {"wan": 5, "cogvideox": 8}[family]
    words = ["data", "precompute", str(stacks), str(tmp_path / "model"), "-o", str(tmp_path / "ready")]
    assert run([*words, "--frozen", "--frames", str(frames)]) == 0
    found, source = ShardSet(tmp_path / "ready"), ShardSet(stacks)
    layers = prompt_layers(count)
    assert set(found.unconditional()) == set(layers)
    assert [row.foregrounds for row in found.rows] == [1, 2, 3, 2]
    for row in found.rows:
        latents = found.tensors(row, LATENTS)
        assert set(latents) == {*names, NEAR, HIDDEN}
        assert set(found.tensors(row, TEXT)) == set(layers)
        own = held(clips_for(source.read(row).video.clips(), names), frames)
        space = to_model_space({name: clip[None, :frames] for name, clip in own.items()})
        sequence, layout = encode_sequence(pipeline, space)
        assert layout.clips == names
        for name, clip in layout.unpack(sequence).items():
            assert torch.allclose(clip[0], latents[name], atol=1e-5), name
    if count == 2:
        assert read_index(tmp_path / "ready")["schema"] == 2
        with pytest.raises(ConfigError, match="whose order of clips differs"):
            check_identity(build_model(family), [Precomputed(tmp_path / "ready", found.precomputed)])


def stage_of(model: Path, folder: Path, frames: int, **changes: Any) -> StageRecipe:
    source = {"kind": "shards", "folder": str(folder), **changes}
    return StageRecipe(
        "test",
        phases=(PhaseRecipe(3, {frames: 1.0}),),
        data=(DataRecipe(**source),),
        start_from=str(model),
        size=48,
        clip_frames=frames,
        frames_per_batch=3 * frames,
        optimizer="adamw",
        workers=0,
        warmup=1,
        learning_rate=1e-5,
    )


def test_a_model_of_two_foregrounds_has_the_same_losses_on_stacks_and_on_their_latents(tmp_path: Path) -> None:
    pipeline, model = build_model("wan"), tmp_path / "model"
    pipeline.register_modules(transformer=pipeline.transformer.resized({"clips": model_clips(2)}))
    pipeline.save_pretrained(model)
    shards, ready = write_stacks(tmp_path / "shards", frames=5), tmp_path / "ready"
    assert run(["data", "precompute", str(shards), str(model), "-o", str(ready)]) == 0
    kinds = ("masks",)  # of the three foregrounds of the other clip, training on pixels draws two
    encoded = losses_of(stage_of(model, shards, 5, kinds=kinds), tmp_path / "a")
    precomputed = losses_of(stage_of(model, ready, 5, kinds=kinds), tmp_path / "b")
    assert precomputed == pytest.approx(encoded, rel=1e-5)
    assert len(set(precomputed)) == 3


def test_precomputed_text_goes_with_the_nearest_foregrounds(stacks: Path, tiny_model: Path, tmp_path: Path) -> None:
    assert run(["data", "precompute", str(stacks), str(tiny_model), "-o", str(tmp_path / "ready")]) == 0
    nearest = {row.id: ShardSet(stacks).read(row).video.alpha for row in ShardSet(stacks).rows}
    batches = ClipBatches(stage_of(tiny_model, tmp_path / "ready", 1, frozen=True), clips=CLIPS)
    shown = 0
    for step in range(3):
        alphas = batches[step].layout.unpack(batches[step].sequence)["alpha"][:, 0, :1]
        for alpha, prompts in zip((alphas + 1) / 2, batches[step].prompts, strict=True):
            assert prompts[0] in ("a foreground", "")
            frames = torch.cat([clip for clip in nearest.values() if clip is not None])
            assert float((frames - alpha).abs().amax((1, 2, 3)).min()) < 1e-6
            shown += 1
    assert shown >= 6


class Precomputed:
    """A source of training, as far as `check_identity` knows one."""

    has = frozenset({"text", "latents"})

    def __init__(self, folder: Path, precomputed: dict[str, Any] | None) -> None:
        self.recipe, self.precomputed = DataRecipe(kind="shards", folder=str(folder)), precomputed


# --- for a model of more or fewer foregrounds -------------------------------------------------------------


def random_stack(count: int, seed: int, frames: int = 2, size: tuple[int, int] = (8, 10)) -> LayeredVideo:
    generator = torch.Generator().manual_seed(seed)

    def clip(channels: int, least: int = 0) -> Tensor:
        return torch.randint(least, 256, (frames, channels, *size), generator=generator).float() / 255

    stack = [Foreground(clip(3), clip(1, least=1)) for _ in range(count)]
    return LayeredVideo(background=clip(3), blended=clip(3)).replace(foregrounds=stack)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 4), st.integers(1, 4))
def test_clips_for_any_model_have_the_composite_of_the_sample(seed: int, count: int, of_model: int) -> None:
    video = random_stack(count, seed).compose()
    clips = clips_for(video.clips(), model_clips(of_model))
    assert tuple(clips) == model_clips(of_model)
    fitted = LayeredVideo.from_clips(clips)
    assert torch.allclose(fitted.compose().blended, video.blended, atol=1e-6)  # type: ignore[arg-type]
    assert torch.equal(fitted.blended, video.blended)  # type: ignore[arg-type]
    for index in range(of_model):
        colour, alpha = list(ALPHA_OF.items())[index]
        if index < count:
            assert torch.equal(clips[alpha], video.foregrounds[index].alpha)  # type: ignore[arg-type]
        else:
            assert not clips[alpha].any()
            assert bool((clips[colour] == 0.5).all())
    if count == of_model:
        assert all(torch.equal(clips[name], clip) for name, clip in video.clips().items())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 4))
def test_coverage_is_what_hides_the_background(seed: int, count: int) -> None:
    video = random_stack(count, seed)
    black = torch.zeros(2, 3, 8, 10)
    shown = LayeredVideo.from_clips(
        {name: clip if name in ALPHA_OF.values() else black for name, clip in video.clips().items()}
    ).over((1.0, 1.0, 1.0))
    assert torch.allclose(1 - coverage(video.clips()).expand(-1, 3, -1, -1), shown, atol=1e-6)
    if count == 1:
        assert coverage(video.clips()) is video.clips()["alpha"]


def test_prompts_of_one_foreground_and_of_more() -> None:
    captions = {"foreground": "a fox", "foreground-2": "a hen", "background": "a yard"}
    assert prompts_of(captions) == ["a fox", "a yard", "a fox, in front of a yard"]
    assert prompts_of(captions, model_clips(3)) == [
        "a fox",
        "a yard",
        "a fox and a hen, in front of a yard",
        "a hen",
        "",
    ]
    assert prompts_of({**captions, "blended": "a farm"}, model_clips(2))[2] == "a farm"
    assert prompts_of({}, CLIPS) == ["", "", ""]
