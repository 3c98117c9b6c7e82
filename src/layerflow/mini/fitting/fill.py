"""Fitting of the network that continues a background behind its foreground, before the backbone is trained."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...core.schema import ALPHA, BACKGROUND, BLENDED
from ...models.model_space import to_model_space
from ...training.loop import optimizer_step, run_steps
from ...training.recipe import StageRecipe
from ...training.schedule import warm_cosine
from ..network.composition import known_background, visibility
from ..network.transformer import CompactTransformer3DModel
from ..world import SceneSource

FRAMES = {1: 0.5, 2: 0.2, 4: 0.15, 8: 0.15}
"""Frames of a scene that are shown, and how often; the fewer, the larger the hole."""
HOLES = 48
"""Frames in one step."""
LEARNING_RATE = 3e-3


class _Holes(Dataset):
    """Item i: known parts of the backgrounds of step i, their certainty, and the whole backgrounds."""

    def __init__(self, recipe: StageRecipe) -> None:
        self.recipe = recipe
        self.source = SceneSource("train", size=recipe.size, frames=recipe.clip_frames, objects="all")

    def __len__(self) -> int:
        return self.recipe.mini.fill_steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng([self.recipe.seed, 6, step])
        longest = self.recipe.clip_frames
        frames = min(longest, int(rng.choice(list(FRAMES), p=list(FRAMES.values()))))
        taken = min(2, frames)  # of each scene: the others only show what these hide
        parts: list[tuple[Tensor, ...]] = []
        for _ in range(HOLES // max(2, frames)):
            shown = np.sort(rng.choice(longest, frames, replace=False)).tolist()
            scene = self.source.scene(int(rng.integers(2**62)), self.recipe.seed + 2, frame_indices=shown)
            clips = {name: getattr(scene, name)[None] for name in (BLENDED, ALPHA, BACKGROUND)}
            parts.append(_holes(to_model_space(clips), rng.permutation(frames)[:taken].tolist()))
        known, certainty, background = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return known, certainty, background


def _holes(clips: dict[str, Tensor], frames: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return known background, certainty and background of some frames of clips (1, F, C, H, W) in model space."""
    known, certainty = known_background(clips[BLENDED], visibility(clips[ALPHA][:, :, :1]))
    return known[0, frames], certainty[0, frames], clips[BACKGROUND][0, frames]


def fit_fill(
    model: CompactTransformer3DModel, recipe: StageRecipe, report: Callable[[str, float], None] | None = None
) -> float:
    """Fit `model.fill` to training scenes for `fill_steps` steps.

    The last bits depend on the number of threads.

    Returns:
        The mean squared error under the mattes in the last tenth of the steps, whose scenes were not seen before.
    """
    fill, steps = model.fill.train(), recipe.mini.fill_steps
    optimizer = torch.optim.AdamW(fill.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, steps, warmup=50))
    errors: list[float] = []

    def train_step(batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, float]:
        known, certainty, background = batch
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.mixed_precision == "bf16"):
            error = fill(known, certainty).float() - background
        hole = 1 - certainty
        # Squares alone would blur every edge that could lie here or there.
        weight = hole + 0.02
        loss = ((error.square() + 0.25 * error.abs()) * weight).sum() / (3 * weight.sum())
        optimizer_step(loss, fill.parameters(), optimizer, schedule, recipe.max_grad_norm)
        errors.append(float((error.detach().square() * hole).sum() / (3 * hole.sum())))
        return {"loss": float(loss.detach())}

    holes = DataLoader(_Holes(recipe), batch_size=None, num_workers=recipe.workers)
    progress = None if report is None else lambda step, _: report("fill/fitted", step / steps)
    run_steps(train_step, holes, stop=steps, report=progress)
    last = errors[-max(1, steps // 10) :]
    return sum(last) / len(last)
