"""Training of the mini's upscaler.

Scenes are drawn small and large; the network learns to turn one into the other.

Letters in shape comments: N crops, F frames, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...core.atomic import whole_folder
from ...core.schema import ALPHA, BACKGROUND, BLENDED, CLIPS, FOREGROUND, SCENE
from ...models.model_space import to_model_space
from ...training.checkpoints import last_checkpoint, load_checkpoint, save_checkpoint
from ...training.loop import Every, optimizer_step, run_steps
from ...training.optimizer import MuonAdamW, parameter_groups
from ...training.recipe import mixed_precision
from ...training.schedule import make_schedule, warm_cosine
from ..network.upscaler import DRAWN, LayeredUpscaler, composite
from ..recipes import CROPS, UpscalerRecipe
from ..world import SceneSource, Variations
from ..world.atlas import Atlas
from ..world.composites import Composites, CompositeSource
from ..world.composites.render import render

SQUARED_WEIGHT = 3.0
"""Weight of squared errors beside absolute ones."""
EXACT = Composites(second=0.0, shadow=0.0, compressed=0.0, grain=0.0)
"""Composites that follow from their layers at every size."""
TILES = (2, 4, 8)
"""Heights and widths of tiles that are repeated over a frame."""


class ScenePairs(Dataset):
    """Item `step`: crops of scenes, small and large, (N, F, C, H, W) in model space by name."""

    def __init__(self, recipe: UpscalerRecipe) -> None:
        self.recipe = recipe
        variations = Variations(see_through=recipe.see_through)
        self.small = SceneSource("train", recipe.size, recipe.clip_frames, "all", variations)
        self.large = SceneSource("train", recipe.size * recipe.factor, recipe.clip_frames, "all", variations)
        self.composites = None
        if recipe.composites:
            atlas, settings = Atlas.open(Path(recipe.folder)), replace(EXACT, see_through=recipe.see_through)
            self.composites = CompositeSource(atlas, "train", recipe.size, recipe.clip_frames, settings)

    def __len__(self) -> int:
        return self.recipe.steps

    def __getitem__(self, step: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, step])
        small: list[dict[str, Tensor]] = []
        large: list[dict[str, Tensor]] = []
        for _ in range(recipe.batch // CROPS):
            start = int(rng.integers(recipe.clip_frames - recipe.frames + 1))
            shown, number = range(start, start + recipe.frames), int(rng.integers(2**62))
            draw = self._drawn
            if self.composites is not None and rng.random() < recipe.composites:
                draw = partial(self._composed, self.composites)
            fine = draw(number, shown, large=True)
            if rng.random() < 0.5:  # drawn at that size, or a large one made smaller
                coarse = draw(number, shown, large=False)
            else:
                coarse = {name: F.avg_pool2d(clip, recipe.factor) for name, clip in fine.items()}
                coarse[BLENDED] = composite(coarse)
            soft = soften(coarse, rng, recipe)
            for top, left in crops(coarse[ALPHA], recipe.crop, rng):
                small.append(_cut(soft, top, left, recipe.crop))
                large.append(_cut(fine, recipe.factor * top, recipe.factor * left, recipe.factor * recipe.crop))
        return _stacked(small), _stacked(large)

    def _drawn(self, number: int, frames: range, *, large: bool) -> dict[str, Tensor]:
        """Return a drawn scene in model space, alpha with one channel."""
        scene = (self.large if large else self.small).scene(number, 0, frame_indices=frames)
        return _space({name: getattr(scene, name) for name in CLIPS})

    def _composed(self, source: CompositeSource, number: int, frames: range, *, large: bool) -> dict[str, Tensor]:
        """Return a composite in model space, alpha with one channel."""
        size = self.recipe.size * (self.recipe.factor if large else 1)
        scene = render(source.plan(number, 0), size, frames)
        ((colour, alpha),) = scene.layers
        return _space({FOREGROUND: colour, ALPHA: alpha, BACKGROUND: scene.background, BLENDED: scene.blended})


def _space(clips: dict[str, Tensor]) -> dict[str, Tensor]:
    space = to_model_space(clips)
    return space | {ALPHA: space[ALPHA][:, :1]}


def crops(alpha: Tensor, size: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Draw top and left of `CROPS` crops of a matte (F, 1, H, W) in [-1, 1].

    The first lies anywhere, the others around pixels that are not clear.
    """
    height, width = alpha.shape[-2:]
    rows, columns = np.nonzero((alpha.amax(0)[0] > -0.9).numpy())
    corners = []
    for index in range(CROPS):
        row, column = rng.integers(height), rng.integers(width)
        if index and len(rows):
            pick = rng.integers(len(rows))
            row, column = rows[pick], columns[pick]
        top, left = (int(np.clip(at - size // 2, 0, side - size)) for at, side in ((row, height), (column, width)))
        corners.append((top, left))
    return corners


def soften(clips: dict[str, Tensor], rng: np.random.Generator, recipe: UpscalerRecipe) -> dict[str, Tensor]:
    """Degrade small clips (F, C, H, W) like generated ones: blur, noise and a grid, the foreground with its alpha."""
    soft = dict(clips)
    for names in (SCENE[0].clips, (BACKGROUND,)):
        if rng.random() < 0.5:
            sigma = rng.uniform(0.3, recipe.blur) if recipe.blur > 0.3 else recipe.blur
            soft |= {name: _blurred(soft[name], sigma) for name in names}
    soft[BLENDED] = composite(soft)
    level = rng.uniform(0, recipe.noise) if rng.random() < 0.7 else 0.0
    grid = rng.uniform(0, recipe.grid) if rng.random() < 0.5 else 0.0
    side = int(rng.choice(TILES))
    for name in CLIPS:
        noise = level * rng.standard_normal(soft[name].shape, dtype=np.float32)
        tile = grid * rng.standard_normal((*soft[name].shape[1:2], side, side), dtype=np.float32)
        rows, columns = (-(-length // side) for length in soft[name].shape[-2:])
        noise += np.tile(tile, (rows, columns))[:, : noise.shape[-2], : noise.shape[-1]]
        soft[name] = (soft[name] + torch.from_numpy(noise)).clamp(-1, 1)
    return soft


def _blurred(clip: Tensor, sigma: float) -> Tensor:
    bell = torch.exp(-torch.arange(-2, 3, dtype=torch.float32).square() / (2 * max(sigma, 1e-3) ** 2))
    kernel = (bell[:, None] * bell) / bell.sum() ** 2
    padded = F.pad(clip, (2, 2, 2, 2), mode="replicate")
    return F.conv2d(padded, kernel.expand(clip.shape[1], 1, 5, 5), groups=clip.shape[1])


def _cut(clips: dict[str, Tensor], top: int, left: int, size: int) -> dict[str, Tensor]:
    return {name: clip[..., top : top + size, left : left + size] for name, clip in clips.items()}


def _stacked(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([sample[name] for sample in samples]) for name in CLIPS}


def upscaling_loss(drawn: dict[str, Tensor], target: dict[str, Tensor], temporal_weight: float) -> Tensor:
    """Return the mean absolute errors of all clips (N, F, C, H, W), alpha's twice, and of their change between frames.

    Squared errors are added: where a small clip does not show at which pixel an edge lies, the mean of the possible
    colours is less wrong than the likelier of two.
    """
    loss = torch.zeros(())
    for name in CLIPS:
        error = drawn[name] - target[name]
        weight = 2.0 if name == ALPHA else 1.0
        loss = loss + weight * (error.abs().mean() + temporal_weight * error.diff(dim=1).abs().mean())
        loss = loss + SQUARED_WEIGHT * error.square().mean()
    return loss / (len(DRAWN) + 1)


def train_upscaler(
    recipe: UpscalerRecipe,
    output: Path,
    resume: bool = False,
    report: Callable[[int, dict[str, float]], None] | None = None,
) -> Path:
    """Train an upscaler in output/name; return its folder, in diffusers layout and bf16.

    Raises:
        ConfigError: there is a run already and `resume` is not set.
    """
    folder = Path(output) / recipe.name
    checkpoint = last_checkpoint(folder, resume)
    torch.manual_seed(recipe.seed)
    model = LayeredUpscaler(recipe.factor, recipe.width, recipe.num_blocks).to(memory_format=torch.channels_last)
    optimizer = MuonAdamW(parameter_groups(model.named_parameters(), weight_decay=1e-3), lr=recipe.learning_rate)
    averaged = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    start = 0
    if checkpoint is not None:
        state, info = load_checkpoint(checkpoint)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        averaged, start = state["ema"], info["step"]
    pairs = DataLoader(
        ScenePairs(recipe), batch_size=None, sampler=range(start, recipe.steps), num_workers=recipe.workers
    )
    half = mixed_precision(recipe.precision) == "bf16"
    schedule = make_schedule(
        optimizer, recipe.learning_rate, lambda at: warm_cosine(at, recipe.steps, recipe.warmup, floor=0.01), start
    )

    def train_step(pair: tuple[dict[str, Tensor], dict[str, Tensor]]) -> dict[str, float]:
        small, large = pair
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            drawn = model(small)
        loss = upscaling_loss(drawn, large, recipe.temporal_weight)
        optimizer_step(loss, model.parameters(), optimizer, schedule, max_grad_norm=1.0)
        decay = min(recipe.ema, schedule.last_epoch / (schedule.last_epoch + 10))  # steps done
        for name, tensor in model.state_dict().items():
            averaged[name].lerp_(tensor, 1 - decay)
        return {"loss": float(loss.detach())}

    def save(step: int) -> None:
        tensors = {"model": model.state_dict(), "ema": averaged, "optimizer": optimizer.state_dict()}
        save_checkpoint(folder / "checkpoints", step, tensors, {"recipe": asdict(recipe)})

    run_steps(
        train_step,
        pairs,
        start,
        recipe.steps,
        report,
        recipe.log_every,
        [Every(recipe.checkpoint_every, save)],
        unit="crops",
        size=lambda _: recipe.batch,
    )
    model.load_state_dict(averaged)
    with whole_folder(folder / "upscaler", replace=True) as partial:
        model.to(torch.bfloat16).save_pretrained(partial)
    return folder / "upscaler"
