"""Quality of a small video autoencoder for the mini, trained in limited time, to decide if it would pay.

    python benchmarks/autoencoder.py [--minutes 30] [--threads 2] [--picture OUT.png]

A causal autoencoder (diffusers' Wan, narrow: 4 frames and 8x8 pixels to one latent of 16 channels) is trained on all
four clips of the mini's scenes, alpha included, with a loss on the composite of what it gives back. What it loses of
held-out scenes, no network behind it could bring back: its PSNR is the most that a mini on its latents could reach.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F
from common import flops_of
from diffusers import AutoencoderKLWan
from PIL import Image
from torch import Tensor

from layerflow.core.compositing import blend
from layerflow.core.schema import CLIPS
from layerflow.evaluation.metrics import psnr
from layerflow.mini.world import SceneSource, Variations
from layerflow.models.model_space import to_model_space
from layerflow.runtime.placement import cpu_has_bfloat16
from layerflow.training.schedule import warm_cosine

FRAMES, SIZE, SAMPLES, RATE = 9, 64, 24, 5e-4
"""One frame and two groups of four, as causal autoencoders encode them."""
COMPOSITE_WEIGHT, PRIOR_WEIGHT = 0.5, 1e-6


def clips_of(source: SceneSource, number: int, seed: int) -> Tensor:
    """Return the clips of a scene in model space, (4, 3, F, H, W)."""
    scene = source.scene(number, seed)
    clips = to_model_space({name: getattr(scene, name)[None] for name in CLIPS})
    return torch.cat([clips[name].expand(-1, -1, 3, -1, -1) for name in CLIPS]).transpose(1, 2)


def composite(clips: Tensor) -> Tensor:
    """Return `blended` composited from the other three of (4, 3, F, H, W)."""
    by_name = dict(zip(CLIPS, (clips + 1) / 2, strict=True))
    return 2 * blend(by_name["foreground"], by_name["alpha"].mean(0, keepdim=True), by_name["background"]) - 1


def train(model: AutoencoderKLWan, minutes: float) -> int:
    """Train for a processor time; return the number of steps."""
    source = SceneSource("train", SIZE, FRAMES, "all", Variations(see_through=0.2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.01)
    start, step = time.process_time(), 0
    while (gone := (time.process_time() - start) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = RATE * warm_cosine(round(1000 * gone), 1000, 20, 0.6, 0.02)
        clips = clips_of(source, step, 1)
        with torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bfloat16()):
            latents = model.encode(clips).latent_dist
            decoded = model.decode(latents.sample()).sample.float()
        loss = F.l1_loss(decoded, clips) + PRIOR_WEIGHT * latents.kl().mean()
        loss = loss + COMPOSITE_WEIGHT * F.l1_loss(composite(decoded), clips[CLIPS.index("blended")])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 20 == 0:
            print(f"  {gone:.0%}, step {step}, loss {loss.item():.4f}", end="\r")
    return step


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0, help="processor time of its training")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--picture", type=Path, help="true and decoded clips of four scenes")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = AutoencoderKLWan(
        base_dim=24, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    with torch.enable_grad():
        steps = train(model, arguments.minutes)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, {steps} steps of four clips")
    reached: dict[str, list[float]] = {name: [] for name in (*CLIPS, "composite")}
    source, rows = SceneSource("held_out_objects", SIZE, FRAMES), []
    for number in range(SAMPLES):
        clips = clips_of(source, number, 3)
        decoded = model.decode(model.encode(clips).latent_dist.mode()).sample.clamp(-1, 1)
        for name, one, true in zip(CLIPS, decoded, clips, strict=True):
            reached[name].append(psnr(one.transpose(0, 1) / 2, true.transpose(0, 1) / 2))
        reached["composite"].append(psnr(composite(decoded).transpose(0, 1) / 2, decoded[-1].transpose(0, 1) / 2))
        if number < 4:
            rows += [torch.cat(list(both[:, :, 4]), dim=-1) for both in (clips, decoded)]
    for name, values in reached.items():
        print(f"  {name:<12} {fmean(values):.1f} dB")
    cost = flops_of(lambda: model.decode(model.encode(clips).latent_dist.mode()))
    print(f"  there and back {cost / 1e9:.1f} GFLOP for four clips of {FRAMES} frames")
    if arguments.picture is not None:
        pixels = ((torch.cat(rows, dim=1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(arguments.picture)


if __name__ == "__main__":
    main()
