"""Distillation of the text encoder: its texts, its loss, its training, and the model that it writes."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from layerflow.core.config import ConfigError, load_config
from layerflow.mini.fitting.text_corpus import COLOURS, Texts, WordNet
from layerflow.mini.fitting.text_encoder import distillation_loss, train, write_model
from layerflow.mini.network.text_encoder import LayerTextEncoder, load_text_encoder
from layerflow.mini.recipes import TextRecipe
from layerflow.models.text import encode_prompts


@pytest.fixture
def teacher(tokenizer: Tokenizer) -> BertModel:
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    return BertModel(config).eval().requires_grad_(False)


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


def test_wordnet_is_read(wordnet: WordNet) -> None:
    assert wordnet.names == ["dog", "Domestic dog", "idea", "run", "big", "quickly"]
    assert wordnet.things == ["dog"]
    assert {"a tame animal", "the dog barked", "move fast on foot"} <= set(wordnet.glosses)


def test_missing_wordnet_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"wordnet-base"):
        WordNet.read(tmp_path / "none")


def test_texts_are_seeded_and_start_with_the_empty_prompt(wordnet: WordNet, tokenizer: Tokenizer) -> None:
    recipe = TextRecipe("texts", held_out=2, captions=0.5, names=0.2)
    streams = [Texts(wordnet, tokenizer, recipe).training() for _ in range(2)]
    first, second = ([next(stream) for _ in range(200)] for stream in streams)
    assert first == second
    assert first[0] == ""
    assert any(set(text.split()) & set(COLOURS) for text in first)
    assert not set(first) & set(Texts(wordnet, tokenizer, recipe).held_out_glosses)


def test_the_loss_is_zero_at_the_teacher_and_ignores_padding() -> None:
    target = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    states = target.clone()
    states[1, 2:] = 100.0
    torch.testing.assert_close(distillation_loss(states, target, mask), torch.tensor(0.0), atol=1e-6, rtol=0)
    assert distillation_loss(-target, target, mask) > 5


def test_written_model_loads_and_replaces_the_old_one(
    tiny: LayerTextEncoder, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    for _ in range(2):
        write_model(tiny, tokenizer, tmp_path / "model", max_tokens=32)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["text_encoder", "tokenizer"]
    again, encoder = load_text_encoder(tmp_path / "model")
    assert again.get_vocab() == tokenizer.get_vocab()
    states, _ = encode_prompts(again, encoder, ["a dog"])
    expected, _ = encode_prompts(tokenizer, tiny, ["a dog"])
    torch.testing.assert_close(states, expected, atol=0.05, rtol=0.05)  # bfloat16 keeps 8 bits


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("minute: 3\n", "unknown key 'minute'"),
        ("minutes: 0\n", "minutes is 0"),
        ("captions: 0.8\nnames: 0.5\n", "together at most 1"),
        ("heads: 3\n", "does not divide"),
    ],
)
def test_bad_recipe_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_config(TextRecipe, tmp_path / "recipe.yaml")


def test_training_approaches_the_teacher(
    tiny: LayerTextEncoder, wordnet: WordNet, tokenizer: Tokenizer, teacher: BertModel
) -> None:
    recipe = TextRecipe("tiny", steps=120, batch=16, pool=64, held_out=2, minutes=5, max_tokens=16)
    reports: list[tuple[int, dict[str, float]]] = []
    steps = train(
        tiny.train(),
        teacher,
        tokenizer,
        Texts(wordnet, tokenizer, recipe),
        recipe,
        lambda step, values: reports.append((step, values)),
    )
    assert steps == 120
    assert [step for step, _ in reports] == [20, 40, 60, 80, 100, 120]
    assert reports[-1][1]["done"] == pytest.approx(1, abs=0.1)
    assert reports[-1][1]["loss"] < 0.8 * reports[0][1]["loss"]


def test_training_stops_when_its_time_is_over(
    tiny: LayerTextEncoder, wordnet: WordNet, tokenizer: Tokenizer, teacher: BertModel
) -> None:
    recipe = TextRecipe("tiny", batch=16, pool=64, held_out=2, minutes=1e-6, max_tokens=16)
    assert train(tiny, teacher, tokenizer, Texts(wordnet, tokenizer, recipe), recipe) == 0
