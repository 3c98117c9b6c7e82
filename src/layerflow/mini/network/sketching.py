"""What prompts leave open in the sketches of the mini's backbone: drawn in sampling, measured in training.

Letters in shape comments: B batch, K clips, F frames of one clip, L layers, A foregrounds, C channels, H height, W
width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ...core.schema import ALPHA_OF, BACKGROUND
from ...models.layout import Layout
from .conditioning import Conditioned
from .recognition import recognise
from .sketch import OBJECT_CHANCES, Known, Sketch, means_by_foreground, placement_between, with_opacity
from .sprite_book import Understood
from .text_encoder import pool


class Sketched(Conditioned):
    """A backbone with sketches."""

    sketch: Sketch

    def sampling_inputs(
        self,
        batch: int,
        generator: torch.Generator | list[torch.Generator] | None = None,
        device: torch.device | None = None,
    ) -> dict[str, Tensor]:
        """See `Backbone`: a placement for each sample, and chances of its looks."""
        inputs = {"placement": self.draw_placement(batch, generator, device)}
        if self.sketch.object.has_book:
            inputs["chance"] = self.draw_chance(batch, generator, device)
        return inputs

    def training_inputs(
        self,
        sequence: Tensor,
        layout: Layout,
        given: Tensor,
        text: Tensor,
        mask: Tensor,
        frame_positions: Tensor,
        generators: Sequence[torch.Generator],
    ) -> dict[str, Tensor]:
        """See `Backbone`: true placement and looks where no given clip shows them, else random ones, as in sampling."""
        shown = given[:, [name != BACKGROUND for name in layout.clips]].any(dim=2).any(dim=1)
        drawn = self.sampling_inputs(len(shown), list(generators))
        true = self.find_inputs(text, mask, frame_positions, layout.unpack(sequence))
        return {name: torch.where(shown[:, None], drawn[name].to(value), value) for name, value in true.items()}

    def draw_placement(
        self,
        batch: int,
        generator: torch.Generator | list[torch.Generator] | None = None,
        device: torch.device | None = None,
    ) -> Tensor:
        """Draw random places and sizes of the objects of A foregrounds (B, 3 * A), see `sketch.place_sprite`.

        Args:
            batch: number of samples, B.
            generator: source of randomness; the global one if None.
            device: device of the result; that of the weights if None, which is wrong for offloaded ones.
        """
        spread: float = self.config.placement_spread
        return spread * self._draw_normal(batch, 3, generator, device).clamp(-2, 2)

    def draw_chance(
        self,
        batch: int,
        generator: torch.Generator | list[torch.Generator] | None = None,
        device: torch.device | None = None,
    ) -> Tensor:
        """Draw uniform numbers in [0, 1) for the looks of the objects of A foregrounds (B, 3 * A), see `ObjectSketch`.

        Args:
            batch, generator, device: as for `draw_placement`.
        """
        noise = self._draw_normal(batch, OBJECT_CHANCES, generator, device)
        return torch.special.ndtr(noise).clamp(max=1 - 1e-6)  # diffusers draws normal numbers from lists of generators

    def _draw_normal(
        self,
        batch: int,
        each: int,
        generator: torch.Generator | list[torch.Generator] | None,
        device: torch.device | None,
    ) -> Tensor:
        """Draw normal numbers, `each` of them for each foreground."""
        size = batch, each * len(self.foregrounds)
        noise: Tensor = randn_tensor(size, generator=generator, device=device or self.device, dtype=torch.float32)
        return noise

    @torch.no_grad()
    def find_inputs(
        self, text: Tensor, mask: Tensor, frame_positions: Tensor, clips: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Measure placement (B, 3 * A), and chances (B, 3 * A) of the looks in a book, of true clips.

        Args:
            text, mask, frame_positions: as for `forward`.
            clips: true clips (B, F, C, H, W) in model space by name, foregrounds and mattes among them.
        """
        mean = self.pool_whitening(pool(text.to(self.text_proj.weight.dtype), mask))
        frame_code = self.frame_code(frame_positions).to(mean.dtype)
        means, placements, chances = means_by_foreground(mean), [], []
        for name, own in zip(self.foregrounds, means, strict=True):
            colour, alpha = clips[name], clips[ALPHA_OF[name]][:, :, :1]
            chance = None
            if self.sketch.object.has_book:
                chance = self._find_chance(own, frame_code, frame_positions, with_opacity(colour, alpha))
                chances.append(chance)
            drawn = self.sketch.object(own, frame_code, None, chance, frame_positions, alpha.shape[-2:])
            drawn = drawn[:, 3].unflatten(0, frame_positions.shape)
            placements.append(placement_between(drawn, alpha[:, :, 0], 3 * self.config.placement_spread))
        found = {"placement": torch.cat(placements, dim=1)}
        if chances:
            found["chance"] = torch.cat(chances, dim=1)
        if len(chances) > 1:  # true clips show where objects are
            found["placement"] = found["placement"] - self.sketch.side_by_side(means, frame_code, found["chance"])
        return found

    def _find_chance(self, mean: Tensor, frame_code: Tensor, positions: Tensor, planes: Tensor) -> Tensor:
        """Return the chances (B, 3) that draw what true foregrounds (B, F, 4, H, W) show."""
        sketch = self.sketch.object
        understood = sketch.book.reader(mean)
        angle, mirrored = sketch.course(mean, frame_code).angle, sketch.mirrored(mean, frame_code)
        return torch.stack(
            [
                recognise(
                    sketch.book,
                    Understood(*(part[n : n + 1] for part in understood)),
                    planes[n],
                    positions[n],
                    angle[n],
                    mirrored[n].expand(len(angle[n])),
                )
                for n in range(len(mean))
            ]
        )

    def known_foregrounds(
        self, clips: Mapping[str, Tensor], given: Mapping[str, Tensor], separated: Mapping[str, Tensor], apart: Tensor
    ) -> list[Known]:
        """Return what given frames show of each foreground; nothing without a book.

        Args:
            clips: (B, F, 3, H, W) by name, clean at given frames.
            given: (B, F) bool by clip.
            separated: foregrounds and alphas of frames that were taken apart, by name; perhaps none.
            apart: (B, F) bool, which frames were.
        """
        if not self.sketch.object.has_book:
            return []
        known = []
        for name in self.foregrounds:
            alpha = ALPHA_OF[name]
            planes = with_opacity(clips[name], clips[alpha][:, :, :1])
            frames = given[name] & given[alpha]
            if separated:
                found = with_opacity(separated[name].detach(), separated[alpha].detach())
                planes = torch.where(frames[..., None, None, None], planes, found.to(planes.dtype))
                frames = frames | apart
            known.append(Known(planes, frames))
        return known

    def as_sketched(
        self, clips: Mapping[str, Tensor], objects: Sequence[Tensor], given: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return drawn clips with foregrounds as a book draws them, or as they are carried.

        A network that sees noise draws them worse. It decides where colour or alpha of a foreground is given without
        the other: the book knows nothing of what they show.

        Args:
            clips: drawn clips (B, F, C, H, W) by name, alpha with one channel.
            objects: sketch (N, 4, H, W) of each foreground.
            given: (B, F) bool by clip.
        """
        drawn = dict(clips)
        if not self.sketch.object.has_book:
            return drawn
        for name, planes in zip(self.foregrounds, objects, strict=True):
            alpha = ALPHA_OF[name]
            half = (given[name] ^ given[alpha]).any(1)[:, None, None, None, None]  # (B, 1, 1, 1, 1)
            sketch = planes.unflatten(0, drawn[name].shape[:2]).to(drawn[name].dtype)
            drawn[name] = torch.where(half, drawn[name], sketch[:, :, :-1])
            drawn[alpha] = torch.where(half, drawn[alpha], sketch[:, :, -1:])
        return drawn
