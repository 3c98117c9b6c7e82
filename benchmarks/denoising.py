"""Error of one denoising step on held-out scenes, by noise level and clip: where a network could learn more.

    python benchmarks/denoising.py [MODEL ...] [--scenes 24]

No clip is given, and the prompts are the scenes' own. The error of the noised clip is shown beside: where it is lower,
the network discards its input.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import fmean

import torch

from layerflow.core.schema import CLIPS, LAYERS
from layerflow.evaluation.metrics import psnr
from layerflow.mini.acceptance.cases import noise_generator
from layerflow.mini.world import Scene, SceneSource
from layerflow.models.folders import find_model
from layerflow.models.layout import Layout
from layerflow.models.model_space import to_model_space
from layerflow.models.text import encode_prompts
from layerflow.pipeline import LayerFlowPipeline

LEVELS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
SEED = 3
NOISED = "the noised clips"


@torch.no_grad()
def reached(
    pipeline: LayerFlowPipeline, scene: Scene, number: int, levels: Sequence[float] = LEVELS
) -> list[dict[str, float]]:
    """Return for each noise level the PSNR of every clip after one step, of all together, and of the noised clips."""
    layout = Layout(scene.alpha.shape[0])
    clean = layout.pack(to_model_space({name: getattr(scene, name)[None] for name in CLIPS}))
    prompts = [scene.captions[layer] for layer in LAYERS]
    states, mask = encode_prompts(pipeline.tokenizer, pipeline.text_encoder, prompts)
    noise, true = layout.noise(clean, noise_generator("generate", SEED, number)), (clean + 1) / 2
    truly, rows = layout.unpack(true), []
    for level in levels:
        noised = (1 - level) * clean + level * noise
        timestep = torch.full((1, len(CLIPS), 1), level)
        drawn = pipeline.transformer(noised, timestep, states[None], mask[None], layout).sample
        found = ((drawn + 1) / 2).clamp(0, 1)
        apart = layout.unpack(found)
        rows.append(
            {
                **{name: psnr(apart[name][0], truly[name][0]) for name in CLIPS},
                "all clips": psnr(found[0], true[0]),
                NOISED: psnr(((noised + 1) / 2).clamp(0, 1)[0], true[0]),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["mini"])
    parser.add_argument("--scenes", type=int, default=24)
    arguments = parser.parse_args()
    source = SceneSource("held_out_combinations")
    scenes = [source.scene(number, SEED) for number in range(arguments.scenes)]
    print(f"PSNR in dB, {len(scenes)} scenes | {' | '.join(f't={level:g}' for level in LEVELS)} |")
    for model in arguments.models:
        pipeline = LayerFlowPipeline.from_pretrained(find_model(model), torch_dtype=torch.float32)
        results = list(zip(*(reached(pipeline, scene, n) for n, scene in enumerate(scenes)), strict=True))
        for name in results[0][0]:
            means = [fmean(row[name] for row in of_level) for of_level in results]
            print(f"{name if name == NOISED else f'{model}, {name}'} | {' | '.join(f'{m:.1f}' for m in means)} |")


if __name__ == "__main__":
    main()
