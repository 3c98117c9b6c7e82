"""The mini's backbone: a diffusion transformer between a convolutional encoder and decoder.

Clips are pixel-aligned, so the convolutions see all clips of a frame side by side in channels and carry the pixels.
The transformer keeps separate tokens for each clip and connects clips and frames by full attention. The prediction is
the clean sequence (x-prediction, arXiv 2511.13720).

Letters in shape comments: B batch, K clips, F frames of one clip, N = B*F, L layers (prompts), S text tokens,
R whitened text channels, C channels, H height, W width, h = H/m and w = W/m for m = `size_multiple`, p patch size,
P = h*w tokens of one frame of one clip, D transformer width, E conditioning width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from ...core.errors import UserError
from ...core.schema import ALPHA, ALPHA_OF, BACKGROUND, CHANNELS, CLIPS, foreground_count, prompt_layers
from ...models.backbone import Backbone, Conventions
from ...models.given import mattes_of
from ...models.layout import Layout
from .blocks import CompactBlock, ConvBlock, Whitening, place_code, sinusoid
from .composition import copy_planes, settle_opacity, solve_composition
from .fill import BackgroundFill
from .sketch import (
    FRAME_CODE,
    OBJECT_PLANES,
    SCENE_PLANES,
    Sketch,
    SketchReader,
    follow_sketch,
    means_by_foreground,
    placement_between,
    zeroed,
)
from .text_encoder import pool

__all__ = ["CompactTransformer3DModel", "ModelMixin"]  # diffusers looks here for the base class

PLACE_CODE = 32
"""Channels of the encoded pixel position."""
WITHOUT_ADAPTER = ("space_pos", "places")
"""Layers of position codes, which all samples share; LoRA leaves them out."""
BLOCK = re.compile(r"(down|up)\.\d+\.\d+\.|blocks\.\d+\.")
"""Names of parameters of repeated blocks."""
BRANCH_END = re.compile(r"attn\.to_out\.|\.mlp\.2\.")
"""Last layers of a transformer block's residual branches; a new convolutional block starts with zeros there."""


@dataclass
class CompactTransformer3DOutput(BaseOutput):
    """Output of the backbone."""

    sample: Tensor
    """(B, K*F, C, H, W) predicted clean sequence."""


class CompactTransformer3DModel(Backbone):
    """Layered-video diffusion transformer small enough to train and run on a laptop CPU.

    It implements the interface of `Backbone` with a noise level per clip and frame and predicts the clean sequence.
    """

    _supports_gradient_checkpointing = True
    _repeated_blocks: ClassVar = ["CompactBlock", "ConvBlock"]
    _no_split_modules: ClassVar = ["CompactBlock", "ConvBlock"]
    _skip_layerwise_casting_patterns: ClassVar = ["text_proj", "widen", "fill"]  # other layers read their dtype
    prediction_type = "sample"
    memory_format = torch.channels_last
    conventions = Conventions(
        # A given video determines its layers: less noise than in training recovers them more reliably.
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
        hints: bool = False,
        frame_masks: bool = False,
    ) -> None:
        """
        Args:
            clips: clips of the layout, in order.
            in_channels: channels of a clip; alpha comes repeated over them.
            sample_size, sample_frames: height and width in pixels and frames of the training clips; defaults of the
                pipeline.
            patch_size: height and width of the pixel patches that are folded into channels first.
            widths: channels of the convolutional levels, each at half the size of the one before.
            blocks_down, blocks_up: blocks of each level of encoder and decoder.
            dim, num_layers, num_heads, mlp_ratio: sizes of the transformer; it works at half the last level's size.
            text_dim: channels of the text states.
            text_rank: channels of the whitened text states.
            cond_dim: width of the conditioning vector (timestep, prompt, frame index).
            sketch_width: hidden channels of the networks that sketch a frame from its prompts.
            fill_width: features of the network that inpaints backgrounds.
            layer_embedding: learn embeddings of layers and clips; off in an ablation.
            timestep_per_clip: condition each clip on its noise level, 0 for given ones; off, in an ablation, all
                clips are conditioned on the largest.
            placement_spread: standard deviation of an object's random place, in half frames, and of the logarithm of
                its size.
            hints: take known places of mattes, see `Backbone.takes_hints`.
            frame_masks: whether training gave single frames of clips too; it changes messages, not results.
        """
        super().__init__()
        self.gradient_checkpointing = False
        text_rank = min(text_rank, text_dim)
        folded = sum(self.clip_planes(clips, in_channels)) * patch_size**2
        self._add_conditioning(text_rank)
        self._add_levels(folded)
        # Near pure noise a frame depends on its prompts alone: gates suppress features that only carry noise, place
        # codes encode pixel positions, and a coarse sketch is the shortest path from prompts to pixels. The encoder
        # reads it, so that the transformer knows the scene, and so does the decoder.
        self.token_gate = zeroed(nn.Linear(cond_dim, dim))
        self.skip_gates = nn.ModuleList(zeroed(nn.Linear(cond_dim, c)) for c in widths)
        self.places = nn.ModuleList(zeroed(nn.Conv2d(PLACE_CODE, c, 1)) for c in widths)
        self.sketch = Sketch(text_rank, sketch_width)
        self.scene_level = min(1, len(widths) - 1)
        count = len(self.foregrounds)
        self.object_readers = nn.ModuleList(  # two of each foreground
            SketchReader(OBJECT_PLANES, widths[0], cond_dim, patch_size) for _ in range(2 * count)
        )
        self.scene_readers = nn.ModuleList(
            SketchReader(SCENE_PLANES, widths[self.scene_level], cond_dim) for _ in range(2)
        )
        self.head_norm = nn.GroupNorm(8, widths[0])
        self.head_modulation = zeroed(nn.Linear(cond_dim, 2 * widths[0] + folded))
        self.head = zeroed(nn.Conv2d(widths[0] + folded, folded, 3, padding=1))
        self.copy_head = zeroed(nn.Conv2d(widths[0] + folded, copy_planes(count) * patch_size**2, 3, padding=1))
        self.trust_head = zeroed(nn.Conv2d(widths[0] + folded, count * patch_size**2, 3, padding=1))
        self.fill = BackgroundFill(in_channels, fill_width)

    def _add_conditioning(self, text_rank: int) -> None:
        """Add embeddings and projections of noise level, clip, prompt and frame."""
        k, dim, cond_dim, text_dim = len(self.config.clips), self.config.dim, self.config.cond_dim, self.config.text_dim
        embedded = self.config.layer_embedding
        scale = 0.02 if embedded else 0.0
        self.time_embed = nn.Sequential(nn.Linear(128, cond_dim), nn.SiLU(), nn.Linear(cond_dim, cond_dim))
        self.clip_embed = nn.Parameter(torch.randn(k, cond_dim) * scale, embedded)
        self.layer_embed = nn.Parameter(torch.randn(len(self.layers), dim) * scale, embedded)
        # Text states are whitened first: nouns differ in directions of a hundredth of the largest variance, which
        # gradient descent would take ages to find.
        self.text_whitening = Whitening(text_dim, text_rank)
        self.pool_whitening = Whitening(text_dim, text_rank)
        self.text_proj = nn.Linear(text_rank, dim)
        self.text_pool = nn.Sequential(nn.Linear(text_rank, 512), nn.GELU("tanh"), nn.Linear(512, cond_dim))
        self.pool_proj = zeroed(nn.Linear(text_rank, cond_dim))
        self.frame_cond = nn.Linear(FRAME_CODE, cond_dim)
        # "rising" at the first frame looks like "falling" at the last: a product of prompt and moment tells them
        # apart, which a sum learns only slowly.
        self.moment_text = nn.Linear(text_rank, cond_dim // 2)
        self.moment_frame = nn.Linear(FRAME_CODE, cond_dim // 2)
        self.moment_out = zeroed(nn.Linear(cond_dim // 2, cond_dim))
        self.conv_cond = nn.Sequential(
            nn.Linear(k * cond_dim, 2 * cond_dim), nn.SiLU(), nn.Linear(2 * cond_dim, cond_dim)
        )
        self.block_cond = nn.Linear(cond_dim, 6 * dim)

    def _add_levels(self, folded: int) -> None:
        """Add the convolutional encoder, the transformer and the decoder."""
        widths, dim, cond_dim = self.config.widths, self.config.dim, self.config.cond_dim
        self.stem = nn.Conv2d(folded, widths[0], 3, padding=1)
        if self.config.hints:
            planes = 2 * len(mattes_of(self.config.clips)) * self.config.patch_size**2
            self.hint_stem = zeroed(nn.Conv2d(planes, widths[0], 3, padding=1))
        pool_levels = range(len(widths) - 1)  # the last level is as coarse as the tokens that attend over frames

        def levels(counts: Sequence[int]) -> nn.ModuleList:
            return nn.ModuleList(
                nn.ModuleList(ConvBlock(c, cond_dim, level in pool_levels) for _ in range(n))
                for level, (c, n) in enumerate(zip(widths, counts, strict=True))
            )

        self.down = levels(self.config.blocks_down)
        outs = [*widths[1:], len(self.config.clips) * dim]
        self.shrink = nn.ModuleList(nn.Conv2d(c, o, 2, stride=2) for c, o in zip(widths, outs, strict=True))
        self.frame_pos = nn.Linear(FRAME_CODE, dim)
        self.space_pos = nn.Linear(128, dim)
        self.blocks = nn.ModuleList(
            CompactBlock(dim, self.config.num_heads, self.config.mlp_ratio) for _ in range(self.config.num_layers)
        )
        self.norm_out = nn.LayerNorm(dim)
        self.grow = nn.ModuleList(nn.Conv2d(o, 4 * c, 1) for c, o in zip(widths, outs, strict=True))
        self.merge = nn.ModuleList(nn.Conv2d(2 * c, c, 1) for c in widths)
        self.up = levels(self.config.blocks_up)

    @property
    def size_multiple(self) -> int:
        """Divisor of height and width of a clip in pixels."""
        return self.config.patch_size * 2 ** len(self.config.widths)

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers of the prompts, in their order."""
        return prompt_layers(foreground_count(self.config.clips))

    @property
    def foregrounds(self) -> list[str]:
        """Transparent layers, the nearest first."""
        return [layer for layer in self.layers if layer in ALPHA_OF]

    @property
    def needs_all_clips(self) -> bool:
        """See `Backbone`: convolutions see all clips side by side."""
        return True

    @property
    def takes_hints(self) -> bool:
        """See `Backbone`."""
        return bool(self.config.hints)

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
        hints: Tensor | None = None,
    ) -> CompactTransformer3DOutput | tuple[Tensor]:
        """Predict the clean sequence.

        Args:
            hidden_states: (B, K*F, C, H, W) packed clips in model space, generated frames noised.
            timestep: (B, K, F or 1) noise level per clip and frame in [0, 1]; 0 for given frames.
            encoder_hidden_states: (B, L, S, text_dim) text states per layer, in the order of `prompt_layers`.
            encoder_attention_mask: (B, L, S) bool, True at tokens.
            layout: layout of the clips in the sequence.
            frame_positions: (B, F) position of each frame in its clip, in frames; 0..F-1 if None. A still can thus be
                any moment of a clip.
            return_dict: return a `CompactTransformer3DOutput` instead of a tuple.
            placement: (B, 3 * A) random places and sizes of the objects, see `draw_placement`; their mean if None.
            hints: (B, A, F, 2, H, W) known places of mattes, see `Backbone.takes_hints`; none are known if None.

        Returns:
            Clean sequence (B, K*F, C, H, W).
        """
        b, k, f = hidden_states.shape[0], len(layout.clips), layout.frames
        if frame_positions is None:
            frame_positions = torch.arange(f, device=hidden_states.device).expand(b, f)
        cond, means, text, text_mask = self.condition(timestep, encoder_hidden_states, encoder_attention_mask, layout)
        frame_code = self.frame_code(frame_positions).to(cond.dtype)  # (B, F, 64)
        cond, conv_cond = self.condition_frames(cond, means, frame_code, layout)  # (B, K, F, E), (N, E)

        scene, sprites = self.sketch(means, frame_code, placement)  # (N, 7, 16, 16), A times (N, 4, 64, 64)
        folded = self.fold(hidden_states, layout)  # (N, planes*p*p, H/p, W/p)
        stem = self.stem(folded)
        if hints is not None:
            stem = stem + self.hint_stem(self.fold_frames(hints.transpose(1, 2).flatten(2, 3).to(stem.dtype)))
        x, skips = self.encode(stem, scene, sprites, conv_cond, f)  # (N, K*D, h, w)
        x = self.transform(x, cond, text, text_mask, frame_code, k)  # (N, K*D, h, w)
        x = self.decode(x, skips, scene, sprites, conv_cond, f)  # (N, widths[0], H/p, W/p)
        x = self.modulate(x, folded, conv_cond)  # (N, widths[0] + planes*p*p, H/p, W/p)

        trust = F.pixel_shuffle(self.trust_head(x), self.config.patch_size).unflatten(0, (b, f))  # (B, F, A, H, W)
        clips = self.unfold(self.head(x), b, layout)
        for name, sprite, own in zip(self.foregrounds, sprites, trust.split(1, dim=2), strict=True):
            clips = follow_sketch(clips, sprite, own, name)
        if set(CLIPS) <= set(clips):
            copy = F.pixel_shuffle(self.copy_head(x), self.config.patch_size).unflatten(
                0, (b, f)
            )  # (B, F, 3 + A, H, W)
            clips = solve_composition(clips, copy, hidden_states, timestep, layout, self.fill)
        sample = layout.pack(
            {name: clip.expand(-1, -1, self.config.in_channels, -1, -1) for name, clip in clips.items()}
        )
        return CompactTransformer3DOutput(sample) if return_dict else (sample,)

    def video_tokens(self, layout: Layout, height: int, width: int) -> int:
        """See `Backbone`; tokens are counted behind the convolutional encoder."""
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
        """See `Backbone`: the true placement where no given clip shows it, else a random one, as in sampling."""
        shown = given[:, [name != BACKGROUND for name in layout.clips]].any(dim=2).any(dim=1)
        true = self.find_placement(text, mask, frame_positions, layout.unpack(sequence))
        drawn = self.draw_placement(len(shown), list(generators)).to(true)
        return {"placement": torch.where(shown[:, None], drawn, true)}

    def fitted_parts(self) -> list[nn.Module]:
        """See `Backbone`: the sketch, which is fitted to scenes first, so that the other parts learn to rely on it."""
        return [self.sketch]

    def adapter_layers(self, names: Sequence[str]) -> list[str]:
        """See `Backbone`: nearly all layers, because convolutions carry motion and appearance."""
        return [name for name in names if name.split(".")[0] not in WITHOUT_ADAPTER]

    def resized(self, changes: Mapping[str, Any]) -> Self:
        """See `Backbone`. Added blocks come last at their level and are identities until they are trained."""
        arguments = {name: value for name, value in self.config.items() if not name.startswith("_")}
        other = type(self)(**{**arguments, **changes})
        # An embedding that an ablation switches off stays zero.
        off = {name: tensor.detach() for name, tensor in other.named_parameters() if not tensor.requires_grad}
        known, added = self.state_dict(), {}
        for name, tensor in other.state_dict().items():
            if name not in known and (BLOCK.match(name) or name.startswith("hint_stem.")):
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

        def names(known: Tensor) -> list[str]:
            return [name for name, one in zip(layout.clips, known.all(0).tolist(), strict=True) if one]

        alpha = clips[ALPHA]
        if len(self.foregrounds) > 1:  # what shines through one may be another
            return sequence
        clips = settle_opacity(clips | {ALPHA: alpha[:, :, :1]}, names(given.all(2)), names(given.any(2)))
        return layout.pack(clips | {ALPHA: clips[ALPHA].expand_as(alpha)})

    def draw_placement(
        self,
        batch: int,
        generator: torch.Generator | list[torch.Generator] | None = None,
        device: torch.device | None = None,
    ) -> Tensor:
        """Draw random places and sizes of the objects of A foregrounds (B, 3 * A), see `sketch.place_sprite`.

        Args:
            batch: number of samples, B.
            generator: source of randomness; the global one if None.
            device: device of the result; that of the weights if None, which is wrong for offloaded ones.
        """
        size = batch, 3 * len(self.foregrounds)
        noise = randn_tensor(size, generator=generator, device=device or self.device, dtype=torch.float32)
        return self.config.placement_spread * noise.clamp(-2, 2)

    @torch.no_grad()
    def find_placement(
        self, text: Tensor, mask: Tensor, frame_positions: Tensor, clips: Mapping[str, Tensor]
    ) -> Tensor:
        """Measure the placement (B, 3 * A) of true clips.

        Args:
            text, mask, frame_positions: as for `forward`.
            clips: true clips (B, F, C, H, W) in model space by name, mattes among them.
        """
        mean = self.pool_whitening(pool(text.to(self.text_proj.weight.dtype), mask))
        frame_code = self.frame_code(frame_positions).to(mean.dtype)
        found = []
        for name, own in zip(self.foregrounds, means_by_foreground(mean), strict=True):
            drawn = self.sketch.object(own, frame_code)[:, 3].unflatten(0, frame_positions.shape)
            found.append(placement_between(drawn, clips[ALPHA_OF[name]][:, :, 0], 3 * self.config.placement_spread))
        return torch.cat(found, dim=1)

    def condition(
        self, timestep: Tensor, text: Tensor, mask: Tensor, layout: Layout
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the conditioning of each clip.

        Returns:
            Vector (B, K, F or 1, E) of noise level and prompt, whitened mean text states of layers (B, L, R), text
            states of each clip's layer (B*K, S, D) and their mask (B*K, 1, 1, S).
        """
        dtype = self.text_proj.weight.dtype
        text = text.to(dtype)
        if not self.config.timestep_per_clip:
            timestep = timestep.amax(dim=(1, 2), keepdim=True).expand_as(timestep)
        layers = layout.layers
        mean = self.pool_whitening(pool(text, mask))  # (B, L, R)
        text = self.text_whitening(text)  # (B, L, S, R)
        pooled = pool(self.text_pool(text), mask) + self.pool_proj(mean)  # (B, L, E)
        cond = self.time_embed(sinusoid(timestep * 1000, 128, 10000.0).to(dtype))  # (B, K, F or 1, E)
        cond = cond + pooled[:, layers, None] + self.clip_embed[:, None]
        states = self.text_proj(text) + self.layer_embed[:, None]  # (B, L, S, D)
        mask = mask[:, layers].flatten(0, 1)[:, None, None, :]  # (B*K, 1, 1, S)
        return cond, mean, states[:, layers].flatten(0, 1), mask

    def condition_frames(
        self, cond: Tensor, means: Tensor, frame_code: Tensor, layout: Layout
    ) -> tuple[Tensor, Tensor]:
        """Return conditioning vectors of each clip and frame (B, K, F, E) and of each frame (N, E).

        Args:
            cond: (B, K, F or 1, E) conditioning of each clip and noise level.
            means: (B, L, R) whitened mean text states.
            frame_code: (B, F, 64) encoded frame positions.
            layout: layout of the clips.
        """
        moment = self.moment_text(means[:, layout.layers])[:, :, None] * self.moment_frame(frame_code)[:, None]
        cond = cond + self.moment_out(moment)  # (B, K, F, E)
        conv_cond = self.conv_cond(cond.transpose(1, 2).flatten(2)) + self.frame_cond(frame_code)  # (B, F, E)
        return cond, F.silu(conv_cond).flatten(0, 1)

    def encode(
        self, x: Tensor, scene: Tensor, sprites: Sequence[Tensor], cond: Tensor, frames: int
    ) -> tuple[Tensor, list[Tensor]]:
        """Encode features (N, widths[0], H/p, W/p) to (N, K*D, h, w), and return each level's features too."""
        for reader, sprite in zip(self.object_readers[::2], sprites, strict=True):
            x = reader(x, sprite, cond)
        skips = []
        for level, (blocks, shrink) in enumerate(zip(self.down, self.shrink, strict=True)):
            if level == self.scene_level:
                x = self.scene_readers[0](x, scene, cond)
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, cond, frames)
            skips.append(x)
            x = shrink(x)
        return x, skips

    def decode(
        self,
        x: Tensor,
        skips: Sequence[Tensor],
        scene: Tensor,
        sprites: Sequence[Tensor],
        cond: Tensor,
        frames: int,
    ) -> Tensor:
        """Decode (N, K*D, h, w) and the features of `encode` to (N, widths[0], H/p, W/p)."""
        for level in reversed(range(len(skips))):
            x = F.pixel_shuffle(self.grow[level](x), 2)
            gate = 1 + self.skip_gates[level](cond)[:, :, None, None]
            x = self.merge[level](torch.cat([x, skips[level] * gate], dim=1))
            x = x + self.places[level](place_code(x.shape[-2], x.shape[-1], PLACE_CODE, x.device).to(x.dtype))
            if level == self.scene_level:
                x = self.scene_readers[1](x, scene, cond)
            if level == 0:
                for reader, sprite in zip(self.object_readers[1::2], sprites, strict=True):
                    x = reader(x, sprite, cond)
            for block in self.up[level]:  # type: ignore[attr-defined]
                x = block(x, cond, frames)
        return x

    def modulate(self, x: Tensor, folded: Tensor, cond: Tensor) -> Tensor:
        """Modulate decoded features (N, C, H/p, W/p) and append the folded input, scaled, as input of the heads."""
        scale, shift, keep = self.head_modulation(cond)[:, :, None, None].split(
            [x.shape[1], x.shape[1], folded.shape[1]], dim=1
        )
        x = F.silu(torch.addcmul(shift, self.head_norm(x), 1 + scale))
        return torch.cat([x, folded * (1 + keep)], dim=1)

    def frame_code(self, positions: Tensor) -> Tensor:
        """Encode frame positions (B, F) as (B, F, 64)."""
        return sinusoid(positions / self.config.sample_frames * 100, FRAME_CODE)

    def transform(self, x: Tensor, cond: Tensor, text: Tensor, text_mask: Tensor, frame_code: Tensor, k: int) -> Tensor:
        """Run the transformer on (N, K*D, h, w), one token per clip, frame and cell of the grid, to the same shape."""
        b, f, d = frame_code.shape[0], frame_code.shape[1], self.config.dim
        h, w = x.shape[-2:]
        tokens = x.reshape(b, f, k, d, h * w).permute(0, 2, 1, 4, 3).contiguous()  # (B, K, F, P, D)
        tokens = tokens * (1 + self.token_gate(F.silu(cond)))[:, :, :, None]
        rows = torch.arange(h, device=x.device).repeat_interleave(w) / h
        columns = torch.arange(w, device=x.device).repeat(h) / w
        place = torch.cat([sinusoid(rows * 100, 64), sinusoid(columns * 100, 64)], dim=-1).to(x.dtype)  # (P, 128)
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
        """Put clips side by side in channels, one for alpha: (B, K*F, C, H, W) to (N, planes*p*p, H/p, W/p).

        Raises:
            ValueError: height or width does not divide by `size_multiple`.
        """
        clips, planes = layout.unpack(sequence), self.clip_planes(layout.clips, self.config.in_channels)
        channels = [clips[name][:, :, :count] for name, count in zip(layout.clips, planes, strict=True)]
        return self.fold_frames(torch.cat(channels, dim=2))

    def fold_frames(self, planes: Tensor) -> Tensor:
        """Fold pixels (B, F, planes, H, W) into channels, (N, planes*p*p, H/p, W/p); raises ValueError as `fold`."""
        frames = planes.flatten(0, 1)
        height, width = frames.shape[-2:]
        if height % self.size_multiple or width % self.size_multiple:
            raise ValueError(
                f"{width}x{height} pixels do not fit this backbone: both sides must divide by {self.size_multiple}"
            )
        return F.pixel_unshuffle(frames, self.config.patch_size).contiguous(memory_format=torch.channels_last)

    def unfold(self, x: Tensor, batch: int, layout: Layout) -> dict[str, Tensor]:
        """Invert `fold`, to clips (B, F, C, H, W) by name, alpha with one channel."""
        planes = F.pixel_shuffle(x, self.config.patch_size)  # (N, planes, H, W)
        planes = planes.unflatten(0, (batch, layout.frames))  # (B, F, planes, H, W)
        sizes = self.clip_planes(layout.clips, self.config.in_channels)
        return dict(zip(layout.clips, planes.split(sizes, dim=2), strict=True))

    @staticmethod
    def clip_planes(clips: Sequence[str], in_channels: int) -> list[int]:
        """Return the channels of each clip that the network sees: one for alpha, all for colour."""
        return [1 if CHANNELS[name] == 1 else in_channels for name in clips]
