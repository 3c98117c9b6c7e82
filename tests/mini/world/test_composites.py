"""Composites of sprites and shapes in front of photographs."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("cv2")

from small_atlas import disc, small_atlas

from layerflow.core.compositing import blend_all
from layerflow.core.errors import UserError
from layerflow.core.schema import BACKGROUND, BLENDED
from layerflow.mini.world.atlas import Atlas, Sprite
from layerflow.mini.world.composites import Composite, Composites, CompositeSource, MissingOpenCVError, compose
from layerflow.mini.world.composites.art import SpriteArt, times_of
from layerflow.mini.world.composites.backdrops import Backdrop, Pasted, film_order
from layerflow.mini.world.composites.cutouts import SIDE, paint
from layerflow.mini.world.composites.looks import Light
from layerflow.mini.world.composites.opencv import opencv
from layerflow.mini.world.composites.paths import EASES, camera_path, object_path
from layerflow.mini.world.composites.paths import Path as Motion
from layerflow.mini.world.composites.scenery import STILL, place_camera
from layerflow.mini.world.composites.shapes import draw_shape
from layerflow.mini.world.composites.things import Thing
from layerflow.mini.world.composites.wording import Subject, describe, direction

EXACT = Composites(shadow=0, compressed=0)
PLAIN_LOOK = Composites(
    second=0, shapes=0, harmonised=0, light=0, defocus=0, motion_blur=0, grain=0, vignette=0, fading=0, shadow=0,
    compressed=0, see_through=0, clutter=0, warped=0, groups=0, textured=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return small_atlas()


def identical(one: Composite, other: Composite) -> bool:
    """Whether two composites are the same, bit for bit."""
    pairs = [(one.background, other.background), (one.blended, other.blended)]
    for own, theirs in zip(one.layers, other.layers, strict=False):
        pairs += zip(own, theirs, strict=True)
    return one.captions == other.captions and one.spec == other.spec and all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(("size", "frames"), [(64, 8), (96, 1), (128, 3), (256, 2)])
def test_composite_layout(atlas: Atlas, size: int, frames: int) -> None:
    source = CompositeSource(atlas, size=size, frames=frames)
    counts = set()
    for index in range(6):
        composite = source.scene(index, 3)
        counts.add(len(composite.layers))
        colours = [composite.background, composite.blended, *(colour for colour, _ in composite.layers)]
        for clip in colours:
            assert clip.shape == (frames, 3, size, size)
        for colour, alpha in composite.layers:
            assert alpha.shape == (frames, 1, size, size)
            assert (colour[(alpha == 0).expand_as(colour)] == 0.5).all()
        for clip in [*colours, *(alpha for _, alpha in composite.layers)]:
            assert clip.dtype == torch.float32
            assert clip.min() >= 0
            assert clip.max() <= 1
        names = ["foreground", "foreground-2"][: len(composite.layers)]
        assert set(composite.captions) == {*names, BACKGROUND, BLENDED}
    assert counts <= {1, 2}


def test_blended_is_exact_where_unmarked(atlas: Atlas) -> None:
    source = CompositeSource(atlas, size=64, frames=4, settings=Composites(shadow=0.3, compressed=0.3, second=0.5))
    marked = 0
    for index in range(30):
        composite = source.scene(index, 4)
        same = torch.equal(composite.blended, blend_all(composite.layers, composite.background))
        assert same == composite.spec.exact
        marked += not same
    assert 5 < marked < 28


def test_composite_is_deterministic(atlas: Atlas) -> None:
    one, other = (CompositeSource(atlas, size=64, frames=5) for _ in range(2))
    for index in range(8):
        scene = one.scene(index, 2**40)
        assert identical(scene, other.scene(index, 2**40))
        assert one.captions(index, 2**40) == scene.captions
    assert not identical(one.scene(0, 1), one.scene(1, 1))
    assert not identical(one.scene(0, 1), one.scene(0, 2))


def test_some_frames_of_a_composite(atlas: Atlas) -> None:
    settings = Composites(grain=1, motion_blur=0.5, compressed=0.5, fading=1, shadow=0.5, films=0.4)
    source = CompositeSource(atlas, size=64, frames=6, settings=settings)
    for index in range(8):
        whole, some = source.scene(index, 5), source.scene(index, 5, frame_indices=[4, 1, 1])
        assert some.captions == whole.captions
        torch.testing.assert_close(some.blended, whole.blended[[4, 1, 1]], rtol=0, atol=0)
        torch.testing.assert_close(some.background, whole.background[[4, 1, 1]], rtol=0, atol=0)
        for (colour, alpha), (whole_colour, whole_alpha) in zip(some.layers, whole.layers, strict=True):
            torch.testing.assert_close(colour, whole_colour[[4, 1, 1]], rtol=0, atol=0)
            torch.testing.assert_close(alpha, whole_alpha[[4, 1, 1]], rtol=0, atol=0)
    with pytest.raises(IndexError, match="frame 6"):
        source.scene(0, 5, frame_indices=[6])


def test_size_does_not_change_the_scene(atlas: Atlas) -> None:
    small, large = (CompositeSource(atlas, size=size, frames=4, settings=PLAIN_LOOK) for size in (64, 128))
    for index in range(8):
        one, other = small.scene(index, 6), large.scene(index, 6)
        assert one.spec == other.spec
        halved = torch.nn.functional.avg_pool2d(other.layers[0][1], 2)
        assert (halved - one.layers[0][1]).abs().mean() < 0.01


def test_splits_of_composites(atlas: Atlas) -> None:
    settings = Composites(clutter=0.5, second=0.5)
    for split in ("train", "held_out"):
        source = CompositeSource(atlas, split, 64, 2, settings)
        sprites, places = set(), set()
        for index in range(80):
            spec = source.plan(index, 7).spec()
            sprites |= {one.sprite for one in spec.foregrounds} | set(spec.clutter)
            places.add(spec.background)
        held_out = split == "held_out"
        assert sprites - {-1} == {one.number for one in atlas.sprites if one.held_out == held_out}
        assert places - {-1} == {one.number for one in atlas.backgrounds if one.held_out == held_out}


def test_foregrounds_show(atlas: Atlas) -> None:
    source = CompositeSource(atlas, size=64, frames=8, settings=Composites(second=0.5, shapes=0.5))
    heights = []
    for index in range(60):
        composite = source.scene(index, 8, frame_indices=[3, 4])
        for (_, alpha), facts in zip(composite.layers, composite.spec.foregrounds, strict=True):
            assert ((alpha > 0).flatten(1).float().mean(dim=1) >= 0.005).all()
            heights.append(facts.height)
    assert 0.1 < min(heights) < 0.25
    assert 0.6 < max(heights) <= 0.75


def test_shares_of_composites(atlas: Atlas) -> None:
    def specs(**shares: float) -> list:
        source = CompositeSource(atlas, size=64, frames=4, settings=replace(Composites(), **shares))
        return [source.plan(index, 9).spec() for index in range(40)]

    assert all(len(spec.foregrounds) == 1 for spec in specs(second=0))
    assert all(len(spec.foregrounds) == 2 for spec in specs(second=1))
    assert all(one.sprite == -1 for spec in specs(shapes=1) for one in spec.foregrounds)
    assert all(one.warped for spec in specs(warped=1, shapes=1) for one in spec.foregrounds)
    assert all(spec.camera == "still" for spec in specs(moving_camera=0))
    assert not any(spec.camera == "still" for spec in specs(moving_camera=1, films=0))
    assert {spec.background_kind for spec in specs(panoramas=1, films=0, plain=0)} == {"panorama"}
    assert {spec.background_kind for spec in specs(panoramas=0, films=0, plain=0)} == {"photograph"}
    assert all(spec.shadow and spec.compressed for spec in specs(shadow=1, compressed=1))
    assert all(spec.clutter for spec in specs(clutter=1, films=0))
    assert not any(spec.clutter or spec.parallax for spec in specs(clutter=0, parallax=0))
    assert all(one.opacity == 1 for spec in specs(see_through=0) for one in spec.foregrounds)


def test_one_share_does_not_change_other_aspects(atlas: Atlas) -> None:
    one, other = (
        CompositeSource(atlas, size=64, frames=3, settings=replace(EXACT, grain=grain, vignette=grain)).scene(2, 3)
        for grain in (0, 1)
    )
    assert one.spec == other.spec
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(one.layers, other.layers, strict=True))
    assert not torch.equal(one.background, other.background)


def test_still_camera_is_still(atlas: Atlas) -> None:
    settings = replace(PLAIN_LOOK, moving_camera=0, films=0)
    scene = CompositeSource(atlas, size=64, frames=4, settings=settings).scene(1, 3)
    assert (scene.background == scene.background[:1]).all()


@pytest.mark.parametrize("panorama", [False, True], ids=["photograph", "panorama"])
def test_anchored_things_move_with_the_background(panorama: bool) -> None:
    """A thing at rest in the world stays where the same thing in the background is."""
    rng, times = np.random.default_rng(5), times_of(5)
    picture, height = disc(50, (255, 255, 255)), 0.1
    rows, columns = np.mgrid[:SIDE, :SIDE]
    sprite = Sprite(0, "disc", "disc", (), "", "flat", 0, 1, "drawing", False, False, "", "")
    compared = 0
    for number in range(10):
        path, depth = camera_path(rng), 0.0 if panorama else 0.8 * (number % 2)
        camera = place_camera(path, (360, 720), rng, panorama=panorama, depth=depth)
        pasted = (Pasted(picture, sprite, 0.5, 0.55, height, False),)
        dark = np.zeros((1, 360, 720, 3), np.uint8)
        seen = Backdrop(dark, [0] * 5, "panorama" if panorama else "photograph", -1, "", camera, Light(), 0.0, pasted)
        art = SpriteArt(picture[None], [0] * 5)
        thing = Thing(
            art, None, Motion(0.5, 0.55), height * 1.28, height, False, None, True, 1.0, 0.0, 0.0, Light(), 0.0
        )
        one = seen.draw(range(5), times, SIDE)[..., 0]
        other = thing.draw(range(5), times, SIDE, camera, dark[0] / 255, 0.0)[..., 3]
        for background, foreground in zip(one, other, strict=True):
            inside = [frame[2:-2, 2:-2].sum() > 0.99 * np.pi * (0.04 * SIDE) ** 2 for frame in (background, foreground)]
            edge = [frame[[0, -1]].sum() + frame[:, [0, -1]].sum() for frame in (background, foreground)]
            if all(inside) and not any(edge):
                compared += 1
                for axis in (rows, columns):
                    places = [(frame * axis).sum() / frame.sum() for frame in (background, foreground)]
                    assert abs(places[0] - places[1]) < (0.8 if panorama else 0.3)
    assert compared > 15


@pytest.mark.parametrize("depth", [0.0, 1.0])
def test_camera_stays_within_its_picture(depth: float) -> None:
    """Views never mirror what is at the border: a frame around the picture stays out of sight."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        camera = place_camera(camera_path(rng), (120, 240), rng, depth=depth)
        place, times = camera.path.at(np.linspace(0, 1, 9)), np.linspace(0, 1, 9)
        reach = 0.5 * camera.side / place.scale
        assert len(times) == len(reach)
        assert (camera.x + place.x * camera.side - reach).min() > -0.5
        assert (camera.x + place.x * camera.side + reach).max() < 240.5
        assert (camera.y + place.y * camera.side - reach).min() > -0.5
        assert (camera.y + place.y * camera.side + reach).max() < 120.5


def test_paths_are_smooth() -> None:
    rng, times = np.random.default_rng(2), np.linspace(0, 1, 65)
    kinds = set()
    for _ in range(200):
        path = object_path(rng, allow_still=True)
        place = path.at(times)
        kinds.add((path.kind, path.ease))
        for values, most in ((place.x, 4.0), (place.y, 4.0), (place.scale, 4.0), (place.angle, 5.0)):
            assert np.abs(np.diff(values)).max() * 64 < most * 2
        middle = path.at(np.array([0.5]))
        np.testing.assert_allclose([middle.x[0], middle.y[0], middle.scale[0]], [path.x, path.y, 1], atol=1e-9)
    assert {ease for _, ease in kinds} == set(EASES)
    assert {kind for kind, _ in kinds} == {"still", "drift", "move", "cross", "near"}


def test_painted_cutout_keeps_its_amount() -> None:
    """Shrinking averages: the area of a cut-out does not depend on where its pixels fall."""
    picture = disc(50, (255, 255, 255)).astype(np.float32) / 255
    for side in (0.1, 0.23, 0.5, 0.9):
        areas = [
            paint(picture, (0.5 + shift / SIDE, 0.5, side, angle), SIDE)[..., 3].sum() for shift, angle in
            ((0, 0), (0.3, 0.2), (0.7, 1.0))
        ]  # fmt: skip
        np.testing.assert_allclose(areas, np.pi * (50 / 128 * side * SIDE) ** 2, rtol=0.03)
    assert not paint(picture, (1.8, 0.5, 0.4, 0.0), SIDE).any()


def test_shapes_vary_and_deform() -> None:
    rng = np.random.default_rng(4)
    shapes = [draw_shape(rng) for _ in range(30)]
    assert {shape.blob for shape in shapes} == {True, False}
    for shape in shapes:
        first, last = shape.alpha(0.0), shape.alpha(0.6)
        assert first.shape == (SIDE, SIDE)
        assert 0 <= first.min() <= first.max() <= 1
        assert not first[[0, -1]].any()
        assert not np.array_equal(first, last)


@pytest.mark.parametrize(("length", "frames"), [(1, 4), (6, 16), (100, 16)])
def test_film_plays_on(length: int, frames: int) -> None:
    for seed in range(10):
        order = film_order(length, frames, np.random.default_rng(seed))
        assert len(order) == frames
        assert 0 <= min(order) <= max(order) < length
        assert np.abs(np.diff(order)).max() <= 2


def test_captions_name_things(atlas: Atlas) -> None:
    source = CompositeSource(atlas, size=64, frames=4, settings=Composites(shapes=0))
    texts = [source.captions(index, 1) for index in range(120)]
    assert all(text[BACKGROUND] for text in texts)
    for text in texts:
        assert any(word in text["foreground"] for word in ("fox", "animal", "chair"))
        assert any(word in text[BLENDED] for word in ("fox", "animal", "chair"))
    said = " ".join(text["foreground"] for text in texts)
    assert "a flat drawing of a fox walking" in said or "a flat illustration of a fox walking" in said
    assert "chair walking" not in said
    assert len({text[BLENDED] for text in texts}) > 60


@pytest.mark.parametrize(
    ("dx", "dy", "name"), [(0.3, 0.1, "right"), (-0.3, 0, "left"), (0, -0.3, "up"), (0.1, 0.3, "down"), (0.05, 0, "")]
)
def test_direction_of_travel(dx: float, dy: float, name: str) -> None:
    assert direction(dx, dy) == name


def test_caption_of_direction() -> None:
    rng, path = np.random.default_rng(1), Motion(dx=-0.5, kind="move")
    texts = {describe(Subject(None, path), rng) for _ in range(60)}
    assert "" in texts
    assert any("left" in text for text in texts)
    assert not any(text.endswith(("to the right", "rightwards")) for text in texts)


@pytest.mark.parametrize("behind", [False, True])
def test_compose_given_cutouts(behind: bool) -> None:
    rng = np.random.default_rng(3)
    cutout = rng.integers(0, 256, (60, 30, 4), dtype=np.uint8)
    picture = rng.integers(0, 256, (80, 140, 3), dtype=np.uint8)
    more = [cutout[:, ::-1], cutout] if behind else None
    one, other = (
        compose([cutout], picture, np.random.default_rng(1), EXACT, 64, 5, behind=more, moving_camera=True)
        for _ in range(2)
    )
    assert identical(one, other)
    assert len(one.layers) == 1 + behind
    assert one.blended.shape == (5, 3, 64, 64)
    assert torch.equal(one.blended, blend_all(one.layers, one.background))
    still = compose([cutout], picture, rng, PLAIN_LOOK, 64, 5, moving_camera=False)
    assert still.spec.camera == "still"
    assert (still.background == still.background[:1]).all()


def test_mistakes_in_composites(atlas: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"shadow 1\.5 is not a share"):
        Composites(shadow=1.5)
    with pytest.raises(ValueError, match="add up to at most 1"):
        Composites(panoramas=0.5, films=0.6)
    with pytest.raises(ValueError, match="smallest"):
        Composites(smallest=0.5, largest=0.4)
    with pytest.raises(ValueError, match="split 'test'"):
        CompositeSource(atlas, "test")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="size 4"):
        CompositeSource(atlas, size=4)
    with pytest.raises(UserError, match="build it again"):
        CompositeSource(replace(atlas, sprites=()))
    square = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match=r"must be uint8 \(H, W, 4\)"):
        compose([square], square, np.random.default_rng(0))
    with pytest.raises(ValueError, match="no cut-out"):
        compose([], square, np.random.default_rng(0))
    opencv.cache_clear()
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingOpenCVError, match=r"layerflow\[data\]"):
        CompositeSource(atlas)
    opencv.cache_clear()


def test_placing_a_still_camera() -> None:
    camera = place_camera(STILL, (90, 160), np.random.default_rng(0))
    assert not camera.moves
    assert 0.5 * 90 < camera.side <= 90


def test_groups_share_a_layer(atlas: Atlas) -> None:
    one, group = (
        CompositeSource(atlas, size=64, frames=8, settings=replace(PLAIN_LOOK, groups=share)) for share in (0, 1)
    )
    more = 0
    for index in range(20):
        alone, together = one.scene(index, 3), group.scene(index, 3)
        assert together.spec.foregrounds[0].count in (2, 3, 4)
        assert len(together.layers) == 1
        more += bool(together.layers[0][1].sum() > 1.2 * alone.layers[0][1].sum())
    assert more > 12
    texts = [group.captions(index, 3)["foreground"] for index in range(60)]
    assert sum(any(word in text for word in ("foxes", "chairs", "animals", " and ")) for text in texts) == len(texts)


def test_occluders_hide_foregrounds(atlas: Atlas) -> None:
    settings = replace(PLAIN_LOOK, clutter=1, moving_camera=0, films=0, plain=0)
    before, behind = (
        CompositeSource(atlas, size=64, frames=4, settings=replace(settings, occluders=share)) for share in (1, 0)
    )
    hidden = 0
    for index in range(20):
        one, other = before.scene(index, 3), behind.scene(index, 3)
        assert one.spec.occluded
        assert not other.spec.occluded
        assert torch.equal(one.blended, blend_all(one.layers, one.background))
        assert torch.equal(one.background, other.background)
        if one.spec.foregrounds == other.spec.foregrounds:
            assert (one.layers[0][1] <= other.layers[0][1]).all()
            hidden += not torch.equal(one.layers[0][1], other.layers[0][1])
    assert hidden > 4


def test_textured_sprites_keep_their_outline(atlas: Atlas) -> None:
    plain, patterned = (
        CompositeSource(atlas, size=64, frames=3, settings=replace(PLAIN_LOOK, textured=share)).scene(4, 3)
        for share in (0, 1)
    )
    assert torch.equal(plain.layers[0][1], patterned.layers[0][1])
    assert torch.equal(plain.background, patterned.background)
    inside = plain.layers[0][1] == 1
    assert plain.layers[0][0][inside.expand(-1, 3, -1, -1)].view(-1).std() > 0
    assert not torch.equal(plain.layers[0][0], patterned.layers[0][0])
