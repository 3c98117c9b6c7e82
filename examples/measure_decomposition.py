"""Decompose the blended clip of layers that are known, and measure the result, with a custom metric too.

Example: python measure_decomposition.py out/text_to_layers
"""

from argparse import ArgumentParser

import torch
from torch import Tensor

from layerflow import LayeredVideo, LayerFlowPipeline, load_layers
from layerflow.evaluation.metrics import alpha_iou, alpha_mae, psnr


def edge_error(alpha: Tensor, truth: Tensor) -> float:
    """Return the mean absolute error of alpha where the true matte is neither opaque nor transparent."""
    edge = (truth > 0.05) & (truth < 0.95)
    return float((alpha - truth)[edge].abs().mean())


parser = ArgumentParser(description=__doc__)
parser.add_argument("layers", help="a folder of true layers, 256x256 pixels for the mini at upscale 4")
parser.add_argument("--steps", type=int, help="denoising steps (default: the model's, 12)")
args = parser.parse_args()

truth = load_layers(args.layers).compose()
pipeline = LayerFlowPipeline.from_pretrained("mini")
result = pipeline(
    given=LayeredVideo(blended=truth.blended, fps=truth.fps),
    upscale=4,
    num_inference_steps=args.steps,
    generator=torch.Generator().manual_seed(0),
).video

print(f"alpha IoU        {alpha_iou(result.alpha, truth.alpha):.3f}")
print(f"alpha MAE        {alpha_mae(result.alpha, truth.alpha):.4f}")
print(f"alpha edge error {edge_error(result.alpha, truth.alpha):.4f}")
print(f"background PSNR  {psnr(result.background, truth.background):.1f} dB")
