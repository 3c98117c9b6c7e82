"""Scenes of the drawn world with the art of an atlas, and atlases as sources of training clips."""

import hashlib
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from small_atlas import small_atlas, write_atlas
from tiny_recipe import TINY, losses_of

from layerflow.core.compositing import blend, blend_all
from layerflow.core.errors import UserError
from layerflow.core.schema import ALPHA_OF, BACKGROUND, BLENDED, CLIPS, FOREGROUND
from layerflow.mini.data import CompositeScenes, DrawnScenes
from layerflow.mini.world import MOTIONS, SPLITS, Scene, SceneSource, Variations, captions
from layerflow.mini.world.art_captions import ArtWriter
from layerflow.mini.world.art_objects import LOOP, ArtObject, ArtPainter, concept_of, is_shown
from layerflow.mini.world.art_scenes import ArtSceneSource
from layerflow.mini.world.atlas import STYLES, Atlas
from layerflow.mini.world.motions import BASE_WIDTH, UNITS
from layerflow.mini.world.objects import OBJECTS
from layerflow.mini.world.scenes import motion_params
from layerflow.training.recipe import StageRecipe, load_recipe
from layerflow.training.sources import Query, open_sources

VARIED = Variations(see_through=0.3, company=0.3, camera=0.3, cast=0.3, free_words=0.3, collages=0.3)


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return small_atlas()


def same(one: Scene, other: Scene) -> bool:
    return one.captions == other.captions and all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in CLIPS
    )


def test_art_scenes_are_deterministic(atlas: Atlas) -> None:
    one, other = (ArtSceneSource(atlas, size=48, frames=5, variations=VARIED) for _ in range(2))
    assert all(same(one.scene(index, 3), other.scene(index, 3)) for index in range(20))
    assert not same(one.scene(0, 3), one.scene(1, 3))


def test_art_scene_is_composed_exactly(atlas: Atlas) -> None:
    source = ArtSceneSource(atlas, size=48, frames=4, variations=replace(VARIED, cast=0.0))
    for index in range(20):
        scene = source.scene(index, 3)
        assert torch.equal(scene.blended, blend(scene.foreground, scene.alpha, scene.background))
        assert scene.background.shape == scene.foreground.shape == (4, 3, 48, 48)
        for name in CLIPS:
            assert 0 <= getattr(scene, name).min() <= getattr(scene, name).max() <= 1
        assert float(scene.alpha.amax()) > 0.3


def test_some_frames_of_an_art_scene(atlas: Atlas) -> None:
    source = ArtSceneSource(atlas, size=48, frames=6, variations=VARIED)
    for index in range(30):
        whole = source.scene(index, 3)
        for frames in ([4], [0, 3, 5]):
            part = source.scene(index, 3, frame_indices=frames)
            for name in CLIPS:
                torch.testing.assert_close(getattr(part, name), getattr(whole, name)[frames], rtol=0, atol=1e-6)
        assert torch.equal(whole.alpha[2:3], source.scene(index, 3, frame_indices=[2]).alpha)


@pytest.mark.parametrize("motion", MOTIONS)
def test_art_is_mirrored_where_it_moves_right(atlas: Atlas, motion: str) -> None:
    source = ArtSceneSource(atlas, size=64, frames=5)
    index = next(index for index in range(50) if source.spec(index, 3).object.name == "fox")
    spec = replace(source.spec(index, 3), motion=motion, place="centre", colour=None)
    entry = spec.object
    assert isinstance(entry, ArtObject)
    alpha = source.render(spec).alpha.numpy()
    paint = ArtPainter(atlas.phases(entry.sprite), entry.start, None, motion == "moving right")
    for frame in range(5):
        x, y, scale, angle = MOTIONS[motion](frame / 4, motion_params(spec))
        unit = 64 / UNITS
        drawn = paint(frame, 64, x * unit, y * unit, scale * BASE_WIDTH * unit, angle)
        assert np.array_equal(alpha[frame, 0], drawn[..., 3])


def test_mirrored_painter(atlas: Atlas) -> None:
    phases = atlas.phases(atlas.sprites[1])
    left, right = (ArtPainter(phases, 3, None, mirrored)(2, 64, 32, 32, 64, 0) for mirrored in (False, True))
    np.testing.assert_allclose(right, left[:, ::-1], atol=2 / 255)
    assert np.abs(right - left).max() > 0.5


def test_phases_advance_with_the_clip(atlas: Atlas) -> None:
    """The discs of the small atlas move to the right from phase to phase, of which a loop has eight."""
    phases = atlas.phases(atlas.sprites[1])

    def centre(start: int, frame: int) -> float:
        alpha = ArtPainter(phases, start, None, False)(frame, 128, 64, 64, 128, 0)[..., 3]
        return float((alpha.sum(0) * (np.arange(128) + 0.5)).sum() / alpha.sum())

    for frame in (0, 3, 7, 22, 23):
        assert centre(0, frame) == pytest.approx(50 + 3 * (frame * 8 // LOOP), abs=0.1)
    assert centre(5, 4) == centre(0, 9) == centre(20, 13)


def test_tint_is_the_same_at_all_phases() -> None:
    dark, light = np.full((128, 128, 4), 60, np.uint8), np.full((128, 128, 4), 200, np.uint8)
    dark[..., 3] = light[..., 3] = 255
    paint = ArtPainter(np.stack([dark, light]), 0, "red", False)
    first, second = paint(0, 64, 32, 32, 40, 0), paint(LOOP // 2, 64, 32, 32, 40, 0)
    assert first[32, 32, :3].sum() < second[32, 32, :3].sum() - 0.3
    assert first[32, 32, 0] > 1.5 * first[32, 32, 2]


def test_held_out_art_is_never_in_train(atlas: Atlas) -> None:
    kept_back = next(concept_of(spec) for spec in OBJECTS if spec.held_out)
    sprites = list(atlas.sprites)
    sprites[0] = replace(sprites[0], concept=kept_back)
    atlas = replace(atlas, sprites=tuple(sprites))
    seen: dict[str, tuple[set[int], set[int]]] = {}
    for split in ("train", "held_out_objects"):
        source = ArtSceneSource(atlas, split, 32, 2, replace(VARIED, company=0.5))  # type: ignore[arg-type]
        specs = [source.spec(index, 3) for index in range(300)]
        objects = [spec.object for spec in specs] + [one.object for spec in specs for one in spec.company]
        assert all(isinstance(entry, ArtObject) and entry.held_out == (split != "train") for entry in objects)
        numbers = {entry.sprite.number for entry in objects if isinstance(entry, ArtObject)}
        seen[split] = numbers, {spec.backdrop.number for spec in specs if spec.backdrop}
    companions = [(spec.object, one.object) for spec in specs for one in spec.company]
    assert all(first.sprite.concept != other.sprite.concept for first, other in companions)  # type: ignore[attr-defined]
    assert seen["train"] == ({1, 2, 3, 4, 5, 6, 7}, {2, 3, 4, 5, 7, 8})  # 0 is held back by the drawn world
    assert seen["held_out_objects"] == ({8, 9, 10, 11}, {0, 1, 6})
    assert [is_shown(sprite) for sprite in atlas.sprites] == [number in range(1, 8) for number in range(12)]


def test_shares_of_art(atlas: Atlas) -> None:
    source = ArtSceneSource(atlas, size=32, frames=2)
    specs = [source.spec(index, 2) for index in range(1500)]
    moving = [spec.motion for spec in specs if isinstance(spec.object, ArtObject) and spec.object.sprite.moves]
    assert len(moving) / len(specs) == pytest.approx(0.5, abs=0.04)
    shares = {name: count / len(moving) for name, count in Counter(moving).items()}
    assert shares["still"] == pytest.approx(0.45, abs=0.05)
    assert shares["moving left"] + shares["moving right"] == pytest.approx(0.35, abs=0.05)
    assert sum(spec.backdrop is not None for spec in specs) / len(specs) == pytest.approx(0.65, abs=0.04)
    assert sum(spec.colour is not None for spec in specs) / len(specs) == pytest.approx(0.12, abs=0.03)
    assert {spec.backdrop.kind for spec in specs if spec.backdrop} == {"photograph", "panorama", "film"}


def test_names_that_tell_left_from_right_are_not_mirrored(atlas: Atlas) -> None:
    atlas = replace(atlas, sprites=tuple(replace(one, name="hand pointing left") for one in atlas.sprites))
    motions = {ArtSceneSource(atlas, size=32, frames=2).spec(index, 4).motion for index in range(100)}
    assert "moving left" in motions
    assert "moving right" not in motions


def test_film_frames_advance_with_the_clip(atlas: Atlas) -> None:
    source = ArtSceneSource(atlas, size=32, frames=8)
    specs = [source.spec(index, 3) for index in range(100)]
    film = next(spec for spec in specs if spec.backdrop and spec.backdrop.kind == "film")
    behind = source.render(film).background
    assert all(not torch.equal(one, other) for one, other in pairwise(behind))
    photograph = next(spec for spec in specs if spec.backdrop and spec.backdrop.kind == "photograph")
    behind = source.render(photograph).background
    assert torch.equal(behind[0], behind[-1])
    moved = source.render(replace(photograph, camera="panning right")).background
    assert not torch.equal(moved[0], moved[-1])


def test_captions_name_art_style_and_verb(atlas: Atlas) -> None:
    source = ArtSceneSource(atlas, size=32, frames=2)
    texts: list[tuple[ArtObject, str, dict[str, str]]] = []
    for index in range(400):
        spec, written = source.spec(index, 3), source.prompts(index, 3)
        assert isinstance(spec.object, ArtObject)
        texts.append((spec.object, spec.motion, written))
        for layer in (FOREGROUND, BLENDED):
            assert any(noun in written[layer] for noun in spec.object.nouns)
        if spec.backdrop:
            assert spec.backdrop.caption in written[BACKGROUND]
            assert spec.backdrop.caption in written[BLENDED]
    foxes = [text[FOREGROUND] for entry, _, text in texts if entry.sprite.moves]
    assert sum("walking" in text for text in foxes) / len(foxes) == pytest.approx(0.6, abs=0.09)
    assert not any("walking" in text[FOREGROUND] for entry, _, text in texts if not entry.sprite.moves)
    styled = sum(any(phrase in text[FOREGROUND] for phrase in STYLES["flat"]) for _, _, text in texts)
    assert styled / len(texts) == pytest.approx(0.35, abs=0.07)
    going_right = [text[FOREGROUND] for entry, motion, text in texts if motion == "moving right" and entry.sprite.moves]
    assert all("right" in text for text in going_right)
    assert any("fox walking to the right" in text for text in going_right)


@pytest.mark.parametrize(
    ("name", "verb", "expected"),
    [
        ("grapes", "", {"grapes are rising", "grapes, rising", "grapes rising"}),
        ("woman swimming", "", {"a woman swimming, rising", "a woman swimming is rising"}),
        ("bird", "flying", {"a bird flying upwards", "a bird rising", "a bird is flying and rising"}),
        ("clown", "laughing", {"a clown laughing and rising", "a clown is laughing, rising"}),
        ("cloud rising", "rising", {"a cloud rising, rising"}),
    ],
)
def test_wording_of_actions(atlas: Atlas, name: str, verb: str, expected: set[str]) -> None:
    source = ArtSceneSource(atlas, size=32, frames=2)
    sprite = replace(atlas.sprites[1], name=name, verb=verb, style="none")
    spec = source.spec(0, 3)
    assert isinstance(spec.object, ArtObject)
    entry = replace(spec.object, name=name, nouns=(name,), sprite=sprite)
    spec = replace(spec, object=entry, motion="rising", place="centre", colour=None)
    texts = {captions(replace(spec, seed=seed), ArtWriter)[FOREGROUND] for seed in range(3000)}
    assert expected <= texts
    assert not any("grapes is" in text or "a grapes" in text or "swimming rising" in text for text in texts)


def test_words_that_name_other_sprites_are_left_out(atlas: Atlas) -> None:
    sprites = [replace(one, words=("chair", "seat")) if one.name == "fox" else one for one in atlas.sprites]
    source = ArtSceneSource(replace(atlas, sprites=tuple(sprites)), size=32, frames=2)
    nouns = {source.spec(index, 3).object.nouns for index in range(30)}
    assert nouns == {("fox", "seat"), ("chair",)}


def test_mistaken_art_scenes_are_refused(atlas: Atlas) -> None:
    with pytest.raises(ValueError, match="'held_out_family' of scenes of an atlas is not one of train"):
        ArtSceneSource(atlas, "held_out_family")
    shown = tuple(one for one in atlas.sprites if not one.held_out)
    with pytest.raises(UserError, match="no sprites or no backgrounds of the split 'held_out_objects'"):
        ArtSceneSource(replace(atlas, sprites=shown), "held_out_objects")


# Scenes without an atlas, as they were before scenes had atlases


@pytest.mark.parametrize(
    ("split", "expected"),
    list(zip(SPLITS, ("1a5cfea98516c8b2", "2db84ba7c5e6fc1d", "de3c36d369ca64a8", "b84a992a2f9c6d4a"), strict=True)),
)
def test_captions_without_an_atlas_are_unchanged(split: str, expected: str) -> None:
    digest = hashlib.sha256()
    for variations in (Variations(), Variations(0.3, 0.3, 0.3, 0.3, 0.3, 0.2, 0.2)):
        if variations.photographs:
            pytest.importorskip("skimage")
        source = SceneSource(split, objects="all", variations=variations)  # type: ignore[arg-type]
        for index in range(100):
            digest.update("\n".join(source.prompts(index, 5).values()).encode())
    assert digest.hexdigest()[:16] == expected


def test_pictures_without_an_atlas_are_unchanged() -> None:
    """Scenes with painted objects, since glyphs depend on the version of the font."""
    variations = Variations(see_through=1, camera=0.5, cast=0.5, collages=0.3)
    source = SceneSource(size=32, frames=4, variations=variations)
    expected = {
        0: (0.52302, 0.02371, 0.67836, 0.67927),
        2: (0.48513, 0.04102, 0.73554, 0.71981),
        3: (0.49881, 0.08746, 0.72636, 0.70759),
        7: (0.48697, 0.02324, 0.68434, 0.69406),
    }
    for index, means in expected.items():
        scene = source.scene(index, 5)
        assert [float(getattr(scene, name).mean()) for name in CLIPS] == pytest.approx(means, abs=2e-5)


# Sources of training clips


@pytest.fixture(scope="module")
def folder(atlas: Atlas, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_atlas(atlas, tmp_path_factory.mktemp("art") / "atlas")


def recipe_of(folder: Path, path: Path, data: str, more: str = "") -> StageRecipe:
    text = TINY + f"name: art\nframes_per_batch: 4\nphases: [{{steps: 2, frames: {{2: 1.0}}}}]\n{more}\n"
    path.write_text(text + f"data: [{data.format(folder=folder.name)}]\n")
    return load_recipe(path).stages[0]


@pytest.mark.parametrize("form", ["clean", "crude", "copy-paste"])
def test_training_reads_art_scenes(folder: Path, form: str) -> None:
    data = f"{{{{kind: scenes, folder: {{folder}}, form: {form}}}}}"
    recipe = recipe_of(folder, folder.parent / f"{form}.yaml", data)
    (source,) = open_sources(recipe)
    assert isinstance(source, DrawnScenes)
    assert isinstance(source.core, ArtSceneSource)
    one, other = (source.read(Query((32, 32), 2, 0, False), np.random.default_rng(1)) for _ in range(2))
    assert {name: clip.shape for name, clip in one.clips.items()} == {
        name: (2, 1 if name == "alpha" else 3, 32, 32) for name in CLIPS
    }
    assert all(torch.equal(clip, other.clips[name]) for name, clip in one.clips.items())
    assert one.captions == other.captions
    assert any(noun in one.captions[FOREGROUND] for noun in ("fox", "animal", "chair"))


def test_composites_are_training_clips(folder: Path) -> None:
    pytest.importorskip("cv2")
    recipe = recipe_of(folder, folder.parent / "composites.yaml", "{{kind: composites, folder: {folder}}}")
    (source,) = open_sources(recipe)
    assert isinstance(source, CompositeScenes)
    assert source.sizes(2) == {(32, 32): 0}
    query = Query((32, 32), 2, 0, False)
    counts = Counter()
    for seed in range(40):
        sample, again = (source.read(query, np.random.default_rng(seed)) for _ in range(2))
        assert all(torch.equal(clip, again.clips[name]) for name, clip in sample.clips.items())
        layers = [name for name in sample.clips if name in ALPHA_OF]
        counts[len(layers)] += 1
        assert set(sample.clips) == {BACKGROUND, BLENDED, *layers, *(ALPHA_OF[name] for name in layers)}
        assert set(sample.captions) <= {BACKGROUND, BLENDED, *layers}
        assert sample.positions.tolist() == [0, 1]
        own = [(sample.clips[name], sample.clips[ALPHA_OF[name]]) for name in layers]
        assert blend_all(own, sample.clips[BACKGROUND]).shape == sample.clips[BLENDED].shape == (2, 3, 32, 32)
    assert set(counts) == {1, 2}


def test_frozen_composites_are_held(folder: Path) -> None:
    pytest.importorskip("cv2")
    data = "{{kind: composites, folder: {folder}, frozen: true}}"
    (source,) = open_sources(recipe_of(folder, folder.parent / "frozen.yaml", data))
    clips = source.read(Query((32, 32), 2, 0, False), np.random.default_rng(1)).clips
    assert all(torch.equal(clip[0], clip[1]) for clip in clips.values())


@pytest.mark.parametrize("kind", ["scenes", "composites"])
def test_a_network_trains_with_an_atlas(folder: Path, kind: str, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    data = f"{{{{kind: {kind}, folder: {{folder}}}}}}"
    recipe = recipe_of(folder, folder.parent / f"training-{kind}.yaml", data)
    assert all(np.isfinite(losses_of(recipe, tmp_path)))
