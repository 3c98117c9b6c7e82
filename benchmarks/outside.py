"""Figures of a model outside of the drawn world, each beside its bar.

    python benchmarks/outside.py MODEL [--case NAME ...] [--samples N] [--art FOLDER] [--atlas FOLDER] [--sheet FILE.png]

The material is not part of the package: see `layerflow.mini.acceptance.outside` and docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from common import load
from rich.console import Console

from layerflow.core.errors import UserError
from layerflow.mini.acceptance.outside import OUTSIDE, SAMPLES, WAYS, Material, measure_outside, outside_rows
from layerflow.mini.acceptance.report import rows_table
from layerflow.mini.acceptance.sheet import write_sheet

CASES = (*OUTSIDE,)


def main() -> None:
    """Measure a model and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="bundled model, folder or hub id")
    parser.add_argument("--case", action="append", choices=CASES, help="case to run, may be repeated; default all")
    parser.add_argument("--way", action="append", choices=WAYS, help="way to take shots apart; default all")
    parser.add_argument("--steps", type=int, help="denoising steps; the model's default")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="samples of each case over all seeds")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--art", type=Path, default=Path("art"), help="folder of unpacked packages and footage")
    parser.add_argument("--atlas", type=Path, default=Path("atlas"), help="folder of the atlas")
    parser.add_argument("--sheet", type=Path, help="picture of the first shots of each case")
    parser.add_argument("--json", type=Path, help="file for the records of all samples")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    console, started = Console(width=160), time.perf_counter()

    def report(done: int, total: int, label: str) -> None:
        console.print(f"{label}: {done} of {total}, {time.perf_counter() - started:.0f} s", style="dim")

    pipeline = load(options.model, options.device, "float32")
    material = Material(options.art, options.atlas)
    try:
        records, taken = measure_outside(
            pipeline,
            material,
            options.case or CASES,
            samples=options.samples,
            seeds=range(options.seeds),
            ways=options.way or WAYS,
            steps=options.steps,
            progress=report,
        )
    except UserError as error:
        raise SystemExit(f"{error}") from None
    console.print(rows_table(outside_rows(records), f"{options.model} outside of the drawn world", ""))
    if options.json is not None:
        options.json.write_text(json.dumps(records, indent=1))
    if options.sheet is not None:
        write_sheet(taken, options.sheet)


if __name__ == "__main__":
    main()
