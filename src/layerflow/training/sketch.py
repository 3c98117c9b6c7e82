"""Teaches the backbone's sketches what prompts alone say of a frame, before the backbone itself is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerBase

from ..data import SceneSource, Variations
from ..models.clips import to_model_space
from ..models.compact import CompactTransformer3DModel
from ..models.layout import CLIPS, LAYERS, Layout
from ..models.sketch import QUARTERS, Pose, Sketch, lay, placement_between, sketch_targets
from ..models.text import LayerTextEncoder, encode_prompts, pool
from .recipe import Recipe

CHUNK = 250
BATCH = 128
QUARTER_WEIGHT = 0.03
"""Weight of the choice of a quarter turn."""
UPRIGHT = 0.9
"""Another quarter turn must leave less than this share of the error that none leaves."""


@dataclass
class Sketches:
    """N stills as the sketch knows them."""

    scenes: Tensor
    """(N, 7, 16, 16) in 8 bits, see `models.sketch`."""
    objects: Tensor
    """(N, 4, 64, 64) in 8 bits."""
    means: Tensor
    """(N, L, R) whitened mean text states per layer."""
    empty: Tensor
    """(R,) that of a prompt left out."""
    positions: Tensor
    """(N, 1) which frame of its clip each still is."""


class _Stills(Dataset):
    """Item i: chunk i of stills; their clips, positions and prompts."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        variations = Variations(see_through=recipe.variations.see_through)  # a sketch is of one object
        self.source = SceneSource("train", recipe.size, recipe.clip_frames, "all", variations)

    def __len__(self) -> int:
        return -(-self.recipe.sketch_scenes // CHUNK)

    def __getitem__(self, chunk: int) -> tuple[Tensor, Tensor, Tensor, list[list[str]]]:
        rng = np.random.default_rng([self.recipe.seed, 5, chunk])
        positions = rng.integers(self.recipe.clip_frames, size=CHUNK)
        layout, targets, prompts = Layout(1), [], []
        for i, position in enumerate(positions.tolist()):
            scene = self.source.scene(chunk * CHUNK + i, self.recipe.seed + 1, frame_indices=[position])
            clips = {name: getattr(scene, name)[None] for name in CLIPS}
            targets.append(sketch_targets(layout.pack(to_model_space(clips)), layout))
            prompts.append([scene.captions[layer] for layer in LAYERS])
        scenes, objects = (to_bytes(torch.cat(planes)) for planes in zip(*targets, strict=True))
        return scenes, objects, torch.from_numpy(positions)[:, None], prompts


@torch.no_grad()
def gather(
    model: CompactTransformer3DModel,
    tokenizer: PreTrainedTokenizerBase,
    text_encoder: LayerTextEncoder,
    recipe: Recipe,
    report: Callable[[str, float], None] | None = None,
) -> Sketches:
    """Draw the recipe's `sketch_scenes` stills and encode their prompts."""
    data = _Stills(recipe)
    loader = DataLoader(data, batch_size=None, num_workers=recipe.workers)
    scenes, objects, means, positions = [], [], [], []
    for done, (scene, sprite, position, prompts) in enumerate(loader):
        scenes.append(scene)
        objects.append(sprite)
        positions.append(position)
        means.append(_means(model, tokenizer, text_encoder, [text for row in prompts for text in row]))
        if report is not None:
            report("sketch/drawn", (done + 1) / len(data))
    mean = torch.cat(means).unflatten(0, (-1, len(LAYERS)))
    empty = _means(model, tokenizer, text_encoder, [""])[0]
    return Sketches(torch.cat(scenes), torch.cat(objects), mean, empty, torch.cat(positions))


def _means(
    model: CompactTransformer3DModel,
    tokenizer: PreTrainedTokenizerBase,
    text_encoder: LayerTextEncoder,
    prompts: list[str],
) -> Tensor:
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # of about one length, little is padded
    means = torch.cat(
        [
            pool(*encode_prompts(tokenizer, text_encoder, [prompts[i] for i in order[start : start + CHUNK]]))
            for start in range(0, len(prompts), CHUNK)
        ]
    )
    return model.pool_whitening(means[torch.tensor(order).argsort()])


def fit_sketch(
    model: CompactTransformer3DModel,
    tokenizer: PreTrainedTokenizerBase,
    text_encoder: LayerTextEncoder,
    recipe: Recipe,
    report: Callable[[str, float], None] | None = None,
) -> float:
    """Fit `model.sketch` by least squares to stills of training scenes; the error on the last tenth, which it is not
    fitted to, is returned.

    The text whitening must have been fitted before. The last bits depend on the number of threads.
    """
    return fit(model, gather(model, tokenizer, text_encoder, recipe, report), recipe, report)


def fit(
    model: CompactTransformer3DModel,
    data: Sketches,
    recipe: Recipe,
    report: Callable[[str, float], None] | None = None,
) -> float:
    """The same with stills that were gathered already."""
    count = len(data.scenes)
    kept = count - count // 10
    optimizer = torch.optim.AdamW(model.sketch.parameters(), lr=2e-3, weight_decay=0.02)
    steps = max(1, recipe.sketch_epochs * (kept // BATCH))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(recipe.seed)
    limit = 3 * model.config.placement_spread

    def error(rows: Tensor, means: Tensor) -> Tensor:
        scenes, objects = from_bytes(data.scenes[rows]), from_bytes(data.objects[rows])
        return sketch_error(model.sketch, means, model.frame_code(data.positions[rows]), (scenes, objects), limit)

    for step, rows in zip(range(steps), _batches(kept, generator), strict=False):
        left_out = torch.rand(len(rows), len(LAYERS), 1, generator=generator) < recipe.layer_dropout
        loss = error(rows, torch.where(left_out, data.empty, data.means[rows]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if report is not None and step % 20 == 0:
            report("sketch/fitted", (step + 1) / steps)
    with torch.no_grad():
        rest = torch.arange(kept if kept < count else 0, count)
        return float(torch.stack([error(rows, data.means[rows]) for rows in rest.split(BATCH)]).mean())


def sketch_error(
    sketch: Sketch, means: Tensor, frame_code: Tensor, targets: tuple[Tensor, Tensor], limit: float
) -> Tensor:
    """What the sketches of N stills leave to be desired: squared errors of scene, sprite and pose, added.

    The sprite is compared where the still has it, by the placement that is measured, and so stays sharp; the pose is
    held to the mean of all placements.

    Args:
        sketch: both networks.
        means: (N, L, R) mean text states.
        frame_code: (N, 1, 64).
        targets: scenes (N, 7, 16, 16) and objects (N, 4, 64, 64).
        limit: of a placement, see `placement_between`.
    """
    scenes, objects = targets
    sprite, pose = sketch.object.looks(means), sketch.object.pose(means, frame_code)
    with torch.no_grad():
        quarter = best_quarter(sprite, pose, objects)
        drawn = lay(sprite, pose, quarter)
        placement = placement_between(drawn[:, 3:], objects[:, 3:], limit)
    sharp = F.mse_loss(lay(sprite, pose.detach(), quarter, placement), objects)
    placed = lay(sprite.detach(), pose, quarter)
    # At an eighth of its size a sprite still overlaps its target when it lies off by half its width, so that poses
    # are found by following the gradient.
    posed = F.mse_loss(placed, objects) + F.mse_loss(F.avg_pool2d(placed, 8), F.avg_pool2d(objects, 8))
    chosen = F.cross_entropy(pose.quarters, quarter)
    return F.mse_loss(sketch.scene(means, frame_code), scenes) + sharp + posed + QUARTER_WEIGHT * chosen


def best_quarter(sprite: Tensor, pose: Pose, objects: Tensor) -> Tensor:
    """Which quarter turn (N,) brings each sprite nearest to its still; no turn where none is better by much."""
    size = objects.shape[-1] // 2
    sprite, objects = F.avg_pool2d(sprite, 2), F.avg_pool2d(objects, 2)  # a quarter turn is seen on small pictures too
    turns = [torch.full((len(sprite),), turn) for turn in range(QUARTERS)]
    drawn = (lay(sprite, pose, turn, size=size) for turn in turns)
    errors = torch.stack([(planes - objects).square().mean((1, 2, 3)) for planes in drawn], dim=1)  # (N, 4)
    errors[:, 0] *= UPRIGHT
    return errors.argmin(1)


def to_bytes(planes: Tensor) -> Tensor:
    """Model space, [-1, 1], in 8 bits."""
    return ((planes.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_bytes(planes: Tensor) -> Tensor:
    """The way back of `to_bytes`."""
    return planes.float() / 127.5 - 1


def _batches(count: int, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        order = torch.randperm(count, generator=generator)
        yield from order.split(BATCH)[: max(1, count // BATCH)]
