"""What given frames show: features of objects, motion between frames, and likeness to what is known of a matte.

All of it is a function of given frames, so a sampling run computes it once.

Letters in shape comments: B batch, K clips, F frames of one clip, A foregrounds, N = B*F, D channels of a cell, C
channels, H height, W width, h = H/8 and w = W/8 for cells of 8 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.schema import ALPHA_OF, BACKGROUND, BLENDED, FOREGROUND
from .foregrounds import PlaceInStack
from .image_features import CHANNELS, ImageFeatures
from .sketch import zeroed

CELL = 8
"""Height and width of a cell in pixels."""
REACH = 4
"""Farthest displacement between neighbouring frames that is compared, in steps of half a cell."""
MOTION_PLANES = 2 * (2 * REACH + 1) ** 2
"""Similarities at all displacements to the frame before and to the next."""
LIKENESS_PLANES = 6
"""Largest and mean likeness to the known foreground and to the known background, and the two known shares of a cell."""
KINDS = (FOREGROUND, BACKGROUND, BLENDED)
"""Kinds of colour clips; all foregrounds are of one kind."""


def normalised(features: Tensor) -> Tensor:
    """Return features (N, C, h, w) with mean 0 and variance 1 over the channels of each cell."""
    return F.layer_norm(features.permute(0, 2, 3, 1), features.shape[1:2]).permute(0, 3, 1, 2)


class ClipFeatures(nn.Module):
    """Projections of the image features of one kind of clip to cells, and to half cells."""

    def __init__(self, dim: int, fine: int) -> None:
        super().__init__()
        quarter, eighth, sixteenth = CHANNELS
        self.quarter = nn.Conv2d(quarter, dim, 2, stride=2, bias=False)
        self.eighth = nn.Conv2d(eighth, dim, 1, bias=False)
        self.sixteenth = nn.Conv2d(sixteenth, dim, 1, bias=False)
        self.fine = zeroed(nn.Conv2d(quarter, fine, 1, bias=False))

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Map normalised features at strides 4, 8 and 16 to (N, D, h, w) and (N, fine, 2h, 2w)."""
        quarter, eighth, sixteenth = levels
        cells = self.quarter(quarter) + self.eighth(eighth)
        coarse = self.sixteenth(sixteenth)
        return cells + F.interpolate(coarse, cells.shape[-2:], mode="bilinear", align_corners=False), self.fine(quarter)


class Observation(nn.Module):
    """Observes given frames.

    Args:
        dim: channels of a cell.
        fine: channels of half a cell.
    """

    def __init__(self, dim: int, fine: int) -> None:
        super().__init__()
        self.channels = dim, fine
        self.encoder = ImageFeatures()
        self.clips = nn.ModuleDict({kind: ClipFeatures(dim, fine) for kind in KINDS})
        self.place = PlaceInStack(dim, distinct=True)
        self.motion = nn.Conv2d(MOTION_PLANES, dim, 2, stride=2, bias=False)
        self.likeness = nn.Conv2d(LIKENESS_PLANES, dim, 3, padding=1, bias=False)

    def forward(
        self, clips: Mapping[str, Tensor], given: Mapping[str, Tensor], hints: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Observe given frames.

        Args:
            clips: (B, F, C, H, W) in model space, by name; what is not given is not looked at.
            given: (B, F) bool by clip, True where a frame is given.
            hints: (B, A, F, 2, H, W), see `Backbone.takes_hints`.

        Returns:
            (N, D, h, w) for cells and (N, fine, 2h, 2w) for half cells; zero where nothing is given.
        """
        frames = clips[BLENDED]
        b, f, _, height, width = frames.shape
        h, w = height // CELL, width // CELL
        dtype = self.motion.weight.dtype
        cells = torch.zeros(b * f, self.channels[0], h, w, device=frames.device, dtype=dtype)
        fine = torch.zeros(b * f, self.channels[1], 2 * h, 2 * w, device=frames.device, dtype=dtype)
        foregrounds = [name for name in ALPHA_OF if name in clips]
        for name in (*foregrounds, BACKGROUND, BLENDED):
            where = given[name].flatten()
            if not where.is_meta and not bool(where.any()):
                continue
            levels = [normalised(level) for level in self._encode(clips[name].flatten(0, 1), where)]
            kind, place = (FOREGROUND, foregrounds.index(name)) if name in foregrounds else (name, 0)
            shown, detail = self.clips[kind](levels)
            shown = self.place(shown, place)
            if name == BLENDED:
                shown = shown + self.motion(self._displacements(levels[0], given[name], (b, f)).to(dtype))
                if hints is not None or self._mattes(clips, given):
                    shown = shown + self._alike(levels, clips, given, hints, foregrounds).to(dtype)
            shares = where.view(-1, 1, 1, 1).to(dtype)
            cells, fine = cells + shares * shown, fine + shares * detail
        return cells, fine

    def _encode(self, frames: Tensor, where: Tensor) -> list[Tensor]:
        """Return features of the frames (N, 3, H, W) at which `where` (N,) is True, zero at the others."""
        if where.is_meta or bool(where.all()):
            levels: list[Tensor] = self.encoder(frames)
            return levels
        some = self.encoder(frames[where])
        return [level.new_zeros(len(frames), *level.shape[1:]).index_put((where,), level) for level in some]

    def _displacements(self, features: Tensor, given: Tensor, size: tuple[int, int]) -> Tensor:
        """Return cosine similarities (N, 162, 2h, 2w) of features (N, C, 2h, 2w) to those of the neighbouring frames
        displaced by up to `REACH`, zero where either frame is not given."""
        unit = F.normalize(features, dim=1).unflatten(0, size)  # (B, F, C, 2h, 2w)
        both = (given[:, 1:] & given[:, :-1])[..., None, None]
        side = 2 * REACH + 1
        rows, columns = unit.shape[-2:]

        def moved(x: Tensor, number: int) -> Tensor:
            top, left = divmod(number, side)
            return x[..., top : top + rows, left : left + columns]

        after = unit.new_zeros(*size, side**2, rows, columns)
        following = F.pad(unit[:, 1:].flatten(0, 1), (REACH,) * 4).unflatten(0, (size[0], -1)) if size[1] > 1 else unit
        for number in range(side**2 if size[1] > 1 else 0):
            after[:, :-1, number] = (unit[:, :-1] * moved(following, number)).sum(2) * both
        # The likeness of a place to one in the frame before is that of the latter to the former.
        before = torch.zeros_like(after)
        opposite = F.pad(after.flatten(0, 1), (REACH,) * 4).unflatten(0, size)
        for number in range(side**2):
            before[:, 1:, number] = moved(opposite[:, :-1, side**2 - 1 - number], number)
        return torch.cat([before, after], dim=2).flatten(0, 1)

    @staticmethod
    def _mattes(clips: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
        """Return the mattes of which some frames are given, and not all."""
        mattes = [alpha for colour, alpha in ALPHA_OF.items() if colour in clips]
        return [
            name for name in mattes if given[name].is_meta or bool((given[name].any(1) & ~given[name].all(1)).any())
        ]

    def _alike(
        self,
        levels: list[Tensor],
        clips: Mapping[str, Tensor],
        given: Mapping[str, Tensor],
        hints: Tensor | None,
        foregrounds: list[str],
    ) -> Tensor:
        """Return what the likeness to known pixels of each matte adds to cells, (N, D, h, w)."""
        b, f = given[BLENDED].shape
        pooled = F.avg_pool2d(levels[0], 2)
        unit = F.normalize(torch.cat([F.normalize(pooled, dim=1), F.normalize(levels[1], dim=1)], dim=1), dim=1)
        cells = unit.unflatten(0, (b, f)).permute(0, 1, 3, 4, 2).flatten(1, 3)  # (B, F*h*w, C)
        total = None
        for place, name in enumerate(foregrounds):
            alpha = ALPHA_OF[name]
            value = clips[alpha][:, :, 0].clamp(-1, 1)  # (B, F, H, W)
            known = (given[alpha] & ~given[alpha].all(1, keepdim=True)).to(value.dtype)[..., None, None]
            inside, outside = known * (value + 1) / 2, known * (1 - value) / 2
            if hints is not None:
                hinted, place_known = hints[:, place, :, 0], hints[:, place, :, 1]
                inside = inside + (1 - known) * (place_known + hinted) / 2
                outside = outside + (1 - known) * (place_known - hinted) / 2
            shares = F.avg_pool2d(torch.stack([inside, outside], dim=2).flatten(0, 1), CELL)  # (N, 2, h, w)
            planes = [shares, *self._likeness(cells, shares.unflatten(0, (b, f)))]
            own = self.place(self.likeness(torch.cat(planes, dim=1).to(self.likeness.weight.dtype)), place)
            total = own if total is None else total + own
        assert total is not None
        return total

    @staticmethod
    def _likeness(cells: Tensor, shares: Tensor) -> list[Tensor]:
        """Return the largest and the mean likeness of each cell to known foreground and background, (N, 2, h, w) each.

        Args:
            cells: (B, F*h*w, C) unit features.
            shares: (B, F, 2, h, w) known shares of each cell.
        """
        b, f, _, h, w = shares.shape
        found = []
        for side in range(2):
            weight = shares[:, :, side].flatten(1)  # (B, F*h*w)
            # A cell counts as known by its known part relative to the best known one: clicks are small.
            weight = weight / weight.amax(1, keepdim=True).clamp(min=1e-6) * (weight.amax(1, keepdim=True) > 0)
            rows = []
            for own, row in zip(cells, weight, strict=True):
                sure = torch.ones_like(row, dtype=torch.bool) if row.is_meta else row > 0.5
                if not row.is_meta and not bool(sure.any()):
                    rows.append(own.new_zeros(2, len(own)))
                    continue
                likeness = own @ own[sure].T if not row.is_meta else own @ own.T  # (F*h*w, known)
                rows.append(torch.stack([likeness.amax(1), likeness.mean(1)]))
            found.append(torch.stack(rows).view(b, 2, f, h, w).transpose(1, 2).flatten(0, 1))
        return found
