"""The command line: parse, call, report. `layerflow --help` imports no torch."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import sys
import warnings
from collections.abc import Sequence

import typer

from .commands import app
from .errors import exit_code, sentence


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0, 2 for a user's mistake, 1 for any other failure."""
    with warnings.catch_warnings():
        # Warnings of this package are for users, those of libraries for programmers.
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module="layerflow")
        warnings.showwarning = lambda message, *_: print(f"note: {message}", file=sys.stderr)  # type: ignore[assignment]
        try:
            code = app(args=arguments, prog_name="layerflow", standalone_mode=False)
        except (KeyboardInterrupt, typer.Abort):
            code = 130
        except Exception as error:
            if os.environ.get("LAYERFLOW_DEBUG") == "1":
                raise
            if message := sentence(error):  # empty for `layerflow` alone, which has printed its help
                print(f"layerflow: {message}", file=sys.stderr)
            return exit_code(error)
    if code == 130:
        print("layerflow: interrupted", file=sys.stderr)
    return code if isinstance(code, int) else 0


def main() -> None:
    """Run the `layerflow` command."""
    # If torchao is installed, diffusers imports it at once, and both log messages that users cannot act on.
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # At exit Python walks over all objects several times, which takes most of a second with torch and diffusers loaded.
    atexit.register(gc.freeze)
    sys.exit(run())


__all__ = ["app", "main", "run"]
