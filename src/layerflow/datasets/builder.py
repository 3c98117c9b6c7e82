"""One clip from footage: read, cropped and resized, split into layers."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..core.compositing import extend_colour, unpremultiply
from ..core.layered_video import Foreground, LayeredVideo
from ..core.schema import ALPHA_OF, BACKGROUND, BLENDED, FOREGROUND, foreground_count, scene_layers
from ..media import MediaError, Video, read_video
from .copy_paste import cast_shadow, harmonise, place
from .inpainting import fill_still, inpaint
from .mattes import crude_matte, grow, plain_matte
from .networks import PREFIX, load_captioning, load_inpainting, load_matting
from .recipe import FootageRecipe
from .scan import SMALLEST, STILLS, Item, annotated, read_mask

FPS = 24.0
"""Frames per second of footage in folders of frames, which have no rate."""


def plug_in(name: str, known: dict[str, Callable[..., Any]]) -> Callable[..., Any]:
    """Return a known function by its name, or any other by package.module:function.

    Raises:
        ValueError: the name is neither; the message lists the known ones.
    """
    if name in known:
        return known[name]
    module, colon, function = name.partition(":")
    try:
        if colon:
            return getattr(import_module(module), function)  # type: ignore[no-any-return]
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name} cannot be loaded ({error}); write package.module:function") from error
    raise ValueError(f"{name} is not known; choose {', '.join(known)}, or name package.module:function")


def matting(recipe: FootageRecipe, seed: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the function from frames (F, 3, H, W) and masks (F, 1, H, W) bool to alpha (F, 1, H, W)."""
    if recipe.matting.startswith(PREFIX):
        return load_matting(recipe.matting.removeprefix(PREFIX))
    generator = torch.Generator().manual_seed(seed)
    return plug_in(recipe.matting, {"plain": plain_matte, "crude": lambda _, mask: crude_matte(mask, generator)})


def inpainting(recipe: FootageRecipe) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the function from frames (F, 3, H, W) and hole (F, 1, H, W) bool to frames without the hole."""

    def still(frames: Tensor, hole: Tensor) -> Tensor:
        return torch.stack([fill_still(frame, where) for frame, where in zip(frames, hole, strict=True)])

    if recipe.inpainting.startswith(PREFIX):
        return load_inpainting(recipe.inpainting.removeprefix(PREFIX))
    return plug_in(recipe.inpainting, {"flow": inpaint, "still": still})


def captioning(recipe: FootageRecipe) -> Callable[[FootageRecipe, Item, LayeredVideo], dict[str, str]]:
    """Return the function from a clip to a caption for each layer."""
    if recipe.captioning.startswith(PREFIX):
        return load_captioning(recipe.captioning.removeprefix(PREFIX))
    return plug_in(recipe.captioning, {"metadata": metadata_captions})


def make_clip(item: Item, recipe: FootageRecipe) -> LayeredVideo:
    """Return all clips of an item; one frame for a still.

    Raises:
        MediaError: a file cannot be read.
        ValueError: the files give no usable clip, such as an object that covers too little; the message says why.
    """
    if item.problem:
        raise MediaError(item.problem)
    makers = {
        "masks": _from_masks,
        "layered": _from_layers,
        "pairs": _from_pair,
        "copy-paste": _from_pair,
        "backgrounds": _from_background,
    }
    video = makers[item.source.kind](item, recipe)
    if item.source.kind != "backgrounds":
        alpha = video.flattened().alpha
        assert alpha is not None
        if (shown := float(alpha.mean())) < SMALLEST:
            raise ValueError(f"the object covers {shown:.2%} of the frame, less than {SMALLEST:.1%}")
    return video


def _from_masks(item: Item, recipe: FootageRecipe) -> LayeredVideo:
    frames, masks, fps = read_masked(item, recipe)
    width, height = recipe.size
    alphas = list(ALPHA_OF.values())[: masks.shape[1]]
    parts = {name: masks[:, [index]] for index, name in enumerate(alphas)}
    fitted = LayeredVideo.from_clips({**parts, BLENDED: frames}, fps).fit(height, width)
    clips = fitted.clips()
    blended, masks = clips[BLENDED], owned(torch.cat([clips[name] for name in alphas], dim=1))
    matte = matting(recipe, item.seed + item.start)
    mattes = stack_mattes([matte(blended, masks[:, [index]]).clamp(0, 1) for index in range(len(alphas))])
    covered = (torch.cat(mattes, dim=1) > 0).any(1, keepdim=True) | masks.any(1, keepdim=True)
    hidden = grow(covered, recipe.dilate) > 0.5
    background = inpainting(recipe)(blended, hidden).clamp(0, 1)
    foregrounds = [Foreground(extend_colour(blended, alpha), alpha) for alpha in mattes]
    return fitted.replace(foregrounds=foregrounds, background=background)


def owned(shares: Tensor) -> Tensor:
    """Return masks (F, N, H, W), bool, from the share of each pixel that each of N objects covers.

    A pixel that objects cover by more than half belongs to the one with the largest share, so that resized masks of
    objects that touch leave no gap between them.
    """
    covered = shares.sum(1, keepdim=True) > 0.5
    return covered & (shares.argmax(1, keepdim=True) == torch.arange(shares.shape[1]).view(1, -1, 1, 1))


def stack_mattes(mattes: list[Tensor]) -> list[Tensor]:
    """Convert mattes (F, 1, H, W) of objects side by side to alpha of foregrounds, one over the other, nearest first.

    Where two objects share a pixel, the nearer one hides that part of the farther one which it covers, so the farther
    one must cover more of what is left: alpha / (1 - coverage of the nearer ones), 0 where nothing is left.
    """
    left, stack = torch.ones_like(mattes[0]), []
    for matte in mattes:
        stack.append(unpremultiply(matte, left))
        left = left * (1 - stack[-1])
    return stack


def read_masked(item: Item, recipe: FootageRecipe) -> tuple[Tensor, Tensor, float]:
    """Read an item with masks: frames (F, 3, H, W), masks of N objects (F, N, H, W) in {0, 1}, frames per second.

    N is 1 except in a stack.

    Where only every n-th frame of the footage has a mask, only those frames are read.
    """
    pairs, step = annotated(Path(item.files["frames"]), Path(item.files["masks"]))
    pairs = pairs[item.start : item.start + recipe.frames * recipe.stride : recipe.stride][: recipe.frames]
    if len(pairs) < recipe.frames:
        raise ValueError(
            f"{item.files['masks']} has {len(pairs)} frames from {item.start} on, fewer than the {recipe.frames} needed"
        )
    frames, masks = [], []
    for path, mask in pairs:
        with Image.open(path) as image:
            frames.append(np.asarray(image.convert("RGB")))
        numbers = read_mask(mask)
        if numbers.shape != frames[-1].shape[:2]:
            raise ValueError(f"{mask} and its frame differ in size")
        objects = item.objects or (item.object,)
        masks.append(np.stack([numbers > 0 if number is None else numbers == number for number in objects]))
    colour = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 255
    return colour, torch.from_numpy(np.stack(masks)).float(), FPS / (step * recipe.stride)


def _read(path: str, start: int, count: int, stride: int) -> Video:
    """Read every `stride`-th frame of a file or folder from `start` on, at most `count`; a still is read as it is.

    The frame rate is divided by `stride`.
    """
    read = read_video(path, frames=None if Path(path).suffix.lower() in STILLS else start + (count - 1) * stride + 1)
    if len(read.colour) == 1:
        return read
    chosen = slice(start, start + (count - 1) * stride + 1, stride)
    return Video(read.colour[chosen], None if read.alpha is None else read.alpha[chosen], read.fps / stride)


def _from_layers(item: Item, recipe: FootageRecipe) -> LayeredVideo:
    count = recipe.frames
    read = {layer: _read(path, item.start, count, recipe.stride) for layer, path in item.files.items()}
    clips: dict[str, Tensor] = {}
    for layer in scene_layers(foreground_count(read)):
        if layer.name not in read:
            continue
        clips[layer.name] = read[layer.name].colour
        if layer.alpha is not None:
            matte = read.get(layer.alpha)
            alpha = read[layer.name].alpha if matte is None else matte.colour.mean(1, keepdim=True)
            if alpha is None:
                raise ValueError(f"{item.files[layer.name]} has no alpha, and there is no file {layer.alpha} beside it")
            clips[layer.alpha] = alpha.clamp(0, 1)
    longest = max(len(clip) for clip in clips.values())
    if 1 < longest < count:
        raise ValueError(f"its layers have {longest} frames, fewer than the {count} needed")
    clips = {layer: repeated(clip, min(longest, count)) for layer, clip in clips.items()}
    width, height = recipe.size
    fps = next((one.fps for one in read.values() if len(one.colour) > 1), read[FOREGROUND].fps)
    video = LayeredVideo.from_clips(clips, fps=fps).fit(height, width)
    return video if video.blended is not None else video.compose()


def repeated(clip: Tensor, count: int) -> Tensor:
    """Return the first `count` frames of a clip; a still is repeated."""
    return clip.expand(count, -1, -1, -1).clone() if len(clip) == 1 else clip[:count]


def _from_pair(item: Item, recipe: FootageRecipe) -> LayeredVideo:
    count = 1 if item.source.kind == "pairs" else recipe.frames
    fronts = [_read_front(one, recipe, count) for one in (item, *item.behind)]
    behind = _read(item.files[BACKGROUND], 0, count, recipe.stride).colour
    if 1 < len(behind) < count:
        raise ValueError(f"{item.files[BACKGROUND]} has {len(behind)} frames, fewer than the {count} needed")
    width, height = recipe.size
    background = LayeredVideo(background=repeated(behind, count)).fit(height, width).background
    assert background is not None
    pasted = [_paste(front, background, one) for front, one in zip(fronts, (item, *item.behind), strict=True)]
    foregrounds = [one.foregrounds[0] for one in pasted]
    return pasted[0].replace(foregrounds=foregrounds, background=background).compose()


def _read_front(item: Item, recipe: FootageRecipe, count: int) -> LayeredVideo:
    """Read `count` frames of a foreground to paste, with its alpha."""
    if "masks" in item.files:
        colour, mask, fps = read_masked(item, recipe)
        front = LayeredVideo(colour, matting(recipe, item.seed)(colour, mask > 0.5), fps=fps)
    else:
        read = _read(item.files[FOREGROUND], item.start, count, recipe.stride)
        if read.alpha is None:
            raise ValueError(f"{item.files[FOREGROUND]} has no alpha")
        front = LayeredVideo(read.colour, read.alpha, fps=read.fps)
    if front.frames < count:
        raise ValueError(f"{item.files[FOREGROUND]} has {front.frames} frames, fewer than the {count} needed")
    return front[:count]


def _paste(front: LayeredVideo, background: Tensor, item: Item) -> LayeredVideo:
    """Return a foreground placed in the frame of a background, in colours that match it, with a shadow."""
    source, generator = item.source, torch.Generator().manual_seed(item.seed)
    low, high = source.share
    share = low + (high - low) * float(torch.rand((), generator=generator))
    height, width = background.shape[-2:]
    video = place(front, height, width, share, generator)
    assert video.foreground is not None
    assert video.alpha is not None
    video = video.replace(foreground=harmonise(video.foreground, video.alpha, background, source.harmonise))
    return cast_shadow(video, source.shadow * float(torch.rand((), generator=generator)))


def _from_background(item: Item, recipe: FootageRecipe) -> LayeredVideo:
    read = _read(item.files[BACKGROUND], item.start, recipe.frames, recipe.stride)
    frames = read.colour
    if len(frames) < recipe.frames:
        raise ValueError(f"{item.files[BACKGROUND]} has {len(frames)} frames, fewer than the {recipe.frames} needed")
    width, height = recipe.size
    video = LayeredVideo(background=frames, fps=read.fps).fit(height, width)
    assert video.background is not None
    return video.replace(
        foreground=torch.full_like(video.background, 0.5),
        alpha=torch.zeros_like(video.background[:, :1]),
        blended=video.background.clone(),
    )


def metadata_captions(recipe: FootageRecipe, item: Item, video: LayeredVideo) -> dict[str, str]:
    """Return captions from captions.json in the footage's folder, else from meta.json, else from the footage's name.

    captions.json maps the name of footage to a text, which describes the foreground or, in a folder of backgrounds, the
    background; or to an object with a text for each layer, or for each number of an object in the masks. meta.json lies
    beside JPEGImages/, as in YouTube-VOS, and names the category of each object. In a stack of several objects, a text
    or name of the whole footage describes the blended layer.
    """
    source = item.source
    if source.kind == "backgrounds":
        return {BACKGROUND: _words(item.about), **_caption(recipe, source.folder, item.about, BACKGROUND)}
    home = source.folder or source.foregrounds
    if len(item.objects) > 1:
        names = {layer: _category(item, number) for layer, number in zip(ALPHA_OF, item.objects, strict=False)}
        whole = {} if any(names.values()) else {BLENDED: _words(item.about)}
        captions = {**names, **whole, **_caption(recipe, home, item.about, BLENDED, item.objects)}
    else:
        captions = {}
        for layer, one in zip(ALPHA_OF, (item, *item.behind), strict=False):
            objects = one.objects or (() if one.object is None else (one.object,))
            own = {FOREGROUND: _category(one, *objects) or _words(one.about)}
            own |= _caption(recipe, home, one.about, FOREGROUND, objects)
            captions |= {layer: own.pop(FOREGROUND)} if one is not item else own
    if source.backgrounds:
        behind = Path(item.files[BACKGROUND]).stem
        captions[BACKGROUND] = _words(behind)
        captions |= _caption(recipe, source.backgrounds, behind, BACKGROUND)
    return captions


def _category(item: Item, *objects: int) -> str:
    """Return the category of objects, or of all objects of an item's video, from meta.json; empty without one."""
    frames = Path(item.files.get("frames", ""))
    home = next((path.parent for path in frames.parents if path.name == "JPEGImages"), None)
    if home is None:
        return ""
    try:
        known = _json_in(home / "meta.json")["videos"][frames.name]["objects"]
        numbers = [str(number) for number in objects] or sorted(known, key=int)
        # Two of a kind are named once.
        return " and ".join(dict.fromkeys(str(known[number]["category"]) for number in numbers if number in known))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, MediaError):
            raise
        return ""


def _words(name: str) -> str:
    letters = "".join(c if c.isalpha() else " " for c in name)
    return " ".join(letters.split())


def _caption(
    recipe: FootageRecipe, folder: str, name: str, layer: str, objects: tuple[int, ...] = ()
) -> dict[str, str]:
    """Return the captions of footage in captions.json by layer: a text alone is that of `layer`, and a text of a number
    that of the foreground which is that object."""
    texts = _json_in(recipe.place(folder) / "captions.json").get(name, {})
    if isinstance(texts, str):
        return {layer: texts}
    numbers = {str(number): layer for layer, number in zip(ALPHA_OF, objects, strict=False)}
    return {numbers.get(key, key): str(text) for key, text in texts.items()}


@lru_cache(maxsize=32)
def _json_in(path: Path) -> dict[str, Any]:
    """Read a JSON file of texts or objects by name; empty where there is no file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict) or not all(isinstance(value, str | dict) for value in content.values()):
            raise ValueError("it must hold an object of texts or objects")
    except (OSError, ValueError) as error:
        raise MediaError(f"{path}: it is damaged ({error}); mend or remove it") from error
    return content
