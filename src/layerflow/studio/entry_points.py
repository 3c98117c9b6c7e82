"""Entry points of child processes, importable by name. Heavy imports happen in the child: the server has none."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..generation.request import ModelOptions
from .limits import Limits
from .worker import Work


def decode_upload(source: Path, target: Path, kind: str, limits: Limits) -> dict[str, Any]:
    """Convert an uploaded file, see `decoding.decode`."""
    from .decoding import decode

    return decode(source, target, kind, limits)


def export_layers(
    layers: Path,
    archive: Path,
    preset: str,
    size: str | None,
    edges: float,
    timecode: str,
    order: list[str] | None = None,
) -> dict[str, Any]:
    """Export a job's layers by a preset into one archive; return the record of its content.

    `layers` is a folder as `save_layers` writes it, optionally with `layers.safetensors` beside it. `order` names all
    foregrounds from near to far, see `reordered`.
    """
    import shutil
    from zipfile import ZIP_STORED, ZipFile

    from ..generation.request import parse_size
    from ..media import load_layers
    from ..media.export import Settings, deliver
    from .raw_frames import read_raw

    folder = archive.with_suffix("")
    video = read_raw(layers.parent) or load_layers(layers)
    if order:
        video = reordered(video, order)
    record = deliver(video, folder, preset, Settings(parse_size(size)[::-1] if size else None, edges, timecode))
    with ZipFile(archive, "w", ZIP_STORED) as file:  # the files are compressed already
        for path in sorted(folder.rglob("*")):
            file.write(path, f"layerflow-{preset}/{path.relative_to(folder).as_posix()}")
    shutil.rmtree(folder)
    return record


def reordered(video: Any, order: list[str]) -> Any:
    """Return a layered video with its foregrounds in another order from near to far, composed again.

    Raises:
        FieldError: `order` does not name each of them once.
    """
    from ..core.errors import FieldError
    from ..core.schema import ALPHA_OF

    names = list(ALPHA_OF)[: len(video.foregrounds)]
    if sorted(order) != sorted(names):
        raise FieldError("order", f"is {', '.join(order)} but must name each of {', '.join(names)} once")
    if order == names:
        return video
    return video.replace(foregrounds=[video.foregrounds[names.index(name)] for name in order]).compose()


def describe_model(name: str) -> dict[str, Any]:
    """Return the facts of a model that the page needs, from its configuration files; raises UnknownModelError."""
    from ..core.schema import foreground_count
    from ..generation.load import model_facts, model_folder

    facts = model_facts(model_folder(name, weights=False))
    frames, height, width = facts.codec.trained_size
    conventions = facts.conventions
    return {
        "model": name,
        "frames": frames,
        "height": height,
        "width": width,
        "upscale": facts.upscale,
        "steps": conventions.steps,
        "fewest_steps": conventions.fewest_steps,
        "guidance": conventions.guidance,
        "task": facts.config.get("task"),
        "foregrounds": foreground_count(facts.config["clips"]),
        "takes_hints": facts.takes_hints,
    }


@dataclass(frozen=True)
class ModelStart:
    """Function object that loads a model in the calling process."""

    options: ModelOptions = field(default_factory=ModelOptions)
    limits: Limits = field(default_factory=Limits)
    loras: Path | None = None
    """Folder of the LoRAs that jobs may name."""

    def __call__(self) -> Work:
        """Load the model; raises ValueError for a model or a device that cannot be used."""
        from ..generation.load import load_model, model_facts, model_folder, model_hash
        from ..runtime.device import pick_device
        from .runner import Maker

        folder, device = model_folder(self.options.model), pick_device(self.options.device)
        model = load_model(self.options, folder, model_facts(folder), model_hash(folder), device)
        return Maker(model, self.limits, self.loras)
