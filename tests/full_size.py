"""Tiny random models of the full-size families, whole: text encoder, transformer, autoencoder, scheduler."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLWan,
    CogVideoXDPMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from torch import nn
from transformers import AutoTokenizer, T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

from layerflow import LayerFlowPipeline
from layerflow.core.layered_video import LayeredVideo
from layerflow.models.cogvideox.official import CONFIGURATIONS, OfficialConfiguration
from layerflow.models.cogvideox.sampler import LayerFlowDPMScheduler
from layerflow.models.cogvideox.transformer import CogVideoXLayerTransformer3DModel
from layerflow.models.folders import find_model
from layerflow.models.wan import WanLayerTransformer3DModel

WORDS, TEXT = 24, 16
LATENT_SIZE = (4, 6)
"""Height and width in latents: 32x48 pixels."""
FRAMES = {"cogvideox": 16, "wan": 5, "wan2.2": 5}
"""Frames of a clip."""
TINY_TEXT = {"vocab_size": 30522, "d_model": TEXT, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
TINY_COGVIDEOX = {
    "num_attention_heads": 2, "attention_head_dim": 16, "time_embed_dim": 16, "text_embed_dim": TEXT, "num_layers": 2,
    "in_channels": 4, "out_channels": 4,
}  # fmt: skip
TINY_WAN = {
    "num_attention_heads": 2, "attention_head_dim": 16, "text_dim": TEXT, "freq_dim": 32, "ffn_dim": 32,
    "num_layers": 2, "rope_max_seq_len": 32, "in_channels": 4, "out_channels": 4,
}  # fmt: skip


def tokenizer():
    return AutoTokenizer.from_pretrained(Path(find_model("mini")) / "tokenizer")


def cogvideox_autoencoder() -> AutoencoderKLCogVideoX:
    torch.manual_seed(0)
    return AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        sample_height=32,
        sample_width=48,
        scaling_factor=1.15258426,
    ).eval()


def wan_autoencoder() -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(
        base_dim=8,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        z_dim=4,
        latents_mean=[0.1, -0.1, 0.2, 0.0],
        latents_std=[1.0, 1.2, 0.9, 1.1],
    ).eval()


def plain_cogvideox() -> CogVideoXPipeline:
    """Build a tiny CogVideoX-2B."""
    torch.manual_seed(0)
    transformer = CogVideoXTransformer3DModel(
        **TINY_COGVIDEOX, sample_height=LATENT_SIZE[0], sample_width=LATENT_SIZE[1], max_text_seq_length=WORDS
    )
    scheduler = CogVideoXDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        snr_shift_scale=3.0,
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )
    encoder = T5EncoderModel(T5Config(**TINY_TEXT)).eval()
    return CogVideoXPipeline(tokenizer(), encoder, cogvideox_autoencoder(), transformer.eval(), scheduler)


def plain_wan(family: str = "wan") -> WanPipeline:
    """Build a tiny Wan 2.1 or, with two transformers, Wan 2.2 A14B."""
    torch.manual_seed(0)
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    encoder = UMT5EncoderModel(UMT5Config(**TINY_TEXT)).eval()
    parts = tokenizer(), encoder, wan_autoencoder(), scheduler, WanTransformer3DModel(**TINY_WAN).eval()
    if family == "wan":
        return WanPipeline(*parts)
    return WanPipeline(*parts, WanTransformer3DModel(**TINY_WAN).eval(), boundary_ratio=0.875)


def put_layers_on(plain: WanTransformer3DModel) -> WanLayerTransformer3DModel:
    transformer = WanLayerTransformer3DModel.from_plain(
        plain, text_length=WORDS, sample_size=LATENT_SIZE, sample_frames=2
    )
    for embedding in (transformer.clip_embedding, transformer.layer_embedding):
        nn.init.normal_(embedding.weight)
    return transformer


def build(family: str, configuration: OfficialConfiguration | None = None) -> LayerFlowPipeline:
    """Build a pipeline with random layer embeddings: "wan", "wan2.2" with two transformers, or "cogvideox", as one of
    the official models or, by default, as a model for every task."""
    torch.manual_seed(1)
    second: dict[str, Any] = {}
    if family.startswith("wan"):
        plain = plain_wan(family)
        parts = plain.tokenizer, plain.text_encoder, put_layers_on(plain.transformer), plain.scheduler, plain.vae
        if family == "wan2.2":
            second = {"transformer_2": put_layers_on(plain.transformer_2), "boundary_ratio": 0.875}
    else:
        one = configuration or CONFIGURATIONS[0]
        transformer = CogVideoXLayerTransformer3DModel(
            **TINY_COGVIDEOX,
            clips=one.clips,
            sample_size=LATENT_SIZE,
            sample_frames=4,
            lead_frames=one.lead_frames,
            position_frames=one.position_frames,
            layer_embedding=one.layer_embedding,
            text_length=WORDS,
            prompt_prefixes=tuple(f"{i}, " for i in range(one.prompts)),
            task=configuration and one.task,
            given_frames=one.given_frames if configuration else None,
        ).eval()
        encoder = T5EncoderModel(T5Config(**TINY_TEXT)).eval()
        parts = tokenizer(), encoder, transformer, LayerFlowDPMScheduler(), cogvideox_autoencoder()
    pipeline = LayerFlowPipeline(*parts, **second)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def blocks_of(pipeline: LayerFlowPipeline) -> list[list[nn.Module]]:
    """Return the blocks of each transformer."""
    return [list(getattr(one, "blocks", None) or one.transformer_blocks) for one in pipeline.transformers.values()]


def random_video(pipeline: LayerFlowPipeline, seed: int = 0) -> LayeredVideo:
    """Return a complete layered video of the size that a pipeline was built for."""
    frames, height, width = pipeline.codec.trained_size
    generator = torch.Generator().manual_seed(seed)
    colour = [torch.rand(frames, 3, height, width, generator=generator) for _ in range(2)]
    alpha = torch.rand(frames, 1, height, width, generator=generator)
    return LayeredVideo(colour[0], alpha, colour[1]).compose()
