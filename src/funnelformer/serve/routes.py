"""The routes, with the forms of what they read and answer; FastAPI makes the OpenAPI document of them."""

# No `from __future__ import annotations`: FastAPI reads the annotations, and the limits in them are known at run time.

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Discriminator, Field, Tag
from starlette.exceptions import HTTPException

from ..base.sentence_modules import Pooling
from ..base.version import __version__
from . import jobs
from .backend import Backend
from .batching import Batcher
from .config import ServeConfig
from .gate import OPEN_PATHS, Gate
from .metrics import Metrics
from .openai_routes import add_openai_routes
from .protocols import FAILED, error_of, speak
from .refused import Reason, Refused
from .request_forms import Forms, Strict, refusals
from .served import Served, ServedModel
from .tei_routes import REFUSALS as TEI_REFUSALS
from .tei_routes import TeiForms, add_tei_routes, embed_as_tei

__all__ = ["create_app"]

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_PAGES = {"/": "index.html", "/docs": "docs.html"}
# What pydantic calls it when there is nothing, or too much.
_REASONS: dict[str, Reason] = {"too_short": "empty", "string_too_short": "empty", "too_long": "too_many"}


class Error(BaseModel):
    """What comes in place of an answer."""

    error: str


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


class ServiceHealth(BaseModel):
    """The service and all its models."""

    status: Literal["ok", "failed"]
    version: str
    models: dict[str, Health] = Field(description="By their names, which stand in paths and bodies.")
    needs_token: bool
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


class Ranked(BaseModel):
    rank: int
    index: int = Field(description="Of the text in the request, from 0.")
    score: float = Field(description="An amount, or the probability of the label.")
    cut: bool


class Ranking(BaseModel):
    results: list[Ranked]


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


def create_app(backends: Mapping[str, Backend], config: ServeConfig, token: str | None) -> Gate:
    """The service of some models, as an ASGI application; its lifespan starts and ends the inference thread.

    backends: by the names of `config.sources`. token: what requests must carry.
    """
    metrics = Metrics()
    batcher = Batcher(config.max_queue, config.max_delay_ms / 1000, metrics)
    served = Served(config.sources, backends, batcher, config.max_requests, config.max_batch_tokens)
    metrics.watch("waiting_texts", "Texts that wait for a batch.", lambda: batcher.num_waiting)
    started = time.monotonic()

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
    )
    app.add_exception_handler(RequestValidationError, _say_what_is_wrong)
    app.add_exception_handler(HTTPException, _say_status)
    app.add_exception_handler(Refused, _say_refused)
    app.add_exception_handler(Exception, _say_failed)

    forms = Forms(config, served.names)
    tei_forms = TeiForms(forms)
    text_or_pair = Annotated[
        forms.text | forms.pair, Field(description="A text, or two that belong together.")
    ]

    class Asked(Strict):
        model: forms.optional_name = None

    class Texts(Asked):
        texts: Annotated[list[text_or_pair], forms.several]

    class TextsToEmbed(Texts):
        pooling: Annotated[
            Pooling | None,
            Field(description="Of the encoder's states; by default the model's own, else mean."),
        ] = None
        normalize: Annotated[bool | None, Field(description="To length 1; by default as the model does.")] = (
            None
        )

    class TextsToFill(Asked):
        texts: Annotated[list[forms.text], forms.several]
        top: forms.count(jobs.MOST_TOP, "Candidates, best first.") = 5

    class Question(Asked):
        question: forms.text
        context: forms.text
        top: forms.count(jobs.MOST_TOP, "Candidates, best first.") = 1

    class OneText(Asked):
        text: text_or_pair

    class TextsToRank(Asked):
        query: forms.text
        texts: Annotated[list[forms.text], forms.several]
        label: Annotated[
            str | None,
            Field(description="Class whose probability is the score; by default the second of two."),
        ] = None
        top: forms.count(config.max_texts, "Texts to answer, best first; by default all.") | None = None

    to_embed = Annotated[
        Annotated[TextsToEmbed, Tag("[texts]")] | Annotated[tei_forms.embed, Tag("[inputs]")],
        Discriminator(lambda body: "[inputs]" if _is_tei(body) else "[texts]"),
    ]

    refused = refusals(
        Error,
        {
            400: "The body is no JSON, no UTF-8, or cannot be decompressed.",
            401: "The bearer token is missing or wrong.",
            409: "The model has no such head.",
            413: "The body is too large.",
            422: "A field is wrong, missing, unknown or beyond its limit.",
            500: "The model failed.",
        },
    )
    bearer: dict[str, Any] = {} if token is None else {"openapi_extra": {"security": [{"bearer": []}]}}
    post: dict[str, Any] = {"responses": refused, **bearer}

    @app.post("/classify", response_model_exclude_none=True, **post)
    async def classify(body: Texts, request: Request) -> Labels:
        """Classes, several labels, an amount, or the tags of the tokens of each text."""
        model = served.chosen(request.scope, body.model)
        return Labels(
            results=await model.answer("classify", lambda backend: jobs.classify(backend, body.texts))
        )

    @app.post("/embed", responses={**refused, **_either(refused, TEI_REFUSALS)}, **bearer)
    async def embed(body: to_embed, request: Request) -> Vectors | list[list[float]]:
        """A vector of each text, made of the encoder's states; in our form or text-embeddings-inference's."""
        asked: Any = body
        if isinstance(asked, tei_forms.embed):
            return await embed_as_tei(served.chosen(request.scope, asked.model), asked, config)
        speak(request.scope, "own")
        make = lambda backend: jobs.embed(backend, asked.texts, asked.pooling, asked.normalize)  # noqa: E731
        return Vectors(results=await served.chosen(request.scope, asked.model).answer("embed", make))

    @app.post("/fill", **post)
    async def fill(body: TextsToFill, request: Request) -> Fillings:
        """The likeliest tokens for each mask in each text; /health says what a mask is written like."""
        model = served.chosen(request.scope, body.model)
        make = lambda backend: jobs.fill(backend, body.texts, body.top)  # noqa: E731
        return Fillings(results=await model.answer("fill", make))

    @app.post("/answer", **post)
    async def answer_question(body: Question, request: Request) -> Spans:
        """The likeliest answers to a question in a passage; the first is what `funnelformer predict` says."""
        model = served.chosen(request.scope, body.model)
        make = lambda backend: jobs.answer(  # noqa: E731
            backend, body.question, body.context, body.top, config.max_texts
        )
        return Spans(results=await model.answer("answer", make))

    @app.post("/rank", **post)
    async def rank(body: TextsToRank, request: Request) -> Ranking:
        """Texts in the order in which a model of pairs puts them for a query, as `funnelformer rank` does."""
        model = served.chosen(request.scope, body.model)
        make = lambda backend: jobs.rank(backend, body.query, body.texts, body.label, body.top)  # noqa: E731
        return Ranking(results=await model.answer("rank", make))

    @app.post("/inspect", **post)
    async def inspect(body: OneText, request: Request) -> FunnelView:
        """How the encoder shortens a text, block by block, and where the pooled queries look."""
        model = served.chosen(request.scope, body.model)
        make = lambda backend: jobs.inspect(backend, body.text, config.inspect_tokens)  # noqa: E731
        return FunnelView(**await model.answer("inspect", make))

    add_tei_routes(app, served, config, tei_forms, bearer)
    add_openai_routes(app, served, config, forms, bearer)

    def status() -> Literal["ok", "failed"]:
        return "ok" if batcher.is_alive else "failed"

    def uptime_s() -> float:
        return round(time.monotonic() - started, 3)

    def health_of(model: ServedModel) -> Health:
        predictor = model.backend.predictor
        classifies = "classify" in model.abilities
        return Health(
            status=status(),
            version=__version__,
            model=model.name,
            layout=predictor.model.config.name,
            kind=predictor.kind if classifies else None,
            labels=predictor.labels if classifies and predictor.kind != "regression" else [],
            abilities=sorted(model.abilities),
            reads_pairs=bool(predictor.task.get("text_pair")),
            mask_token=str(predictor.tokenizer.mask_token),
            max_length=predictor.task["max_length"],
            needs_token=token is not None,
            model_on_disk=model.is_on_disk,
            waiting_texts=model.lane.num_waiting,
            uptime_s=uptime_s(),
        )

    health_form: Any = Health if len(served.models) == 1 else Health | ServiceHealth

    @app.get(
        "/health", responses={503: {"model": health_form, "description": "The inference thread has died."}}
    )
    async def health(response: Response, request: Request) -> health_form:
        """Whether the service works, and what models it has."""
        if not batcher.is_alive:
            response.status_code = 503
        model = served.in_path(request.scope)
        if model is not None:
            return health_of(model)
        return ServiceHealth(
            status=status(),
            version=__version__,
            models={name: health_of(one) for name, one in served.models.items()},
            needs_token=token is not None,
            waiting_texts=batcher.num_waiting,
            uptime_s=uptime_s(),
        )

    @app.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, 401: refused[401]},
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
    return Gate(app, served, config, token, metrics, routes)


def _servers(config: ServeConfig, names: list[str]) -> list[dict[str, str]]:
    """Of several models where the routes of each are; one has those of the service."""
    if len(names) == 1:
        return []
    return [{"url": f"{config.root_path or '.'}/models/{name}", "description": name} for name in names]


def _is_tei(body: Any) -> bool:
    return isinstance(body, Mapping) and "inputs" in body and "texts" not in body


def _either(
    ours: dict[int | str, dict[str, Any]], theirs: dict[int | str, dict[str, Any]]
) -> dict[int | str, dict[str, Any]]:
    """Of a route that answers in two protocols the refusals of both."""
    both = {}
    for status, entry in theirs.items():
        model = ours[status]["model"] | entry["model"] if status in ours else entry["model"]
        both[status] = {"model": model, "description": entry["description"]}
    return both


def _constant(content: bytes, media_type: str) -> Callable[[Request], Any]:
    async def send(_: Request) -> Response:
        return Response(content, media_type=media_type)

    return send


def _describe_token(app: FastAPI) -> None:
    document = app.openapi()
    document["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    app.openapi_schema = document


async def _say_what_is_wrong(request: Request, error: Exception) -> JSONResponse:
    """One line: 400 where the body is no JSON, else 422 with the first field that is wrong."""
    assert isinstance(error, RequestValidationError)
    errors = error.errors()
    # Of a text or a pair both are tried: what went deeper is what was meant.
    first = max(errors, key=lambda entry: len(entry["loc"]))
    if first["type"] == "json_invalid":
        where = f"character {first['loc'][-1]}: {first.get('ctx', {}).get('error', '')}"
        return _answer(request, Refused(400, f"the body is not valid JSON ({where})"))
    if isinstance(error.body, Mapping) and "texts" in error.body and request.scope["path"] == "/embed":
        speak(request.scope, "own")
    parts = [str(part) for part in first["loc"]]
    parts = [part for part in parts if part not in ("body", "constrained-str") and "[" not in part]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    is_pair = first.get("ctx", {}).get("max_length") == 2  # of which three are no batch that is too large
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
    """gate.py logs what it was."""
    return _answer(request, Refused(500, FAILED))


def _answer(request: Request, refusal: Refused) -> JSONResponse:
    status, body = error_of(request.scope, refusal)
    return JSONResponse(body, status, headers=refusal.headers)
