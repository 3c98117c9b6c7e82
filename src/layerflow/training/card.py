"""The card of a stage: its training and its samples, counted from the recipe so that no restart can miscount."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from .batches import ClipBatches
from .recipe import StageRecipe
from .sources import Shards

MOST_COUNTED = 5000
"""Steps whose samples are counted by task; longer stages are subsampled to this many."""


def count_samples(batches: ClipBatches) -> dict[str, Any]:
    """Count the samples of a stage by source, task, shape and adapter, and the distinct clips of each shard source."""
    recipe = batches.recipe
    by_source: Counter[int] = Counter()
    shapes: Counter[tuple[int, int, int]] = Counter()
    clips: dict[int, set[int]] = {n: set() for n, source in enumerate(batches.sources) if isinstance(source, Shards)}
    tasks: Counter[str] = Counter()
    adapters: Counter[str] = Counter()
    stride = -(-recipe.steps // MOST_COUNTED)
    for number in range(recipe.steps):
        step = batches.step(number)
        shapes[step.frames, *step.size] += len(step.picks)
        for place, (source, _) in enumerate(step.picks):
            by_source[source] += 1
            if number % stride and source not in clips:
                continue
            _, task, _, query = batches.request(number, step, place)
            own = batches.sources[source]
            if isinstance(own, Shards):
                clips[source].add(own.row(query))
            if not number % stride:
                tasks[task] += 1
                adapters.update(own.recipe.adapters_on(own.frozen(query)))
    return {"sources": by_source, "shapes": shapes, "clips": clips, "tasks": tasks, "adapters": adapters}


def stage_card(recipe: StageRecipe, batches: ClipBatches) -> str:
    """Return the card in Markdown."""
    counts = count_samples(batches)
    samples, counted = sum(counts["sources"].values()), sum(counts["tasks"].values())
    lines = [
        f"# Stage {recipe.stage} of {recipe.name}",
        "",
        f"Trained: {'the whole network' if recipe.trained == 'base' else f'the {recipe.trained} adapter'}, "
        f"{recipe.steps} steps, {samples} samples, seed {recipe.seed}, from {recipe.start_from or 'fresh weights'}.",
        "",
        "| source | samples | distinct clips |",
        "| --- | ---: | ---: |",
    ]
    for number, data in enumerate(recipe.data):
        kinds = ", ".join(data.kinds) or "every kind"
        folder = Path(data.folder).name
        source = {
            "scenes": f"{data.form} scenes" + (f" of {folder}" if folder else ""),
            "composites": f"composites of {folder}",
            "shards": f"shards {folder}, {kinds}",
        }[data.kind]
        distinct = f"{len(counts['clips'][number])}" if number in counts["clips"] else "all"
        frozen = ", frozen" if data.frozen else ""
        lines.append(f"| {source}{frozen} | {counts['sources'][number]} | {distinct} |")
    lines += ["", "| task | share of samples |", "| --- | ---: |"]
    lines += [f"| {task} | {count / counted:.1%} |" for task, count in sorted(counts["tasks"].items())]
    lines += ["", "| frames | size | samples |", "| ---: | --- | ---: |"]
    lines += [f"| {f} | {w}x{h} | {count} |" for (f, h, w), count in sorted(counts["shapes"].items())]
    on = [f"{name} on for {count / counted:.1%}" for name, count in sorted(counts["adapters"].items())]
    if recipe.stage != "base" and on:
        lines += ["", f"Adapters, where the network had them: {', '.join(on)} of the samples."]
    return "\n".join(lines) + "\n"
