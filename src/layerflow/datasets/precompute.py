"""Latents and text states of shards, computed once instead of at every step of training.

They equal those that a training step would compute: the mode of the autoencoder's distribution, in float32, of all
clips in the model's order, and the states of each layer's prompt in the text encoder's number format. The mode and not
mean and deviation, because training uses the mode, as sampling does for given clips.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from ..core.atomic import hash_path, write_atomically
from ..core.config import ConfigError
from ..core.layered_video import LayeredVideo
from ..core.schema import CLIPS, foreground_count, prompt_layers
from ..media import MediaError
from ..models.backbone import prompt_prefixes
from ..models.model_space import to_model_space
from ..models.registry import encoders, skeleton
from ..models.text import MAX_TOKENS
from ..pipeline import LayerFlowPipeline
from .encoding import (
    HIDDEN,
    NEAR,
    clips_for,
    coverage,
    encode_sequence,
    encode_texts,
    held,
    marked,
    place_weights,
    prompts_of,
)
from .pool import Part, carried_out, worker_number, write_index
from .reader import HELD, LATENTS, PRECOMPUTED_SCHEMA, TENSORS, TEXT, UNCONDITIONAL, Row, ShardSet

SCALES = ("scaling_factor", "latents_mean", "latents_std")
"""Entries of an autoencoder's configuration that scale its latents."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides the precomputed tensors, besides the shards."""

    identity: dict[str, Any]
    """Hashes of the model, see `identity_of`."""
    frames: int
    """Frames of a clip that are encoded: the first ones of longer clips; a still is repeated."""
    frozen: bool
    """True if one frame of each moving clip, held, is encoded too."""
    dtype: str
    """Number format that the encoders compute in."""
    tiled: bool
    """True if the autoencoder works tile by tile."""


@dataclass(frozen=True)
class Encoded(Part):
    """A shard of the source, with precomputed tensors beside each sample."""

    source: str
    """Folder of the source's shards."""
    sha256: str
    """Checksum of the source's shard."""
    settings: Settings
    model: str
    """Folder of the model."""
    device: str
    """Device of the encoders; `cuda` shares out all GPUs."""

    @property
    def fingerprint(self) -> str:
        content = {"schema": PRECOMPUTED_SCHEMA, "shard": self.sha256, **asdict(self.settings)}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def make(self) -> None:
        source, settings = ShardSet(self.source, self.number), self.settings
        if hash_path(source.paths[self.number]) != self.sha256:
            raise MediaError(f"{source.paths[self.number]} has changed since it was built; build it again")
        device = self.device if self.device != "cuda" else f"cuda:{worker_number() % torch.cuda.device_count()}"
        pipeline = load_encoders(self.model, device, settings.dtype, settings.tiled)
        samples: list[dict[str, Any]] = []
        failed: list[dict[str, str]] = []
        record = json.loads(source.paths[self.number].with_suffix(".json").read_text("utf-8"))
        records = {sample["id"]: sample for sample in record["samples"]}

        def encoded() -> Iterator[dict[str, Any]]:
            for row in source.rows:
                try:
                    files = source.files(row, lambda end: not end.endswith(TENSORS))
                    own = precomputed(pipeline, row, source.read(row).video, source.captions(row), settings)
                except ValueError as error:  # MediaError is one
                    failed.append({"id": row.id, "error": str(error)})
                    continue
                samples.append({**records[row.id], LATENTS: LATENTS in own})
                yield {"__key__": row.id, **files, **{f"{name}{TENSORS}": save(t) for name, t in own.items()}}

        self.write(encoded(), {"samples": samples, "failed": failed})


def precompute(
    shards: str | Path,
    model: Path,
    output: str | Path,
    *,
    name: str = "",
    frames: int | None = None,
    frozen: bool = False,
    tiled: bool = False,
    dtype: str = "float32",
    device: str = "cpu",
    workers: int | None = None,
    ray: str | None = None,
    report: Callable[[int, int, int], None] | None = None,
) -> dict[str, Any]:
    """Write a copy of a set of shards with latents and text states in each sample; return its index.json.

    A shard that is whole and was computed from the same shard by the same model is left as it is.

    Args:
        shards: a folder that `build_shards` wrote.
        model: folder of the model to train.
        output: folder of the new set.
        name: name of the model to record, its folder by default.
        frames: frames of a clip to encode; by default as many as most moving clips have, else those the model was
            trained at. Shorter clips get no latents.
        frozen: also encode one frame of each moving clip, held, for sources of training with `frozen`.
        tiled: let the autoencoder work tile by tile: less memory, and nearly the same latents.
        dtype: number format that the encoders compute in.
        device: device of the encoders; with cuda, processes share out all GPUs.
        workers: number of processes, each with its own encoders; by default one for each GPU, or one.
        ray: address of a Ray cluster, or `local`; files must have the same paths on all of its machines.
        report: called as (shards done, shards in all, clips that failed) after each shard.

    Raises:
        MediaError: the folder is not a set of shards, or is damaged.
        UnknownModelError: the folder is not a model.
        ValueError: the model does not take clips of that size or number of frames (the message names the nearest), or
            the output is the folder of the shards themselves.
        ClusterError, RuntimeError: as `build_shards`.
    """
    source, folder = Path(shards).absolute(), Path(output).absolute()
    if source == folder:
        raise ValueError(f"{output} holds the shards themselves; name another folder for those with latents")
    opened = ShardSet(source)
    pipeline = load_encoders(str(model), _first(device), dtype, tiled)
    has = [TEXT, LATENTS] if pipeline.vae is not None else [TEXT]
    if LATENTS in has:
        frames = frames or _usual_frames(opened, pipeline)
        for height, width in sorted({(row.height, row.width) for row in opened.rows}):
            pipeline.codec.check(frames, height, width)
    settings = Settings(identity_of(pipeline), frames or 0, frozen, dtype, tiled)
    uncond = save(_states(pipeline, [""] * len(_layers(pipeline))))
    parts = [
        Encoded(number, str(folder), str(source), shard["sha256"], settings, str(model), device)
        for number, shard in enumerate(opened.index["shards"])
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / UNCONDITIONAL, uncond)
    waiting = [part for part in parts if part.found() is None]
    done, failed = len(parts) - len(waiting), 0
    gpus = torch.cuda.device_count() if device == "cuda" else 0
    count = workers or max(1, gpus)
    if count > 1 or ray:  # worker processes load their own
        del pipeline
        load_encoders.cache_clear()
    for part in carried_out(waiting, count, ray, min(gpus, 1)):
        done += 1
        record = part.found()
        failed += len(record["failed"]) if record else 0
        if report is not None:
            report(done, len(parts), failed)
    summary = {
        "schema": PRECOMPUTED_SCHEMA,
        "model": name or str(model),
        **asdict(settings),
        "has": has,
        "nothing": hashlib.sha256(uncond).hexdigest(),
    }
    head = {key: value for key, value in opened.index.items() if key in ("name", "recipe")}
    return write_index(folder, parts, head | {"precomputed": summary})


def precomputed(
    pipeline: LayerFlowPipeline, row: Row, video: LayeredVideo, captions: dict[str, str], settings: Settings
) -> dict[str, dict[str, Tensor]]:
    """Compute the tensors of a sample by kind: text states, and latents where the model has an autoencoder.

    Clips that are too short get no latents.
    """
    own = {TEXT: _states(pipeline, prompts_of(captions, pipeline.transformer.config.clips))}
    if pipeline.vae is None:
        return own
    # Alpha weights places also for a model without alpha clips.
    clips = clips_for(video.clips(), tuple(dict.fromkeys((*pipeline.codec.clips, *CLIPS))))
    if row.frames == 1 or row.frames >= settings.frames:
        shown = {name: clip[: settings.frames] for name, clip in clips.items()}
        own[LATENTS] = _latents(pipeline, held(shown, settings.frames))
    if row.frames > 1 and settings.frozen:
        # Any frame will do, as long as it is always the same one.
        frame = int(hashlib.sha256(row.id.encode()).hexdigest(), 16) % row.frames
        own[HELD] = _latents(pipeline, held({n: c[frame : frame + 1] for n, c in clips.items()}, settings.frames))
    return own


def _latents(pipeline: LayerFlowPipeline, clips: dict[str, Tensor]) -> dict[str, Tensor]:
    """Encode clips (F, C, H, W) to latents (f, C, h, w) by name, with loss weights of places (N, 1, h, w)."""
    one = {name: clip[None] for name, clip in clips.items()}
    space = {name: clip.to(pipeline.vae.device) for name, clip in to_model_space(one).items()}  # type: ignore[union-attr]
    latents, layout = encode_sequence(pipeline, space)
    size = (latents.shape[-2], latents.shape[-1])
    near, hidden = (place_weights(places, layout, size) for places in marked(coverage(one), layout.clips))
    tensors = {**layout.unpack(latents), NEAR: near, HIDDEN: hidden}
    return {name: tensor[0].cpu().contiguous() for name, tensor in tensors.items()}


def _states(pipeline: LayerFlowPipeline, prompts: list[str]) -> dict[str, Tensor]:
    """Encode each layer's prompt to states (S, D), in the encoder's number format."""
    states, mask = encode_texts(pipeline, [prompts])
    dtype = pipeline.text_encoder.dtype
    rows = zip(_layers(pipeline), states[0], mask[0], strict=False)
    return {layer: state[own].to("cpu", dtype).contiguous() for layer, state, own in rows}


def _layers(pipeline: LayerFlowPipeline) -> tuple[str, ...]:
    """Return the layers that a model's prompts describe, in order."""
    return prompt_layers(foreground_count(pipeline.transformer.config.clips))


def _usual_frames(shards: ShardSet, pipeline: LayerFlowPipeline) -> int:
    counts = Counter(row.frames for row in shards.rows if row.frames > 1)
    return counts.most_common(1)[0][0] if counts else pipeline.codec.trained_size[0]


def _first(device: str) -> str:
    return "cuda:0" if device == "cuda" else device


@lru_cache(maxsize=1)
def load_encoders(model: str, device: str, dtype: str, tiled: bool) -> LayerFlowPipeline:
    """Load a pipeline for encoding alone: without scheduler, and with a transformer without weights."""
    number = getattr(torch, dtype)
    tokenizer, text_encoder, vae = encoders(Path(model), number)
    for part in (text_encoder, vae):
        if part is not None:
            part.requires_grad_(False).eval().to(device, number)
    if vae is not None and tiled:
        vae.enable_tiling()
    return LayerFlowPipeline(tokenizer, text_encoder, skeleton(Path(model)).transformer, None, vae)  # type: ignore[arg-type]


def identity_of(pipeline: LayerFlowPipeline) -> dict[str, Any]:
    """Return hashes and settings that latents and text states depend on: encoders, order of clips, form of prompts.

    Weights are hashed in bfloat16, so that a copy of a model in another number format is the same model.
    """
    config, conventions, codec = pipeline.transformer.config, pipeline.transformer.conventions, pipeline.codec
    scale = {} if pipeline.vae is None else {key: pipeline.vae.config.get(key) for key in SCALES}
    words = json.dumps(sorted(pipeline.tokenizer.get_vocab().items())).encode()
    return {
        "autoencoder": None if pipeline.vae is None else _hash_weights(pipeline.vae, json.dumps(scale).encode()),
        "text encoder": _hash_weights(pipeline.text_encoder, words),
        "order of clips": [list(codec.clips), codec.joint, codec.lead],
        "form of prompts": [
            config.get("text_length", MAX_TOKENS),
            list(prompt_prefixes(config)),
            conventions.attend_padding,
        ],
    }


def _hash_weights(module: nn.Module, more: bytes) -> str:
    digest = hashlib.sha256(more)
    for name, tensor in sorted(module.state_dict().items()):
        half = tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
        digest.update(f"{name} {tuple(half.shape)}".encode())
        digest.update(half.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def check_identity(pipeline: LayerFlowPipeline, sources: Iterable[Any]) -> None:
    """Raise ConfigError where shards were precomputed by another model than the one that is trained."""
    folders = {source.recipe.folder: source.precomputed for source in sources if source.has}
    own = identity_of(pipeline) if folders else {}
    for folder, there in folders.items():
        differing = next((key for key, value in own.items() if there["identity"].get(key) != value), None)
        if differing is not None:
            raise ConfigError(
                f"data: {folder} was precomputed by {there['model']}, whose {differing} differs from that of the model "
                "to train; precompute with this model, or set precomputed: false"
            )


__all__ = ["Settings", "check_identity", "identity_of", "load_encoders", "precompute"]
