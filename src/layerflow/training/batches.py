"""Batches of layered clips: which scene, which frames, which clips are given. A pure function of seed and step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..data import SceneSource
from ..models.clips import to_model_space
from ..models.layout import CLIPS, LAYERS, TASKS, Layout
from .recipe import Recipe


@dataclass
class Batch:
    """One step's samples. B samples, K clips, F frames of each."""

    sequence: Tensor
    """(B, K*F, 3, H, W) clean packed clips in model space."""
    given: Tensor
    """(B, K) bool."""
    positions: Tensor
    """(B, F) which frames of their clip the samples show."""
    weight: Tensor
    """(B, K, F, 1, H, W) loss weight: larger on and around the foreground, more so where it hides the background."""
    prompts: list[list[str]]
    """B x L prompts in the order of LAYERS; "" where left out."""
    tasks: list[str]

    @property
    def layout(self) -> Layout:
        return Layout(self.positions.shape[1])


class SceneBatches(Dataset):
    """The batch of every step of a recipe; item `step` is always the same."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.core = SceneSource("train", size=recipe.size, frames=recipe.clip_frames)
        self.all = SceneSource("train", size=recipe.size, frames=recipe.clip_frames, objects="all")

    def __len__(self) -> int:
        return self.recipe.steps

    def __getitem__(self, step: int) -> Batch:
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, step])
        shares = recipe.phase_at(step).frames
        frames = int(rng.choice(list(shares), p=_normalised(shares.values())))
        size = recipe.frames_per_batch // frames
        samples = [self._sample(rng, frames) for _ in range(size)]
        clips = {name: torch.stack([sample[0][name] for sample in samples]) for name in CLIPS}
        alpha = clips["alpha"]  # (B, F, 1, H, W) before it becomes a clip in model space
        near = torch.nn.functional.max_pool2d((alpha > 0.05).float().flatten(0, 1), 7, 1, 3).view_as(alpha)
        return Batch(
            sequence=Layout(frames).pack(to_model_space(clips)),
            given=torch.stack([sample[1] for sample in samples]),
            positions=torch.stack([sample[2] for sample in samples]),
            weight=self._weight(alpha, near),
            prompts=[sample[3] for sample in samples],
            tasks=[sample[4] for sample in samples],
        )

    def _weight(self, alpha: Tensor, near: Tensor) -> Tensor:
        """Loss weight (B, K, F, 1, H, W) for the matte and its neighbourhood (B, F, 1, H, W)."""
        weight = (1 + self.recipe.foreground_weight * near)[:, None].repeat(1, len(CLIPS), 1, 1, 1, 1)
        weight[:, CLIPS.index("background")] += self.recipe.hidden_weight * alpha
        return weight

    def _sample(
        self, rng: np.random.Generator, frames: int
    ) -> tuple[dict[str, Tensor], Tensor, Tensor, list[str], str]:
        recipe = self.recipe
        task = str(rng.choice(list(recipe.tasks), p=_normalised(recipe.tasks.values())))
        given = any_subset(rng) if task == "any" else TASKS[task]
        # Objects beyond the core vocabulary only where the model sees them: there they teach what a foreground
        # is; asked for by name alone they would cost capacity that the core objects need.
        shown = bool(given & {"foreground", "blended"})
        source = self.all if shown and rng.random() < recipe.extra_objects else self.core
        positions = np.sort(rng.choice(recipe.clip_frames, frames, replace=False)).tolist()
        scene = source.scene(int(rng.integers(2**62)), recipe.seed, frame_indices=positions)
        clips = {name: getattr(scene, name) for name in CLIPS}
        prompts = [scene.captions[layer] for layer in LAYERS]
        if rng.random() < recipe.prompt_dropout:
            prompts = [""] * len(LAYERS)
        prompts = ["" if rng.random() < recipe.layer_dropout else prompt for prompt in prompts]
        return clips, Layout(frames).given_mask(given), torch.tensor(positions), prompts, task


def any_subset(rng: np.random.Generator) -> frozenset[str]:
    """A random set of given clips that leaves at least one to generate."""
    while True:
        given = frozenset(name for name in CLIPS if rng.random() < 0.5)
        if len(given) < len(CLIPS):
            return given


def _normalised(shares) -> np.ndarray:  # type: ignore[no-untyped-def]
    values = np.array(list(shares), dtype=np.float64)
    return values / values.sum()


def draw_noise_levels(recipe: Recipe, size: int, generator: torch.Generator) -> Tensor:
    """Noise levels (size,) in (0, 1]: a share at exactly 1, the rest logit-normal (arXiv 2403.03206, eq. 19)."""
    noise = recipe.noise
    t = torch.sigmoid(noise.mean + noise.std * torch.randn(size, generator=generator))
    pure = torch.rand(size, generator=generator) < noise.pure
    return torch.where(pure, torch.ones_like(t), t.clamp(min=0.01))
