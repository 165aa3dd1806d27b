"""What an error looks like in each protocol that the service speaks: ours, OpenAI's, text-embeddings-inference's.

Source: OpenAI's API reference, "Errors"; text-embeddings-inference, `router/src/http/server.rs`.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, Literal

from .refused import Refused

__all__ = ["FAILED", "TEI_STATUSES", "error_of", "speak"]

Protocol = Literal["own", "openai", "tei"]

FAILED = "the request failed; the log says why"
_KEY = "funnelformer.protocol"
_OPENAI_PATHS = "/v1/"
# /embed also reads our form. Before its body is read, errors have the fields of both protocols.
_TEI_PATHS = frozenset(["/embed", "/predict", "/rerank", "/info"])
# Our status -> that of text-embeddings-inference, if it differs.
_TEI_REASONS = {"empty": 400, "too_many": 413, "too_long": 413}
TEI_STATUSES = {409: 424, 500: 424}
_TEI_TYPES = {424: "Backend", 429: "Overloaded", 503: "Unhealthy"}
_OPENAI_STATUSES = {409: 400, 422: 400}
_OPENAI_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}


def speak(scope: MutableMapping[str, Any], protocol: Protocol) -> None:
    """Set the protocol of a request, on a path that reads the forms of two."""
    scope[_KEY] = protocol


def error_of(scope: MutableMapping[str, Any], refusal: Refused) -> tuple[int, dict[str, Any]]:
    """Status and body of an error, in the protocol of the request."""
    return _FORMS[scope.get(_KEY) or _protocol_of(scope["path"])](refusal)


def _protocol_of(path: str) -> Protocol:
    if path.startswith(_OPENAI_PATHS):
        return "openai"
    return "tei" if path in _TEI_PATHS else "own"


def _own(refusal: Refused) -> tuple[int, dict[str, Any]]:
    return refusal.status, {"error": refusal.message}


def _tei(refusal: Refused) -> tuple[int, dict[str, Any]]:
    status = _TEI_REASONS.get(refusal.reason or "", TEI_STATUSES.get(refusal.status, refusal.status))
    kind = "Empty" if refusal.reason == "empty" else _TEI_TYPES.get(status, "Validation")
    return status, {"error": refusal.message, "error_type": kind}


def _openai(refusal: Refused) -> tuple[int, dict[str, Any]]:
    status = _OPENAI_STATUSES.get(refusal.status, refusal.status)
    kind = "server_error" if status >= 500 else "requests" if status == 429 else "invalid_request_error"
    code = "model_not_found" if refusal.reason == "no_such_model" else _OPENAI_CODES.get(status)
    error = {"message": refusal.message, "type": kind, "param": refusal.field, "code": code}
    return status, {"error": error}


_FORMS: dict[Protocol, Callable[[Refused], tuple[int, dict[str, Any]]]] = {
    "own": _own,
    "openai": _openai,
    "tei": _tei,
}
