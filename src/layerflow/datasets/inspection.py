"""Inspect a set of shards: checksums, statistics, and a page of samples."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

from ..core.atomic import hash_path, whole_folder
from ..media import MediaError, write_preview
from .pool import INDEX
from .shards import SCHEMA, read_shards

SAMPLES_PER_KIND = 6
"""Samples of each kind on the page."""


def read_index(folder: str | Path) -> dict[str, Any]:
    """Read index.json of a folder of shards, and check that all shards are there with their checksums.

    Raises:
        MediaError: a file is missing, damaged or changed.
    """
    folder = Path(folder)
    path = folder / INDEX
    try:
        index: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if index["schema"] not in range(1, SCHEMA + 1):
            raise MediaError(f"{path} is of schema {index['schema']}, but 1 to {SCHEMA} are read here; build it again")
        shards = [(folder / Path(shard["file"]).name, shard["sha256"]) for shard in index["shards"]]
    except FileNotFoundError:
        raise MediaError(f"{folder} holds no {INDEX}; name a folder written by `layerflow data build`") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(f"{path} is damaged ({error!r}); build the shards again, which keeps whole ones") from error
    for shard, sha256 in shards:
        if not shard.is_file() or hash_path(shard) != sha256:
            raise MediaError(f"{shard} is missing or has changed since it was built; remove it and build again")
    return index


def statistics(folder: str | Path) -> dict[str, Any]:
    """Return statistics of each kind of clip, from the shards' records."""
    folder = Path(folder)
    samples: list[dict[str, Any]] = []
    for shard in read_index(folder)["shards"]:
        samples += json.loads((folder / shard["file"]).with_suffix(".json").read_text("utf-8"))["samples"]
    kinds: dict[str, Any] = {}
    for kind in sorted({sample["kind"] for sample in samples}):
        own = [sample for sample in samples if sample["kind"] == kind]
        kinds[kind] = {
            "clips": len(own),
            "stacks": sum(sample.get("foregrounds", 1) > 1 for sample in own),
            "frozen": sum(sample["frozen"] for sample in own),
            "frames": sum(sample["frames"] for sample in own),
            "coverage": _mean(sample["coverage"] for sample in own),
            "change": _mean(sample["change"] for sample in own if not sample["frozen"]),
            "captions": len({json.dumps(sample["captions"], sort_keys=True) for sample in own}),
            "without caption": sum(not sample["captions"] for sample in own),
        }
    return kinds


def _mean(values: Any) -> float:
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def write_page(folder: str | Path, output: str | Path) -> Path:
    """Write index.html with statistics, failures and animated samples of each kind; return its path.

    The folder appears whole or not at all.
    """
    folder, output = Path(folder), Path(output)
    index, numbers = read_index(folder), statistics(folder)
    left = dict.fromkeys(numbers, SAMPLES_PER_KIND)
    with whole_folder(output, replace=True) as partial:
        cards = []
        for sample in read_shards(folder / shard["file"] for shard in index["shards"]):
            kind, id = sample.record["kind"], sample.record["id"]
            if not left[kind]:
                if not any(left.values()):
                    break
                continue
            left[kind] -= 1
            write_preview(sample.video, partial / f"{id}.webp")
            texts = "<br>".join(html.escape(f"{layer}: {text}") for layer, text in sample.captions.items())
            cards.append(
                f'<figure><img src="{html.escape(id)}.webp" alt="{html.escape(id)}">'
                f"<figcaption><b>{kind}</b> {html.escape(id)}<br>{texts}</figcaption></figure>"
            )
        (partial / "index.html").write_text(_page(index, numbers, cards), "utf-8")
    return output / "index.html"


def _page(index: dict[str, Any], numbers: dict[str, Any], cards: list[str]) -> str:
    columns = list(next(iter(numbers.values()), {}))
    head = "".join(f"<th>{name}</th>" for name in ("kind", *columns))
    rows = "".join(
        f"<tr><td>{kind}</td>" + "".join(f"<td>{_shown(own[name])}</td>" for name in columns) + "</tr>"
        for kind, own in numbers.items()
    )
    failed = "".join(
        f"<li><code>{html.escape(one['id'])}</code> {html.escape(one['error'])}</li>" for one in index["failed"]
    )
    return PAGE.format(
        name=html.escape(index["name"]),
        clips=index["clips"],
        shards=len(index["shards"]),
        head=head,
        rows=rows,
        count=len(index["failed"]),
        failed=failed or "<li>none</li>",
        cards="\n".join(cards),
    )


def _shown(value: float) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{name}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem }}
table {{ border-collapse: collapse }}
td, th {{ padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #8884 }}
td:first-child, th:first-child {{ text-align: left }}
figure {{ margin: 1.5rem 0 }} figure img {{ max-width: 100% }}
:root {{ color-scheme: light dark }}
</style></head><body>
<h1>{name}</h1>
<p>{clips} clips in {shards} shards. Stacks are clips of several foregrounds.
Coverage is the mean of alpha, change how much of it changes from frame to frame.</p>
<table><tr>{head}</tr>{rows}</table>
<h2>Samples</h2>
{cards}
<h2>Left out: {count}</h2>
<ul>{failed}</ul>
</body></html>
"""
