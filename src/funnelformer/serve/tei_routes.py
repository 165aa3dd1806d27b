"""The routes that clients of text-embeddings-inference ask; /embed, which reads our form too, is among the others.

Source: text-embeddings-inference 1.7, its OpenAPI document and `router/src/http/types.rs`.
"""

# No `from __future__ import annotations`: FastAPI reads the annotations, and the limits in them are known at run time.

from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag

from ..base.version import __version__
from . import jobs
from .backend import Backend
from .config import ServeConfig
from .request_forms import Forms, Strict, refusals
from .served import Served, ServedModel

__all__ = ["REFUSALS", "TeiForms", "embed_as_tei", "tei_router"]


class TeiError(BaseModel):
    """What comes in place of an answer, as text-embeddings-inference has it."""

    error: str
    error_type: Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]


class Prediction(BaseModel):
    score: float
    label: str


class Rank(BaseModel):
    index: int = Field(description="Of the text in the request, from 0.")
    score: float
    text: str | None = None


class Info(BaseModel):
    """The model and the limits of the service."""

    model_id: str
    model_sha: str | None = None
    model_dtype: str
    model_type: dict[str, dict[str, Any]] = Field(description="embedding, classifier or reranker.")
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int | None = None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int = 1
    version: str
    sha: str | None = None
    docker_label: str | None = None


REFUSALS = refusals(
    TeiError,
    {
        400: "The body is no JSON, no UTF-8, or cannot be decompressed; or nothing is in it.",
        401: "The bearer token is missing or wrong.",
        413: "The body is too large, or has too many texts, or one is too long.",
        422: "A field is wrong, missing, unknown or beyond its limit.",
        424: "The model cannot do this, or failed.",
    },
)


def _kind_of(value: Any) -> str | None:
    """Which form of the inputs of /predict is meant."""
    if isinstance(value, str):
        return "[text]"
    if isinstance(value, list):
        return "[batch]" if value and isinstance(value[0], list) else "[pair]"
    return None


def _kind_of_inputs(value: Any) -> str | None:
    return "[text]" if isinstance(value, str) else "[texts]" if isinstance(value, list) else None


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


class TeiForms:
    """The bodies, within the limits of a service."""

    def __init__(self, forms: Forms) -> None:
        text_or_texts = Annotated[
            Annotated[forms.text, Tag("[text]")] | Annotated[list[forms.text], forms.several, Tag("[texts]")],
            Discriminator(
                _kind_of_inputs,
                custom_error_type="inputs",
                custom_error_message="Input should be a text or a list of texts",
            ),
            Field(description="A text, or several."),
        ]
        one_or_two = Annotated[list[forms.text], Field(min_length=1, max_length=2)]
        texts_or_pairs = Annotated[
            Annotated[forms.text, Tag("[text]")]
            | Annotated[one_or_two, Tag("[pair]")]
            | Annotated[list[one_or_two], forms.several, Tag("[batch]")],
            Discriminator(
                _kind_of,
                custom_error_type="inputs",
                custom_error_message="Input should be a text, a pair of texts, or a list of lists of one or two",
            ),
            Field(description="A text, a pair, or a batch: a list of lists of one text or two."),
        ]
        direction = Annotated[
            Literal["right"], Field(description="Texts are cut at their end."), BeforeValidator(_lower)
        ]

        class Truncates(Strict):
            truncate: Annotated[
                bool | None,
                Field(
                    description="Whether longer texts are cut; else they are refused. By default as --auto-truncate."
                ),
            ] = None
            truncation_direction: direction = "right"
            model: forms.optional_name = None

        class EmbedRequest(Truncates):
            inputs: text_or_texts
            normalize: Annotated[bool, Field(description="To length 1.")] = True
            prompt_name: Annotated[
                str | None,
                Field(description="Name of one of the model's prompts; by default its default one."),
            ] = None

        class PredictRequest(Truncates):
            inputs: texts_or_pairs
            raw_scores: Annotated[bool, Field(description="Logits in place of probabilities.")] = False

        class RerankRequest(Truncates):
            query: forms.text
            texts: Annotated[list[forms.text], forms.several]
            raw_scores: Annotated[bool, Field(description="Without the sigmoid.")] = False
            return_text: bool = False

        self.embed: Any = EmbedRequest
        self.predict: Any = PredictRequest
        self.rerank: Any = RerankRequest


async def embed_as_tei(served: Served, request: Request, body: Any, config: ServeConfig) -> list[list[float]]:
    """What /embed answers to a body of text-embeddings-inference's form: the vectors, a list even of one."""

    def make(backend: Backend) -> jobs.Job:
        job = jobs.vectors(
            backend,
            [body.inputs] if isinstance(body.inputs, str) else body.inputs,
            normalize=body.normalize,
            prompt=body.prompt_name,
            field="inputs",
            may_cut=_may_cut(body, config),
        )
        return job.then(lambda found: found[0].tolist())

    vectors: list[list[float]] = await served.answer(request.scope, body.model, "embed", make)
    return vectors


def tei_router(served: Served, config: ServeConfig, forms: TeiForms) -> APIRouter:
    """Make /predict, /rerank and /info."""
    router = APIRouter()

    @router.post("/predict", responses=REFUSALS)
    async def predict(body: forms.predict, request: Request) -> list[Prediction] | list[list[Prediction]]:
        """Labels and their scores, best first, of a text or of each of a batch."""
        kind = _kind_of(body.inputs)
        entries = body.inputs if kind == "[batch]" else [[body.inputs] if kind == "[text]" else body.inputs]
        make = partial(
            jobs.predictions,
            texts=[entry[0] if len(entry) == 1 else entry for entry in entries],
            field="inputs",
            may_cut=_may_cut(body, config),
            raw=body.raw_scores,
        )
        found = await served.answer(request.scope, body.model, "classify", make)
        rows = [[Prediction(score=score, label=label) for label, score in row] for row in found]
        return rows if kind == "[batch]" else rows[0]

    @router.post("/rerank", responses=REFUSALS, response_model_exclude_none=True)
    async def rerank(body: forms.rerank, request: Request) -> list[Rank]:
        """The texts in the order of their scores for the query."""
        make = partial(
            jobs.rerank,
            query=body.query,
            texts=body.texts,
            may_cut=_may_cut(body, config),
            raw=body.raw_scores,
        )
        found = await served.answer(request.scope, body.model, "rank", make)
        return [
            Rank(index=index, score=score, text=body.texts[index] if body.return_text else None)
            for index, score in found
        ]

    @router.get("/info", responses={code: REFUSALS[code] for code in (401, 422)})
    async def info(request: Request) -> Info:
        """The model and the limits of the service."""
        model = served.chosen(request.scope, None)
        backend = model.backend
        return Info(
            model_id=model.name,
            model_dtype=backend.dtype,
            model_type=_model_type(model),
            max_concurrent_requests=config.max_requests,
            max_input_length=backend.predictor.task["max_length"],
            max_batch_tokens=model.lane.most_tokens,
            max_client_batch_size=config.max_texts,
            auto_truncate=config.auto_truncate,
            version=__version__,
        )

    return router


def _may_cut(body: Any, config: ServeConfig) -> bool:
    return config.auto_truncate if body.truncate is None else bool(body.truncate)


def _model_type(model: ServedModel) -> dict[str, dict[str, Any]]:
    predictor = model.backend.predictor
    if "classify" not in model.abilities or predictor.kind == "tokens":
        vectors = predictor.model.config.vectors
        is_cls = vectors is not None and vectors.pooling == "cls"
        return {"embedding": {"pooling": "cls" if is_cls else "mean"}}
    labels = predictor.labels
    ranks = "rank" in model.abilities and (
        predictor.kind == "regression" or (len(labels) == 2 and bool(predictor.task.get("text_pair")))
    )
    names = {
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    return {"reranker" if ranks else "classifier": names}
