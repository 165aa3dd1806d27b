"""The routes under /v1 for OpenAI's clients: vectors, and the list of models.

Source: OpenAI's API reference, "Embeddings" and "Models", and what the Python client sends.
"""

# No `from __future__ import annotations`: FastAPI reads the annotations, and the limits in them are known at run time.

import base64
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag

from . import jobs
from .backend import Backend
from .config import ServeConfig
from .refused import Refused
from .request_forms import Forms, Strict, refusals, whole
from .served import Served, ServedModel

__all__ = ["openai_router"]


class OpenAIErrorFields(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(BaseModel):
    """An error, in the form of OpenAI's API."""

    error: OpenAIErrorFields


class Embedding(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str = Field(
        description="The numbers, or base64 of their little-endian float32 bytes."
    )


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Time when the model was loaded, in seconds since 1970.")
    owned_by: str = "funnelformer"


class Models(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


REFUSALS = refusals(
    OpenAIError,
    {
        400: "The body cannot be read, a field is wrong, missing or unknown, or a text too long.",
        401: "The API key is missing or wrong.",
        413: "The body is too large.",
        500: "The model failed.",
    },
)


def _kind_of(value: Any) -> str | None:
    """The form of `input`; the first item of a list decides."""
    if isinstance(value, str):
        return "[text]"
    if isinstance(value, list):
        first = value[0] if value else ""
        if isinstance(first, list):
            return "[lists of ids]"
        is_number = isinstance(first, int | float) and not isinstance(first, bool)
        return "[ids]" if is_number else "[texts]"
    return None


class _OpenAIForms:
    """The forms of the request bodies, with the limits of the service and of its models."""

    def __init__(self, served: Served, forms: Forms) -> None:
        most_ids = max(len(model.backend.predictor.tokenizer) for model in served.models.values())
        sizes = [_size(model.backend) for model in served.models.values()]
        token_id = Annotated[int, Field(ge=0, lt=most_ids), BeforeValidator(whole)]
        ids = Annotated[list[token_id], Field(min_length=1, max_length=forms.max_text_chars)]
        kinds = Annotated[
            Annotated[forms.text, Tag("[text]")]
            | Annotated[list[forms.text], forms.several, Tag("[texts]")]
            | Annotated[ids, Tag("[ids]")]
            | Annotated[list[ids], forms.several, Tag("[lists of ids]")],
            Discriminator(
                _kind_of,
                custom_error_type="input",
                custom_error_message="Input should be a text, a list of texts, a list of token ids, or a list of those",
            ),
            Field(description="A text, several texts, or token ids of this model's tokenizer."),
        ]

        class EmbeddingsRequest(Strict):
            input: kinds
            model: forms.name
            encoding_format: Literal["float", "base64"] = "float"
            dimensions: Annotated[
                int | None,
                Field(
                    description="Must be the length of the vectors, because they are not trained to be cut.",
                    json_schema_extra={"minimum": min(sizes), "maximum": max(sizes)},
                ),
                BeforeValidator(whole),
            ] = None
            user: Annotated[str | None, Field(description="Ignored.")] = None

        self.embeddings: Any = EmbeddingsRequest


def openai_router(served: Served, config: ServeConfig, limits: Forms) -> APIRouter:
    """Make /v1/embeddings and /v1/models."""
    router = APIRouter()
    forms = _OpenAIForms(served, limits)

    @router.post("/v1/embeddings", responses=REFUSALS)
    async def embeddings(body: forms.embeddings, request: Request) -> Embeddings:
        """Vectors of length 1, as OpenAI's API gives them."""
        model = served.chosen(request.scope, body.model)
        entries = body.input if _kind_of(body.input) in ("[texts]", "[lists of ids]") else [body.input]

        def make(backend: Backend) -> jobs.Job:
            _check_dimensions(body.dimensions, backend)
            job = jobs.vectors(backend, entries, normalize=True, field="input", may_cut=config.auto_truncate)
            return job.then(lambda found: _answer(model.name, job.num_tokens, found[0], body.encoding_format))

        answer: Embeddings = await model.answer("embed", make)
        return answer

    @router.get("/v1/models", responses={401: REFUSALS[401]})
    async def models(request: Request) -> Models:
        """The models that are served."""
        chosen = served.in_path(request.scope)
        return Models(data=[_model(model) for model in ([chosen] if chosen else served.models.values())])

    @router.get("/v1/models/{model}", responses={401: REFUSALS[401], 404: REFUSALS[404]})
    async def one_model(model: str) -> Model:
        """One of the models that are served."""
        return _model(served.named(model))

    return router


def _size(backend: Backend) -> int:
    """The length of the model's vectors."""
    size: int = backend.predictor.model.config.hidden_size
    return size


def _check_dimensions(asked: int | None, backend: Backend) -> None:
    size = _size(backend)
    if asked is not None and asked != size:
        raise Refused(
            422, f"dimensions: is {asked}; the vectors of this model have {size} numbers", field="dimensions"
        )


def _answer(name: str, num_tokens: int, vectors: np.ndarray, encoding: str) -> Embeddings:
    def encoded(vector: np.ndarray) -> list[float] | str:
        if encoding == "base64":
            return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
        numbers: list[float] = vector.tolist()
        return numbers

    return Embeddings(
        data=[Embedding(index=index, embedding=encoded(vector)) for index, vector in enumerate(vectors)],
        model=name,
        usage=Usage(prompt_tokens=num_tokens, total_tokens=num_tokens),
    )


def _model(model: ServedModel) -> Model:
    return Model(id=model.name, created=model.created_s)
