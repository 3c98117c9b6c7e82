"""Figures of a model outside of the drawn world, each beside its bar.

    python benchmarks/outside.py MODEL [--case NAME] [--samples N] [--art FOLDER] [--atlas FOLDER] [--sheet FILE.png]

The material is not part of the package: see docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from common import load
from rich.console import Console
from torch import Tensor

from layerflow.core.errors import UserError
from layerflow.mini.acceptance.cases import Record
from layerflow.mini.acceptance.generated import GENERATED, generated_rows, measure_generated
from layerflow.mini.acceptance.outside import OUTSIDE, WAYS, Material, measure_outside, outside_rows
from layerflow.mini.acceptance.report import rows_table
from layerflow.mini.acceptance.sheet import made_row, taken_row, write_rows
from layerflow.mini.acceptance.things import ThingsJudge, load_things
from layerflow.mini.world.atlas import Atlas


def main() -> None:
    """Measure a model and print a table for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="bundled model, folder or hub id")
    parser.add_argument("--case", action="append", choices=(*OUTSIDE, *GENERATED), help="may be repeated; default all")
    parser.add_argument("--way", action="append", choices=WAYS, help="way to take shots apart; default all")
    parser.add_argument("--steps", type=int, help="denoising steps; the model's default")
    parser.add_argument("--samples", type=int, help="samples of a case over all seeds; of each seed for fixed shots")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--art", type=Path, default=Path("build/art"), help="folder of unpacked packages and footage")
    parser.add_argument("--atlas", type=Path, default=Path("build/atlas"), help="folder of the atlas")
    parser.add_argument("--sheet", type=Path, help="picture of the first samples of each case")
    parser.add_argument("--json", type=Path, help="file for the records of all samples")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    console, started = Console(width=160), time.perf_counter()

    def report(done: int, total: int, label: str) -> None:
        console.print(f"{label}: {done} of {total}, {time.perf_counter() - started:.0f} s", style="dim")

    shared: dict[str, Any] = {
        "samples": options.samples,
        "seeds": range(options.seeds),
        "steps": options.steps,
        "progress": report,
    }
    records: list[Record] = []
    pictures: list[list[Tensor]] = []
    judge: ThingsJudge | None = None
    try:
        pipeline = load(options.model, options.device, "float32")
        # Each case is printed when it is done, so that a run that is stopped is not lost.
        for case in options.case or (*OUTSIDE, *GENERATED):
            if case in OUTSIDE:
                material = Material(options.art, options.atlas)
                own, taken = measure_outside(pipeline, material, [case], ways=options.way or WAYS, **shared)
                rows, shown = outside_rows(own), [taken_row(one) for one in taken]
            else:
                atlas = Atlas.open(options.atlas)
                if judge is None:
                    judge = load_things(atlas, progress=report)
                    console.print(f"the judge tells {judge.groups} of {len(judge.heads['thing'])} things apart")
                own, made = measure_generated(pipeline, atlas, judge, [case], **shared)
                rows, shown = generated_rows(own), [made_row(one) for one in made]
            records, pictures = records + own, pictures + shown
            console.print(rows_table(rows, f"{options.model}: {case}", ""))
            if options.json is not None:
                options.json.write_text(json.dumps(records, indent=1))
            if options.sheet is not None and pictures:
                write_rows(pictures, options.sheet)
    except UserError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
