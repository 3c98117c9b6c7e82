"""Light, blur, noise and compression, applied to layers so that the blended clip stays their exact composition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ....core.compositing import unpremultiply
from .opencv import opencv


@dataclass(frozen=True)
class Light:
    """Gamma, exposure and tint of a layer."""

    gamma: float = 1.0
    """Exponent of the values in [0, 1]."""
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Factors of red, green and blue."""

    def table(self, scale: np.ndarray | float = 1.0, offset: np.ndarray | float = 0.0) -> np.ndarray:
        """Return the new value in [0, 1] of each byte, float32 (1, 256, 3), after `scale * value + offset`."""
        values = (np.arange(256)[:, None] / 255 * np.ones(3) * scale + offset).clip(0, 1)
        return (values**self.gamma * self.gain).clip(0, 1).astype(np.float32)[None]


def draw_light(rng: np.random.Generator, share: float) -> Light:
    """Draw the light of a layer: other than neutral with a probability of `share`."""
    if rng.random() >= share:
        return Light()
    exposure, tint = np.exp(rng.normal(0, 0.15)), np.exp(rng.normal(0, 0.06, 3))
    red, green, blue = (float(gain) for gain in exposure * tint)
    return Light(float(np.exp(rng.normal(0, 0.22))), (red, green, blue))


def relight(pictures: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Look up bytes (..., 3) in a table (1, 256, 3); float32 in [0, 1]."""
    cv2: Any = opencv()
    flat = np.ascontiguousarray(pictures).reshape(-1, 1, 3)
    return cv2.LUT(flat, table).reshape(pictures.shape)


def relight_cutouts(pictures: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Look up the straight colour of premultiplied bytes (P, S, S, 4); premultiplied float32 in [0, 1]."""
    lit = pictures.astype(np.float32) / 255
    straight = straight_colour(lit) * 255
    lit[..., :3] = relight((straight + 0.5).astype(np.uint8), table) * lit[..., 3:]
    return lit


def straight_colour(pictures: np.ndarray) -> np.ndarray:
    """Return the straight colour (..., 3) of premultiplied pictures (..., 4), both float32 in [0, 1]."""
    colour, alpha = torch.from_numpy(pictures).split([3, 1], dim=-1)
    return unpremultiply(colour, alpha, floor=1 / 255).numpy()


def harmony(pictures: np.ndarray, behind: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and offset (3,) that shift mean and contrast of cut-outs by a share towards those behind them.

    pictures: uint8 (P, S, S, 4), premultiplied. behind: (H, W, 3) in [0, 1].
    """
    visible = pictures[..., 3] > 127
    if not visible.any():
        return np.ones(3), np.zeros(3)
    own = straight_colour(pictures[visible].astype(np.float32) / 255).astype(np.float64)
    mean, spread = own.mean(axis=0), own.std(axis=0) + 0.05
    goal, other = behind.reshape(-1, 3).mean(axis=0), behind.reshape(-1, 3).std(axis=0) + 0.05
    scale = 1 + share * ((other / spread).clip(0.4, 1.6) - 1)
    return scale, mean + share * (goal - mean) - scale * mean


def blur(frames: np.ndarray, sigma: float) -> np.ndarray:
    """Blur frames (F, H, W, C) by a Gaussian of `sigma` pixels; the values beyond the border are those at it."""
    if sigma < 0.15:
        return frames
    cv2: Any = opencv()
    return np.stack([cv2.GaussianBlur(f, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE) for f in frames]).reshape(
        frames.shape
    )


def grain(size: int, sigma: float, radius: float, rng: np.random.Generator) -> np.ndarray:
    """Return noise (size, size, 3) of a standard deviation of about `sigma`, mostly of the brightness.

    radius: standard deviation of the extent of a grain in pixels.
    """
    cv2: Any = opencv()
    noise = rng.standard_normal((size, size), dtype=np.float32)
    strength = 0.85 * sigma
    if radius > 0.3:
        noise = cv2.GaussianBlur(noise, (0, 0), radius)
        strength *= max(1.0, 3.5 * radius)  # a Gaussian divides the deviation by about 2 * sqrt(pi) * radius
    coarse = rng.standard_normal((size // 2, size // 2, 3), dtype=np.float32) * np.float32(0.6 * sigma)
    colour = cv2.resize(coarse, (size, size))
    colour += (noise * np.float32(strength))[..., None]
    return colour


def vignette(size: int, strength: float) -> np.ndarray:
    """Return factors (size, size, 1) that fall from 1 in the middle to 1 - strength in the corners."""
    axis = ((np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1) ** 2
    return (1 - strength * (axis[:, None] + axis) / 2)[..., None]


@dataclass(frozen=True)
class Shadow:
    """A shadow of the foregrounds on the background."""

    strength: float
    """Share of the light that it takes, in [0, 1]."""
    dx: float
    """Horizontal shift relative to the frame."""
    dy: float
    """Vertical shift relative to the frame."""
    softness: float
    """Standard deviation of its blur relative to the frame."""
    lying: bool
    """The shadow lies on the ground at the foot of the foreground, in place of being shifted as it is."""


def draw_shadow(rng: np.random.Generator) -> Shadow:
    """Draw a shadow."""
    return Shadow(
        float(rng.uniform(0.2, 0.6)),
        float(rng.uniform(-0.08, 0.08)),
        float(rng.uniform(0.01, 0.08)),
        float(np.exp(rng.uniform(np.log(0.008), np.log(0.04)))),
        bool(rng.random() < 0.5),
    )


def cast(shadow: Shadow, alpha: np.ndarray) -> np.ndarray:
    """Return the factors (H, W, 1) of the background's light under a foreground with alpha (H, W)."""
    cv2: Any = opencv()
    size = alpha.shape[0]
    visible = np.flatnonzero(alpha.max(axis=1) > 0.5)
    matrix = np.array([[1, 0, shadow.dx * size], [0, 1, shadow.dy * size]], np.float32)
    if shadow.lying and len(visible):
        foot, flat, lean = float(visible[-1]), 0.3, 6 * shadow.dx
        matrix = np.array([[1, lean * flat, -lean * flat * foot], [0, flat, (1 - flat) * foot]], np.float32)
    moved = cv2.warpAffine(alpha, matrix, (size, size), flags=cv2.INTER_LINEAR)
    soft = cv2.GaussianBlur(moved, (0, 0), max(0.3, shadow.softness * size))
    return (1 - shadow.strength * soft)[..., None].astype(np.float32)


@dataclass(frozen=True)
class Compression:
    """Lossy compression of the blended clip."""

    quality: int
    """Quality of JPEG in [1, 95], or 0 for none."""
    enlarged: float
    """Scale at which JPEG is applied; above 1 its blocks are smaller in the frame."""
    reduced: float
    """Scale to which the clip is reduced and enlarged again, or 1."""


def draw_compression(rng: np.random.Generator) -> Compression:
    """Draw a compression: JPEG, resampling or both."""
    kind = rng.random()
    quality = int(rng.integers(25, 81)) if kind < 0.8 else 0
    reduced = float(rng.uniform(0.45, 0.85)) if kind > 0.65 else 1.0
    return Compression(quality, float(rng.choice([1.0, 1.5, 2.0])), reduced)


def compress(frame: np.ndarray, compression: Compression) -> np.ndarray:
    """Compress a frame (H, W, 3) of [0, 1] and decode it again; float32 in [0, 1]."""
    cv2: Any = opencv()
    height, width = frame.shape[:2]
    if compression.reduced < 1:
        small = round(width * compression.reduced), round(height * compression.reduced)
        frame = cv2.resize(cv2.resize(frame, small, interpolation=cv2.INTER_AREA), (width, height))
    if not compression.quality:
        return frame.clip(0, 1)
    if compression.enlarged > 1:
        large = round(width * compression.enlarged), round(height * compression.enlarged)
        frame = cv2.resize(frame, large)
    pixels = np.rint(frame[..., ::-1] * 255).clip(0, 255).astype(np.uint8)
    _, encoded = cv2.imencode(".jpg", np.ascontiguousarray(pixels), [cv2.IMWRITE_JPEG_QUALITY, compression.quality])
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    if compression.enlarged > 1:
        decoded = cv2.resize(decoded, (width, height), interpolation=cv2.INTER_AREA)
    return decoded[..., ::-1].astype(np.float32) / 255
