"""The judge: three small networks, trained on real clips, that name what a generated layer shows.

It never saw a model's output, and its accuracy on real clips is printed beside every figure it gives: no
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
from ..world import BACKGROUND_COLOURS, FAMILIES, FOREGROUND_COLOURS, OBJECTS, SceneSource

Progress = Callable[[int, int, str], None]
"""Called as (done, total, what)."""

NATURAL = "natural"
"""The colour class of an object in its own colours."""

FOREGROUND_HEADS: dict[str, tuple[str, ...]] = {
    "object": tuple(entry.name for entry in OBJECTS),
    "colour": (NATURAL, *FOREGROUND_COLOURS),
}
"""What is named of a foreground. Held-out objects are among them: only the model may not have seen them."""

BACKGROUND_HEADS: dict[str, tuple[str, ...]] = {
    "family": tuple(FAMILIES),
    "colour": tuple(dict.fromkeys(name for family in FAMILIES.values() for name in family.colours)),
}
"""What is named of a background."""

LEAK_HEADS: dict[str, tuple[str, ...]] = {"foreground": ("absent", "present")}
"""What is asked of a background beside its name: whether a foreground is left in it."""

_PREFIXES = ("foreground", "background", "leak")
FAINTEST = 0.35
"""Opacity of the faintest foreground that the judge learns to find in a background."""


class MissingJudgeError(UserError):
    """No trained judge is in the cache and training one was not asked for."""


@dataclass(frozen=True)
class JudgeConfig:
    """How the judge is built and trained; part of the name of its file."""

    size: int = 64
    """Side of the stills it sees, pixels; other clips are resized."""
    widths: tuple[int, ...] = (24, 48, 96, 128)
    """Channels of the levels, each at half the size of the one before: about 40 MFLOP a frame."""
    stills: int = 10_000
    """Scenes drawn for training, one frame of each, kept as bytes: 410 MB at 64 pixels."""
    foreground_epochs: int = 6
    """Times that the foreground network sees each still; 38 objects in 9 colours take longer."""
    background_epochs: int = 4
    """Times that the background network sees each still."""
    leak_epochs: int = 4
    """Times that the network that looks for a foreground in a background sees each still."""
    batch_size: int = 64
    """Stills a step."""
    learning_rate: float = 2e-3
    """Highest, after the warm-up; it falls to 0 along a cosine."""
    weight_decay: float = 0.02
    """Of AdamW."""
    noise: float = 0.06
    """Largest standard deviation of the noise put on a still, so that a model's grain is no surprise."""
    seed: int = 71
    """Of scenes, weights and augmentation."""


@dataclass(frozen=True)
class Verdict:
    """What the judge says of one clip."""

    log_probability: dict[str, dict[str, float]]
    """Head to class to log-probability, mean over the frames."""
    names: dict[str, str]
    """Head to the class it decides on."""

    def of(self, head: str, name: str) -> float:
        """Log-probability of a class; one that the head does not know is as good as impossible."""
        return self.log_probability[head].get(name, -20.0)


class StillNet(nn.Module):
    """Four levels of 3x3 convolutions, mean and maximum over the frame, one linear head for each question."""

    def __init__(self, channels: int, widths: tuple[int, ...], heads: dict[str, tuple[str, ...]]) -> None:
        super().__init__()
        first, *rest = widths
        layers = [_conv(channels, first, stride=2)]
        for last, width in zip(widths, rest, strict=False):
            layers += [_conv(last, width, stride=2), _conv(width, width)]
        self.body = nn.Sequential(*layers)
        self.heads = nn.ModuleDict({head: nn.Linear(2 * widths[-1], len(c)) for head, c in heads.items()})

    def forward(self, stills: Tensor) -> dict[str, Tensor]:
        """Stills (N, C, S, S) in [0, 1] to logits (N, classes) by head."""
        x = self.body(stills.contiguous(memory_format=torch.channels_last) * 2 - 1)  # (N, width, S/16, S/16)
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)
        return {name: head(pooled) for name, head in self.heads.items()}


def _conv(into: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True))


class Judge(nn.Module):
    """Names the object and colour of a foreground, and the family and colour of a background; finds a foreground that
    is left in a background."""

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
        """Heads `object` and `colour` of straight colour (F, 3, H, W) with alpha (F, 1, H, W)."""
        stills = torch.cat([blend(foreground, alpha, torch.tensor(0.5)), alpha], dim=1)
        found = self._mean(self.foreground, stills)
        names = {head: FOREGROUND_HEADS[head][int(found[head].argmax())] for head in found}
        return Verdict(_by_name(found, FOREGROUND_HEADS), names)

    @torch.no_grad()
    def name_background(self, background: Tensor) -> Verdict:
        """Heads `family` and `colour` of a background (F, 3, H, W), decided on as the likeliest true pair."""
        found = self._mean(self.background, background)
        by_name = _by_name(found, BACKGROUND_HEADS)
        pairs = [(family, colour) for family in FAMILIES for colour in FAMILIES[family].colours]
        best = max(pairs, key=lambda pair: by_name["family"][pair[0]] + by_name["colour"][pair[1]])
        return Verdict(by_name, {"family": best[0], "colour": best[1]})

    @torch.no_grad()
    def finds_foreground(self, background: Tensor) -> bool:
        """Whether a background (F, 3, H, W) shows a foreground, whole or faint."""
        absent, present = self._mean(self.leak, background)["foreground"].tolist()
        return present > absent

    def _mean(self, net: StillNet, stills: Tensor) -> dict[str, Tensor]:
        """Log-probabilities (classes,) by head of the mean logits over frames (F, C, H, W)."""
        size = (self.config.size, self.config.size)
        stills = stills.float()
        if stills.shape[-2:] != size:
            stills = F.interpolate(stills, size, mode="bilinear", antialias=True, align_corners=False)
        return {head: logits.mean(0).log_softmax(0) for head, logits in net(stills).items()}


def _by_name(found: dict[str, Tensor], heads: dict[str, tuple[str, ...]]) -> dict[str, dict[str, float]]:
    return {head: dict(zip(heads[head], values.tolist(), strict=True)) for head, values in found.items()}


# --- training ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stills:
    """What the judge is trained on."""

    foreground: Tensor
    """(N, 4, S, S) uint8: colour over mid-grey, and alpha."""
    background: Tensor
    """(N, 3, S, S) uint8."""
    leak: Tensor
    """(N, 3, S, S) uint8: the same backgrounds, every other one with its foreground, which may be faint."""
    labels: dict[str, dict[str, Tensor]]
    """`foreground`, `background` or `leak` to head to classes (N,)."""


def draw_stills(config: JudgeConfig, progress: Progress | None = None) -> Stills:
    """One frame of each of `config.stills` scenes: all objects and all families, in their shares.

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
    said: dict[str, dict[str, list[int]]] = {layer: {} for layer in _PREFIXES}
    for i in range(config.stills):
        draw = float(torch.rand((), generator=generator))
        split = "train"
        if draw < unseen_objects + unseen_families:
            split = "held_out_objects" if draw < unseen_objects else "held_out_family"
        frame = int(torch.randint(sources[split].frames, (), generator=generator))
        scene = sources[split].scene(i, config.seed, frame_indices=[frame])
        over = torch.cat([blend(scene.foreground, scene.alpha, torch.tensor(0.5)), scene.alpha], dim=1)
        foreground[i], background[i] = _bytes(over[0]), _bytes(scene.background[0])
        leak[i] = _bytes(torch.lerp(scene.background[0], scene.blended[0], float(strength[i]) * (i % 2)))
        spec = scene.spec
        truth = (
            ("foreground", FOREGROUND_HEADS, {"object": spec.object.name, "colour": spec.colour or NATURAL}),
            ("background", BACKGROUND_HEADS, {"family": spec.family, "colour": spec.background_colour}),
            ("leak", LEAK_HEADS, {"foreground": LEAK_HEADS["foreground"][i % 2]}),
        )
        for layer, heads, names in truth:
            for head, name in names.items():
                said[layer].setdefault(head, []).append(heads[head].index(name))
        if progress is not None and (i + 1) % 100 == 0:
            progress(i + 1, config.stills, "judge: drawing stills")
    labels = {layer: {head: torch.tensor(v) for head, v in of.items()} for layer, of in said.items()}
    return Stills(foreground, background, leak, labels)


def _bytes(clip: Tensor) -> Tensor:
    return (clip.clamp(0, 1) * 255).round().to(torch.uint8)


def train_judge(
    config: JudgeConfig | None = None, progress: Progress | None = None, stills: Stills | None = None
) -> Judge:
    """Train the three networks on stills of real scenes; the same config gives the same judge on one machine.

    Raises:
        MissingFontError: the emoji font is not installed.
    """
    judge = Judge(config)
    config = judge.config
    stills = stills or draw_stills(config, progress)
    epochs = (config.foreground_epochs, config.background_epochs, config.leak_epochs)
    for layer, times in zip(_PREFIXES, epochs, strict=True):
        images, labels = getattr(stills, layer), stills.labels[layer]
        _train(getattr(judge, layer), images, labels, times, config, progress, f"judge: {layer}")
    return judge.eval()


def _train(
    net: StillNet,
    images: Tensor,
    labels: dict[str, Tensor],
    epochs: int,
    config: JudgeConfig,
    progress: Progress | None,
    what: str,
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
            progress(step + 1, total, what)
    net.eval()


def augment(stills: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """A little blur, another exposure and grain for each still (N, C, S, S); names stay true."""
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
    """Hash of the vocabulary and of a few drawn scenes: another source of scenes wants another judge.

    Raises:
        MissingFontError: the emoji font is not installed.
    """
    words = json.dumps([FOREGROUND_HEADS, BACKGROUND_HEADS, list(BACKGROUND_COLOURS.items())])
    digest = hashlib.sha256(words.encode())
    source = SceneSource("train", size=32)
    for index in range(12):
        scene = source.scene(index, 0, frame_indices=[2])
        digest.update(_bytes(scene.blended).numpy().tobytes())
    return digest.hexdigest()


def judge_path(config: JudgeConfig | None = None) -> Path:
    """The file of a judge: its name tells config and data."""
    fields = json.dumps(dataclasses.asdict(config or JudgeConfig()), sort_keys=True)
    key = hashlib.sha256(f"{fields}|{data_version()}".encode()).hexdigest()[:16]
    return cache_folder() / f"judge-{key}.safetensors"


def load_judge(
    train_if_missing: bool = True, progress: Progress | None = None, config: JudgeConfig | None = None
) -> Judge:
    """The judge from the cache; without one there it is trained, some minutes on a CPU, and kept.

    Raises:
        MissingJudgeError: there is none and `train_if_missing` is false.
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
