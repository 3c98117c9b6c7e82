"""Objective of training: from clips to a noised sequence, its target and its loss, by the network's prediction type.

Letters in shape comments: B batch, K clips, F frames of a clip, N latent frames of the sequence, C channels, H, W
pixels, h, w latents. A backbone without an autoencoder has pixels for latents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from ..core.schema import ALPHA_OF
from ..datasets.encoding import encode_sequence, encode_texts, place_weights
from ..models.layout import Layout
from ..pipeline import LayerFlowPipeline
from .batches import MOST_SAMPLES, Batch
from .recipe import StageRecipe


@dataclass
class Target:
    """A noised sequence, and the target of the network's prediction."""

    noised: Tensor
    """(B, N, C, h, w) input of the network; given clips are clean."""
    timestep: Tensor
    """(B, K, F or 1) noise level of each clip and frame, 0 for given ones."""
    prediction: Tensor
    """(B, N, C, h, w) target, of the network's prediction type."""
    clean: Tensor
    """(B, N, C, h, w) clean latents."""
    layout: Layout
    """Layout of the sequence, in latent frames."""
    weight: Tensor
    """(B, N, 1, h, w) loss weight of places."""
    level_weight: Tensor
    """(B,) loss weight of noise levels."""
    sign: float
    """Derivative of the prediction's target by the clean sequence at pure noise."""
    given: Tensor
    """(B, K, F or 1) bool."""
    interchangeable: Tensor
    """(B,) bool, True where the foregrounds may be predicted in any order."""


def encode_clips(pipeline: LayerFlowPipeline, batch: Batch) -> tuple[Tensor, Layout]:
    """Return a batch's clips as latents (B, N, C, h, w), and their layout.

    Precomputed latents, and pixels where there is no autoencoder, are returned as they are.
    """
    if batch.latents is not None:
        return batch.sequence, batch.latents
    if pipeline.vae is None:
        return batch.sequence, batch.layout
    return encode_sequence(pipeline, batch.layout.unpack(batch.sequence))


def noise_of(batch: Batch, layout: Layout, latents: Tensor, seed: int) -> Tensor:
    """Draw noise (B, N, C, h, w); a sample's is the same in every process, on one kind of device."""
    rows = []
    for place in range(batch.first, batch.first + len(latents)):
        generator = torch.Generator(latents.device).manual_seed((seed * MOST_SAMPLES + place) % 2**63)
        rows.append(layout.noise(torch.empty_like(latents[:1], dtype=torch.float32), generator))
    return torch.cat(rows)


def make_target(
    pipeline: LayerFlowPipeline,
    batch: Batch,
    latents: Tensor,
    layout: Layout,
    t: Tensor,
    noise: Tensor,
    recipe: StageRecipe,
) -> Target:
    """Noise generated frames, keep given ones clean, and return the target for the network's prediction type.

    Args:
        pipeline: its transformer has the prediction type, its scheduler the levels of v-prediction.
        batch: its given frames and loss weights.
        latents, noise: (B, N, C, h, w).
        layout: their layout.
        t: (B,) noise levels in (0, 1].
        recipe: weights of the loss.

    Raises:
        ValueError: an unknown prediction type.
    """
    kind = pipeline.transformer.prediction_type
    weight = batch.weight if batch.latents else place_weights(batch.weight, layout, latents.shape[-2:])  # type: ignore[arg-type]
    level_weight, pure = torch.ones_like(t), t == 1
    if kind == "v_prediction":
        scheduler = pipeline.scheduler
        count = scheduler.config.num_train_timesteps
        steps = (t * count).round().long().clamp(1, count) - 1
        t = steps / count
        timestep = layout.timesteps(t, batch.given)
        noised = scheduler.add_noise(latents, noise, steps)
        prediction = scheduler.get_velocity(latents, noise, steps)
    elif kind in ("sample", "flow"):
        timestep = layout.timesteps(t, batch.given)
        level = t.view(-1, 1, 1, 1, 1)
        noised = (1 - level) * latents + level * noise
        prediction = latents if kind == "sample" else noise - latents
        if kind == "sample":  # the loss on velocity (arXiv 2511.13720), bounded
            level_weight = t.pow(-2).clamp(max=recipe.noise.max_weight)
    else:
        raise ValueError(f"prediction type {kind!r} is not known to training")
    noised = torch.where(layout.per_frame(batch.given), latents, noised)
    # Below pure noise, the noised clips show the order.
    free = torch.zeros_like(pure) if batch.interchangeable is None else batch.interchangeable & pure
    sign = 1.0 if kind == "sample" else -1.0
    return Target(noised, timestep, prediction, latents, layout, weight, level_weight, sign, batch.given, free)


def clip_errors(prediction: Tensor, target: Target) -> Tensor:
    """Return the weighted mean squared error of a prediction (B, N, C, h, w) over the generated frames of each sample
    and clip, (B, K); 0 where there are none. Interchangeable foregrounds count in the order that fits best."""
    errors = _errors_to(target.prediction, prediction, target)
    if not bool(target.interchangeable.any()):
        return errors
    least = errors.sum(1)
    for permuted in permutations_of(target):
        others = _errors_to(permuted, prediction, target)
        better = target.interchangeable & (others.sum(1) < least)
        errors, least = torch.where(better[:, None], others, errors), torch.where(better, others.sum(1), least)
    return errors


def permutations_of(target: Target) -> Iterator[Tensor]:
    """Yield targets of the prediction at pure noise with the foregrounds in each other order.

    The noise stays in its place, and what is predicted of it; the clean clips change places.
    """
    clips, clean = target.layout.unpack(target.prediction), target.layout.unpack(target.clean)
    own = [colour for colour in ALPHA_OF if colour in clips]
    for order in list(permutations(own))[1:]:
        changed = dict(clips)
        for place, source in zip(own, order, strict=True):
            for to, of in ((place, source), (ALPHA_OF[place], ALPHA_OF[source])):
                changed[to] = clips[to] + target.sign * (clean[of] - clean[to])
        yield target.layout.pack(changed)


def _errors_to(wanted: Tensor, prediction: Tensor, target: Target) -> Tensor:
    """Return `clip_errors` to one target (B, N, C, h, w)."""
    layout = target.layout
    squared = (prediction.float() - wanted).square()
    weights = target.weight * ~layout.per_frame(target.given)
    errors = []
    for name in layout.clips:
        where = layout.clip_slice(name)
        weight = weights[:, where]
        mean = weight.mean((1, 2, 3, 4)).clamp(min=1e-12)
        errors.append((squared[:, where] * weight).mean((1, 2, 3, 4)) / mean)
    return torch.stack(errors, dim=1)


def loss_of(errors: Tensor, target: Target) -> Tensor:
    """Return the mean of errors (B, K) over clips, by the share of their frames that is generated, and over samples,
    weighted by noise level."""
    generated = (~target.given).to(errors.dtype).mean(2)
    return ((errors * generated).sum(1) / generated.sum(1) * target.level_weight).mean()


def encode_batch(pipeline: LayerFlowPipeline, batch: Batch) -> tuple[Tensor, Tensor]:
    """Encode a batch's prompts as states (B, L, S, D) and mask (B, L, S)."""
    if batch.text is not None and batch.text_mask is not None:
        states, mask = batch.text, batch.text_mask
    else:
        states, mask = encode_texts(pipeline, batch.prompts)
    if pipeline.transformer.conventions.zero_unconditional:
        uncond = torch.tensor([not any(sample) for sample in batch.prompts], device=states.device)
        states = states.masked_fill(uncond[:, None, None, None], 0)
    return states, mask
