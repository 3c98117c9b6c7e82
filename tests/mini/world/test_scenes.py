"""The source of scenes: determinism, exact composition, disjoint splits, complete captions."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from layerflow.core.schema import CLIPS, LAYERS
from layerflow.mini.world import (
    BACKGROUND_COLOURS,
    CAMERAS,
    CASTS,
    EXTRA_OBJECTS,
    FAMILIES,
    FOREGROUND_COLOURS,
    MOTION_PLACES,
    MOTIONS,
    OBJECTS,
    PLACES,
    SOFT_OBJECTS,
    SPLITS,
    TRAIN_FAMILIES,
    MissingFontError,
    MotionParams,
    ObjectSpec,
    Scene,
    SceneSource,
    SceneSpec,
    Variations,
    background,
    captions,
    find_font,
    is_held_out,
    sprite,
)
from layerflow.mini.world.captions import (
    BACKGROUND_MOTION_WORDS,
    BACKGROUND_WORDS,
    COLOUR_WORDS,
    MAX_WORDS,
    MOTION_WORDS,
    PLACE_WORDS,
    SEE_THROUGH,
)
from layerflow.mini.world.sprites import FONT_VARIABLE


def _font_is_missing() -> bool:
    try:
        find_font()
    except MissingFontError:
        return True
    return False


# In CI a missing font is a failure, not a reason to skip.
needs_font = pytest.mark.skipif(
    _font_is_missing() and not os.environ.get("CI"), reason="NotoColorEmoji.ttf is not installed"
)


def _same(one: Scene, other: Scene) -> bool:
    return one.captions == other.captions and all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in CLIPS
    )


# Objects


def test_objects_are_distinct_single_glyphs() -> None:
    objects = OBJECTS + EXTRA_OBJECTS
    assert sum(not entry.held_out for entry in OBJECTS) == 34
    assert sum(entry.held_out for entry in OBJECTS) == 4
    assert all(entry.core for entry in OBJECTS)
    assert not any(entry.core or entry.held_out for entry in EXTRA_OBJECTS)
    assert all(len(entry.char) == 1 and entry.nouns[0] == entry.name for entry in objects)
    assert len({entry.char for entry in objects}) == len(objects)
    assert len({noun for entry in objects for noun in entry.nouns}) == sum(len(entry.nouns) for entry in objects)


@needs_font
def test_objects_have_glyphs() -> None:
    for entry in OBJECTS + EXTRA_OBJECTS:
        assert sprite(entry)[..., 3].mean() > 0.12, entry.name


@needs_font
def test_sprite_is_premultiplied_and_cropped() -> None:
    rgba = sprite(OBJECTS[0])
    assert rgba.shape == (96, 96, 4)
    assert rgba.dtype == np.float32
    assert rgba.min() >= 0
    assert rgba.max() <= 1
    assert (rgba[..., :3] <= rgba[..., 3:]).all()
    rows, columns = (rgba[..., 3].max(axis) > 0.05 for axis in (1, 0))
    assert (rows[0] and rows[-1]) or (columns[0] and columns[-1])


@needs_font
@pytest.mark.parametrize("colour", FOREGROUND_COLOURS)
def test_tint(colour: str) -> None:
    for entry in OBJECTS:
        rgba = sprite(entry, colour)
        mean = rgba[..., :3].sum((0, 1)) / rgba[..., 3].sum()
        distances = {name: np.abs(mean - np.array(rgb)).sum() for name, rgb in FOREGROUND_COLOURS.items()}
        assert min(distances, key=lambda name: distances[name]) == colour, entry.name
        inside = rgba[..., 3] > 0.99
        assert rgba[inside][:, :3].std(0).max() > 0.03, entry.name


def test_sprite_of_an_unknown_colour() -> None:
    with pytest.raises(ValueError, match="mauve"):
        sprite(OBJECTS[0], "mauve")


def test_missing_font(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(FONT_VARIABLE, str(tmp_path / "none.ttf"))
    with pytest.raises(MissingFontError, match="fonts-noto-color-emoji"):
        find_font()


# Motions


def test_motion_paths() -> None:
    params = MotionParams()
    first = {name: motion(0.0, params) for name, motion in MOTIONS.items()}
    last = {name: motion(1.0, params) for name, motion in MOTIONS.items()}
    assert set(MOTIONS) == set(MOTION_PLACES) == set(MOTION_WORDS)
    assert first["still"] == last["still"] == (32, 32, 1, 0)
    assert (first["moving right"][0], last["moving right"][0]) == (16, 48)
    assert (first["moving left"][0], last["moving left"][0]) == (48, 16)
    assert (first["rising"][1], last["rising"][1]) == (47, 17)
    assert (first["falling"][1], last["falling"][1]) == (17, 47)
    assert (first["growing"][2] * 30, last["growing"][2] * 30) == pytest.approx((18, 40))
    assert (first["shrinking"][2] * 30, last["shrinking"][2] * 30) == pytest.approx((40, 18))
    assert (first["spinning"][3], last["spinning"][3]) == (0, 360)
    assert max(abs(MOTIONS["swaying"](t, params)[3]) for t in np.linspace(0, 1, 41)) == pytest.approx(18)


# Backgrounds


@pytest.mark.parametrize("name", FAMILIES)
def test_backgrounds_move_on_request(name: str) -> None:
    family = FAMILIES[name]
    times = [0.0, 0.25, 1.0]
    for colour in family.colours:
        frames = background(name, colour, moves=False, seed=3, t=times, size=32)
        assert frames.shape == (3, 32, 32, 3)
        assert frames.dtype == np.float32
        assert frames.min() >= 0
        assert frames.max() <= 1
        assert np.array_equal(frames[0], frames[2])
    if family.moves:
        frames = background(name, family.colours[0], moves=True, seed=3, t=times)
        assert np.abs(frames[0] - frames[1]).mean() > 0.002


def test_families_have_captions() -> None:
    assert set(BACKGROUND_WORDS) == set(FAMILIES)
    assert {name for name, family in FAMILIES.items() if family.moves} == set(BACKGROUND_MOTION_WORDS)
    assert set(COLOUR_WORDS) == set(FOREGROUND_COLOURS) | set(BACKGROUND_COLOURS)
    assert set(PLACE_WORDS) == set(PLACES)


# Splits


def _specs(split: str, objects: str = "core", count: int = 400) -> list[SceneSpec]:
    source = SceneSource(split, objects=objects)  # type: ignore[arg-type]
    return [source.spec(index, seed=5) for index in range(count)]


def _in_training(spec: SceneSpec) -> bool:
    return (
        not spec.object.held_out
        and spec.family in TRAIN_FAMILIES
        and not is_held_out(spec.object.name, spec.family, spec.motion)
    )


@pytest.mark.parametrize("objects", ["core", "all"])
def test_train_split_excludes_held_out_scenes(objects: str) -> None:
    assert all(_in_training(spec) for spec in _specs("train", objects))


@pytest.mark.parametrize("split", [split for split in SPLITS if split != "train"])
def test_held_out_splits_are_disjoint_from_training(split: str) -> None:
    for spec in _specs(split):
        assert not _in_training(spec)
        assert spec.object.held_out == (split == "held_out_objects")
        assert FAMILIES[spec.family].held_out == (split == "held_out_family")
        if split == "held_out_combinations":
            assert is_held_out(spec.object.name, spec.family, spec.motion)


def test_share_of_held_out_combinations() -> None:
    share = [
        is_held_out(entry.name, family, motion) for entry in OBJECTS for family in TRAIN_FAMILIES for motion in MOTIONS
    ]
    assert 0.03 < np.mean(share) < 0.07


def test_train_split_covers_the_vocabulary() -> None:
    specs = _specs("train", count=2000)
    assert {spec.motion for spec in specs} == set(MOTIONS)
    assert {spec.family for spec in specs} == set(TRAIN_FAMILIES)
    assert {spec.place for spec in specs} == set(PLACES)
    assert {spec.object for spec in specs} == {entry for entry in OBJECTS if not entry.held_out}
    assert {spec.colour for spec in specs} == {None, *FOREGROUND_COLOURS}
    assert all(spec.place in MOTION_PLACES[spec.motion] for spec in specs)
    assert all(spec.background_colour in FAMILIES[spec.family].colours for spec in specs)
    assert all(FAMILIES[spec.family].moves for spec in specs if spec.background_moves)
    assert not any(spec.object.core for spec in _specs("train", "all") if spec.object in EXTRA_OBJECTS)


def test_see_through_changes_the_foreground_alone() -> None:
    plain, glassy = (SceneSource("train", variations=Variations(see_through=share)) for share in (0.0, 1.0))
    for index in range(200):
        one, other = plain.spec(index, 3), glassy.spec(index, 3)
        assert (other.object in SOFT_OBJECTS) != (other.opacity < 1)
        assert replace(other, object=one.object, opacity=1.0) == one
        assert _in_training(other)


def test_see_through_share() -> None:
    plain = SceneSource("train")
    sources = (SceneSource("train", variations=Variations(see_through=share)) for share in (0.1, 0.5))
    few, many = ({n for n in range(400) if source.spec(n, 3) != plain.spec(n, 3)} for source in sources)
    assert few < many
    assert 0.05 < len(few) / 400 < 0.16


VARIED = {
    "see_through": ("object", "opacity"),
    "company": ("company",),
    "camera": ("camera", "background_moves"),
    "cast": ("cast",),
    "photographs": ("picture", "background_moves"),
    "collages": ("picture", "background_moves"),
}
"""Changed fields by variation."""


def _on(family: str, spec: SceneSpec, **changes: str) -> SceneSpec:
    colour = FAMILIES[family].colours[0]
    return replace(spec, family=family, background_colour=colour, background_moves=False, **changes)


@pytest.mark.parametrize("name", VARIED)
def test_variations_change_their_fields_alone(name: str) -> None:
    plain, combined = SceneSource("train"), Variations(**dict.fromkeys(VARIED, 1.0))
    alone = SceneSource("train", variations=Variations(**{name: 1.0}))
    for index in range(60):
        one, other = plain.spec(index, 3), alone.spec(index, 3)
        assert one != other
        assert replace(other, **{key: getattr(one, key) for key in VARIED[name]}) == one
        if name not in ("cast", "collages"):  # the first depends on the object, photographs precede
            all_varied = SceneSource("train", variations=combined).spec(index, 3)
            assert [getattr(all_varied, key) for key in VARIED[name]] == [getattr(other, key) for key in VARIED[name]]


def test_company_is_in_the_split() -> None:
    source = SceneSource("train", objects="all", variations=Variations(company=1.0))
    for index in range(100):
        spec = source.spec(index, 6)
        assert len(spec.company) in (1, 2)
        assert len({spec.object, *(c.object for c in spec.company)}) == 1 + len(spec.company)
        for companion in spec.company:
            assert _in_training(replace(spec, object=companion.object, motion=companion.motion))
            assert companion.object.name in captions(spec)["foreground"]


@needs_font
def test_company_is_behind_the_first_object() -> None:
    source = SceneSource("train", frames=2, variations=Variations(company=1.0))
    spec = replace(source.spec(5, 2), place="centre", motion="still")
    spec = replace(spec, company=tuple(replace(companion, motion="still") for companion in spec.company))
    alone, together = source.render(replace(spec, company=())), source.render(spec)
    assert (together.alpha >= alone.alpha - 1e-6).all()
    assert together.alpha.sum() > 1.1 * alone.alpha.sum()
    solid = (alone.alpha > 0.999).expand_as(alone.foreground)
    torch.testing.assert_close(together.foreground[solid], alone.foreground[solid])


@needs_font
@pytest.mark.parametrize("camera", CAMERAS)
def test_camera_moves_over_a_still_background(camera: str) -> None:
    source = SceneSource("train", frames=5)
    spec = _on("dots", source.spec(5, 2))
    still, filmed = source.render(spec), source.render(replace(spec, camera=camera))
    torch.testing.assert_close(filmed.alpha, still.alpha)
    assert filmed.background.shape == still.background.shape
    assert all((one - other).abs().mean() > 0.01 for one, other in pairwise(filmed.background))
    assert any(words in filmed.captions["background"] for words in CAMERAS[camera])
    torch.testing.assert_close(source.render(spec, [2]).background, still.background[2:3])


@needs_font
def test_pan_direction() -> None:
    source = SceneSource("train", frames=3)
    spec = _on("stripes", source.spec(5, 2), camera="panning right")
    first, second, _ = source.render(spec).background
    shifts = range(-8, 9)
    errors = [(second.roll(shift, -1) - first)[..., 10:-10].abs().mean() for shift in shifts]
    assert shifts[int(np.argmin(errors))] > 0


@needs_font
def test_cast_changes_the_blended_clip_alone() -> None:
    source = SceneSource("train", frames=2)
    spec = source.spec(5, 2)
    plain = source.render(spec)
    for cast, sign in (("shadow", -1), ("light", 1)):
        lit = source.render(replace(spec, cast=cast))
        torch.testing.assert_close(lit.background, plain.background)
        torch.testing.assert_close(lit.foreground, plain.foreground)
        change = sign * (lit.blended - plain.blended)
        assert change.min() > -1e-6
        assert change.max() > 0.05
        assert any(words in lit.captions["blended"] for words in CASTS[cast])
        assert not any(words in lit.captions["background"] for words in CASTS[cast])


@needs_font
def test_opacity_scales_alpha() -> None:
    source = SceneSource("train", frames=2)
    spec = source.spec(5, 2)
    solid, glassy = source.render(spec), source.render(replace(spec, opacity=0.5))
    torch.testing.assert_close(glassy.alpha, 0.5 * solid.alpha)
    torch.testing.assert_close(glassy.foreground, solid.foreground)
    assert any(word in glassy.captions["foreground"] for word in SEE_THROUGH)
    assert not any(word in solid.captions["foreground"] for word in SEE_THROUGH)


@pytest.mark.parametrize("entry", SOFT_OBJECTS, ids=lambda entry: entry.name)
def test_soft_objects_are_soft(entry: ObjectSpec) -> None:
    rgba = sprite(entry)
    alpha = rgba[..., 3]
    assert alpha.max() > 0.6
    assert ((alpha > 0.05) & (alpha < 0.95)).sum() > (alpha >= 0.95).sum()
    assert (rgba[..., :3] <= alpha[..., None] + 1e-6).all()
    assert max(alpha[[0, -1]].max(), alpha[:, [0, -1]].max()) < 0.3  # not cut by the sprite's edge
    assert np.abs(sprite(entry, "red") - rgba)[..., :3].max() > 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, "test"),
        ({"objects": "some"}, "some"),
        ({"frames": 0}, "frames 0"),
    ],
)
def test_invalid_source_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SceneSource(**arguments)


# Captions


def _mentions(text: str, words: tuple[str, ...]) -> bool:
    return any(word in text for word in words)


@pytest.mark.parametrize("split", SPLITS)
def test_captions_mention_every_fact(split: str) -> None:
    for spec in _specs(split, "all", 800):
        texts = captions(spec)
        assert set(texts) == set(LAYERS)
        for text in texts.values():
            assert len(text.split()) <= MAX_WORDS
            assert not set(text) & set("{}@"), text
            assert "  " not in text
            assert text == text.strip()
        for key in ("foreground", "blended"):
            text = texts[key]
            assert _mentions(text, spec.object.nouns), text
            assert spec.colour is None or _mentions(text, COLOUR_WORDS[spec.colour]), text
            assert spec.motion == "still" or _mentions(text, MOTION_WORDS[spec.motion]), text
            assert spec.place == "centre" or _mentions(text, PLACE_WORDS[spec.place]), text
        for key in ("background", "blended"):
            text = texts[key]
            if spec.background_colour != FAMILIES[spec.family].natural:
                assert all(_mentions(text, COLOUR_WORDS[c]) for c in spec.background_colour.split(" and ")), text
            if spec.background_moves:
                assert _mentions(text, BACKGROUND_MOTION_WORDS[spec.family]), text


def test_captions_do_not_invent_motion_or_colour() -> None:
    moving = [word for name, words in MOTION_WORDS.items() if name != "still" for word in words]
    for spec in _specs("train", count=800):
        text = captions(spec)["foreground"]
        if spec.motion == "still":
            assert not any(word in text for word in moving), text
        if spec.colour is None:
            assert not set(text.replace(",", "").split()) & set(FOREGROUND_COLOURS), text


def test_articles() -> None:
    for spec in _specs("train", "all", 800):
        for text in captions(spec).values():
            words = text.replace(",", "").split()
            for article, word in pairwise(words):
                if article in ("a", "an") and not word.startswith("uni"):
                    assert (article == "an") == (word[0] in "aeiou"), text


# Scenes


@needs_font
def test_scenes_are_deterministic() -> None:
    for index in range(6):
        assert _same(SceneSource().scene(index, 1), SceneSource().scene(index, 1))
    source = SceneSource()
    assert source.spec(0, 1) != source.spec(1, 1) != source.spec(1, 2)
    assert source.prompts(4, 1) == source.scene(4, 1, [0]).captions


@needs_font
def test_composition_is_exact() -> None:
    source = SceneSource()
    for index in range(20):
        scene = source.scene(index, 2)
        assert scene.foreground.shape == scene.background.shape == scene.blended.shape == (8, 3, 64, 64)
        assert scene.alpha.shape == (8, 1, 64, 64)
        for clip in (scene.foreground, scene.alpha, scene.background, scene.blended):
            assert clip.dtype == torch.float32
            assert clip.min() >= 0
            assert clip.max() <= 1
        expected = scene.alpha * scene.foreground + (1 - scene.alpha) * scene.background
        assert torch.equal(scene.blended, expected)
        transparent = (scene.alpha == 0).expand_as(scene.foreground)
        assert (scene.foreground[transparent] == 0.5).all()


@needs_font
def test_rendering_single_frames() -> None:
    source = SceneSource()
    for index in range(12):
        whole, part = source.scene(index, 3), source.scene(index, 3, [5, 0])
        assert torch.equal(part.blended, whole.blended[[5, 0]])
        assert torch.equal(part.alpha, whole.alpha[[5, 0]])
        assert torch.equal(part.background, whole.background[[5, 0]])
    with pytest.raises(IndexError, match="frame 8"):
        source.scene(0, 3, [8])


@needs_font
def test_objects_are_mostly_inside_the_frame() -> None:
    source = SceneSource()
    cut = []
    for index in range(100):
        alpha = source.scene(index, 4, [0, 3, 7]).alpha
        assert (alpha.amax((1, 2, 3)) > 0.9).all()
        assert (alpha.mean((1, 2, 3)) > 0.01).all()
        border = torch.cat([alpha[..., 0], alpha[..., -1], alpha[..., 0, :], alpha[..., -1, :]], -1)
        cut.append(bool(border.max() > 0.5))
    assert np.mean(cut) < 0.15  # jitter may push a wide object's rim out


@needs_font
def test_motion_flags() -> None:
    source = SceneSource()
    for index in range(60):
        spec = source.spec(index, 6)
        scene = source.render(spec, [0, 2])
        assert torch.equal(scene.background[0], scene.background[1]) != spec.background_moves
        assert torch.equal(scene.alpha[0], scene.alpha[1]) == (spec.motion == "still")


@needs_font
def test_scenes_at_other_sizes() -> None:
    small, large = SceneSource(), SceneSource(size=128, frames=15)
    for index in range(8):
        one = small.scene(index, 7)
        other = large.scene(index, 7, range(0, 15, 2))
        assert other.blended.shape == (8, 3, 128, 128)
        shrunk = torch.nn.functional.avg_pool2d(other.blended, 2)
        assert (shrunk - one.blended).abs().mean() < 0.03
    assert SceneSource(frames=1).scene(0, 7).blended.shape == (1, 3, 64, 64)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_invalid_share(share: float) -> None:
    with pytest.raises(ValueError, match=f"camera {share}"):
        Variations(camera=share)
