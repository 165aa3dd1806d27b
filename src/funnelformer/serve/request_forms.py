"""What the forms of all protocols share: limits of texts, names of models, and whole numbers in JSON."""

# No `from __future__ import annotations`: pydantic reads the annotations, and the limits in them are known at run time.

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from .config import ServeConfig

__all__ = ["Forms", "Strict", "refusals", "whole"]

# What `text_problem` accepts: at least one character that is not a space, and no NUL.
_TEXT = r"^[^\x00]*[^\x00\s][^\x00]*$"


class Strict(BaseModel):
    """A body in which an unknown field, or a value of another type, is an error."""

    model_config = ConfigDict(extra="forbid", strict=True)


def whole(value: Any) -> Any:
    """Take 5.0 as the integer 5, because JSON does not distinguish them."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


# Statuses that mean the same in every protocol.
_IN_ALL = {
    404: "There is no such model.",
    408: "The body came too slowly.",
    415: "The Content-Type is not JSON, or the Content-Encoding is unknown.",
    429: "Too many requests are waiting; Retry-After says when to try again.",
    503: "The service is stopping.",
}


def refusals(form: Any, descriptions: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """The errors of a protocol by status, as the OpenAPI document of the routes describes them.

    form: the form of an error's body. descriptions: of the statuses whose meaning depends on the protocol.
    """
    return {
        status: {"model": form, "description": text}
        for status, text in sorted({**_IN_ALL, **descriptions}.items())
    }


class Forms:
    """Types of fields within the limits of a service.

    text; pair: two that belong together. several: limits of a list of texts. name: of a model that is served.
    """

    def __init__(self, config: ServeConfig, names: Sequence[str]) -> None:
        self.text: Any = Annotated[str, Field(min_length=1, max_length=config.max_text_chars, pattern=_TEXT)]
        self.pair: Any = Annotated[list[self.text], Field(min_length=2, max_length=2)]
        self.several: Any = Field(min_length=1, max_length=config.max_texts)
        self.max_text_chars = config.max_text_chars
        self.max_texts = config.max_texts
        self.name: Any = Annotated[
            str, Field(description="Name of a model that is served.", json_schema_extra={"enum": [*names]})
        ]
        needed = "" if len(names) == 1 else " Needed, unless the path names it."
        self.optional_name: Any = Annotated[
            str | None,
            Field(description=f"Name of the model.{needed}", json_schema_extra={"enum": [*names, None]}),
        ]

    def count(self, most: int, description: str) -> Any:
        """A whole number from 1."""
        return Annotated[int, Field(ge=1, le=most, description=description), BeforeValidator(whole)]
