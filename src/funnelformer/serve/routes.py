"""The application: the routes of all protocols, the answers to errors, and the pages.

FastAPI makes the OpenAPI document from the routes and from the forms of their requests and answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from ..base.version import __version__
from .backend import Backend
from .batching import Batcher
from .config import ServeConfig
from .gate import OPEN_PATHS, Gate
from .health_routes import health_router, metrics_router
from .metrics import Metrics
from .openai_routes import openai_router
from .own_routes import own_router
from .protocols import FAILED, error_of, speak
from .refused import Reason, Refused
from .request_forms import Forms
from .served import Served
from .tei_routes import TeiForms, tei_router

__all__ = ["create_app"]

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_PAGES = {"/": "index.html", "/docs": "docs.html"}
# For the OpenAPI document alone: the gate has checked the token before.
_BEARER = HTTPBearer(scheme_name="bearer", auto_error=False)
# pydantic's types of the errors "nothing given" and "too much given" -> our reasons.
_REASONS: dict[str, Reason] = {"too_short": "empty", "string_too_short": "empty", "too_long": "too_many"}


def create_app(backends: Mapping[str, Backend], config: ServeConfig, token: str | None) -> Gate:
    """Make the service of some models, an ASGI application; its lifespan starts and ends the inference thread.

    backends: by the names of `config.sources`. token: the bearer token that requests must carry; None: none.
    """
    metrics = Metrics()
    batcher = Batcher(config.max_queue, config.max_delay_ms / 1000, metrics)
    served = Served(config.sources, backends, batcher, config.max_requests, config.max_batch_tokens)
    metrics.watch("waiting_texts", "Texts that wait for a batch.", lambda: batcher.num_waiting)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await asyncio.to_thread(batcher.close)
        served.close()

    app = FastAPI(
        title="funnelformer",
        version=__version__,
        description="A text encoder that shortens the sequence as it deepens, behind HTTP.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        # Relative to the document, so that it is right below a proxy's path too.
        servers=[{"url": config.root_path or "."}, *_servers(config, served.names)],
        exception_handlers={
            RequestValidationError: _say_what_is_wrong,
            HTTPException: _say_status,
            Refused: _say_refused,
            Exception: _say_failed,
        },
    )
    limits = Forms(config, served.names)
    tei_forms = TeiForms(limits)
    health = health_router(served, batcher, needs_token=token is not None)
    routers = [
        own_router(served, config, limits, tei_forms),
        tei_router(served, config, tei_forms),
        openai_router(served, config, limits),
        health,
        metrics_router(metrics),
    ]
    for router in routers:
        is_open = token is None or router is health
        app.include_router(router, dependencies=[] if is_open else [Depends(_BEARER)])
    _add_pages(app)
    paths = [route.path for one in (app.router, *routers) for route in one.routes if hasattr(route, "path")]
    return Gate(app, served, config, token, metrics, frozenset(paths))


def _servers(config: ServeConfig, names: list[str]) -> list[dict[str, str]]:
    """The base URL of each of several models; for one model, that of the service."""
    if len(names) == 1:
        return []
    return [{"url": f"{config.root_path or '.'}/models/{name}", "description": name} for name in names]


def _add_pages(app: FastAPI) -> None:
    folder = files(__package__) / "page"
    for path in sorted(OPEN_PATHS - {"/health", "/openapi.json"}):
        name = _PAGES.get(path, path.removeprefix("/"))
        content = (folder / name).read_bytes()
        media_type = _MEDIA_TYPES[Path(name).suffix]
        app.add_route(path, _constant(content, media_type), include_in_schema=False)


def _constant(content: bytes, media_type: str) -> Callable[[Request], Any]:
    async def send(_: Request) -> Response:
        return Response(content, media_type=media_type)

    return send


async def _say_what_is_wrong(request: Request, error: Exception) -> JSONResponse:
    """Answer in one line: 400 if the body is not JSON, otherwise 422 with the first field that is wrong."""
    assert isinstance(error, RequestValidationError)
    errors = error.errors()
    # pydantic tries both a text and a pair: the error that lies deeper is of the form that was meant.
    first = max(errors, key=lambda entry: len(entry["loc"]))
    if first["type"] == "json_invalid":
        where = f"character {first['loc'][-1]}: {first.get('ctx', {}).get('error', '')}"
        return _answer(request, Refused(400, f"the body is not valid JSON ({where})"))
    if isinstance(error.body, Mapping) and "texts" in error.body and request.scope["path"] == "/embed":
        speak(request.scope, "own")
    parts = [str(part) for part in first["loc"]]
    parts = [part for part in parts if part not in ("body", "constrained-str") and "[" not in part]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    is_pair = first.get("ctx", {}).get("max_length") == 2  # three texts in a pair are not too large a batch
    refusal = Refused(
        422,
        f"{'.'.join(parts) or 'body'}: {first['msg']}{more}",
        field=parts[0] if parts else None,
        reason=None if is_pair else _REASONS.get(first["type"]),
    )
    return _answer(request, refusal)


async def _say_status(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _answer(request, Refused(error.status_code, str(error.detail), dict(error.headers or {})))


async def _say_refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refused)
    return _answer(request, error)


async def _say_failed(request: Request, error: Exception) -> JSONResponse:
    """Answer 500; gate.py logs the exception."""
    return _answer(request, Refused(500, FAILED))


def _answer(request: Request, refusal: Refused) -> JSONResponse:
    status, body = error_of(request.scope, refusal)
    return JSONResponse(body, status, headers=refusal.headers)
