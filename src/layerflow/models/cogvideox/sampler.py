"""The official sampler: stochastic DPM-Solver++ (2M) on a zero-SNR schedule, and guidance that varies by timestep.

Symbols: a = sqrt(alpha_cumprod) is the signal level, s = sqrt(1 - a^2) the noise level, lambda = ln(a / s).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import SchedulerMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor


def rescale_zero_terminal(signal: Tensor) -> Tensor:
    """Shift and stretch signal levels, from clean to noisy, to end at 0 (arXiv 2305.08891, algorithm 1)."""
    return (signal - signal[-1]) * (signal[0] / (signal[0] - signal[-1]))


@dataclass
class LayerFlowDPMSchedulerOutput(BaseOutput):
    """Result of a step."""

    prev_sample: Tensor
    """The sample at the next, lower noise level."""
    pred_original_sample: Tensor
    """The clean prediction of this step."""


class LayerFlowDPMScheduler(SchedulerMixin, ConfigMixin):
    """SDE-DPM-Solver++(2M) (arXiv 2211.01095, appendix) as the official LayerFlow and CogVideoX code runs it.

    Differs from diffusers' `CogVideoXDPMScheduler` in the levels: the schedule is rescaled to end in pure noise over
    the selected steps, while predictions are turned into clean samples with the nearest level of the rescaled table of
    all training timesteps.
    """

    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.0120,
        snr_shift_scale: float = 3.0,
        prediction_type: str = "v_prediction",
    ) -> None:
        """Create the schedule.

        Args:
            num_train_timesteps: timesteps of the training schedule.
            beta_start, beta_end: ends of the schedule, whose betas are squares of a linear ramp.
            snr_shift_scale: divides the signal-to-noise ratio of all levels (arXiv 2408.06072, section 2.3).
            prediction_type: kind of prediction that `step` gets, "v_prediction" or "sample".

        Raises:
            ValueError: the prediction type is neither.
        """
        if prediction_type not in ("v_prediction", "sample"):
            raise ValueError(f'prediction_type must be "v_prediction" or "sample", got {prediction_type!r}')
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps, dtype=torch.float64) ** 2
        alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        alphas_cumprod = alphas_cumprod / (snr_shift_scale + (1 - snr_shift_scale) * alphas_cumprod)
        self._signal = alphas_cumprod.sqrt()
        self.alphas_cumprod = rescale_zero_terminal(self._signal) ** 2
        self.timesteps = torch.arange(num_train_timesteps - 1, -1, -1)
        self.num_inference_steps: int | None = None
        self._step_index: int | None = None

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        """Set the timesteps of a run and go to its start.

        Raises:
            ValueError: fewer than two steps, or more than there are training timesteps.
        """
        train = self.config.num_train_timesteps
        if not 2 <= num_inference_steps <= train:
            raise ValueError(f"num_inference_steps must be from 2 to {train}, got {num_inference_steps}")
        timesteps = torch.from_numpy(np.linspace(train - 1, 0, num_inference_steps, endpoint=False).astype(np.int64))
        levels = rescale_zero_terminal(self._signal[timesteps.flip(0)]).flip(0)
        self.sampler_alphas = torch.cat([levels, levels.new_ones(1)])  # from pure noise, 0, to clean, 1
        table = self.alphas_cumprod.sqrt()
        self.denoiser_alphas = table[(table - levels[:, None]).abs().argmin(dim=1)]
        self.timesteps = timesteps.to(device)
        self.num_inference_steps = num_inference_steps
        self._step_index = None
        self._previous_clean: Tensor | None = None

    def scale_model_input(self, sample: Tensor, timestep: Tensor | int | None = None) -> Tensor:
        """Return the sample itself: the network takes it unscaled."""
        return sample

    def index_for_timestep(self, timestep: Tensor | int) -> int:
        """Return the step of a timestep in this run. Raises ValueError if it is not one of the run's."""
        if self.num_inference_steps is None:
            raise ValueError("no timesteps are set; call set_timesteps() first")
        matches = (self.timesteps == timestep).nonzero()
        if not len(matches):
            raise ValueError(f"timestep {int(timestep)} is not one of this run's; take them from `timesteps`")
        return int(matches[0])

    def convert_model_output(self, model_output: Tensor, timestep: Tensor | int, sample: Tensor) -> Tensor:
        """Return the clean prediction `a * sample - s * v`, in float32, for a network output of any shape."""
        if self.config.prediction_type == "sample":
            return model_output.float()
        signal = float(self.denoiser_alphas[self.index_for_timestep(timestep)])
        return signal * sample.float() - math.sqrt(1 - signal**2) * model_output.float()

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | int,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> LayerFlowDPMSchedulerOutput | tuple[Tensor, Tensor]:
        """Go from one noise level to the next (arXiv 2211.01095, equation of SDE-DPM-Solver++(2M)).

        Args:
            model_output: the guided prediction, of the sample's shape.
            timestep: one of `timesteps`, in order.
            sample: the noisy sample.
            generator: source of the step's noise.
            variance_noise: the step's noise, instead of drawing it.

        Returns:
            The next sample and the clean prediction, float32. The last step's are the same, without noise.
        """
        index = self.index_for_timestep(timestep)
        if self._step_index is not None and index != self._step_index + 1:
            self._previous_clean = None  # not the next step of the run: restart at first order
        clean = self.convert_model_output(model_output, timestep, sample)
        here, there = self.sampler_alphas[index], self.sampler_alphas[index + 1]
        if index + 1 == self.num_inference_steps:
            prev_sample = clean
        else:
            log_snr = (self.sampler_alphas.log() - (1 - self.sampler_alphas**2).sqrt().log()).tolist()
            h = log_snr[index + 1] - log_snr[index]  # infinite on the first step, where all is noise
            direction = clean
            if self._previous_clean is not None:
                ratio = (log_snr[index] - log_snr[index - 1]) / h
                direction = clean + (clean - self._previous_clean) / (2 * ratio)
            if variance_noise is None:
                variance_noise = randn_tensor(
                    sample.shape, generator=generator, device=sample.device, dtype=torch.float32
                )
            noise_scale = float((1 - there**2).sqrt())
            keep = noise_scale / float((1 - here**2).sqrt()) * math.exp(-h)
            fresh = -math.expm1(-2 * h)
            prev_sample = (
                keep * sample.float()
                + float(there) * fresh * direction
                + noise_scale * math.sqrt(fresh) * variance_noise
            )
        self._step_index, self._previous_clean = index, clean
        if not return_dict:
            return prev_sample, clean
        return LayerFlowDPMSchedulerOutput(prev_sample=prev_sample, pred_original_sample=clean)

    def _levels(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return signal and noise levels of training timesteps (B,), shaped to multiply `like` (B, ...)."""
        alphas_cumprod = self.alphas_cumprod.to(like.device)[timesteps.long()]
        alphas_cumprod = alphas_cumprod.view(-1, *[1] * (like.ndim - 1))
        return alphas_cumprod.sqrt().to(like.dtype), (1 - alphas_cumprod).sqrt().to(like.dtype)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return noised samples `a * original + s * noise` at training timesteps (B,)."""
        signal, noise_level = self._levels(timesteps, original_samples)
        return signal * original_samples + noise_level * noise

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the training target `v = a * noise - s * sample` at training timesteps (B,)."""
        signal, noise_level = self._levels(timesteps, sample)
        return signal * noise - noise_level * sample

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)


class DynamicGuidance(ClassifierFreeGuidance):
    """Classifier-free guidance whose scale depends on the timestep, as in official CogVideoX and LayerFlow sampling.

    The scale is `1 + guidance_scale * (1 - cos(pi * ((N - t) / N)^exponent)) / 2` with N steps and the *training*
    timestep t, so it leaves the range of a ramp and jumps between 1 and 1 + guidance_scale; models are used with that.
    """

    @register_to_config
    def __init__(
        self,
        guidance_scale: float = 6.0,
        exponent: float = 5.0,
        start: float = 0.0,
        stop: float = 1.0,
        enabled: bool = True,
    ) -> None:
        """Create the guider.

        Args:
            guidance_scale: largest value added to 1.
            exponent: power of the ramp.
            start, stop, enabled: as in `ClassifierFreeGuidance`.
        """
        super().__init__(guidance_scale=guidance_scale, start=start, stop=stop, enabled=enabled)
        self.max_scale, self.exponent = guidance_scale, exponent

    def set_state(self, step: int, num_inference_steps: int, timestep: Tensor | int) -> None:
        """Update the guider for a step, with the scale at its timestep."""
        super().set_state(step, num_inference_steps, timestep)
        self.guidance_scale = self.scale_at(int(timestep), num_inference_steps)

    def scale_at(self, timestep: int, num_inference_steps: int) -> float:
        """Return the scale at a training timestep."""
        ramp = ((num_inference_steps - timestep) / num_inference_steps) ** self.exponent
        return 1 + self.max_scale * (1 - math.cos(math.pi * ramp)) / 2
