"""Fitting of the network that continues a background behind its foreground, before the backbone is trained."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...core.schema import BACKGROUND, BLENDED, CHANNELS
from ...models.model_space import to_model_space
from ...training.loop import optimizer_step, run_steps
from ...training.recipe import DataRecipe, StageRecipe
from ...training.schedule import warm_cosine
from ...training.sources import Query
from ..data import open_drawn
from ..network.composition import coverage, known_background, moved_background, visibility, without_veil
from ..network.transformer import CompactTransformer3DModel

FRAMES = {1: 0.5, 2: 0.2, 4: 0.15, 8: 0.15}
"""Frames of a scene that are shown, and how often; the fewer, the larger the hole."""
HOLES = 48
"""Frames in one step."""
LEARNING_RATE = 3e-3
LARGEST_RIM = 3
"""Most pixels by which mattes are grown: those of separated foregrounds are not exact."""
MOVED = 0.75
"""Share of scenes whose background is copied along its motion, where the network takes videos apart."""


class _Holes(Dataset):
    """Item i: known parts of the backgrounds of step i, their certainty, and the whole backgrounds."""

    def __init__(self, recipe: StageRecipe, steps: int, moved: bool) -> None:
        self.recipe, self.steps, self.moved = recipe, steps, moved
        drawn = [data for data in recipe.data if data.kind != "shards" and data.form == "clean" and not data.frozen]
        drawn = drawn or [DataRecipe(kind="scenes")]
        self.sources = [open_drawn(data, recipe) for data in drawn]
        shares = np.array([data.share for data in drawn])
        self.shares = shares / shares.sum()

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng([self.recipe.seed, 6, step])
        frames = min(self.recipe.clip_frames, int(rng.choice(list(FRAMES), p=list(FRAMES.values()))))
        taken = min(2, frames)  # of each scene: the others only show what these hide
        parts: list[tuple[Tensor, ...]] = []
        for _ in range(HOLES // max(2, frames)):
            source = self.sources[int(rng.choice(len(self.sources), p=self.shares))]
            sizes = list(source.sizes(frames))
            read = source.read(Query(sizes[0], frames, 0, scattered=True), rng)
            clips = to_model_space({name: clip[None] for name, clip in read.clips.items()})
            parts.append(_holes(clips, self.moved, rng.permutation(frames)[:taken].tolist(), rng))
        known, certainty, background = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return known, certainty, background


def _holes(
    clips: dict[str, Tensor], moved: bool, frames: list[int], rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return known background, certainty and background of some frames of clips (1, F, C, H, W) in model space."""
    alpha = coverage({name: clip[:, :, : CHANNELS[name]] for name, clip in clips.items()})
    grown = int(rng.integers(LARGEST_RIM + 1))  # mattes of separated foregrounds are not exact
    alpha = F.max_pool2d(alpha[0], 2 * grown + 1, 1, grown)[None]
    if moved and rng.random() < MOVED:
        known, certainty = moved_background(clips[BLENDED], visibility(without_veil(alpha)))
    else:
        known, certainty = known_background(clips[BLENDED], visibility(alpha))
    return known[0, frames], certainty[0, frames], clips[BACKGROUND][0, frames]


def fit_fill(
    model: CompactTransformer3DModel,
    recipe: StageRecipe,
    steps: int,
    report: Callable[[str, float], None] | None = None,
) -> float:
    """Fit `model.fill` to the recipe's drawn data for a number of steps.

    The last bits depend on the number of threads.

    Returns:
        The mean squared error under the mattes in the last tenth of the steps, whose scenes were not seen before.
    """
    fill = model.fill.train()
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

    holes = DataLoader(_Holes(recipe, steps, hasattr(model, "separation")), batch_size=None, num_workers=recipe.workers)
    progress = None if report is None else lambda step, _: report("fill/fitted", step / steps)
    run_steps(train_step, holes, stop=steps, report=progress)
    last = errors[-max(1, steps // 10) :]
    return sum(last) / len(last)
