"""The sprite book: draws the prompted object in its style and at a phase of its own motion, without noise.

A prompt chooses among the concepts that the book knows; so an unknown noun selects the nearest known thing instead of a
mixture of two. What prompts leave open, such as the style, is drawn at random by numbers that the caller gives. A small
convolutional decoder draws a learned code, as in the latent optimisation of Bojanowski et al. 2018 (arXiv:1707.05776).
The code of a loop is a periodic function of the phase: a Fourier series whose directions are learned.

Letters in shape comments: B batch, F frames of one clip, N = B*F, L layers, R whitened text channels, C concepts,
S styles, K looks (a concept in a style), M directions of all loops, T tints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.compositing import unpremultiply
from ...core.schema import LAYERS
from ..world.sprites import FOREGROUND_COLOURS

LOOK_SIZE = 64
"""Height and width of a drawn sprite in pixels."""
CODE_SIZE = 8
"""Height and width of a code."""
HARMONICS = 11
"""Harmonics of a loop's Fourier series, as many as 24 phases determine."""
TINTS: tuple[str, ...] = ("", *FOREGROUND_COLOURS)
"""Colours that a prompt may ask for, the natural one first."""
CHANCES = 2
"""Random numbers for a choice: of the concept and of the style."""
SHARPNESS = 2.0
"""Power of the probabilities among which chance chooses a concept, so that it seldom chooses an unlikely one."""
UNLIKELY = 0.1
"""Concepts less likely than this share of the likeliest one are never chosen."""


@dataclass(frozen=True)
class BookSizes:
    """Sizes of a book."""

    concepts: int
    """Number of things, C."""
    styles: int
    """Number of styles, S; a moving style counts as one of its own."""
    looks: int
    """Number of things in a style, K."""
    directions: int
    """Number of directions in which the codes of all loops move, M."""
    code: int = 8
    """Channels of a code of 8x8 cells."""
    width: int = 128
    """Channels of the decoder at 8x8 cells."""
    hidden: int = 384
    """Hidden channels of the network that reads prompts."""


class Understood(NamedTuple):
    """Meaning of B prompts."""

    concepts: Tensor
    """(B, C) logits of concepts."""
    styles: Tensor
    """(B, S) logits of styles, as if each concept existed in all of them."""
    tints: Tensor
    """(B, T) logits of `TINTS`."""
    opacity: Tensor
    """(B, 1) opacity in [0, 1]."""


class PromptReader(nn.Module):
    """Reads from mean text states which object, style, colour and transparency prompts ask for."""

    def __init__(self, channels: int, sizes: BookSizes) -> None:
        super().__init__()
        hidden = sizes.hidden
        # A word stands in the prompt of the foreground as it does in that of the blended clip: one layer reads both.
        self.each = nn.Linear(channels, hidden)
        self.layer = nn.Parameter(torch.randn(len(LAYERS), hidden) * 0.02)
        self.features = nn.Sequential(
            nn.GELU("tanh"), nn.Linear(len(LAYERS) * hidden, hidden), nn.GELU("tanh"), nn.Linear(hidden, hidden)
        )
        self.to_concepts = nn.Linear(hidden, sizes.concepts)
        self.to_styles = nn.Linear(hidden, sizes.styles)
        self.to_tints = nn.Linear(hidden, len(TINTS))
        self.to_opacity = nn.Linear(hidden, 1)

    def forward(self, mean: Tensor) -> Understood:
        """Read mean text states (B, L, R)."""
        h = F.gelu(self.features((self.each(mean) + self.layer).flatten(1)), approximate="tanh")
        return Understood(
            self.to_concepts(h).float(),
            self.to_styles(h).float(),
            self.to_tints(h).float(),
            self.to_opacity(h).float().sigmoid(),
        )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions whose result is added to their input (N, C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        return x + self.second(F.gelu(self.first(F.gelu(x, approximate="tanh")), approximate="tanh"))


class CodeDecoder(nn.Module):
    """Draws codes (N, code, 8, 8) as sprites (N, 4, 64, 64): premultiplied colour in [-1, 1] and alpha in [0, 1]."""

    def __init__(self, code: int, width: int) -> None:
        super().__init__()
        middle, fine = width * 5 // 8, width * 5 // 16
        self.layers = nn.Sequential(
            nn.Conv2d(code, width, 3, padding=1),
            ResidualBlock(width),
            nn.Conv2d(width, 4 * middle, 1),
            nn.PixelShuffle(2),
            ResidualBlock(middle),
            nn.Conv2d(middle, 4 * fine, 1),
            nn.PixelShuffle(2),
            ResidualBlock(fine),
            nn.GELU("tanh"),
            nn.Conv2d(fine, 4 * 4, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def forward(self, code: Tensor) -> Tensor:
        """Draw codes."""
        drawn = self.layers(code.contiguous(memory_format=torch.channels_last)).float()
        alpha = drawn[:, 3:].sigmoid()
        return torch.cat([drawn[:, :3].tanh() * alpha, alpha], dim=1)  # premultiplied, so that resampling keeps edges


class SpriteBook(nn.Module):
    """Looks of many things: prompts choose one, and its code is drawn at any phase of its own motion.

    The choice itself passes no gradient; it is learned from captions (`mini.fitting.sprite_book`). Gradients of the
    sprites reach codes and decoder.
    """

    def __init__(self, channels: int, sizes: BookSizes) -> None:
        """
        Args:
            channels: channels R of mean text states.
            sizes: sizes of the book; the tables `looks` and `owner` are set when it is fitted.
        """
        super().__init__()
        self.sizes = sizes
        self.reader = PromptReader(channels, sizes)
        self.codes = nn.Parameter(torch.randn(sizes.looks, sizes.code, CODE_SIZE, CODE_SIZE) * 0.5)
        self.directions = nn.Parameter(torch.randn(sizes.directions, sizes.code, CODE_SIZE, CODE_SIZE) * 0.1)
        self.waves = nn.Parameter(torch.randn(sizes.directions, 2 * HARMONICS) * 0.1)
        self.decoder = CodeDecoder(sizes.code, sizes.width)
        self.looks: Tensor
        self.owner: Tensor
        self.register_buffer("looks", torch.zeros(sizes.concepts, sizes.styles, dtype=torch.long))  # -1: none
        self.register_buffer("owner", torch.zeros(sizes.directions, dtype=torch.long))  # look of each direction

    def forward(self, mean: Tensor, phase: Tensor, chance: Tensor | None = None) -> tuple[Tensor, Understood]:
        """Draw the prompted objects.

        Args:
            mean: (B, L, R) whitened mean text states of the layers.
            phase: (B, F) phases of each object's own motion, one loop from 0 to 1; still objects have none.
            chance: (B, 2) uniform random numbers in [0, 1) that decide what prompts leave open, which concept and
                which style; the likeliest ones if None.

        Returns:
            Sprites (N, 4, 64, 64), premultiplied colour in [-1, 1] and alpha in [0, 1], and the prompts' meaning.
        """
        understood = self.reader(mean)
        sprite = self.draw(self.choose(understood, chance), phase)
        return self.coloured(sprite, understood, phase.shape[1]), understood

    def choose(self, understood: Understood, chance: Tensor | None = None) -> Tensor:
        """Choose looks (B,) among those that exist, by chance (B, 2) or, if None, the likeliest ones."""
        concept = pick(likely(understood.concepts), None if chance is None else chance[:, 0])
        offered = self.looks[concept]  # (B, S)
        styles = understood.styles.masked_fill(offered < 0, float("-inf")).softmax(-1)
        style = pick(styles, None if chance is None else chance[:, 1])
        return offered.gather(1, style[:, None])[:, 0]

    def draw(self, look: Tensor, phase: Tensor) -> Tensor:
        """Draw looks (B,) at phases (B, F) in their natural colours: sprites (N, 4, 64, 64)."""
        return self.decoder(self.code(look, phase))

    def code(self, look: Tensor, phase: Tensor) -> Tensor:
        """Return the codes (N, code, 8, 8) of looks (B,) at phases (B, F)."""
        series = fourier(phase).to(self.waves.dtype) @ self.waves.T  # (B, F, M)
        series = series * (self.owner == look[:, None])[:, None].to(series.dtype)
        moved = series.flatten(0, 1) @ self.directions.flatten(1)  # (N, code*64)
        base = self.codes[look].flatten(1).repeat_interleave(phase.shape[1], dim=0)
        return (base + moved).unflatten(1, self.codes.shape[1:])

    def coloured(self, sprite: Tensor, understood: Understood, frames: int) -> Tensor:
        """Give sprites (N, 4, 64, 64) of clips with F frames the colours and the opacity that prompts ask for."""
        weight = (4 * understood.tints).softmax(-1)
        asked = 1 - weight[:, :1]  # (B, 1)
        colours = weight.new_tensor(list(FOREGROUND_COLOURS.values()))  # (T - 1, 3)
        colour = weight[:, 1:] @ colours / asked.clamp(min=1e-6)  # (B, 3)
        strength = asked[:, :, None, None].repeat_interleave(frames, dim=0)  # (N, 1, 1, 1)
        tinted = tint(sprite, colour, frames)
        sprite = sprite + strength * (tinted - sprite)
        return sprite * understood.opacity[:, :, None, None].repeat_interleave(frames, dim=0)


def likely(logits: Tensor) -> Tensor:
    """Return sharpened probabilities (B, C) of logits, zero for unlikely ones."""
    probability = (SHARPNESS * logits).softmax(-1)
    least = UNLIKELY**SHARPNESS * probability.amax(-1, keepdim=True)
    probability = probability * (probability >= least)
    return probability / probability.sum(-1, keepdim=True)


def pick(probability: Tensor, chance: Tensor | None) -> Tensor:
    """Pick an index (B,) by its probability (B, C): with uniform numbers (B,) in [0, 1), or the likeliest if None."""
    if chance is None:
        return probability.argmax(-1)
    reached = probability.double().cumsum(-1)
    reached = reached / reached[:, -1:]
    return (reached <= chance.double()[:, None]).sum(-1).clamp(max=probability.shape[-1] - 1)


def fourier(phase: Tensor) -> Tensor:
    """Return cosines and sines (..., 22) of phases (...), with the period 1."""
    angle = 2 * torch.pi * phase.float()[..., None] * torch.arange(1, HARMONICS + 1, device=phase.device)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def tint(sprite: Tensor, colour: Tensor, frames: int = 1) -> Tensor:
    """Map luminance to shades of one colour, as `world.sprites` does, but alike in all frames of a clip.

    Args:
        sprite: (N, 4, H, W) premultiplied colour in [-1, 1] and alpha in [0, 1].
        colour: (B, 3) sRGB colours in [0, 1].
        frames: frames F of a clip, N = B*F.

    Returns:
        Sprites of the same shape and alpha.
    """
    planes = sprite.unflatten(0, (-1, frames))  # (B, F, 4, H, W)
    alpha = planes[:, :, 3:]
    straight = (unpremultiply(planes[:, :, :3], alpha, floor=1 / 255, limits=(-1.0, 1.0)) + 1) / 2
    target = colour[:, None, :, None, None]  # (B, 1, 3, 1, 1)
    luminance = (straight * straight.new_tensor([0.30, 0.59, 0.11])[:, None, None]).sum(2, keepdim=True)
    covered = alpha.sum((1, 2, 3, 4), keepdim=True).clamp(min=1e-6)
    mean = (luminance * alpha).sum((1, 2, 3, 4), keepdim=True) / covered
    variance = ((luminance - mean).square() * alpha).sum((1, 2, 3, 4), keepdim=True) / covered
    # A flat sprite gets more contrast, a contrasty one a little less.
    shade = (luminance - mean) * (0.17 / (variance + 1e-8).sqrt().clamp(min=1e-3)).clamp(max=1.6)
    darker = target * (1 + shade / 0.5).clamp(0.1, 1)
    lighter = target + (1 - target) * (shade / 0.5).clamp(0, 0.75)
    tinted = torch.where(shade < 0, darker, lighter)  # (B, F, 3, H, W)
    return torch.cat([(2 * tinted - 1) * alpha, alpha], dim=2).flatten(0, 1)
