"""The mini's backbone: a diffusion transformer between a convolutional stem and head.

Clips are pixel-aligned, so convolutions that see all clips of a frame at one place carry the pixels; the
transformer between them keeps every clip as its own tokens and ties clips and frames together by full
attention. It predicts clean clips (x-prediction, arXiv 2511.13720).

Letters in shape comments: B batch, K clips, F frames of one clip, L layers (prompts), S text tokens,
C channels, H height, W width, P tokens of one frame of one clip, D transformer width, E conditioning width.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from ...core.errors import UserError
from ...core.schema import ALPHA, BACKGROUND, CLIPS, LAYERS
from ...models.backbone import Backbone, Conventions
from ...models.layout import Layout
from .composition import COPY_PLANES, settle_opacity, solve_composition
from .fill import BackgroundFill
from .sketch import (
    FRAME_CODE,
    OBJECT_PLANES,
    SCENE_PLANES,
    Sketch,
    SketchReader,
    follow_sketch,
    placement_between,
    zeroed,
)
from .text_encoder import pool

__all__ = ["CompactTransformer3DModel", "ModelMixin"]  # diffusers looks here for the base class

PLACE_CODE = 32
WITHOUT_ADAPTER = ("space_pos", "places")
"""Layers that see places of a frame, which all samples share."""
BLOCK = re.compile(r"(down|up)\.\d+\.\d+\.|blocks\.\d+\.")
"""Names of what a block holds."""
BRANCH_END = re.compile(r"attn\.to_out\.|\.mlp\.2\.")
"""Last layers of a transformer block's residual branches; those of a convolutional block are zero at first."""


def sinusoid(values: Tensor, dim: int, max_period: float = 1000.0) -> Tensor:
    """Values (...) to sines and cosines (..., dim); a period runs from 2 pi to `max_period`."""
    frequencies = torch.exp(-math.log(max_period) * torch.arange(dim // 2, device=values.device) / (dim // 2))
    angles = values[..., None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def place_code(height: int, width: int, dim: int, device: torch.device) -> Tensor:
    """Where a pixel is: (1, dim, H, W), waves of a quarter to eight periods over each side."""
    rows = sinusoid((torch.arange(height, device=device) + 0.5) * (16 * math.pi / height), dim // 2, 32.0)
    columns = sinusoid((torch.arange(width, device=device) + 0.5) * (16 * math.pi / width), dim // 2, 32.0)
    grid = torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], dim=-1)
    return grid.permute(2, 0, 1)[None]


class Whitening(nn.Module):
    """A fixed affine map to decorrelated channels of about unit variance, fitted once to the captions' states."""

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.matrix: Tensor
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("matrix", torch.eye(rank, channels))

    @torch.no_grad()
    def fit(self, states: Tensor, floor: float = 3e-3) -> None:
        """Fit to states (N, channels); variances under `floor` of the largest are amplified no further."""
        mean = states.mean(0)
        variance, axes = torch.linalg.eigh((states - mean).T @ (states - mean) / len(states))
        rank = self.matrix.shape[0]
        variance, axes = variance.flip(0)[:rank], axes.flip(1)[:, :rank]
        scale = (variance + floor * variance[0]).rsqrt()
        self.mean.copy_(mean)
        self.matrix.copy_(scale[:, None] * axes.T)

    def forward(self, states: Tensor) -> Tensor:
        return F.linear(states - self.mean, self.matrix)


class FrameAttentionPool(nn.Module):
    """Adds to every frame what the frames of the clip show at that pixel, weighted by a learned score.

    A background hidden in one frame is often seen in another: the score may learn to prefer those frames.
    """

    def __init__(self, channels: int, groups: int = 8) -> None:
        super().__init__()
        self.groups = groups
        self.to_score = nn.Conv2d(channels, groups, 1)
        self.to_value = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, frames: int) -> Tensor:
        if frames == 1:  # the only frame has all the weight
            return x + self.to_value(x)
        n, c, h, w = x.shape
        score = self.to_score(x).view(n // frames, frames, self.groups, 1, h, w).softmax(dim=1)
        value = self.to_value(x).view(n // frames, frames, self.groups, c // self.groups, h, w)
        pooled = (score * value).sum(dim=1, keepdim=True).expand_as(value)  # (B, F, G, C/G, H, W)
        return x + pooled.reshape(n, c, h, w)


class ConvBlock(nn.Module):
    """Residual block of two 3x3 convolutions, modulated by the conditioning vector of its frame."""

    def __init__(self, channels: int, cond_dim: int, pool_frames: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.pool = FrameAttentionPool(channels) if pool_frames else None
        self.modulation = nn.Linear(cond_dim, 2 * channels)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = zeroed(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor, cond: Tensor, frames: int) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        if self.pool is not None:
            h = self.pool(h, frames)
        scale, shift = self.modulation(cond)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return x + self.conv2(F.silu(h))


class Attention(nn.Module):
    """Multi-head attention through diffusers' dispatcher, so that any of its backends can be chosen."""

    _attention_backend = None

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.to_out = nn.Linear(dim, dim)
        self.norm_q = nn.LayerNorm(dim // heads)
        self.norm_k = nn.LayerNorm(dim // heads)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        q = self.norm_q(self.to_q(x).unflatten(-1, (self.heads, -1)))  # (B, N, heads, D/heads)
        k = self.norm_k(self.to_k(context).unflatten(-1, (self.heads, -1)))
        v = self.to_v(context).unflatten(-1, (self.heads, -1))
        out = dispatch_attention_fn(q, k, v, attn_mask=mask, backend=self._attention_backend)
        return self.to_out(out.flatten(2))


class CompactBlock(nn.Module):
    """Full attention over all clips and frames, attention of each clip to its layer's prompt, MLP.

    All three are modulated by their clip's timestep and prompt (adaptive layer norm, arXiv 2212.09748).
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, elementwise_affine=False)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.cross_attn = Attention(dim, heads)
        self.norm3 = nn.LayerNorm(dim, elementwise_affine=False)
        self.mlp = nn.Sequential(
            nn.Linear(dim, int(dim * mlp_ratio)), nn.GELU("tanh"), nn.Linear(int(dim * mlp_ratio), dim)
        )
        self.modulation = nn.Parameter(torch.zeros(6, dim))

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor, text_mask: Tensor, temb: Tensor) -> Tensor:
        """Tokens (B, K, F, P, D), text (B*K, S, D), text mask (B*K, 1, 1, S), modulation (B, K, F, 6, D)."""
        b, k, f, p, d = hidden_states.shape
        shift1, scale1, gate1, shift2, scale2, gate2 = (temb + self.modulation).unsqueeze(3).unbind(4)
        x = hidden_states
        h = torch.addcmul(shift1, self.norm1(x), 1 + scale1)  # (B, K, F, P, D)
        x = torch.addcmul(x, gate1, self.attn(h.view(b, k * f * p, d)).view_as(x))
        h = self.norm2(x).view(b * k, f * p, d)
        x = x + self.cross_attn(h, encoder_hidden_states, text_mask).view_as(x)
        h = torch.addcmul(shift2, self.norm3(x), 1 + scale2)
        return torch.addcmul(x, gate2, self.mlp(h))


@dataclass
class CompactTransformer3DOutput(BaseOutput):
    """What the backbone gives."""

    sample: Tensor
    """(B, K*F, C, H, W) the predicted clean sequence."""


TransformerBlockRegistry.register(
    CompactBlock, TransformerBlockMetadata(return_hidden_states_index=None, return_encoder_hidden_states_index=None)
)


class CompactTransformer3DModel(Backbone):
    """Layered-video diffusion transformer small enough to train and run on a laptop CPU.

    Implements the backbone interface: packed latents, a timestep per clip, text states per layer and the
    layout, to a prediction of the clean sequence.
    """

    _supports_gradient_checkpointing = True
    _repeated_blocks: ClassVar = ["CompactBlock", "ConvBlock"]
    _no_split_modules: ClassVar = ["CompactBlock", "ConvBlock"]
    _skip_layerwise_casting_patterns: ClassVar = ["text_proj", "widen", "fill"]  # whose number format others take over
    prediction_type = "sample"
    memory_format = torch.channels_last
    conventions = Conventions(
        # A whole video leaves nothing to invent: less noise than it was trained with finds its layers more surely.
        12,
        1.0,
        task_noise_scale={"decompose": 0.4},
        batched_guidance=True,
        half_precision=False,
    )

    @register_to_config
    def __init__(
        self,
        clips: tuple[str, ...] = CLIPS,
        in_channels: int = 3,
        sample_size: int = 64,
        sample_frames: int = 8,
        patch_size: int = 2,
        widths: tuple[int, ...] = (48, 128, 192),
        blocks_down: tuple[int, ...] = (1, 1, 1),
        blocks_up: tuple[int, ...] = (3, 4, 2),
        dim: int = 256,
        num_layers: int = 2,
        num_heads: int = 4,
        mlp_ratio: float = 3.0,
        text_dim: int = 384,
        text_rank: int = 192,
        cond_dim: int = 256,
        sketch_width: int = 512,
        fill_width: int = 48,
        layer_embedding: bool = True,
        timestep_per_clip: bool = True,
        placement_spread: float = 0.036,
    ) -> None:
        """
        Args:
            clips: clips of the layout, in order.
            in_channels: channels of a clip; alpha comes repeated over them.
            sample_size, sample_frames: size the weights were trained at; defaults of the pipeline.
            patch_size: pixels folded into channels before the first convolution.
            widths: channels of the convolutional levels, each at half the size of the one before.
            blocks_down, blocks_up: blocks of each level on the way in and out.
            dim, num_layers, num_heads, mlp_ratio: the transformer; it works at half the last level's size.
            text_dim: channels of the text states.
            text_rank: whitened channels that are kept of them.
            cond_dim: width of the conditioning vector (timestep, prompt, frame index).
            sketch_width: hidden channels of the networks that sketch a frame from its prompts.
            fill_width: features of the network that draws what no frame shows of a background.
            layer_embedding: tell the prompts of layers, and the clips, apart by embeddings of their own; off in an
                ablation.
            timestep_per_clip: tell each clip's own noise level, 0 for given ones; off, in an ablation, all clips are
                told the largest.
            placement_spread: standard deviation of what prompts leave open of an object's place, in half frames, and
                of the logarithm of its size.
        """
        super().__init__()
        k = len(clips)
        planes = (in_channels * (k - 1) + 1) if "alpha" in clips else in_channels * k
        folded = planes * patch_size**2
        self.gradient_checkpointing = False
        embedded = 0.02 if layer_embedding else 0.0

        self.time_embed = nn.Sequential(nn.Linear(128, cond_dim), nn.SiLU(), nn.Linear(cond_dim, cond_dim))
        self.clip_embed = nn.Parameter(torch.randn(k, cond_dim) * embedded, layer_embedding)
        self.layer_embed = nn.Parameter(torch.randn(len(LAYERS), dim) * embedded, layer_embedding)
        # Text states are whitened before anything is learnt from them: what tells one noun from another lies in
        # directions of a hundredth of the variance of others, which a gradient would take ages to find.
        text_rank = min(text_rank, text_dim)
        self.text_whitening = Whitening(text_dim, text_rank)
        self.pool_whitening = Whitening(text_dim, text_rank)
        self.text_proj = nn.Linear(text_rank, dim)
        self.text_pool = nn.Sequential(nn.Linear(text_rank, 512), nn.GELU("tanh"), nn.Linear(512, cond_dim))
        self.pool_proj = zeroed(nn.Linear(text_rank, cond_dim))
        self.frame_cond = nn.Linear(FRAME_CODE, cond_dim)
        # "rising" at the first frame looks like "falling" at the last: what tells them apart is a product of prompt
        # and moment, which a sum learns only slowly.
        self.moment_text = nn.Linear(text_rank, cond_dim // 2)
        self.moment_frame = nn.Linear(FRAME_CODE, cond_dim // 2)
        self.moment_out = zeroed(nn.Linear(cond_dim // 2, cond_dim))
        self.conv_cond = nn.Sequential(
            nn.Linear(k * cond_dim, 2 * cond_dim), nn.SiLU(), nn.Linear(2 * cond_dim, cond_dim)
        )
        self.block_cond = nn.Linear(cond_dim, 6 * dim)

        self.stem = nn.Conv2d(folded, widths[0], 3, padding=1)
        pool_levels = range(len(widths) - 1)  # the last level is as coarse as the tokens that attend over frames
        self.down = nn.ModuleList(
            nn.ModuleList(ConvBlock(c, cond_dim, level in pool_levels) for _ in range(n))
            for level, (c, n) in enumerate(zip(widths, blocks_down, strict=True))
        )
        outs = [*widths[1:], k * dim]
        self.shrink = nn.ModuleList(nn.Conv2d(c, o, 2, stride=2) for c, o in zip(widths, outs, strict=True))
        self.frame_pos = nn.Linear(FRAME_CODE, dim)
        self.space_pos = nn.Linear(128, dim)
        self.blocks = nn.ModuleList(CompactBlock(dim, num_heads, mlp_ratio) for _ in range(num_layers))
        self.norm_out = nn.LayerNorm(dim)
        self.grow = nn.ModuleList(nn.Conv2d(o, 4 * c, 1) for c, o in zip(widths, outs, strict=True))
        self.merge = nn.ModuleList(nn.Conv2d(2 * c, c, 1) for c in widths)
        self.up = nn.ModuleList(
            nn.ModuleList(ConvBlock(c, cond_dim, level in pool_levels) for _ in range(n))
            for level, (c, n) in enumerate(zip(widths, blocks_up, strict=True))
        )
        # Near pure noise a frame is drawn from its prompts alone: gates shut out what only carries noise, place
        # codes say where a pixel is, and a coarse sketch leads from prompts to pixels by the shortest way. The
        # network reads it on the way in, so that the transformer knows the scene, and on the way out.
        self.token_gate = zeroed(nn.Linear(cond_dim, dim))
        self.skip_gates = nn.ModuleList(zeroed(nn.Linear(cond_dim, c)) for c in widths)
        self.places = nn.ModuleList(zeroed(nn.Conv2d(PLACE_CODE, c, 1)) for c in widths)
        self.sketch = Sketch(text_rank, sketch_width)
        self.scene_level = min(1, len(widths) - 1)
        self.object_readers = nn.ModuleList(
            SketchReader(OBJECT_PLANES, widths[0], cond_dim, patch_size) for _ in range(2)
        )
        self.scene_readers = nn.ModuleList(
            SketchReader(SCENE_PLANES, widths[self.scene_level], cond_dim) for _ in range(2)
        )
        self.head_norm = nn.GroupNorm(8, widths[0])
        self.head_modulation = zeroed(nn.Linear(cond_dim, 2 * widths[0] + folded))
        self.head = zeroed(nn.Conv2d(widths[0] + folded, folded, 3, padding=1))
        self.copy_head = zeroed(nn.Conv2d(widths[0] + folded, COPY_PLANES * patch_size**2, 3, padding=1))
        self.trust_head = zeroed(nn.Conv2d(widths[0] + folded, patch_size**2, 3, padding=1))
        self.fill = BackgroundFill(in_channels, fill_width)

    @property
    def size_multiple(self) -> int:
        """Height and width of a clip in pixels must divide by this."""
        return self.config.patch_size * 2 ** len(self.config.widths)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        layout: Layout,
        frame_positions: Tensor | None = None,
        return_dict: bool = True,
        placement: Tensor | None = None,
    ) -> CompactTransformer3DOutput | tuple[Tensor]:
        """
        Args:
            hidden_states: (B, K*F, C, H, W) packed clips in model space, generated ones noised.
            timestep: (B, K) noise level per clip in [0, 1]; 0 for given clips.
            encoder_hidden_states: (B, L, S, text_dim) text states per layer, in the order of `LAYERS`.
            encoder_attention_mask: (B, L, S) bool, True at words.
            layout: where the clips stand in the sequence.
            frame_positions: (B, F) position of each frame in its clip, in frames; default 0..F-1. Lets stills
                stand for any moment of a clip.
            placement: (B, 3) what prompts leave open of the object's place and size, as `draw_placement` draws it; the
                middle of it if None.

        Returns:
            The predicted clean sequence (B, K*F, C, H, W).
        """
        b, k, f = hidden_states.shape[0], len(layout.clips), layout.frames
        if frame_positions is None:
            frame_positions = torch.arange(f, device=hidden_states.device).expand(b, f)
        cond, means, text, text_mask = self.condition(timestep, encoder_hidden_states, encoder_attention_mask, layout)
        of_clip = layout.layers
        frame_code = self.frame_code(frame_positions).to(cond.dtype)
        moment = self.moment_text(means[:, of_clip])[:, :, None] * self.moment_frame(frame_code)[:, None]
        cond = cond[:, :, None] + self.moment_out(moment)  # (B, K, F, E)
        conv_cond = self.conv_cond(cond.transpose(1, 2).flatten(2)) + self.frame_cond(frame_code)
        conv_cond = F.silu(conv_cond).flatten(0, 1)  # (B*F, E)

        scene, sprite = self.sketch(means, frame_code, placement)  # (B*F, 7, 16, 16), (B*F, 4, 64, 64)

        folded = self.fold(hidden_states, layout)  # (B*F, planes*p*p, H/p, W/p)
        x, skips = self.object_readers[0](self.stem(folded), sprite, conv_cond), []
        for level, (blocks, shrink) in enumerate(zip(self.down, self.shrink, strict=True)):
            if level == self.scene_level:
                x = self.scene_readers[0](x, scene, conv_cond)
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, conv_cond, f)
            skips.append(x)
            x = shrink(x)

        x = self.transform(x, cond, text, text_mask, frame_code, k)

        for level in reversed(range(len(skips))):
            x = F.pixel_shuffle(self.grow[level](x), 2)
            gate = 1 + self.skip_gates[level](conv_cond)[:, :, None, None]
            x = self.merge[level](torch.cat([x, skips[level] * gate], dim=1))
            x = x + self.places[level](place_code(x.shape[-2], x.shape[-1], PLACE_CODE, x.device).to(x.dtype))
            if level == self.scene_level:
                x = self.scene_readers[1](x, scene, conv_cond)
            if level == 0:
                x = self.object_readers[1](x, sprite, conv_cond)
            for block in self.up[level]:  # type: ignore[attr-defined]
                x = block(x, conv_cond, f)
        scale, shift, keep = self.head_modulation(conv_cond)[:, :, None, None].split(
            [x.shape[1], x.shape[1], folded.shape[1]], dim=1
        )
        x = F.silu(torch.addcmul(shift, self.head_norm(x), 1 + scale))
        x = torch.cat([x, folded * (1 + keep)], dim=1)
        trust = F.pixel_shuffle(self.trust_head(x), self.config.patch_size).unflatten(0, (b, f))
        clips = follow_sketch(self.unfold(self.head(x), b, layout), sprite, trust)
        if set(CLIPS) <= set(clips):
            copy = F.pixel_shuffle(self.copy_head(x), self.config.patch_size).unflatten(0, (b, f))
            clips = solve_composition(clips, copy, hidden_states, timestep, layout, self.fill)
        if "alpha" in clips:
            clips["alpha"] = clips["alpha"].expand(-1, -1, self.config.in_channels, -1, -1)
        sample = layout.pack(clips)
        return CompactTransformer3DOutput(sample) if return_dict else (sample,)

    def video_tokens(self, layout: Layout, height: int, width: int) -> int:
        """See `Backbone`; tokens are behind the convolutions."""
        return layout.length * (height // self.size_multiple) * (width // self.size_multiple)

    def sampling_inputs(
        self,
        batch: int,
        generator: torch.Generator | list[torch.Generator] | None = None,
        device: torch.device | None = None,
    ) -> dict[str, Tensor]:
        """See `Backbone`: a placement for each sample."""
        return {"placement": self.draw_placement(batch, generator, device)}

    def training_inputs(
        self,
        sequence: Tensor,
        layout: Layout,
        given: Tensor,
        text: Tensor,
        mask: Tensor,
        frame_positions: Tensor,
        generators: Sequence[torch.Generator],
    ) -> dict[str, Tensor]:
        """See `Backbone`: the placement of the clips where no given clip shows it, so that it counts as known; else a
        drawn one, as in sampling."""
        shown = given[:, [name != BACKGROUND for name in layout.clips]].any(dim=1)
        found = self.find_placement(text, mask, frame_positions, layout.unpack(sequence)[ALPHA])
        drawn = self.draw_placement(len(shown), list(generators)).to(found)
        return {"placement": torch.where(shown[:, None], drawn, found)}

    def fitted_parts(self) -> list[nn.Module]:
        """See `Backbone`: the sketch, which is fitted to scenes before, and which the rest learns to rely on."""
        return [self.sketch]

    def adapter_layers(self, names: Sequence[str]) -> list[str]:
        """See `Backbone`: nearly every layer, for it is convolutions that carry motion and looks."""
        return [name for name in names if name.split(".")[0] not in WITHOUT_ADAPTER]

    def resized(self, changes: Mapping[str, Any]) -> Self:
        """See `Backbone`. Added blocks come last in their row and change nothing before they are trained."""
        arguments = {name: value for name, value in self.config.items() if not name.startswith("_")}
        other = type(self)(**{**arguments, **changes})
        # An embedding that an ablation switches off is there, zero and never trained.
        off = {name: tensor.detach() for name, tensor in other.named_parameters() if not tensor.requires_grad}
        known, added = self.state_dict(), {}
        for name, tensor in other.state_dict().items():
            if name not in known and BLOCK.match(name):
                added[name] = torch.zeros_like(tensor) if BRANCH_END.search(name) else tensor
        try:
            other.load_state_dict({**known, **off, **added})
        except RuntimeError as error:
            raise UserError(f"the weights have other sizes than {dict(changes)}") from error
        return other.float()

    def refine(self, sequence: Tensor, given: Tensor, layout: Layout) -> Tensor:
        """See `Backbone`: the foreground becomes as opaque as what shows through it implies, see `settle_opacity`."""
        clips = layout.unpack(sequence)
        if not set(CLIPS) <= set(clips):
            return sequence
        names = [name for name, known in zip(layout.clips, given.tolist(), strict=True) if known]
        settled = settle_opacity(clips | {"alpha": clips["alpha"][:, :, :1]}, names)
        return layout.pack(settled | {"alpha": settled["alpha"].expand_as(clips["alpha"])})

    def draw_placement(
        self,
        batch: int,
        generator: torch.Generator | list[torch.Generator] | None = None,
        device: torch.device | None = None,
    ) -> Tensor:
        """What prompts leave open of objects' places and sizes, by lot: (B, 3), see `models.sketch.lay`.

        Weights that are offloaded are elsewhere than on the device that they are computed with; name it then.
        """
        noise = randn_tensor((batch, 3), generator=generator, device=device or self.device, dtype=torch.float32)
        return self.config.placement_spread * noise.clamp(-2, 2)

    @torch.no_grad()
    def find_placement(self, text: Tensor, mask: Tensor, frame_positions: Tensor, alpha: Tensor) -> Tensor:
        """The placement (B, 3) of clips that are there.

        Args:
            text, mask, frame_positions: as for `forward`.
            alpha: (B, F, 1, H, W) their mattes in model space.
        """
        mean = self.pool_whitening(pool(text.to(self.text_proj.weight.dtype), mask))
        drawn = self.sketch.object(mean, self.frame_code(frame_positions).to(mean.dtype))[:, 3]
        drawn = drawn.unflatten(0, frame_positions.shape)
        return placement_between(drawn, alpha[:, :, 0], 3 * self.config.placement_spread)

    def condition(
        self, timestep: Tensor, text: Tensor, mask: Tensor, layout: Layout
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What conditions each clip: a vector (B, K, E) of noise level and prompt, the whitened means (B, L, R) of the
        layers' text states, the states of its layer (B*K, S, D) and their mask (B*K, 1, 1, S)."""
        dtype = self.text_proj.weight.dtype
        text = text.to(dtype)
        if not self.config.timestep_per_clip:
            timestep = timestep.amax(dim=1, keepdim=True).expand_as(timestep)
        of_clip = layout.layers
        mean = self.pool_whitening(pool(text, mask))
        text = self.text_whitening(text)
        pooled = pool(self.text_pool(text), mask) + self.pool_proj(mean)  # (B, L, E)
        cond = self.time_embed(sinusoid(timestep * 1000, 128, 10000.0).to(dtype))
        cond = cond + pooled[:, of_clip] + self.clip_embed
        states = self.text_proj(text) + self.layer_embed[:, None]
        mask = mask[:, of_clip].flatten(0, 1)[:, None, None, :]
        return cond, mean, states[:, of_clip].flatten(0, 1), mask

    def frame_code(self, positions: Tensor) -> Tensor:
        """Frame positions (B, F) to codes (B, F, 64)."""
        return sinusoid(positions / self.config.sample_frames * 100, FRAME_CODE)

    def transform(self, x: Tensor, cond: Tensor, text: Tensor, text_mask: Tensor, frame_code: Tensor, k: int) -> Tensor:
        """The transformer over one token per clip, frame and cell: (B*F, K*D, h, w) to the same shape."""
        b, f, d = frame_code.shape[0], frame_code.shape[1], self.config.dim
        h, w = x.shape[-2:]
        tokens = x.reshape(b, f, k, d, h * w).permute(0, 2, 1, 4, 3).contiguous()  # (B, K, F, P, D)
        tokens = tokens * (1 + self.token_gate(F.silu(cond)))[:, :, :, None]
        rows = torch.arange(h, device=x.device).repeat_interleave(w) / h
        columns = torch.arange(w, device=x.device).repeat(h) / w
        place = torch.cat([sinusoid(rows * 100, 64), sinusoid(columns * 100, 64)], dim=-1).to(x.dtype)
        tokens = tokens + self.space_pos(place) + self.frame_pos(frame_code)[:, None, :, None]
        temb = self.block_cond(F.silu(cond)).unflatten(-1, (6, d))  # (B, K, F, 6, D)
        for block in self.blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                tokens = self._gradient_checkpointing_func(block, tokens, text, text_mask, temb)
            else:
                tokens = block(tokens, text, text_mask, temb)
        tokens = self.norm_out(tokens).permute(0, 2, 1, 4, 3)  # (B, F, K, D, P)
        return tokens.reshape(b * f, k * d, h, w).contiguous(memory_format=torch.channels_last)

    def fold(self, sequence: Tensor, layout: Layout) -> Tensor:
        """Clips side by side in channels, one plane for alpha: (B, K*F, C, H, W) to (B*F, planes*p*p, H/p, W/p)."""
        clips = layout.unpack(sequence)
        planes = [clips[n][:, :, :1] if n == "alpha" else clips[n] for n in layout.clips]
        frames = torch.cat(planes, dim=2).flatten(0, 1)
        height, width = frames.shape[-2:]
        if height % self.size_multiple or width % self.size_multiple:
            raise ValueError(
                f"{width}x{height} pixels do not fit this backbone: both sides must divide by {self.size_multiple}"
            )
        return F.pixel_unshuffle(frames, self.config.patch_size).contiguous(memory_format=torch.channels_last)

    def unfold(self, x: Tensor, batch: int, layout: Layout) -> dict[str, Tensor]:
        """The way back of `fold`, to clips (B, F, C, H, W) by name, alpha with one channel."""
        planes = F.pixel_shuffle(x, self.config.patch_size)
        planes = planes.unflatten(0, (batch, layout.frames))  # (B, F, planes, H, W)
        sizes = [1 if name == "alpha" else self.config.in_channels for name in layout.clips]
        return dict(zip(layout.clips, planes.split(sizes, dim=2), strict=True))
