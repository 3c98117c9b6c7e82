"""The official LayerFlow checkpoints: their eight configurations, and their tensors under diffusers' names.

Everything here works on dictionaries of tensors; `conversion.py` reads and writes files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, cat

from ...core.errors import UserError
from ...core.schema import CLIPS, LAYERS
from .transformer import CogVideoXLayerTransformer3DModel

TOKENS_PER_PROMPT = 226
LATENT_SIZE = (60, 90)
"""Height and width in latents of all released checkpoints: 480x720 pixels."""
CLIP_FRAMES = 4
"""Latent frames of a clip of 16 frames."""
NETWORK, AUTOENCODER = "model.diffusion_model.", "first_stage_model."
IGNORED = ("conditioner.", "denoiser.", "loss_fn.")
"""Parts of a checkpoint that are not converted: T5 comes from the base model, the others hold no weights."""
ADAPTERS = {"motion": ("A", "B"), "content": ("C", "D")}
"""Adapters, and the letters of their down and up matrices."""


class ConversionError(UserError):
    """A checkpoint that cannot be converted; the message names the tensor or the argument, and the way out."""


@dataclass(frozen=True)
class OfficialConfiguration:
    """Configuration of one of the eight official models (configs/cogvideox_2b_stage2_*.yaml)."""

    name: str
    """Official name: task and kind."""
    task: str
    """Task of the model, one of `TASKS`."""
    clips: tuple[str, ...]
    position_frames: int
    """Latent frames in the position table; RGB models have one more than they use."""
    given_frames: tuple[int, int] | None
    """First and one past the last latent frame that is given."""
    prompts: int = 3
    """Prompts in the sequence; 2 leave out that of the blended video."""
    lead_frames: int = 0
    """1 where the very first frame has a latent frame to itself before the clips."""
    layer_embedding: bool = False
    """True if the network has a layer embedding."""

    @property
    def frames(self) -> int:
        """Latent frames of the sequence."""
        return self.lead_frames + CLIP_FRAMES * len(self.clips)

    def table_rows(self, latent_size: tuple[int, int], patch_size: int = 2) -> int:
        """Return the rows of the position table for latents of a height and width."""
        tokens = (latent_size[0] // patch_size) * (latent_size[1] // patch_size)
        return self.prompts * TOKENS_PER_PROMPT + self.position_frames * tokens


RGBA, RGB = CLIPS, LAYERS  # without alpha, each layer is one clip of its name
CONFIGURATIONS = (
    OfficialConfiguration("gen_rgba", "generate", RGBA, 16, None, layer_embedding=True),
    OfficialConfiguration("seg_rgba", "decompose", RGBA, 16, (12, 16), prompts=2),
    OfficialConfiguration("fg2bg_rgba", "add-background", RGBA, 17, (0, 9), lead_frames=1, layer_embedding=True),
    OfficialConfiguration("bg2fg_rgba", "add-foreground", RGBA, 17, (9, 13), lead_frames=1, layer_embedding=True),
    OfficialConfiguration("gen_rgb", "generate", RGB, 13, None),
    # Official code gives only the last two latent frames of the blended clip here, in training too.
    OfficialConfiguration("seg_rgb", "decompose", RGB, 13, (10, 12), prompts=2),
    OfficialConfiguration("fg2bg_rgb", "add-background", RGB, 13, (0, 4)),
    OfficialConfiguration("bg2fg_rgb", "add-foreground", RGB, 13, (4, 8)),
)


def detect_configuration(
    network: Mapping[str, Tensor], task: str | None = None, latent_size: tuple[int, int] = LATENT_SIZE
) -> OfficialConfiguration:
    """Return the official configuration of a network, from its position table and layer embedding.

    Args:
        network: tensors under official names without `model.diffusion_model.`.
        task: one of `TASKS`; required where the tensors fit several, else only checked.
        latent_size: height and width in latents.

    Raises:
        ConversionError: no configuration fits, several do, or the task and the tensors differ.
    """
    rows = _shape(network, "mixins.pos_embed.pos_embedding", 3)[1]
    embedded = any(key.startswith("mixins.pos_embed.txt_embedder.") for key in network)
    fitting = [one for one in CONFIGURATIONS if one.table_rows(latent_size) == rows and one.layer_embedding == embedded]
    traits = f"a position table of {rows} rows and {'a' if embedded else 'no'} layer embedding"
    if not fitting:
        known = ", ".join(f"{one.name} {one.table_rows(latent_size)}" for one in CONFIGURATIONS)
        raise ConversionError(
            f"the checkpoint has {traits}, which is no official model at {latent_size[1] * 8}x{latent_size[0] * 8} "
            f"pixels; their tables have these rows: {known}; if it was trained at another size, set `size`"
        )
    tasks = " or ".join(one.task for one in fitting)
    chosen = [one for one in fitting if task in (None, one.task)]
    if not chosen:
        raise ConversionError(f"the checkpoint has {traits}: it is a model for {tasks}, not for {task}; change `task`")
    if len(chosen) > 1:
        raise ConversionError(f"the checkpoint has {traits}, which {tasks} share; choose one of them with `task`")
    return chosen[0]


@dataclass(frozen=True)
class Move:
    """One official tensor, and the tensors that get its rows."""

    source: str
    """Official name."""
    targets: tuple[str, ...]
    """Names in diffusers."""
    pieces: tuple[tuple[int, ...], ...] = ((0,),)
    """Indices of the source's equal pieces of rows for each target, in order."""

    def apply(self, tensors: dict[str, Tensor], shapes: Mapping[str, Iterable[int]]) -> Iterator[tuple[str, Tensor]]:
        """Remove the source from `tensors` and yield (target, tensor) pairs; `shapes` are those of the targets.

        Raises:
            ConversionError: the source is missing or of another shape.
        """
        parts = [tuple(shapes[name]) for name in self.targets]
        expected = (sum(part[0] for part in parts), *parts[0][1:])
        if _shape(tensors, self.source) != expected:
            raise ConversionError(
                f"tensor {self.source} has shape {tuple(tensors[self.source].shape)}, this model needs {expected}"
            )
        source = tensors.pop(self.source)
        if len(self.targets) == 1:
            yield self.targets[0], source
            return
        chunks = source.chunk(sum(map(len, self.pieces)))
        for target, pieces in zip(self.targets, self.pieces, strict=True):
            yield target, cat([chunks[i] for i in pieces])


QKV = ("to_q", "to_k", "to_v")


def network_moves(blocks: int, original: bool, layer_embedding: bool) -> Iterator[Move]:
    """Yield the moves of the network's tensors; `original` where built-in LoRA renames the layers that it wraps."""
    pairs = {
        "mixins.patch_embed.proj": "patch_embed.proj",
        "mixins.patch_embed.text_proj": "patch_embed.text_proj",
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "transformer.final_layernorm": "norm_final",
        "mixins.final_layer.adaLN_modulation.1": "norm_out.linear",
        "mixins.final_layer.norm_final": "norm_out.norm",
        "mixins.final_layer.linear": "proj_out",
    }
    if layer_embedding:
        pairs["mixins.pos_embed.txt_embedder.0"] = "patch_embed.layer_embedding.linear"
        pairs["mixins.pos_embed.txt_embedder.1"] = "patch_embed.layer_embedding.norm"
    wrapped = ".original" if original else ""
    for n in range(blocks):
        layer, block = f"transformer.layers.{n}", f"transformer_blocks.{n}"
        pairs |= {
            f"{layer}.input_layernorm": f"{block}.norm1.norm",
            f"{layer}.post_attention_layernorm": f"{block}.norm2.norm",
            f"{layer}.attention.dense{wrapped}": f"{block}.attn1.to_out.0",
            f"mixins.adaln_layer.query_layernorm_list.{n}": f"{block}.attn1.norm_q",
            f"mixins.adaln_layer.key_layernorm_list.{n}": f"{block}.attn1.norm_k",
            f"{layer}.mlp.dense_h_to_4h": f"{block}.ff.net.0.proj",
            f"{layer}.mlp.dense_4h_to_h": f"{block}.ff.net.2",
        }
    yield Move("mixins.pos_embed.pos_embedding", ("patch_embed.pos_embedding",))
    for kind in ("weight", "bias"):
        for source, target in pairs.items():
            yield Move(f"{source}.{kind}", (f"{target}.{kind}",))
        for n in range(blocks):
            block = f"transformer_blocks.{n}"
            yield Move(
                f"transformer.layers.{n}.attention.query_key_value{wrapped}.{kind}",
                tuple(f"{block}.attn1.{name}.{kind}" for name in QKV),
                ((0,), (1,), (2,)),
            )
            # Official order: shift, scale and gate of attention and of MLP for video, then for text.
            yield Move(
                f"mixins.adaln_layer.adaLN_modulations.{n}.1.{kind}",
                (f"{block}.norm1.linear.{kind}", f"{block}.norm2.linear.{kind}"),
                ((0, 1, 2, 6, 7, 8), (3, 4, 5, 9, 10, 11)),
            )


def adapter_moves(blocks: int, letters: tuple[str, str]) -> Iterator[Move]:
    """Yield the moves of one built-in LoRA's tensors to PEFT's names."""
    for n in range(blocks):
        places = [(f"query_key_value.matrix_{{}}.{i}", name) for i, name in enumerate(QKV)]
        for place, name in [*places, ("dense.matrix_{}.0", "to_out.0")]:
            for letter, side in zip(letters, "AB", strict=True):
                source = f"transformer.layers.{n}.attention.{place.format(letter)}"
                yield Move(source, (f"transformer_blocks.{n}.attn1.{name}.lora_{side}.weight",))


def transformer_config(
    network: Mapping[str, Tensor], configuration: OfficialConfiguration, latent_size: tuple[int, int] = LATENT_SIZE
) -> dict[str, Any]:
    """Return the configuration of `CogVideoXLayerTransformer3DModel` for the shapes of a network."""
    width, channels, patch, _ = _shape(network, "mixins.patch_embed.proj.weight", 4)
    (head,) = _shape(network, "mixins.adaln_layer.query_layernorm_list.0.weight", 1)
    return {
        "clips": configuration.clips,
        "sample_size": latent_size,
        "sample_frames": CLIP_FRAMES,
        "lead_frames": configuration.lead_frames,
        "position_frames": configuration.position_frames,
        "learned_positions": True,
        "layer_embedding": configuration.layer_embedding,
        "prompt_prefixes": tuple(f"{i}, " for i in range(configuration.prompts)),
        "text_length": TOKENS_PER_PROMPT,
        "task": configuration.task,
        "given_frames": configuration.given_frames,
        "num_attention_heads": max(width // head, 1),
        "attention_head_dim": head,
        "in_channels": channels,
        "out_channels": _shape(network, "mixins.final_layer.linear.weight", 2)[0] // patch**2,
        "time_embed_dim": _shape(network, "time_embed.0.weight", 2)[0],
        "text_embed_dim": _shape(network, "mixins.patch_embed.text_proj.weight", 2)[1],
        "num_layers": _count(network, r"transformer\.layers\.(\d+)\."),
        "patch_size": patch,
    }


def convert_network(
    network: Mapping[str, Tensor], configuration: OfficialConfiguration, latent_size: tuple[int, int] = LATENT_SIZE
) -> tuple[CogVideoXLayerTransformer3DModel, dict[str, dict[str, Tensor]]]:
    """Convert an official network to our model and its LoRA adapters, if any, by name.

    With rank r and `lora_alpha` 1, an adapter adds `scale / r * up @ down`, as official code does.

    Raises:
        ConversionError: a tensor is missing, unexpected or misshapen.
    """
    from accelerate import init_empty_weights

    tensors = dict(network)
    config = transformer_config(network, configuration, latent_size)
    with init_empty_weights():
        model = CogVideoXLayerTransformer3DModel(**config)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    blocks, width = config["num_layers"], config["num_attention_heads"] * config["attention_head_dim"]
    original = any(".original." in name for name in network)
    moves = network_moves(blocks, original, configuration.layer_embedding)
    state = dict(pair for move in moves for pair in move.apply(tensors, shapes))

    adapters = {}
    for adapter, letters in ADAPTERS.items():
        first = f"transformer.layers.0.attention.query_key_value.matrix_{letters[0]}.0"
        if any(f".matrix_{letters[0]}." in name for name in network):
            rank = _shape(network, first, 2)[0]
            pairs: dict[str, Tensor] = {}
            for move in adapter_moves(blocks, letters):
                (target,) = move.targets
                shape = (rank, width) if "lora_A" in target else (width, rank)
                pairs |= move.apply(tensors, {target: shape})
            adapters[adapter] = pairs
    _check_empty(tensors, NETWORK)
    model.load_state_dict(state, assign=True)
    return model.eval(), adapters


AUTOENCODER_NAMES = (
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.up\.(\d+)\.block\.", r".up_blocks.\1.resnets."),
    (r"\.up\.(\d+)\.upsample\.", r".up_blocks.\1.upsamplers.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
)


def autoencoder_config(tensors: Mapping[str, Tensor], latent_size: tuple[int, int] = LATENT_SIZE) -> dict[str, Any]:
    """Return the configuration of `AutoencoderKLCogVideoX` for the shapes of the tensors."""
    levels = _count(tensors, r"encoder\.down\.(\d+)\.")
    return {
        "in_channels": _shape(tensors, "encoder.conv_in.conv.weight", 5)[1],
        "out_channels": _shape(tensors, "decoder.conv_out.conv.weight", 5)[0],
        "down_block_types": ("CogVideoXDownBlock3D",) * levels,
        "up_block_types": ("CogVideoXUpBlock3D",) * levels,
        "block_out_channels": tuple(
            _shape(tensors, f"encoder.down.{level}.block.0.conv1.conv.weight", 5)[0] for level in range(levels)
        ),
        "latent_channels": _shape(tensors, "decoder.conv_in.conv.weight", 5)[1],
        "layers_per_block": _count(tensors, r"encoder\.down\.0\.block\.(\d+)\."),
        "sample_height": latent_size[0] * 8,
        "sample_width": latent_size[1] * 8,
    }


def convert_autoencoder(tensors: Mapping[str, Tensor], latent_size: tuple[int, int] = LATENT_SIZE) -> Any:
    """Convert the official video autoencoder to diffusers' `AutoencoderKLCogVideoX`.

    Args:
        tensors: under official names without `first_stage_model.`; those of its training loss are left out.
        latent_size: height and width in latents, for the defaults of tiling.

    Raises:
        ConversionError: a tensor is missing, unexpected or misshapen.
    """
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKLCogVideoX

    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith("loss.")}
    config = autoencoder_config(rest, latent_size)
    levels = len(config["block_out_channels"])
    with init_empty_weights():
        model = AutoencoderKLCogVideoX(**config)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    sources = {_autoencoder_name(name, levels): name for name in rest}
    missing = [name for name in shapes if name not in sources]
    if missing:
        raise ConversionError(f"the autoencoder has no tensor for {missing[0]} (diffusers' name)")
    moves = (Move(sources[name], (name,)) for name in shapes)
    state = dict(pair for move in moves for pair in move.apply(rest, shapes))
    _check_empty(rest, AUTOENCODER)
    model.load_state_dict(state, assign=True)
    return model.eval()


def _autoencoder_name(name: str, levels: int) -> str:
    """Convert a name; the official decoder counts its levels from fine to coarse, diffusers from coarse to fine."""
    for pattern, replacement in AUTOENCODER_NAMES:
        name = re.sub(pattern, replacement, name)
    return re.sub(r"(up_blocks\.)(\d+)", lambda match: f"{match[1]}{levels - 1 - int(match[2])}", name)


def _shape(tensors: Mapping[str, Tensor], name: str, dimensions: int | None = None) -> tuple[int, ...]:
    if name not in tensors:
        raise ConversionError(f"tensor {name} is missing from the checkpoint")
    shape = tuple(tensors[name].shape)
    if dimensions is not None and (len(shape) != dimensions or 0 in shape):
        raise ConversionError(f"tensor {name} has shape {shape}, which should have {dimensions} dimensions, none empty")
    return shape


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """Return the number of numbered parts, from the largest number in the names."""
    return max((int(match[1]) + 1 for name in tensors if (match := re.match(pattern, name))), default=0)


def _check_empty(tensors: Mapping[str, Tensor], part: str) -> None:
    if tensors:
        names = sorted(tensors)
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise ConversionError(f"unexpected tensor {part}{names[0]}{more}: this is not an official LayerFlow model")
