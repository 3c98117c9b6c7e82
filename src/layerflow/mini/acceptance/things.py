"""Judges of the things of an atlas: which one a foreground shows, in which style, and whose own motion it has.

Both are small convolutional networks, trained on true sprites alone and never on a model's output. They see the
foreground cut out by its own matte and scaled to one size (`stabilise`), so that neither its place nor its path counts.
Letters: N samples, F frames, H, W pixels, S side of a cut-out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ...core.atomic import cache_folder, write_atomically
from ..world.atlas import INDEX, STYLES, Atlas, Pixels, Sprite
from .judge import augment

Progress = Callable[[int, int, str], None]
"""Called as (done, total, label)."""

GREY = 0.5
"""Ground of a cut-out that is judged."""
BOX = 5.0
"""Side of the cut-out square in standard deviations of the matte: a bar or a disc just fits."""
GAP, SHOWN = 2, 4
"""The motion judge sees `SHOWN` frames of a clip, each `GAP` frames after the one before."""
RATE = (0.7, 1.5)
"""Range of the phases per frame of true motion."""
NONE = ""
"""Class of what does not move by itself, or not as any thing of the atlas."""
CONFUSED = 0.5
"""Share of two classes' true stills that are taken for the other one, summed, from which both count as one."""


@dataclass(frozen=True)
class ThingsConfig:
    """Sizes and training of both judges; a hash of them is part of the file's name."""

    size: int = 24
    """Side of a cut-out in pixels."""
    widths: tuple[int, int] = (24, 48)
    """Channels of both convolutions."""
    hidden: int = 256
    """Width of the layer before the classes."""
    steps: int = 3000
    """Training steps of the judge of things."""
    motion_steps: int = 1500
    """Training steps of the motion judge."""
    batch_size: int = 96
    """Stills per step."""
    learning_rate: float = 3e-3
    """Peak learning rate; it falls to 0 along a cosine."""
    weight_decay: float = 0.02
    """Weight decay of AdamW."""
    noise: float = 0.05
    """Largest standard deviation of the noise added to a still."""
    still: float = 0.45
    """Share of the motion judge's samples that do not move by themselves."""
    checked: int = 6
    """True stills of each class from which confusions are counted."""
    seed: int = 73
    """Seed of samples and weights."""


def class_of(sprite: Sprite) -> str:
    """Return the class of a sprite: its name, since a prompt cannot tell things of one name apart."""
    return sprite.name


def stabilise(colour: Tensor, alpha: Tensor, size: int) -> Tensor:
    """Cut a foreground out by its own matte, frame by frame: centred on it, and scaled by its spread.

    Args:
        colour: (F, 3, H, W) straight colour in [0, 1].
        alpha: (F, 1, H, W) in [0, 1].
        size: side S of the result.

    Returns:
        (F, 4, S, S): premultiplied colour and alpha; transparent where a matte is empty.
    """
    premultiplied = torch.cat([colour * alpha, alpha], 1)
    x, y, side = boxes(alpha)
    return cut(premultiplied, x, y, side, torch.zeros_like(x), size)


def boxes(alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the middle x, y and the side of the square around each matte (F, 1, H, W), each (F,), in [-1, 1]."""
    matte = alpha[:, 0].double().clamp(0, 1)
    matte = torch.where(matte < 0.1, 0.0, matte)
    mass = matte.sum((1, 2)).clamp_min(1e-6)
    height, width = matte.shape[-2:]
    rows = (torch.arange(height, dtype=torch.float64) + 0.5) / height * 2 - 1
    columns = (torch.arange(width, dtype=torch.float64) + 0.5) / width * 2 - 1
    x, y = (matte.sum(1) @ columns) / mass, (matte.sum(2) @ rows) / mass
    spread_x = (matte.sum(1) * (columns - x[:, None]).square()).sum(1) / mass
    spread_y = (matte.sum(2) * (rows - y[:, None]).square()).sum(1) / mass
    side = BOX * ((spread_x + spread_y) / 2).sqrt().clamp_min(0.02)
    return x.float(), y.float(), side.float()


def cut(
    picture: Tensor, x: Tensor, y: Tensor, side: Tensor, angle: Tensor, size: int, wave: Tensor | None = None
) -> Tensor:
    """Return squares (N, C, S, S) of pictures (N, C, H, W), with middle, side and angle in radians (N,), in [-1, 1].

    `wave` (N, 3), strength, turns and phase, bends them along a sine.
    """
    grid = (torch.arange(size) + 0.5) / size * 2 - 1
    u, v = grid[None, None, :].expand(len(x), size, size), grid[None, :, None].expand(len(x), size, size)
    if wave is not None:
        strength, turns, phase = (wave[:, n, None, None] for n in range(3))
        u, v = u + strength * torch.sin(turns * v + phase), v + strength * torch.sin(turns * u + 1.7 * phase)
    cos, sin = (angle.cos()[:, None, None], angle.sin()[:, None, None])
    half = side[:, None, None] / 2
    places = torch.stack(
        [x[:, None, None] + half * (cos * u - sin * v), y[:, None, None] + half * (sin * u + cos * v)], -1
    )
    return F.grid_sample(picture, places, align_corners=False)


def on_ground(cutouts: Tensor, ground: Tensor | float = GREY) -> Tensor:
    """Return cut-outs (N, 4, S, S), premultiplied, over a plain colour (N, 3, 1, 1), with their alpha: (N, 4, S, S)."""
    alpha = cutouts[:, 3:]
    return torch.cat([cutouts[:, :3] + (1 - alpha) * ground, alpha], 1)


class CutoutNet(nn.Module):
    """Two convolutions of stride 2, a layer over all places, which cut-outs have in common, and one for each head."""

    def __init__(self, channels: int, config: ThingsConfig, heads: dict[str, tuple[str, ...]]) -> None:
        super().__init__()
        first, second = config.widths
        self.body = nn.Sequential(
            nn.Conv2d(channels, first, 4, 2, 1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
            nn.Conv2d(first, second, 4, 2, 1, bias=False),
            nn.BatchNorm2d(second),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(second * (config.size // 4) ** 2, config.hidden, bias=False),
            nn.BatchNorm1d(config.hidden),
            nn.ReLU(inplace=True),
        )
        self.heads = nn.ModuleDict({head: nn.Linear(config.hidden, len(c)) for head, c in heads.items()})

    def forward(self, stills: Tensor) -> dict[str, Tensor]:
        """Map stills (N, C, S, S) in [0, 1] to logits (N, classes) by head."""
        x = self.body(stills * 2 - 1)
        return {name: head(x) for name, head in self.heads.items()}


class ThingsJudge(nn.Module):
    """Names thing and style of a foreground, and the thing whose own motion it has."""

    group: Tensor

    def __init__(self, things: Sequence[str], moving: Sequence[str], config: ThingsConfig | None = None) -> None:
        """Make untrained networks.

        Args:
            things: classes of things.
            moving: those with a motion of their own.
            config: sizes.
        """
        super().__init__()
        self.config = config or ThingsConfig()
        self.heads = {"thing": tuple(things), "style": tuple(STYLES)}
        self.moving = (*moving, NONE)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            self.things = CutoutNet(4, self.config, self.heads)
            self.motion = CutoutNet(4 * SHOWN, self.config, {"motion": self.moving})
        self.register_buffer("group", torch.arange(len(self.heads["thing"])))
        self.eval()

    @torch.no_grad()
    def name(self, colour: Tensor, alpha: Tensor) -> tuple[str, str]:
        """Return thing and style of straight colour (F, 3, H, W) with alpha (F, 1, H, W), over all frames together."""
        logits = self.things(on_ground(stabilise(colour, alpha, self.config.size)))
        thing, style = (self.heads[head][int(logits[head].mean(0).argmax())] for head in ("thing", "style"))
        return thing, style

    @torch.no_grad()
    def name_motion(self, colour: Tensor, alpha: Tensor) -> str:
        """Return the thing whose own motion a foreground has; `NONE` if it has none, or fewer frames than it takes."""
        last = len(alpha) - GAP * (SHOWN - 1)
        if last < 1:
            return NONE
        frames = on_ground(stabilise(colour, alpha, self.config.size))
        windows = torch.stack([frames[start::GAP][:SHOWN].flatten(0, 1) for start in range(last)])
        return self.moving[int(self.motion(windows)["motion"].log_softmax(1).mean(0).argmax())]

    def same(self, one: str, other: str) -> bool:
        """Return whether two classes of things are the same, or cannot be told apart on true stills."""
        things = self.heads["thing"]
        return one == other or bool(self.group[things.index(one)] == self.group[things.index(other)])

    @property
    def groups(self) -> int:
        """Number of classes that can be told apart."""
        return len(set(self.group.tolist()))


# --- training -----------------------------------------------------------------------------------------------


def classes(atlas: Atlas) -> tuple[list[str], list[str]]:
    """Return all classes of an atlas, and those of which a sprite moves by itself."""
    things = sorted({class_of(sprite) for sprite in atlas.sprites})
    return things, sorted({class_of(sprite) for sprite in atlas.sprites if sprite.moves})


class _Samples:
    """Random stills and frames of the sprites of an atlas, classes in equal shares."""

    def __init__(self, atlas: Atlas, judge: ThingsJudge) -> None:
        self.atlas, self.judge = atlas, judge
        self.generator = torch.Generator().manual_seed(judge.config.seed)
        self.by_class: dict[str, list[Sprite]] = {}
        for sprite in atlas.sprites:
            self.by_class.setdefault(class_of(sprite), []).append(sprite)
        # Half the resolution is enough, and drawing a step then takes less time than learning from it.
        parts = [_halved(atlas.sprite_pixels[start : start + 256]) for start in range(0, len(atlas.sprite_pixels), 256)]
        self.frames = torch.cat(parts)  # (phases of all sprites, 4, h, w), uint8
        found = [boxes(part[:, 3:].float() / 255) for part in self.frames.split(256)]
        self.boxes = torch.cat([torch.stack(one, 1) for one in found])  # (phases of all sprites, 3)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=self.generator)

    def integer(self, below: int) -> int:
        return int(torch.randint(below, (), generator=self.generator))

    def take(self, sprites: Sequence[Sprite], phases: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return phases of sprites (N, 4, h, w) in [0, 1], premultiplied, and x, y and side of their boxes (N,)."""
        rows = [sprite.start + phase % sprite.phases for sprite, phase in zip(sprites, phases, strict=True)]
        x, y, side = self.boxes[rows].unbind(1)
        return self.frames[rows].float() / 255, x, y, side

    def stills(self, names: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Return varied stills (N, 4, S, S) of classes, and the numbers of their classes and styles (N,)."""
        config, heads = self.judge.config, self.judge.heads
        sprites = [self.by_class[name][self.integer(len(self.by_class[name]))] for name in names]
        pictures, x, y, side = self.take(sprites, [self.integer(sprite.phases) for sprite in sprites])
        n = len(sprites)
        x, y = x + side * self.uniform(-0.06, 0.06, n), y + side * self.uniform(-0.06, 0.06, n)
        side = side * self.uniform(0.85, 1.2, n)
        cutouts = cut(pictures, x, y, side, torch.deg2rad(self.uniform(-25, 25, n)), config.size)
        cutouts = self.cropped(cutouts)
        stills = on_ground(cutouts, self.uniform(0, 1, n, 3, 1, 1))
        stills = augment(self.coarse(stills), config.noise, self.generator)
        things = torch.tensor([heads["thing"].index(class_of(sprite)) for sprite in sprites])
        return stills, things, torch.tensor([heads["style"].index(sprite.style) for sprite in sprites])

    def cropped(self, cutouts: Tensor) -> Tensor:
        """Remove up to a third of some cut-outs at one side, as of things that leave the frame."""
        size = cutouts.shape[-1]
        keep = torch.ones(len(cutouts), 1, size, size)
        for one in keep:
            if float(self.uniform(0, 1, 1)) < 0.15:
                lost = 1 + self.integer(max(1, size // 3))
                torch.rot90(one, self.integer(4), (1, 2))[:, :lost] = 0
        return cutouts * keep

    def coarse(self, stills: Tensor) -> Tensor:
        """Blur half of the batch, as enlarged from fewer pixels."""
        size = stills.shape[-1]
        half = len(stills) // 2
        small = size // 2 + self.integer(max(1, size - size // 2))
        part = F.interpolate(stills[:half], (small, small), mode="bilinear", antialias=True, align_corners=False)
        part = F.interpolate(part, (size, size), mode="bilinear", align_corners=False)
        return torch.cat([part, stills[half:]])

    def loops(self, count: int) -> tuple[Tensor, Tensor]:
        """Return varied runs of frames (N, 4 * SHOWN, S, S) and the numbers of their classes of motion (N,).

        Those without own motion are still pictures that shift, turn and grow a little, half of them bent by a wave; or
        phases in random order.
        """
        judge, config = self.judge, self.judge.config
        names = [judge.moving[self.integer(len(judge.moving) - 1)] for _ in range(count)]
        sprites, chosen, labels, waves = [], [], [], []
        for name in names:
            own = [sprite for sprite in self.by_class[name] if sprite.moves]
            sprite = own[self.integer(len(own))]
            start, rate = self.integer(sprite.phases), float(self.uniform(*RATE, 1))
            phases = [int(start + GAP * rate * n) for n in range(SHOWN)]
            wave = torch.zeros(SHOWN, 3)
            draw = float(self.uniform(0, 1, 1))
            still = draw < config.still
            if still and draw < 0.8 * config.still:
                phases = [start] * SHOWN
                if draw < 0.4 * config.still:
                    wave[:, 0], wave[:, 1] = float(self.uniform(0.02, 0.12, 1)), float(self.uniform(1.5, 5, 1))
                    wave[:, 2] = float(self.uniform(0, 6.3, 1)) + float(self.uniform(0.3, 1.6, 1)) * torch.arange(SHOWN)
            elif still:
                others = torch.randperm(sprite.phases, generator=self.generator).tolist()
                phases = [others[n % len(others)] for n in range(SHOWN)]
            sprites += [sprite] * SHOWN
            chosen += phases
            waves.append(wave)
            labels.append(judge.moving.index(NONE if still else name))
        pictures, x, y, side = self.take(sprites, chosen)
        n = count

        def drift(each: float, whole: float) -> Tensor:
            """Return offsets (N * SHOWN,) that differ between clips, and a little between their frames."""
            return (self.uniform(-whole, whole, n, 1) + self.uniform(-each, each, n, SHOWN)).flatten()

        turn = (
            drift(0.0, math.radians(20))
            + (self.uniform(-1, 1, n, 1) * math.radians(10) * torch.linspace(-1, 1, SHOWN)).flatten()
        )
        x, y = x + side * drift(0.008, 0.04), y + side * drift(0.008, 0.04)
        side = side * torch.exp(drift(0.015, 0.12))
        cutouts = cut(pictures, x, y, side, turn, config.size, torch.cat(waves))
        ground = self.uniform(0, 1, n, 3, 1, 1).repeat_interleave(SHOWN, 0)
        stills = on_ground(cutouts, ground)
        runs = self.coarse(stills.unflatten(0, (n, SHOWN)).flatten(1, 2))
        return augment(runs, config.noise / 2, self.generator), torch.tensor(labels)


def _halved(pixels: Pixels) -> Tensor:
    """Return pictures (N, S, S, 4) at half their size: (N, 4, S / 2, S / 2), uint8."""
    whole = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float()
    return F.avg_pool2d(whole, 2).round().to(torch.uint8)


def train_things(atlas: Atlas, config: ThingsConfig | None = None, progress: Progress | None = None) -> ThingsJudge:
    """Train both judges on the sprites of an atlas, held-out ones included, which the model alone may not have seen."""
    judge = ThingsJudge(*classes(atlas), config)
    config = judge.config
    samples = _Samples(atlas, judge)
    things = judge.heads["thing"]

    def still_loss() -> Tensor:
        names = [things[samples.integer(len(things))] for _ in range(config.batch_size)]
        stills, own, styles = samples.stills(names)
        logits = judge.things(stills)
        return F.cross_entropy(logits["thing"], own, label_smoothing=0.05) + 0.3 * F.cross_entropy(
            logits["style"], styles
        )

    def motion_loss() -> Tensor:
        runs, labels = samples.loops(config.batch_size // 2)
        return F.cross_entropy(judge.motion(runs)["motion"], labels, label_smoothing=0.05)

    _train(judge.things, still_loss, config.steps, config, progress, "judge of things")
    if len(judge.moving) > 1:
        _train(judge.motion, motion_loss, config.motion_steps, config, progress, "judge of motion")
    judge.eval()
    judge.group.copy_(_confused(judge, samples))
    return judge


def _train(
    net: nn.Module,
    loss_of: Callable[[], Tensor],
    steps: int,
    config: ThingsConfig,
    progress: Progress | None,
    label: str,
) -> None:
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=steps + 1, pct_start=0.1, div_factor=10
    )
    for step in range(steps):
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress is not None and ((step + 1) % 100 == 0 or step + 1 == steps):
            progress(step + 1, steps, f"{label}, loss {float(loss.detach()):.2f}")
    net.eval()


@torch.no_grad()
def _confused(judge: ThingsJudge, samples: _Samples) -> Tensor:
    """Return the number of each class's group: classes that the judge confuses on true stills are one."""
    things, each = judge.heads["thing"], judge.config.checked
    confusion = torch.zeros(len(things), len(things))
    for start in range(0, len(things), 16):
        names = [name for name in things[start : start + 16] for _ in range(each)]
        stills, own, _ = samples.stills(names)
        named = judge.things(stills)["thing"].argmax(1)
        confusion.index_put_((own, named), torch.tensor(1 / each), accumulate=True)
    group = torch.arange(len(things))
    for one, other in ((confusion + confusion.T).triu(1) >= CONFUSED).nonzero().tolist():
        group[group == group[other]] = group[one].clone()
    return group


# --- the file -----------------------------------------------------------------------------------------------


def load_things(atlas: Atlas, config: ThingsConfig | None = None, progress: Progress | None = None) -> ThingsJudge:
    """Load the judges of an atlas from the cache, or train them, which takes minutes on a CPU, and keep them there."""
    digest = hashlib.sha256((atlas.folder / INDEX).read_bytes())
    digest.update(json.dumps(dataclasses.asdict(config or ThingsConfig()), sort_keys=True).encode())
    path = cache_folder() / f"things-{digest.hexdigest()[:16]}.safetensors"
    if path.is_file():
        judge = ThingsJudge(*classes(atlas), config)
        judge.load_state_dict(load_file(path))
        return judge.eval()
    judge = train_things(atlas, config, progress)
    write_atomically(path, save({name: tensor.contiguous() for name, tensor in judge.state_dict().items()}))
    return judge


__all__ = ["NONE", "ThingsConfig", "ThingsJudge", "class_of", "classes", "load_things", "stabilise", "train_things"]
