"""LayerFlowPipeline: prompts and given clips to a LayeredVideo.

Letters in shape comments: B batch, K clips, F frames of one clip, L layers, S text tokens, C, H, W pixels.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.distributed as dist
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from diffusers.guiders import BaseGuidance, ClassifierFreeGuidance
from diffusers.loaders.lora_base import LoraBaseMixin
from diffusers.utils import BaseOutput
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .core.garbage_collection import paused_collection
from .core.given import Given
from .core.layered_video import LayeredVideo
from .core.schema import BACKGROUND, BLENDED, DEFAULT_FPS, foreground_count, prompt_layers, scene_layers
from .models.adapters import AdapterError
from .models.backbone import Backbone, Conventions, Upscaler, prompt_prefixes
from .models.codec import SequenceCodec, check_drawn_size
from .models.cogvideox.sampler import DynamicGuidance
from .models.folders import ADAPTER_FOLDERS, HUB_OPTIONS, PLAIN, model_folder, read_index
from .models.given import Clean, batched, prepare_given, prepare_hints, pull, restored, with_transparent
from .models.layout import Layout
from .models.model_space import from_model_space
from .models.registry import fuse_content, import_parts, plain_components
from .models.scene import check_task, foregrounds_of, scene_clips, task_of
from .models.text import MAX_TOKENS, Prompt, encode_prompts, prompt_rows

if TYPE_CHECKING:
    from diffusers import AutoencoderKLCogVideoX, AutoencoderKLWan


def _is_actionable(record: logging.LogRecord) -> bool:
    """Return False for the advice, which diffusers gives at each cast, to keep an empty list of modules in float32."""
    return "should be kept in float32: []" not in record.getMessage()


logging.getLogger(ModelMixin.__module__).addFilter(_is_actionable)


@dataclass
class LayerFlowPipelineOutput(BaseOutput):
    """Output of the pipeline."""

    videos: list[LayeredVideo] | dict[str, Tensor] | Tensor
    """One LayeredVideo per sample; with output_type "pt" clips (B, F, 3, H, W) in model space by name, with
    "latent" the packed sequence of latents (B, N, C, h, w)."""

    @property
    def video(self) -> LayeredVideo:
        """LayeredVideo of the first sample."""
        if not isinstance(self.videos, list):
            raise ValueError('`.video` requires output_type="video"; tensors are in `.videos`')
        return self.videos[0]


def make_guider(conventions: Conventions, scale: float) -> BaseGuidance:
    """Return classifier-free guidance as a family of weights uses it; it is off at a scale of 1 and below."""
    kind = DynamicGuidance if conventions.dynamic_guidance else ClassifierFreeGuidance
    logger = logging.getLogger(BaseGuidance.__module__)
    level = logger.level
    logger.setLevel(logging.ERROR)  # every guider warns that the API of guiders may change, which no user can act on
    try:
        return kind(scale, enabled=scale > 1)
    finally:
        logger.setLevel(level)


class LayerFlowPipeline(DiffusionPipeline, LoraBaseMixin):
    """Generates every layer that is not given, together, with one transformer (LayerFlow, arXiv 2506.04228).

    Models such as Wan 2.2 A14B have a second one for low noise levels.
    """

    model_cpu_offload_seq = "text_encoder->transformer->transformer_2->vae->upscaler"
    _callback_tensor_inputs = ("latents", "clean")
    _optional_components: ClassVar = ["vae", "upscaler", "transformer_2"]
    _lora_loadable_modules: ClassVar = ["transformer", "transformer_2"]

    tokenizer: PreTrainedTokenizerBase
    text_encoder: PreTrainedModel
    transformer: Backbone
    scheduler: SchedulerMixin
    vae: AutoencoderKLCogVideoX | AutoencoderKLWan | None
    upscaler: Upscaler | None
    transformer_2: Backbone | None

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        text_encoder: PreTrainedModel | ModelMixin,
        transformer: ModelMixin,
        scheduler: SchedulerMixin,
        vae: ModelMixin | None = None,
        upscaler: ModelMixin | None = None,
        transformer_2: ModelMixin | None = None,
        boundary_ratio: float | None = None,
    ) -> None:
        # Annotated with classes that exist at run time: diffusers reads them when it loads a pipeline.
        super().__init__()
        if (transformer_2 is None) != (boundary_ratio is None):
            raise ValueError(
                f"boundary_ratio is {boundary_ratio} {'without' if transformer_2 is None else 'with'} a transformer_2; "
                "give both, or neither"
            )
        self.register_modules(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            transformer=transformer,
            scheduler=scheduler,
            vae=vae,
            upscaler=upscaler,
            transformer_2=transformer_2,
        )
        self.register_to_config(boundary_ratio=boundary_ratio)
        self._interrupt = False
        self.guidance_group: dist.ProcessGroup | None = None
        """Two processes, each of which computes one prediction of a guided step; see `placement.parallelise`."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path = "mini", **kwargs: Any) -> LayerFlowPipeline:
        """Load a bundled model by name, a folder in diffusers layout, or a hub id.

        A plain CogVideoX or Wan text-to-video model gets fresh layer embeddings, to be trained. A content adapter in
        the folder is fused into the transformer.

        Args:
            pretrained_model_name_or_path: the model.
            kwargs: as in `DiffusionPipeline.from_pretrained`; `revision`, `cache_dir`, `token` and `local_files_only`
                are for the hub. Weights are float32 unless `dtype` says otherwise.

        Raises:
            UnknownModelError: the name is none of these, or the model is incomplete.
        """
        hub = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        if "torch_dtype" not in kwargs:
            kwargs.setdefault("dtype", torch.float32)
        folder = model_folder(pretrained_model_name_or_path, **hub)
        index = read_index(folder)
        if index["_class_name"] in PLAIN:
            return cls(**plain_components(folder, **kwargs))
        import_parts(index)
        with paused_collection():
            pipeline: LayerFlowPipeline = super().from_pretrained(folder, **kwargs)
        for part, transformer in pipeline.transformers.items():
            fuse_content(transformer, folder / ADAPTER_FOLDERS[part])
        for network in (*pipeline.transformers.values(), pipeline.upscaler):
            if network is not None and network.memory_format != torch.contiguous_format:
                network.to(memory_format=network.memory_format)
        return pipeline

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | dict[str, Tensor],
        load_into_transformer_2: bool = False,
        **kwargs: Any,
    ) -> None:
        """Load a LoRA into a transformer: a file, folder, hub id or dict, in the formats that diffusers knows.

        `set_adapters`, `fuse_lora`, `unload_lora_weights` and the others are those of diffusers.

        Args:
            pretrained_model_name_or_path_or_dict: the LoRA.
            load_into_transformer_2: load it into the transformer for low noise levels.
            kwargs: as in diffusers: `adapter_name`, `weight_name`, `revision` and so on.

        Raises:
            AdapterError: it is for a transformer of another width, which the message names, or of another kind, or for
                a second transformer that the model does not have.
        """
        transformer = self.transformer_2 if load_into_transformer_2 else self.transformer
        if transformer is None:
            raise AdapterError("this model has no transformer_2; leave load_into_transformer_2 out")
        transformer.load_lora_adapter(pretrained_model_name_or_path_or_dict, _pipeline=self, **kwargs)

    @property
    def transformers(self) -> dict[str, Backbone]:
        """All transformers by name: `transformer` and, if there is one, `transformer_2`."""
        second = {} if self.transformer_2 is None else {"transformer_2": self.transformer_2}
        return {"transformer": self.transformer, **second}

    def transformer_at(self, timestep: Tensor) -> Backbone:
        """Return the transformer that predicts at one of the scheduler's timesteps."""
        boundary = (self.config.boundary_ratio or 0) * self.scheduler.config.num_train_timesteps
        return self.transformer if self.transformer_2 is None or timestep >= boundary else self.transformer_2

    @property
    def interrupt(self) -> bool:
        """True to stop before the next step; may be set from a callback or another thread."""
        return self._interrupt

    @interrupt.setter
    def interrupt(self, value: bool) -> None:
        self._interrupt = value

    @property
    def codec(self) -> SequenceCodec:
        """Conversion between clips in pixels and the transformer's sequence."""
        return SequenceCodec.of(self.transformer, self.vae)

    @property
    def takes_hints(self) -> bool:
        """True if parts of a matte can guide the model: it works on pixels, or its transformer takes hints."""
        in_pixels = self.vae is None and self.transformer.prediction_type == "sample"
        return in_pixels or self.transformer.takes_hints

    def encode_prompt(self, prompts: list[list[str]]) -> tuple[Tensor, Tensor]:
        """Encode B x L prompts, each separately, to states (B, L, S, D) and a mask (B, L, S).

        L is at most the number of prompts that the transformer takes: one model for decomposition has none for
        `blended`.
        """
        config, conventions = self.transformer.config, self.transformer.conventions
        prefixes = prompt_prefixes(config)[: len(prompts[0])]
        flat = [prefix + prompt for sample in prompts for prefix, prompt in zip(prefixes, sample, strict=False)]
        length = config.get("text_length", MAX_TOKENS)
        states, mask = encode_prompts(
            self.tokenizer, self.text_encoder, flat, length, conventions.attend_padding, self._execution_device
        )
        shape = (len(prompts), len(prefixes), states.shape[1])
        return states.view(*shape, -1), mask.view(shape)

    @torch.no_grad()
    def __call__(
        self,
        foreground: Prompt = None,
        background: Prompt = None,
        blended: Prompt = None,
        *,
        foregrounds: Sequence[Prompt] | None = None,
        given: LayeredVideo | Given | Sequence[LayeredVideo | Given] | None = None,
        negative_prompt: str = "",
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        upscale: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_scale_2: float | None = None,
        guider: BaseGuidance | None = None,
        noise_scale: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        fps: float | None = None,
        output_type: str = "video",
        callback_on_step_end: Callable[[LayerFlowPipeline, int, Tensor, dict[str, Any]], dict[str, Any]] | None = None,
        return_dict: bool = True,
    ) -> LayerFlowPipelineOutput | tuple[Any]:
        """Generate the clips, and frames of clips, that are not given.

        Args:
            foreground: a prompt for this layer, or a list of them for a batch.
            background: likewise.
            blended: likewise; by default written from the others.
            foregrounds: prompts of several foregrounds, the nearest first, instead of `foreground`. A scene has as many
                foregrounds as have prompts or given clips; where there are none of either, as many as the model.
            given: clips to keep, or single frames of them, for one sample or one per sample; they come back bit for
                bit. A `Given` may also hint at places of a matte, which guide the model.
            negative_prompt: text that guidance leads away from, for all layers; without effect at a scale of 1, the
                default of the mini.
            num_frames: frames of the result; those of `given`, else those that the model was trained at.
            height: pixels of the result; those of `given`, else those that the model was trained at, times `upscale`.
            width: likewise.
            upscale: factor by which the upscaler enlarges height and width. Given clips are reduced by it for the
                transformer.
            num_inference_steps: denoising steps; the model's default if None.
            guidance_scale: strength of classifier-free guidance; 1 turns it off and halves the time. The model's
                default for the task if None.
            guidance_scale_2: the scale for `transformer_2`; `guidance_scale` if None.
            guider: a diffusers guider with conditional and unconditional prediction, instead of `guidance_scale`.
            noise_scale: standard deviation of the initial noise. Models are trained with 1; below it, shapes get
                smoother and steadier, and seeds less different. The model's default for the task if None.
            generator: source of all randomness.
            fps: frame rate of the result, in frames per second; that of `given`, else 8, if None.
            output_type: "video", "pt" or "latent"; see LayerFlowPipelineOutput.
            callback_on_step_end: called as (pipeline, step, timestep, {"latents": ..., "clean": ...}) after each step,
                with the sequence and this step's prediction of the clean sequence; may return {"latents": ...} to
                replace the former.

        Raises:
            ValueError: prompts, given clips or sizes that do not fit together; the message says which.
        """
        # 1. Check
        conventions = self.transformer.conventions
        steps = conventions.steps if num_inference_steps is None else num_inference_steps
        known = [Given.of(one) for one in ([given] if isinstance(given, LayeredVideo | Given) else given or [])]
        scene = self.check_foregrounds(foreground, foregrounds, known)
        by_layer = {**scene, BACKGROUND: background, BLENDED: blended}
        prompts = self.check_inputs(by_layer, len(scene), known, steps, output_type)
        if guidance_scale_2 is not None and self.transformer_2 is None:
            raise ValueError(f"guidance_scale_2 is {guidance_scale_2}, but there is no transformer_2; leave it out")
        clips = scene_clips(self.transformer.config, len(scene))
        layout, frames, height, width = self.check_size(known, clips, num_frames, height, width, upscale)
        fps = fps or (known[0].video.fps if known else DEFAULT_FPS)
        device, batch = self._execution_device, len(prompts)
        task = task_of(known[0].whole if known else (), len(scene))
        guidance_scale = conventions.guidance if guidance_scale is None else guidance_scale
        guider = guider or make_guider(conventions, guidance_scale)
        guider_2 = guider if guidance_scale_2 is None else make_guider(conventions, guidance_scale_2)
        self._interrupt = False

        try:
            # 2. Text: the prompts of each layer, and the unconditional one
            text, uncond = self.prepare_text(prompts, negative_prompt, device)
            self.offload_all()

            # 3. Latents: noise where frames are generated, clean where they are given
            absent = [name for name in layout.clips if name not in clips]
            conditions = with_transparent(known, absent, (frames, height * upscale, width * upscale))
            clean = self.prepare_given(conditions, layout, (batch, height, width), device, upscale)
            self.offload_all()
            scale = conventions.noise_scale_of(task) if noise_scale is None else noise_scale
            latents = torch.where(clean.where, clean.sequence, scale * layout.noise(clean.sequence, generator))
            hints = prepare_hints(known, layout, batch, device, upscale)
            shown = hints if self.transformer.takes_hints else None
            extra_inputs = self.transformer.sampling_inputs(batch, generator, device, clean, layout, shown)
            if shown is not None:
                extra_inputs, hints = {**extra_inputs, "hints": shown}, None

            # 4. Denoise what is generated, leave what is given
            self.scheduler.set_timesteps(steps, device=device)
            takes_generator = "generator" in inspect.signature(self.scheduler.step).parameters
            extra = {"generator": generator} if takes_generator else {}
            for step, timestep in enumerate(self.progress_bar(self.scheduler.timesteps)):
                if self._interrupt:
                    break
                transformer = self.transformer_at(timestep)
                guide = guider if transformer is self.transformer else guider_2
                guide.set_state(step=step, num_inference_steps=steps, timestep=timestep)
                level = self.noise_level(step, timestep)
                levels = layout.timesteps(level.expand(batch), clean.given)
                prediction = self.predict(transformer, latents, levels, text, uncond, layout, guide, extra_inputs)
                if hints is not None:
                    prediction = pull(prediction, hints, layout)
                output, drawn = self.interpret(prediction, latents, level, timestep)
                stepped = self.scheduler.step(output, timestep, latents, **extra, return_dict=False)[0]
                latents = torch.where(clean.where, clean.sequence, stepped)
                if callback_on_step_end is not None:
                    tensors = {"latents": latents, "clean": torch.where(clean.where, clean.sequence, drawn)}
                    latents = callback_on_step_end(self, step, timestep, tensors).get("latents", latents)

            # 5. Unpack
            if not self._interrupt:
                refined = self.transformer.refine(latents, clean.given, layout)
                latents = torch.where(clean.where, clean.sequence, refined)
            self.offload_all()
            result = self._output(latents, layout, clips, known, fps, output_type, upscale)
        finally:  # caches are emptied and offloaded parts put back, also after an error
            self.maybe_free_model_hooks()
        return LayerFlowPipelineOutput(videos=result) if return_dict else (result,)

    def offload_all(self) -> None:
        """Offload all parts, if offloading is enabled.

        diffusers offloads only the part before in `model_cpu_offload_seq`; with given clips, that would leave the text
        encoder on the device beside the autoencoder.
        """
        for hook in getattr(self, "_all_hooks", ()):
            hook.offload()

    def noise_level(self, step: int, timestep: Tensor) -> Tensor:
        """Return the noise level of a step in [0, 1], float32, as the transformer takes it."""
        if self.transformer.prediction_type == "sample":
            # Some schedulers keep sigmas on the CPU.
            level: Tensor = self.scheduler.sigmas[step]
            return level.to(timestep.device, torch.float32)
        return timestep.float() / int(self.scheduler.config.num_train_timesteps)

    def predict(
        self,
        transformer: Backbone,
        latents: Tensor,
        timestep: Tensor,
        text: tuple[Tensor, Tensor],
        uncond: tuple[Tensor, Tensor],
        layout: Layout,
        guider: BaseGuidance,
        extra_inputs: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Return a transformer's guided prediction (B, N, C, h, w), float32.

        Each prediction type is linear in the clean sequence, so guiding the prediction guides the sequence.
        """
        conditions = [text, uncond][: guider.num_conditions]
        if transformer.conventions.batched_guidance:
            groups = [(torch.cat([c[0] for c in conditions]), torch.cat([c[1] for c in conditions]))]
        else:
            groups = conditions
        repeats = len(conditions) // len(groups)
        group = self.guidance_group if len(groups) == 2 else None
        if group is not None:
            mine = dist.get_group_rank(group, dist.get_rank())
            groups = groups[mine : mine + 1]
        hidden_states = torch.cat([latents] * repeats).to(transformer.dtype)
        timestep = torch.cat([timestep] * repeats)  # float32: bfloat16 would round it
        extra = {name: torch.cat([tensor] * repeats) for name, tensor in (extra_inputs or {}).items()}
        predictions: list[Tensor] = []
        for (states, mask), name in zip(groups, ("cond", "uncond"), strict=False):
            with transformer.cache_context(name):
                sample = transformer(hidden_states, timestep, states, mask, layout, **extra).sample.float()
            predictions += sample.chunk(repeats)
        if group is not None:
            (own,) = predictions
            predictions = [torch.empty_like(own) for _ in range(2)]
            dist.all_gather(predictions, own.contiguous(), group=group)
        guided: Tensor = guider.forward(*predictions).pred
        return guided

    def interpret(self, prediction: Tensor, latents: Tensor, level: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scheduler's input for a prediction, and the clean sequence that the prediction stands for."""
        kind = self.transformer.prediction_type
        if kind == "sample":
            # Pixels lie in [-1, 1]; clamping each step's prediction stops a drift that guidance amplifies.
            clean = prediction.clamp(-1, 1)
            return (latents - clean) / level, clean
        if kind == "flow":
            return prediction, latents - level * prediction
        if kind == "v_prediction":
            return prediction, self.scheduler.convert_model_output(prediction, timestep, latents)
        raise ValueError(f"prediction type {kind!r} is not known to the pipeline")

    def prepare_text(
        self, prompts: list[list[str]], negative_prompt: str, device: torch.device
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return states (B, L, S, D) and mask (B, L, S) of the prompts, and those of the unconditional prediction."""
        zero = self.transformer.conventions.zero_unconditional and not negative_prompt
        unconditional = [] if zero else [[negative_prompt] * len(prompts[0])]
        text, mask = self.encode_prompt([*prompts, *unconditional])
        text, mask = text.to(device, self.transformer.dtype), mask.to(device)
        batch = len(prompts)
        if zero:
            uncond = torch.zeros_like(text), mask
        else:
            uncond = text[-1:].expand(batch, -1, -1, -1), mask[-1:].expand(batch, -1, -1)
        return (text[:batch], mask[:batch]), uncond

    def check_foregrounds(
        self, foreground: Prompt, foregrounds: Sequence[Prompt] | None, given: list[Given]
    ) -> dict[str, Prompt]:
        """Return the prompt of each foreground of the scene by layer, None where there is none."""
        if foreground is not None and foregrounds is not None:
            raise ValueError("both foreground and foregrounds are given; give one of them")
        if isinstance(foregrounds, str):
            raise ValueError(f"foregrounds is {foregrounds!r}: it must be a list of prompts; or give foreground")
        prompts = list(foregrounds or []) or ([] if foreground is None else [foreground])
        count = foregrounds_of(self.transformer.config, len(prompts), given[0].video.clips() if given else ())
        names = [layer.name for layer in scene_layers(count) if layer.transparent]
        return dict(zip(names, [*prompts, *[None] * (count - len(prompts))], strict=True))

    def check_inputs(
        self,
        prompts: Mapping[str, Prompt],
        foregrounds: int,
        given: list[Given],
        num_inference_steps: int,
        output_type: str,
    ) -> list[list[str]]:
        """Return the prompts as B x L strings; raises ValueError before any heavy work."""
        config, needs_all = self.transformer.config, self.transformer.needs_all_clips
        prompted = foreground_count(config.clips) if needs_all else foregrounds
        rows = prompt_rows(prompts, prompt_layers(prompted), len(given))
        if any(one.frames != given[0].frames for one in given):
            raise ValueError("all samples of a batch must give the same frames of the same clips")
        check_task(config, given[0].whole if given else frozenset(), foregrounds)
        if any(one.hints for one in given) and not self.takes_hints:
            raise ValueError(
                "this model works on latents, which take whole frames of a matte and no hints at parts of it; give the "
                "matte of a frame, such as one that the bundled model made from the hint"
            )
        fewest = self.transformer.conventions.fewest_steps
        if num_inference_steps < fewest:
            raise ValueError(f"num_inference_steps must be at least {fewest}, got {num_inference_steps}")
        if output_type not in ("video", "pt", "latent"):
            raise ValueError(f'output_type must be "video", "pt" or "latent", got {output_type!r}')
        return rows

    def check_size(
        self,
        given: list[Given],
        clips: tuple[str, ...],
        frames: int | None,
        height: int | None,
        width: int | None,
        upscale: int = 1,
    ) -> tuple[Layout, int, int, int]:
        """Return the layout, the frames, and the height and width in pixels that the transformer draws.

        Raises:
            ValueError: the size does not fit the model or the given clips.
        """
        factors = [1] if self.upscaler is None else self.upscaler.factors
        if upscale not in factors:
            raise ValueError(f"upscale is {upscale}, but this model can do {', '.join(map(str, factors))}")
        trained = self.codec.trained_size
        sizes = frames or trained[0], height or upscale * trained[1], width or upscale * trained[2]
        if given:
            own = {(one.video.frames, one.video.height, one.video.width) for one in given}
            requested = tuple(a or o for a, o in zip((frames, height, width), next(iter(own)), strict=True))
            if own != {requested}:
                raise ValueError(
                    f"given clips are {sorted(own)} (frames, height, width), not {requested} as requested; "
                    "resize them first"
                )
            sizes = requested  # type: ignore[assignment]
        codec = self.codec
        if not self.transformer.needs_all_clips:
            codec = replace(codec, clips=clips)
        layout, *drawn = check_drawn_size(codec, *sizes, upscale)
        return layout, sizes[0], drawn[0], drawn[1]

    def prepare_given(
        self, given: list[Given], layout: Layout, size: tuple[int, int, int], device: torch.device, upscale: int = 1
    ) -> Clean:
        """Encode given frames; `size` is B and the height and width in pixels that the transformer generates."""
        codec, config = self.codec, self.transformer.config
        batch, height, width = size
        latent_size = batch, config.in_channels, *codec.autoencoder.latent_size(height, width)
        return prepare_given(given, codec, layout, latent_size, device, upscale, config.get("given_frames"))

    def _output(
        self,
        latents: Tensor,
        layout: Layout,
        scene: Collection[str],
        given: list[Given],
        fps: float,
        output_type: str,
        upscale: int,
    ) -> list[LayeredVideo] | dict[str, Tensor] | Tensor:
        if output_type == "latent":
            return latents
        whole = given[0].whole if given else frozenset()
        known = whole if output_type == "video" and upscale == 1 else ()
        clips = self.codec.decode(latents, layout, [name for name in layout.clips if name not in known])
        if upscale > 1:
            assert self.upscaler is not None  # ensured by check_size
            large = self.upscaler.upscale(clips, upscale, batched(given, len(latents), latents.device, whole))
            clips = {name: large[name].expand(-1, -1, 3, -1, -1) for name in layout.clips}
        if output_type == "pt":
            own = batched(given, len(latents), latents.device)
            kept = {name: given[0].mask(name).to(latents.device)[:, None, None, None] for name in own}
            return {name: torch.where(kept[name], own[name], c) if name in own else c for name, c in clips.items()}
        results = []
        for i in range(latents.shape[0]):
            decoded = {name: clip[i].cpu() for name, clip in clips.items() if name in scene}
            one = given[i if len(given) > 1 else 0] if given else None
            video = from_model_space(decoded if one is None else restored(decoded, one), fps)
            results.append(video if one is None else one.restore(video))
        return results
