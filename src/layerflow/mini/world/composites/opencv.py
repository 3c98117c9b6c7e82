"""OpenCV, imported on first use."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ....core.errors import UserError


class MissingOpenCVError(UserError):
    """OpenCV, which draws the composites, is not installed."""


@lru_cache(maxsize=1)
def opencv() -> Any:
    """Import OpenCV and keep it to one thread, since scenes are drawn by several processes.

    Raises:
        MissingOpenCVError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise MissingOpenCVError(
            "composite scenes are drawn with OpenCV; install it with: pip install 'layerflow[data]'"
        ) from error
    cv2.setNumThreads(0)
    return cv2
