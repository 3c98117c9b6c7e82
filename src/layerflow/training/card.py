"""The card of a stage: what was trained, and what it saw. Counted from the recipe, so that no restart can miscount."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from .batches import ClipBatches
from .recipe import StageRecipe
from .sources import Shards

MOST_COUNTED = 5000
"""Steps whose samples are asked for their tasks; of longer stages every so manieth."""


def seen(batches: ClipBatches) -> dict[str, Any]:
    """What the samples of a stage were: by source, by task, by shape, and how many clips of shards were different."""
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
            _, task, _, wanted = batches.request(number, step, place)
            own = batches.sources[source]
            if isinstance(own, Shards):
                clips[source].add(own.row(wanted))
            if not number % stride:
                tasks[task] += 1
                adapters.update(own.recipe.adapters_on(own.frozen(wanted)))
    return {"sources": by_source, "shapes": shapes, "clips": clips, "tasks": tasks, "adapters": adapters}


def stage_card(recipe: StageRecipe, batches: ClipBatches) -> str:
    """The card in Markdown."""
    told = seen(batches)
    samples, counted = sum(told["sources"].values()), sum(told["tasks"].values())
    lines = [
        f"# Stage {recipe.stage} of {recipe.name}",
        "",
        f"Trained: {'the whole network' if recipe.trained == 'base' else f'the {recipe.trained} adapter'}, "
        f"{recipe.steps} steps, {samples} samples, seed {recipe.seed}, from {recipe.start_from or 'fresh weights'}.",
        "",
        "| source | samples | different clips |",
        "| --- | ---: | ---: |",
    ]
    for number, data in enumerate(recipe.data):
        kinds = ", ".join(data.kinds) or "every kind"
        what = f"{data.form} scenes" if data.kind == "scenes" else f"shards {Path(data.folder).name}, {kinds}"
        different = f"{len(told['clips'][number])}" if number in told["clips"] else "all"
        frozen = ", frozen" if data.frozen else ""
        lines.append(f"| {what}{frozen} | {told['sources'][number]} | {different} |")
    lines += ["", "| task | share of samples |", "| --- | ---: |"]
    lines += [f"| {task} | {count / counted:.1%} |" for task, count in sorted(told["tasks"].items())]
    lines += ["", "| frames | size | samples |", "| ---: | --- | ---: |"]
    lines += [f"| {f} | {w}x{h} | {count} |" for (f, h, w), count in sorted(told["shapes"].items())]
    on = [f"{name} on for {count / counted:.1%}" for name, count in sorted(told["adapters"].items())]
    if recipe.stage != "base" and on:
        lines += ["", f"Adapters, where the network had them: {', '.join(on)} of the samples."]
    return "\n".join(lines) + "\n"
