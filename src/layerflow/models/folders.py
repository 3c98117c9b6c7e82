"""Model folders by name: bundled with the package, local, or on the hub.

This module imports neither torch nor diffusers, so that `layerflow info` is quick.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from ..core.errors import UserError, first_line

BUNDLED = ("mini",)
"""Models inside the package."""
INDEX = "model_index.json"
PLAIN = {
    "CogVideoXPipeline": "CogVideoXLayerTransformer3DModel",
    "WanPipeline": "WanLayerTransformer3DModel",
}
"""Text-to-video pipelines of diffusers, and the backbone with layers for each."""
NEEDED = ("tokenizer", "text_encoder", "transformer", "scheduler")
"""Parts that every model has."""
ADAPTER_FOLDERS = {"transformer": "adapters", "transformer_2": "adapters_2"}
"""Subfolder of a model with the adapters of each transformer."""
HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.md")
"""Files of a hub model to download: never a pickle."""
HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download")


class UnknownModelError(UserError):
    """A name that is not a model, or a model that is incomplete or of an unknown kind."""


def find_model(name: str | Path) -> str:
    """Return the folder of a bundled or local model, else the name itself where it looks like a hub id.

    Raises:
        UnknownModelError: the name is none of these.
    """
    if str(name) in BUNDLED:
        return str(resources.files("layerflow.mini") / "weights")
    if Path(name).is_dir():
        if not (Path(name) / INDEX).exists():
            raise UnknownModelError(f"folder {name} is not a model: it has no {INDEX}")
        return str(name)
    parts = str(name).split("/")
    if len(parts) == 2 and all(parts) and not str(name).startswith((".", "~")):
        return str(name)
    raise UnknownModelError(
        f"model {str(name)!r} is neither bundled ({', '.join(BUNDLED)}) nor a folder nor a hub id like owner/name"
    )


def model_folder(name: str | Path, weights: bool = True, **hub: Any) -> Path:
    """Return the folder of a model; a hub id is downloaded, or looked up among earlier downloads.

    Models that cannot be used are refused before their weights are downloaded.

    Args:
        name: as for `find_model`; a hub id may end in `@revision`.
        weights: download the weights too, and not the configurations alone.
        hub: options of `huggingface_hub.snapshot_download`: `revision`, `cache_dir`, `token`, `local_files_only`,
            `force_download`. Downloads resume, and show their progress.

    Raises:
        UnknownModelError: the name is not a model, or the hub refuses it; the message says what to do.
    """
    place = find_model(name)
    if Path(place).is_dir():
        return Path(place)
    hub_id, pinned, revision = place.partition("@")
    hub = {**hub, "revision": revision} if pinned else hub
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # When a connection breaks, some versions of the hub library let through errors of their HTTP library.
    broken: tuple[type[Any], ...] = (OSError, *HfHubHTTPError.__bases__)
    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=["*.json"], **hub))
        if (folder / INDEX).is_file():
            read_index(folder)
            if weights:
                folder = Path(snapshot_download(hub_id, allow_patterns=list(HUB_FILES), **hub))
    except GatedRepoError as error:
        raise UnknownModelError(
            f"model {name} is gated: accept its terms on its page, and log in with a token"
        ) from error
    except RevisionNotFoundError as error:
        raise UnknownModelError(f"model {name} has no revision {hub.get('revision')!r}") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UnknownModelError(f"there is no model {name} on the hub; check the name") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise UnknownModelError(
            f"model {name} is not completely downloaded, and the hub is out of reach or offline mode is on; download "
            "it once with a connection, or name a folder"
        ) from error
    except broken as error:
        raise UnknownModelError(f"model {name} could not be downloaded from the hub: {first_line(error)}") from error
    if not (folder / INDEX).is_file():
        raise UnknownModelError(f"{name} on the hub is not a model in diffusers layout: it has no {INDEX}")
    return folder


def read_index(folder: Path) -> dict[str, Any]:
    """Read model_index.json and check that its pipeline is a known one; raises UnknownModelError."""
    try:
        index: dict[str, Any] = json.loads((folder / INDEX).read_text("utf-8"))
        kind = index["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnknownModelError(f"{folder / INDEX} is damaged ({first_line(error)}); get the model again") from error
    if kind != "LayerFlowPipeline" and kind not in PLAIN:
        known = ", ".join(sorted(PLAIN))
        raise UnknownModelError(f"{folder} is a {kind}; layers go on text-to-video models: {known}")
    second, boundary = index.get("transformer_2", [None])[0], index.get("boundary_ratio")
    if (second is None) != (boundary is None):
        raise UnknownModelError(
            f"{folder} has boundary_ratio {boundary} and {'a' if second else 'no'} transformer_2/, but a second "
            "transformer and the noise level under which it predicts belong together; download the model again"
        )
    missing = [part for part in NEEDED if part not in index or index[part] == [None, None]]
    if missing:
        raise UnknownModelError(
            f"{folder} has no {missing[0]}/; convert it with a `base`, a CogVideoX-2B in diffusers layout, to add it"
        )
    return index
