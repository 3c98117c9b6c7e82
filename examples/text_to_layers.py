"""Generate a layered video from two prompts, with files for the web and for video editors.

Example: python text_to_layers.py --foreground "a blue fish swimming left" --background "a starry night" -o out/fish
"""

from argparse import ArgumentParser

import torch

from layerflow import LayerFlowPipeline, save_layers

parser = ArgumentParser(description=__doc__)
parser.add_argument("--foreground", default="a red balloon rising")
parser.add_argument("--background", default="green hills under a blue sky")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--steps", type=int, help="denoising steps (default: the model's, 12)")
parser.add_argument("-o", "--output", default="out/text_to_layers")
args = parser.parse_args()

pipeline = LayerFlowPipeline.from_pretrained("mini")
video = pipeline(
    foreground=args.foreground,
    background=args.background,
    upscale=4,  # the mini generates 64x64 pixels; its upscaler makes them 256x256
    num_inference_steps=args.steps,
    generator=torch.Generator().manual_seed(args.seed),
).video

# A LayeredVideo holds one tensor per clip, (frames, channels, height, width) in [0, 1].
assert video.alpha is not None
print(f"{video}; the foreground covers {video.alpha.mean():.0%} of the frame")

save_layers(video, args.output, formats=["webm", "prores"])
print(f"Saved to {args.output}; preview.webp shows all layers")
