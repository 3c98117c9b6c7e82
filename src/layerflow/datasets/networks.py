"""Matting, inpainting and captions by networks, named in a recipe as model:FOLDER or model:OWNER/NAME.

Letters in shape comments: F frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import first_line
from ..core.layered_video import LayeredVideo
from ..core.schema import scene_layers
from .inpainting import inpaint
from .mattes import grow

if TYPE_CHECKING:
    from .recipe import FootageRecipe
    from .scan import Item

PREFIX = "model:"
UNSURE = 4
"""Width in pixels of the unknown band on both sides of a mask's edge; a 64th of the larger side where that is more."""
LONGEST = 30
"""Most tokens of a caption."""
STEPS = 30
"""Denoising steps of inpainting a frame."""
MULTIPLE = 8
"""Height and width of an inpainted frame divide by this."""


@lru_cache(maxsize=2)
def load_matting(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the function from frames (F, 3, H, W) and masks (F, 1, H, W) bool to alpha of a ViTMatte model.

    arXiv 2305.15272.


    Raises:
        ValueError: there is no such model.
    """
    from transformers import VitMatteForImageMatting, VitMatteImageProcessor

    model, processor = _loaded(name, VitMatteForImageMatting, VitMatteImageProcessor)

    @torch.no_grad()
    def matte(frames: Tensor, mask: Tensor) -> Tensor:
        height, width = frames.shape[-2:]
        unsure = max(UNSURE, max(height, width) // 64)
        inside, near = grow(mask.float(), -unsure), grow(mask.float(), unsure)
        trimap = ((inside + near) / 2 * 255).round().byte().numpy()  # 0 outside, 128 unsure, 255 inside
        pictures = _pictures(frames)
        drawn = []
        for picture, known in zip(pictures, trimap, strict=True):
            inputs = processor(images=picture, trimaps=known[0], return_tensors="pt")
            drawn.append(model(**inputs).alphas[0, :, :height, :width])
        alpha = torch.stack(drawn).float().clamp(0, 1)
        return torch.where(inside > 0.5, 1.0, torch.where(near > 0.5, alpha, 0.0))

    return matte


@lru_cache(maxsize=2)
def load_inpainting(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the function from frames (F, 3, H, W) and hole (F, 1, H, W) bool to frames without the hole.

    A diffusers inpainting pipeline fills the one frame where most is known, and its pixels travel along the flow (see
    `inpaint`). It gets no prompt, since the background has no caption yet. The same frames give the same result.

    Raises:
        ValueError: there is no such model, or its weights are not safetensors.
    """
    from diffusers import AutoPipelineForInpainting

    try:
        pipeline = AutoPipelineForInpainting.from_pretrained(name, use_safetensors=True)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{PREFIX}{name}: no AutoPipelineForInpainting could be loaded ({first_line(error)})"
        ) from error
    pipeline.set_progress_bar_config(disable=True)

    def still(frame: Tensor, hole: Tensor) -> Tensor:
        height, width = (max(MULTIPLE, round(side / MULTIPLE) * MULTIPLE) for side in frame.shape[-2:])
        picture = F.interpolate(frame[None], (height, width), mode="bilinear", antialias=True)
        # Not a pixel of the object may be left: every pixel that the scaled hole touches is inpainted.
        where = F.adaptive_max_pool2d(hole[None].float(), (height, width))
        painted = pipeline(
            prompt="",
            image=picture,
            mask_image=where,
            height=height,
            width=width,
            num_inference_steps=STEPS,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).images.float()
        painted = F.interpolate(painted, frame.shape[-2:], mode="bilinear", antialias=True).clamp(0, 1)
        return torch.where(hole, painted[0], frame)

    return lambda frames, hole: inpaint(frames, hole, still)


@lru_cache(maxsize=2)
def load_captioning(name: str) -> Callable[[FootageRecipe, Item, LayeredVideo], dict[str, str]]:
    """Return the function from a clip to a caption for each layer, by an image-to-text model on its middle frame.

    Raises:
        ValueError: there is no such model.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, processor = _loaded(name, AutoModelForImageTextToText, AutoProcessor)

    @torch.no_grad()
    def captions(recipe: FootageRecipe, item: Item, video: LayeredVideo) -> dict[str, str]:
        middle = video.frames // 2
        clips = video.clips()
        layers = [layer for layer in scene_layers(max(1, len(video.foregrounds))) if layer.name in clips]
        shown = {layer.name: clips[layer.name][middle] for layer in layers if not layer.transparent}
        for layer in layers:
            if layer.transparent and layer.alpha in clips and bool(clips[layer.alpha].any()):
                alone = LayeredVideo(clips[layer.name], clips[layer.alpha])
                shown[layer.name] = alone.over((0.5, 0.5, 0.5))[middle]
        texts = {}
        for name, frame in shown.items():
            inputs = processor(images=_pictures(frame[None])[0], return_tensors="pt")
            ids = model.generate(**inputs, max_new_tokens=LONGEST, do_sample=False)
            texts[name] = " ".join(processor.batch_decode(ids, skip_special_tokens=True)[0].split())
        return texts

    return captions


def _pictures(frames: Tensor) -> list[np.ndarray]:
    """Convert frames (F, 3, H, W) in [0, 1] to images (H, W, 3) of bytes."""
    return list((frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy())


def _loaded(name: str, model: Any, processor: Any) -> tuple[Any, Any]:
    try:
        return model.from_pretrained(name, use_safetensors=True).eval(), processor.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{PREFIX}{name}: no {model.__name__} could be loaded ({first_line(error)})") from error
