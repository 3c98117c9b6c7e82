"""Export saved layers for video editors, web pages, games and compositors. No model is needed.

Example: python save_for_editors.py out/text_to_layers --preset editors --preset game -o out/delivery
"""

from argparse import ArgumentParser
from pathlib import Path

from layerflow import load_layers
from layerflow.media.export import PRESETS, Settings, deliver

parser = ArgumentParser(description=__doc__)
parser.add_argument("layers", help="a folder written by save_layers or by the layerflow command")
parser.add_argument("--preset", action="append", choices=PRESETS, help="may be repeated (default: editors)")
parser.add_argument("-o", "--output", type=Path, default=Path("out/save_for_editors"))
args = parser.parse_args()

video = load_layers(args.layers)
settings = Settings(
    size=(2 * video.width, 2 * video.height),  # colour is weighted by alpha, so edges stay clean
    timecode="01:00:00:00",
)
for preset in args.preset or ["editors"]:
    record = deliver(video, args.output / preset, preset, settings)
    for file in record["files"]:
        print(f"{preset}/{file['name']}: {file['holds']}")
