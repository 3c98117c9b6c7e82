"""Fitting of the sprite book's pictures: codes, loops and decoder, from the sprites of an atlas.

Codes that are learned one by one converge slowly, because each is seen seldom. So an encoder, which is not kept, is
trained with the decoder first. Its codes of a loop are reduced to their main directions. Then codes, loops and decoder
are refined together.

Letters in shape comments: N frames, P phases of a loop, K looks, D = code*64 numbers of a code, H = 22 coefficients of
a Fourier series.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ...training.checkpoints import list_checkpoints, load_checkpoint, save_checkpoint
from ...training.loop import Every, run_steps
from ...training.optimizer import MuonAdamW, parameter_groups
from ..network.sprite_book import CODE_SIZE, HARMONICS, LOOK_SIZE, BookSizes, ResidualBlock, SpriteBook, fourier
from ..world.art_objects import concept_of, is_shown
from ..world.atlas import Atlas, Sprite
from ..world.objects import SOFT_OBJECTS
from ..world.sprites import sprite as draw_sprite

MOVING = " moving"
"""Ending of the name of a style whose looks are loops."""
SOFT_STYLE = "painted"
"""Style of the drawn world's see-through objects."""
LOOPS = 0.4
"""Share of frames in a batch that are phases of loops."""
CODE_NOISE = 0.02
"""Standard deviation of noise on the encoder's codes, so that rounding of the stored ones does no harm."""


@dataclass(frozen=True)
class LookFit:
    """Settings of the fit."""

    encoder_steps: int = 12_000
    """Steps of the decoder with its encoder."""
    steps: int = 6000
    """Steps of refining codes, loops and decoder."""
    encoder_batch: int = 32
    """Frames of a step with the encoder."""
    batch: int = 64
    """Frames of a step of refining."""
    learning_rate: float = 2e-3
    """Learning rate of encoder and decoder; a third of it where refining begins, and it falls to zero."""
    code_rate: float = 1e-2
    """Learning rate of codes and loops at first; it falls to zero."""
    checkpoint_every: int = 500
    """Steps from one checkpoint to the next."""
    seed: int = 0
    """Seed of weights and batches."""


@dataclass(frozen=True)
class Contents:
    """Looks that a book is to hold."""

    entries: tuple[Sprite, ...]
    """Sprite of each look, K."""
    pixels: Tensor
    """(N, 64, 64, 4) in 8 bits: the phases of all looks after each other, premultiplied RGBA."""
    start: Tensor
    """(K,) position of each look's first phase."""
    phases: Tensor
    """(K,) number of phases."""
    concepts: tuple[str, ...]
    """Keys of the C concepts."""
    styles: tuple[str, ...]
    """Names of the S styles; those of loops end in `MOVING`."""
    looks: Tensor
    """(C, S) number of a concept's look in a style, -1 where there is none."""


def style_of(entry: Sprite) -> str:
    """Return the name of the book's style of a sprite."""
    return entry.style + MOVING if entry.phases > 1 else entry.style


def gather_contents(atlas: Atlas) -> Contents:
    """Gather the training sprites of an atlas at the book's size, and the see-through objects of the drawn world."""
    chosen: dict[tuple[str, str], tuple[Sprite, np.ndarray]] = {}
    for entry in atlas.sprites:
        key = (entry.concept, style_of(entry))
        if is_shown(entry) and key not in chosen:
            chosen[key] = (entry, atlas.phases(entry))
    for spec in SOFT_OBJECTS:
        painted = np.round(draw_sprite(spec) * 255).astype(np.uint8)[None]
        chosen[concept_of(spec), SOFT_STYLE] = (_soft_entry(spec.name, spec.nouns), painted)
    concepts = tuple(dict.fromkeys(concept for concept, _ in chosen))
    styles = tuple(sorted({style for _, style in chosen}))
    looks = torch.full((len(concepts), len(styles)), -1)
    numbers = {concept: number for number, concept in enumerate(concepts)}
    for look, (concept, style) in enumerate(chosen):
        looks[numbers[concept], styles.index(style)] = look
    pixels = [shrink(phases) for _, phases in chosen.values()]
    phases = torch.tensor([len(one) for one in pixels])
    entries = tuple(entry for entry, _ in chosen.values())
    return Contents(entries, torch.cat(pixels), phases.cumsum(0) - phases, phases, concepts, styles, looks)


def _soft_entry(name: str, nouns: tuple[str, ...]) -> Sprite:
    return Sprite(-1, f"soft/{name}", name, nouns[1:], "", SOFT_STYLE, 0, 1, "drawing", False, False, "", "")


def shrink(phases: np.ndarray) -> Tensor:
    """Return phases (P, S, S, 4) in 8 bits at the book's size, (P, 64, 64, 4), by area."""
    planes = torch.from_numpy(np.array(phases)).permute(0, 3, 1, 2).float()
    small = nn.functional.interpolate(planes, (LOOK_SIZE, LOOK_SIZE), mode="area")
    return small.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def sprites_of(pixels: Tensor) -> Tensor:
    """Convert pixels (N, 64, 64, 4) in 8 bits to sprites (N, 4, 64, 64) as the book draws them."""
    planes = pixels.permute(0, 3, 1, 2).float() / 255
    colour, alpha = planes[:, :3], planes[:, 3:]
    return torch.cat([2 * colour - alpha, alpha], dim=1).contiguous(memory_format=torch.channels_last)


class LookEncoder(nn.Module):
    """Encodes sprites (N, 4, 64, 64) as codes (N, code, 8, 8)."""

    def __init__(self, code: int, width: int = 96) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(64, width, 3, padding=1),
            nn.GELU("tanh"),
            nn.Conv2d(width, 32, 1),
            nn.PixelUnshuffle(2),
            nn.Conv2d(128, 128, 3, padding=1),
            ResidualBlock(128),
            nn.Conv2d(128, code, 1),
        )

    def forward(self, sprites: Tensor) -> Tensor:
        """Encode sprites: premultiplied colour in [-1, 1] and alpha in [0, 1]."""
        codes: Tensor = self.layers(sprites)
        return codes


def look_loss(drawn: Tensor, true: Tensor, generator: torch.Generator) -> Tensor:
    """Return the loss of sprites (N, 4, 64, 64): of their composites with random colours and of alpha.

    Absolute and squared errors, and absolute errors of the differences between neighbours, which keep edges sharp.
    """
    behind = torch.rand(len(true), 3, 1, 1, generator=generator) * 2 - 1
    error = drawn - true
    composite = error[:, :3] - error[:, 3:] * behind
    error = torch.cat([composite, 2 * error[:, 3:]], dim=1)
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + 2 * error.square().mean() + 0.5 * edges


def loop_directions(codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split the codes (P, D) of a loop's phases into their mean, directions and waves.

    Returns:
        Mean (D,), directions (R, D) and waves (R, H), the strongest first and both of equal norm, so that
        `mean + fourier(phase) @ waves.T @ directions` is the code at a phase, as far as its harmonics reach.
    """
    count, mean = len(codes), codes.mean(0)
    series = fourier(torch.arange(count) / count)
    reached = torch.arange(1, HARMONICS + 1) * 2 < count
    series = series * reached.repeat(2)
    coefficients = torch.linalg.pinv(series, rtol=1e-4) @ (codes - mean)  # (H, D)
    left, strength, right = torch.linalg.svd(coefficients, full_matrices=False)
    root = strength.sqrt()[:, None]
    return mean, root * right, root * left.T


@torch.no_grad()
def encode_looks(encoder: LookEncoder, contents: Contents, book: SpriteBook) -> None:
    """Set the codes and loops of a book to those of an encoder; the strongest directions of all loops are kept."""
    codes = torch.cat([encoder(sprites_of(part)) for part in contents.pixels.split(256)]).flatten(1)  # (N, D)
    directions, waves, owners = [], [], []
    for look, (start, count) in enumerate(zip(contents.start.tolist(), contents.phases.tolist(), strict=True)):
        mean, along, wave = loop_directions(codes[start : start + count]) if count > 1 else (codes[start], None, None)
        book.codes[look] = mean.view_as(book.codes[look])
        if along is not None and wave is not None:
            directions.append(along)
            waves.append(wave)
            owners.append(torch.full((len(along),), look))
    book.looks.copy_(contents.looks)
    if not directions or not len(book.owner):
        return
    every, wave, owner = torch.cat(directions), torch.cat(waves), torch.cat(owners)
    kept = every.norm(dim=1).argsort(descending=True)[: len(book.owner)].sort().values
    book.directions.zero_()
    book.waves.zero_()
    book.owner.fill_(-1)
    book.directions[: len(kept)] = every[kept].view(-1, *book.directions.shape[1:])
    book.waves[: len(kept)] = wave[kept]
    book.owner[: len(kept)] = owner[kept]


def _batches(contents: Contents, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield looks and phase numbers (N,) without end: each look of a kind is as likely as any other."""
    loops = (contents.phases > 1).nonzero()[:, 0]
    stills = (contents.phases == 1).nonzero()[:, 0]
    moving = 0 if not len(loops) else size if not len(stills) else round(LOOPS * size)
    while True:
        drawn = [pool[torch.randint(len(pool), (count,), generator=generator)]
                 for pool, count in ((loops, moving), (stills, size - moving)) if count]  # fmt: skip
        look = torch.cat(drawn)
        yield look, (torch.rand(size, generator=generator) * contents.phases[look]).long()


def fit_looks(
    book: SpriteBook,
    contents: Contents,
    settings: LookFit,
    folder: Path | None = None,
    report: Callable[[str, float], None] | None = None,
) -> LookEncoder:
    """Fit codes, loops and decoder of a book, continuing the last checkpoint in a folder if there is one.

    The last bits depend on the number of threads.

    Args:
        book: a book of the sizes of the contents.
        contents: looks to learn.
        settings: steps, rates and seed.
        folder: folder of checkpoints; none are written if it is None.
        report: called with "looks/encoder" or "looks/codes" and the share that is done.

    Returns:
        The encoder that the codes came from.
    """
    torch.manual_seed(settings.seed)
    encoder = LookEncoder(book.sizes.code)
    for stage in (_EncoderStage(book, encoder, contents, settings), _CodeStage(book, encoder, contents, settings)):
        stage.run(None if folder is None else folder / stage.name, report)
    return encoder


class _Stage:
    """Steps of one part of the fit, with checkpoints."""

    name: str
    steps: int
    size: int

    def __init__(self, book: SpriteBook, encoder: LookEncoder, contents: Contents, settings: LookFit) -> None:
        self.book, self.encoder, self.contents, self.settings = book, encoder, contents, settings

    def begin(self) -> None:
        """Prepare a stage that has no checkpoint."""

    def groups(self) -> list[dict[str, Any]]:
        """Return parameter groups, each with its rate under "base"."""
        raise NotImplementedError

    def draw(self, look: Tensor, phase: Tensor, true: Tensor) -> Tensor:
        """Draw looks (N,) at phases (N,) in [0, 1); `true` are the sprites."""
        raise NotImplementedError

    def factor(self, share: float) -> float:
        """Return the factor on the rates where a share of the steps is done."""
        raise NotImplementedError

    def run(self, folder: Path | None, report: Callable[[str, float], None] | None) -> None:
        """Run all steps that are left."""
        generator = torch.Generator().manual_seed(self.settings.seed)
        modules = {"book": self.book, "encoder": self.encoder}
        done = [] if folder is None else list_checkpoints(folder)
        state, start = None, 0
        if done:
            state, info = load_checkpoint(done[-1])
            start = info["step"]
            for name, module in modules.items():
                module.load_state_dict(state[name])
            generator.set_state(state["generator"])
        else:
            self.begin()
        optimizer = MuonAdamW(self.groups(), lr=1.0)
        if state is not None:
            optimizer.load_state_dict(state["optimizer"])
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        step = start

        def train_step(batch: tuple[Tensor, Tensor]) -> dict[str, float]:
            nonlocal step
            look, number = batch
            true = sprites_of(self.contents.pixels[self.contents.start[look] + number])
            drawn = self.draw(look, number / self.contents.phases[look], true)
            loss = look_loss(drawn, true, generator)
            factor = min(1.0, (step + 1) / 50) * self.factor(step / self.steps)
            for group in optimizer.param_groups:
                group["lr"] = group["base"] * factor
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            step += 1
            return {"loss": float(loss.detach())}

        def save(at: int) -> None:
            tensors = {name: module.state_dict() for name, module in modules.items()}
            kept = {**tensors, "optimizer": optimizer.state_dict(), "generator": generator.get_state()}
            save_checkpoint(cast(Path, folder), at, kept, {"settings": dataclasses.asdict(self.settings)}, keep=1)

        run_steps(
            train_step,
            _batches(self.contents, self.size, generator),
            start,
            self.steps,
            None if report is None else lambda at, _: report(f"looks/{self.name}", at / self.steps),
            actions=[] if folder is None else [Every(self.settings.checkpoint_every, save)],
        )


class _EncoderStage(_Stage):
    name = "encoder"

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.steps, self.size = self.settings.encoder_steps, self.settings.encoder_batch

    def groups(self) -> list[dict[str, Any]]:
        named = [*self.encoder.named_parameters(), *self.book.decoder.named_parameters()]
        return [group | {"base": self.settings.learning_rate} for group in parameter_groups(named, 1e-3)]

    def draw(self, look: Tensor, phase: Tensor, true: Tensor) -> Tensor:
        code = self.encoder(true)
        return self.book.decoder(code + CODE_NOISE * torch.randn(code.shape))

    def factor(self, share: float) -> float:
        return 1 - 2 / 3 * max(0.0, 2 * share - 1)


class _CodeStage(_Stage):
    name = "codes"

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.steps, self.size = self.settings.steps, self.settings.batch

    def begin(self) -> None:
        encode_looks(self.encoder, self.contents, self.book)

    def groups(self) -> list[dict[str, Any]]:
        tables = [self.book.codes, self.book.directions, self.book.waves]
        decoder = parameter_groups(self.book.decoder.named_parameters(), 1e-3)
        return [
            {"params": tables, "muon": False, "weight_decay": 0.0, "base": self.settings.code_rate},
            *(group | {"base": self.settings.learning_rate / 3} for group in decoder),
        ]

    def draw(self, look: Tensor, phase: Tensor, true: Tensor) -> Tensor:
        return self.book.draw(look, phase[:, None])

    def factor(self, share: float) -> float:
        return 1 - share


@torch.no_grad()
def measure_looks(book: SpriteBook, contents: Contents, every: int = 1) -> dict[str, float]:
    """Return the mean PSNR in dB over mid-grey of stills and of loops, all phases of every `every`th look."""
    scores: dict[str, list[Tensor]] = {"stills": [], "loops": []}
    for look in range(0, len(contents.entries), every):
        start, count = int(contents.start[look]), int(contents.phases[look])
        true = sprites_of(contents.pixels[start : start + count])
        drawn = book.draw(torch.tensor([look]), torch.arange(count)[None] / count)
        error = ((drawn - true)[:, :3] / 2).square().mean((1, 2, 3)).clamp(min=1e-6)
        scores["loops" if count > 1 else "stills"].append(-10 * error.log10().mean())
    return {name: float(torch.stack(values).mean()) for name, values in scores.items() if values}


def book_sizes(contents: Contents, parameters: int = 9_000_000, channels: int = 192, **sizes: int) -> BookSizes:
    """Return sizes of a book for its contents, with as many directions of loops as a number of parameters allows.

    Args:
        contents: looks that it is to hold.
        parameters: most parameters of the book.
        channels: channels of the mean text states.
        sizes: other sizes than those of `BookSizes`.

    Raises:
        ValueError: the number of parameters is too small for the looks alone.
    """
    counts = {"concepts": len(contents.concepts), "styles": len(contents.styles), "looks": len(contents.entries)}
    empty = BookSizes(**counts, directions=0, **sizes)
    with torch.device("meta"):
        used = sum(parameter.numel() for parameter in SpriteBook(channels, empty).parameters())
    own = 2 * HARMONICS + empty.code * CODE_SIZE**2
    if used > parameters:
        raise ValueError(f"{parameters} parameters are too few: the book has {used} without its loops' motions")
    most = int((contents.phases[contents.phases > 1].clamp(max=2 * HARMONICS)).sum())
    return dataclasses.replace(empty, directions=min(most, (parameters - used) // own))
