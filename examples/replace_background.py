"""Give the subject of a video a new background: decompose, generate a background, composite.

Example: python replace_background.py clip.mp4 --background "a starry night" -o out/night
"""

from argparse import ArgumentParser

import torch

from layerflow import LayeredVideo, LayerFlowPipeline, save_layers
from layerflow.media import read_video, write_video

parser = ArgumentParser(description=__doc__)
parser.add_argument("video", help="a video, an animated image or a folder of frames")
parser.add_argument("--background", default="a starry night", help="a prompt for the new background")
parser.add_argument("--steps", type=int, help="denoising steps (default: the model's, 12)")
parser.add_argument("-o", "--output", default="out/replace_background")
args = parser.parse_args()

pipeline = LayerFlowPipeline.from_pretrained("mini")
frames, height, width = pipeline.codec.trained_size
clip = read_video(args.video, frames=frames, fps=8)
blended = LayeredVideo(blended=clip.colour, fps=clip.fps).fit(4 * height, 4 * width)
options = {"upscale": 4, "num_inference_steps": args.steps, "generator": torch.Generator().manual_seed(0)}

# 1. Decompose, and keep the foreground with its alpha.
layers = pipeline(given=blended, **options).video
subject = layers.replace(background=None, blended=None)

# 2. Generate a background for it.
video = pipeline(background=args.background, given=subject, **options).video

# 3. Composite: alpha * foreground + (1 - alpha) * background, exactly.
save_layers(video.compose(), args.output)

# Without a model: the subject over a plain colour.
write_video(f"{args.output}/green_screen.mp4", subject.over([0.0, 0.7, 0.2]), None, video.fps, "mp4")
