"""Growth of time and peak memory of a guided step with frames and size.

    python benchmarks/scaling.py [--model mini] [--frames 4 8 16] [--sizes 64 96 128]

Each setting runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys

import torch
from common import denoiser_step, flops_of, load, median_seconds


def measure(model: str, frames: int, size: int, repeats: int, device: str, dtype: str) -> dict[str, float]:
    """Return seconds, GFLOP and peak memory in MB of one guided step, and the memory before it."""
    pipeline = load(model, device, dtype)
    before = peak_mb(device)
    step = denoiser_step(pipeline, frames, size, size)
    seconds = median_seconds(step, repeats)
    peak = peak_mb(device)
    return {"seconds": seconds, "before": before, "peak": peak, "gflop": flops_of(step) / 1e9}


def peak_mb(device: str) -> float:
    """Return the peak memory so far in MB: the accelerator's, or the resident set of this process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mini", help="mini, a model folder, or a hub id")
    parser.add_argument("--frames", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 96, 128], help="pixels of a square's side")
    parser.add_argument("--repeats", type=int, default=3, help="number of steps; their median is printed")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        result = measure(given.model, given.frames[0], given.sizes[0], given.repeats, given.device, given.dtype)
        print(json.dumps(result))
        return

    print(f"torch {torch.__version__}, {given.device}, {torch.get_num_threads()} threads, {given.dtype}")
    print(f"{'frames':>6} {'size':>9} {'GFLOP':>9} {'s/step':>8} {'x':>6} {'peak MB':>8} {'+MB':>7} {'x':>6}")
    first: dict[str, float] | None = None
    for size in given.sizes:
        for frames in given.frames:
            words = [sys.executable, __file__, "--one", "--model", given.model, "--repeats", str(given.repeats)]
            words += ["--frames", str(frames), "--sizes", str(size), "--device", given.device, "--dtype", given.dtype]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
                print(f"{frames:>6} {size:>4}x{size:<4} failed: {reason[0]}")
                continue
            result = json.loads(done.stdout.splitlines()[-1])
            result["added"] = max(result["peak"] - result["before"], 1e-3)
            first = first or result
            print(
                f"{frames:>6} {size:>4}x{size:<4} {result['gflop']:>9.2f} {result['seconds']:>8.3f} "
                f"{result['seconds'] / first['seconds']:>6.2f} {result['peak']:>8.0f} {result['added']:>7.0f} "
                f"{result['added'] / first['added']:>6.2f}"
            )


if __name__ == "__main__":
    main()
