"""Matting and captions by networks, tiny ones with random weights, through the recipe."""

from pathlib import Path

import pytest
import torch
from drawn_footage import moving_square

from layerflow.footage import FootageRecipe, find_items
from layerflow.footage.learned import load_captioning, load_matting
from layerflow.footage.making import captioning, make_clip, matting
from layerflow.footage.recipe import SourceRecipe
from layerflow.loading import find_model


@pytest.fixture(scope="module")
def vitmatte(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import VitDetConfig, VitMatteConfig, VitMatteForImageMatting, VitMatteImageProcessor

    folder = tmp_path_factory.mktemp("models") / "vitmatte"
    torch.manual_seed(0)
    backbone = VitDetConfig(
        num_channels=4, image_size=64, patch_size=16, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        out_features=["stage1"],
    )  # fmt: skip
    config = VitMatteConfig(backbone_config=backbone, hidden_size=16, fusion_hidden_sizes=[4, 4, 8, 8])
    VitMatteForImageMatting(config).save_pretrained(folder)
    VitMatteImageProcessor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    folder = tmp_path_factory.mktemp("models") / "blip"
    torch.manual_seed(0)
    tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BlipConfig(
        text_config={**tiny, "vocab_size": 30524, "encoder_hidden_size": 16},
        vision_config={**tiny, "image_size": 16, "patch_size": 8}, projection_dim=8,
    )  # fmt: skip
    BlipForConditionalGeneration(config).save_pretrained(folder)
    pictures = BlipImageProcessor(size={"height": 16, "width": 16})
    tokenizer = AutoTokenizer.from_pretrained(Path(find_model("mini")) / "tokenizer")
    BlipProcessor(pictures, tokenizer).save_pretrained(folder)
    return folder


def test_a_network_draws_the_matte_along_the_masks_edge(vitmatte: Path) -> None:
    recipe = FootageRecipe("test", (SourceRecipe("masks", folder="none"),), matting=f"model:{vitmatte}")
    frames, mask, _ = moving_square()
    alpha = matting(recipe, 0)(frames, mask)
    assert alpha.shape == mask.shape
    assert bool((alpha[:, :, 22:24, :][mask[:, :, 22:24, :]] >= 0).all())
    far = ~(torch.nn.functional.max_pool2d(mask.float(), 9, 1, 4) > 0.5)
    assert not alpha[far].any()
    deep = -torch.nn.functional.max_pool2d(-mask.float(), 9, 1, 4) > 0.5
    assert bool((alpha[deep] == 1).all())
    edge = alpha[~far & ~deep]
    assert float(edge.std()) > 0  # drawn, not a constant
    assert load_matting(str(vitmatte)) is load_matting(str(vitmatte))  # loaded once in a process


def test_a_network_captions_each_layer(footage: Path, blip: Path) -> None:
    recipe = FootageRecipe(
        "test", (SourceRecipe("masks", folder="davis"),), size=(32, 24), frames=4, folder=str(footage),
        captioning=f"model:{blip}",
    )  # fmt: skip
    item = find_items(recipe)[0]
    video = make_clip(item, recipe)
    texts = captioning(recipe)(recipe, item, video)
    assert set(texts) == {"foreground", "background", "blended"}
    assert texts == captioning(recipe)(recipe, item, video)
    assert all(isinstance(text, str) for text in texts.values())


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model:.*none: no VitMatteForImageMatting could be loaded"):
        load_matting(str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"model:.*none: no AutoModelForImageTextToText could be loaded"):
        load_captioning(str(tmp_path / "none"))
