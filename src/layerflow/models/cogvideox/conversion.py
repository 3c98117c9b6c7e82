"""Convert official checkpoint files to a model folder in diffusers layout, whole or not at all."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX, __version__
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LORA_WEIGHT_NAME_SAFE
from safetensors.torch import save_file
from torch import Tensor

from ...core.atomic import whole_folder
from .official import (
    AUTOENCODER,
    IGNORED,
    LATENT_SIZE,
    NETWORK,
    QKV,
    ConversionError,
    OfficialConfiguration,
    convert_autoencoder,
    convert_network,
    detect_configuration,
)
from .sampler import LayerFlowDPMScheduler
from .transformer import CogVideoXLayerTransformer3DModel

CHECKPOINT = "mp_rank_00_model_states.pt"
AUTOENCODER_FILE = "3d-vae.pt"
INDEX = "model_index.json"

_reconstruct = np.array(0).__reduce__()[0]
HARMLESS = (
    *(getattr(np.dtypes, f"{kind}DType") for kind in ("UInt32", "Int64", "Float32", "Float64")),
    np.dtype,
    np.ndarray,
    *((_reconstruct, f"{module}.multiarray._reconstruct") for module in ("numpy.core", "numpy._core")),
)
"""NumPy arrays, which official training saves beside the weights as random states."""


@dataclass(frozen=True)
class Conversion:
    """Result of a conversion."""

    folder: Path
    """The model folder."""
    configuration: OfficialConfiguration
    parts: tuple[str, ...]
    """Written parts of the model, with adapters."""
    missing: tuple[str, ...]
    """Parts that a pipeline needs, but neither the checkpoint nor a base model has."""


def convert(
    official: str | Path,
    output: str | Path,
    *,
    task: str | None = None,
    base: str | Path | None = None,
    latent_size: tuple[int, int] = LATENT_SIZE,
) -> Conversion:
    """Convert an official LayerFlow checkpoint to a model folder.

    The folder gets `transformer/`, `scheduler/`, `adapters/motion` and `adapters/content`, `vae/` where there is an
    autoencoder, and `text_encoder/` and `tokenizer/` of the base model. Weights keep their number format.

    Args:
        official: folder of `mp_rank_00_model_states.pt`, or its parent; or the file.
        output: the model folder to write; must not exist, or be empty.
        task: task of the checkpoint, one of `TASKS`; required where the tensors fit several, else only checked.
        base: CogVideoX-2B in diffusers layout, whose text encoder, tokenizer and, unless the checkpoint has one,
            autoencoder are copied.
        latent_size: height and width in latents that the checkpoint was trained at.

    Raises:
        ConversionError: a file or an argument is invalid; no folder is written.
        OSError: reading or writing failed; no folder is left behind.
    """
    output = Path(output)
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ConversionError(f"{output} is there already; choose another folder, or remove it")
    file = find_checkpoint(Path(official))
    base_index = _base_index(Path(base)) if base is not None else {}

    tensors = read_checkpoint(file, "module")
    network, autoencoder = _part(tensors, NETWORK), _part(tensors, AUTOENCODER)
    _check_prefixes(tensors, file)
    separate = file.with_name(AUTOENCODER_FILE)
    if not autoencoder and separate.is_file():
        autoencoder = read_checkpoint(separate, "state_dict")
    try:
        configuration = detect_configuration(network, task, latent_size)
        transformer, adapters = convert_network(network, configuration, latent_size)
        vae = convert_autoencoder(autoencoder, latent_size) if autoencoder else None
    except ConversionError as error:
        raise ConversionError(f"{file}: {error}") from error

    with whole_folder(output) as folder:
        index = _write(folder, transformer, adapters, vae)
        for part in ("text_encoder", "tokenizer", "vae"):
            if part in base_index and part not in index:
                shutil.copytree(Path(base or "") / part, folder / part)
                index[part] = base_index[part]
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", "utf-8")
    parts = [part for part in index if not part.startswith("_")] + [f"adapters/{name}" for name in adapters]
    missing = [part for part in ("text_encoder", "tokenizer", "vae") if part not in index]
    return Conversion(output, configuration, tuple(parts), tuple(missing))


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint file at or under a path: itself, in the folder, or in the step that `latest` names.

    Raises:
        ConversionError: there is no checkpoint, or there are several and no `latest`.
    """
    if path.is_file():
        return path
    latest = path / "latest"
    if latest.is_file():
        files = [path / latest.read_text("utf-8", errors="replace").strip() / CHECKPOINT]
    else:
        files = [path / CHECKPOINT, *sorted(path.glob(f"*/{CHECKPOINT}"))]
    files = [file for file in files if file.is_file()]
    if not files:
        raise ConversionError(f"{path} has no {CHECKPOINT}; give the folder of an official LayerFlow checkpoint")
    if len(files) > 1:
        raise ConversionError(f"{path} has several checkpoints, such as {files[0]} and {files[1]}; give one of them")
    return files[0]


def read_checkpoint(file: Path, entry: str) -> dict[str, Tensor]:
    """Read the tensors under one entry of a checkpoint, lazily and without running code of the pickle.

    Raises:
        ConversionError: the file is not a checkpoint, is damaged, or holds more than data.
    """
    try:
        with torch.serialization.safe_globals(list(HARMLESS)):
            checkpoint = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        # Torch's message advises to open the file unsafely.
        other = re.search(r"GLOBAL (\S+)", str(error))
        why = f"it holds {other[1]}, where only tensors and plain data are safe" if other else "it is damaged"
        raise ConversionError(f"{file} cannot be opened: {why}; get it again from its source") from error
    tensors = checkpoint.get(entry) if isinstance(checkpoint, dict) else None
    if not isinstance(tensors, dict) or not tensors:
        raise ConversionError(f"{file} has no weights under {entry!r}; it is not an official checkpoint")
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ConversionError(f"{file}: entry {name} is not a tensor but {type(tensor).__name__}")
    return {str(name): _own(tensor) for name, tensor in tensors.items()}


def save_adapter(folder: Path, weights: dict[str, Tensor]) -> None:
    """Write a LoRA in the format of diffusers and PEFT; `lora_alpha` 1 gives a scale of one over its rank."""
    rank = min(next(iter(weights.values())).shape)
    config = {"r": rank, "lora_alpha": 1, "target_modules": [*QKV, "to_out.0"]}
    folder.mkdir(parents=True)
    save_file(
        {f"transformer.{name}": tensor.contiguous() for name, tensor in weights.items()},
        folder / LORA_WEIGHT_NAME_SAFE,
        {
            "format": "pt",
            LORA_ADAPTER_METADATA_KEY: json.dumps({f"transformer.{key}": value for key, value in config.items()}),
        },
    )


def _write(
    folder: Path,
    transformer: CogVideoXLayerTransformer3DModel,
    adapters: dict[str, dict[str, Tensor]],
    vae: AutoencoderKLCogVideoX | None,
) -> dict[str, Any]:
    """Write the converted parts; return the entries of model_index.json."""
    transformer.save_pretrained(folder / "transformer")
    for name, weights in adapters.items():
        save_adapter(folder / "adapters" / name, weights)
    LayerFlowDPMScheduler().save_pretrained(folder / "scheduler")
    index: dict[str, Any] = {
        "_class_name": "LayerFlowPipeline",
        "_diffusers_version": __version__,
        "transformer": [type(transformer).__module__, type(transformer).__name__],
        "scheduler": [LayerFlowDPMScheduler.__module__, LayerFlowDPMScheduler.__name__],
    }
    if vae is not None:
        vae.save_pretrained(folder / "vae")
        index["vae"] = ["diffusers", type(vae).__name__]
    return index


def _base_index(base: Path) -> dict[str, Any]:
    """Read the index of a base model. Raises ConversionError if it is not a CogVideoX in diffusers layout."""
    try:
        index: dict[str, Any] = json.loads((base / INDEX).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConversionError(f"{base} is not a model in diffusers layout: its {INDEX} cannot be read") from error
    for part in ("text_encoder", "tokenizer", "vae"):
        if part not in index or not (base / part).is_dir():
            raise ConversionError(f"{base} has no {part}/; `base` must be a CogVideoX-2B in diffusers layout")
    return index


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _check_prefixes(tensors: dict[str, Tensor], file: Path) -> None:
    unexpected = [name for name in tensors if not name.startswith((NETWORK, AUTOENCODER, *IGNORED))]
    if unexpected:
        raise ConversionError(f"{file}: unexpected tensor {unexpected[0]}: this is not an official LayerFlow model")


def _own(tensor: Tensor) -> Tensor:
    """Return the tensor without shared memory: DeepSpeed may have saved views of one flat buffer."""
    return tensor.clone() if tensor.untyped_storage().nbytes() != tensor.nbytes else tensor.contiguous()
