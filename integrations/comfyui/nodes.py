"""ComfyUI nodes that load a model, generate, composite and save layers.

ComfyUI's IMAGE is (frames, height, width, 3) and its MASK (frames, height, width), both in [0, 1]. The masks here are
alpha: 1 where the foreground is opaque, as ImageCompositeMasked reads them; JoinImageWithAlpha expects the opposite, so
put InvertMask before it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from layerflow import LayeredVideo, LayerFlowPipeline
from layerflow.core.schema import CHANNELS, CLIPS, DEFAULT_FPS
from layerflow.generation.inputs import Source
from layerflow.generation.load import ModelFacts
from layerflow.generation.request import Request, Size, field_of, from_plain, options, type_of
from layerflow.media import FORMATS, save_layers

CATEGORY = "LayerFlow"
MODEL = "LAYERFLOW_MODEL"
SOCKETS = tuple("MASK" if CHANNELS[name] == 1 else "IMAGE" for name in CLIPS)


def to_clip(images: Tensor) -> Tensor:
    """Convert IMAGE (F, H, W, 3 or more) or MASK (F, H, W) to a clip (F, 3 or 1, H, W)."""
    clip = images[..., None] if images.ndim == 3 else images[..., :3]
    return clip.permute(0, 3, 1, 2).float().clamp(0, 1).cpu().contiguous()


def to_images(clip: Tensor) -> Tensor:
    """Convert a clip (F, 3 or 1, H, W) to IMAGE (F, H, W, 3) or MASK (F, H, W)."""
    images = clip.permute(0, 2, 3, 1).contiguous()
    return images[..., 0] if images.shape[-1] == 1 else images


class LoadModel:
    """Node that loads a model: `mini`, a folder or a hub id."""

    RETURN_TYPES, RETURN_NAMES = (MODEL,), ("model",)
    FUNCTION, CATEGORY = "load", CATEGORY
    DESCRIPTION = "Loads a LayerFlow model: mini, which comes with it, a folder, or a hub id."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802, a name that ComfyUI prescribes
        """Return the inputs, in the form that ComfyUI prescribes."""
        return {
            "required": {
                "name": ("STRING", {"default": "mini"}),
                "device": (["auto", "cpu", "cuda", "mps"],),
                "dtype": (["auto", "float32", "bfloat16", "float16"],),
            }
        }

    def load(self, name: str, device: str, dtype: str) -> tuple[LayerFlowPipeline]:
        """Load the model; raises ValueError for a name that is no model, or a device that does not exist."""
        from layerflow.generation.load import load_pipeline, model_facts, model_folder, pick_dtype
        from layerflow.runtime.device import pick_device

        folder, where = model_folder(name), pick_device(device)
        return (load_pipeline(folder, where, pick_dtype(dtype, where, model_facts(folder))),)


class Sampler:
    """Base class of the nodes that generate; they differ in `GIVEN` and `PROMPTS`."""

    GIVEN: ClassVar[dict[str, str]] = {}
    """Clips and their sockets."""
    PROMPTS: ClassVar[tuple[str, ...]] = ("foreground", "background")
    """Prompts that come first."""

    RETURN_TYPES, RETURN_NAMES = SOCKETS, CLIPS
    FUNCTION, CATEGORY = "sample", CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """Return the inputs, in the form that ComfyUI prescribes."""
        fields = sockets()
        prompts = {socket_name(name): fields.pop(socket_name(name)) for name in cls.PROMPTS}
        numbers = {name: fields.pop(name) for name, (kind, _) in list(fields.items()) if kind != "STRING"}
        given = {name: (kind,) for name, kind in cls.GIVEN.items()}
        return {"required": {"model": (MODEL,), **given, **prompts, **numbers}, "optional": fields}

    def sample(self, model: LayerFlowPipeline, **inputs: Any) -> tuple[Tensor, ...]:
        """Return foreground IMAGE, alpha MASK, background IMAGE and blended IMAGE."""
        from layerflow.generation.resolve import resolve
        from layerflow.generation.run import loras, pipeline_arguments

        given = {name: to_clip(inputs.pop(name)) for name in self.GIVEN if inputs.get(name) is not None}
        facts = facts_of(model)
        resolved = resolve(request_of(inputs), facts, sources_of(given))
        with loras(model, resolved.request.lora):
            result = model(
                **pipeline_arguments(resolved),
                given=resolved.given,
                fps=resolved.fps,
                callback_on_step_end=progress_bar(resolved.steps),
            )
        assert not isinstance(result, tuple)
        video = result.video.with_blended()
        clips = video.clips()
        empty = torch.zeros(video.frames, 3, video.height, video.width)
        return tuple(to_images(clips.get(name, empty[:, : CHANNELS[name]])) for name in CLIPS)


class Generate(Sampler):
    """Node that generates all layers from prompts."""

    DESCRIPTION = "Makes a foreground with alpha, a background and the blended video from prompts."


class Decompose(Sampler):
    """Node that decomposes a video."""

    GIVEN: ClassVar = {"blended": "IMAGE"}
    DESCRIPTION = "Takes a video apart; prompts help but are not needed."


class AddBackground(Sampler):
    """Node that generates a background for a foreground."""

    GIVEN: ClassVar = {"foreground": "IMAGE", "alpha": "MASK"}
    PROMPTS: ClassVar = ("background", "foreground")
    DESCRIPTION = "Makes a background for a foreground with alpha."


class AddForeground(Sampler):
    """Node that generates a foreground for a background."""

    GIVEN: ClassVar = {"background": "IMAGE"}
    DESCRIPTION = "Makes a foreground with alpha for a background."


class Compose:
    """Node that composites a foreground over a background, without a model."""

    RETURN_TYPES, RETURN_NAMES = ("IMAGE",), ("blended",)
    FUNCTION, CATEGORY = "compose", CATEGORY
    DESCRIPTION = "alpha * foreground + (1 - alpha) * background; a still background is repeated, another size fitted."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """Return the inputs, in the form that ComfyUI prescribes."""
        return {"required": {"foreground": ("IMAGE",), "alpha": ("MASK",), "background": ("IMAGE",)}}

    def compose(self, foreground: Tensor, alpha: Tensor, background: Tensor) -> tuple[Tensor]:
        """Return the composite; raises ValueError when foreground and alpha do not fit together."""
        layers = LayeredVideo(foreground=to_clip(foreground), alpha=to_clip(alpha))
        below = LayeredVideo(background=to_clip(background)).fit(layers.height, layers.width).background
        assert below is not None
        frames = min(layers.frames, below.shape[0]) if below.shape[0] > 1 else layers.frames
        return (to_images(layers[:frames].over(below[:frames])),)


class SaveLayered:
    """Node that saves layers as files in ComfyUI's output folder."""

    RETURN_TYPES, RETURN_NAMES = ("STRING",), ("folder",)
    FUNCTION, CATEGORY, OUTPUT_NODE = "save", CATEGORY, True
    DESCRIPTION = "Writes each layer in a format that editors open, a preview, and layers.json."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """Return the inputs, in the form that ComfyUI prescribes."""
        return {
            "required": {
                "filename_prefix": ("STRING", {"default": "layerflow"}),
                "format": (list(FORMATS), {"default": "prores"}),
                "fps": ("FLOAT", {"default": DEFAULT_FPS, "min": 0.1, "max": 240.0}),
            },
            "optional": {"foreground": ("IMAGE",), "alpha": ("MASK",), "background": ("IMAGE",), "blended": ("IMAGE",)},
        }

    def save(self, filename_prefix: str, format: str, fps: float, **clips: Tensor) -> dict[str, Any]:
        """Save layers; raises ValueError without a layer, or for a prefix that leads out of the output folder."""
        video = LayeredVideo(**{name: to_clip(images) for name, images in clips.items() if images is not None}, fps=fps)
        folder = free_folder(output_folder(), filename_prefix)
        save_layers(video, folder, [format])
        return {"ui": {"text": [str(folder)]}, "result": (str(folder),)}


UNSET = {int: 0, float: -1.0, str: ""}
"""Values of inputs that stand for the model's default: ComfyUI has no empty values."""
LEFT_OUT = ("formats", "fps")
"""Fields of files; images have neither."""
HIGHEST = 2**63 - 1


def sockets() -> dict[str, Any]:
    """Return an input for each field of a request, by name; prompts end in `_prompt`."""
    return {socket_name(name): socket(name) for name in options(Request) if name not in LEFT_OUT}


def socket_name(name: str) -> str:
    """Return the name of a field's input; plain layer names are those of the clips."""
    return f"{name}_prompt" if name in ("foreground", "background", "blended") else name


def socket(name: str) -> tuple[str, dict[str, Any]]:
    """Return the input of a field as ComfyUI declares it."""
    option, (kind, optional) = options(Request)[name], type_of(Request, name)
    default = 1 if name == "upscale" else UNSET.get(kind, "") if optional else field_of(Request, name).default
    help = option.help.replace("`", "")
    if optional and option.unset and name != "upscale":
        help += f" {'Empty' if default == '' else default}: {option.unset.replace('`', '')}."
    if kind in (int, float):
        lowest = default if optional and name != "upscale" else option.minimum or 0
        facts = {"default": default, "min": kind(lowest), "max": kind(option.maximum or HIGHEST), "tooltip": help}
        more = {"control_after_generate": True} if name == "seed" else {"step": 0.05} if kind is float else {}
        return "INT" if kind is int else "FLOAT", {**facts, **more}
    many = "" if kind is str or kind == Size else " One a line."
    return "STRING", {"multiline": option.prompt or bool(many), "default": "", "tooltip": help + many}


def request_of(inputs: dict[str, Any]) -> Request:
    """Return the request of a node's inputs; raises FieldError."""
    fields = {}
    for name in options(Request):
        kind, optional = type_of(Request, name)
        value = inputs.get(socket_name(name))
        if value is None or (optional and value == UNSET.get(kind, "")):
            continue
        is_list = kind not in (int, float, str) and kind != Size
        fields[name] = [line.strip() for line in value.splitlines() if line.strip()] if is_list else value
    return Request(**from_plain(Request, fields))


def sources_of(given: dict[str, Tensor]) -> list[Source]:
    """Return given clips as sources."""
    return [Source(Path(name), LayeredVideo(**{name: clip}), still=len(clip) == 1) for name, clip in given.items()]


def facts_of(model: LayerFlowPipeline) -> ModelFacts:
    """Return the facts of a loaded model."""
    factors = [1] if model.upscaler is None else list(model.upscaler.factors)
    config, conventions = dict(model.transformer.config), model.transformer.conventions
    return ModelFacts(config, model.codec, conventions, factors, model.transformer_2 is not None)


def progress_bar(steps: int) -> Any:
    """Return a callback that updates ComfyUI's progress bar and checks for interruption; a no-op outside of ComfyUI."""
    with contextlib.suppress(ImportError):
        from comfy.model_management import throw_exception_if_processing_interrupted
        from comfy.utils import ProgressBar

        bar = ProgressBar(steps)

        def step(_: Any, __: int, ___: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            bar.update(1)
            throw_exception_if_processing_interrupted()
            return tensors

        return step
    return None


def output_folder() -> Path:
    """Return ComfyUI's output folder; `output` in the working directory outside of ComfyUI."""
    with contextlib.suppress(ImportError):
        import folder_paths

        return Path(folder_paths.get_output_directory())
    return Path("output")


def free_folder(root: Path, prefix: str) -> Path:
    """Return `root/prefix_00001`, or the next free number; raises ValueError for a prefix that leads elsewhere."""
    root = root.resolve()
    for number in range(1, 100_000):
        folder = (root / f"{prefix}_{number:05d}").resolve()
        if not folder.is_relative_to(root) or "\0" in prefix:
            raise ValueError(f"filename_prefix {prefix!r} leads out of {root}; choose a plain name")
        if not folder.exists():
            return folder
    raise ValueError(f"filename_prefix {prefix!r} is used up; choose another")


NODE_CLASS_MAPPINGS = {
    "LayerFlowLoadModel": LoadModel,
    "LayerFlowGenerate": Generate,
    "LayerFlowDecompose": Decompose,
    "LayerFlowAddBackground": AddBackground,
    "LayerFlowAddForeground": AddForeground,
    "LayerFlowCompose": Compose,
    "LayerFlowSaveLayered": SaveLayered,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "LayerFlowLoadModel": "Load LayerFlow model",
    "LayerFlowGenerate": "Generate layers",
    "LayerFlowDecompose": "Decompose video",
    "LayerFlowAddBackground": "Add background",
    "LayerFlowAddForeground": "Add foreground",
    "LayerFlowCompose": "Compose layers",
    "LayerFlowSaveLayered": "Save layered video",
}
