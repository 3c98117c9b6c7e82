"""Access control before any route: token, origin and host of a request, its size, and the allowed routes."""

from __future__ import annotations

import hmac
import json
import re
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "layerflow_token"
SMALL_BODY = 64 * 1024
"""Maximum size in bytes of a request that is not an upload."""
UPLOADS = "/api/uploads"
GRADIO = "/gradio"
GRADIO_ROUTES = re.compile(
    r"GET /config/?|GET /gradio_api/info/?|GET /gradio_api/heartbeat/[\w-]+"
    r"|POST /gradio_api/call/(run|job|cancel)/?|GET /gradio_api/call/(run|job|cancel)/[\w-]+"
    r"|POST /gradio_api/queue/join/?|GET /gradio_api/queue/data"
)
"""Routes of Gradio that function calls need. Its routes for files, uploads, proxies and pages stay closed."""
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; style-src 'self'; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
LOGIN = b"""<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>LayerFlow studio</title><body><h1>LayerFlow studio</h1><form action="/"><label>Token, as the server printed it:
<input name="token" type="password" autocomplete="current-password" required autofocus></label>
<button>Enter</button></form></body></html>"""


class AccessControl:
    """ASGI middleware that refuses requests with 401, 403, 404, 413 or 421 before routing."""

    def __init__(self, app: ASGIApp, token: str = "", hosts: frozenset[str] = frozenset()) -> None:
        """Wrap an application.

        Args:
            app: the protected application.
            token: token that every request must carry; empty for none.
            hosts: host names accepted in requests, which prevents DNS rebinding; empty for any, if there is a token.
        """
        self.app, self.token, self.hosts = app, token, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the application, or refuse it."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # web sockets are not supported
            return await send({"type": "websocket.close", "code": 1008})
        sent = _Sent(send)
        try:
            refused = self._refuse(scope)
            if refused is not None:
                return await refused(scope, receive, sent)
            receive = _bounded(scope, receive)
            if scope["path"].startswith(GRADIO) and scope["method"] == "POST":
                receive = await _validated(receive)
            await self.app(scope, receive, sent)
        except _MalformedError:
            await _error(400, "a call is a JSON object with a list named data")(scope, receive, sent)
        except _TooLargeError:
            if not sent.started:
                await _error(413, f"the request is larger than {SMALL_BODY} bytes")(scope, receive, sent)

    def _refuse(self, scope: Scope) -> Response | None:
        headers, path = Headers(scope=scope), scope["path"]
        host = headers.get("host", "")
        if self.hosts and _name(host) not in self.hosts:
            return _error(421, "this is not the server's host name; use the address that it printed")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return _error(403, "requests from pages of other sites are refused")
        if self.token and not self._has_token(headers):
            return self._log_in(scope)
        if path.startswith(GRADIO) and not GRADIO_ROUTES.fullmatch(f"{scope['method']} {path.removeprefix(GRADIO)}"):
            return _error(404, "there is no such route; the page is at /")
        return None

    def _has_token(self, headers: Headers) -> bool:
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            try:
                cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
            except CookieError:
                return False
            token = cookie.value if cookie is not None else ""
        return self._is_valid(token.strip())

    def _is_valid(self, token: str) -> bool:
        return hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode())

    def _log_in(self, scope: Scope) -> Response:
        if scope["path"] != "/" or scope["method"] != "GET":
            return _error(401, "this server requires its token, as `Authorization: Bearer TOKEN`")
        token = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if not self._is_valid(token):
            return Response(LOGIN, 401, media_type="text/html")
        redirect = RedirectResponse("/", 303)
        redirect.set_cookie(COOKIE, self.token, httponly=True, samesite="strict", secure=scope["scheme"] == "https")
        return redirect


class _TooLargeError(Exception):
    pass


class _MalformedError(Exception):
    pass


class Call(BaseModel):
    """Body of a function call through Gradio: only those of Gradio's fields that its clients use."""

    model_config = ConfigDict(extra="forbid", strict=True)

    data: list[Any]
    fn_index: int | None = Field(None, ge=0, lt=3)
    session_hash: str | None = Field(None, pattern=r"^[\w-]{1,64}$")
    trigger_id: int | None = Field(None, ge=0, lt=1000)
    event_data: None = None
    simple_format: bool = False


async def _validated(receive: Receive) -> Receive:
    """Return `receive` of a valid call to Gradio, which answers an invalid one with status 500."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            break
        body, more = body + message.get("body", b""), message.get("more_body", False)
    try:
        Call.model_validate(json.loads(body))
    except (ValueError, RecursionError) as error:
        raise _MalformedError from error
    whole: list[Message] = [{"type": "http.request", "body": body}]

    async def replay() -> Message:
        return whole.pop() if whole else await receive()

    return replay


class _Sent:
    """`send` that adds security headers and records if a response has started."""

    def __init__(self, send: Send) -> None:
        self._send, self.started = send, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
        await self._send(message)


def _bounded(scope: Scope, receive: Receive) -> Receive:
    """Return `receive` that raises when a request is too large; uploads have their own limit."""
    if scope["path"] == UPLOADS:
        return receive
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > SMALL_BODY:
            raise _TooLargeError
        return message

    return counted


def _name(host: str) -> str:
    """Return a Host header without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _error(status: int, sentence: str) -> Any:
    return JSONResponse({"error": sentence}, status)
