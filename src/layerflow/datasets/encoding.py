"""Clips and captions of a sample as a network in training sees them: latents, text states, loss weights of places.

Training computes these at every step, precomputed shards hold them; both call the same functions.

Letters in shape comments: B batch, K clips, L layers, F frames of a clip, N latent frames of the sequence, C channels,
H, W pixels, h, w latents, S tokens, D width of text states.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.schema import BACKGROUND, BLENDED, CLIPS, FOREGROUND
from ..models.backbone import prompt_prefixes
from ..models.layout import Layout
from ..models.text import MAX_TOKENS, blended_prompt, encode_prompts
from ..pipeline import LayerFlowPipeline

NEAR, HIDDEN = "near", "hidden"
"""Names under which what `marked` returns is kept beside latents."""


def held(clips: dict[str, Tensor], frames: int) -> dict[str, Tensor]:
    """Repeat the frame of stills, clips (1, C, H, W), to (F, C, H, W); longer clips stay as they are."""
    return {name: clip.expand(frames, -1, -1, -1) if len(clip) == 1 else clip for name, clip in clips.items()}


def prompts_of(captions: Mapping[str, str]) -> list[str]:
    """Return a prompt for each layer, in the order of `LAYERS`; "" where there is no caption."""
    foreground, background = captions.get(FOREGROUND, ""), captions.get(BACKGROUND, "")
    return [foreground, background, captions.get(BLENDED, "") or blended_prompt(foreground, background)]


def marked(alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Return which places count more in the loss, from alpha (B, F, 1, H, W) in [0, 1].

    Two tensors (B, K, F, 1, H, W): places on and near the foreground, 1 in all clips; and alpha in the background,
    where the foreground hides it.
    """
    covered = (alpha > 0.05).float().flatten(0, 1)
    along = F.max_pool2d(covered, (1, 7), 1, (0, 3))  # first rows, then columns: half of the time
    near = F.max_pool2d(along, (7, 1), 1, (3, 0)).view_as(alpha)
    hidden = torch.stack([alpha if name == BACKGROUND else torch.zeros_like(alpha) for name in CLIPS], dim=1)
    return near[:, None].repeat(1, len(CLIPS), 1, 1, 1, 1), hidden


@torch.no_grad()
def encode_sequence(pipeline: LayerFlowPipeline, clips: Mapping[str, Tensor]) -> tuple[Tensor, Layout]:
    """Encode all clips (B, F, 3, H, W), in model space and by name, to latents (B, N, C, h, w), with their layout.

    Latents are the mode of the autoencoder's distribution, the same for the same clips.
    """
    codec = pipeline.codec
    batch, frames, _, *pixels = next(iter(clips.values())).shape
    layout, size = codec.layout(frames), codec.autoencoder.latent_size(*pixels)
    return codec.encode(clips, layout, (batch, pipeline.transformer.config.in_channels, *size)), layout


def place_weights(weight: Tensor, layout: Layout, size: tuple[int, int]) -> Tensor:
    """Average loss weights (B, K, F, 1, H, W) over the pixels of each latent: (B, N, 1, h, w)."""
    parts = []
    for index, name in enumerate(CLIPS):
        own, latents = weight[:, index].transpose(1, 2), (layout.clip_frames(name), *size)
        if own.shape[2:] != latents:
            own = F.adaptive_avg_pool3d(own, latents)
        parts.append(own.transpose(1, 2))
    return torch.cat(parts, dim=1)


def encode_texts(pipeline: LayerFlowPipeline, prompts: list[list[str]]) -> tuple[Tensor, Tensor]:
    """Encode B x L prompts to states (B, L, S, D) and mask (B, L, S); equal prompts are encoded once.

    There is no cache from step to step: a state's last bits depend on the prompts it is encoded with, and a resumed
    run must see the same bits.
    """
    config, conventions = pipeline.transformer.config, pipeline.transformer.conventions
    prefixes = prompt_prefixes(config)
    flat = [prefix + prompt for sample in prompts for prefix, prompt in zip(prefixes, sample, strict=False)]
    different = list(dict.fromkeys(flat))
    length = config.get("text_length", MAX_TOKENS)
    states, mask = encode_prompts(
        pipeline.tokenizer, pipeline.text_encoder, different, length, conventions.attend_padding
    )
    rows = torch.tensor([different.index(prompt) for prompt in flat], device=states.device)
    shape = (len(prompts), len(prefixes))
    return states[rows].unflatten(0, shape), mask[rows].unflatten(0, shape)
