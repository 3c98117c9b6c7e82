"""The backbone protocol, by which one pipeline, planner and trainer serve every network.

Letters in shape comments: B batch, K clips, F frames of one clip, N latent frames of the whole sequence, L layers
(prompts), S text tokens, C latent channels, H height, W width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.hooks.layerwise_casting import DEFAULT_SKIP_MODULES_PATTERN
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from ..core.errors import UserError
from ..core.schema import foreground_count, prompt_layers
from .adapters import CheckedAdapterMixin
from .given import Clean
from .layout import Layout

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""Layers that get an adapter by default, as in official LayerFlow."""


@dataclass(frozen=True)
class Conventions:
    """Conventions of training and sampling of a family of weights."""

    steps: int
    """Default number of denoising steps."""
    guidance: float
    """Default guidance scale."""
    noise_scale: float = 1.0
    """Standard deviation of the noise that sampling starts from."""
    task_noise_scale: Mapping[str, float] = field(default_factory=dict)
    """Another noise scale for single tasks."""
    dynamic_guidance: bool = False
    """True if guidance varies by timestep, see `DynamicGuidance`."""
    joint_autoencoding: bool = False
    """True if the autoencoder sees all clips as one long video, as in official LayerFlow; else each clip separately."""
    attend_padding: bool = False
    """True if prompts are padded to one length and the padding is attended to, as CogVideoX was trained."""
    zero_unconditional: bool = False
    """True if the unconditional text state is all zeros; else it is the encoded empty prompt."""
    fewest_steps: int = 1
    """Least number of denoising steps that the scheduler takes."""
    batched_guidance: bool = False
    """True if conditional and unconditional prediction share a forward pass: faster where memory is no concern."""
    half_precision: bool = True
    """True if bfloat16 is the default number format on a GPU, for weights that fill much of its memory."""

    def noise_scale_of(self, task: str) -> float:
        """Return the standard deviation of the noise that a task starts from."""
        return self.task_noise_scale.get(task, self.noise_scale)


class Backbone(ModelMixin, ConfigMixin, CheckedAdapterMixin, CacheMixin):
    """Base class of layered-video transformers: a diffusers model with layers as input and output.

    A subclass sets `prediction_type` and `conventions` and implements `forward` and `size_multiple`; its configuration
    has `clips`, `sample_size`, `sample_frames`, `in_channels` and, where its prompts have prefixes or one length,
    `prompt_prefixes` and `text_length`. Other methods have defaults for networks that attend over patches of latents.
    """

    prediction_type: ClassVar[str]
    """Target of `forward`: "sample" (the clean sequence), "flow" (noise - clean) or "v_prediction"."""
    conventions: ClassVar[Conventions]
    """Conventions of training and sampling."""
    memory_format: ClassVar[torch.memory_format] = torch.contiguous_format
    """Memory format in which the network computes fastest."""

    @property
    def size_multiple(self) -> int:
        """Number that height and width of a clip in latents must divide by."""
        raise NotImplementedError

    @property
    def needs_all_clips(self) -> bool:
        """True if a layout must have all clips of the configuration; foregrounds that a scene lacks are then given as
        transparent ones, instead of left out."""
        return False

    @property
    def takes_hints(self) -> bool:
        """True if `forward` takes `hints`: (B, A, F, 2, H, W), for each of A mattes the known values in [-1, 1], 0
        elsewhere, and 1 where they are known."""
        return False

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        layout: Layout,
        frame_positions: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Predict from a sequence in which given frames are clean and generated frames are noised.

        Args:
            hidden_states: (B, N, C, H, W) packed latents.
            timestep: (B, K, F) noise level of each clip and frame in [0, 1], 0 where it is given; (B, K, 1) where all
                frames of a clip share one. In float32, for bfloat16 rounds it.
            encoder_hidden_states: (B, L, S, D) text states of each layer's prompt, in the order of `prompt_layers`.
            encoder_attention_mask: (B, L, S) bool, True at words.
            layout: positions of the clips in the sequence, in latent frames.
            frame_positions: (B, F) position of each latent frame in its clip; 0..F-1 by default. With others, a still
                can have any position in a clip.
            return_dict: return an output object instead of a tuple.

        Returns:
            An output whose `sample` (B, N, C, H, W) is of kind `prediction_type`.

        Raises:
            ValueError: the model does not take this layout or size.
        """
        raise NotImplementedError

    def video_tokens(self, layout: Layout, height: int, width: int) -> int:
        """Return how many tokens a sequence of latents of a height and width has."""
        size = self.config.patch_size
        patch = size if isinstance(size, int) else size[-1]
        return layout.length // (self.config.get("patch_size_t") or 1) * (height // patch) * (width // patch)

    def sampling_inputs(
        self,
        batch: int,
        generator: torch.Generator | list[torch.Generator] | None = None,
        device: torch.device | None = None,
        clean: Clean | None = None,
        layout: Layout | None = None,
        hints: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the further inputs of `forward` that stay the same over all steps of a sampling run.

        Args:
            batch: number of samples B, the first dimension of each tensor.
            generator: source of randomness; one for all samples, or one for each.
            device: device of the tensors; the network's own by default, where weights may be offloaded from another.
            clean: what is given; nothing if None.
            layout: layout of the sequence.
            hints: (B, A, F, 2, H, W), where the network takes them and there are some.

        Returns:
            Tensors by argument name; none by default.
        """
        return {}

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
        """Return the counterpart of `sampling_inputs` in training, where clean clips show what sampling draws.

        Args:
            sequence: (B, N, C, H, W) clean sequence.
            layout: positions of the clips in it.
            given: (B, K, F or 1) bool, True for given frames.
            text, mask, frame_positions: as for `forward`.
            generators: source of randomness of each sample.

        Returns:
            Tensors by argument name; none by default.
        """
        return {}

    def refine(self, sequence: Tensor, given: Tensor, layout: Layout) -> Tensor:
        """Return a generated sequence (B, N, C, H, W), corrected where its clips determine each other.

        Args:
            sequence: the sequence after the last denoising step.
            given: (B, K, F or 1) bool, True for given frames.
            layout: positions of the clips in the sequence.
        """
        return sequence

    def fitted_parts(self) -> list[nn.Module]:
        """Return the parts that are fitted before training and by default frozen in it."""
        return []

    def adapter_layers(self, names: Sequence[str]) -> list[str]:
        """Return which of the network's linear and convolutional layers get an adapter by default."""
        return [name for name in names if any(ends_with(name, target) for target in ATTENTION)]

    def resized(self, changes: Mapping[str, Any]) -> Self:
        """Return a copy with entries of the configuration changed, and with the weights that still fit.

        Args:
            changes: entries of the configuration.

        Raises:
            UserError: this network cannot be resized, or its weights do not fit the new configuration.
        """
        raise UserError(f"a {type(self).__name__} cannot be resized; leave its configuration as it is")


class Upscaler(ModelMixin, ConfigMixin):
    """Base class of a pipeline's `upscaler`, which enlarges all clips together."""

    memory_format: ClassVar[torch.memory_format] = torch.contiguous_format
    """Memory format in which the network computes fastest."""

    @property
    def factors(self) -> list[int]:
        """Factors by which clips can be enlarged; 1 is among them."""
        raise NotImplementedError

    def upscale(
        self, clips: Mapping[str, Tensor], factor: int, given: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return clips (B, F, C, factor*H, factor*W) in model space by name, alpha with one channel.

        Args:
            clips: (B, F, 3, H, W) in model space by name.
            factor: one of `factors`.
            given: clips of the full size to keep, by name.
        """
        raise NotImplementedError


def ends_with(name: str, target: str) -> bool:
    """Return whether the last parts of a module's dotted name are `target`."""
    return name == target or name.endswith(f".{target}")


def is_delicate(model: Any, path: str) -> bool:
    """Return whether diffusers' layerwise casting leaves the layer at a path of a model in full precision."""
    own = (*(model._keep_in_fp32_modules or ()), *(model._skip_layerwise_casting_patterns or ()))
    return any(re.search(pattern, path) for pattern in (*DEFAULT_SKIP_MODULES_PATTERN, *own))


def prompt_prefixes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the text before the prompt of each layer; one for each prompt that the backbone takes."""
    return tuple(config.get("prompt_prefixes") or ("",) * len(prompt_layers(foreground_count(config["clips"]))))
