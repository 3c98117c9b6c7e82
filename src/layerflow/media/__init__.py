"""Read and write videos, images and folders of frames, with alpha. Independent of models."""

from .formats import BEST_FIRST, FORMATS, Format, find_format
from .layers import filled_together, layers_of, load_layers, lossy_layers, save_layers, saved_clips
from .preview import contact_sheet, write_preview
from .reading import read_video
from .stills import natural_order
from .video import MediaError, ReadLimits, Video
from .writing import write_video

__all__ = [
    "BEST_FIRST",
    "FORMATS",
    "Format",
    "MediaError",
    "ReadLimits",
    "Video",
    "contact_sheet",
    "filled_together",
    "find_format",
    "layers_of",
    "load_layers",
    "lossy_layers",
    "natural_order",
    "read_video",
    "save_layers",
    "saved_clips",
    "write_preview",
    "write_video",
]
