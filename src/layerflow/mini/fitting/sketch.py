"""Fitting of the backbone's sketches, which draw a frame from prompts alone, before the backbone is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerBase

from ...core.schema import BLENDED, CLIPS, FOREGROUND, LAYERS
from ...models.layout import Layout
from ...models.model_space import to_model_space
from ...models.text import encode_prompts
from ...training.loop import optimizer_step, run_steps
from ...training.recipe import DataRecipe, StageRecipe
from ..data import open_scenes
from ..network.sketch import MOTION_SENSES, PLACE_SENSES, SENSES, SPRITE_EXTENT, SPRITE_SIZE, Sketch, scene_target
from ..network.text_encoder import LayerTextEncoder, pool
from ..network.transformer import CompactTransformer3DModel
from ..world import EXTRA_OBJECTS, OBJECTS, SOFT_OBJECTS
from ..world.motions import BASE_WIDTH, MOTIONS, PLACES, UNITS, MotionParams
from ..world.scenes import SceneSpec
from ..world.sprites import draw

CHUNK = 250
BATCH = 128
STILL_SIZE = 64
"""Height and width at which stills are drawn at most: their targets are smaller."""
SENSE_WEIGHT = 0.01
"""Loss weight of the choice of object, motion and place."""
_OBJECTS = [spec.name for spec in OBJECTS + EXTRA_OBJECTS + SOFT_OBJECTS]
_MOTIONS, _PLACES = list(MOTIONS), list(PLACES)
assert len(_OBJECTS) <= SENSES
assert len(_MOTIONS) <= MOTION_SENSES
assert len(_PLACES) <= PLACE_SENSES


@dataclass
class Sketches:
    """Targets of the sketch for N stills."""

    scenes: Tensor
    """(N, 7, 16, 16) in 8 bits, see `network.sketch`."""
    sprites: Tensor
    """(N, 4, 36, 36) in 8 bits: the object upright, alpha in model space too; (N, 0) for a sprite book."""
    senses: Tensor
    """(N, 3) indices of motion, place and, for a sketch without a book, object."""
    poses: Tensor
    """(N, 4) place and turn by the prompts, see `network.sketch.Pose`."""
    means: Tensor
    """(N, L, R) whitened mean text states per layer."""
    empty: Tensor
    """(R,) whitened mean text state of the empty prompt."""
    positions: Tensor
    """(N, 1) position of each still in its clip."""


class _Stills(Dataset):
    """Item i: targets, positions and prompts of chunk i of the stills."""

    def __init__(self, recipe: StageRecipe, has_book: bool) -> None:
        self.recipe, self.has_book = recipe, has_book
        drawn = [data for data in recipe.data if data.kind == "scenes"] or [DataRecipe()]
        shares = np.array([data.share for data in drawn])
        self.sources, self.shares = (
            [open_scenes(data, recipe, size=STILL_SIZE) for data in drawn],
            shares / shares.sum(),
        )

    def __len__(self) -> int:
        return -(-self.recipe.mini.sketch_scenes // CHUNK)

    def __getitem__(self, chunk: int) -> tuple[tuple[Tensor, ...], Tensor, list[list[str]]]:
        rng = np.random.default_rng([self.recipe.seed, 5, chunk])
        positions = rng.integers(self.recipe.clip_frames, size=CHUNK)
        layout, targets, prompts = Layout(1), [], []
        several = len(self.sources) > 1  # a choice among one would change the random numbers
        for i, position in enumerate(positions.tolist()):
            source = self.sources[rng.choice(len(self.sources), p=self.shares) if several else 0]
            scene = source.scene(chunk * CHUNK + i, self.recipe.seed + 1, frame_indices=[position])
            clips = {name: getattr(scene, name)[None] for name in CLIPS}
            targets.append(
                (
                    to_bytes(scene_target(layout.pack(to_model_space(clips)), layout)[0]),
                    torch.zeros(0) if self.has_book else to_bytes(upright(scene.spec)),
                    senses_of(scene.spec, self.has_book),
                    pose_of(scene.spec, position / max(self.recipe.clip_frames - 1, 1)),
                )
            )
            prompts.append([scene.captions[layer] for layer in LAYERS])
        stacked = tuple(torch.stack(values) for values in zip(*targets, strict=True))
        return stacked, torch.from_numpy(positions)[:, None], prompts


def upright(spec: SceneSpec) -> Tensor:
    """Draw a scene's first object alone in model space, (4, 36, 36): premultiplied colour and alpha."""
    middle, width = SPRITE_SIZE / 2, SPRITE_SIZE * BASE_WIDTH / (UNITS * SPRITE_EXTENT)
    rgba = torch.from_numpy(draw(spec.object, spec.colour, SPRITE_SIZE, middle, middle, width, 0.0)) * spec.opacity
    colour, alpha = rgba.permute(2, 0, 1).split([3, 1])
    return torch.cat([2 * colour - alpha, 2 * alpha - 1])


def senses_of(spec: SceneSpec, has_book: bool) -> Tensor:
    """Return the indices (3,) of a scene's motion, place and object, 0 where a book holds the objects."""
    entry = 0 if has_book else _OBJECTS.index(spec.object.name)
    return torch.tensor([_MOTIONS.index(spec.motion), _PLACES.index(spec.place), entry])


def pose_of(spec: SceneSpec, t: float) -> Tensor:
    """Return place and turn (4,) of a scene's first object at a time in [0, 1], as far as captions describe them."""
    x, y, scale, angle = MOTIONS[spec.motion](t, MotionParams(spec.place))
    turn, shrunk = np.deg2rad(angle), 1 / (scale * SPRITE_EXTENT)
    place = [2 * x / UNITS - 1, 2 * y / UNITS - 1]
    return torch.tensor([*place, shrunk * np.cos(turn) - 1 / SPRITE_EXTENT, shrunk * np.sin(turn)], dtype=torch.float32)


@torch.no_grad()
def gather(
    model: CompactTransformer3DModel,
    tokenizer: PreTrainedTokenizerBase,
    text_encoder: LayerTextEncoder,
    recipe: StageRecipe,
    report: Callable[[str, float], None] | None = None,
) -> Sketches:
    """Draw the recipe's `sketch_scenes` stills, in whole chunks of `CHUNK`, and encode their prompts."""
    data = _Stills(recipe, model.sketch.object.has_book)
    loader = DataLoader(data, batch_size=None, num_workers=recipe.workers)
    targets: list[tuple[Tensor, ...]] = []
    means, positions = [], []
    for done, (target, position, prompts) in enumerate(loader):
        targets.append(target)
        positions.append(position)
        means.append(_means(model, tokenizer, text_encoder, [text for row in prompts for text in row]))
        if report is not None:
            report("sketch/drawn", (done + 1) / len(data))
    mean = torch.cat(means).unflatten(0, (-1, len(LAYERS)))
    empty = _means(model, tokenizer, text_encoder, [""])[0]
    scenes, sprites, senses, poses = (torch.cat(part) for part in zip(*targets, strict=True))
    return Sketches(scenes, sprites, senses, poses, mean, empty, torch.cat(positions))


def _means(
    model: CompactTransformer3DModel,
    tokenizer: PreTrainedTokenizerBase,
    text_encoder: LayerTextEncoder,
    prompts: list[str],
) -> Tensor:
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # texts of similar length need little padding
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
    recipe: StageRecipe,
    report: Callable[[str, float], None] | None = None,
) -> float:
    """Fit `model.sketch` by least squares to stills of training scenes; return the error on a held-out tenth.

    A sprite book stays as it is; see `mini.fitting.sprite_book`. The text whitening must have been fitted before. The
    last bits depend on the number of threads.
    """
    return fit(model, gather(model, tokenizer, text_encoder, recipe, report), recipe, report)


def fit(
    model: CompactTransformer3DModel,
    data: Sketches,
    recipe: StageRecipe,
    report: Callable[[str, float], None] | None = None,
) -> float:
    """Fit `model.sketch` to gathered stills; return the error on a held-out tenth."""
    count = len(data.scenes)
    kept = count - count // 10
    fitted = [value for name, value in model.sketch.named_parameters() if not name.startswith("object.book.")]
    optimizer = torch.optim.AdamW(fitted, lr=2e-3, weight_decay=0.02)
    steps = max(1, recipe.mini.sketch_epochs * (kept // BATCH))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(recipe.seed)

    def error(rows: Tensor, left_out: Tensor) -> Tensor:
        return sketch_error(model.sketch, data, rows, left_out, model.frame_code(data.positions[rows]))

    def train_step(rows: Tensor) -> dict[str, float]:
        left_out = torch.rand(len(rows), len(LAYERS), 1, generator=generator) < recipe.layer_dropout
        loss = error(rows, left_out)
        optimizer_step(loss, fitted, optimizer, schedule)
        return {"loss": float(loss.detach())}

    progress = None if report is None else lambda step, _: report("sketch/fitted", step / steps)
    run_steps(train_step, _batches(kept, generator), stop=steps, report=progress)
    with torch.no_grad():
        held_out = torch.arange(kept if kept < count else 0, count)
        none_left_out = torch.zeros(1, len(LAYERS), 1, dtype=torch.bool)
        return float(
            torch.stack([error(rows, none_left_out.expand(len(rows), -1, -1)) for rows in held_out.split(BATCH)]).mean()
        )


def sketch_error(sketch: Sketch, data: Sketches, rows: Tensor, left_out: Tensor, frame_code: Tensor) -> Tensor:
    """Return the loss of N stills: squared errors of scene, sprite and pose, and cross-entropy of the prompts' meaning.

    Args:
        sketch: both networks.
        data: all stills.
        rows: (N,) indices of stills.
        left_out: (N, L, 1) bool, True for a layer whose prompt is left out.
        frame_code: (N, 1, 64).
    """
    means = torch.where(left_out, data.empty, data.means[rows])
    pose, motions, places = sketch.object.poses(means, frame_code)
    chosen = [motions, places]
    loss = F.mse_loss(sketch.scene(means, frame_code), from_bytes(data.scenes[rows]))
    loss = loss + F.mse_loss(torch.cat([pose.place, pose.turn], dim=1), data.poses[rows])
    if not sketch.object.has_book:
        sprite, objects = sketch.object.looks(means)
        drawn = torch.cat([sprite[:, :3], 2 * sprite[:, 3:] - 1], dim=1)
        loss = loss + F.mse_loss(drawn, from_bytes(data.sprites[rows]))
        chosen.append(objects)
    described = ~(left_out[:, LAYERS.index(FOREGROUND), 0] & left_out[:, LAYERS.index(BLENDED), 0])
    entropy = sum(
        (F.cross_entropy(scores, senses, reduction="none") * described).mean()
        for scores, senses in zip(chosen, data.senses[rows].unbind(1), strict=False)
    )
    return loss + SENSE_WEIGHT * entropy


def to_bytes(planes: Tensor) -> Tensor:
    """Convert model space, [-1, 1], to 8 bits."""
    return ((planes.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_bytes(planes: Tensor) -> Tensor:
    """Convert 8 bits to model space, [-1, 1]."""
    return planes.float() / 127.5 - 1


def _batches(count: int, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        order = torch.randperm(count, generator=generator)
        yield from order.split(BATCH)[: max(1, count // BATCH)]
