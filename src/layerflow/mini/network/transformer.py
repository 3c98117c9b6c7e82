"""The mini's backbone: a diffusion transformer between a convolutional encoder and decoder.

Clips are pixel-aligned, so the convolutions see all clips of a frame side by side in channels and carry the pixels.
The transformer keeps separate tokens for each clip and connects clips and frames by full attention. The prediction is
the clean sequence (x-prediction, arXiv 2511.13720).

Letters in shape comments: B batch, K clips, F frames of one clip, N = B*F, L layers (prompts), S text tokens,
R whitened text channels, C channels, H height, W width, h = H/m and w = W/m for m = `size_multiple`, p patch size,
P = h*w tokens of one frame of one clip, D transformer width, E conditioning width, A foregrounds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from ...core.schema import ALPHA, ALPHA_OF, BLENDED, CHANNELS, CLIPS, FOREGROUND
from ...models.backbone import Conventions
from ...models.layout import Layout
from .blocks import CompactBlock, ConvBlock, place_code, sinusoid
from .composition import BACKGROUND_PLANES, settle_opacity, solve_composition, solve_separation
from .conditioning import OWN_CLIPS
from .fill import BackgroundFill
from .folding import FOLDED_PLANES, fold, fold_frames, pool_noise, unfold
from .foregrounds import PlaceInStack, share_of
from .growth import grown
from .separation import Separation, drawn_clips
from .sketch import (
    FRAME_CODE,
    OBJECT_PLANES,
    SCENE_PLANES,
    Sketch,
    SketchReader,
    follow_sketch,
    zeroed,
)
from .sketching import Sketched
from .sprite_book import BookSizes
from .text_encoder import pool

__all__ = ["CompactTransformer3DModel", "ModelMixin"]  # diffusers looks here for the base class

PLACE_CODE = 32
"""Channels of the encoded pixel position."""
WITHOUT_ADAPTER = re.compile(r"space_pos|places\.|separation\.observation\.encoder\.|.*cells\.blocks\.\d+\.local")
"""Layers that LoRA leaves out: of position codes, which all samples share, of the frozen encoder, and depthwise ones,
into which an adapter cannot be fused."""
SEPARATION_BLOCKS = 3
"""Convolutional blocks of the decoder of `Separation`."""


@dataclass
class CompactTransformer3DOutput(BaseOutput):
    """Output of the backbone."""

    sample: Tensor
    """(B, K*F, C, H, W) predicted clean sequence."""


class CompactTransformer3DModel(Sketched):
    """Layered-video diffusion transformer small enough to train and run on a laptop CPU.

    It implements the interface of `Backbone` with a noise level per clip and frame and predicts the clean sequence.
    """

    _supports_gradient_checkpointing = True
    _repeated_blocks: ClassVar = ["CompactBlock", "CellBlock", "ConvBlock"]
    _no_split_modules: ClassVar = ["CompactBlock", "CellBlock", "ConvBlock", "ImageFeatures"]
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
        separation_layers: int = 0,
        separation_dim: int = 192,
        separation_width: int = 64,
        separation_size: int = 0,
        separation_frames: int = 0,
        text_dim: int = 384,
        text_rank: int = 192,
        cond_dim: int = 256,
        sketch_width: int = 512,
        sprite_book: Mapping[str, int] | None = None,
        fill_width: int = 48,
        layer_embedding: bool = True,
        timestep_per_clip: bool = True,
        placement_spread: float = 0.036,
        noise_pooling: int = 1,
        hints: bool = False,
        frame_masks: bool = False,
    ) -> None:
        """
        Args:
            clips: clips of the layout, in order: `CLIPS`, and perhaps those of further foregrounds, which share the
                weights of the first.
            in_channels: channels of a clip; alpha comes repeated over them.
            sample_size, sample_frames: height and width in pixels and frames of the training clips; defaults of the
                pipeline.
            patch_size: height and width of the pixel patches that are folded into channels first.
            widths: channels of the convolutional levels, each at half the size of the one before.
            blocks_down, blocks_up: blocks of each level of encoder and decoder.
            dim, num_layers, num_heads, mlp_ratio: sizes of the transformer; it works at half the last level's size.
            separation_layers, separation_dim, separation_width: sizes of the network that takes given videos apart, see
                `Separation`: layers and channels of its transformer, channels of its convolutions; none at 0.
            separation_size, separation_frames: as `sample_size` and `sample_frames`, for given videos; the same at 0.
            text_dim: channels of the text states.
            text_rank: channels of the whitened text states.
            cond_dim: width of the conditioning vector (timestep, prompt, frame index).
            sketch_width: hidden channels of the networks that sketch a frame from its prompts.
            sprite_book: sizes of the book of sprites that they draw objects from, see `BookSizes`; a few still sprites
                without one.
            fill_width: features of the network that inpaints backgrounds.
            layer_embedding: learn embeddings of layers and clips; off in an ablation.
            timestep_per_clip: condition each clip on its noise level, 0 for given ones; off, in an ablation, all
                clips are conditioned on the largest.
            placement_spread: standard deviation of an object's random place, in half frames, and of the logarithm of
                its size.
            noise_pooling: factor r by which frames are higher and wider than those at which the network's noise levels
                were learnt: the mean of r x r pixels has r times less noise, see `pool_noise`.
            hints: take known places of mattes, see `Backbone.takes_hints`.
            frame_masks: whether training gave single frames of clips too; it changes messages, not results.

        Raises:
            ValueError: clips without those of a scene of one foreground.
        """
        super().__init__()
        if tuple(clips[: len(CLIPS)]) != CLIPS:
            raise ValueError(f"the clips {', '.join(clips)} do not begin with {', '.join(CLIPS)}")
        self.gradient_checkpointing = False
        text_rank = min(text_rank, text_dim)
        folded = FOLDED_PLANES * patch_size**2
        self._add_conditioning(text_rank)
        self._add_levels(folded)
        # Near pure noise a frame depends on its prompts alone: gates suppress features that only carry noise, place
        # codes encode pixel positions, and a coarse sketch is the shortest path from prompts to pixels. The encoder
        # reads it, so that the transformer knows the scene, and so does the decoder.
        self.token_gate = zeroed(nn.Linear(cond_dim, dim))
        self.skip_gates = nn.ModuleList(zeroed(nn.Linear(cond_dim, c)) for c in widths)
        self.places = nn.ModuleList(zeroed(nn.Conv2d(PLACE_CODE, c, 1)) for c in widths)
        self.sketch = Sketch(text_rank, sketch_width, BookSizes(**sprite_book) if sprite_book else None)
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
        self.copy_head = zeroed(nn.Conv2d(widths[0] + folded, (BACKGROUND_PLANES + 1) * patch_size**2, 3, padding=1))
        self.trust_head = zeroed(nn.Conv2d(widths[0] + folded, patch_size**2, 3, padding=1))
        self.fill = BackgroundFill(in_channels, fill_width)
        if len(self.foregrounds) > 1:
            self._add_places()
        if separation_layers:
            self.separation = Separation(
                separation_dim, separation_layers, separation_width, SEPARATION_BLOCKS, text_rank,
                len(self.foregrounds) > 1,
            )  # fmt: skip
            self.conventions = replace(self.conventions, task_steps={"decompose": 1})  # nothing is sampled

    def _add_levels(self, folded: int) -> None:
        """Add the convolutional encoder, the transformers and the decoder."""
        config, widths, dim, cond_dim = self.config, self.config.widths, self.config.dim, self.config.cond_dim
        self.stem = nn.Conv2d(folded, widths[0], 3, padding=1)
        if config.hints:
            self.hint_stem = zeroed(nn.Conv2d(2 * config.patch_size**2, widths[0], 3, padding=1))
        pool_levels = range(len(widths) - 1)  # the last level is as coarse as the tokens that attend over frames

        def levels(counts: Sequence[int]) -> nn.ModuleList:
            return nn.ModuleList(
                nn.ModuleList(ConvBlock(c, cond_dim, level in pool_levels) for _ in range(n))
                for level, (c, n) in enumerate(zip(widths, counts, strict=True))
            )

        self.down = levels(config.blocks_down)
        outs = [*widths[1:], len(CLIPS) * dim]
        self.shrink = nn.ModuleList(nn.Conv2d(c, o, 2, stride=2) for c, o in zip(widths, outs, strict=True))
        self.frame_pos = nn.Linear(FRAME_CODE, dim)
        self.space_pos = nn.Linear(128, dim)
        self.blocks = nn.ModuleList(
            CompactBlock(dim, config.num_heads, config.mlp_ratio) for _ in range(config.num_layers)
        )
        self.norm_out = nn.LayerNorm(dim)
        self.grow = nn.ModuleList(nn.Conv2d(o, 4 * c, 1) for c, o in zip(widths, outs, strict=True))
        self.merge = nn.ModuleList(nn.Conv2d(2 * c, c, 1) for c in widths)
        self.up = levels(config.blocks_up)

    def _add_places(self) -> None:
        """Add what tells further foregrounds from the nearest, whose weights they share."""
        widths, dim, cond_dim = self.config.widths, self.config.dim, self.config.cond_dim
        self.place_stem = PlaceInStack(widths[0], distinct=True)
        self.place_cond = PlaceInStack(cond_dim)
        self.place_text = PlaceInStack(dim)
        self.place_tokens = PlaceInStack(dim, distinct=True)
        self.place_grow = PlaceInStack(4 * widths[-1], distinct=True)
        self.place_decode = PlaceInStack(widths[0])
        self.place_frames = zeroed(nn.Linear(len(OWN_CLIPS) * cond_dim, 2 * cond_dim))

    @property
    def size_multiple(self) -> int:
        """Divisor of height and width of a clip in pixels."""
        return self.config.patch_size * 2 ** len(self.config.widths)

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
        chance: Tensor | None = None,
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
            chance: (B, 3 * A) random numbers that choose looks of the sprite book, see `draw_chance`; the likeliest
                ones if None.
            hints: (B, A, F, 2, H, W) known places of mattes, see `Backbone.takes_hints`; none are known if None.

        Returns:
            Clean sequence (B, K*F, C, H, W).

        Raises:
            ValueError: height or width does not divide by `size_multiple`.
        """
        b, f, (height, width) = hidden_states.shape[0], layout.frames, hidden_states.shape[-2:]
        if height % self.size_multiple or width % self.size_multiple:
            raise ValueError(
                f"{width}x{height} pixels do not fit this backbone: both sides must divide by {self.size_multiple}"
            )
        if frame_positions is None:
            frame_positions = torch.arange(f, device=hidden_states.device).expand(b, f)
        frame_code = self.frame_code(frame_positions).to(self.text_proj.weight.dtype)  # (B, F, 64)
        means = self.pool_whitening(pool(encoder_hidden_states.to(frame_code.dtype), encoder_attention_mask))
        given = (timestep == 0).expand(-1, -1, f)  # (B, K, F)
        apart = self.is_apart(given, layout)  # (B, F)
        masks = {name: given[:, number] for number, name in enumerate(layout.clips)}
        separated: dict[str, Tensor] = {}
        if hasattr(self, "separation") and (apart.is_meta or bool(apart.any())):
            moments = self.frame_code(frame_positions, self.config.separation_frames).to(frame_code.dtype)
            separated = self.separate(layout.unpack(hidden_states), masks, means, moments, hints)
        if not separated or apart.is_meta or not bool(apart.all()):  # planned as a run in which both work
            text = encoder_hidden_states, encoder_attention_mask
            known = self.known_foregrounds(layout.unpack(hidden_states), masks, separated, apart)
            sketched = self.sketch(means, frame_code, placement, chance, frame_positions, (height, width), known)
            clips, copy = self.draw(hidden_states, timestep, text, means, frame_code, layout, sketched, hints)
            clips = self.as_sketched(clips, sketched[1], masks)
            if separated:
                where = apart[..., None, None, None]
                clips |= {name: torch.where(where, separated[name], clips[name]) for name in separated}
                copy = torch.where(where, 0, copy)
            solved = apart if separated else None
            clips = solve_composition(clips, copy, hidden_states, timestep, layout, self.fill, solved)
        else:
            clips = separated | {BLENDED: layout.unpack(hidden_states)[BLENDED].float()}

        sample = layout.pack(
            {name: clip.expand(-1, -1, self.config.in_channels, -1, -1) for name, clip in clips.items()}
        )
        return CompactTransformer3DOutput(sample) if return_dict else (sample,)

    def draw(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        text: tuple[Tensor, Tensor],
        means: Tensor,
        frame_code: Tensor,
        layout: Layout,
        sketched: tuple[Tensor, list[Tensor]],
        hints: Tensor | None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Draw all clips with the diffusion transformer.

        Args:
            hidden_states, timestep, layout, hints: as for `forward`.
            text: text states and their mask.
            means: (B, L, R) mean whitened text states.
            frame_code: (B, F, 64) encoded frame positions.
            sketched: scene and objects, from `Sketch`.

        Returns:
            Clips (B, F, C, H, W) by name, alpha with one channel, and the planes of `copy_planes`, (B, F, 3 + A, H, W).
        """
        pooled, level = pool_noise(hidden_states, timestep, layout, self.config.noise_pooling)
        cond, states, text_mask = self.condition(level, *text, means, layout)
        cond, conv_cond = self.condition_frames(cond, means, frame_code, layout)  # (B, K, F, E), (N, E)
        scene, sprites = sketched  # (N, 7, 16, 16), A times (N, 4, 64, 64) or as large as frames
        folded = fold(pooled, layout, self.foregrounds, self.config.patch_size)  # A times (N, planes*p*p, H/p, W/p)
        x = self.enter(folded, hints)
        x, skips = self.encode(x, scene, sprites, conv_cond, frame_code.shape[1])  # (N, K*D, h, w)
        x = self.transform(x, cond, states, text_mask, frame_code, len(layout.clips))  # (N, K*D, h, w)
        return self.decode(x, skips, scene, sprites, conv_cond, folded, len(hidden_states))

    def is_apart(self, given: Tensor, layout: Layout) -> Tensor:
        """Return at which frames the blended clip is given and a network takes it apart, (B, F) bool.

        Args:
            given: (B, K, F or 1) bool.
            layout: layout of the clips.
        """
        known = given[:, layout.clips.index(BLENDED)].expand(-1, layout.frames)
        return known if hasattr(self, "separation") else torch.zeros_like(known)

    def separate(
        self,
        clips: Mapping[str, Tensor],
        given: Mapping[str, Tensor],
        means: Tensor,
        frame_code: Tensor,
        hints: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Take a given video apart, see `Separation`.

        Args:
            clips: (B, F, C, H, W) in model space, by name; what is not given is not looked at.
            given: (B, F) bool by clip.
            means: (B, L, R) mean whitened text states.
            frame_code: (B, F, 64) encoded frame positions.
            hints: as for `forward`.

        Returns:
            Foregrounds, alphas with one channel and background by name; meaningless where no blended clip is given.
        """
        planes = self.separation(clips, given, means, frame_code, hints)
        # Where a matte hides the background altogether, no foreground depends on it: training needs nothing inpainted.
        fill = None if self.training else self.fill
        return solve_separation(*drawn_clips(planes, self.foregrounds), clips, given, fill)

    def video_tokens(self, layout: Layout, height: int, width: int) -> int:
        """See `Backbone`; tokens are counted behind the convolutional encoder."""
        return layout.length * (height // self.size_multiple) * (width // self.size_multiple)

    def fitted_parts(self) -> list[nn.Module]:
        """See `Backbone`: the sketch, which is fitted to scenes first, so that the other parts learn to rely on it."""
        return [self.sketch]

    def adapter_layers(self, names: Sequence[str]) -> list[str]:
        """See `Backbone`: nearly all layers, because convolutions carry motion and appearance."""
        return [name for name in names if not WITHOUT_ADAPTER.match(name)]

    def resized(self, changes: Mapping[str, Any]) -> Self:
        """See `Backbone`. Added blocks come last at their level and are identities until they are trained; a frame with
        larger patches is shrunk, processed and enlarged, until the network learns its details."""
        arguments = {name: value for name, value in self.config.items() if not name.startswith("_")}
        other = type(self)(**{**arguments, **changes})
        other.load_state_dict(grown(self, other, changes))
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

    def enter(self, folded: Sequence[Tensor], hints: Tensor | None) -> Tensor:
        """Return the first features (N, widths[0], H/p, W/p).

        Args:
            folded: from `fold`, for each foreground.
            hints: as for `forward`.
        """
        x = self.stem(folded[0])
        own = sum(CHANNELS[name] for name in OWN_CLIPS) * self.config.patch_size**2
        for place, further in enumerate(folded[1:], start=1):
            x = x + self.place_stem(share_of(self.stem, further[:, :own]), place)
        if hints is not None:
            for place, known in enumerate(hints.to(x.dtype).unbind(1)):
                hinted = self.hint_stem(fold_frames(known, self.config.patch_size))
                x = x + (self.place_stem(hinted, place) if place else hinted)
        return x

    def encode(
        self,
        x: Tensor,
        scene: Tensor,
        sprites: Sequence[Tensor],
        cond: Tensor,
        frames: int,
    ) -> tuple[Tensor, list[Tensor]]:
        """Encode features (N, widths[0], H/p, W/p) to (N, K*D, h, w), and return each level's features too."""
        for place, sprite in enumerate(sprites):
            read = self.object_readers[0](sprite, x.shape[-2:], cond)
            x = x + (self.place_stem(read, place) if place else read)
        skips = []
        for level, (blocks, shrink) in enumerate(zip(self.down, self.shrink, strict=True)):
            if level == self.scene_level:
                x = x + self.scene_readers[0](scene, x.shape[-2:], cond)
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, cond, frames)
            skips.append(x)
            if level < len(self.down) - 1:
                x = shrink(x)
        tokens = [self.shrink[-1](x)]
        own = tokens[0][:, : len(OWN_CLIPS) * self.config.dim]
        for place in range(1, len(sprites)):
            tokens += [self.place_tokens(clip, place) for clip in own.split(self.config.dim, dim=1)]
        return torch.cat(tokens, dim=1), skips

    def decode(
        self,
        x: Tensor,
        skips: Sequence[Tensor],
        scene: Tensor,
        sprites: Sequence[Tensor],
        cond: Tensor,
        folded: Sequence[Tensor],
        batch: int,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Decode (N, K*D, h, w) and the features of `encode` to drawn clips (B, F, C, H, W), alpha with one channel,
        and the planes of `copy_planes`, (B, F, 3 + A, H, W)."""
        frames = len(x) // batch
        own = len(OWN_CLIPS) * self.config.dim
        tokens, *others = x.split([len(CLIPS) * self.config.dim] + [own] * (len(sprites) - 1), dim=1)
        x = self.grow[-1](tokens)
        for place, further in enumerate(others, start=1):
            x = x + self.place_grow(share_of(self.grow[-1], further), place)
        for level in reversed(range(len(skips))):
            x = F.pixel_shuffle(x if level == len(skips) - 1 else self.grow[level](x), 2)
            gate = 1 + self.skip_gates[level](cond)[:, :, None, None]
            x = self.merge[level](torch.cat([x, skips[level] * gate], dim=1))
            x = x + self.places[level](place_code(x.shape[-2], x.shape[-1], PLACE_CODE, x.device).to(x.dtype))
            if level == self.scene_level:
                x = x + self.scene_readers[1](scene, x.shape[-2:], cond)
            if level > 0:
                for block in self.up[level]:  # type: ignore[attr-defined]
                    x = block(x, cond, frames)

        clips: dict[str, Tensor] = {}
        copies = []
        for place, (name, sprite, planes) in enumerate(zip(self.foregrounds, sprites, folded, strict=True)):
            own = x if place == 0 else self.place_decode(x, place)
            own = own + self.object_readers[1](sprite, own.shape[-2:], cond)
            for block in self.up[0]:  # type: ignore[attr-defined]
                own = block(own, cond, frames)
            own = self.modulate(own, planes, cond)  # (N, widths[0] + planes*p*p, H/p, W/p)
            drawn = unfold(self.head(own), batch, self.config.patch_size)
            if place:
                drawn = {name: drawn[FOREGROUND], ALPHA_OF[name]: drawn[ALPHA]}
            trust = F.pixel_shuffle(self.trust_head(own), self.config.patch_size).unflatten(0, (batch, frames))
            clips |= follow_sketch(drawn, sprite, trust, name)
            copy = F.pixel_shuffle(self.copy_head(own), self.config.patch_size).unflatten(0, (batch, frames))
            copies.append(copy if place == 0 else copy[:, :, BACKGROUND_PLANES:])
        return clips, torch.cat(copies, dim=2)

    def modulate(self, x: Tensor, folded: Tensor, cond: Tensor) -> Tensor:
        """Modulate decoded features (N, C, H/p, W/p) and append the folded input, scaled, as input of the heads."""
        scale, shift, keep = self.head_modulation(cond)[:, :, None, None].split(
            [x.shape[1], x.shape[1], folded.shape[1]], dim=1
        )
        x = F.silu(torch.addcmul(shift, self.head_norm(x), 1 + scale))
        return torch.cat([x, folded * (1 + keep)], dim=1)

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
