"""What a pixel's clips owe each other: blended = foreground + (1 - alpha) * background, in model space too.

A given clip tells much of the others exactly: outside the matte the background is the blended video, and what one frame
hides another may show. A network that draws every pixel itself can only come near that; here it learns where to copy.

Letters in shape comments: B batch, F frames of one clip, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.schema import CLIPS
from ...models.layout import Layout
from ...models.model_space import without_haze
from .opacity import opacity_factor

Fill = Callable[[Tensor, Tensor], Tensor]
"""A background (N, C, H, W) and how certain it is (N, 1, H, W) to the whole of it (N, C, H, W)."""

SHARPNESS = 4.0
"""How much more a frame counts in the pool the more the background shows in it."""
STILLNESS = 0.003
"""Variance between frames, in model space, at which a background counts as moving."""
DRAWN_RIM = 3
"""Pixels around the matte in which a background that is not copied is not trusted."""
REDRAWN = 0.2
"""Change of the matte, as a share of it, from which a foreground that was drawn for another one counts for nothing."""
COPY_PLANES = 4
"""How much of the background to copy from this frame and from the frames' pool, each frame's score in that pool, and
how much of the foreground to take from what the composite leaves."""


def solve_composition(
    drawn: Mapping[str, Tensor],
    copy: Tensor,
    sequence: Tensor,
    timestep: Tensor,
    layout: Layout,
    fill: Fill | None = None,
) -> dict[str, Tensor]:
    """Clean clips from what the network drew and from what is given.

    Args:
        drawn: the network's own clips (B, F, C, H, W) by name, alpha with one channel; `blended` is a correction
            of the composite of the others. All of `CLIPS`.
        copy: (B, F, 4, H, W) the planes of `COPY_PLANES`; zero copies nothing.
        sequence: (B, K*F, C, H, W) what the network was shown.
        timestep: (B, K) noise level of each clip; one at level 0 is given and comes back as it was shown.
        layout: where the clips stand in the sequence.
        fill: draws what no frame shows of a background; None leaves it as it was drawn.
    """
    shown = layout.unpack(sequence)
    shown["alpha"] = shown["alpha"][:, :, :1]
    given = {name: (timestep[:, layout.clips.index(name)] == 0)[:, None, None, None, None] for name in CLIPS}
    clips = {name: torch.where(given[name], shown[name], drawn[name]).float() for name in CLIPS}
    here, anywhere, score, rest = copy.float().split(1, dim=2)

    # Only a clean blended video is copied from: in a noised one the noise would be copied too.
    uncover = given["blended"] & ~given["background"]
    seen = shown["blended"].float()
    own = clips["background"]
    near, far = visibility(clips["alpha"]), visibility(clips["alpha"], DRAWN_RIM)
    pooled = ((score + SHARPNESS * near.log()).softmax(dim=1) * seen).sum(dim=1, keepdim=True)
    copied = own + here * (seen - own) + anywhere * near.amax(dim=1, keepdim=True) * (pooled - own)
    found = torch.where(uncover, copied, own)
    # What is drawn without a video to copy from keeps an outline of the foreground as well: a wider rim is left out.
    shows, visible = torch.where(uncover, seen, own), torch.where(uncover, near, far)
    still, sure = still_background(shows, visible)
    found = found + sure * (still - found)
    if fill is not None and (given["background"].is_meta or not bool(given["background"].all())):
        known, certainty = _with_still(shows, visible, still, sure)
        filled = fill(known.flatten(0, 1), certainty.flatten(0, 1)).view_as(found).float()
        found = found + (1 - certainty) * (filled - found)
    clips["background"] = torch.where(given["background"], own, found)

    behind = (0.5 - 0.5 * clips["alpha"]) * clips["background"]
    own = clips["foreground"]
    left = own + rest * (seen - behind - own)
    clips["foreground"] = torch.where(given["blended"] & ~given["foreground"], left, own)
    over = clips["foreground"] + behind
    clips["blended"] = torch.where(given["blended"], seen, drawn["blended"].float() + over)
    return clips


def settle_opacity(clips: Mapping[str, Tensor], given: Collection[str]) -> dict[str, Tensor]:
    """Finished clips whose foreground is as opaque as what shines through it says, see `opacity_factor`.

    Not a part of `solve_composition`: a network that is shown its own matte made clearer or denser goes further that
    way step by step.

    Args:
        clips: all of `CLIPS`, (B, F, C, H, W) in model space, alpha with one channel.
        given: names of clips that are not to be changed; nothing is where `blended` is not of them.
    """
    clips = dict(clips)
    if "blended" not in given or {"foreground", "alpha"} & set(given):
        return clips
    seen, background, share = clips["blended"], clips["background"], (0.5 + 0.5 * clips["alpha"]).clamp(0, 1)
    shown = without_haze(share)
    certainty = torch.ones_like(share)
    if "background" not in given:
        certainty = known_background(seen, visibility(clips["alpha"]))[1]
    factor = opacity_factor(seen, background, shown, certainty)
    settled = (share + (factor - 1) * shown).clamp(0, 1)
    left = seen - (1 - settled) * background
    own = clips["foreground"]
    own = factor * own + ((factor - 1).abs() / REDRAWN).clamp(max=1) * (left - factor * own)
    clips["foreground"] = torch.maximum(torch.minimum(own, settled), -settled)
    clips["alpha"] = 2 * settled - 1
    return clips


def still_background(seen: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """What the frames that show the background agree on, and how sure that is.

    Args:
        seen: (B, F, C, H, W) blended video.
        visible: (B, F, 1, H, W) from `visibility`.

    Returns:
        The background (B, 1, C, H, W), and (B, 1, 1, H, W) from 0, where no frame shows it or where frames around the
        pixel differ because it moves, to 1.
    """
    weight = (SHARPNESS * visible.log()).softmax(dim=1)
    still = (weight * seen).sum(dim=1, keepdim=True)
    shown = visible.amax(dim=1, keepdim=True)
    spread = shown * (weight * (seen - still).square()).sum(dim=1, keepdim=True).mean(dim=2, keepdim=True)
    # A pixel that one frame alone shows cannot disagree with itself, so its neighbours are asked.
    around = F.avg_pool2d(spread[:, 0], 15, 1, 7, count_include_pad=False)[:, None]
    return still, shown**SHARPNESS * torch.exp(-around / STILLNESS)


def known_background(seen: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """What a video shows of its background, and how certain that is.

    Args:
        seen: (B, F, C, H, W) blended video.
        visible: (B, F, 1, H, W) from `visibility`.

    Returns:
        The background (B, F, C, H, W), and (B, F, 1, H, W) from 0, where it holds the foreground, to 1.
    """
    return _with_still(seen, visible, *still_background(seen, visible))


def _with_still(seen: Tensor, visible: Tensor, still: Tensor, sure: Tensor) -> tuple[Tensor, Tensor]:
    """`known_background` of a video whose `still_background` is found."""
    return seen + sure * (still - seen), sure + (1 - sure) * visible**SHARPNESS


def visibility(alpha: Tensor, rim: int = 1) -> Tensor:
    """How far the background shows at each pixel and its neighbours, above 0 to 1, for alpha (B, F, 1, H, W) in
    [-1, 1]: the matte's rim, so many pixels wide, counts as hidden, for there it is least sure."""
    covered = F.max_pool2d(((alpha + 1) / 2).clamp(0, 1).flatten(0, 1), 2 * rim + 1, 1, rim).view_as(alpha)
    return (1 - covered).clamp(min=1e-3)
