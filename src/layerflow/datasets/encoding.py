"""Clips and captions of a sample as a network in training sees them: latents, text states, loss weights of places.

Training computes these at every step, precomputed shards hold them; both call the same functions.

Letters in shape comments: B batch, K clips, L layers, F frames of a clip, N latent frames of the sequence, C channels,
H, W pixels, h, w latents, S tokens, D width of text states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.compositing import blend_all, premultiply_all
from ..core.schema import ALPHA_OF, BACKGROUND, CHANNELS, CLIPS, foreground_count, prompt_layers
from ..models.backbone import prompt_prefixes
from ..models.layout import Layout
from ..models.text import MAX_TOKENS, encode_prompts, prompt_rows
from ..pipeline import LayerFlowPipeline

NEAR, HIDDEN = "near", "hidden"
"""Names under which what `marked` returns is kept beside latents."""


def held(clips: dict[str, Tensor], frames: int) -> dict[str, Tensor]:
    """Repeat the frame of stills, clips (1, C, H, W), to (F, C, H, W); longer clips stay as they are."""
    return {name: clip.expand(frames, -1, -1, -1) if len(clip) == 1 else clip for name, clip in clips.items()}


def clips_for(clips: Mapping[str, Tensor], names: Sequence[str] = CLIPS) -> dict[str, Tensor]:
    """Return the clips of a model, from all clips of a sample, (..., C, H, W) in [0, 1].

    Foregrounds that the sample lacks are transparent, their colour mid-grey. Those that the model lacks, the farthest
    ones, become part of the background, so that the composite stays the same.
    """
    count, own = foreground_count(names), dict(clips)
    farther = [(own.pop(colour), own.pop(alpha)) for colour, alpha in list(ALPHA_OF.items())[count:] if colour in own]
    if farther:
        own[BACKGROUND] = blend_all(farther, own[BACKGROUND])
    *batch, _, height, width = own[BACKGROUND].shape
    for pair in list(ALPHA_OF.items())[:count]:
        for name, value in zip(pair, (0.5, 0.0), strict=True):
            if name not in own:
                own[name] = own[BACKGROUND].new_full((*batch, CHANNELS[name], height, width), value)
    return {name: own[name] for name in names}


def coverage(clips: Mapping[str, Tensor]) -> Tensor:
    """Return the alpha (..., 1, H, W) of all foregrounds together, from clips by name; of one it is its own."""
    return premultiply_all([(clips[alpha], clips[alpha]) for alpha in ALPHA_OF.values() if alpha in clips])[1]


def prompts_of(captions: Mapping[str, str], clips: Sequence[str] = CLIPS) -> list[str]:
    """Return a prompt for each layer of a model's clips, in the order of `prompt_layers`; "" where there is no caption.

    Without a caption of its own, `blended` gets one written from the others.
    """
    layers = prompt_layers(foreground_count(clips))
    return prompt_rows({layer: captions.get(layer) or None for layer in layers}, layers)[0]


def marked(alpha: Tensor, clips: Sequence[str] = CLIPS) -> tuple[Tensor, Tensor]:
    """Return which places count more in the loss, from the alpha of all foregrounds, (B, F, 1, H, W) in [0, 1].

    Two tensors (B, K, F, 1, H, W) for K clips: places on and near a foreground, 1 in all clips; and alpha in the
    background, where foregrounds hide it.
    """
    covered = (alpha > 0.05).float().flatten(0, 1)
    along = F.max_pool2d(covered, (1, 7), 1, (0, 3))  # first rows, then columns: half of the time
    near = F.max_pool2d(along, (7, 1), 1, (3, 0)).view_as(alpha)
    hidden = torch.stack([alpha if name == BACKGROUND else torch.zeros_like(alpha) for name in clips], dim=1)
    return near[:, None].repeat(1, len(clips), 1, 1, 1, 1), hidden


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
    """Average loss weights (B, K, F, 1, H, W) of the layout's clips over the pixels of each latent: (B, N, 1, h, w)."""
    parts = []
    for index, name in enumerate(layout.clips):
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
