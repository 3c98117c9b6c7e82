"""Encode prompts to text states.

Shapes: N prompts, T tokens (with `[CLS]` and `[SEP]`), D features.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..core.schema import ALPHA_OF, BACKGROUND, BLENDED

MAX_TOKENS = 32
"""Longest prompt in tokens, `[CLS]` and `[SEP]` counted, of a model that does not name another."""


Prompt = str | Sequence[str] | None
"""A prompt for all samples, or one for each."""


def blended_prompt(foregrounds: str | Sequence[str], background: str) -> str:
    """Return a prompt for the blended layer, written from the others."""
    foreground = foregrounds if isinstance(foregrounds, str) else " and ".join(filter(None, foregrounds))
    if not foreground or not background:
        return foreground or background
    return f"{foreground}, in front of {background}"


def prompt_rows(prompts: Mapping[str, Prompt], layers: Sequence[str], given: int = 0) -> list[list[str]]:
    """Return B x L prompts in the order of `layers`, "" where there is none; that of `blended` is written from others.

    Args:
        prompts: by layer.
        layers: from `prompt_layers`.
        given: number of given videos, which must be that of the prompts; one counts for all.

    Raises:
        ValueError: a prompt is not text, or numbers differ.
    """
    lists = {name: [p] if isinstance(p, str) else p for name, p in prompts.items() if p is not None}
    for name, texts in lists.items():
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"the {name} prompt must be text or a list of texts, got {prompts[name]!r}")
    sizes = {len(texts) for texts in lists.values() if len(texts) != 1} | ({given} - {0, 1})
    if len(sizes) > 1 or 0 in sizes:
        raise ValueError(f"prompts and given videos must be equal in number, got {sorted(sizes)}")
    batch = sizes.pop() if sizes else 1
    columns = {name: list(lists.get(name, [""])) for name in layers}
    columns = {name: texts * batch if len(texts) == 1 else texts for name, texts in columns.items()}
    if BLENDED not in lists:
        foregrounds = zip(*(columns[name] for name in layers if name in ALPHA_OF), strict=True)
        columns[BLENDED] = [blended_prompt(*pair) for pair in zip(foregrounds, columns[BACKGROUND], strict=True)]
    return [[columns[name][i] for name in layers] for i in range(batch)]


@torch.no_grad()
def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    encoder: Any,
    prompts: list[str],
    max_length: int = MAX_TOKENS,
    attend_padding: bool = False,
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    """Encode each prompt separately; prompts share a batch, never attention.

    The empty prompt is `[CLS] [SEP]` and serves as the unconditional prompt of guidance. The encoder is
    used in evaluation mode, then set back to its mode, so the result is deterministic.

    Args:
        tokenizer: tokenizer of `encoder`.
        encoder: text encoder of transformers, or any model with the same call and output.
        prompts: N texts.
        max_length: longest prompt in tokens; a longer one is cut, with a warning.
        device: device on which the encoder computes, where its weights are offloaded from it.
        attend_padding: pad every prompt to `max_length` and attend to padding, as CogVideoX does.

    Returns:
        States (N, T, D), float32, zero at padding, and the mask (N, T), true at tokens. T is the length of
        the longest prompt, at most `max_length`. Both lie on the device of the encoder's output.

    Raises:
        ValueError: `prompts` is empty, or `max_length` leaves no room for a word.
    """
    if not prompts:
        raise ValueError("prompts is empty: give at least one text, '' for no prompt")
    if max_length < 3:
        raise ValueError(f"max_length is {max_length}, but [CLS], one word and [SEP] need at least 3")
    for prompt, ids in zip(prompts, tokenizer(prompts, verbose=False)["input_ids"], strict=True):
        if len(ids) > max_length:
            warnings.warn(
                f"prompt of {len(ids)} tokens is cut to the limit of {max_length} tokens: {prompt!r}",
                stacklevel=3,
            )
    padding = "max_length" if attend_padding else True
    batch = tokenizer(prompts, padding=padding, truncation=True, max_length=max_length, return_tensors="pt")
    if attend_padding:
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    device = device or encoder.device
    ids, mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)  # (N, T)
    was_training = encoder.training
    encoder.eval()
    states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state.float()  # (N, T, D)
    encoder.train(was_training)
    mask = mask.bool().to(states.device)  # the output of an offloaded encoder lies on another device
    return states.masked_fill(~mask.unsqueeze(-1), 0.0), mask
