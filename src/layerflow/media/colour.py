"""Convert between FFmpeg's frames and tensors: planes, Y'CbCr matrices, chroma sampling.

Done here rather than by a scaler so that matrix, range and rounding are known, and alpha stays exact.
Letters: H height, W width. Colour (3, H, W) and alpha (1, H, W) are float32 in [0, 1].
"""

from __future__ import annotations

import re

import av
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Code points of ITU-T H.273, which FFmpeg uses as they are.
BT709, UNKNOWN, BT2020 = 1, 2, 9
LIMITED, FULL = 1, 2
LUMA = {BT709: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087)}
LUMA |= {BT2020: (0.2627, 0.0593), 10: (0.2627, 0.0593)}

_PLANAR_YUV = re.compile(r"yuv(a?)(j?)(4\d\d)p(?:(\d+)(le|be))?$")
_PLANAR_RGB = re.compile(r"gbr(a?)p(?:(\d+)(le|be))?$")
_GREY = re.compile(r"(gray|ya)(?:(\d+)(le|be)?)?$")
_PACKED = {
    "rgb24": (0, 1, 2),
    "bgr24": (2, 1, 0),
    "bgr0": (2, 1, 0),
    "rgb0": (0, 1, 2),
    "rgba": (0, 1, 2, 3),
    "bgra": (2, 1, 0, 3),
    "argb": (1, 2, 3, 0),
    "abgr": (3, 2, 1, 0),
    "rgb48be": (0, 1, 2),
    "rgb48le": (0, 1, 2),
    "rgba64be": (0, 1, 2, 3),
    "rgba64le": (0, 1, 2, 3),
}
_SAME_SAMPLES = {
    "nv12": "yuv420p",
    "nv16": "yuv422p",
    "yuyv422": "yuv422p",
    "uyvy422": "yuv422p",
    "p010le": "yuv420p10le",
    "p210le": "yuv422p10le",
    "pal8": "rgba",
}


def luma_weights(matrix: int, width: int, height: int) -> tuple[float, float]:
    """Return the weights of red and blue in luma; an untagged file is BT.709 when larger than SD, else BT.601."""
    if matrix not in LUMA:
        matrix = BT709 if width >= 1280 or height > 576 else 6
    return LUMA[matrix]


def frame_to_tensors(
    frame: av.VideoFrame, matrix: int = UNKNOWN, colour_range: int = 0
) -> tuple[Tensor, Tensor | None]:
    """Convert a frame to colour (3, H, W) and alpha (1, H, W) or None.

    `matrix` and `colour_range` are the stream's tags, used where the frame has none.
    """
    name = frame.format.name
    yuv = _PLANAR_YUV.match(name)
    if not (yuv or _PLANAR_RGB.match(name) or _GREY.match(name) or name in _PACKED):
        frame = _reformat(frame)
        name = frame.format.name
        yuv = _PLANAR_YUV.match(name)
    big = name.endswith("be")
    if yuv:
        matrix = int(frame.colorspace) if int(frame.colorspace) in LUMA else matrix
        own_range = int(frame.color_range)
        full = bool(yuv[2]) or (own_range if own_range in (LIMITED, FULL) else colour_range) == FULL
        depth = int(yuv[4] or 8)
        planes = [_plane(frame, index, depth, big)[0] for index in range(4 if yuv[1] else 3)]
        weights = luma_weights(matrix, frame.width, frame.height)
        colour = _yuv_to_rgb(planes[:3], weights, full, depth)
        return colour, (planes[3] / (2**depth - 1))[None] if yuv[1] else None
    if match := _PLANAR_RGB.match(name):
        depth = int(match[2] or 8)
        top = 2**depth - 1
        green, blue, red, *rest = (_plane(frame, index, depth, big)[0] / top for index in range(4 if match[1] else 3))
        return torch.stack([red, green, blue]), rest[0][None] if rest else None
    depth = frame.format.components[0].bits
    samples = _plane(frame, 0, depth, big) / (2**depth - 1)
    if name in _PACKED:
        order = _PACKED[name]
        return samples[list(order[:3])], samples[order[3]][None] if len(order) == 4 else None
    return samples[:1].expand(3, -1, -1).clone(), samples[1:2] if name.startswith("ya") else None


def _reformat(frame: av.VideoFrame) -> av.VideoFrame:
    """Convert a frame of a rare pixel format to a planar one, same matrix and range."""
    name = frame.format.name
    if name not in _SAME_SAMPLES:
        alpha = any(component.is_alpha for component in frame.format.components)
        family = ("gbrap16le", "gbrp16le") if frame.format.is_rgb else ("yuva444p16le", "yuv444p16le")
        return frame.reformat(format=family[0 if alpha else 1])
    return frame.reformat(format=_SAME_SAMPLES[name])


def _plane(frame: av.VideoFrame, index: int, depth: int, big: bool) -> Tensor:
    """Return the code values of one plane, (samples per pixel, H, W) float32."""
    plane = frame.planes[index]
    kind = np.dtype(np.uint8) if depth <= 8 else np.dtype(">u2" if big else "<u2")
    rows = np.frombuffer(bytes(plane), dtype=kind).reshape(-1, plane.line_size // kind.itemsize)
    packed = len(frame.planes) == 1
    each = frame.format.padded_bits_per_pixel // (8 * kind.itemsize) if packed else 1
    pixels = rows[: plane.height, : plane.width * each].reshape(plane.height, plane.width, each)
    return torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1).contiguous()


def _yuv_to_rgb(planes: list[Tensor], weights: tuple[float, float], full: bool, depth: int) -> Tensor:
    height, width = planes[0].shape
    luma_0, luma_span, chroma_0, chroma_span = _levels(full, depth)
    luma = (planes[0] - luma_0) / luma_span
    blue_part, red_part = ((_grow(c, height, width) - chroma_0) / chroma_span for c in planes[1:])
    red_weight, blue_weight = weights
    red = luma + 2 * (1 - red_weight) * red_part
    blue = luma + 2 * (1 - blue_weight) * blue_part
    green = (luma - red_weight * red - blue_weight * blue) / (1 - red_weight - blue_weight)
    return torch.stack([red, green, blue]).clamp(0, 1)


def _levels(full: bool, depth: int) -> tuple[float, float, float, float]:
    """Return code value and span of luma and of chroma, ITU-R BT.709-6 section 4 scaled to the depth."""
    if full:
        return 0, 2**depth - 1, 2 ** (depth - 1), 2**depth - 1
    scale = 2 ** (depth - 8)
    return 16 * scale, 219 * scale, 128 * scale, 224 * scale


def _grow(chroma: Tensor, height: int, width: int) -> Tensor:
    """Resample chroma to luma's size. Halved columns are sited on even luma columns, halved rows between rows."""
    rows, columns = chroma.shape
    across, down = -(-width // columns), -(-height // rows)
    if across == 2:
        following = torch.cat([chroma[:, 1:], chroma[:, -1:]], dim=1)
        chroma = torch.stack([chroma, (chroma + following) / 2], dim=2).flatten(1)
        across = 1
    if across > 1 or down > 1:
        size = (chroma.shape[0] * down, chroma.shape[1] * across)
        chroma = F.interpolate(chroma[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
    return chroma[:height, :width]


def _shrink(chroma: Tensor) -> Tensor:
    """Resample chroma to half the size, the opposite of `_grow`: 1-2-1 across, mean of two rows down."""
    height, width = chroma.shape
    padded = F.pad(chroma[None], (1, 1 + width % 2, 0, height % 2), mode="replicate")[0]
    across = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:])[:, ::2] / 4
    return (across[::2] + across[1::2]) / 2


def tensors_to_frame(pixel_format: str, colour: Tensor, alpha: Tensor | None) -> av.VideoFrame:
    """Create a frame for the encoder. Y'CbCr is BT.709 in limited range; RGB and alpha are in full range.

    colour (3, H, W), alpha (1, H, W) or None; None gives an opaque frame where the pixel format has alpha.
    """
    height, width = colour.shape[-2:]
    frame = av.VideoFrame(width, height, pixel_format)
    depth = frame.format.components[0].bits
    top = 2**depth - 1
    with_alpha = any(component.is_alpha for component in frame.format.components)
    opaque = torch.ones_like(colour[:1]) if alpha is None else alpha
    if yuv := _PLANAR_YUV.match(pixel_format):
        planes = _rgb_to_yuv(colour, yuv[3] == "420", depth)
        planes += [opaque[0] * top] if with_alpha else []
        frame.colorspace, frame.color_range = BT709, LIMITED
        frame.color_primaries, frame.color_trc = BT709, BT709
    elif _PLANAR_RGB.match(pixel_format):
        planes = [colour[index] * top for index in (1, 2, 0)]
        planes += [opaque[0] * top] if with_alpha else []
        frame.colorspace, frame.color_range = 0, FULL
    else:
        together = torch.cat([colour, opaque]) if with_alpha else colour
        planes = [together.permute(1, 2, 0).flatten(1) * top]
    for index, samples in enumerate(planes):
        _fill(frame.planes[index], samples, depth, pixel_format.endswith("be"))
    return frame


def _rgb_to_yuv(colour: Tensor, halved: bool, depth: int) -> list[Tensor]:
    red_weight, blue_weight = LUMA[BT709]
    red, green, blue = colour
    luma = red_weight * red + (1 - red_weight - blue_weight) * green + blue_weight * blue
    blue_part = (blue - luma) / (2 * (1 - blue_weight))
    red_part = (red - luma) / (2 * (1 - red_weight))
    luma_0, luma_span, chroma_0, chroma_span = _levels(False, depth)
    chroma = [(_shrink(c) if halved else c) * chroma_span + chroma_0 for c in (blue_part, red_part)]
    return [luma * luma_span + luma_0, *chroma]


def _fill(plane: av.video.plane.VideoPlane, samples: Tensor, depth: int, big: bool) -> None:
    """Round code values (rows, columns) and write them into a plane."""
    kind = np.dtype(np.uint8) if depth <= 8 else np.dtype(">u2" if big else "<u2")
    rows = np.zeros((plane.buffer_size // plane.line_size, plane.line_size // kind.itemsize), kind)
    rounded = (samples + 0.5).floor().clamp(0, 2**depth - 1).numpy()
    rows[: rounded.shape[0], : rounded.shape[1]] = rounded
    plane.update(rows.tobytes())
