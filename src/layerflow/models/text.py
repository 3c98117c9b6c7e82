"""The mini's text encoder, and the one function that turns prompts into text states.

Shapes: N prompts, T tokens (with `[CLS]` and `[SEP]`), D = 384 features.
"""

import warnings
from pathlib import Path

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from transformers import AutoTokenizer, ElectraConfig, ElectraModel, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

MAX_TOKENS = 32
"""Longest prompt in tokens, `[CLS]` and `[SEP]` counted: the length the mini is trained at."""


class LayerTextEncoder(ModelMixin, ConfigMixin):
    """A small BERT-family encoder with factorised embeddings, and a linear map to the teacher's width.

    A model of diffusers around one of transformers, as it is read in a tenth of the time.

    Source: the body is ELECTRA-small's (Clark et al. 2020, arXiv:2003.10555); the map lets the token states
    be compared with the teacher's, as in TinyBERT (Jiao et al. 2020, arXiv:1909.10351, eq. 8).
    """

    @register_to_config
    def __init__(
        self,
        vocab_size: int = 30522,
        projection_dim: int = 384,
        embedding_size: int = 128,
        hidden_size: int = 256,
        num_hidden_layers: int = 4,
        num_attention_heads: int = 4,
        intermediate_size: int = 768,
        max_position_embeddings: int = 64,
        initializer_range: float = 0.04,
    ) -> None:
        """
        Args:
            projection_dim: features per token, D; 384 is the teacher's width.
            max_position_embeddings: longest prompt in tokens.
            initializer_range: standard deviation of fresh weights.
            vocab_size, embedding_size, hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: as in
                `ElectraConfig`.
        """
        super().__init__()
        self.body = ElectraModel(
            ElectraConfig(
                vocab_size=vocab_size, embedding_size=embedding_size, hidden_size=hidden_size,
                num_hidden_layers=num_hidden_layers, num_attention_heads=num_attention_heads,
                intermediate_size=intermediate_size, max_position_embeddings=max_position_embeddings,
                hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=initializer_range,
            )
        )  # fmt: skip
        self.projection = nn.Linear(hidden_size, projection_dim)
        nn.init.normal_(self.projection.weight, std=initializer_range)
        nn.init.zeros_(self.projection.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> BaseModelOutput:
        """Encode tokens.

        Args:
            input_ids: (N, T) integers.
            attention_mask: (N, T), 1 or true for a token, 0 or false for padding; all tokens if None.

        Returns:
            `last_hidden_state` (N, T, D). States at padding are meaningless; `encode_prompts` zeroes them.
        """
        hidden = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return BaseModelOutput(last_hidden_state=self.projection(hidden))  # (N, T, hidden) -> (N, T, D)


def pool(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens of each prompt: states (..., T, D), mask (..., T) -> (..., D)."""
    weight = mask.unsqueeze(-1).to(states.dtype)  # (..., T, 1)
    return (states * weight).sum(-2) / weight.sum(-2).clamp(min=1)


@torch.no_grad()
def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    encoder: PreTrainedModel | LayerTextEncoder,
    prompts: list[str],
    max_length: int = MAX_TOKENS,
    attend_padding: bool = False,
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    """Encode each prompt on its own; prompts share a batch, never attention.

    The empty prompt is `[CLS] [SEP]` and serves as the unconditional prompt of guidance. The encoder is
    used in evaluation mode and left in the mode it came in, so the result is deterministic.

    Args:
        tokenizer: the tokenizer that belongs to `encoder`.
        encoder: `LayerTextEncoder`, or any model with the same call and output.
        prompts: N texts.
        max_length: longest prompt in tokens; a longer one is cut, with a warning.
        device: where the encoder computes, if that is not where its weights are: it may be offloaded.
        attend_padding: pad every prompt to `max_length` and treat padding as words, as CogVideoX does.

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
    mask = mask.bool().to(states.device)  # an encoder that is offloaded puts its output elsewhere
    return states.masked_fill(~mask.unsqueeze(-1), 0.0), mask


def load_text_encoder(model: str | Path) -> tuple[PreTrainedTokenizerBase, LayerTextEncoder]:
    """Load `tokenizer/` and `text_encoder/` of a model, the encoder in float32 and evaluation mode.

    The weights are stored in bfloat16 to keep the package small, and computed with in float32.

    Args:
        model: a folder in diffusers layout, or a hub id.

    Raises:
        FileNotFoundError: one of the two parts is missing in the folder.
    """
    for part in ("tokenizer", "text_encoder"):
        if Path(model).is_dir() and not (Path(model) / part).is_dir():
            raise FileNotFoundError(
                f"{Path(model) / part} is missing: a model folder holds tokenizer/ and text_encoder/"
            )
    tokenizer = AutoTokenizer.from_pretrained(model, subfolder="tokenizer")
    encoder = LayerTextEncoder.from_pretrained(model, subfolder="text_encoder", dtype=torch.float32)
    return tokenizer, encoder.eval()
