"""The routes of our own protocol: classify, embed, fill, answer, rank, inspect."""

# No `from __future__ import annotations`: FastAPI reads the annotations, and the limits in them are known at run time.

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Discriminator, Field, Tag

from ..base.sentence_modules import Pooling
from . import jobs
from .config import ServeConfig
from .protocols import speak
from .request_forms import Forms, Strict, refusals
from .served import Served
from .tei_routes import REFUSALS as TEI_REFUSALS
from .tei_routes import TeiForms, embed_as_tei

__all__ = ["REFUSALS", "own_router"]


class Error(BaseModel):
    """An error, in place of an answer."""

    error: str


class Label(BaseModel):
    """What `funnelformer predict` writes for a text; the fields depend on the kind of task."""

    prediction: str | float | list[str]
    probability: float | None = None
    probabilities: dict[str, float] | None = None
    tokens: list[str] | None = Field(
        None, description="The words that the tags belong to, if the model tags tokens."
    )
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
    masks: list[list[Candidate]] = Field(description="The likeliest tokens for each mask, best first.")


class Fillings(BaseModel):
    results: list[Filled]


class Ranked(BaseModel):
    rank: int
    index: int = Field(description="Number of the text in the request, from 0.")
    score: float = Field(description="An amount, or the probability of the label.")
    cut: bool


class Ranking(BaseModel):
    results: list[Ranked]


class Span(BaseModel):
    answer: str = Field(description="Empty if the passage does not say, for models that learned to tell.")
    start: int = Field(description="First character in the context.")
    end: int = Field(description="The character after the answer's last one.")
    score: float = Field(description="Probability among the candidates.")


class Spans(BaseModel):
    results: list[Span]


class StageView(BaseModel):
    mixer: str
    members: list[list[int]] = Field(
        description="Tokens of the text that each vector of the block stands for."
    )
    looks: list[list[float]] | None = Field(
        description="Attention of each pooled query to the vectors of the block before, as the mean of the heads."
    )


class FunnelView(BaseModel):
    tokens: list[str]
    cut: bool
    stages: list[StageView]


REFUSALS = refusals(
    Error,
    {
        400: "The body is not JSON, is not UTF-8, or cannot be decompressed.",
        401: "The bearer token is missing or wrong.",
        409: "The model has no such head.",
        413: "The body is too large.",
        422: "A field is wrong, missing, unknown or beyond its limit.",
        500: "The model failed.",
    },
)


class _OwnForms:
    """The forms of the request bodies, with the limits of the service."""

    def __init__(self, forms: Forms) -> None:
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
                Field(
                    description="How states become a vector; by default as the model does, otherwise mean."
                ),
            ] = None
            normalize: Annotated[
                bool | None, Field(description="Scale vectors to length 1; by default as the model does.")
            ] = None

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
            top: (
                forms.count(forms.max_texts, "Number of texts to return, best first; by default all.") | None
            ) = None

        self.classify: Any = Texts
        self.embed: Any = TextsToEmbed
        self.fill: Any = TextsToFill
        self.answer: Any = Question
        self.inspect: Any = OneText
        self.rank: Any = TextsToRank


def own_router(served: Served, config: ServeConfig, limits: Forms, tei_forms: TeiForms) -> APIRouter:
    """Make our own routes; /embed also reads the form of text-embeddings-inference."""
    router = APIRouter()
    forms = _OwnForms(limits)
    to_embed = Annotated[
        Annotated[forms.embed, Tag("[texts]")] | Annotated[tei_forms.embed, Tag("[inputs]")],
        Discriminator(lambda body: "[inputs]" if _is_tei(body) else "[texts]"),
    ]

    @router.post("/classify", responses=REFUSALS, response_model_exclude_none=True)
    async def classify(body: forms.classify, request: Request) -> Labels:
        """Classes, several labels, an amount, or the tags of the tokens of each text."""
        make = partial(jobs.classify, texts=body.texts)
        return Labels(results=await served.answer(request.scope, body.model, "classify", make))

    @router.post("/embed", responses={**REFUSALS, **_either(REFUSALS, TEI_REFUSALS)})
    async def embed(body: to_embed, request: Request) -> Vectors | list[list[float]]:
        """A vector for each text, from the encoder's states; in our form or text-embeddings-inference's."""
        asked: Any = body
        if isinstance(asked, tei_forms.embed):
            return await embed_as_tei(served, request, asked, config)
        speak(request.scope, "own")
        make = partial(jobs.embed, texts=asked.texts, pooling=asked.pooling, normalize=asked.normalize)
        return Vectors(results=await served.answer(request.scope, asked.model, "embed", make))

    @router.post("/fill", responses=REFUSALS)
    async def fill(body: forms.fill, request: Request) -> Fillings:
        """The likeliest tokens for each mask in each text; /health says how to write a mask."""
        make = partial(jobs.fill, texts=body.texts, top=body.top)
        return Fillings(results=await served.answer(request.scope, body.model, "fill", make))

    @router.post("/answer", responses=REFUSALS)
    async def answer_question(body: forms.answer, request: Request) -> Spans:
        """The likeliest answers to a question in a passage; the first is what `funnelformer predict` says."""
        make = partial(
            jobs.answer,
            question=body.question,
            context=body.context,
            top=body.top,
            most_windows=config.max_texts,
        )
        return Spans(results=await served.answer(request.scope, body.model, "answer", make))

    @router.post("/rank", responses=REFUSALS)
    async def rank(body: forms.rank, request: Request) -> Ranking:
        """Rank texts for a query with a model of pairs, as `funnelformer rank` does."""
        make = partial(jobs.rank, query=body.query, texts=body.texts, label=body.label, top=body.top)
        return Ranking(results=await served.answer(request.scope, body.model, "rank", make))

    @router.post("/inspect", responses=REFUSALS)
    async def inspect(body: forms.inspect, request: Request) -> FunnelView:
        """How the encoder shortens a text, block by block, and where the pooled queries look."""
        make = partial(jobs.inspect, text=body.text, most_tokens=config.inspect_tokens)
        return FunnelView(**await served.answer(request.scope, body.model, "inspect", make))

    return router


def _is_tei(body: Any) -> bool:
    return isinstance(body, Mapping) and "inputs" in body and "texts" not in body


def _either(
    ours: dict[int | str, dict[str, Any]], theirs: dict[int | str, dict[str, Any]]
) -> dict[int | str, dict[str, Any]]:
    """The refusals of a route that speaks two protocols."""
    both = {}
    for status, entry in theirs.items():
        model = ours[status]["model"] | entry["model"] if status in ours else entry["model"]
        both[status] = {"model": model, "description": entry["description"]}
    return both
