"""Whether the service works, what models it has, and its figures for Prometheus: /health and /metrics."""

# No `from __future__ import annotations`: FastAPI reads the annotations, and one of them is known at run time.

import time
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from ..base.version import __version__
from .batching import Batcher
from .metrics import Metrics
from .own_routes import REFUSALS
from .served import Served, ServedModel

__all__ = ["health_router", "metrics_router"]


class Health(BaseModel):
    """The service and its model."""

    status: Literal["ok", "failed"]
    version: str
    model: str
    layout: str
    kind: str | None = Field(description="Kind of task, if the model was fine-tuned for one.")
    labels: list[str]
    abilities: list[str] = Field(description="Routes that this model can answer.")
    reads_pairs: bool = Field(description="Whether the model was trained on pairs of texts.")
    mask_token: str
    max_length: int = Field(description="Number of tokens after which a text is cut.")
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


def health_router(served: Served, batcher: Batcher, *, needs_token: bool) -> APIRouter:
    """Make the route /health, which needs no token."""
    router = APIRouter()
    started = time.monotonic()
    answer_form: Any = Health if len(served.models) == 1 else Health | ServiceHealth

    @router.get(
        "/health", responses={503: {"model": answer_form, "description": "The inference thread has died."}}
    )
    async def health(response: Response, request: Request) -> answer_form:
        """Whether the service works, and what models it has."""
        if not batcher.is_alive:
            response.status_code = 503
        shared: dict[str, Any] = {
            "status": "ok" if batcher.is_alive else "failed",
            "version": __version__,
            "needs_token": needs_token,
            "uptime_s": round(time.monotonic() - started, 3),
        }
        model = served.in_path(request.scope)
        if model is not None:
            return _health(model, shared)
        return ServiceHealth(
            models={name: _health(one, shared) for name, one in served.models.items()},
            waiting_texts=batcher.num_waiting,
            **shared,
        )

    return router


def _health(model: ServedModel, shared: dict[str, Any]) -> Health:
    """The health of one model. shared: the fields that all models of the service share."""
    predictor = model.backend.predictor
    classifies = "classify" in model.abilities
    return Health(
        model=model.name,
        layout=predictor.model.config.name,
        kind=predictor.kind if classifies else None,
        labels=predictor.labels if classifies and predictor.kind != "regression" else [],
        abilities=sorted(model.abilities),
        reads_pairs=bool(predictor.task.get("text_pair")),
        mask_token=str(predictor.tokenizer.mask_token),
        max_length=predictor.task["max_length"],
        model_on_disk=model.is_on_disk,
        waiting_texts=model.lane.num_waiting,
        **shared,
    )


def metrics_router(metrics: Metrics) -> APIRouter:
    """Make /metrics."""
    router = APIRouter()

    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, 401: REFUSALS[401]},
    )
    async def metrics_page() -> Response:
        """Counters for Prometheus."""
        content, media_type = metrics.text()
        return Response(content, media_type=media_type)

    return router
