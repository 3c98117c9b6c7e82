"""Scenes that a model can make: their task, their number of foregrounds, and their clips."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..core.schema import ALPHA_OF, TASKS, clip_names, foreground_count, scene_layers, task_clips


def task_of(given: Collection[str], foregrounds: int = 1) -> str:
    """Return the name of the task that a set of clips given whole stands for; `complete` for a set without a name."""
    tasks = task_clips(scene_layers(foregrounds))
    return next((task for task, clips in tasks.items() if clips == frozenset(given)), "complete")


def check_task(config: Mapping[str, Any], given: frozenset[str], foregrounds: int = 1) -> None:
    """Raise ValueError if every clip is given whole, or if the transformer was trained for another task."""
    clips, task = frozenset(scene_clips(config, foregrounds)), config.get("task")
    if not clips - given:
        raise ValueError("every clip is given, so nothing is left to generate; leave one out")
    if task is not None and given & clips != TASKS[task] & clips:
        required = " and ".join(name for name in config["clips"] if name in TASKS[task]) or "nothing"
        actual = " and ".join(sorted(given)) or "nothing"
        raise ValueError(
            f"this model is for {task} only, with {required} given whole, but {actual} is; load another model"
        )


def foregrounds_of(config: Mapping[str, Any], prompts: int = 0, given: Collection[str] = ()) -> int:
    """Return the number of foregrounds of a scene: as many as have prompts or given clips; the transformer's number
    where there are none of either.

    Args:
        config: configuration of the transformer.
        prompts: number of prompts for foregrounds.
        given: names of given clips.

    Raises:
        ValueError: the transformer has fewer.
    """
    most = foreground_count(config["clips"])
    count = max(prompts, foreground_count(given) if set(given) & {*ALPHA_OF, *ALPHA_OF.values()} else 0) or most
    if count > most:
        raise ValueError(
            f"{count} foregrounds are prompted or given, but this model has {most}; load one with more, or leave some "
            "out"
        )
    return count


def scene_clips(config: Mapping[str, Any], foregrounds: int) -> tuple[str, ...]:
    """Return those of a transformer's clips that a scene with a number of foregrounds has, in its order."""
    names = clip_names(scene_layers(foregrounds))
    return tuple(name for name in config["clips"] if name in names)


__all__ = ["check_task", "foregrounds_of", "scene_clips", "task_of"]
