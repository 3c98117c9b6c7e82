"""How a planned composite becomes clips: layers, what belongs to the whole frame, and their composition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ....core.compositing import blend_all, unpremultiply
from ....core.schema import BACKGROUND, BLENDED, scene_layers
from .art import SpriteArt, times_of
from .backdrops import Backdrop
from .dice import Dice
from .looks import Compression, Shadow, cast, compress, draw_compression, draw_shadow, grain, vignette
from .settings import Composites
from .things import Thing
from .wording import Subject, camera_motion, write_captions

_VISIBLE = 1 / 512  # coverage below which there is none, and short of 1 by which it is full
_PROBE = 32  # size of the frame whose colours foregrounds are harmonised with


@dataclass(frozen=True)
class Foreground:
    """Facts of a foreground. Lengths are relative to the frame's side."""

    sprite: int
    """Number of the sprite in the atlas; -1 for a random shape or a given cut-out."""
    motion: str
    """"still", "drift", "move", "cross" or "near"."""
    dx: float
    """Travel to the right over the clip."""
    dy: float
    """Travel downwards over the clip."""
    height: float
    """Height in the middle of the clip."""
    warped: bool
    """It has a non-rigid warp."""
    anchored: bool
    """It moves relative to the background, not to the frame."""
    opacity: float
    """Factor of its coverage, in (0, 1]."""
    count: int = 1
    """Number of things in it."""


@dataclass(frozen=True)
class CompositeSpec:
    """Facts of a composite."""

    foregrounds: tuple[Foreground, ...]
    """The foregrounds, the nearest first."""
    background: int
    """Number of the background in the atlas; -1 for a plain or a given one."""
    background_kind: str
    """"photograph", "panorama", "film" or "plain"."""
    camera: str
    """Strongest motion of the camera, a key of `wording.CAMERA`."""
    parallax: bool
    """The lower part of the background moves faster under the moving camera."""
    clutter: tuple[int, ...]
    """Numbers of the sprites that belong to the background."""
    occluded: bool
    """Something of them stands before the foregrounds and hides them."""
    shadow: bool
    """The foregrounds cast a shadow on the background of the blended clip."""
    compressed: bool
    """The blended clip has artefacts of compression or resampling."""

    @property
    def exact(self) -> bool:
        """Whether the blended clip is exactly the foregrounds over the background."""
        return not (self.shadow or self.compressed)


@dataclass(frozen=True)
class Composite:
    """A drawn composite; float32 tensors in [0, 1], F frames of H by W pixels."""

    spec: CompositeSpec
    """Facts of the scene."""
    captions: dict[str, str]
    """Captions by layer."""
    layers: list[tuple[Tensor, Tensor]]
    """Straight colour (F, 3, H, W), 0.5 grey where alpha is 0, and alpha (F, 1, H, W) of one or two foregrounds, the
    nearest first."""
    background: Tensor
    """(F, 3, H, W) background without shadow."""
    blended: Tensor
    """(F, 3, H, W) foregrounds over the background: exactly, but for shadow and compression."""


@dataclass(frozen=True)
class Whole:
    """What belongs to the whole frame."""

    exposure: float
    """Time over which motion is averaged, in lengths of the clip."""
    grains: tuple[float, ...]
    """Standard deviation of the noise of the background and of each foreground."""
    grain_size: float
    """Standard deviation of a grain in pixels of a frame of 128 pixels."""
    vignette: float
    """Share of the light that the corners lack."""
    fading: tuple[float, float, float]
    """Share of the light that the darkest frame lacks, cycles over the clip, and initial angle in radians."""
    shadow: Shadow | None
    compression: Compression | None


@dataclass(frozen=True)
class Plan:
    """All that determines a composite but the size of its frames."""

    dice: Dice
    frames: int
    """Frames of the clip."""
    things: tuple[Thing, ...]
    """Foregrounds, the nearest first."""
    backdrop: Backdrop
    whole: Whole
    captioned: bool = True
    """Captions are written; else they are empty."""

    def captions(self) -> dict[str, str]:
        """Write the captions by layer."""
        names = [layer.name for layer in scene_layers(len(self.things)) if layer.transparent]
        if not self.captioned:
            return dict.fromkeys([*names, BACKGROUND, BLENDED], "")
        camera = self.backdrop.camera
        own, background, blended = write_captions(
            [
                Subject(
                    thing.sprite,
                    thing.path,
                    thing.opacity < 1,
                    isinstance(thing.art, SpriteArt) and thing.art.textured,
                    1 + len(thing.company),
                )
                for thing in self.things
            ],
            self.backdrop.caption,
            camera.path if camera.moves else None,
            self.dice.rng("wording"),
        )
        return {**dict(zip(names, own, strict=True)), BACKGROUND: background, BLENDED: blended}

    def spec(self) -> CompositeSpec:
        """Return the facts of the scene."""
        backdrop, whole = self.backdrop, self.whole
        return CompositeSpec(
            tuple(
                Foreground(
                    thing.sprite.number if thing.sprite else -1,
                    thing.path.kind,
                    thing.path.dx,
                    thing.path.dy,
                    thing.height,
                    thing.warp is not None,
                    thing.anchored,
                    thing.opacity,
                    1 + len(thing.company),
                )
                for thing in self.things
            ),
            backdrop.number,
            backdrop.kind,
            camera_motion(backdrop.camera.path if backdrop.camera.moves else None),
            backdrop.camera.depth > 0,
            tuple(one.sprite.number for one in backdrop.pasted),
            any(one.near for one in backdrop.pasted),
            whole.shadow is not None,
            whole.compression is not None,
        )


def plan_whole(dice: Dice, settings: Composites, frames: int) -> Whole:
    """Draw what belongs to the whole frame."""
    rng = dice.rng("whole")
    chances = rng.random(6)
    sigmas = np.exp(rng.uniform(np.log(0.003), np.log(0.025))) * np.exp(rng.normal(0, 0.3, 3))
    size, corners = float(rng.uniform(0, 0.9)), float(rng.uniform(0.1, 0.6))
    fading = float(rng.uniform(0.05, 0.4)), float(rng.uniform(0.2, 2)), float(rng.uniform(0, 2 * np.pi))
    return Whole(
        exposure=float(rng.uniform(0.4, 1.0)) / max(frames - 1, 1) if chances[0] < settings.motion_blur else 0.0,
        grains=tuple(float(sigma) for sigma in sigmas) if chances[1] < settings.grain else (),
        grain_size=size,
        vignette=corners if chances[2] < settings.vignette else 0.0,
        fading=fading if chances[3] < settings.fading else (0.0, 0.0, 0.0),
        shadow=draw_shadow(rng) if chances[4] < settings.shadow else None,
        compression=draw_compression(rng) if chances[5] < settings.compressed else None,
    )


def render(plan: Plan, size: int, frame_indices: Sequence[int] | None = None) -> Composite:
    """Draw a planned composite, or some of its frames.

    Raises:
        IndexError: a frame index is outside of the clip.
    """
    frames = list(range(plan.frames)) if frame_indices is None else [int(frame) for frame in frame_indices]
    for frame in frames:
        if not 0 <= frame < plan.frames:
            raise IndexError(f"frame {frame} is not in a clip of {plan.frames} frames")
    whole, backdrop, middle = plan.whole, plan.backdrop, plan.frames // 2
    times = times_of(plan.frames)[frames]
    background = backdrop.draw(frames, times, size, whole.exposure)
    probe = backdrop.draw([middle], np.array([0.5]), _PROBE)[0]
    covered = backdrop.cover(frames, times, size, whole.exposure)
    light = _light(whole, times, size)
    layers = []
    for thing in plan.things:
        drawn = thing.draw(frames, times, size, backdrop.camera, probe, whole.exposure)
        if covered is not None:
            drawn *= 1 - covered
        alpha = drawn[..., 3:].copy()
        alpha[alpha < _VISIBLE] = 0
        straight = unpremultiply(torch.from_numpy(drawn[..., :3]), torch.from_numpy(alpha), limits=None).numpy()
        alpha[alpha > 1 - _VISIBLE] = 1
        layers.append((straight, alpha))
    pictures = [background, *(straight for straight, _ in layers)]
    finished = [_finish(picture, light, plan, frames, n) for n, picture in enumerate(pictures)]
    stack = [
        (_to_tensor(np.where(alpha > 0, straight, np.float32(0.5))), _to_tensor(alpha))
        for straight, (_, alpha) in zip(finished[1:], layers, strict=True)
    ]
    clean = _to_tensor(finished[0])
    lit = clean
    if whole.shadow is not None:
        cover = 1 - np.prod([1 - alpha for _, alpha in layers], axis=0)
        lit = clean * _to_tensor(np.stack([cast(whole.shadow, frame[..., 0]) for frame in cover]))
    blended = blend_all(stack, lit)
    if whole.compression is not None:
        seen = blended.permute(0, 2, 3, 1).numpy()
        blended = _to_tensor(np.stack([compress(frame, whole.compression) for frame in seen]))
    return Composite(plan.spec(), plan.captions(), stack, clean, blended)


def _light(whole: Whole, times: np.ndarray, size: int) -> np.ndarray | None:
    """Return the factors (T, size, size, 1) of light on the whole frame; None where it is full."""
    if not (whole.vignette or whole.fading[0]):
        return None
    depth, cycles, start = whole.fading
    gains = 1 - depth * (0.5 + 0.5 * np.sin(2 * np.pi * cycles * times + start))
    return (gains[:, None, None, None] * vignette(size, whole.vignette)).astype(np.float32)


def _finish(frames: np.ndarray, light: np.ndarray | None, plan: Plan, numbers: Sequence[int], layer: int) -> np.ndarray:
    """Apply the light of the whole frame and the noise of a layer to frames (T, H, W, 3) in place; in [0, 1]."""
    whole = plan.whole
    if light is not None:
        frames *= light
    if whole.grains:
        size = frames.shape[1]
        for frame, number in zip(frames, numbers, strict=True):
            rng = plan.dice.rng("grain", layer, number)
            frame += grain(size, whole.grains[layer], whole.grain_size * size / 128, rng)
    return np.clip(frames, 0, 1, out=frames)


def _to_tensor(frames: np.ndarray) -> Tensor:
    """Convert frames (F, H, W, C) to a float32 tensor (F, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2), dtype=np.float32))
