"""The studio from the command line."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..core.errors import UserError


def start_studio(work: Path, limits: dict[str, Any], **options: Any) -> None:
    """Serve the studio until interrupted; raises UserError where a package is missing."""
    for package in ("gradio", "fastapi", "uvicorn", "psutil"):
        if find_spec(package) is None:
            raise UserError(f"the studio wants {package}; install it with: pip install 'layerflow[studio]'")
    from ..studio.limits import Limits
    from ..studio.server import run_studio

    run_studio(work=work, limits=Limits(**limits), **options)
