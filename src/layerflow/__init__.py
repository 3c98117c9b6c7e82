"""LayerFlow: from one prompt per layer to a transparent foreground, a clean background and the blended video.

The attributes load when they are first used, so that `import layerflow` and `layerflow --help` stay fast.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from .core.garbage_collection import paused_collection

if TYPE_CHECKING:
    from .core.given import Given
    from .core.layered_video import Foreground, LayeredVideo
    from .media import load_layers, save_layers
    from .pipeline import LayerFlowPipeline

try:
    __version__ = version("layerflow")
except PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0.0.0+source"

__all__ = ["Foreground", "Given", "LayerFlowPipeline", "LayeredVideo", "__version__", "load_layers", "save_layers"]

_HOMES = {
    "Foreground": ".core.layered_video",
    "Given": ".core.given",
    "LayerFlowPipeline": ".pipeline",
    "LayeredVideo": ".core.layered_video",
    "load_layers": ".media",
    "save_layers": ".media",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with paused_collection():
        value = getattr(import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
