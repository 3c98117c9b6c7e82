"""Teaches the backbone's sketches what prompts alone say of a frame, before the backbone itself is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerBase

from ..data import SceneSource
from ..models.clips import to_model_space
from ..models.compact import CompactTransformer3DModel
from ..models.layout import CLIPS, LAYERS, Layout
from ..models.sketch import sketch_error, sketch_targets
from ..models.text import LayerTextEncoder, encode_prompts, pool
from .recipe import Recipe

CHUNK = 250
BATCH = 256


@dataclass
class Sketches:
    """N stills as the sketch knows them."""

    scenes: Tensor
    """(N, 7, 16, 16), float16, see `models.sketch`."""
    objects: Tensor
    """(N, 4, 32, 32), float16."""
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
        self.source = SceneSource("train", size=recipe.size, frames=recipe.clip_frames)

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
        scenes, objects = (torch.cat(planes).half() for planes in zip(*targets, strict=True))
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
    states, mask = encode_prompts(tokenizer, text_encoder, prompts)
    return model.pool_whitening(pool(states, mask))


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
    for step, rows in zip(range(steps), _batches(kept, generator), strict=False):
        left_out = torch.rand(len(rows), len(LAYERS), 1, generator=generator) < recipe.layer_dropout
        means = torch.where(left_out, data.empty, data.means[rows])
        loss = sketch_error(_drawn(model, means, data.positions[rows]), _targets(data, rows))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if report is not None and step % 20 == 0:
            report("sketch/fitted", (step + 1) / steps)
    with torch.no_grad():
        rest = torch.arange(kept if kept < count else 0, count)
        return float(sketch_error(_drawn(model, data.means[rest], data.positions[rest]), _targets(data, rest)))


def _drawn(model: CompactTransformer3DModel, means: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    return model.sketch(means, model.frame_code(positions))


def _targets(data: Sketches, rows: Tensor) -> tuple[Tensor, Tensor]:
    return data.scenes[rows].float(), data.objects[rows].float()


def _batches(count: int, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        order = torch.randperm(count, generator=generator)
        yield from order.split(BATCH)[: max(1, count // BATCH)]
