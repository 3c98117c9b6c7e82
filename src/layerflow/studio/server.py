"""Start of a studio: checks, address and token."""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
import socket
import sys
from pathlib import Path

from ..core.errors import FieldError, UserError
from ..generation.request import ModelOptions
from .app import LOCAL, Settings, WorkFolderError, create_app
from .entry_points import ModelStart, describe_model
from .limits import MIB, Limits
from .sandbox import ChildError, confined


class StudioError(UserError):
    """A studio that cannot be started as requested."""


def is_local(host: str) -> bool:
    """Return True if only this machine can reach an address to bind to."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def pick_token(host: str, token: str | None) -> str:
    """Return the token to require: `token`, else a new one if other machines can connect, else none.

    Raises FieldError for a token that is too short.
    """
    if token is not None and len(token) < 16:
        raise FieldError("token", f"has {len(token)} characters: it must have 16 or more; leave it out to get one")
    return token or ("" if is_local(host) else secrets.token_urlsafe(24))


def run_studio(
    host: str,
    port: int,
    work: Path,
    token: str | None,
    model: ModelOptions,
    limits: Limits,
    loras: Path | None = None,
) -> None:
    """Serve until interrupted; raises StudioError, WorkFolderError or a model's error before anything is served."""
    import uvicorn

    required = pick_token(host, token)
    listening = bind(host, port)
    with listening:
        try:
            facts = confined(describe_model, model.model, seconds=600, memory=8 * 1024 * MIB)
        except ChildError as error:
            raise StudioError(str(error)) from error
        start = ModelStart(model, limits, loras)
        app = create_app(Settings(work, start, facts, limits, required, LOCAL | {host}))
        address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/"
        print(f"layerflow studio: {address}{f'?token={required}' if required else ''}", file=sys.stderr, flush=True)
        if not is_local(host):
            print("anyone with this address and its token can use the studio; it is not encrypted", file=sys.stderr)
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=5)
        uvicorn.Server(config).run(sockets=[listening])


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address; raises StudioError if it cannot be used."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        raise StudioError(f"{host}:{port} cannot be used ({error.strerror or error}); choose another `port`") from error
    return listening


__all__ = ["StudioError", "WorkFolderError", "bind", "is_local", "pick_token", "run_studio"]
