"""Time of commands to start, beside `import torch` alone.

    python benchmarks/startup.py [--repeats 5]

Times depend on the machine and its load; ratios, measured alternately in one run, much less.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = [sys.executable, "-m", "layerflow.cli"]
PROMPTS = ["--foreground", "a red balloon rising", "--background", "green hills under a blue sky"]
TO_FIRST_STEP = """
import os, sys
from layerflow.cli import run
from layerflow.pipeline import LayerFlowPipeline

LayerFlowPipeline.predict = lambda *_: os._exit(0)
run(["generate", *sys.argv[1:]])
"""
"""Code that runs `layerflow generate` up to its first prediction."""


def seconds(command: list[str]) -> float:
    """Return the wall-clock seconds of a command in a new process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="the median of so many runs is printed")
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        layers = Path(folder) / "layers"
        subprocess.run([*COMMAND, "generate", *PROMPTS, "-o", str(layers)], check=True, capture_output=True)
        commands = {
            "import torch": [sys.executable, "-c", "import torch"],
            "import diffusers' pipeline": [sys.executable, "-c", "from diffusers import DiffusionPipeline"],
            "layerflow --help": [*COMMAND, "--help"],
            "layerflow info FILE": [*COMMAND, "info", str(layers / "blended.webm")],
            "layerflow info FOLDER": [*COMMAND, "info", str(layers)],
            "layerflow info": [*COMMAND, "info"],
            "layerflow info mini": [*COMMAND, "info", "mini"],
            "import layerflow.pipeline": [sys.executable, "-c", "import layerflow.pipeline"],
            "generate, to its first step": [
                *(sys.executable, "-c", TO_FIRST_STEP), *PROMPTS, "-o", str(Path(folder) / "new"),
            ],
        }  # fmt: skip
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(repeats):  # alternately, so that other load slows all of them alike
            for name, command in commands.items():
                times[name].append(seconds(command))
    base = statistics.median(times["import torch"])
    print(f"{'':<28} {'seconds':>8} {'ratio':>6}")
    for name, values in times.items():
        print(f"{name:<28} {statistics.median(values):8.2f} {statistics.median(values) / base:6.2f}")


if __name__ == "__main__":
    main()
