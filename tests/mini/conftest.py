"""Shared by the mini's tests: the bundled tokenizer, and a tiny text encoder."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer
from transformers import PreTrainedTokenizerBase as Tokenizer

from layerflow.mini.network.text_encoder import LayerTextEncoder
from layerflow.models.folders import find_model


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return AutoTokenizer.from_pretrained(Path(find_model("mini")) / "tokenizer")


@pytest.fixture
def tiny() -> LayerTextEncoder:
    torch.manual_seed(0)
    return LayerTextEncoder(
        projection_dim=24,
        vocab_size=30522,
        embedding_size=8,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.2,
    ).eval()
