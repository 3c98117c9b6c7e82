"""LayerFlowPipeline: prompts and given clips to a LayeredVideo.

Letters in shape comments: B batch, K clips, F frames of one clip, L layers, S text tokens, C, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.guiders import BaseGuidance, ClassifierFreeGuidance
from diffusers.utils import BaseOutput
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .layered_video import LayeredVideo
from .models.clips import from_model_space, to_model_space
from .models.compact import CompactTransformer3DModel
from .models.layout import LAYERS, TASKS, Layout
from .models.text import LayerTextEncoder, encode_prompts

DEFAULT_STEPS = 20
DEFAULT_GUIDANCE = 1.5
BUNDLED = ("mini",)
"""Models that come with the package."""

Prompt = str | Sequence[str] | None


class UnknownModelError(ValueError):
    """A model name that is neither bundled nor a folder nor a hub id."""


@dataclass
class LayerFlowPipelineOutput(BaseOutput):
    """What the pipeline returns."""

    videos: list[LayeredVideo] | dict[str, Tensor] | Tensor
    """One LayeredVideo per sample; with output_type "pt" clips (B, F, 3, H, W) in model space by name, with
    "latent" the packed sequence (B, K*F, C, H, W)."""

    @property
    def video(self) -> LayeredVideo:
        """The first sample's LayeredVideo."""
        if not isinstance(self.videos, list):
            raise ValueError('`.video` wants output_type="video"; tensors are in `.videos`')
        return self.videos[0]


def find_model(name: str | Path) -> str:
    """Folder of a bundled model or a local one, else the name itself where it looks like a hub id."""
    if str(name) in BUNDLED:
        return str(resources.files("layerflow") / "weights" / str(name))
    if Path(name).is_dir():
        if not (Path(name) / "model_index.json").exists():
            raise UnknownModelError(f"folder {name} is not a model: it has no model_index.json")
        return str(name)
    parts = str(name).split("/")
    if len(parts) == 2 and all(parts) and not str(name).startswith((".", "~")):
        return str(name)
    raise UnknownModelError(
        f"model {str(name)!r} is neither bundled ({', '.join(BUNDLED)}) nor a folder nor a hub id like owner/name"
    )


def blended_prompt(foreground: str, background: str) -> str:
    """The prompt of the blended layer written from the other two."""
    if not foreground or not background:
        return foreground or background
    return f"{foreground}, in front of {background}"


def task_of(given: LayeredVideo | None) -> str:
    """The name of the task that the given clips make; `complete` for a set without a name."""
    names = frozenset(given.clips()) if given is not None else frozenset()
    return next((task for task, clips in TASKS.items() if clips == names), "complete")


class LayerFlowPipeline(DiffusionPipeline):
    """Generates every layer that is not given, together, with one transformer (LayerFlow, arXiv 2506.04228)."""

    model_cpu_offload_seq = "text_encoder->transformer"
    _callback_tensor_inputs = ("latents",)

    tokenizer: PreTrainedTokenizerBase
    text_encoder: PreTrainedModel
    transformer: CompactTransformer3DModel
    scheduler: FlowMatchEulerDiscreteScheduler

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        text_encoder: LayerTextEncoder,
        transformer: CompactTransformer3DModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
    ) -> None:
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer, text_encoder=text_encoder, transformer=transformer, scheduler=scheduler
        )
        self._interrupt = False

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path = "mini", **kwargs: Any) -> LayerFlowPipeline:
        """Load a bundled model by name, a folder in diffusers layout, or a hub id.

        Raises:
            UnknownModelError: the name is none of these.
        """
        if "torch_dtype" not in kwargs:
            kwargs.setdefault("dtype", torch.float32)
        pipeline = super().from_pretrained(find_model(pretrained_model_name_or_path), **kwargs)
        pipeline.transformer.to(memory_format=torch.channels_last)
        return pipeline

    @staticmethod
    def load_transformer(name: str | Path) -> CompactTransformer3DModel:
        """Only the transformer of a model, in float32."""
        return CompactTransformer3DModel.from_pretrained(
            find_model(name), subfolder="transformer", dtype=torch.float32
        )

    @property
    def interrupt(self) -> bool:
        """Set to true, from a callback or another thread, to stop before the next step."""
        return self._interrupt

    @interrupt.setter
    def interrupt(self, value: bool) -> None:
        self._interrupt = value

    def encode_prompt(self, prompts: list[list[str]]) -> tuple[Tensor, Tensor]:
        """B x L prompts, each encoded on its own: states (B, L, S, D) and mask (B, L, S)."""
        flat = [prompt for sample in prompts for prompt in sample]
        states, mask = encode_prompts(self.tokenizer, self.text_encoder, flat)
        shape = (len(prompts), len(LAYERS), states.shape[1])
        return states.view(*shape, -1), mask.view(shape)

    @torch.no_grad()
    def __call__(
        self,
        foreground: Prompt = None,
        background: Prompt = None,
        blended: Prompt = None,
        *,
        given: LayeredVideo | Sequence[LayeredVideo] | None = None,
        negative_prompt: str = "",
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = DEFAULT_STEPS,
        guidance_scale: float = DEFAULT_GUIDANCE,
        guider: BaseGuidance | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        fps: float | None = None,
        output_type: str = "video",
        callback_on_step_end: Callable[[LayerFlowPipeline, int, Tensor, dict[str, Any]], dict[str, Any]] | None = None,
        return_dict: bool = True,
    ) -> LayerFlowPipelineOutput | tuple[Any]:
        """Generate the clips that are not given.

        Args:
            foreground, background, blended: a prompt per layer, or a list of them for a batch. A missing
                `blended` is written from the other two.
            given: clips to keep, for one sample or one per sample; they come back bit for bit.
            negative_prompt: what guidance leads away from, for all layers.
            num_frames, height, width: of the clips; those of `given`, else those the model was trained at.
            num_inference_steps: denoising steps.
            guidance_scale: strength of classifier-free guidance; 1 turns it off and halves the time.
            guider: a diffusers guider with conditional and unconditional prediction, instead of `guidance_scale`.
            generator: source of all randomness.
            fps: frame rate noted in the result.
            output_type: "video", "pt" or "latent"; see LayerFlowPipelineOutput.
            callback_on_step_end: called as (pipeline, step, timestep, {"latents": ...}) after each step; may
                return {"latents": ...} to go on with.

        Raises:
            ValueError: prompts, given clips or sizes that don't fit together; says which.
        """
        # 1. Check
        videos = [given] if isinstance(given, LayeredVideo) else list(given) if given is not None else []
        prompts = self.check_inputs(foreground, background, blended, videos, num_inference_steps, output_type)
        frames, height, width = self._sizes(videos, num_frames, height, width)
        fps = fps or (videos[0].fps if videos else 8.0)
        layout = Layout(frames, tuple(self.transformer.config.clips))
        device = self._execution_device
        guider = guider or ClassifierFreeGuidance(guidance_scale, enabled=guidance_scale > 1)
        self._interrupt = False

        # 2. Text: the prompts of each layer, and of nothing
        text, mask = self.encode_prompt([*prompts, [negative_prompt] * len(LAYERS)])
        text, mask = text.to(device, self.transformer.dtype), mask.to(device)
        batch = len(prompts)
        nothing = text[-1:].expand(batch, -1, -1, -1), mask[-1:].expand(batch, -1, -1)
        text, mask = text[:batch], mask[:batch]

        # 3. Latents: noise where clips are generated, the clean clip where it is given
        sequence, given_mask = self.prepare_given(videos, layout, batch, height, width, device)
        clean_frames = layout.per_frame(given_mask.expand(batch, -1))  # (B, K*F, 1, 1, 1)
        latents = torch.where(clean_frames, sequence, layout.noise(sequence, generator))

        # 4. Denoise what is generated, leave what is given
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        for step, timestep in enumerate(self.progress_bar(self.scheduler.timesteps)):
            if self._interrupt:
                break
            sigma = self.scheduler.sigmas[step]
            guider.set_state(step=step, num_inference_steps=num_inference_steps, timestep=timestep)
            clip_times = layout.timesteps(sigma.expand(batch).to(latents.dtype), given_mask)
            clean = self.predict_clean(latents, clip_times, (text, mask), nothing, layout, guider)
            velocity = (latents - clean) / sigma
            velocity = torch.where(clean_frames, torch.zeros_like(velocity), velocity)
            latents = self.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
            if callback_on_step_end is not None:
                latents = callback_on_step_end(self, step, timestep, {"latents": latents}).get("latents", latents)

        # 5. Unpack
        result = self._output(latents, layout, videos, fps, output_type)
        self.maybe_free_model_hooks()
        return LayerFlowPipelineOutput(videos=result) if return_dict else (result,)

    def predict_clean(
        self,
        latents: Tensor,
        timestep: Tensor,
        text: tuple[Tensor, Tensor],
        nothing: tuple[Tensor, Tensor],
        layout: Layout,
        guider: BaseGuidance,
    ) -> Tensor:
        """Guided prediction of the clean sequence (B, K*F, C, H, W), all conditions in one batched forward."""
        conditions = [text, nothing][: guider.num_conditions]
        n = len(conditions)
        prediction = self.transformer(
            torch.cat([latents] * n).to(self.transformer.dtype),
            torch.cat([timestep] * n).to(self.transformer.dtype),
            torch.cat([states for states, _ in conditions]),
            torch.cat([mask for _, mask in conditions]),
            layout,
        ).sample.float()
        if self.transformer.prediction_type != "sample":
            raise ValueError(f"prediction type {self.transformer.prediction_type!r} is not known to the pipeline")
        # Pixels end at -1 and 1; holding each step's prediction there stops a drift that guidance amplifies.
        return guider.forward(*prediction.chunk(n)).pred.clamp(-1, 1)

    def check_inputs(
        self,
        foreground: Prompt,
        background: Prompt,
        blended: Prompt,
        given: list[LayeredVideo],
        num_inference_steps: int,
        output_type: str,
    ) -> list[list[str]]:
        """The prompts as B x L strings; raises ValueError before any heavy work."""
        by_layer = {"foreground": foreground, "background": background, "blended": blended}
        lists = {name: [p] if isinstance(p, str) else p for name, p in by_layer.items() if p is not None}
        for name, prompts in lists.items():
            if not isinstance(prompts, list | tuple) or not all(isinstance(p, str) for p in prompts):
                raise ValueError(f"the {name} prompt must be text or a list of texts, got {by_layer[name]!r}")
        sizes = {len(prompts) for prompts in lists.values() if len(prompts) != 1} | {
            len(given) for _ in given[:1] if len(given) != 1
        }
        if len(sizes) > 1 or 0 in sizes:
            raise ValueError(f"prompts and given videos must be as many as each other, got {sorted(sizes)}")
        batch = sizes.pop() if sizes else 1
        clips = {frozenset(video.clips()) for video in given}
        if len(clips) > 1:
            raise ValueError("all samples of a batch must give the same clips")
        if clips and not set(self.transformer.config.clips) - next(iter(clips)):
            raise ValueError("every clip is given, so nothing is left to generate; leave one out")
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be at least 1, got {num_inference_steps}")
        if output_type not in ("video", "pt", "latent"):
            raise ValueError(f'output_type must be "video", "pt" or "latent", got {output_type!r}')
        columns = {name: list(lists.get(name, [""])) for name in LAYERS}
        columns = {name: values * batch if len(values) == 1 else values for name, values in columns.items()}
        if blended is None:
            pairs = zip(columns["foreground"], columns["background"], strict=True)
            columns["blended"] = [blended_prompt(*pair) for pair in pairs]
        return [[columns[name][i] for name in LAYERS] for i in range(batch)]

    def prepare_given(
        self, videos: list[LayeredVideo], layout: Layout, batch: int, height: int, width: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Clean sequence (B, K*F, C, H, W), zero where a clip is generated, and which clips are given (K,)."""
        channels = self.transformer.config.in_channels
        empty = torch.zeros(layout.frames, channels, height, width)
        names = list(videos[0].clips()) if videos else []
        spaces = [to_model_space(video.clips()) for video in videos] or [{}]
        spaces = spaces * batch if len(spaces) == 1 else spaces
        clips = {name: torch.stack([space.get(name, empty) for space in spaces]) for name in layout.clips}
        return layout.pack(clips).to(device), layout.given_mask(names, device)

    def _sizes(
        self, videos: list[LayeredVideo], frames: int | None, height: int | None, width: int | None
    ) -> tuple[int, int, int]:
        config = self.transformer.config
        sizes = frames or config.sample_frames, height or config.sample_size, width or config.sample_size
        if videos:
            own = {(v.frames, v.height, v.width) for v in videos}
            asked = tuple(a or o for a, o in zip((frames, height, width), next(iter(own)), strict=True))
            if own != {asked}:
                raise ValueError(
                    f"given clips are {sorted(own)} (frames, height, width), asked for is {asked}; resize them first"
                )
            sizes = asked  # type: ignore[assignment]
        if min(sizes) < 1:
            raise ValueError(f"frames, height and width must be positive, got {sizes}")
        multiple = self.transformer.size_multiple
        if sizes[1] % multiple or sizes[2] % multiple:
            raise ValueError(
                f"{sizes[2]}x{sizes[1]} pixels do not fit this model: width and height must divide by {multiple}"
            )
        return sizes

    def _output(
        self, latents: Tensor, layout: Layout, given: list[LayeredVideo], fps: float, output_type: str
    ) -> list[LayeredVideo] | dict[str, Tensor] | Tensor:
        if output_type == "latent":
            return latents
        clips = layout.unpack(latents)
        if output_type == "pt":
            return clips
        results = []
        for i in range(latents.shape[0]):
            video = from_model_space({name: clip[i].cpu() for name, clip in clips.items()}, fps)
            if given:
                video = video.replace(**given[i if len(given) > 1 else 0].clips())
            results.append(video)
        return results


