"""Layers on Wan 2.1 and 2.2 text-to-video models (arXiv 2503.20314).

The network is diffusers' `WanTransformer3DModel`, part by part and weight by weight; only the shape of tokens
differs. It is (B, K, N, D), by clip: self-attention joins the clips, everything else works on each clip alone, so a
timestep per clip costs one modulation per clip and not one per token, and a slice of dimension N, which each rank gets
in context parallelism, has the same positions of every clip.

Letters in shape comments: B batch, K clips, F latent frames of one clip, L layers (prompts), S text tokens,
C latent channels, H height, W width in latents, h, w in patches, N = F*h*w tokens of one clip, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self, cast

import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from diffusers import WanTransformer3DModel
from diffusers.configuration_utils import register_to_config
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.loaders.lora_pipeline import WanLoraLoaderMixin
from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed, WanTransformerBlock
from torch import Tensor, nn

from ..core.errors import UserError
from ..core.schema import ALPHA_OF, CLIPS, FOREGROUND, foreground_count, prompt_layers
from .backbone import Backbone, Conventions
from .layout import Layout, nearest_size

__all__ = ["ModelMixin", "WanLayerTransformer3DModel"]  # diffusers looks here for the base class

TRAIN_TIMESTEPS = 1000
"""Timestep of pure noise; Wan counts noise levels from 0 to this."""


SIGNATURE = 0.02
"""Least standard deviation of what tells the embedding of a further foreground from the first's."""


def with_signature(row: Tensor, name: str) -> Tensor:
    """Return an embedding (D,) with noise that distinguishes a second foreground and further ones by name."""
    if foreground_count([name]) == 1:
        return row
    generator = torch.Generator().manual_seed(foreground_count([name]))
    noise = torch.randn(row.shape, generator=generator).to(row)
    return row + max(SIGNATURE, 0.1 * float(row.float().std())) * noise


def copied(rows: Mapping[str, Tensor], name: str) -> Tensor:
    """Return the embedding (D,) of a new layer or clip: a distinct copy of the first foreground's.

    Raises:
        UserError: the model has none to copy.
    """
    first = ALPHA_OF[FOREGROUND] if name in ALPHA_OF.values() else FOREGROUND
    if foreground_count([name]) == 1 or first not in rows:
        raise UserError(f"this model has no embedding to start {name!r} from; its clips are {', '.join(rows)}")
    return with_signature(rows[first], name)


class ClipRotaryPosEmbed(WanRotaryPosEmbed):
    """Rotary positions of one clip's tokens; clips are aligned in frame and pixel, so all of them share these."""

    def forward(self, frame_positions: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Convert integer frame positions (B or 1, F) to cosines and sines, each (B or 1, F, P, 1, D/heads)."""
        grid = (*frame_positions.shape, rows, columns)
        waves = []
        for table in (self.freqs_cos, self.freqs_sin):
            time, row, column = table.split([self.t_dim, self.h_dim, self.w_dim], dim=1)
            axes = [time[frame_positions][:, :, None, None], row[:rows, None], column[:columns]]
            waves.append(torch.cat([axis.expand(*grid, -1) for axis in axes], dim=-1).flatten(2, 3)[:, :, :, None])
        return waves[0], waves[1]


class WanLayerBlock(WanTransformerBlock):
    """Wan's block: full attention over all clips, attention of each clip to its layer's prompt, MLP."""

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, rotary_emb: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Return tokens (B, K, F, P, D) after the block.

        Args:
            hidden_states: (B, K, F, P, D) tokens.
            encoder_hidden_states: (B*K, S, D) text states of each clip's layer.
            temb: (B, K, F or 1, 6, D) modulation.
            rotary_emb: cosines and sines, each (B or 1, K*F*P, 1, D/heads).
        """
        x = hidden_states
        modulation = (self.scale_shift_table + temb.float()).unsqueeze(4)  # (B, K, F or 1, 6, 1, D)
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.unbind(3)  # in float32, as are norms and residuals
        h = torch.addcmul(shift1, self.norm1(x.float()), 1 + scale1).type_as(x)
        h = self.attn1(h.flatten(1, 3), None, None, rotary_emb).view_as(x)
        x = torch.addcmul(x.float(), h.float(), gate1).type_as(x)
        h = self.norm2(x.float()).type_as(x)
        x = x + self.attn2(h.flatten(2, 3).flatten(0, 1), encoder_hidden_states, None, None).view_as(x)
        h = torch.addcmul(shift2, self.norm3(x.float()), 1 + scale2).type_as(x)
        return torch.addcmul(x.float(), self.ffn(h).float(), gate2).type_as(x)


TransformerBlockRegistry.register(
    WanLayerBlock, TransformerBlockMetadata(return_hidden_states_index=0, return_encoder_hidden_states_index=None)
)


class WanLayerTransformer3DModel(Backbone, WanTransformer3DModel):
    """Layered-video diffusion transformer on Wan: the backbone interface on a Wan text-to-video network.

    Adds two embeddings to a plain Wan model: one distinguishes clips, one the prompts of layers. Both are zero until
    trained, but for those of a second foreground and further ones, which differ from the start. With one clip and one
    prompt it computes what `WanTransformer3DModel` computes. Predicts the velocity from clean latents to noise,
    `noise - clean`.
    """

    _no_split_modules: ClassVar = ["WanLayerBlock"]
    _repeated_blocks: ClassVar = ["WanLayerBlock"]
    _skip_layerwise_casting_patterns: ClassVar = [
        *WanTransformer3DModel._skip_layerwise_casting_patterns,
        "clip_embedding",
        "layer_embedding",
    ]
    _cp_plan: ClassVar = {
        "rope": {i: ContextParallelInput(split_dim=2, expected_dims=5, split_output=True) for i in (0, 1)},
        "blocks.0": {"hidden_states": ContextParallelInput(split_dim=3, expected_dims=5)},
        "proj_out": ContextParallelOutput(gather_dim=3, expected_dims=5),
    }
    lora_files: ClassVar[Any] = WanLoraLoaderMixin
    prediction_type = "flow"
    conventions = Conventions(50, 5.0)

    @register_to_config
    def __init__(
        self,
        clips: tuple[str, ...] = CLIPS,
        sample_size: tuple[int, int] = (60, 104),
        sample_frames: int = 5,
        text_length: int = 512,
        patch_size: tuple[int, ...] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 16,
        out_channels: int | None = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        qk_norm: str | None = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int | None = None,
        added_kv_proj_dim: int | None = None,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
        frame_masks: bool = False,
    ) -> None:
        """Create the network with random weights and zero embeddings.

        Args:
            clips: clips that the model was built for; a layout may use some of them, in any order.
            sample_size, sample_frames: height and width, and frames of a clip, in latents; defaults of the pipeline.
                Four clips of 5 frames are about as long as the one of 21 that Wan was trained on.
            text_length: prompts are padded to this many tokens with zero states, as Wan was trained.
            frame_masks: whether training gave single frames of clips too; it changes messages, not results.
            patch_size ... pos_embed_seq_len: as in `WanTransformer3DModel`, under the same names and defaults.

        Raises:
            ValueError: the configuration is not that of a text-to-video model.
        """
        if image_dim is not None or added_kv_proj_dim is not None or out_channels not in (None, in_channels):
            raise ValueError(
                "layers need a Wan text-to-video model, but this configuration also takes images "
                f"(image_dim {image_dim}, added_kv_proj_dim {added_kv_proj_dim}, in_channels {in_channels}, "
                f"out_channels {out_channels}); choose a T2V or TI2V-5B model"
            )
        if patch_size[0] != 1:
            raise ValueError(f"a patch must be one frame deep, so that frames have timesteps; got {patch_size}")
        super().__init__(
            patch_size=patch_size,
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels,
            text_dim=text_dim,
            freq_dim=freq_dim,
            ffn_dim=ffn_dim,
            num_layers=0,
            cross_attn_norm=cross_attn_norm,
            qk_norm=qk_norm,
            eps=eps,
            image_dim=image_dim,
            added_kv_proj_dim=added_kv_proj_dim,
            rope_max_seq_len=rope_max_seq_len,
            pos_embed_seq_len=pos_embed_seq_len,
        )
        self.register_to_config(num_layers=num_layers)  # the plain model has no blocks, they are created below
        width = num_attention_heads * attention_head_dim
        self.rope = ClipRotaryPosEmbed(attention_head_dim, patch_size, rope_max_seq_len)
        self.blocks = nn.ModuleList(
            WanLayerBlock(width, ffn_dim, num_attention_heads, qk_norm, cross_attn_norm, eps) for _ in range(num_layers)
        )
        self.clip_embedding = nn.Embedding(len(clips), width)
        self.layer_embedding = nn.Embedding(len(self.layers), width)
        self.reset_layers()

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers that have an embedding, in the order of prompts."""
        return prompt_layers(foreground_count(self.config.clips))

    def reset_layers(self) -> None:
        """Reset the embeddings to zero, without any effect until they are trained; those of a second foreground and
        further ones to distinct small values, for in the model's eyes nothing else tells them from the first."""
        like = self.patch_embedding.weight
        for embedding, names in ((self.clip_embedding, self.config.clips), (self.layer_embedding, self.layers)):
            zeros = torch.zeros_like(embedding.weight, device="cpu")
            rows = [with_signature(row, name) for row, name in zip(zeros, names, strict=True)]
            embedding.weight = nn.Parameter(torch.stack(rows).to(like))

    def resized(self, changes: Mapping[str, Any]) -> Self:
        """See `Backbone`: other clips, size, frames or length of prompts, by which only embeddings change.

        They are kept by name. A new foreground starts as a distinct copy of the first.
        """
        if not set(changes) <= {"clips", "sample_size", "sample_frames", "text_length"}:
            return super().resized(changes)
        arguments = {name: value for name, value in self.config.items() if not name.startswith("_")}
        with init_empty_weights():
            other = type(self).from_config({**arguments, **changes})
        known = self.state_dict()
        for name, old, new in (
            ("clip_embedding.weight", self.config.clips, other.config.clips),
            ("layer_embedding.weight", self.layers, other.layers),
        ):
            rows = dict(zip(old, known[name], strict=True))
            known[name] = torch.stack([rows[one] if one in rows else copied(rows, one) for one in new])
        other.load_state_dict(known, assign=True)
        return cast(Self, other.train(self.training))

    @staticmethod
    def config_from_plain(theirs: Mapping[str, Any]) -> dict[str, Any]:
        """Convert the configuration of a plain Wan model: the same entries, and defaults for those of layers."""
        config = {name: value for name, value in theirs.items() if not name.startswith("_")}
        if config.get("in_channels") == 48:  # Wan 2.2's 5B model: its autoencoder halves the sides once more
            config["sample_size"] = (44, 80)
        return config

    @classmethod
    def from_plain(cls, plain: WanTransformer3DModel, **config: Any) -> WanLayerTransformer3DModel:
        """Create a layered model from a plain Wan model, with new embeddings; the two share their weights.

        Args:
            plain: a text-to-video model.
            config: `clips`, `sample_size`, `sample_frames` or `text_length` other than the defaults.

        Raises:
            ValueError: the model is not a text-to-video model.
        """
        with init_empty_weights():
            model: WanLayerTransformer3DModel = cls.from_config({**cls.config_from_plain(plain.config), **config})
        model.load_state_dict(plain.state_dict(), strict=False, assign=True)
        model.reset_layers()
        model.train(plain.training)
        return model

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> WanLayerTransformer3DModel:
        """Load a model with layers, or a plain Wan transformer, which gets fresh embeddings; see `ModelMixin`."""
        model: WanLayerTransformer3DModel = super().from_pretrained(*args, **kwargs)
        if model.clip_embedding.weight.is_meta:  # not in the file
            model.reset_layers()
        return model

    @property
    def size_multiple(self) -> int:
        """Number that height and width of a clip in latents must divide by."""
        return int(max(self.config.patch_size[1:]))

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        layout: Layout,
        frame_positions: Tensor | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict the velocity, see `Backbone.forward`.

        Args:
            hidden_states: (B, K*F, C, H, W) packed latents, generated frames noised.
            timestep: (B, K, F or 1) noise level per clip and latent frame in [0, 1], 0 for given frames, as in Wan
                2.2's TI2V-5B; in float32, because bfloat16 rounds it.
            encoder_hidden_states: (B, L, S, text_dim) text states per layer, in the order of `prompt_layers`.
            encoder_attention_mask: (B, L, S) bool, True at words; states elsewhere count as zero.
            layout: positions of the clips in the sequence, in latent frames.
            frame_positions: (B, F) integer position of each latent frame in its clip; default 0..F-1.

        Returns:
            `sample`, the predicted velocity `noise - clean`, (B, K*F, C, H, W).

        Raises:
            ValueError: the model does not take this layout or size.
        """
        self.check_inputs(hidden_states, layout)
        b, k, f = hidden_states.shape[0], len(layout.clips), layout.frames
        _, patch_height, patch_width = self.config.patch_size
        rows, columns = hidden_states.shape[-2] // patch_height, hidden_states.shape[-1] // patch_width
        if frame_positions is None:
            frame_positions = torch.arange(f, device=hidden_states.device)[None]
        cos, sin = self.rope(frame_positions, rows, columns)
        cos, sin = (wave.flatten(1, 2).repeat(1, k, 1, 1) for wave in (cos, sin))  # each clip starts anew

        temb, modulation, text = self.condition(timestep, encoder_hidden_states, encoder_attention_mask, layout)
        x = hidden_states.unflatten(1, (k, f)).flatten(0, 1).transpose(1, 2)  # (B*K, C, F, H, W)
        x = self.patch_embedding(x).flatten(3).movedim(1, -1).unflatten(0, (b, k))  # (B, K, F, P, D)
        of_clip = torch.tensor([self.config.clips.index(name) for name in layout.clips], device=x.device)
        x = x + self.clip_embedding(of_clip)[:, None, None]
        for block in self.blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, x, text, modulation, (cos, sin))
            else:
                x = block(x, text, modulation, (cos, sin))

        modulation = self.scale_shift_table.to(temb.device) + temb[:, :, :, None].float()  # (B, K, F or 1, 2, D)
        shift, scale = modulation.to(x.device).chunk(2, dim=3)  # the last block may lie on another device
        x = self.proj_out(torch.addcmul(shift, self.norm_out(x.float()), 1 + scale).type_as(x))
        x = x.unflatten(-1, (patch_height, patch_width, -1)).unflatten(3, (rows, columns))
        x = x.permute(0, 1, 2, 7, 3, 5, 4, 6)  # (B, K, F, C, h, H/h, w, W/w)
        sample = x.flatten(6, 7).flatten(4, 5).flatten(1, 2)
        return Transformer2DModelOutput(sample) if return_dict else (sample,)

    def condition(self, timestep: Tensor, text: Tensor, mask: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        """Return time embedding (B, K, F or 1, D), modulation of blocks (B, K, F or 1, 6, D), and text states by clip
        (B*K, S, D)."""
        # Wan has no text mask: it was trained to attend to the zeros after a prompt.
        text = text.masked_fill(~mask.bool()[..., None], 0)
        text = F.pad(text, (0, 0, 0, max(self.config.text_length - text.shape[2], 0)))
        shape = timestep.shape[1:]
        levels = (timestep.float() * TRAIN_TIMESTEPS).flatten()
        temb, modulation, text, _ = self.condition_embedder(levels, text, timestep_seq_len=shape.numel())
        temb, modulation = temb.unflatten(1, shape), modulation.unflatten(1, shape)
        text = text + self.layer_embedding(torch.arange(text.shape[1], device=text.device))[:, None]  # (B, L, S, D)
        return temb, modulation.unflatten(3, (6, -1)), text[:, layout.layers].flatten(0, 1)

    def check_inputs(self, latents: Tensor, layout: Layout) -> None:
        """Raise ValueError for clips and sizes that the model does not take."""
        unknown = [name for name in layout.clips if name not in self.config.clips]
        if unknown:
            raise ValueError(f"this model has the clips {', '.join(self.config.clips)}, not {unknown[0]!r}")
        if layout.lead:
            raise ValueError(f"Wan encodes every clip separately, so lead must be 0; the layout has {layout.lead}")
        if latents.shape[1] != layout.length:
            raise ValueError(f"the sequence has {latents.shape[1]} latent frames, the layout {layout.length}")
        sides, patch = latents.shape[-2:], self.config.patch_size[1:]
        if any(side % step for side, step in zip(sides, patch, strict=True)):
            raise ValueError(
                f"latents of {sides[1]}x{sides[0]} do not divide into patches of {patch[1]}x{patch[0]}; "
                f"the nearest is {nearest_size(sides, patch)}"
            )
