"""Time of `layerflow generate`, and the denoiser's share of the machine's rate of matrix products.

    python benchmarks/generate.py [--model mini] [--repeats 3]

Times depend on the machine and on what else runs on it; the ratios much less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import denoiser_step, flops_of, load, matmul_rate, median_seconds

from layerflow.generation.load import model_facts, model_folder, pick_dtype

PROMPTS = ("--foreground", "a red balloon rising", "--background", "green hills under a blue sky")


def fresh_process(code: str, repeats: int) -> float:
    """Return the median seconds of a new Python process that runs `code`."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def generate_once(model: str, folder: Path, device: str, dtype: str) -> tuple[float, dict[str, float], int]:
    """Return the seconds of one `layerflow generate` in a new process, its recorded timings, and its steps."""
    words = [sys.executable, "-m", "layerflow.cli", "generate", *PROMPTS, "--model", model, "-o", str(folder)]
    start = time.perf_counter()
    subprocess.run(
        [*words, "--device", device, "--dtype", dtype, "--overwrite"], check=True, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    made = json.loads((folder / "layers.json").read_text())["metadata"]
    return seconds, made["timings"], made["steps"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mini", help="mini, a model folder, or a hub id")
    parser.add_argument("--repeats", type=int, default=3, help="number of runs; their median is printed")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    arguments = parser.parse_args()
    model, repeats, device = arguments.model, arguments.repeats, arguments.device
    dtype = pick_dtype(arguments.dtype, device, model_facts(model_folder(model)))
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {dtype}")

    print("\nin a fresh process, median seconds")
    loading = f"from layerflow import LayerFlowPipeline as P; P.from_pretrained({model!r})"
    print(f"  layerflow --help               {fresh_process('import layerflow.cli as c; c.run([])', repeats):8.2f}")
    print(f"  import torch                   {fresh_process('import torch', repeats):8.2f}")
    start_up = fresh_process(loading, repeats)
    print(f"  start-up: imports and weights  {start_up:8.2f}")
    with tempfile.TemporaryDirectory() as folder:
        runs = [generate_once(model, Path(folder) / "out", device, dtype) for _ in range(repeats)]
    total = statistics.median(run[0] for run in runs)
    denoise = statistics.median(run[1]["denoise_seconds"] for run in runs)
    print(f"  layerflow generate             {total:8.2f}   (start-up is {start_up / total:.0%} of it)")
    print(f"  of it denoising                {denoise:8.2f}   ({denoise / total:.0%}; {runs[0][2]} steps)")

    pipeline = load(model, device, dtype)
    config = pipeline.transformer.config
    step = denoiser_step(pipeline, config.sample_frames, config.sample_size, config.sample_size)
    flops = flops_of(step)
    seconds = median_seconds(step, max(5, repeats))
    rate = flops / seconds
    print("\nthe denoiser, one guided step")
    print(f"  {flops / 1e9:.2f} GFLOP in {seconds * 1e3:.1f} ms: {rate / 1e9:.1f} GFLOP/s")
    for name in ("bfloat16", "float32"):
        product = matmul_rate(device, getattr(torch, name), max(5, repeats))
        print(f"  {rate / product:6.1%} of the {name} matrix product in this run ({product / 1e9:.1f} GFLOP/s)")


if __name__ == "__main__":
    main()
