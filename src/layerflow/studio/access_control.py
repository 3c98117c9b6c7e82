"""What every request passes before anything looks at it: who asks, from where, how much, for which route."""

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
"""Most bytes of a request that is no upload."""
UPLOADS = "/api/uploads"
GRADIO = "/gradio"
GRADIO_ROUTES = re.compile(
    r"GET /config/?|GET /gradio_api/info/?|GET /gradio_api/heartbeat/[\w-]+"
    r"|POST /gradio_api/call/(run|job|cancel)/?|GET /gradio_api/call/(run|job|cancel)/[\w-]+"
    r"|POST /gradio_api/queue/join/?|GET /gradio_api/queue/data"
)
"""All that calling functions through Gradio takes. Its routes for files, uploads, proxies, pages stay shut."""
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; style-src 'self'; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
ENTRANCE = b"""<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>LayerFlow studio</title><body><h1>LayerFlow studio</h1><form action="/"><label>Token, as the server printed it:
<input name="token" type="password" autocomplete="current-password" required autofocus></label>
<button>Enter</button></form></body></html>"""


class AccessControl:
    """ASGI middleware. It refuses with 401, 403, 404, 413 or 421 before a route is looked for."""

    def __init__(self, app: ASGIApp, token: str = "", hosts: frozenset[str] = frozenset()) -> None:
        """
        Args:
            app: what is behind it.
            token: that every request must show; empty for none.
            hosts: names that the server may be called by, without which a page elsewhere could have its own name
                point here (DNS rebinding); empty for any, where a token keeps strangers out.
        """
        self.app, self.token, self.hosts = app, token, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `AccessControl`."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # there are no web sockets here
            return await send({"type": "websocket.close", "code": 1008})
        sent = _Sent(send)
        try:
            refused = self._refuse(scope)
            if refused is not None:
                return await refused(scope, receive, sent)
            receive = _bounded(scope, receive)
            if scope["path"].startswith(GRADIO) and scope["method"] == "POST":
                receive = await _checked(receive)
            await self.app(scope, receive, sent)
        except _MalformedError:
            await _error(400, "a call is a JSON object with a list named data")(scope, receive, sent)
        except _TooLargeError:
            if not sent.started:
                await _error(413, f"more than {SMALL_BODY} bytes are no request for this")(scope, receive, sent)

    def _refuse(self, scope: Scope) -> Response | None:
        headers, path = Headers(scope=scope), scope["path"]
        host = headers.get("host", "")
        if self.hosts and _name(host) not in self.hosts:
            return _error(421, "this server is not called so; use the address that it printed")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return _error(403, "requests from other sites' pages are not answered")
        if self.token and not self._shown(headers):
            return self._enter(scope)
        if path.startswith(GRADIO) and not GRADIO_ROUTES.fullmatch(f"{scope['method']} {path.removeprefix(GRADIO)}"):
            return _error(404, "there is nothing here; the page is at /")
        return None

    def _shown(self, headers: Headers) -> bool:
        kind, _, shown = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            try:
                cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
            except CookieError:
                return False
            shown = cookie.value if cookie is not None else ""
        return self._fits(shown.strip())

    def _fits(self, shown: str) -> bool:
        return hmac.compare_digest(shown.encode("utf-8", "replace"), self.token.encode())

    def _enter(self, scope: Scope) -> Response:
        if scope["path"] != "/" or scope["method"] != "GET":
            return _error(401, "this server wants its token, as `Authorization: Bearer TOKEN`")
        shown = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if not self._fits(shown):
            return Response(ENTRANCE, 401, media_type="text/html")
        entered = RedirectResponse("/", 303)
        entered.set_cookie(COOKIE, self.token, httponly=True, samesite="strict", secure=scope["scheme"] == "https")
        return entered


class _TooLargeError(Exception):
    pass


class _MalformedError(Exception):
    pass


class Call(BaseModel):
    """What Gradio's clients send: of what Gradio would take, no more than they need."""

    model_config = ConfigDict(extra="forbid", strict=True)

    data: list[Any]
    fn_index: int | None = Field(None, ge=0, lt=3)
    session_hash: str | None = Field(None, pattern=r"^[\w-]{1,64}$")
    trigger_id: int | None = Field(None, ge=0, lt=1000)
    event_data: None = None
    simple_format: bool = False


async def _checked(receive: Receive) -> Receive:
    """`receive` of a call to Gradio, which answers what is no call with an error of its own (500) otherwise."""
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

    async def again() -> Message:
        return whole.pop() if whole else await receive()

    return again


class _Sent:
    """`send` that adds our headers and remembers whether an answer has begun."""

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
    """`receive` that raises when a request other than an upload, which counts for itself, is too large."""
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
    """A Host header without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _error(status: int, sentence: str) -> Any:
    return JSONResponse({"error": sentence}, status)
