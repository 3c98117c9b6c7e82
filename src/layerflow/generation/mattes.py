"""Mattes from clicks and trimaps, made by the bundled model for models that take whole mattes only.

Letters: F frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.given import Given
from ..core.layered_video import LayeredVideo
from ..core.schema import ALPHA, ALPHA_OF, BLENDED
from ..models.folders import BUNDLED
from ..pipeline import LayerFlowPipeline
from . import load as models
from .hints import known_frames
from .resolve import Resolved

PRESENT = 0.1
"""Alpha from which pixels of a matte hang together."""
MOST_ASPECT = 2.5
"""Largest ratio of the sides of a shot as the bundled model sees it; wider shots are squeezed."""


def with_mattes(resolved: Resolved, groups: Sequence[range], device: str) -> Resolved:
    """Return a request in which mattes that are known in part are given whole, in all frames of their groups.

    Args:
        resolved: a request that gives the blended clip in all frames.
        groups: frames that the model takes together only, see `SequenceCodec.groups`.
        device: device for the bundled model.
    """
    given = resolved.given
    assert given is not None
    pipeline = models.load_pipeline(models.model_folder(BUNDLED[0]), device, "float32")
    clips, numbers = given.video.clips(), {name: given.numbers(name) for name in given.video.clips()}
    prompts = dict(zip(ALPHA_OF.values(), resolved.request.foreground, strict=False))
    for alpha, known in given.hints.items():
        wanted = set(known_frames(known))
        for group in (group for group in groups if wanted & set(group)):
            matte = make_matte(given, alpha, group, pipeline, prompts.get(alpha, ""), resolved.request.seed)
            open_frames = [number for number in group if number not in numbers[alpha]]
            clips[alpha] = clips[alpha].clone()
            clips[alpha][open_frames] = matte[[number - group.start for number in open_frames]]
            numbers[alpha] = tuple(sorted({*numbers[alpha], *group}))
    video = LayeredVideo.from_clips(clips, given.video.fps)
    return replace(resolved, given=Given(video, numbers), needs_mattes=False)


def make_matte(given: Given, alpha: str, group: range, pipeline: LayerFlowPipeline, prompt: str, seed: int) -> Tensor:
    """Return the matte of a group of frames, (frames of the group, 1, H, W) in [0, 1].

    The bundled model decomposes a run of frames around the group, with the hints in it.
    """
    video, known = given.video, given.hints[alpha]
    assert video.blended is not None
    frames, trained_height, trained_width = pipeline.codec.for_given({BLENDED}).trained_size
    upscale = 1 if pipeline.upscaler is None else pipeline.upscaler.factors[-1]
    count = min(max(frames, len(group)), video.frames)
    start = min(max(0, group.start - (count - len(group)) // 2), video.frames - count)
    run = slice(start, start + count)
    height, width = (
        upscale * side for side in drawn_size(video.height, video.width, (trained_height, trained_width), pipeline)
    )
    small = LayeredVideo(blended=video.blended[run]).resize(height, width)
    value, where = reduce_hints(video.clips()[alpha][run], known[run], height, width)
    hinted = Given(small.replace(alpha=value), {BLENDED: slice(None), ALPHA: ()}, {ALPHA: where})
    result = pipeline(foreground=prompt, given=hinted, upscale=upscale, generator=torch.Generator().manual_seed(seed))
    assert not isinstance(result, tuple)
    made = result.video.alpha
    assert made is not None
    made = made * connected(made, where & (value > 0.5))
    large = LayeredVideo(alpha=made).resize(video.height, video.width).alpha
    assert large is not None
    return large[group.start - start : group.stop - start]


def connected(matte: Tensor, seeds: Tensor) -> Tensor:
    """Return 1 where a matte (F, 1, H, W) is connected to seeds (bool), over frames too, else 0.

    The model may have taken other things besides. Where no seed lies on the matte, all of it stays.
    """
    present = (matte > PRESENT).float()
    region = present * seeds
    if not bool(region.any()):
        return torch.ones_like(matte)
    while True:
        grown = F.max_pool3d(region.transpose(0, 1), 3, 1, 1).transpose(0, 1) * present
        if torch.equal(grown, region):
            break
        region = grown
    soft = F.max_pool2d(region, 3, 1, 1)  # the faint rim below `PRESENT`
    return torch.where(present > 0, region, soft)


def drawn_size(height: int, width: int, trained: tuple[int, int], pipeline: LayerFlowPipeline) -> tuple[int, int]:
    """Return height and width near those a model was trained at, with an aspect near that of `height` to `width`."""
    multiple = pipeline.codec.autoencoder.spatial_compression * pipeline.codec.size_multiple
    short = min(trained)
    long = round(short * min(MOST_ASPECT, max(height, width) / min(height, width)) / multiple) * multiple
    return (short, long) if width >= height else (long, short)


def reduce_hints(value: Tensor, known: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return values and known pixels (F, 1, H, W) at another size; a pixel is known where a part of it is."""
    weight = known.float()
    share = F.adaptive_avg_pool2d(weight, (height, width))
    mean = F.adaptive_avg_pool2d(value * weight, (height, width)) / share.clamp(min=1e-6)
    return (mean * (share > 0)).clamp(0, 1), share > 0
