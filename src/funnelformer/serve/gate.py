"""Before the routes: who may ask, how much, and how long; after them: headers, metrics, and clients that left."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ..base.errors import printable
from ..base.strict_json import json_text
from .codings import check_coding, decompress
from .config import ServeConfig
from .metrics import Metrics
from .protocols import FAILED, error_of
from .refused import Refused
from .served import Served, model_in_path

__all__ = ["OPEN_PATHS", "Gate"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

logger = logging.getLogger(__name__)

# Open without a token: the health of the service, and pages that hold nothing of the model.
OPEN_PATHS = frozenset(
    ["/", "/health", "/docs", "/openapi.json", "/page.css", "/page.js", "/docs.js", "/icon.svg"]
)
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Gate:
    """An ASGI application around the routes.

    It reads the whole body of a request, within the limits of bytes and seconds, before a route sees any of it. So at
    most `max_requests` bodies are in memory. If the client leaves, the route is cancelled.
    token: the bearer token that requests must carry; None: none. routes: paths with own entries in the metrics.
    """

    def __init__(
        self,
        app: App,
        served: Served,
        config: ServeConfig,
        token: str | None,
        metrics: Metrics,
        routes: frozenset[str],
    ) -> None:
        self._app = app
        self._served = served
        self._config = config
        self._metrics = metrics
        self._routes = routes
        self._token_hash = None if token is None else _hash(token.encode())
        self._in_progress = 0
        metrics.watch("requests_in_progress", "Requests in progress.", lambda: self._in_progress)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status: int | None = None
        root = self._config.root_path
        # The page's names are relative to the folder that it is in.
        folders = [root] * bool(root) + [f"/models/{name}" for name in self._served.names]
        for folder in folders:
            if scope["path"] in (folder, f"{root}{folder}"):
                await _redirect(send, f"{folder if folder == root else root + folder}/")
                return
        if root and scope["path"].startswith(f"{root}/"):  # the proxy may pass it on or strip it
            scope = {**scope, "path": scope["path"].removeprefix(root), "raw_path": None}

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name for name, _ in message.get("headers", [])}
                own = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *(e for e in own if e[0] not in given)]
            await send(message)

        try:
            scope = model_in_path(scope)
            await self._answer(scope, receive, send_with_headers)
        except Refused as refusal:
            await _send_error(send_with_headers, scope, refusal)
        except Exception:
            logger.exception("%s %s failed", scope["method"], printable(scope["path"]))
            if status is None:
                await _send_error(send_with_headers, scope, Refused(500, FAILED))
        finally:
            self._metrics.request_ended(self._route(scope["path"]), status, time.perf_counter() - start)

    def _route(self, path: str) -> str:
        """What the path is called in the metrics."""
        if path in self._routes:
            return path
        folder = f"{path.rpartition('/')[0]}/{{model}}"
        return folder if folder in self._routes else "other"

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value for name, value in scope["headers"]}
        if scope["path"] not in OPEN_PATHS:
            self._check_token(headers)
        self._served.check_path(scope)
        if scope["method"] == "HEAD":  # the server leaves the body out
            scope = {**scope, "method": "GET"}
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        self._check_head(headers)
        coding = headers.get("content-encoding", b"identity").decode("latin-1").strip().lower()
        check_coding(coding)
        if self._in_progress >= self._config.max_requests:
            raise Refused(429, "too many requests are in progress", {"Retry-After": "1"})
        self._in_progress += 1
        try:
            body = await self._read_body(receive, coding)
            if body is not None:
                await _run_while_connected(self._app, scope, body, receive, send)
        finally:
            self._in_progress -= 1

    def _check_token(self, headers: dict[str, bytes]) -> None:
        if self._token_hash is None:
            return
        scheme, _, token = headers.get("authorization", b"").partition(b" ")
        # Hashes are compared, so that the time tells nothing about the token's characters or its length.
        is_right = hmac.compare_digest(_hash(token.strip()), self._token_hash)
        if scheme.lower() != b"bearer" or not is_right:
            raise Refused(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})

    def _check_head(self, headers: dict[str, bytes]) -> None:
        kind = headers.get("content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            # Browsers let a page of another site send other types without asking us first; for this one they ask.
            raise Refused(415, "content-type: application/json is needed")
        length = headers.get("content-length", b"0")
        if length.isdigit() and int(length) > self._config.max_body_bytes:
            raise self._too_large()

    def _too_large(self) -> Refused:
        return Refused(413, f"the body is larger than {self._config.max_body_bytes} bytes")

    async def _read_body(self, receive: Receive, coding: str) -> bytes | None:
        """The whole body, decompressed; None if the client left before its end."""
        body = bytearray()
        try:
            async with asyncio.timeout(self._config.client_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > self._config.max_body_bytes:
                        raise self._too_large()
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            raise Refused(
                408, f"the body took more than {self._config.client_timeout_s:g} s", {"Connection": "close"}
            ) from None
        plain = decompress(bytes(body), coding, self._config.max_body_bytes)
        if plain is None:
            raise self._too_large()
        try:
            plain.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Refused(400, f"the body is not valid UTF-8 (byte {error.start})") from None
        return plain


async def _run_while_connected(
    app: App, scope: MutableMapping[str, Any], body: bytes, receive: Receive, send: Send
) -> None:
    """Call `app` with a body that was read completely, and cancel it if the client leaves."""
    gone = asyncio.ensure_future(receive())  # after the body, the only message is that the client has left
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await asyncio.shield(gone)

    route = asyncio.ensure_future(app(scope, replay, send))
    try:
        await asyncio.wait({route, gone}, return_when=asyncio.FIRST_COMPLETED)
        if route.done():
            await route
        else:
            route.cancel()
            await asyncio.wait({route})
    finally:
        route.cancel()
        gone.cancel()


async def _redirect(send: Send, path: str) -> None:
    headers = [(b"location", path.encode()), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 308, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _send_error(send: Send, scope: MutableMapping[str, Any], refusal: Refused) -> None:
    status, values = error_of(scope, refusal)
    body = json_text(values).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def _hash(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
