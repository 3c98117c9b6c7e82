"""Fitting of the sprite book: its pictures (`looks`), and its reading of prompts, learned from captions.

Letters in shape comments: N captions, L layers, R whitened text channels, S styles.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ...core.atomic import whole_path
from ...core.config import load_config
from ...core.schema import LAYERS
from ...models.text import encode_prompts
from ...pipeline import LayerFlowPipeline
from ...training.checkpoints import list_checkpoints, load_checkpoint, save_checkpoint
from ...training.loop import run_steps
from ...training.schedule import warm_cosine
from ..network.sprite_book import BookSizes, SpriteBook, Understood
from ..network.text_encoder import LayerTextEncoder, pool
from ..world.atlas import Atlas
from .look_captions import Caption, write_captions
from .looks import Contents, LookFit, book_sizes, fit_looks, gather_contents

CHUNK = 250
"""Prompts that are encoded at once."""
BATCH = 256
"""Captions of a step."""
LEFT_OUT = 0.15
"""Share of prompts that are left out, of each layer."""
NOISE = 0.1
"""Standard deviation of noise on the whitened text states, whose own deviation is 1."""


@dataclass(frozen=True)
class BookFit:
    """Settings of the fit of a sprite book."""

    parameters: int = 9_000_000
    """Most parameters of the book: what the codes leave is used for the motions of loops."""
    code: int = 10
    """Channels of a look's code."""
    captions: int = 90_000
    """Captions of the atlas's looks that it learns to read."""
    drawn_captions: int = 20_000
    """Captions of the drawn world."""
    epochs: int = 14
    """Number of times that it sees each of them."""
    learning_rate: float = 2e-3
    """Learning rate of reading."""
    looks: LookFit = field(default_factory=LookFit)
    """Settings of the pictures."""
    seed: int = 0
    """Seed of captions and weights."""


@dataclass(frozen=True)
class BookRecipe:
    """Recipe of a sprite book."""

    name: str
    """Folder under the output folder."""
    folder: str
    """Folder of the atlas, relative to the recipe's."""
    model: str = "mini"
    """Model whose text encoder reads prompts for the book."""
    fit: BookFit = field(default_factory=BookFit)
    """Sizes and steps."""


def fit_book_by_recipe(path: Path, output: Path, report: Callable[[str, float], None] | None = None) -> Path:
    """Fit a sprite book by a recipe, continuing what an interrupted fit left, and return the book's file.

    Args:
        path: recipe, see `BookRecipe`.
        output: folder of runs.
        report: called with the part and the share of it that is done.

    Raises:
        ConfigError: the recipe cannot be read.
        AtlasError: its folder holds no atlas.
    """
    recipe = load_config(BookRecipe, path)
    folder = output / recipe.name
    pipeline = LayerFlowPipeline.from_pretrained(recipe.model)
    whitening = pipeline.transformer.pool_whitening
    atlas = Atlas.open(path.parent / recipe.folder)
    settings = recipe.fit
    book, contents = fit_book(atlas, pipeline.tokenizer, pipeline.text_encoder, whitening, settings, folder, report)
    save_book(book, contents, folder / "book.safetensors")
    return folder / "book.safetensors"


@dataclass
class Reading:
    """Captions and what they mean, N of them."""

    means: Tensor
    """(N, L, R) whitened mean text states."""
    empty: Tensor
    """(R,) that of the empty prompt."""
    concepts: Tensor
    """(N,) numbers of concepts."""
    styles: Tensor
    """(N, S) probabilities of styles."""
    tints: Tensor
    """(N,) positions in `TINTS`."""
    opacity: Tensor
    """(N, 1) opacity in [0, 1]."""


def fit_book(
    atlas: Atlas,
    tokenizer: PreTrainedTokenizerBase,
    text_encoder: LayerTextEncoder,
    whitening: nn.Module,
    settings: BookFit,
    folder: Path | None = None,
    report: Callable[[str, float], None] | None = None,
) -> tuple[SpriteBook, Contents]:
    """Fit a sprite book to the looks of an atlas and to captions.

    Args:
        atlas: its training sprites are learned.
        tokenizer: tokenizer of the text encoder.
        text_encoder: encoder of the prompts.
        whitening: whitening of mean text states, fitted before, D to R channels.
        settings: sizes and steps.
        folder: folder of checkpoints, from which an interrupted fit continues; none are written if it is None.
        report: called with the part and the share of it that is done.

    Returns:
        The book, and what it holds.
    """
    contents = gather_contents(atlas)
    channels = whitening(torch.zeros(1, text_encoder.config.projection_dim)).shape[-1]
    torch.manual_seed(settings.seed)
    book = SpriteBook(channels, book_sizes(contents, settings.parameters, channels, code=settings.code))
    fit_looks(book, contents, settings.looks, folder, report)
    behind = [background.caption for background in atlas.backgrounds if not background.held_out]
    captions = write_captions(contents, behind, settings.captions, settings.drawn_captions, settings.seed)
    reading = read_captions(captions, tokenizer, text_encoder, whitening, report)
    fit_reader(book, reading, contents.looks, settings, folder, report)
    return book, contents


def read_captions(
    captions: Sequence[Caption],
    tokenizer: PreTrainedTokenizerBase,
    text_encoder: LayerTextEncoder,
    whitening: nn.Module,
    report: Callable[[str, float], None] | None = None,
) -> Reading:
    """Encode captions; each different prompt once."""
    numbers = {
        text: number for number, text in enumerate(dict.fromkeys(["", *(p for c in captions for p in c.prompts)]))
    }
    means = whitened_means(list(numbers), tokenizer, text_encoder, whitening, report)
    rows = torch.tensor([[numbers[text] for text in caption.prompts] for caption in captions])
    return Reading(
        means[rows],
        means[0],
        torch.tensor([caption.concept for caption in captions]),
        torch.stack([torch.from_numpy(caption.styles).float() for caption in captions]),
        torch.tensor([caption.tint for caption in captions]),
        torch.tensor([[caption.opacity] for caption in captions], dtype=torch.float32),
    )


@torch.no_grad()
def whitened_means(
    prompts: list[str],
    tokenizer: PreTrainedTokenizerBase,
    text_encoder: LayerTextEncoder,
    whitening: nn.Module,
    report: Callable[[str, float], None] | None = None,
) -> Tensor:
    """Return whitened mean text states (N, R) of prompts."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # texts of similar length need little padding
    means = []
    for start in range(0, len(prompts), CHUNK):
        texts = [prompts[i] for i in order[start : start + CHUNK]]
        means.append(whitening(pool(*encode_prompts(tokenizer, text_encoder, texts))))
        if report is not None:
            report("reader/encoded", min(1.0, (start + CHUNK) / len(prompts)))
    return torch.cat(means)[torch.tensor(order).argsort()]


def fit_reader(
    book: SpriteBook,
    reading: Reading,
    looks: Tensor,
    settings: BookFit,
    folder: Path | None = None,
    report: Callable[[str, float], None] | None = None,
) -> float:
    """Fit `book.reader` by cross-entropy; return the share of a held-out twentieth whose concept it chooses.

    Args:
        book: a book.
        reading: captions, in any order.
        looks: (C, S) which looks exist, -1 for none.
        settings: steps and rates.
        folder: the fitted reader is kept there, and a second call returns it.
        report: called with "reader/fitted" and the share that is done.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    shuffled = torch.randperm(len(reading.means), generator=generator)
    held_out, kept = shuffled[: len(shuffled) // 20], shuffled[len(shuffled) // 20 :]
    done = [] if folder is None else list_checkpoints(folder / "reader")
    if done:
        book.reader.load_state_dict(load_checkpoint(done[-1])[0]["reader"])
        return _right(book, reading, held_out)
    rate = settings.learning_rate
    optimizer = torch.optim.AdamW(book.reader.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.05)
    steps = settings.epochs * max(1, len(kept) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warm_cosine(step, steps, warmup=min(100, steps // 10))
    )

    def train_step(rows: Tensor) -> dict[str, float]:
        means = reading.means[rows]
        left_out = torch.rand(len(rows), len(LAYERS), 1, generator=generator) < LEFT_OUT
        means = torch.where(left_out, reading.empty, means)
        means = means + NOISE * torch.randn(means.shape, generator=generator)
        loss = reading_error(book.reader(means), reading, rows, looks)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(book.reader.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        return {"loss": float(loss.detach())}

    progress = None if report is None else lambda step, _: report("reader/fitted", step / steps)
    run_steps(train_step, _shuffled(kept, generator), stop=steps, report=progress)
    if folder is not None:
        save_checkpoint(folder / "reader", steps, {"reader": book.reader.state_dict()}, {})
    return _right(book, reading, held_out)


def reading_error(understood: Understood, reading: Reading, rows: Tensor, looks: Tensor) -> Tensor:
    """Return the loss of what N prompts were understood to mean.

    Args:
        understood: the reader's answer.
        reading: all captions.
        rows: (N,) numbers of the captions.
        looks: (C, S) which looks exist, -1 for none.
    """
    concepts = reading.concepts[rows]
    styles = understood.styles.masked_fill(looks[concepts] < 0, -1e4)
    return (
        F.cross_entropy(understood.concepts, concepts, label_smoothing=0.02)
        + 0.5 * F.cross_entropy(styles, reading.styles[rows])
        + F.cross_entropy(understood.tints, reading.tints[rows])
        + 5 * F.mse_loss(understood.opacity, reading.opacity[rows])
    )


@torch.no_grad()
def _right(book: SpriteBook, reading: Reading, rows: Tensor) -> float:
    if not len(rows):
        return float("nan")
    chosen = torch.cat([book.reader(reading.means[part]).concepts.argmax(-1) for part in rows.split(1000)])
    return float((chosen == reading.concepts[rows]).float().mean())


def _shuffled(rows: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        order = rows[torch.randperm(len(rows), generator=generator)]
        yield from order.split(BATCH)[: max(1, len(rows) // BATCH)]


def save_book(book: SpriteBook, contents: Contents, path: Path) -> None:
    """Write a book's tensors in bfloat16, with its sizes and the names of what it holds as metadata."""
    tensors = {
        name: (tensor.bfloat16() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in book.state_dict().items()
    }
    names = {"concepts": contents.concepts, "styles": contents.styles}
    about = {"sizes": asdict(book.sizes), "channels": book.reader.each.in_features, **names}
    with whole_path(path) as partial:
        save_file(tensors, partial, {key: json.dumps(value) for key, value in about.items()})


def load_book(path: Path) -> tuple[SpriteBook, tuple[str, ...], tuple[str, ...]]:
    """Return a book in float32, and the names of its concepts and styles."""
    with safe_open(path, "pt") as file:
        about = {key: json.loads(value) for key, value in file.metadata().items()}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    book = SpriteBook(about["channels"], BookSizes(**about["sizes"]))
    book.load_state_dict(tensors)
    return book, tuple(about["concepts"]), tuple(about["styles"])
