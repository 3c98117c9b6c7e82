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
"""Models that come with the package."""
INDEX = "model_index.json"
PLAIN = {
    "CogVideoXPipeline": "CogVideoXLayerTransformer3DModel",
    "WanPipeline": "WanLayerTransformer3DModel",
}
"""Text-to-video pipelines of diffusers, and what puts layers on them."""
NEEDED = ("tokenizer", "text_encoder", "transformer", "scheduler")
ADAPTER_FOLDERS = {"transformer": "adapters", "transformer_2": "adapters_2"}
"""Folder, in a model's, of the adapters of each transformer."""
HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.md")
"""What is downloaded of a hub model: never a pickle."""
HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download")


class UnknownModelError(UserError):
    """A name that is no model, or a model that is not whole or of a kind that is not known."""


def find_model(name: str | Path) -> str:
    """Folder of a bundled model or a local one, else the name itself where it looks like a hub id."""
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
    """The folder of a model; a hub id is downloaded, or found among earlier downloads.

    What cannot be used is refused before its weights are downloaded.

    Args:
        name: as for `find_model`; a hub id may end in `@revision`.
        weights: get the weights too, and not the configurations alone.
        hub: options of `huggingface_hub.snapshot_download`: `revision`, `cache_dir`, `token`, `local_files_only`,
            `force_download`. Downloads resume, and show their progress.

    Raises:
        UnknownModelError: the name is no model, or the hub doesn't give it; says why and what to do.
    """
    found = find_model(name)
    if Path(found).is_dir():
        return Path(found)
    found, pinned, revision = found.partition("@")
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
    )  # fmt: skip

    # When a connection breaks, hub libraries of some versions let through what their HTTP library raises.
    broken: tuple[type[Any], ...] = (OSError, *HfHubHTTPError.__bases__)
    try:
        folder = Path(snapshot_download(found, allow_patterns=["*.json"], **hub))
        if (folder / INDEX).is_file():
            read_index(folder)
            if weights:
                folder = Path(snapshot_download(found, allow_patterns=list(HUB_FILES), **hub))
    except GatedRepoError as error:
        raise UnknownModelError(f"model {name} wants its terms accepted on its page, and a token") from error
    except RevisionNotFoundError as error:
        raise UnknownModelError(f"model {name} has no revision {hub.get('revision')!r}") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UnknownModelError(f"there is no model {name} on the hub; check the name") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise UnknownModelError(
            f"model {name} was never downloaded whole, and the hub is out of reach or offline mode is on; get it once "
            "with a connection, or name a folder"
        ) from error
    except broken as error:
        raise UnknownModelError(f"model {name} could not be had from the hub: {first_line(error)}") from error
    if not (folder / INDEX).is_file():
        raise UnknownModelError(f"{name} on the hub is not a model in diffusers layout: it has no {INDEX}")
    return folder


def read_index(folder: Path) -> dict[str, Any]:
    """model_index.json, checked for a pipeline that is known here; raises UnknownModelError."""
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
            "transformer and the noise level under which it takes over come together; get the model again"
        )
    missing = [part for part in NEEDED if part not in index or index[part] == [None, None]]
    if missing:
        raise UnknownModelError(
            f"{folder} has no {missing[0]}/; a converted model gets it from --base, a CogVideoX-2B in diffusers layout"
        )
    return index
