"""What every backbone states of itself beside its network, so that one pipeline serves them all.

A backbone is a diffusers model with `forward(hidden_states, timestep, encoder_hidden_states, encoder_attention_mask,
layout, frame_positions)` as `CompactTransformer3DModel` documents it, a `prediction_type`, a `size_multiple`, and the
conventions below.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diffusers.hooks.layerwise_casting import DEFAULT_SKIP_MODULES_PATTERN

from ..core.schema import LAYERS


@dataclass(frozen=True)
class Conventions:
    """How a family of weights was trained and is sampled."""

    steps: int
    """Denoising steps that do."""
    guidance: float
    """Strength of guidance that does."""
    noise_scale: float = 1.0
    """Standard deviation of the noise that sampling starts from."""
    task_noise_scale: Mapping[str, float] = field(default_factory=dict)
    """Another one for single tasks."""
    dynamic_guidance: bool = False
    """Guidance varies by timestep, see `DynamicGuidance`."""
    joint_autoencoding: bool = False
    """The autoencoder sees all clips as one long video, as in official LayerFlow; else each clip on its own."""
    attend_padding: bool = False
    """Prompts are padded to one length and the padding is attended to, as CogVideoX was trained."""
    zero_unconditional: bool = False
    """No prompt is a text state of all zeros; else it is the empty prompt, encoded."""
    fewest_steps: int = 1
    """Denoising steps that the scheduler wants at least."""
    batched_guidance: bool = False
    """Conditional and unconditional prediction are one forward: faster where memory is no concern."""

    def noise_scale_of(self, task: str) -> float:
        """Standard deviation of the noise that a task starts from."""
        return self.task_noise_scale.get(task, self.noise_scale)


def is_delicate(model: Any, path: str) -> bool:
    """Whether diffusers' layerwise casting leaves the layer at a path of a model in full precision."""
    own = (*(model._keep_in_fp32_modules or ()), *(model._skip_layerwise_casting_patterns or ()))
    return any(re.search(pattern, path) for pattern in (*DEFAULT_SKIP_MODULES_PATTERN, *own))


def prompt_prefixes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What stands before the prompt of each layer; as many as the backbone takes prompts."""
    return tuple(config.get("prompt_prefixes") or ("",) * len(LAYERS))
