"""Batches of layered clips, with their frames and given clips: a pure function of seed and step.

A batch is decided as a whole, whatever the number of processes; each process then makes its share of the samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import Dataset

from ..core.config import ConfigError
from ..core.schema import CLIPS, foreground_count, prompt_layers, scene_layers, task_clips
from ..datasets.encoding import HIDDEN, NEAR, clips_for, coverage, marked, prompts_of
from ..datasets.precompute import check_identity
from ..models.backbone import Backbone
from ..models.given import mattes_of
from ..models.layout import Layout
from ..models.model_space import to_model_space
from ..pipeline import LayerFlowPipeline
from .givens import are_interchangeable, choose_foregrounds, draw_frames, draw_hints, draw_kind, lacking
from .recipe import ADAPTERS, ANY, StageRecipe
from .sources import Query, Sample, Size, open_sources

MOST_SAMPLES = 10_000
"""Upper bound of a batch's samples, which keeps the random streams of different steps apart."""


@dataclass
class Batch:
    """One step's samples, or one process's share of them. B samples, K clips, F frames of each."""

    sequence: Tensor
    """(B, K*F, 3, H, W) clean packed clips in model space; or (B, N, C, h, w), precomputed latents of them."""
    given: Tensor
    """(B, K, F or 1) bool, True for given latent frames."""
    positions: Tensor
    """(B, F) positions of the shown frames in their clip."""
    weight: Tensor
    """(B, K, F, 1, H, W) loss weight, larger on and around the foreground and where it hides the background; of latents
    (B, N, 1, h, w)."""
    prompts: list[list[str]]
    """B x L prompts in the order of `prompt_layers`; "" where left out."""
    tasks: list[str]
    """B names of tasks."""
    adapters: dict[str, Tensor]
    """(B,) bool for each of `ADAPTERS`, True where it is on."""
    clips: tuple[str, ...] = CLIPS
    """The K clips, in the order of the sequence."""
    hints: Tensor | None = None
    """(B, A, F, 2, H, W) known places of mattes, see `Backbone.takes_hints`."""
    interchangeable: Tensor | None = None
    """(B,) bool, True where nothing tells which foreground comes first, see `givens.are_interchangeable`."""
    first: int = 0
    """Place of the first sample in the whole batch."""
    size: int = 0
    """Samples of the whole batch."""
    latents: Layout | None = None
    """Layout of `sequence`, where that is latents."""
    text: Tensor | None = None
    """(B, L, S, D) precomputed states of the prompts, zero at padding."""
    text_mask: Tensor | None = None
    """(B, L, S) bool."""

    @property
    def layout(self) -> Layout:
        """Layout of the clips in pixels."""
        return Layout(self.positions.shape[1], self.clips)

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its tensors on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Return the batch with its tensors in pinned memory; `DataLoader` calls this."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed: dict[str, Any] = {name: change(own) for name, own in vars(self).items() if isinstance(own, Tensor)}
        return replace(self, **changed, adapters={name: change(on) for name, on in self.adapters.items()})


@dataclass(frozen=True)
class Step:
    """Composition of a batch."""

    frames: int
    size: Size
    picks: tuple[tuple[int, int], ...]
    """For each sample, source and number of its clip there."""


class ClipBatches(Dataset):
    """Batches of a recipe; item `step` is always the same.

    Args:
        recipe: one stage of it.
        rank, processes: this process makes its share of each batch; all shares together are the batch.
        scattered: samples of fewer than all frames show any of them, in order; else the first ones.
        clips: clips of the network.
        needs_all: the network needs all of them, see `Backbone.needs_all_clips`.

    Raises:
        ConfigError: batches that cannot be shared among the processes, or shards without clips that fit.
        MediaError: a folder of shards is missing or damaged.
    """

    def __init__(
        self,
        recipe: StageRecipe,
        rank: int = 0,
        processes: int = 1,
        scattered: bool = True,
        clips: Sequence[str] = CLIPS,
        needs_all: bool = False,
    ) -> None:
        self.recipe, self.rank, self.processes, self.scattered = recipe, rank, processes, scattered
        self.clips, self.needs_all = tuple(clips), needs_all
        self.latent_frames: dict[int, int] = {}
        """Latent frames of a clip by its frames, where they differ."""
        self.layers = prompt_layers(foreground_count(clips))
        self.tasks = task_clips(scene_layers(foreground_count(clips)))
        self.sources = open_sources(recipe)
        self._steps: list[Step] = []
        self._taken: Counter[tuple[int, int, Size]] = Counter()
        for frames, size in self.shapes():
            samples = recipe.samples(frames, *size)
            if samples % processes:
                raise ConfigError(
                    f"a batch of {samples} samples ({frames} frames of {size[1]}x{size[0]}) cannot "
                    f"be shared evenly by {processes} processes; set batch_multiple: {processes}, and perhaps a larger "
                    "frames_per_batch"
                )
        self.precomputed = self._all_or_none("text")
        """Text states are precomputed, and latents wherever there is an autoencoder."""
        self._all_or_none("latents")

    def _all_or_none(self, part: str) -> bool:
        """Return whether all sources have a part precomputed; raise ConfigError where some have it and others not."""
        there = [part in source.has for source in self.sources]
        if any(there) and not all(there):
            with_, without = (self.recipe.data[there.index(which)] for which in (True, False))
            raise ConfigError(
                f"data: {with_.folder} has precomputed {part} and {without.folder or without.kind} has none, but a "
                "batch holds clips of both; precompute both, or set precomputed: false"
            )
        return all(there)

    def __len__(self) -> int:
        return self.recipe.steps

    def shapes(self) -> list[tuple[int, Size]]:
        """Return the frames and sizes of all batches.

        Raises:
            ConfigError: no source has clips with the frames of a phase.
        """
        shapes: list[tuple[int, Size]] = []
        for frames in sorted({frames for phase in self.recipe.phases for frames in phase.frames}):
            sizes = {size for source in self.sources for size in source.sizes(frames)}
            if not sizes:
                raise ConfigError(f"phases: no source of data has clips of {frames} frames")
            shapes += [(frames, size) for size in sorted(sizes)]
        return shapes

    def step(self, number: int) -> Step:
        """Return the composition of a step's batch. Clips are counted from the first step on."""
        while len(self._steps) <= number:
            self._steps.append(self._decide(len(self._steps)))
        return self._steps[number]

    def _decide(self, number: int) -> Step:
        rng = np.random.default_rng([self.recipe.seed, number])
        shares = self.recipe.phase_at(number).frames
        frames = int(rng.choice(list(shares), p=_normalised(shares.values())))
        sizes = [source.sizes(frames) for source in self.sources]
        weights = np.array([s.recipe.share * bool(own) for s, own in zip(self.sources, sizes, strict=True)])
        # The first source decides on the size, by how many clips it has of each; those that have that size join in.
        leader = sizes[int(rng.choice(len(weights), p=weights / weights.sum()))]
        counts = _normalised([max(1, count) for count in leader.values()])
        size = list(leader)[int(rng.choice(len(leader), p=counts))]
        weights *= [size in own for own in sizes]
        picks = []
        samples = self.recipe.samples(frames, *size)
        for source in rng.choice(len(weights), size=samples, p=weights / weights.sum()).tolist():
            picks.append((source, self._taken[source, frames, size]))
            self._taken[source, frames, size] += 1
        return Step(frames, size, tuple(picks))

    def __getitem__(self, number: int) -> Batch:
        step = self.step(number)
        share = len(step.picks) // self.processes
        first = self.rank * share
        samples = [self._sample(number, step, place) for place in range(first, first + share)]
        read: list[Sample] = [sample["read"] for sample in samples]
        sequence, weight, layout = self._of_latents(read) if read[0].latents else self._of_pixels(read)
        text, mask = _padded([sample["text"] for sample in samples]) if self.precomputed else (None, None)
        return Batch(
            sequence=sequence,
            given=_stacked([sample["given"] for sample in samples]),
            positions=torch.stack([one.positions for one in read]),
            weight=weight,
            prompts=[sample["prompts"] for sample in samples],
            tasks=[sample["task"] for sample in samples],
            adapters={name: torch.tensor([name in sample["adapters"] for sample in samples]) for name in ADAPTERS},
            clips=self.clips,
            hints=torch.stack([sample["hints"] for sample in samples]) if self.recipe.hints else None,
            interchangeable=torch.tensor([sample["interchangeable"] for sample in samples]),
            first=first,
            size=len(step.picks),
            latents=layout,
            text=text,
            text_mask=mask,
        )

    def _of_pixels(self, read: list[Sample]) -> tuple[Tensor, Tensor, None]:
        clips = {name: torch.stack([one.clips[name] for one in read]) for name in self.clips}
        weight = self._weight(*marked(coverage(clips), self.clips))  # alpha before it becomes a clip in model space
        return Layout(len(read[0].positions), self.clips).pack(to_model_space(clips)), weight, None

    def _of_latents(self, read: list[Sample]) -> tuple[Tensor, Tensor, Layout]:
        latents = {name: torch.stack([one.latents[name] for one in read]) for name in read[0].latents}
        weight = self._weight(latents.pop(NEAR), latents.pop(HIDDEN))
        counts = {name: clip.shape[1] for name, clip in latents.items()}
        frames = counts[self.clips[-1]]
        layout = Layout(frames, self.clips, counts[self.clips[0]] - frames)
        return layout.pack(latents), weight, layout

    def _weight(self, near: Tensor, hidden: Tensor) -> Tensor:
        """Return the loss weight of pixels or latents from the two masks of `marked`."""
        return 1 + self.recipe.foreground_weight * near + self.recipe.hidden_weight * hidden

    def request(self, number: int, step: Step, place: int) -> tuple[np.random.Generator, str, frozenset[str], Query]:
        """Return a sample's random numbers, task and given clips, and its query to its source."""
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, 1, number * MOST_SAMPLES + place])
        task = str(rng.choice(list(recipe.tasks), p=_normalised(recipe.tasks.values())))
        given = any_subset(rng, self.clips) if task == ANY else self.tasks[task]
        return rng, task, given, Query(step.size, step.frames, step.picks[place][1], self.scattered)

    def _sample(self, number: int, step: Step, place: int) -> dict[str, Any]:
        rng, task, given, query = self.request(number, step, place)
        source = self.sources[step.picks[place][0]]
        read = source.read(query, rng)
        recipe = self.recipe
        # A stream of its own: frames and hints leave all else as it is without them.
        own_rng = np.random.default_rng([recipe.seed, 2, number * MOST_SAMPLES + place])
        if read.clips and not read.text:
            clips, captions = choose_foregrounds(read.clips, read.captions, self.clips, own_rng)
            read = replace(read, clips=clips, captions=captions)
        elif read.clips:  # text states were computed for the nearest foregrounds
            read = replace(read, clips=clips_for(read.clips, self.clips))
        layout = Layout(self.latent_frames.get(step.frames, step.frames), self.clips)
        if read.clips and self.needs_all:
            told = given | lacking(read.clips, self.clips, own_rng)
            given = told if len(told) < len(self.clips) else given
        masks = draw_frames(draw_kind(recipe.frame_masks, own_rng), given, self.clips, layout.frames, own_rng)
        mattes = {name: read.clips[name] for name in mattes_of(self.clips)} if recipe.hints else {}
        hints = draw_hints(draw_kind(recipe.hints, own_rng), mattes, masks, own_rng) if recipe.hints else None
        prompts = prompts_of(read.captions, self.clips)
        if rng.random() < recipe.prompt_dropout:
            prompts = [""] * len(self.layers)
        prompts = ["" if rng.random() < recipe.layer_dropout else prompt for prompt in prompts]
        own, empty = read.text, source.unconditional
        return {
            "read": read,
            "given": layout.given_mask(masks),
            "hints": hints,
            "interchangeable": are_interchangeable(read.clips, prompts, self.layers, masks, hints),
            "prompts": prompts,
            "text": [
                (own if p else empty)[layer] for layer, p in zip(self.layers, prompts, strict=True) if layer in own
            ],
            "task": task,
            "adapters": source.recipe.adapters_on(source.frozen(query)),
        }


def check_hints(recipe: StageRecipe, transformer: Backbone) -> None:
    """Raise ConfigError for hints that a network does not take."""
    if recipe.hints and not transformer.takes_hints:
        way = "set hints: true under model, or leave" if transformer.prediction_type == "sample" else "leave"
        raise ConfigError(f"hints: this model takes none; {way} hints out", "hints")


def build_batches(recipe: StageRecipe, accelerator: Accelerator, pipeline: LayerFlowPipeline) -> ClipBatches:
    """Return this process's share of the batches, checked against the model that is to be trained on them.

    Raises:
        ConfigError: clips of a size or number of frames that the model does not take, a model for one task, latents
            that another model encoded, or batches that the processes cannot share.
    """
    scattered, config, codec = pipeline.vae is None, pipeline.transformer.config, pipeline.codec
    if not set(CLIPS) <= set(config.clips) or config.get("task") is not None:
        raise ConfigError(f"start_from: {recipe.start_from} is for one task; training needs a model for all")
    check_hints(recipe, pipeline.transformer)
    processes, needs_all = (accelerator.process_index, accelerator.num_processes), pipeline.transformer.needs_all_clips
    batches = ClipBatches(recipe, *processes, scattered, config.clips, needs_all)
    for frames, (height, width) in batches.shapes():
        try:
            batches.latent_frames[frames] = codec.check(frames, height, width).frames
        except ValueError as error:
            raise ConfigError(f"clips of the recipe's data do not fit the model: {error}") from error
    check_identity(pipeline, batches.sources)
    return batches


def _padded(texts: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
    """Pad B x L states (S, D) of different lengths with zeros to (B, L, S, D), and return their mask (B, L, S) too."""
    lengths = torch.tensor([[len(states) for states in one] for one in texts])
    longest = int(lengths.max())
    flat = [torch.nn.functional.pad(s.float(), (0, 0, 0, longest - len(s))) for one in texts for s in one]
    mask = torch.arange(longest) < lengths[..., None]
    return torch.stack(flat).unflatten(0, (len(texts), -1)), mask


def _stacked(masks: Sequence[Tensor]) -> Tensor:
    """Stack masks (K, F or 1) to (B, K, F), or to (B, K, 1) where clips are given whole or not at all."""
    frames = max(mask.shape[1] for mask in masks)
    return torch.stack([mask.expand(-1, frames) for mask in masks])


def any_subset(rng: np.random.Generator, clips: Sequence[str] = CLIPS) -> frozenset[str]:
    """Draw a set of given clips that leaves at least one to generate."""
    while True:
        given = frozenset(name for name in clips if rng.random() < 0.5)
        if len(given) < len(clips):
            return given


def _normalised(shares: Any) -> np.ndarray:
    values = np.array(list(shares), dtype=np.float64)
    return values / values.sum()


def draw_noise_levels(
    recipe: StageRecipe, size: int, generator: torch.Generator, within: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    """Draw noise levels (size,) in (0, 1]: a share at exactly 1, the others logit-normal (arXiv 2403.03206, eq. 19) or
    uniform, both limited to `within`."""
    noise, (low, high) = recipe.noise, within
    if noise.uniform:
        t = low + (high - low) * torch.rand(size, generator=generator)
    else:
        normal = torch.randn(size, generator=generator)
        if within != (0.0, 1.0):  # the part of the distribution between two of its quantiles
            ends = torch.special.ndtr((torch.logit(torch.tensor(within)) - noise.mean) / noise.std)
            normal = torch.special.ndtri(torch.lerp(ends[0], ends[1], torch.special.ndtr(normal)))
        t = torch.sigmoid(noise.mean + noise.std * normal)
    pure = torch.rand(size, generator=generator) < (noise.pure if high == 1 else 0)
    return torch.where(pure, torch.ones_like(t), t.clamp(min=0.01))
