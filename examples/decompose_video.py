"""Decompose a video into a foreground with alpha and a clean background.

Example: python decompose_video.py clip.mp4 -o out/layers
"""

from argparse import ArgumentParser

import torch

from layerflow import LayeredVideo, LayerFlowPipeline, save_layers
from layerflow.media import read_video

parser = ArgumentParser(description=__doc__)
parser.add_argument("video", help="a video, an animated image or a folder of frames")
parser.add_argument("--foreground", help="an optional prompt for the object to extract")
parser.add_argument("--steps", type=int, help="denoising steps (default: the model's, 12)")
parser.add_argument("-o", "--output", default="out/decompose_video")
args = parser.parse_args()

pipeline = LayerFlowPipeline.from_pretrained("mini")
frames, height, width = pipeline.codec.trained_size

# Resample to 8 frames per second, crop to the model's aspect ratio and resize to 4 times its size.
clip = read_video(args.video, frames=frames, fps=8)
blended = LayeredVideo(blended=clip.colour, fps=clip.fps).fit(4 * height, 4 * width)

video = pipeline(
    foreground=args.foreground,
    given=blended,
    upscale=4,
    num_inference_steps=args.steps,
    generator=torch.Generator().manual_seed(0),
).video

save_layers(video, args.output, formats=["ffv1"])  # lossless, 16 bits
print(f"Saved {video} to {args.output}")
