"""Classes of a model's parts by name, and their builders: parts without weights, encoders, plain models."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import init_empty_weights
from diffusers import DiffusionPipeline

from ..core.errors import first_line
from .autoencoders import FAMILIES as AUTOENCODERS
from .folders import NEEDED, PLAIN, UnknownModelError, read_index

# Named and not imported: importing a family takes a second, which the others need not wait for.
BACKBONES = {
    "CompactTransformer3DModel": "layerflow.mini.network.transformer",
    "CogVideoXLayerTransformer3DModel": "layerflow.models.cogvideox.transformer",
    "WanLayerTransformer3DModel": "layerflow.models.wan",
}
TEXT_ENCODERS = {"LayerTextEncoder": "layerflow.mini.network.text_encoder"}
"""Text encoders outside of transformers."""
UPSCALERS = {"LayeredUpscaler": "layerflow.mini.network.upscaler"}
FAMILIES = {"mini": "layerflow.mini.family"}
"""Modules of families of models that bring more to training than a backbone, see `training.family`."""


def import_parts(index: dict[str, Any]) -> None:
    """Import the modules of a model's parts: diffusers loads only classes whose modules are imported."""
    homes = BACKBONES | TEXT_ENCODERS | UPSCALERS
    for part in index.values():
        if isinstance(part, list) and len(part) == 2 and part[1] in homes:
            import_module(homes[part[1]])


def import_family(name: str) -> Any:
    """Return the `FAMILY` of a module of `FAMILIES`."""
    return import_module(FAMILIES[name]).FAMILY


class Skeleton(NamedTuple):
    """The parts of a model without weights, for their sizes, and the content of its model_index.json."""

    transformer: Any
    vae: Any | None
    upscaler: Any | None
    listing: dict[str, Any]
    transformer_2: Any | None = None


def skeleton(folder: Path) -> Skeleton:
    """Return a model's transformer with layers, and autoencoder, upscaler and second transformer if there are any.

    Raises:
        UnknownModelError: a configuration is missing, damaged or of a kind that is not known.
    """
    index = read_index(folder)
    with init_empty_weights():
        try:
            transformer = _transformer(folder, index, "transformer")
            transformer_2 = vae = upscaler = None
            if index.get("transformer_2", [None])[0] is not None:
                transformer_2 = _transformer(folder, index, "transformer_2")
            if index.get("vae", [None])[0] is not None:
                kind = index["vae"][1]
                if kind not in AUTOENCODERS:
                    raise UnknownModelError(f"{folder}: its autoencoder {kind} is not known here")
                vae = getattr(import_module("diffusers"), kind).from_config(_read_config(folder / "vae"))
            if index.get("upscaler", [None])[0] is not None:
                upscaler = _upscaler(folder / "upscaler", index["upscaler"][1])
        except UnknownModelError:
            raise
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise UnknownModelError(f"{folder} is no model of layerflow: {first_line(error)}") from error
    return Skeleton(transformer, vae, upscaler, index, transformer_2)


def _transformer(folder: Path, index: dict[str, Any], part: str) -> Any:
    name, config = PLAIN.get(index["_class_name"]) or index[part][1], _read_config(folder / part)
    if name not in BACKBONES:
        raise UnknownModelError(f"{folder}: its {part} {name} is not known here")
    kind = _backbone(name)
    return kind.from_config(kind.config_from_plain(config) if index["_class_name"] in PLAIN else config)


def text_encoder_skeleton(folder: Path, listing: dict[str, Any], dtype: Any) -> tuple[Any, int]:
    """Return a model's text encoder without weights, and the width of its states.

    Args:
        folder: a model folder.
        listing: its model_index.json.
        dtype: number format of the weights.
    """
    name = listing["text_encoder"][1]
    home, part = TEXT_ENCODERS.get(name), folder / "text_encoder"
    with init_empty_weights(include_buffers=True):
        if home is not None:
            kind = getattr(import_module(home), name)
            own = kind.from_config(kind.load_config(part))
            return own.to("meta", dtype), own.config.projection_dim
        import transformers

        config = transformers.AutoConfig.from_pretrained(part)
        return getattr(transformers, name)(config).to("meta", dtype), config.d_model


def _upscaler(folder: Path, name: str) -> Any:
    if name not in UPSCALERS:
        raise UnknownModelError(f"{folder.parent}: its upscaler {name} is not known here")
    config = _read_config(folder)
    try:
        return getattr(import_module(UPSCALERS[name]), name).from_config(config)
    except (ValueError, TypeError) as error:
        raise UnknownModelError(f"{folder} is no upscaler: {first_line(error)}") from error


def plain_components(folder: Path, **kwargs: Any) -> dict[str, Any]:
    """Load the parts of a plain text-to-video model, with fresh layer embeddings on its transformers."""
    name = PLAIN[read_index(folder)["_class_name"]]
    plain = DiffusionPipeline.from_pretrained(folder, **kwargs)
    parts: dict[str, Any] = {part: getattr(plain, part) for part in (*NEEDED, "vae")}
    parts["transformer"] = _backbone(name).from_plain(plain.transformer)
    if getattr(plain, "transformer_2", None) is not None:
        parts["transformer_2"] = _backbone(name).from_plain(plain.transformer_2)
        parts["boundary_ratio"] = plain.config.boundary_ratio
    if name == PLAIN["CogVideoXPipeline"]:
        from .cogvideox.sampler import LayerFlowDPMScheduler

        theirs = parts["scheduler"].config
        parts["scheduler"] = LayerFlowDPMScheduler(
            **{key: theirs[key] for key in ("beta_start", "beta_end", "snr_shift_scale") if key in theirs}
        )
    return parts


def encoders(folder: Path, dtype: Any) -> tuple[Any, Any, Any | None]:
    """Load tokenizer, text encoder and, if there is one, autoencoder of a model folder, without its transformer.

    Raises:
        UnknownModelError: it is no model, or not whole.
    """
    index = read_index(folder)
    names = {part: (index.get(part) or [None, None])[1] for part in ("tokenizer", "text_encoder", "vae")}
    if names["vae"] not in (None, *AUTOENCODERS):
        raise UnknownModelError(f"{folder}: its autoencoder {names['vae']} is not known here")
    home = TEXT_ENCODERS.get(names["text_encoder"], "transformers")
    try:
        tokenizer = getattr(import_module("transformers"), names["tokenizer"]).from_pretrained(folder / "tokenizer")
        encoder = getattr(import_module(home), names["text_encoder"]).from_pretrained(
            folder / "text_encoder", torch_dtype=dtype
        )
        vae = None
        if names["vae"] is not None:
            vae = getattr(import_module("diffusers"), names["vae"]).from_pretrained(folder / "vae", torch_dtype=dtype)
    except OSError as error:
        raise UnknownModelError(f"{folder} is not whole ({first_line(error)}); get the model again") from error
    return tokenizer, encoder, vae


def fuse_content(transformer: Any, adapters: Path) -> None:
    """Fuse the content adapter in a folder, if there is one; the motion adapter is for training (paper, 3.3)."""
    content = adapters / "content"
    if content.is_dir():
        try:
            transformer.load_lora_adapter(content, adapter_name="content", use_safetensors=True)
        except (RuntimeError, ValueError, KeyError, OSError) as error:  # of another width, for other layers, damaged
            raise UnknownModelError(
                f"{content} is no adapter of this transformer; convert or train it again ({first_line(error)})"
            ) from error
        transformer.fuse_lora(adapter_names=["content"])
        transformer.unload_lora()


def _backbone(name: str) -> Any:
    return getattr(import_module(BACKBONES[name]), name)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UnknownModelError(
            f"{path}: it is missing or damaged ({first_line(error)}), so {folder.parent} is no model of layerflow"
        ) from error
