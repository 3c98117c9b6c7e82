"""Sets of shards for tests, without footage and without the emoji font."""

import json
from pathlib import Path

import torch

from layerflow.core.atomic import hash_path
from layerflow.core.layered_video import LayeredVideo
from layerflow.datasets.shards import encode, schema_of, write_shard


def drawn_video(seed: int, frames: int, height: int, width: int) -> LayeredVideo:
    """Return a square of one colour that moves over another."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.rand(2, 3, generator=generator)
    alpha = torch.zeros(frames, 1, height, width)
    for frame in range(frames):
        left = (seed + 2 * frame) % (width // 2)
        alpha[frame, :, height // 4 : height // 2, left : left + width // 3] = 1
    foreground, background = (c.view(1, 3, 1, 1).expand(frames, 3, height, width).contiguous() for c in colours)
    return LayeredVideo(foreground, alpha, background).compose()


def write_set(folder: Path, clips: dict[str, tuple[int, int, int, str]], per_shard: int = 2) -> Path:
    """Write shards of clips, given by id as frames, height, width and kind."""
    folder.mkdir(parents=True)
    shards, names = [], list(clips)
    for number, start in enumerate(range(0, len(names), per_shard)):
        records, samples = [], []
        for id in names[start : start + per_shard]:
            frames, height, width, kind = clips[id]
            record = {
                "schema": schema_of(1), "id": id, "kind": kind, "frames": frames, "height": height, "width": width,
                "fps": 8.0, "frozen": frames == 1, "source": {}, "coverage": 0.1, "change": 0.0,
                "captions": {"foreground": f"square {id}", "background": "a wall"},
            }  # fmt: skip
            records.append(record)
            samples.append(encode(id, drawn_video(names.index(id), frames, height, width), record))
        path = folder / f"shard-{number:05d}.tar"
        write_shard(path, samples)
        path.with_suffix(".json").write_text(json.dumps({"samples": records}))
        size, digest = path.stat().st_size, hash_path(path)
        shards.append({"file": path.name, "bytes": size, "sha256": digest, "clips": len(records)})
    (folder / "index.json").write_text(json.dumps({"schema": schema_of(1), "shards": shards, "failed": []}))
    return folder
