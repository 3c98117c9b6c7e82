"""ComfyUI nodes that load a model, generate, composite and save layers.

ComfyUI's IMAGE is (frames, height, width, 3) and its MASK (frames, height, width), both in [0, 1]. The masks here are
alpha: 1 where the foreground is opaque, as ImageCompositeMasked reads them; JoinImageWithAlpha expects the opposite, so
put InvertMask before it.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from layerflow import LayeredVideo, LayerFlowPipeline
from layerflow.core.schema import ALPHA, BLENDED, CHANNELS, CLIPS, DEFAULT_FPS, FOREGROUND, MOST_FOREGROUNDS
from layerflow.generation.givens import check_frames
from layerflow.generation.inputs import Source
from layerflow.generation.load import ModelFacts
from layerflow.generation.request import Request, Size, field_of, from_plain, options, type_of
from layerflow.media import FORMATS, save_layers

CATEGORY = "LayerFlow"
MODEL, LAYERS = "LAYERFLOW_MODEL", "LAYERFLOW_LAYERS"
TRIMAP = "trimap"
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
    """Base class of the nodes that generate; they differ in `GIVEN`, `AT_FRAMES` and `PROMPTS`."""

    GIVEN: ClassVar[dict[str, str]] = {}
    """Clips that must be given, and their sockets."""
    AT_FRAMES: ClassVar[dict[str, str]] = {}
    """Clips, or the trimap, that may be given at some frames, and the frames by default; empty text for all."""
    PROMPTS: ClassVar[tuple[str, ...]] = ("foreground", "background")
    """Prompts that come first."""

    RETURN_TYPES, RETURN_NAMES = (*SOCKETS, LAYERS), (*CLIPS, "layers")
    FUNCTION, CATEGORY = "sample", CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """Return the inputs, in the form that ComfyUI prescribes."""
        fields = sockets()
        prompts = {socket_name(name): fields.pop(socket_name(name)) for name in cls.PROMPTS}
        numbers = {name: fields.pop(name) for name, (kind, _) in list(fields.items()) if kind != "STRING"}
        given = {name: (kind,) for name, kind in cls.GIVEN.items()}
        parts: dict[str, Any] = {}
        for name, frames in cls.AT_FRAMES.items():
            parts[name] = ("IMAGE" if CHANNELS.get(name) == 3 else "MASK",)
            parts[f"{name}_frames"] = ("STRING", {"default": frames, "tooltip": FRAMES_HELP})
        return {"required": {"model": (MODEL,), **given, **prompts, **numbers}, "optional": {**parts, **fields}}

    def sample(self, model: LayerFlowPipeline, **inputs: Any) -> tuple[Any, ...]:
        """Return foreground IMAGE, alpha MASK, background IMAGE, blended IMAGE and all layers."""
        from layerflow.generation.resolve import resolve
        from layerflow.generation.run import generate

        sources = self.sources(inputs)
        resolved = resolve(request_of(inputs), facts_of(model), sources)
        for note in resolved.notes:
            print(f"LayerFlow: {note}")
        video = generate(model, resolved, str(model.device), progress_bar(resolved.steps)).with_blended()
        return (*(to_images(clip_or_empty(video, name)) for name in CLIPS), video)

    def sources(self, inputs: dict[str, Any]) -> list[Source]:
        """Return the given clips and trimap among the inputs, which are removed."""
        names = dict.fromkeys([*self.GIVEN, *self.AT_FRAMES])
        frames = {name: inputs.pop(f"{name}_frames", None) for name in self.AT_FRAMES}
        given = {name: images for name in names if (images := inputs.pop(name, None)) is not None}
        return [source_of(name, images, frames.get(name)) for name, images in given.items()]


class Generate(Sampler):
    """Node that generates all layers from prompts."""

    DESCRIPTION = "Makes a foreground with alpha, a background and the blended video from prompts."


class Decompose(Sampler):
    """Node that decomposes a video."""

    GIVEN: ClassVar = {"blended": "IMAGE"}
    AT_FRAMES: ClassVar = {ALPHA: "0", TRIMAP: "0"}
    DESCRIPTION = (
        "Takes a video apart; prompts help but are not needed. A matte or trimap of a frame, or clicks, say what the "
        "foreground is."
    )


class Complete(Sampler):
    """Node that generates what is missing of any clips and frames."""

    AT_FRAMES: ClassVar = {**dict.fromkeys(CLIPS, ""), TRIMAP: "0"}
    DESCRIPTION = "Makes the missing clips and frames from any that are given, at all or at some frames."


class Animate(Sampler):
    """Node that generates layers from a still, their first frame."""

    GIVEN: ClassVar = {"still": "IMAGE"}
    DESCRIPTION = "Makes layers that start with a still: with alpha of the foreground, else of the whole scene."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """Return the inputs, in the form that ComfyUI prescribes."""
        inputs = super().INPUT_TYPES()
        return {**inputs, "optional": {ALPHA: ("MASK",), **inputs["optional"]}}

    def sources(self, inputs: dict[str, Any]) -> list[Source]:
        """Return the still as first frame; raises ValueError for more than one picture."""
        still, alpha = inputs.pop("still"), inputs.pop(ALPHA, None)
        if len(still) > 1:
            raise ValueError(f"still has {len(still)} frames; give one picture, or use the node Complete layers")
        if alpha is None:
            return [source_of(BLENDED, still, "0")]
        return [source_of(FOREGROUND, still, "0"), source_of(ALPHA, alpha, "0")]


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


class PickForeground:
    """Node that takes one of several foregrounds out of layers."""

    RETURN_TYPES, RETURN_NAMES = ("IMAGE", "MASK"), ("foreground", "alpha")
    FUNCTION, CATEGORY = "pick", CATEGORY
    DESCRIPTION = "Takes a foreground out of layers: 1 is the nearest."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """Return the inputs, in the form that ComfyUI prescribes."""
        return {"required": {"layers": (LAYERS,), "number": ("INT", {"default": 1, "min": 1, "max": MOST_FOREGROUNDS})}}

    def pick(self, layers: LayeredVideo, number: int) -> tuple[Tensor, Tensor]:
        """Return colour and alpha of a foreground; raises ValueError if there is none of this number."""
        foregrounds = layers.foregrounds
        if not 1 <= number <= len(foregrounds):
            raise ValueError(f"number is {number}, but the layers have {len(foregrounds)} foregrounds")
        colour, alpha = foregrounds[number - 1].colour, foregrounds[number - 1].alpha
        if colour is None or alpha is None:
            raise ValueError(f"foreground {number} has no {'colour' if colour is None else 'alpha'}")
        return to_images(colour), to_images(alpha)


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
            "optional": {"layers": (LAYERS,), **{name: (kind,) for name, kind in zip(CLIPS, SOCKETS, strict=True)}},
        }

    def save(
        self, filename_prefix: str, format: str, fps: float, layers: LayeredVideo | None = None, **clips: Tensor
    ) -> dict[str, Any]:
        """Save layers, in which single clips may be replaced.

        Raises ValueError without a layer, or for a prefix that leads out of the output folder.
        """
        given = {name: to_clip(images) for name, images in clips.items() if images is not None}
        video = LayeredVideo.from_clips({**({} if layers is None else layers.clips()), **given}, fps)
        folder = free_folder(output_folder(), filename_prefix)
        save_layers(video, folder, [format])
        return {"ui": {"text": [str(folder)]}, "result": (str(folder),)}


UNSET = {int: 0, float: -1.0, str: ""}
"""Values of inputs that stand for the model's default: ComfyUI has no empty values."""
FRAMES_HELP = (
    "Frames at which it is given: numbers from 0 such as 0 or 0,15, a range such as 0-3, -1 for the last; empty for "
    "all. One picture is put at each of them, as many pictures as frames in order, a longer video gives its own."
)
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
    many = "" if kind is str or kind == Size else " A blank line between two." if option.prompt else " One a line."
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
        fields[name] = split_text(value, blank_lines=options(Request)[name].prompt) if is_list else value
    return Request(**from_plain(Request, fields))


def split_text(text: str, blank_lines: bool) -> list[str]:
    """Return the lines of a text, or its paragraphs, which may have several lines; none that are empty."""
    parts = re.split(r"\n\s*\n", text) if blank_lines else text.splitlines()
    return [part.strip() for part in parts if part.strip()]


def source_of(name: str, images: Tensor, frames: str | None) -> Source:
    """Return a given clip, or a trimap, as a source; raises ValueError for text that is no frames."""
    frames = (frames or "").replace(" ", "")
    if frames:
        check_frames(f"{name}_frames", frames, name)
    clip = to_clip(images)
    return Source(
        Path(name),
        LayeredVideo.from_clips({ALPHA if name == TRIMAP else name: clip}),
        still=len(clip) == 1,
        at=frames or None,
        trimap=name == TRIMAP,
        one_by_one=True,
    )


def clip_or_empty(video: LayeredVideo, name: str) -> Tensor:
    """Return a clip, or one of zeros if the video has none of this name."""
    return video.clips().get(name, torch.zeros(video.frames, CHANNELS[name], video.height, video.width))


def facts_of(model: LayerFlowPipeline) -> ModelFacts:
    """Return the facts of a loaded model."""
    factors = [1] if model.upscaler is None else list(model.upscaler.factors)
    config, conventions = dict(model.transformer.config), model.transformer.conventions
    return ModelFacts(config, model.codec, conventions, factors, model.transformer_2 is not None, model.takes_hints)


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
    "LayerFlowComplete": Complete,
    "LayerFlowAnimate": Animate,
    "LayerFlowCompose": Compose,
    "LayerFlowPickForeground": PickForeground,
    "LayerFlowSaveLayered": SaveLayered,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "LayerFlowLoadModel": "Load LayerFlow model",
    "LayerFlowGenerate": "Generate layers",
    "LayerFlowDecompose": "Decompose video",
    "LayerFlowAddBackground": "Add background",
    "LayerFlowAddForeground": "Add foreground",
    "LayerFlowComplete": "Complete layers",
    "LayerFlowAnimate": "Animate still",
    "LayerFlowCompose": "Compose layers",
    "LayerFlowPickForeground": "Pick foreground",
    "LayerFlowSaveLayered": "Save layered video",
}
