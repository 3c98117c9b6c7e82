"""The judge: three small classifiers, trained on drawn clips, of the contents of generated layers.

No output of a model is in its training data. Reports print its accuracy on true clips next to every figure, because no
model can be expected to score higher. Letters: N stills, F frames, C channels, S side in pixels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ...core.atomic import cache_folder, write_atomically
from ...core.compositing import blend
from ...core.errors import UserError
from ...core.schema import BACKGROUND, FOREGROUND
from ..world import BACKGROUND_COLOURS, FAMILIES, FOREGROUND_COLOURS, OBJECTS, SceneSource

Progress = Callable[[int, int, str], None]
"""Called as (done, total, label)."""

NATURAL = "natural"
"""Colour class of an object in its natural colours."""
GREY = torch.tensor(0.5)
"""Backdrop of a foreground that is compared or classified without its background."""

FOREGROUND_HEADS: dict[str, tuple[str, ...]] = {
    "object": tuple(entry.name for entry in OBJECTS),
    "colour": (NATURAL, *FOREGROUND_COLOURS),
}
"""Classes of a foreground by head. They include the held-out objects, which the model alone may not have seen."""

BACKGROUND_HEADS: dict[str, tuple[str, ...]] = {
    "family": tuple(FAMILIES),
    "colour": tuple(dict.fromkeys(name for family in FAMILIES.values() for name in family.colours)),
}
"""Classes of a background by head."""

LEAK = "leak"
LEAK_HEADS: dict[str, tuple[str, ...]] = {FOREGROUND: ("absent", "present")}
"""Classes of a background that may hold remains of a foreground."""

HEADS = {FOREGROUND: FOREGROUND_HEADS, BACKGROUND: BACKGROUND_HEADS, LEAK: LEAK_HEADS}
"""Heads of each network."""
FAINTEST = 0.35
"""Opacity of the faintest foreground that the judge learns to detect in a background."""


class MissingJudgeError(UserError):
    """The cache holds no trained judge and training one is not allowed."""


@dataclass(frozen=True)
class JudgeConfig:
    """Sizes and training of the judge; a hash of them is part of its file name."""

    size: int = 64
    """Side of the input stills in pixels; clips of another size are resized."""
    widths: tuple[int, ...] = (24, 48, 96, 128)
    """Channels of the levels, each at half the size of the one before: about 40 MFLOP a frame."""
    stills: int = 10_000
    """Scenes drawn for training, one frame of each, kept as bytes: 410 MB at 64 pixels."""
    foreground_epochs: int = 6
    """Epochs of the foreground network; 38 objects in 9 colours take longer."""
    background_epochs: int = 4
    """Epochs of the background network."""
    leak_epochs: int = 4
    """Epochs of the network that detects a foreground in a background."""
    batch_size: int = 64
    """Stills per step."""
    learning_rate: float = 2e-3
    """Peak learning rate, after the warm-up; it falls to 0 along a cosine."""
    weight_decay: float = 0.02
    """Weight decay of AdamW."""
    noise: float = 0.06
    """Largest standard deviation of the noise added to a still, so that the judge tolerates a model's grain."""
    seed: int = 71
    """Seed of scenes, weights and augmentation."""


@dataclass(frozen=True)
class Verdict:
    """Classification of one clip."""

    log_probability: dict[str, dict[str, float]]
    """Log-probability, mean over the frames, by head and class."""
    names: dict[str, str]
    """Chosen class by head."""

    def of(self, head: str, name: str) -> float:
        """Return the log-probability of a class; -20 for a class that the head does not know."""
        return self.log_probability[head].get(name, -20.0)


class StillNet(nn.Module):
    """Four levels of 3x3 convolutions, mean and maximum over the frame, a linear layer for each head."""

    def __init__(self, channels: int, widths: tuple[int, ...], heads: dict[str, tuple[str, ...]]) -> None:
        super().__init__()
        first, *rest = widths
        layers = [_conv(channels, first, stride=2)]
        for last, width in zip(widths, rest, strict=False):
            layers += [_conv(last, width, stride=2), _conv(width, width)]
        self.body = nn.Sequential(*layers)
        self.heads = nn.ModuleDict({head: nn.Linear(2 * widths[-1], len(c)) for head, c in heads.items()})

    def forward(self, stills: Tensor) -> dict[str, Tensor]:
        """Map stills (N, C, S, S) in [0, 1] to logits (N, classes) by head."""
        x = self.body(stills.contiguous(memory_format=torch.channels_last) * 2 - 1)  # (N, width, S/16, S/16)
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)
        return {name: head(pooled) for name, head in self.heads.items()}


def _conv(into: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True))


class Judge(nn.Module):
    """Classifies object and colour of a foreground and family and colour of a background, and detects remains of a
    foreground in a background."""

    def __init__(self, config: JudgeConfig | None = None) -> None:
        super().__init__()
        self.config = config or JudgeConfig()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            self.foreground = StillNet(4, self.config.widths, FOREGROUND_HEADS)
            self.background = StillNet(3, self.config.widths, BACKGROUND_HEADS)
            self.leak = StillNet(3, self.config.widths, LEAK_HEADS)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.eval()

    @torch.no_grad()
    def name_foreground(self, foreground: Tensor, alpha: Tensor) -> Verdict:
        """Classify object and colour of straight colour (F, 3, H, W) with alpha (F, 1, H, W)."""
        stills = torch.cat([blend(foreground, alpha, GREY), alpha], dim=1)
        result = self._mean(self.foreground, stills)
        names = {head: FOREGROUND_HEADS[head][int(result[head].argmax())] for head in result}
        return Verdict(_by_name(result, FOREGROUND_HEADS), names)

    @torch.no_grad()
    def name_background(self, background: Tensor) -> Verdict:
        """Classify family and colour of a background (F, 3, H, W), as the likeliest pair that exists."""
        by_name = _by_name(self._mean(self.background, background), BACKGROUND_HEADS)
        pairs = [(family, colour) for family in FAMILIES for colour in FAMILIES[family].colours]
        best = max(pairs, key=lambda pair: by_name["family"][pair[0]] + by_name["colour"][pair[1]])
        return Verdict(by_name, {"family": best[0], "colour": best[1]})

    @torch.no_grad()
    def detects_foreground(self, background: Tensor) -> bool:
        """Return whether a background (F, 3, H, W) shows a foreground, whole or faint."""
        absent, present = self._mean(self.leak, background)[FOREGROUND].tolist()
        return present > absent

    def _mean(self, net: StillNet, stills: Tensor) -> dict[str, Tensor]:
        """Return log-probabilities (classes,) by head of the mean logits over frames (F, C, H, W)."""
        size = (self.config.size, self.config.size)
        stills = stills.float()
        if stills.shape[-2:] != size:
            stills = F.interpolate(stills, size, mode="bilinear", antialias=True, align_corners=False)
        return {head: logits.mean(0).log_softmax(0) for head, logits in net(stills).items()}


def _by_name(result: dict[str, Tensor], heads: dict[str, tuple[str, ...]]) -> dict[str, dict[str, float]]:
    return {head: dict(zip(heads[head], values.tolist(), strict=True)) for head, values in result.items()}


# --- training ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stills:
    """Training data of the judge."""

    foreground: Tensor
    """(N, 4, S, S) uint8: colour over mid-grey, and alpha."""
    background: Tensor
    """(N, 3, S, S) uint8."""
    leak: Tensor
    """(N, 3, S, S) uint8: the same backgrounds, every other one with its foreground, perhaps faint."""
    labels: dict[str, dict[str, Tensor]]
    """Class indices (N,) by network and head."""


def draw_stills(config: JudgeConfig, progress: Progress | None = None) -> Stills:
    """Draw one frame of each of `config.stills` scenes: all objects and all families, in their shares.

    Raises:
        MissingFontError: the emoji font is not installed.
    """
    sources = {
        split: SceneSource(split, size=config.size) for split in ("train", "held_out_objects", "held_out_family")
    }
    generator = torch.Generator().manual_seed(config.seed)
    unseen_objects = sum(entry.held_out for entry in OBJECTS) / len(OBJECTS)
    unseen_families = sum(family.held_out for family in FAMILIES.values()) / len(FAMILIES)
    foreground = torch.empty(config.stills, 4, config.size, config.size, dtype=torch.uint8)
    background = torch.empty(config.stills, 3, config.size, config.size, dtype=torch.uint8)
    leak = torch.empty_like(background)
    strength = FAINTEST + (1 - FAINTEST) * torch.rand(config.stills, generator=generator)
    labels: dict[str, dict[str, list[int]]] = {network: {} for network in HEADS}
    for i in range(config.stills):
        draw = float(torch.rand((), generator=generator))
        split = "train"
        if draw < unseen_objects + unseen_families:
            split = "held_out_objects" if draw < unseen_objects else "held_out_family"
        frame = int(torch.randint(sources[split].frames, (), generator=generator))
        scene = sources[split].scene(i, config.seed, frame_indices=[frame])
        over = torch.cat([blend(scene.foreground, scene.alpha, GREY), scene.alpha], dim=1)
        foreground[i], background[i] = _bytes(over[0]), _bytes(scene.background[0])
        leak[i] = _bytes(torch.lerp(scene.background[0], scene.blended[0], float(strength[i]) * (i % 2)))
        spec = scene.spec
        truth = {
            FOREGROUND: {"object": spec.object.name, "colour": spec.colour or NATURAL},
            BACKGROUND: {"family": spec.family, "colour": spec.background_colour},
            LEAK: {FOREGROUND: LEAK_HEADS[FOREGROUND][i % 2]},
        }
        for network, names in truth.items():
            for head, name in names.items():
                labels[network].setdefault(head, []).append(HEADS[network][head].index(name))
        if progress is not None and (i + 1) % 100 == 0:
            progress(i + 1, config.stills, "judge: drawing stills")
    tensors = {
        network: {head: torch.tensor(indices) for head, indices in heads.items()} for network, heads in labels.items()
    }
    return Stills(foreground, background, leak, tensors)


def _bytes(clip: Tensor) -> Tensor:
    return (clip.clamp(0, 1) * 255).round().to(torch.uint8)


def train_judge(
    config: JudgeConfig | None = None, progress: Progress | None = None, stills: Stills | None = None
) -> Judge:
    """Train the three networks on stills of drawn scenes; the same config gives the same judge on one machine.

    Raises:
        MissingFontError: the emoji font is not installed.
    """
    judge = Judge(config)
    config = judge.config
    stills = stills or draw_stills(config, progress)
    epochs = (config.foreground_epochs, config.background_epochs, config.leak_epochs)
    for network, repeats in zip(HEADS, epochs, strict=True):
        images, labels = getattr(stills, network), stills.labels[network]
        _train(getattr(judge, network), images, labels, repeats, config, progress, f"judge: {network}")
    return judge.eval()


def _train(
    net: StillNet,
    images: Tensor,
    labels: dict[str, Tensor],
    epochs: int,
    config: JudgeConfig,
    progress: Progress | None,
    label: str,
) -> None:
    generator = torch.Generator().manual_seed(config.seed)
    net.train()
    per_epoch = max(len(images) // config.batch_size, 1)
    total = epochs * per_epoch
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=total + 1, pct_start=0.15, div_factor=10
    )
    for step in range(total):
        if step % per_epoch == 0:
            order = torch.randperm(len(images), generator=generator)
        chosen = order[step % per_epoch * config.batch_size :][: config.batch_size]
        logits = net(augment(images[chosen].float() / 255, config.noise, generator))
        loss = torch.stack([F.cross_entropy(logits[head], labels[head][chosen]) for head in logits]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress is not None and ((step + 1) % 10 == 0 or step + 1 == total):
            progress(step + 1, total, label)
    net.eval()


def augment(stills: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Vary blur, exposure and grain of each still (N, C, S, S) a little, so that labels stay true."""
    n = len(stills)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, 1, generator=generator)

    soft = F.avg_pool2d(stills, 3, 1, 1, count_include_pad=False)
    stills = torch.lerp(stills, soft, uniform(-1, 1).clamp_min(0))
    stills = (stills - 0.5) * uniform(0.94, 1.06) + 0.5 + uniform(-0.03, 0.03)
    grain = torch.randn(stills.shape, generator=generator) * uniform(0, noise)
    return (stills + grain).clamp(0, 1)


# --- the file ---------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def data_version() -> str:
    """Hash the vocabulary and a few drawn scenes: another source of scenes needs another judge.

    Raises:
        MissingFontError: the emoji font is not installed.
    """
    vocabulary = json.dumps([FOREGROUND_HEADS, BACKGROUND_HEADS, list(BACKGROUND_COLOURS.items())])
    digest = hashlib.sha256(vocabulary.encode())
    source = SceneSource("train", size=32)
    for index in range(12):
        scene = source.scene(index, 0, frame_indices=[2])
        digest.update(_bytes(scene.blended).numpy().tobytes())
    return digest.hexdigest()


def judge_path(config: JudgeConfig | None = None) -> Path:
    """Return the cache file of a judge, named by a hash of configuration and data."""
    fields = json.dumps(dataclasses.asdict(config or JudgeConfig()), sort_keys=True)
    key = hashlib.sha256(f"{fields}|{data_version()}".encode()).hexdigest()[:16]
    return cache_folder() / f"judge-{key}.safetensors"


def load_judge(
    train_if_missing: bool = True, progress: Progress | None = None, config: JudgeConfig | None = None
) -> Judge:
    """Load the judge from the cache, or train it, which takes minutes on a CPU, and keep it there.

    Raises:
        MissingJudgeError: the cache holds none and `train_if_missing` is false.
        MissingFontError: the emoji font is not installed.
    """
    path = judge_path(config)
    if path.is_file():
        judge = Judge(config)
        judge.load_state_dict(load_file(path))
        return judge.eval()
    if not train_if_missing:
        raise MissingJudgeError(f"{path} is missing: call load_judge(train_if_missing=True) to train it")
    judge = train_judge(config, progress)
    tensors = {name: tensor.contiguous() for name, tensor in judge.state_dict().items()}
    write_atomically(path, save(tensors))
    return judge
