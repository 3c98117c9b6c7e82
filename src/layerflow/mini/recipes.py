"""Recipes of the mini alone: keys under `mini:` of a training recipe, its upscaler and its text encoder."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..core.config import ConfigError
from ..core.errors import FieldError
from .world.composites.settings import Composites
from .world.variations import Variations


@dataclass(frozen=True)
class MiniRecipe:
    """Keys of a training recipe under `mini:`, for a fresh mini and for drawn scenes."""

    text: str = "mini"
    """Model whose tokenizer and text encoder a fresh network uses, frozen."""
    book: str = ""
    """File with a fitted sprite book, relative to the working folder, from which the network then draws objects; see
    `layerflow mini book`."""
    sketch_scenes: int = 60_000
    """Stills that a fresh network's sketch, or one with another book, is fitted to before training begins; 0 leaves it
    as it is."""
    sketch_epochs: int = 7
    """Number of times that the sketch sees each of them."""
    fill_steps: int = 4000
    """Steps in which a fresh network learns to continue backgrounds behind a foreground; 0 leaves it as it is."""
    fill_refit_steps: int = 0
    """Steps in which that part of a network which is continued learns again, on the recipe's drawn data."""
    extra_objects: float = 0.5
    """Share of samples that may show any object, and not one of the core objects that evaluation asks for. Without
    effect on scenes of an atlas."""
    stacks: float = 0.0
    """Share of clean scenes with the moving object of another scene before or behind their own: a second foreground, or
    a part of the background where the network has one foreground; which of the two is random then."""
    composites: Composites = field(default_factory=Composites)
    """Shares of composites that are varied."""
    variations: Variations = field(default_factory=Variations)
    """Shares of drawn scenes that are varied."""

    def __post_init__(self) -> None:
        for name in ("sketch_scenes", "sketch_epochs", "fill_steps", "fill_refit_steps"):
            if getattr(self, name) < 0:
                raise FieldError(name, f"is {getattr(self, name)}, but must be at least 0")
        for name in ("extra_objects", "stacks"):
            if not 0 <= getattr(self, name) <= 1:
                raise FieldError(name, f"is {getattr(self, name)}, but must be a share between 0 and 1")


CROPS = 4
"""Crops of one scene; one lies anywhere, the others at its matte."""


@dataclass(frozen=True)
class UpscalerRecipe:
    """Recipe of the upscaler's training."""

    name: str
    """Folder under the output folder."""
    seed: int = 0
    """Seed of scenes and weights."""
    size: int = 64
    """Height and width of a small scene, in pixels."""
    clip_frames: int = 8
    """Frames of a clip."""
    factor: int = 4
    """Number of times that clips become larger."""
    width: int = 64
    """Channels of the network."""
    num_blocks: int = 10
    """Residual blocks of the network."""
    crop: int = 32
    """Height and width of a crop of a small scene."""
    frames: int = 3
    """Neighbouring frames of a crop."""
    batch: int = 16
    """Crops of a step."""
    steps: int = 4000
    """Optimiser steps."""
    learning_rate: float = 1e-3
    """Learning rate after the warm-up; it falls along a cosine to a hundredth."""
    warmup: int = 100
    """Steps of linear warm-up."""
    ema: float = 0.995
    """Decay of the moving average of the weights, which is the result."""
    blur: float = 0.8
    """Largest standard deviation, in small pixels, of the blur that half of the layers get: what a model generates is
    softer than what is drawn."""
    noise: float = 0.04
    """Largest standard deviation of noise on the layers, of their range from -1 to 1."""
    grid: float = 0.015
    """Largest standard deviation of a tile that is repeated over the frame, as a network's patches show in what it
    draws."""
    temporal_weight: float = 0.5
    """Weight of the error of the change from frame to frame."""
    see_through: float = 0.0
    """Share of scenes with a see-through foreground, see `Variations`."""
    composites: float = 0.0
    """Share of scenes, in [0, 1], that are composites of an atlas, which are softer than drawn ones."""
    folder: str = ""
    """Folder of the atlas, relative to the working folder."""
    precision: str = "no"
    """Number format of the network: no (float32), bf16, or auto, which is bf16 on a processor that computes in it."""
    workers: int = 1
    """Processes that render scenes."""
    log_every: int = 20
    """Steps from one report to the next."""
    checkpoint_every: int = 200
    """Steps from one checkpoint to the next."""

    def __post_init__(self) -> None:
        if not 2 <= self.frames <= self.clip_frames or self.crop > self.size or self.batch % CROPS:
            raise ConfigError(
                f"frames {self.frames} must be from 2 to clip_frames {self.clip_frames}, crop {self.crop} at most size "
                f"{self.size}, and batch {self.batch} a multiple of {CROPS}"
            )
        if self.precision not in ("auto", "no", "bf16"):
            raise ConfigError(f"precision is {self.precision!r}, but must be auto, no or bf16")
        if not 0 <= self.composites <= 1 or (self.composites and not self.folder):
            raise ConfigError(
                f"composites is {self.composites}, but must be a share between 0 and 1, with the folder of an atlas"
            )


@dataclass(frozen=True)
class TextRecipe:
    """Recipe of the text encoder's distillation."""

    name: str
    """Folder under the output folder; `text_encoder/` and `tokenizer/` are written into it."""
    wordnet: str = "/usr/share/wordnet"
    """Folder of WordNet's `data.noun`, `data.verb`, `data.adj` and `data.adv`."""
    minutes: float = 6.0
    """Time of training; the learning rate falls to zero at its end."""
    steps: int | None = None
    """Number of steps after which training stops, if that comes before `minutes`."""
    seed: int = 0
    """Seed of texts and weights."""
    threads: int = 0
    """CPU threads; 0 leaves the choice to torch."""
    layers: int = 4
    """Layers of the network."""
    embedding_size: int = 128
    """Features of a word embedding. The embeddings hold most of the file, so this sets its size."""
    hidden_size: int = 256
    """Features inside the network."""
    intermediate_size: int = 768
    """Features between the two matrices of a feed-forward layer."""
    heads: int = 4
    """Attention heads."""
    max_tokens: int = 32
    """Longest text in tokens, in training and in use."""
    batch: int = 64
    """Texts of a step."""
    pool: int = 4096
    """Texts that the teacher encodes at a time; batches of equal length are cut from these."""
    passes: int = 2
    """Number of times the student sees a pool: the teacher's forward pass costs more than the student's step."""
    learning_rate: float = 2e-3
    """Highest learning rate."""
    warmup: float = 0.05
    """Share of the training in which the learning rate rises."""
    captions: float = 0.35
    """Share of texts that are captions of the grammar."""
    names: float = 0.2
    """Share of texts that are single names; the rest are definitions and examples."""
    held_out: int = 1024
    """Texts kept for the check at the end."""

    def __post_init__(self) -> None:
        if self.minutes <= 0:
            raise ValueError(f"minutes is {self.minutes}, but must be above 0")
        if self.captions < 0 or self.names < 0 or self.captions + self.names > 1:
            raise ValueError(f"captions {self.captions} and names {self.names} must be shares, together at most 1")
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} does not divide by heads {self.heads}")


__all__ = ["CROPS", "MiniRecipe", "TextRecipe", "UpscalerRecipe"]
