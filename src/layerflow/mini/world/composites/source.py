"""Composites: sprites and random shapes that move in front of photographs, panoramas and film shots."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from ....core.errors import UserError
from ..atlas import Atlas, Background, Sprite
from .art import Art, ShapeArt, SpriteArt, is_visible, textured
from .backdrops import Backdrop, Pasted, film_order
from .cutouts import fit_cutout, phase_order
from .dice import Dice
from .looks import draw_light
from .opencv import opencv
from .paths import camera_path
from .render import Composite, Plan, plan_whole, render
from .scenery import STILL, place_camera, plain_picture
from .settings import Composites
from .shapes import draw_patch, draw_shape
from .things import CHECKED_AT, Stage, Thing, add_company, plan_thing

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = get_args(Split)

_SMALLEST, _LARGEST = 16, 1024  # sizes of frames
_TRIES = 8  # art that is drawn until one is visible in the middle of the clip
_FILM_CAMERA = 0.4  # probability that the camera moves over a film shot, whose own camera may move already
_CLUTTER = (0.08, 0.4)  # range of the height of things in the background


class CompositeSource:
    """Composites by number: the same (seed, index) gives the same scene.

    Args:
        atlas: sprites and backgrounds.
        split: `train`, or `held_out` for sprites and backgrounds that are never part of training.
        size: height and width of the frames in pixels.
        frames: frames of a clip, meant as 8 a second.
        settings: shares of varied scenes.

    Raises:
        ValueError: an argument is not one of the above.
        MissingOpenCVError: OpenCV is not installed.
        UserError: the atlas has no sprite or no photograph of the split.
    """

    def __init__(
        self,
        atlas: Atlas,
        split: Split = "train",
        size: int = 128,
        frames: int = 16,
        settings: Composites | None = None,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
        _check_clip(size, frames)
        opencv()
        self.atlas, self.split, self.size, self.frames = atlas, split, size, frames
        self.settings = settings or Composites()
        held_out = split == "held_out"
        # By concept, so that things in many styles do not prevail; those with phases of their own apart.
        self._pools: dict[bool, list[list[Sprite]]] = {}
        for moves in (True, False):
            concepts: dict[str, list[Sprite]] = defaultdict(list)
            for sprite in atlas.sprites:
                if sprite.held_out == held_out and (sprite.phases > 1) == moves:
                    concepts[sprite.concept].append(sprite)
            self._pools[moves] = list(concepts.values())
        self._backgrounds: dict[str, list[Background]] = defaultdict(list)
        for background in atlas.backgrounds:
            if background.held_out == held_out:
                self._backgrounds[background.kind].append(background)
        if not (any(self._pools.values()) and self._backgrounds["photograph"]):
            raise UserError(
                f"the atlas in {atlas.folder} has no sprites or no photographs of the split {split!r}; "
                "build it again with `tools/atlas.py build`"
            )

    def scene(self, index: int, seed: int, frame_indices: Sequence[int] | None = None) -> Composite:
        """Draw scene number `index` of stream `seed`, or some of its frames; both are non-negative.

        Raises:
            IndexError: a frame index is outside of the clip.
        """
        return render(self.plan(index, seed), self.size, frame_indices)

    def plan(self, index: int, seed: int) -> Plan:
        """Return all that determines a scene but the size of its frames."""
        dice, settings = Dice((seed, index, SPLITS.index(self.split))), self.settings
        chances = dice.rng("scene").random(3)
        backdrop = self._backdrop(dice, cluttered=bool(chances[1] < settings.clutter))
        stage = Stage(self.frames, backdrop.camera, _covered(backdrop, self.frames))
        things: list[Thing] = []
        concepts: set[str] = set()
        for number in range(2 if chances[0] < settings.second else 1):
            for attempt in range(_TRIES):
                art, sprite = self._art(dice.rng("art", number, attempt), concepts)
                if is_visible(art, self.frames):
                    break
            concepts |= {sprite.concept} if sprite else set()
            # A thing at rest that does not move by itself could as well be one of those in the background.
            allow_still = not backdrop.pasted or (sprite is not None and sprite.moves)
            nearer = things[0] if things else None
            thing = plan_thing(art, sprite, dice, number, settings, stage, allow_still=allow_still, nearer=nearer)
            things.append(self._with_company(thing, dice, number))
        return Plan(dice, self.frames, tuple(things), backdrop, plan_whole(dice, settings, self.frames))

    def captions(self, index: int, seed: int) -> dict[str, str]:
        """Return the captions of scene number `index` of stream `seed` without drawing it."""
        return self.plan(index, seed).captions()

    def _art(self, rng: np.random.Generator, taken: set[str]) -> tuple[Art, Sprite | None]:
        """Draw a random shape or a sprite, of a concept that is not yet in the scene."""
        if rng.random() < self.settings.shapes:
            return ShapeArt(draw_shape(rng), self._patch(rng)), None
        sprite = self._sprite(rng, bool(rng.random() < self.settings.animated), taken)
        art = SpriteArt(self.atlas.phases(sprite), phase_order(sprite.phases, self.frames, rng))
        if rng.random() < self.settings.textured:
            art = textured(art, self._patch(rng), float(rng.uniform(0.5, 1)))
        return art, sprite

    def _patch(self, rng: np.random.Generator) -> np.ndarray:
        photographs = self._backgrounds["photograph"]
        return draw_patch(self.atlas.background(photographs[rng.integers(len(photographs))])[0], rng)

    def _with_company(self, thing: Thing, dice: Dice, number: int) -> Thing:
        """Return a foreground, in some scenes with more things of its kind; in other phases, where it has some."""
        rng = dice.rng("company", number, 0)
        if not isinstance(thing.art, SpriteArt) or rng.random() >= self.settings.groups:
            return thing
        phases = len(thing.art.phases)
        count = int(rng.choice([1, 2, 3], p=[0.5, 0.3, 0.2]))
        arts = [replace(thing.art, order=phase_order(phases, self.frames, rng)) for _ in range(count)]
        return add_company(thing, arts, dice, number)

    def _sprite(self, rng: np.random.Generator, moves: bool, taken: set[str]) -> Sprite:
        pool = self._pools[moves] or self._pools[not moves]
        for _ in range(10):
            styles = pool[rng.integers(len(pool))]
            sprite = styles[rng.integers(len(styles))]
            if sprite.concept not in taken:
                break
        return sprite

    def _backdrop(self, dice: Dice, *, cluttered: bool) -> Backdrop:
        """Draw the background, its camera and its things."""
        settings, rng = self.settings, dice.rng("background")
        shares = {"panorama": settings.panoramas, "film": settings.films, "plain": settings.plain}
        shares = {kind: share for kind, share in shares.items() if kind == "plain" or self._backgrounds[kind]}
        kinds = ["photograph", *shares]
        kind = str(rng.choice(kinds, p=[1 - sum(shares.values()), *shares.values()]))
        number, order = -1, [0] * self.frames
        if kind == "plain":
            picture, caption = plain_picture(rng)
            pixels = picture[None]
        else:
            background = self._backgrounds[kind][rng.integers(len(self._backgrounds[kind]))]
            number, caption, pixels = background.number, background.caption, self.atlas.background(background)
            if kind == "film":
                order = film_order(background.frames, self.frames, rng)
        if kind == "panorama":  # the camera looks at its middle
            pixels = np.roll(pixels, int(rng.integers(pixels.shape[2])), axis=2)
        elif kind != "film" and rng.random() < 0.5:
            pixels = pixels[:, :, ::-1]
        lens = dice.rng("camera")
        moves = lens.random() < settings.moving_camera and (kind != "film" or lens.random() < _FILM_CAMERA)
        depth = float(lens.uniform(0.3, 1.2)) if kind == "photograph" and lens.random() < settings.parallax else 0.0
        camera = place_camera(
            camera_path(lens) if moves else STILL,
            pixels.shape[1:3],
            lens,
            panorama=kind == "panorama",
            depth=depth if moves else 0.0,
        )
        pasted = self._clutter(dice, bool(moves)) if cluttered and kind != "film" else ()
        light, defocus = draw_light(rng, settings.light), 0.0
        if rng.random() < settings.defocus:
            defocus = float(np.exp(rng.uniform(np.log(0.003), np.log(0.02))))
        return Backdrop(pixels, order, kind, number, caption, camera, light, defocus, pasted)

    def _clutter(self, dice: Dice, moves: bool) -> tuple[Pasted, ...]:
        """Draw one to three still things for the background."""
        rng, pasted = dice.rng("clutter"), []
        margin = 0.3 if moves else -0.05
        for _ in range(int(rng.integers(1, 4))):
            sprite = self._sprite(rng, False, set())
            picture = self.atlas.sprite(sprite, int(rng.integers(sprite.phases)))
            x, y = rng.uniform(-margin, 1 + margin), rng.uniform(0.3, 0.95)
            height = float(np.exp(rng.uniform(*np.log(_CLUTTER))))
            mirrored, near = rng.random() < 0.5, rng.random() < self.settings.occluders
            pasted.append(Pasted(picture, sprite, float(x), float(y), height, bool(mirrored), bool(near)))
        return tuple(pasted)


def compose(
    cutouts: Sequence[np.ndarray],
    background: np.ndarray,
    rng: np.random.Generator,
    settings: Composites | None = None,
    size: int = 128,
    frames: int = 16,
    *,
    moving_camera: bool = True,
    behind: Sequence[np.ndarray] | None = None,
) -> Composite:
    """Draw a composite of given cut-outs in front of a given picture, by the same rules as `CompositeSource`.

    Args:
        cutouts: phases of the foreground, each straight RGBA uint8 (H, W, 4); one for a still.
        background: RGB uint8 (H, W, 3), at least 16 pixels high and wide.
        rng: source of all random numbers; one number is taken from it.
        settings: shares of varied scenes, where they concern neither the choice of art nor the camera.
        size: height and width of the frames in pixels.
        frames: frames of the clip.
        moving_camera: the camera moves; else it is still.
        behind: phases of a second foreground behind the first.

    Returns:
        The composite; captions are empty, since nothing is known of the cut-outs.

    Raises:
        ValueError: a picture has another shape or type, or size or frames are out of range.
        MissingOpenCVError: OpenCV is not installed.
    """
    _check_clip(size, frames)
    groups = [list(cutouts), *([list(behind)] if behind is not None else [])]
    for picture, channels in [*((one, 4) for group in groups for one in group), (background, 3)]:
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != channels:
            raise ValueError(f"a picture is {picture.dtype} {picture.shape}: it must be uint8 (H, W, {channels})")
    if not all(groups) or min(background.shape[:2]) < _SMALLEST:
        raise ValueError(f"there is no cut-out, or the background is smaller than {_SMALLEST} pixels")
    settings = settings or Composites()
    dice = Dice((int(rng.integers(2**62)),))
    look, lens = dice.rng("background"), dice.rng("camera")
    depth = float(lens.uniform(0.3, 1.2)) if moving_camera and lens.random() < settings.parallax else 0.0
    camera = place_camera(camera_path(lens) if moving_camera else STILL, background.shape[:2], lens, depth=depth)
    light, defocus = draw_light(look, settings.light), 0.0
    if look.random() < settings.defocus:
        defocus = float(np.exp(look.uniform(np.log(0.003), np.log(0.02))))
    backdrop = Backdrop(background[None], [0] * frames, "photograph", -1, "", camera, light, defocus)
    things: list[Thing] = []
    for number, group in enumerate(groups):
        phases = np.stack([fit_cutout(picture) for picture in group])
        art = SpriteArt(phases, phase_order(len(group), frames, dice.rng("art", number)))
        nearer = things[0] if things else None
        things.append(
            plan_thing(art, None, dice, number, settings, Stage(frames, camera), allow_still=True, nearer=nearer)
        )
    plan = Plan(dice, frames, tuple(things), backdrop, plan_whole(dice, settings, frames), captioned=False)
    return render(plan, size)


def _covered(backdrop: Backdrop, frames: int) -> np.ndarray | None:
    """Return the coverage of what stands before the foregrounds in the middle of a clip, (CHECKED_AT, CHECKED_AT)."""
    cover = backdrop.cover([frames // 2], np.array([0.5]), CHECKED_AT)
    return None if cover is None else cover[0, ..., 0]


def _check_clip(size: int, frames: int) -> None:
    if not _SMALLEST <= size <= _LARGEST or frames < 1:
        raise ValueError(f"size {size} and frames {frames} must be in [{_SMALLEST}, {_LARGEST}] and at least 1")
