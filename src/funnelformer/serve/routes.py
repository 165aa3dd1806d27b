"""The routes, with the forms of what they read and answer; FastAPI makes the OpenAPI document of them."""

# No `from __future__ import annotations`: FastAPI reads the annotations, and the limits in them are known at run time.

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.exceptions import HTTPException

from ..base.sentence_modules import Pooling
from ..base.version import __version__
from . import jobs
from .backend import Ability, Backend
from .batching import Batcher
from .config import ServeConfig
from .gate import OPEN_PATHS, Gate, error_body
from .metrics import Metrics
from .refused import Refused

__all__ = ["create_app"]

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
# What `text_problem` takes: some character that is no space, and nowhere NUL.
_TEXT = r"^[^\x00]*[^\x00\s][^\x00]*$"
_PAGES = {"/": "index.html", "/docs": "docs.html"}
_WANTED = {
    "classify": "classifies texts or their tokens",
    "embed": "has vectors",
    "fill": "fills masks (masked language modelling)",
    "answer": "answers questions (extractive question answering)",
    "inspect": "shows its inside",
}


class Error(BaseModel):
    """What comes in place of an answer."""

    error: str


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Health(BaseModel):
    """The service and its model."""

    status: Literal["ok", "failed"]
    version: str
    model: str
    layout: str
    kind: str | None = Field(description="Kind of task of a model that classifies.")
    labels: list[str]
    abilities: list[str] = Field(description="Routes that this model can answer.")
    reads_pairs: bool = Field(description="Whether the model was trained on pairs of texts.")
    mask_token: str
    max_length: int = Field(description="Tokens at which a text is cut.")
    needs_token: bool
    model_on_disk: bool = Field(
        description="Whether the model's folder is still there; the service does not need it until it starts again."
    )
    waiting_texts: int
    uptime_s: float


class Label(BaseModel):
    """What `funnelformer predict` says of a text; which fields there are depends on the kind of task."""

    prediction: str | float | list[str]
    probability: float | None = None
    probabilities: dict[str, float] | None = None
    tokens: list[str] | None = Field(None, description="Of a model of tokens: the words of the tags.")
    cut: bool = Field(description="Whether the text was longer than the model reads.")


class Labels(BaseModel):
    results: list[Label]


class Vector(BaseModel):
    vector: list[float]
    cut: bool


class Vectors(BaseModel):
    results: list[Vector]


class Candidate(BaseModel):
    token: str
    probability: float


class Filled(BaseModel):
    masks: list[list[Candidate]] = Field(description="For each mask the likeliest tokens, best first.")


class Fillings(BaseModel):
    results: list[Filled]


class Span(BaseModel):
    answer: str = Field(description="Empty: the passage does not say; of models that learned to tell.")
    start: int = Field(description="First character in the context.")
    end: int = Field(description="The character after its last one.")
    score: float = Field(description="Probability, among the candidates.")


class Spans(BaseModel):
    results: list[Span]


class StageView(BaseModel):
    mixer: str
    members: list[list[int]] = Field(
        description="Tokens of the text that each vector of the block stands for."
    )
    looks: list[list[float]] | None = Field(
        description="Attention of each pooled query to the vectors of the block before, mean of the heads."
    )


class FunnelView(BaseModel):
    tokens: list[str]
    cut: bool
    stages: list[StageView]


def create_app(backend: Backend, config: ServeConfig, token: str | None) -> Gate:
    """The service of one model, as an ASGI application; its lifespan starts and ends the inference thread.

    token: what requests must carry.
    """
    metrics = Metrics()
    batch_tokens = config.max_batch_tokens or backend.batch_tokens
    batcher = Batcher(
        config.max_queue, config.max_delay_ms / 1000, backend.most_padding, batch_tokens, metrics
    )
    metrics.watch("waiting_texts", "Texts that wait for a batch.", lambda: batcher.num_waiting)
    # Tokenizers keep the settings of a call: one thread for all of them, beside that of the model.
    tokenising = ThreadPoolExecutor(1, "tokenise")
    started = time.monotonic()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await asyncio.to_thread(batcher.close)
        tokenising.shutdown()

    app = FastAPI(
        title="funnelformer",
        version=__version__,
        description="A text encoder that shortens the sequence as it deepens, behind HTTP.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        # Relative to the document, so that it is right below a proxy's path too.
        servers=[{"url": config.root_path or "."}],
    )
    app.add_exception_handler(RequestValidationError, _say_what_is_wrong)
    app.add_exception_handler(HTTPException, _say_status)
    app.add_exception_handler(Refused, _say_refused)
    app.add_exception_handler(Exception, _say_failed)

    async def answer(ability: Ability, make: Callable[[], jobs.Job]) -> Any:
        if ability not in backend.abilities:
            able = ", ".join(f"/{name}" for name in sorted(backend.abilities))
            raise Refused(409, f"this model is not one that {_WANTED[ability]}; it answers {able}")
        loop = asyncio.get_running_loop()
        job = await loop.run_in_executor(tokenising, make)
        results = await batcher.run(job.work)
        return await loop.run_in_executor(tokenising, job.finish, results)

    text = Annotated[str, Field(min_length=1, max_length=config.max_text_chars, pattern=_TEXT)]
    pair = Annotated[list[text], Field(min_length=2, max_length=2)]
    several = Field(min_length=1, max_length=config.max_texts)
    text_or_pair = Annotated[text | pair, Field(description="A text, or two that belong together.")]
    count = Annotated[
        int, Field(ge=1, le=jobs.MOST_TOP, description="Candidates, best first."), BeforeValidator(_whole)
    ]

    class Texts(_Strict):
        texts: Annotated[list[text_or_pair], several]

    class TextsToEmbed(Texts):
        pooling: Annotated[
            Pooling | None,
            Field(description="Of the encoder's states; by default the model's own, else mean."),
        ] = None
        normalize: Annotated[bool | None, Field(description="To length 1; by default as the model does.")] = (
            None
        )

    class TextsToFill(_Strict):
        texts: Annotated[list[text], several]
        top: count = 5

    class Question(_Strict):
        question: text
        context: text
        top: count = 1

    class OneText(_Strict):
        text: text_or_pair

    refusals: dict[int | str, dict[str, Any]] = {
        400: {"model": Error, "description": "The body is no JSON, no UTF-8, or cannot be decompressed."},
        401: {"model": Error, "description": "The bearer token is missing or wrong."},
        408: {"model": Error, "description": "The body came too slowly."},
        409: {"model": Error, "description": "The model has no such head."},
        413: {"model": Error, "description": "The body is too large."},
        415: {
            "model": Error,
            "description": "The body is not said to be JSON, or is compressed in a way not known.",
        },
        422: {"model": Error, "description": "A field is wrong, missing, unknown or beyond its limit."},
        429: {"model": Error, "description": "Too much is waiting; Retry-After says when to come again."},
        500: {"model": Error, "description": "The model failed."},
        503: {"model": Error, "description": "The service is stopping."},
    }
    bearer: dict[str, Any] = {} if token is None else {"openapi_extra": {"security": [{"bearer": []}]}}
    post: dict[str, Any] = {"responses": refusals, **bearer}

    @app.post("/classify", response_model_exclude_none=True, **post)
    async def classify(body: Texts) -> Labels:
        """Classes, several labels, an amount, or the tags of the tokens of each text."""
        rows = await answer("classify", lambda: jobs.classify(backend, body.texts))
        return Labels(results=rows)

    @app.post("/embed", **post)
    async def embed(body: TextsToEmbed) -> Vectors:
        """A vector of each text, made of the encoder's states."""
        rows = await answer("embed", lambda: jobs.embed(backend, body.texts, body.pooling, body.normalize))
        return Vectors(results=rows)

    @app.post("/fill", **post)
    async def fill(body: TextsToFill) -> Fillings:
        """The likeliest tokens for each mask in each text; /health says what a mask is written like."""
        return Fillings(results=await answer("fill", lambda: jobs.fill(backend, body.texts, body.top)))

    @app.post("/answer", **post)
    async def answer_question(body: Question) -> Spans:
        """The likeliest answers to a question in a passage; the first is what `funnelformer predict` says."""
        make = lambda: jobs.answer(backend, body.question, body.context, body.top, config.max_texts)  # noqa: E731
        return Spans(results=await answer("answer", make))

    @app.post("/inspect", **post)
    async def inspect(body: OneText) -> FunnelView:
        """How the encoder shortens a text, block by block, and where the pooled queries look."""
        make = lambda: jobs.inspect(backend, body.text, config.inspect_tokens)  # noqa: E731
        return FunnelView(**await answer("inspect", make))

    @app.get("/health", responses={503: {"model": Health, "description": "The inference thread has died."}})
    async def health(response: Response) -> Health:
        """Whether the service works, and what model it has."""
        if not batcher.is_alive:
            response.status_code = 503
        predictor = backend.predictor
        classifies = "classify" in backend.abilities
        return Health(
            status="ok" if batcher.is_alive else "failed",
            version=__version__,
            model=Path(config.model).name,
            layout=predictor.model.config.name,
            kind=predictor.kind if classifies else None,
            labels=predictor.labels if classifies and predictor.kind != "regression" else [],
            abilities=sorted(backend.abilities),
            reads_pairs=bool(predictor.task.get("text_pair")),
            mask_token=str(predictor.tokenizer.mask_token),
            max_length=predictor.task["max_length"],
            needs_token=token is not None,
            model_on_disk=on_disk(),
            waiting_texts=batcher.num_waiting,
            uptime_s=round(time.monotonic() - started, 3),
        )

    was_folder = Path(config.model).exists()

    def on_disk() -> bool:
        """Of a name on the Hub always: its files are the Hub's business."""
        return not was_folder or Path(config.model).exists()

    @app.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, 401: refusals[401]},
        **bearer,
    )
    async def metrics_page() -> Response:
        """Counters for Prometheus."""
        content, media_type = metrics.text()
        return Response(content, media_type=media_type)

    folder = files(__package__) / "page"
    for path in sorted(OPEN_PATHS - {"/health", "/openapi.json"}):
        name = _PAGES.get(path, path.removeprefix("/"))
        content = (folder / name).read_bytes()
        media_type = _MEDIA_TYPES[Path(name).suffix]
        app.add_route(path, _constant(content, media_type), include_in_schema=False)

    if token is not None:
        _describe_token(app)
    routes = frozenset(route.path for route in app.routes if hasattr(route, "path"))
    return Gate(app, config, token, metrics, routes)


def _whole(value: Any) -> Any:
    """JSON has no integers: 5.0 is the number 5."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _constant(content: bytes, media_type: str) -> Callable[[Request], Any]:
    async def send(_: Request) -> Response:
        return Response(content, media_type=media_type)

    return send


def _describe_token(app: FastAPI) -> None:
    document = app.openapi()
    document["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    app.openapi_schema = document


async def _say_what_is_wrong(_: Request, error: Exception) -> JSONResponse:
    """One line: 400 where the body is no JSON, else 422 with the first field that is wrong."""
    assert isinstance(error, RequestValidationError)
    errors = error.errors()
    # Of a text or a pair both are tried: what went deeper is what was meant.
    first = max(errors, key=lambda entry: len(entry["loc"]))
    if first["type"] == "json_invalid":
        where = f"character {first['loc'][-1]}: {first.get('ctx', {}).get('error', '')}"
        return JSONResponse(error_body(f"the body is not valid JSON ({where})"), 400)
    parts = [str(part) for part in first["loc"]]
    where = ".".join(part for part in parts if part not in ("body", "constrained-str") and "[" not in part)
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return JSONResponse(error_body(f"{where or 'body'}: {first['msg']}{more}"), 422)


async def _say_status(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = str(error.detail)
    return JSONResponse(error_body(message), error.status_code, headers=dict(error.headers or {}))


async def _say_refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refused)
    return JSONResponse(error_body(error.message), error.status, headers=error.headers)


async def _say_failed(_: Request, error: Exception) -> JSONResponse:
    """gate.py logs what it was."""
    return JSONResponse(error_body("the request failed; the log says why"), 500)
