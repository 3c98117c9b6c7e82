"""Constraints between clips: blended = foreground + (1 - alpha) * background, in model space too.

A given clip determines parts of the others exactly: outside the matte the background equals the blended video, and one
frame may show what another hides. A network that draws every pixel only approximates that; here it learns where to
copy.

Letters in shape comments: B batch, F frames of one clip, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.schema import ALPHA, ALPHA_OF, BACKGROUND, BLENDED, CHANNELS, FOREGROUND
from ...models.layout import Layout
from ...models.model_space import without_haze
from .opacity import opacity_factor
from .registration import SHARPNESS, uncovered

Fill = Callable[[Tensor, Tensor], Tensor]
"""Function from a background (N, C, H, W) and its certainty (N, 1, H, W) to the whole background (N, C, H, W)."""

STILLNESS = 0.003
"""Variance between frames in model space at which a background counts as moving."""
DRAWN_RIM = 3
"""Width in pixels of the rim around the matte in which a drawn background is not trusted."""
REDRAWN = 0.2
"""Relative change of the matte from which the drawn foreground is replaced altogether."""
NOTHING = 0.06
"""Alpha up to which a separated foreground counts as absent: what is there of the background is seen."""
NOISED = -1e4
"""Score in the pool of a frame whose blended video is not clean."""
BACKGROUND_PLANES = 3
"""Planes of the copy head for the background: shares to copy from this frame and from the pool of frames, and each
frame's score in that pool."""


def copy_planes(foregrounds: int) -> int:
    """Return the number of planes of the copy head: `BACKGROUND_PLANES`, and for each foreground, the nearest first,
    the share to take from the uncomposed video."""
    return BACKGROUND_PLANES + foregrounds


def solve_composition(
    drawn: Mapping[str, Tensor],
    copy: Tensor,
    sequence: Tensor,
    timestep: Tensor,
    layout: Layout,
    fill: Fill | None = None,
    solved: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return clean clips from the network's own and the given ones.

    Args:
        drawn: all clips of a scene, (B, F, C, H, W), as drawn by the network, alpha with one channel; `blended` is a
            correction of the composite of the others.
        copy: (B, F, 3 + A, H, W) the planes of `copy_planes` for A foregrounds; zero copies nothing.
        sequence: (B, K*F, C, H, W) input of the network.
        timestep: (B, K, F or 1) noise level of each clip and frame; frames at level 0 are given and returned unchanged.
        layout: layout of the clips in the sequence.
        fill: function that inpaints backgrounds where no frame shows them; without it the drawn one is kept.
        solved: (B, F) bool, frames whose drawn clips come from `solve_separation` and stay as they are; none if None.
    """
    shown = {name: clip[:, :, : CHANNELS[name]] for name, clip in layout.unpack(sequence).items()}
    given = {name: (timestep[:, i] == 0)[..., None, None, None] for i, name in enumerate(layout.clips)}
    clips = {name: torch.where(given[name], shown[name], drawn[name]).float() for name in layout.clips}
    planes = copy.float().split(1, dim=2)  # (B, F, 1, H, W) each
    gates, residuals = planes[:BACKGROUND_PLANES], planes[BACKGROUND_PLANES:]

    # Copies come from clean blended videos only: a noised one would pass on its noise.
    seen, alpha, known, clean = shown[BLENDED].float(), coverage(clips), given[BACKGROUND], given[BLENDED]
    if solved is not None:
        known = known | solved[..., None, None, None]
    if not known.is_meta and bool(known.all()):
        fill = None
    background = _solve_background(clips[BACKGROUND], alpha, seen, clean & ~known, known, gates, fill)
    clips[BACKGROUND] = torch.where(known, clips[BACKGROUND], background)

    uncomposed = uncompose(clips, residuals, seen)
    clips |= {name: torch.where(clean & ~given[name], own, clips[name]) for name, own in uncomposed.items()}
    clips[BLENDED] = torch.where(clean, seen, drawn[BLENDED].float() + composite(clips))
    return clips


def uncompose(clips: Mapping[str, Tensor], residuals: Sequence[Tensor], seen: Tensor) -> dict[str, Tensor]:
    """Return foregrounds with shares of what their composite lacks of a video, as far as nearer ones let it through.

    Args:
        clips: foregrounds, alphas and background by name, (B, F, C, H, W) in model space, alpha with one channel.
        residuals: (B, F, 1, H, W) share for each foreground, the nearest first.
        seen: (B, F, 3, H, W) blended video.
    """
    lacking = seen - composite(clips)
    through = torch.ones_like(lacking[:, :, :1])
    uncomposed = {}
    for name, residual in zip(foregrounds_of(clips), residuals, strict=True):
        uncomposed[name] = clips[name] + residual * through * lacking
        through = through * (0.5 - 0.5 * clips[ALPHA_OF[name]])
    return uncomposed


def solve_separation(
    drawn: Mapping[str, Tensor],
    residuals: Tensor,
    shown: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    fill: Fill | None = None,
) -> dict[str, Tensor]:
    """Return the layers of frames whose blended clip is given, from separated foregrounds.

    The mattes decide what is seen of the background. Behind them it is copied along its motion from the frames that
    show it, and inpainted where none does.

    Args:
        drawn: foregrounds and alphas, (B, F, C, H, W) in model space, alpha with one channel.
        residuals: (B, F, A, H, W) share of each foreground in what the composite lacks of the blended clip.
        shown: all clips, (B, F, C, H, W); what is not given is not looked at.
        given: (B, F) bool by clip.
        fill: as for `solve_composition`; without it contradictions between frames remain.

    Returns:
        Foregrounds, alphas and background by name; those of frames without a blended clip are meaningless.
    """
    masks = {name: where[..., None, None, None] for name, where in given.items()}
    clips = {
        name: torch.where(masks[name], shown[name][:, :, : clip.shape[2]], clip).float() for name, clip in drawn.items()
    }
    seen, known = shown[BLENDED].float(), masks[BACKGROUND]
    with torch.no_grad():  # the foregrounds are trained to be right, not to suit the background
        source = torch.where(known, shown[BACKGROUND][:, :, :3].float(), seen)
        visible = torch.where(masks[BLENDED], visibility(without_veil(coverage(clips))), 0)
        background, certainty = moved_background(source, torch.where(known, 1, visible))
        if fill is not None:
            filled = fill(background.flatten(0, 1), certainty.flatten(0, 1)).view_as(background).float()
            background = filled + certainty * (background - filled)
        clips[BACKGROUND] = torch.where(known, source, background)
    uncomposed = uncompose(clips, residuals.float().split(1, dim=2), seen)
    return clips | {name: torch.where(masks[name], clips[name], own) for name, own in uncomposed.items()}


def foregrounds_of(clips: Collection[str]) -> list[str]:
    """Return the foregrounds among clips, the nearest first."""
    return [name for name in ALPHA_OF if name in clips]


def coverage(clips: Mapping[str, Tensor]) -> Tensor:
    """Return the alpha (..., 1, H, W) in [-1, 1] of all foregrounds together."""
    first, *others = (clips[ALPHA_OF[name]] for name in foregrounds_of(clips))
    if not others:
        return first
    through = 0.5 - 0.5 * first
    for alpha in others:
        through = through * (0.5 - 0.5 * alpha)
    return 1 - 2 * through


def shining_through(clips: Mapping[str, Tensor]) -> Tensor:
    """Return what the nearest foreground lets through of all behind it, (..., C, H, W) in model space."""
    nearest, *others = foregrounds_of(clips)
    behind = clips[BACKGROUND]
    for name in reversed(others):
        behind = clips[name] + (0.5 - 0.5 * clips[ALPHA_OF[name]]) * behind
    return (0.5 - 0.5 * clips[ALPHA_OF[nearest]]) * behind


def _solve_background(
    drawn: Tensor,
    alpha: Tensor,
    seen: Tensor,
    uncover: Tensor,
    known: Tensor,
    gates: Sequence[Tensor],
    fill: Fill | None,
) -> Tensor:
    """Return the background (B, F, C, H, W), copied from a blended video in frames where `uncover` holds; it is
    `drawn` already where it is `known`. Both are (B, F or 1, 1, 1, 1) bool."""
    here, anywhere, score = gates
    near, far = visibility(alpha), visibility(alpha, DRAWN_RIM)
    far = torch.where(known, 1, far)
    # Frames that are noised are not in the pool.
    score = score.masked_fill(~uncover, NOISED) + SHARPNESS * near.log()
    pooled = (score.softmax(dim=1) * seen).sum(dim=1, keepdim=True)
    copied = drawn + here * (seen - drawn) + anywhere * near.amax(dim=1, keepdim=True) * (pooled - drawn)
    background = torch.where(uncover, copied, drawn)
    # Without a video to copy from, the drawn background keeps an outline of the foreground: a wider rim is left out.
    source, visible = torch.where(uncover, seen, drawn), torch.where(uncover, near, far)
    still, certain = still_background(source, visible)
    background = background + certain * (still - background)
    if fill is not None:
        known, certainty = _with_still(source, visible, still, certain)
        filled = fill(known.flatten(0, 1), certainty.flatten(0, 1)).view_as(background).float()
        background = background + (1 - certainty) * (filled - background)
    return background


def without_veil(alpha: Tensor) -> Tensor:
    """Return alpha in [-1, 1] with up to `NOTHING` of opacity taken away: a faint matte hides nothing."""
    return (alpha + 1 - 2 * NOTHING).clamp(min=0) / (1 - NOTHING) - 1


def moved_background(seen: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Return the background as far as a video shows it, copied along its motion between frames.

    Args:
        seen: (B, F, C, H, W) blended video.
        visible: (B, F, 1, H, W) from `visibility`.

    Returns:
        The background (B, F, C, H, W), and its certainty (B, F, 1, H, W) in [0, 1]: 0 where no frame shows it.
    """
    moved, certain = uncovered(seen, visible)
    share = visible**SHARPNESS
    return moved + share * (seen - moved), certain + (1 - certain) * share


def settle_opacity(
    clips: Mapping[str, Tensor], given: Collection[str], in_part: Collection[str] = ()
) -> dict[str, Tensor]:
    """Return clips whose foreground is as opaque as the background that shines through implies, see `opacity_factor`.

    This is not a part of `solve_composition`: a network that sees its own corrected matte would exaggerate the
    correction from step to step.

    Args:
        clips: those of a scene with one foreground, (B, F, C, H, W) in model space, alpha with one channel.
        given: names of clips given whole. Clips stay as they are without `blended`.
        in_part: names of clips of which any frame is given. Clips stay as they are with one of the foreground.
    """
    clips = dict(clips)
    if BLENDED not in given or {FOREGROUND, ALPHA} & {*given, *in_part}:
        return clips
    seen, background, alpha = clips[BLENDED], clips[BACKGROUND], (0.5 + 0.5 * clips[ALPHA]).clamp(0, 1)
    clear = without_haze(alpha)
    certainty = torch.ones_like(alpha)
    if BACKGROUND not in given:
        certainty = known_background(seen, visibility(clips[ALPHA]))[1]
    factor = opacity_factor(seen, background, clear, certainty)
    settled = (alpha + (factor - 1) * clear).clamp(0, 1)
    uncomposed = seen - (1 - settled) * background
    foreground = factor * clips[FOREGROUND]
    foreground = foreground + ((factor - 1).abs() / REDRAWN).clamp(max=1) * (uncomposed - foreground)
    clips[FOREGROUND] = torch.maximum(torch.minimum(foreground, settled), -settled)
    clips[ALPHA] = 2 * settled - 1
    return clips


def composite(clips: Mapping[str, Tensor]) -> Tensor:
    """Return the foregrounds over the background, (..., C, H, W) in model space."""
    return clips[foregrounds_of(clips)[0]] + shining_through(clips)


def still_background(seen: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Estimate a still background from the frames that show it.

    Args:
        seen: (B, F, C, H, W) blended video.
        visible: (B, F, 1, H, W) from `visibility`.

    Returns:
        The background (B, 1, C, H, W), and its certainty (B, 1, 1, H, W) in [0, 1]: 0 where no frame shows it or where
        frames differ around the pixel because the background moves.
    """
    weight = (SHARPNESS * visible.log()).softmax(dim=1)
    still = (weight * seen).sum(dim=1, keepdim=True)
    shown = visible.amax(dim=1, keepdim=True)
    spread = shown * (weight * (seen - still).square()).sum(dim=1, keepdim=True).mean(dim=2, keepdim=True)
    # A pixel visible in one frame alone has no spread, so the mean over its neighbours counts.
    around = F.avg_pool2d(spread[:, 0], 15, 1, 7, count_include_pad=False)[:, None]
    return still, shown**SHARPNESS * torch.exp(-around / STILLNESS)


def known_background(seen: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Return the background as far as a video shows it.

    Args:
        seen: (B, F, C, H, W) blended video.
        visible: (B, F, 1, H, W) from `visibility`.

    Returns:
        The background (B, F, C, H, W), and its certainty (B, F, 1, H, W) in [0, 1]: 0 where it holds the foreground.
    """
    return _with_still(seen, visible, *still_background(seen, visible))


def _with_still(seen: Tensor, visible: Tensor, still: Tensor, certain: Tensor) -> tuple[Tensor, Tensor]:
    """Return `known_background` given the result of `still_background`."""
    return seen + certain * (still - seen), certain + (1 - certain) * visible**SHARPNESS


def visibility(alpha: Tensor, rim: int = 1) -> Tensor:
    """Return the visibility of the background in (0, 1] for alpha (B, F, 1, H, W) in [-1, 1].

    A rim of `rim` pixels around the matte counts as hidden, because there the matte is least reliable.
    """
    covered = F.max_pool2d(((alpha + 1) / 2).clamp(0, 1).flatten(0, 1), 2 * rim + 1, 1, rim).view_as(alpha)
    return (1 - covered).clamp(min=1e-3)
