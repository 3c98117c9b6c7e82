"""Layers on CogVideoX (arXiv 2408.06072): 2B, 5B and 1.5; the official LayerFlow models (arXiv 2506.04228) are 2B.

The network is CogVideoX's, built from diffusers' parts under their names. Its sequence is all prompts, then all clips:
one table of positions covers all of it, and a layer embedding distinguishes the prompts.

Letters in shape comments: B batch, K clips, N latent frames of the whole sequence, F of one clip, L prompts, S tokens
of a prompt, C latent channels, H, W height and width in latents, h, w in patches, D width.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, Self, cast

import torch
from accelerate import init_empty_weights
from diffusers import CogVideoXTransformer3DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import (
    TimestepEmbedding,
    Timesteps,
)
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import AdaLayerNorm
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXBlock
from torch import Tensor, nn

from ...core.schema import CLIPS, foreground_count, prompt_layers
from ..backbone import Backbone, Conventions
from ..layout import Layout, nearest_size
from .embeddings import LayerPatchEmbed, SequenceRotaryPosEmbed, sequence_positions

__all__ = ["CogVideoXLayerTransformer3DModel", "ModelMixin"]  # diffusers looks here for the base class

TRAIN_TIMESTEPS = 1000
"""Timestep of pure noise; CogVideoX counts noise levels from 0 to this."""
_PLAIN_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(CogVideoXTransformer3DModel.__init__).parameters.items()
    if parameter.default is not parameter.empty
}


class DispatchedAttnProcessor:
    """CogVideoX's joint attention of text and video through diffusers' dispatcher.

    Its default processor bypasses the dispatcher, and with it attention backends and context parallelism.
    """

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the attention outputs of video (B, V, D) and text (B, T, D), of the same shapes.

        `image_rotary_emb` are cosines and sines (B or 1, V, 1, D/heads) of the video's positions.
        """
        text_tokens = encoder_hidden_states.shape[1]
        x = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        query, key, value = (
            project(x).unflatten(-1, (attn.heads, -1))  # (B, T+V, heads, D/heads)
            for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        query, key = attn.norm_q(query), attn.norm_k(key)
        if image_rotary_emb is not None:
            query, key = (
                torch.cat([x[:, :text_tokens], rotate(x[:, text_tokens:], *image_rotary_emb)], dim=1)
                for x in (query, key)
            )
        x = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=attention_mask,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )
        linear, dropout = attn.to_out
        x = dropout(linear(x.flatten(2)))
        return x[:, text_tokens:], x[:, :text_tokens]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs of adjacent channels of x (B, V, heads, D/heads) by their positions' angles (arXiv 2104.09864)."""
    real, imaginary = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([-imaginary, real], dim=-1).flatten(-2)
    return (x.float() * cos + turned * sin).type_as(x)


class CogVideoXLayerTransformer3DModel(Backbone):
    """Layered-video diffusion transformer on CogVideoX-2B: the backbone interface on CogVideoX's network.

    The official LayerFlow models are of this class, see `official.py`. Predicts v, `alpha * noise - sigma * clean`
    (arXiv 2202.00512, appendix D).
    """

    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar = ["CogVideoXBlock", "LayerPatchEmbed"]
    _repeated_blocks: ClassVar = ["CogVideoXBlock"]
    _skip_layerwise_casting_patterns: ClassVar = ["patch_embed", "norm"]
    prediction_type = "v_prediction"
    conventions = Conventions(
        steps=50,
        guidance=6.0,
        dynamic_guidance=True,
        joint_autoencoding=True,
        attend_padding=True,
        zero_unconditional=True,
        fewest_steps=2,
    )

    @register_to_config
    def __init__(
        self,
        clips: tuple[str, ...] = CLIPS,
        sample_size: tuple[int, int] = (60, 90),
        sample_frames: int = 4,
        lead_frames: int = 0,
        position_frames: int | None = None,
        learned_positions: bool = True,
        layer_embedding: bool = True,
        prompt_prefixes: tuple[str, ...] = ("0, ", "1, ", "2, "),
        text_length: int = 226,
        task: str | None = None,
        given_frames: tuple[int, int] | None = None,
        timestep_per_clip: bool = False,
        rotary_positions: bool = False,
        patch_size_t: int | None = None,
        num_attention_heads: int = 30,
        attention_head_dim: int = 64,
        in_channels: int = 16,
        out_channels: int = 16,
        time_embed_dim: int = 512,
        text_embed_dim: int = 4096,
        num_layers: int = 30,
        patch_size: int = 2,
        patch_bias: bool = True,
        attention_bias: bool = True,
        norm_eps: float = 1e-5,
        norm_out_eps: float = 1e-6,
        spatial_interpolation_scale: float = 1.875,
        frame_masks: bool = False,
    ) -> None:
        """Create the network with random weights.

        Args:
            clips: clips of the layout, in order.
            sample_size, sample_frames: height and width, and frames of a clip, in latents; defaults of the pipeline.
            lead_frames: additional latent frames of the first clip; see `Layout.lead`.
            position_frames: latent frames in the position table; as many as the sequence has by default.
            learned_positions: whether the position table is part of the weights, which fixes the size; else it is the
                sine table, for video only and of any size.
            layer_embedding: whether to add `LayerNorm(Linear(i))` to the tokens of prompt i.
            prompt_prefixes: text before the prompt of each layer, in the order of `prompt_layers`; the sequence has one
                prompt for each prefix, so two leave out the prompt of `blended`. Those of further foregrounds are their
                numbers in that order, by default.
            text_length: tokens of a prompt, all of them attended to, padding too.
            task: the one task that the weights were trained for; None for any.
            given_frames: first and one past the last latent frame of the sequence that are given in `task`. In one
                official model these are only the end of a clip.
            timestep_per_clip: whether each clip has its own timestep; not implemented.
            rotary_positions: whether positions rotate queries and keys, as in CogVideoX-5B and 1.5, instead of being
                added.
            patch_size_t: latent frames of a patch, as in CogVideoX 1.5.
            frame_masks: whether training gave single frames of clips too; it changes messages, not results.
            num_attention_heads ... spatial_interpolation_scale: as in `CogVideoXTransformer3DModel`, under the same
                names; `norm_out_eps` is the last norm's, 1e-6 in official code and 1e-5 in diffusers.

        Raises:
            ValueError: `timestep_per_clip` is on, or the size does not divide into patches.
        """
        super().__init__()
        if timestep_per_clip:
            raise ValueError(
                "timestep_per_clip is not implemented for CogVideoX, whose blocks take one timestep for all tokens; "
                "leave it off"
            )
        if foreground_count(clips) > 1:
            further = range(len(prompt_prefixes), len(prompt_layers(foreground_count(clips))))
            prompt_prefixes = (*prompt_prefixes, *(f"{i}, " for i in further))
            self.register_to_config(prompt_prefixes=prompt_prefixes)
        if sample_size[0] % patch_size or sample_size[1] % patch_size:
            raise ValueError(f"sample_size {tuple(sample_size)} does not divide into patches of {patch_size}")
        height, width = sample_size
        dim = num_attention_heads * attention_head_dim
        self.patch_embed = LayerPatchEmbed(
            patch_size=patch_size,
            in_channels=in_channels,
            embed_dim=dim,
            text_embed_dim=text_embed_dim,
            bias=patch_bias,
            sample_size=(height, width),
            clip_frames=sample_frames,
            position_frames=position_frames or lead_frames + sample_frames * len(clips),
            prompts=len(prompt_prefixes),
            text_length=text_length,
            spatial_interpolation_scale=spatial_interpolation_scale,
            learned_positions=learned_positions,
            layer_embedding=layer_embedding,
            patch_size_t=patch_size_t,
            rotary_positions=rotary_positions,
        )
        self.rope = None
        if rotary_positions:
            self.rope = SequenceRotaryPosEmbed(attention_head_dim, patch_size, patch_size_t or 1, (height, width))
        self.time_proj = Timesteps(dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(dim, time_embed_dim, "silu")
        blocks = [
            CogVideoXBlock(
                dim=dim,
                num_attention_heads=num_attention_heads,
                attention_head_dim=attention_head_dim,
                time_embed_dim=time_embed_dim,
                attention_bias=attention_bias,
                norm_eps=norm_eps,
            )
            for _ in range(num_layers)
        ]
        for block in blocks:
            block.attn1.set_processor(DispatchedAttnProcessor())
        self.transformer_blocks = nn.ModuleList(blocks)
        self.norm_final = nn.LayerNorm(dim, norm_eps)
        self.norm_out = AdaLayerNorm(
            time_embed_dim, output_dim=2 * dim, norm_elementwise_affine=True, norm_eps=norm_out_eps, chunk_dim=1
        )
        self.proj_out = nn.Linear(dim, patch_size**2 * (patch_size_t or 1) * out_channels)
        self.gradient_checkpointing = False

    @staticmethod
    def config_from_plain(theirs: Mapping[str, Any]) -> dict[str, Any]:
        """Convert the configuration of a plain CogVideoX.

        Raises:
            ValueError: the model is not a text-to-video model.
        """
        theirs = {**_PLAIN_DEFAULTS, **theirs}
        if theirs["use_learned_positional_embeddings"] or theirs["ofs_embed_dim"]:
            raise ValueError(
                "layers need a CogVideoX text-to-video model, but this one also takes images; choose CogVideoX-2B, 5B "
                "or 1.5-5B"
            )
        shared = {
            name: theirs[name]
            for name in (
                "num_attention_heads",
                "attention_head_dim",
                "in_channels",
                "out_channels",
                "time_embed_dim",
                "text_embed_dim",
                "num_layers",
                "patch_size",
                "patch_size_t",
                "patch_bias",
                "attention_bias",
                "norm_eps",
                "spatial_interpolation_scale",
            )
        }
        return shared | {
            "norm_out_eps": theirs["norm_eps"],
            "text_length": theirs["max_text_seq_length"],
            "sample_size": (theirs["sample_height"], theirs["sample_width"]),
            "learned_positions": False,
            "rotary_positions": theirs["use_rotary_positional_embeddings"],
        }

    @classmethod
    def from_plain(cls, plain: CogVideoXTransformer3DModel, **config: Any) -> CogVideoXLayerTransformer3DModel:
        """Create a layered model from a plain CogVideoX, with a new layer embedding; the two share their weights.

        Args:
            plain: a text-to-video model.
            config: entries of the configuration other than the defaults.

        Raises:
            ValueError: the model is not a text-to-video model.
        """
        shared = cls.config_from_plain(plain.config)
        with init_empty_weights():
            model: CogVideoXLayerTransformer3DModel = cls.from_config({**shared, **config})
        model.load_state_dict(plain.state_dict(), strict=False, assign=True)
        model.reset_layers()
        model.train(plain.training)
        return model

    def reset_layers(self) -> None:
        """Reset the layer embedding, without any effect until it is trained."""
        if self.patch_embed.layer_embedding is not None:
            self.patch_embed.layer_embedding.reset(self.patch_embed.text_proj.weight)

    def resized(self, changes: Mapping[str, Any]) -> Self:
        """See `Backbone`: other clips, and another size or other frames where positions are not learnt.

        Learned positions are kept by clip; those of new clips start with the values of the sine table.
        """
        learned = self.config.learned_positions
        if not set(changes) <= ({"clips"} if learned else {"clips", "sample_size", "sample_frames"}):
            return super().resized(changes)
        arguments = {name: value for name, value in self.config.items() if not name.startswith("_")}
        with init_empty_weights():
            other = type(self).from_config({**arguments, "position_frames": None, **changes})
        weights = self.state_dict()
        if learned:
            weights["patch_embed.pos_embedding"] = self.patch_embed.grown(
                other.patch_embed, self.sample_layout, other.sample_layout
            )
        other.load_state_dict(weights, assign=True)
        return cast(Self, other.train(self.training))

    @property
    def sample_layout(self) -> Layout:
        """Layout of a sequence as it was trained."""
        return Layout(self.config.sample_frames, tuple(self.config.clips), self.config.lead_frames)

    @property
    def _cp_plan(self) -> dict[str, Any]:
        """Split of the sequence among processes in diffusers' context parallelism.

        Attention does not depend on the order of tokens, so every rank gets a part of the text and one of the video.
        """
        first = {
            name: ContextParallelInput(split_dim=1, expected_dims=3)
            for name in ("hidden_states", "encoder_hidden_states")
        }
        waves = {i: ContextParallelInput(split_dim=1, expected_dims=4, split_output=True) for i in (0, 1)}
        return {
            **({} if self.rope is None else {"rope": waves}),
            "transformer_blocks.0": first,
            "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
        }

    @property
    def size_multiple(self) -> int:
        """Number that height and width of a clip in latents must divide by."""
        return int(self.config.patch_size)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None,
        layout: Layout,
        frame_positions: Tensor | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict v, see `Backbone.forward`.

        Args:
            hidden_states: (B, N, C, H, W) packed latents, generated frames noised.
            timestep: (B, K, F or 1) noise level per clip and frame in [0, 1], a training timestep over 1000; the
                largest of a sample counts for all of its tokens. In float32, because bfloat16 rounds it.
            encoder_hidden_states: (B, L, S, text_dim) text states per layer, in the order of `prompt_layers`, of
                prompts padded to `text_length`; all zero for the unconditional prediction. Layers without a prefix in
                the configuration are ignored.
            encoder_attention_mask: ignored, because the official models attend to padding.
            layout: positions of the clips in the sequence, in latent frames.
            frame_positions: (B, F) integer position of each latent frame in its clip; default 0..F-1.

        Returns:
            `sample`, the predicted v, (B, N, C, H, W).

        Raises:
            ValueError: the model does not take the size of latents, text states or layout.
        """
        self.check_inputs(hidden_states, encoder_hidden_states, layout)
        temb = self.time_proj(timestep.float().amax(dim=(1, 2)) * TRAIN_TIMESTEPS).to(hidden_states.dtype)
        temb = self.time_embedding(temb)  # (B, time_embed_dim)
        text = encoder_hidden_states[:, : len(self.config.prompt_prefixes)]
        text, video = self.patch_embed(text, hidden_states, layout, frame_positions)
        p, p_t = self.config.patch_size, self.config.patch_size_t or 1
        rows, columns = hidden_states.shape[-2] // p, hidden_states.shape[-1] // p
        rotary = None
        if self.rope is not None:
            frames, places = sequence_positions(layout, frame_positions, self.config.sample_frames)
            places = places if places is None or p_t == 1 else places[:, ::p_t] // p_t
            rotary = self.rope(frames // p_t, places, rows, columns, video.device)
        for block in self.transformer_blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                video, text = self._gradient_checkpointing_func(block, video, text, temb, rotary)
            else:
                video, text = block(video, text, temb, rotary)
        video = self.proj_out(self.norm_out(self.norm_final(video), temb=temb))  # (B, N/p_t*h*w, C*p_t*p*p)

        video = video.unflatten(2, (-1, p_t, p, p)).unflatten(1, (-1, rows, columns))
        # (B, N/p_t, h, w, C, p_t, p, p) to (B, N/p_t, p_t, C, h, p, w, p), to pixels
        sample = video.permute(0, 1, 5, 4, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5).flatten(1, 2)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def check_inputs(self, latents: Tensor, text: Tensor, layout: Layout) -> None:
        """Raise ValueError for sizes that the model does not take."""
        if latents.shape[1] != layout.length:
            raise ValueError(f"the sequence has {latents.shape[1]} latent frames, the layout {layout.length}")
        height, width = latents.shape[-2:]
        p = self.config.patch_size
        if height % p or width % p:
            nearest = nearest_size((height, width), (p, p))
            raise ValueError(f"latents of {width}x{height} do not divide into patches of {p}; the nearest is {nearest}")
        p_t = self.config.patch_size_t or 1
        if layout.frames % p_t or layout.lead % p_t:
            raise ValueError(f"clips of {layout.frames} latent frames do not divide into patches of {p_t} of them")
        prompts, tokens = text.shape[1:3]
        needed = min(len(self.config.prompt_prefixes), len(prompt_layers(foreground_count(layout.clips))))
        if prompts < needed:
            raise ValueError(f"this model needs {needed} prompts, got {prompts}")
        if tokens != self.config.text_length:
            raise ValueError(
                f"prompts have {tokens} tokens, this model attends to exactly {self.config.text_length}: pad them to "
                "that length before they are encoded"
            )
