"""Models by name: the folder, its hash, facts known before loading, and loading without the libraries' messages."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..core.atomic import hash_path
from ..core.checksums import remembered_hashes
from ..core.errors import UserError, first_line
from ..models import folders, registry
from ..models.backbone import Conventions
from ..models.codec import SequenceCodec, check_drawn_size
from ..pipeline import LayerFlowPipeline
from .request import ModelOptions

DECIDES = (".json", ".safetensors", ".txt", ".model")
"""Suffixes of the files in a model folder that decide its results; a model card does not."""


def quiet_libraries() -> None:
    """Disable the progress bars and warnings of diffusers and transformers."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def model_folder(name: str, weights: bool = True) -> Path:
    """Return the folder of a model; a hub id is downloaded, without `weights` only its configuration files.

    Raises:
        UserError: the bundled weights are missing.
        UnknownModelError: the name is not a model.
    """
    folder = folders.model_folder(name, weights)
    if not (folder / folders.INDEX).is_file():
        raise UserError(f"the weights of {name} are not in this installation; install the layerflow package again")
    return folder


def model_hash(folder: Path, anew: bool = False) -> str:
    """Return the sha256 of a model: over the paths and contents of all files that decide its results.

    Hashes of files that have not changed since an earlier run are reused, unless `anew` is set.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix in DECIDES and path.is_file())
    hashes = [hash_path(file) for file in files] if anew else remembered_hashes(files)
    lines = (f"{file.relative_to(folder).as_posix()} {sha256}\n" for file, sha256 in zip(files, hashes, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class ModelFacts:
    """Facts of a model that are known without its weights."""

    config: dict[str, Any]
    """The transformer's configuration."""
    codec: SequenceCodec
    """Sizes that the model was trained at, and sizes that it takes."""
    conventions: Conventions
    upscale: list[int]
    """Factors by which the model can enlarge clips, from 1 on."""
    has_second_transformer: bool = False
    takes_hints: bool = False
    """True if parts of a matte can guide the model, see `LayerFlowPipeline.takes_hints`."""

    def for_given(self, clips: Collection[str]) -> ModelFacts:
        """Return the facts for runs with whole given clips, see `SequenceCodec.for_given`."""
        return replace(self, codec=self.codec.for_given(clips))

    def upscale_to(self, height: int, width: int, exactly: bool) -> int:
        """Return the largest factor for a result that is drawn no smaller than the model was trained at.

        The result has this size in pixels, if `exactly`, or at most this size.
        """
        frames, trained_height, trained_width = self.codec.trained_size
        fits = [1]
        for n in self.upscale[1:]:
            if n * trained_height > height or n * trained_width > width:
                continue
            with contextlib.suppress(ValueError):
                if exactly:
                    check_drawn_size(self.codec, frames, height, width, n)
                fits.append(n)
        return max(fits)


def model_facts(folder: Path) -> ModelFacts:
    """Return the facts in a model's configuration files; raises UnknownModelError."""
    parts = registry.skeleton(folder)
    transformer, factors = parts.transformer, [1] if parts.upscaler is None else parts.upscaler.factors
    codec = SequenceCodec.of(transformer, parts.vae)
    second = parts.transformer_2 is not None
    hints = transformer.takes_hints or (parts.vae is None and transformer.prediction_type == "sample")
    return ModelFacts(dict(transformer.config), codec, transformer.conventions, factors, second, hints)


def pick_dtype(name: str, device: str, facts: ModelFacts) -> str:
    """Return the number format; `auto` is bfloat16 for full-size models on a GPU and on a CPU that computes in it, else
    float32."""
    if name != "auto":
        return name
    if device == "cpu":
        from ..runtime.placement import cpu_has_bfloat16

        return "bfloat16" if cpu_has_bfloat16() else "float32"
    return "bfloat16" if device.startswith("cuda") and facts.conventions.half_precision else "float32"


def pick_memory(name: str, device: str, dtype: str, folder: Path, size: tuple[int, int, int], upscale: int = 1) -> str:
    """Return the memory setting; `auto` is the fastest that fits clips drawn at a size (frames, height, width) and
    enlarged `upscale` times."""
    if name != "auto":
        return name
    if not device.startswith("cuda"):
        return "full"
    import torch

    from ..runtime.placement import choose_memory
    from ..runtime.plan import plan_run

    frames, height, width = size
    plan = plan_run(  # the largest requirement: some jobs may be guided and others not
        folder, frames=frames, height=height, width=width, upscale=upscale, guided=True, dtype=getattr(torch, dtype)
    )
    return choose_memory(plan, device)


def load_pipeline(
    folder: Path, device: str, dtype: str, memory: str = "full", speed: Sequence[str] = ()
) -> LayerFlowPipeline:
    """Return the pipeline on its device, without progress bars; raises UserError if parts of the folder do not load."""
    import torch

    from ..runtime.placement import check_speed, place

    check_speed(speed, device)
    try:
        pipeline = LayerFlowPipeline.from_pretrained(folder, dtype=getattr(torch, dtype))
    except (OSError, KeyError, AttributeError) as error:
        raise UserError(f"model {folder} cannot be loaded: {first_line(error)}") from error
    pipeline.set_progress_bar_config(disable=True)
    place(pipeline, device, memory, speed)
    return pipeline


@dataclass(frozen=True)
class LoadedModel:
    """A model on its device."""

    options: ModelOptions
    """Options as requested."""
    facts: ModelFacts
    sha256: str
    device: str
    dtype: str
    memory: str
    pipeline: LayerFlowPipeline
    load_seconds: float


def load_model(
    options: ModelOptions,
    folder: Path,
    facts: ModelFacts,
    sha256: str,
    device: str,
    size: tuple[int, int, int] | None = None,
    upscale: int | None = None,
) -> LoadedModel:
    """Load a model from its folder onto a device; raises UserError if it does not load.

    The memory setting `auto` makes room for `size` (frames, height and width as drawn) and `upscale`; by default for
    the size that the model was trained at and its largest factor.
    """
    started = time.perf_counter()
    quiet_libraries()
    dtype = pick_dtype(options.dtype, device, facts)
    size, upscale = size or facts.codec.trained_size, upscale or facts.upscale[-1]
    memory = pick_memory(options.memory, device, dtype, folder, size, upscale)
    pipeline = load_pipeline(folder, device, dtype, memory, options.speed)
    return LoadedModel(options, facts, sha256, device, dtype, memory, pipeline, time.perf_counter() - started)
