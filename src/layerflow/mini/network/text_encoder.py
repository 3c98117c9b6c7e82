"""The mini's text encoder.

Shapes: N prompts, T tokens (with `[CLS]` and `[SEP]`), D = 384 features.
"""

from pathlib import Path

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from transformers import AutoTokenizer, ElectraConfig, ElectraModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput


class LayerTextEncoder(ModelMixin, ConfigMixin):
    """A small BERT-family encoder with factorised embeddings, and a linear map to the teacher's width.

    It is a diffusers model around one of transformers, because that loads in a tenth of the time.

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
                vocab_size=vocab_size,
                embedding_size=embedding_size,
                hidden_size=hidden_size,
                num_hidden_layers=num_hidden_layers,
                num_attention_heads=num_attention_heads,
                intermediate_size=intermediate_size,
                max_position_embeddings=max_position_embeddings,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                initializer_range=initializer_range,
            )
        )
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
    """Average over the tokens of each prompt: states (..., T, D), mask (..., T) -> (..., D)."""
    weight = mask.unsqueeze(-1).to(states.dtype)  # (..., T, 1)
    return (states * weight).sum(-2) / weight.sum(-2).clamp(min=1)


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
