"""Matting, inpainting and captions by networks, tiny ones with random weights, through the recipe."""

from pathlib import Path

import pytest
import torch
from drawn_footage import moving_square

from layerflow.datasets import FootageRecipe, find_items
from layerflow.datasets.builder import captioning, inpainting, make_clip, matting
from layerflow.datasets.inpainting import inpaint
from layerflow.datasets.networks import load_captioning, load_inpainting, load_matting
from layerflow.datasets.recipe import SourceRecipe
from layerflow.models.folders import find_model


@pytest.fixture(scope="module")
def vitmatte(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import VitDetConfig, VitMatteConfig, VitMatteForImageMatting, VitMatteImageProcessor

    folder = tmp_path_factory.mktemp("models") / "vitmatte"
    torch.manual_seed(0)
    backbone = VitDetConfig(
        num_channels=4,
        image_size=64,
        patch_size=16,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        out_features=["stage1"],
    )
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
        vision_config={**tiny, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    BlipForConditionalGeneration(config).save_pretrained(folder)
    pictures = BlipImageProcessor(size={"height": 16, "width": 16})
    tokenizer = AutoTokenizer.from_pretrained(Path(find_model("mini")) / "tokenizer")
    BlipProcessor(pictures, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("models") / "painter"
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=9,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
    )
    vae = AutoencoderKL(
        block_out_channels=[8, 8, 8, 8],
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
    )
    config = CLIPTextConfig(
        vocab_size=4,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    words = tmp_path_factory.mktemp("words")
    (words / "vocab.json").write_text('{"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2, "a</w>": 3}')
    (words / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(words / "vocab.json"), str(words / "merges.txt"), model_max_length=8)
    StableDiffusionInpaintPipeline(
        vae,
        CLIPTextModel(config),
        tokenizer,
        unet,
        DDIMScheduler(steps_offset=1),
        None,
        None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def test_a_network_paints_what_no_frame_shows_once(painter: Path) -> None:
    recipe = FootageRecipe("test", (SourceRecipe("masks", folder="none"),), inpainting=f"model:{painter}")
    frames, mask, _ = moving_square(frames=3, step=0)
    frames, mask = frames[..., :43, :61], mask[..., :43, :61]  # no multiples of 8
    fill = inpainting(recipe)
    painted = fill(frames, mask)
    assert painted.shape == frames.shape
    hidden = mask.expand(-1, 3, -1, -1)
    assert torch.equal(painted[~hidden], frames[~hidden])
    assert float((painted - inpaint(frames, mask))[hidden].abs().mean()) > 0.01  # not filled in from around it
    assert float(painted.diff(dim=0).abs().max()) < 0.05  # one picture that stays
    assert torch.equal(fill(frames, mask), painted)
    assert load_inpainting(str(painter)) is fill  # loaded once in a process


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
        "test",
        (SourceRecipe("masks", folder="davis"),),
        size=(32, 24),
        frames=4,
        folder=str(footage),
        captioning=f"model:{blip}",
    )
    item = find_items(recipe)[0]
    video = make_clip(item, recipe)
    texts = captioning(recipe)(recipe, item, video)
    assert set(texts) == {"foreground", "background", "blended"}
    assert texts == captioning(recipe)(recipe, item, video)
    assert all(isinstance(text, str) for text in texts.values())
    stack = video.replace(foregrounds=[*video.foregrounds, *video.foregrounds])
    assert captioning(recipe)(recipe, item, stack) == {**texts, "foreground-2": texts["foreground"]}


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model:.*none: no VitMatteForImageMatting could be loaded"):
        load_matting(str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"model:.*none: no AutoPipelineForInpainting could be loaded"):
        load_inpainting(str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"model:.*none: no AutoModelForImageTextToText could be loaded"):
        load_captioning(str(tmp_path / "none"))
