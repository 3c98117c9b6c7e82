"""Sources of art on a tiny made-up folder, and how pictures are cut and named."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
from made_up_art import disc
from PIL import Image

from layerflow.mini.art import animated, characters, drawings, film, furniture, panoramas, photographs
from layerflow.mini.art.emoji import plain_name, read_emoji
from layerflow.mini.art.packages import PACKAGES, package
from layerflow.mini.art.pictures import PHASES, SIDE, ArtError, cut, is_held_out, moves
from layerflow.mini.art.verbs import verb_of
from layerflow.mini.world.nouns import with_article


def test_cut_keeps_one_box_for_all_phases() -> None:
    phases = cut([disc(4), disc(24)])
    assert phases.shape == (2, SIDE, SIDE, 4)
    columns = [np.flatnonzero(phase[..., 3].max(0) > 12) for phase in phases]
    assert columns[0].min() <= 2  # the box is as wide as both together
    assert columns[1].max() >= SIDE - 3
    assert columns[0].max() < columns[1].max()


def test_cut_premultiplies_without_dark_fringe() -> None:
    phase = cut([disc(4)])[0].astype(int)
    edge = (phase[..., 3] > 40) & (phase[..., 3] < 215)
    assert edge.any()
    assert (phase[..., :3] <= phase[..., 3:]).all()
    straight = phase[edge][:, 0] * 255 / phase[edge][:, 3]
    assert np.abs(straight - 220).mean() < 5


def test_cut_of_picture_beyond_its_canvas() -> None:
    wide = Image.new("RGBA", (40, 8), (255, 0, 0, 255))
    phase = cut([wide])[0]
    assert phase[SIDE // 2, 4:-4, 3].min() == 255
    assert phase[:20, :, 3].max() == 0


def test_cut_refuses_invisible_picture() -> None:
    with pytest.raises(ArtError, match="without a visible pixel"):
        cut([Image.new("RGBA", (8, 8))])


def test_moves() -> None:
    assert moves(cut([disc(4), disc(24)]))
    assert not moves(cut([disc(4), disc(4)]))
    assert not moves(cut([disc(4)]))


def test_held_out_is_shared_by_genders_and_about_a_tenth() -> None:
    assert len({is_held_out(f"{who} juggling") for who in ("person", "man", "woman")}) == 1
    assert 70 < sum(is_held_out(f"thing {number}") for number in range(1000)) < 130


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("fox", "fox"), ("lady beetle", "ladybug"), ("man: beard", "man with a beard"), ("person: bald", "bald person"),
        ("woman rowing boat", "woman rowing a boat"), ("man judge", "male judge"), ("woman mage", "female wizard"),
        ("T-Rex", "tyrannosaurus"), ("man: red hair", "man with red hair"),
    ],
)  # fmt: skip
def test_plain_name(label: str, name: str) -> None:
    assert plain_name(label) == name


@pytest.mark.parametrize(
    ("label", "verb"),
    [("dog", "walking"), ("woman running", "running"), ("man judge", "holding a hammer"), ("brick", "")],
)
def test_verb_of(label: str, verb: str) -> None:
    assert verb_of(label) == verb


@pytest.mark.parametrize(
    ("name", "phrase"),
    [
        ("fox", "a fox"), ("owl", "an owl"), ("unicorn", "a unicorn"), ("hourglass", "an hourglass"), ("bus", "a bus"),
        ("grapes", "grapes"), ("loaf of bread", "a loaf of bread"), ("stack of pancakes", "a stack of pancakes"),
        ("people wrestling", "people wrestling"), ("police officer", "a police officer"), ("yarn", "yarn"),
        ("sun behind a cloud", "the sun behind a cloud"), ("santa claus", "santa claus"), ("dress", "a dress"),
    ],
)  # fmt: skip
def test_with_article(name: str, phrase: str) -> None:
    assert with_article(name) == phrase


def test_emoji_without_plain_names_are_left_out(art: Path) -> None:
    assert list(read_emoji(art)) == ["1f98a", "1f3e0"]  # no arrow, and no ewe, which Microsoft's set here lacks


def test_animated_takes_what_moves(art: Path) -> None:
    (fox,) = animated.sprites(art)
    assert (fox.concept, fox.name, fox.verb, fox.kind) == ("1f98a", "fox", "looking around", "animated")
    phases = cut(fox.draw())
    assert len(phases) == PHASES
    assert moves(phases)


def test_drawings_by_code_and_by_name(art: Path) -> None:
    pytest.importorskip("resvg_py")
    drawn = list(drawings.sprites(art))
    assert [(item.name, item.style) for item in drawn] == [
        ("house", "3d"), ("house", "shaded"), ("house", "flat"), ("house", "cartoon"), ("house", "blob"),
        ("house", "simple"), ("house", "clip art"),
    ]  # fmt: skip
    assert {item.concept for item in drawn} == {"1f3e0"}
    phase = cut(drawn[2].draw())[0]
    assert phase[SIDE // 2, SIDE // 2].tolist() == [0, 0, 255, 255]
    assert phase[4, SIDE // 2, 3] == 0  # a third higher than wide


def test_aliases_of_icons(art: Path) -> None:
    icons = drawings.Icons(
        {"icons": {"a": {"body": "<g/>", "left": 2}}, "aliases": {"b": {"parent": "a", "hFlip": True}}, "width": 20}
    )
    assert 'viewBox="2 0 20 16"' in icons.svg("b")
    assert "scale(-1 1)" in icons.svg("b")
    assert "scale" not in icons.svg("a")


def test_furniture_without_brands_and_hard_cuts(art: Path) -> None:
    (chair,) = furniture.sprites(art)
    assert (chair.concept, chair.name, chair.words, chair.author) == ("furniture/chair-1", "chair", ("seat",), "Ann")
    assert chair.licence == "CC-BY-3.0"


def test_characters_walk(art: Path) -> None:
    walkers = list(characters.sprites(art))
    assert len(walkers) == 6
    phases = cut(walkers[0].draw())
    assert len(phases) == 8
    assert moves(phases)
    assert walkers[0].verb == "walking"


def test_photographs_in_the_public_domain(art: Path) -> None:
    found = {item.name: item for item in photographs.backgrounds(art)}
    assert sorted(found) == ["desert0", "forest0", "quarry1"]
    assert found["desert0"].author.startswith("NASA")
    assert found["forest0"].author.startswith("morgueFile")
    assert found["forest0"].caption == photographs.CAPTIONS["forest0"]
    assert found["quarry1"].caption == "a photo of a quarry"
    assert found["desert0"].pixels.shape == (1, 360, 720, 3)


def test_tone_map_is_bounded_and_monotonic() -> None:
    light = np.repeat(np.linspace(0, 50, 512, dtype=np.float32)[None, :, None], 3, 2)
    light[0, -1] = np.inf
    mapped = panoramas.tone_map(light)[0, :, 0].astype(int)
    assert (np.diff(mapped) >= 0).all()
    assert mapped[0] == 0
    assert mapped[-1] == 255


def test_read_panorama_of_javascript(tmp_path: Path) -> None:
    openexr = pytest.importorskip("OpenEXR")
    pixels = np.linspace(0, 2, 8 * 16 * 3, dtype=np.float32).reshape(8, 16, 3)
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}
    with openexr.File(header, {"RGB": pixels}) as file:
        file.write(str(tmp_path / "light.exr"))
    content = base64.b64encode((tmp_path / "light.exr").read_bytes()).decode()
    (tmp_path / "light.exr.js").write_text(f"export default 'data:application/exr;base64,{content}';")
    for name in ("light.exr", "light.exr.js"):
        assert np.array_equal(panoramas.read_panorama(tmp_path / name), pixels)
    (tmp_path / "bad.exr.js").write_text("export default 1")
    with pytest.raises(ArtError, match=r"bad\.exr\.js is no panorama"):
        panoramas.read_panorama(tmp_path / "bad.exr.js")


def test_film_shots_end_at_cuts(art: Path) -> None:
    taken = [item.pixels for item in film.backgrounds(art)]
    assert taken
    assert {pixels.shape for pixels in taken} == {(film.SHOT, 144, 256, 3)}
    brightness = np.array([pixels.mean((1, 2, 3)) for pixels in taken])  # (shots, frames)
    assert np.ptp(brightness, axis=1).max() < 20  # no shot has both scenes
    assert brightness.max() - brightness.min() > 80


def test_shots_leave_out_fades_and_take_the_liveliest(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    fade = np.linspace(0, 1, 24)[:, None, None, None] * np.full((24, 16, 16, 3), 200)
    calm = np.full((24, 16, 16, 3), 200) + np.arange(24)[:, None, None, None] // 8
    lively = np.clip(120 + rng.integers(-4, 5, (24, 16, 16, 3)), 0, 255)
    frames = np.concatenate([fade, calm, lively]).astype(np.uint8)
    bright, other = film.shots([frames])
    assert bright.mean((1, 2, 3)).min() > 110  # of 200
    assert int(other[0].mean()) == 120
    monkeypatch.setattr(film, "SHOTS", 1)
    (liveliest,) = film.shots([frames])
    assert np.array_equal(liveliest, bright)  # still fades in


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (animated.sprites, "@lobehub/fluent-emoji-anim-1"),
        (furniture.sprites, "sweethome3d-furniture"),
        (characters.sprites, "arcade"),
        (photographs.backgrounds, "endless-sky-high-dpi"),
        (panoramas.backgrounds, "@pmndrs/assets"),
        (film.backgrounds, "moviepy"),
    ],
)
def test_missing_package_is_named(art: Path, source, name: str) -> None:
    folder = art / package(name).folder
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(ArtError, match=rf"{package(name).folder} is missing; fetch"):
        list(source(art))


def test_damaged_animation_is_named(art: Path) -> None:
    file = art / package("@lobehub/fluent-emoji-anim-1").folder / "assets" / "1f98a.webp"
    file.write_bytes(b"no picture")
    with pytest.raises(ArtError, match=r"1f98a\.webp is no picture"):
        list(animated.sprites(art))


def test_packages_have_licences_and_authors() -> None:
    assert all(item.licence and item.authors and item.used for item in PACKAGES)
    assert len({item.folder for item in PACKAGES}) == len(PACKAGES)
