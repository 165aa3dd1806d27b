"""What every command that makes a folder can be told for its card: the licence and the languages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from .errors import UserError, short
from .options import grouped

__all__ = ["CardOptions"]

_LICENSE = re.compile(r"[a-z0-9]+([.+-]+[a-z0-9]+)*\+*")
# ISO 639, with a region or script where it has one; and the two words that the Hub adds.
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*|multilingual|code")


@grouped(output="license language")
@dataclass(kw_only=True)
class CardOptions:
    """What a card says beside what is measured. What you do not give is left out of the card."""

    license: str | None = None
    "Licence for the card, as the Hub writes it (apache-2.0, mit, cc-by-4.0); by default the one of the source's card."
    language: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None
    "Languages for the card, as ISO codes (en de); by default those of the source's card."

    def __post_init__(self) -> None:
        """Raises UserError for a licence or language that the Hub would refuse."""
        if self.license is not None and _LICENSE.fullmatch(self.license) is None:
            raise UserError(
                f"--license is {short(self.license)}; allowed: an identifier of the Hub, such as apache-2.0, mit, "
                "cc-by-4.0, other"
            )
        for code in self.language or ():
            if _LANGUAGE.fullmatch(code) is None:
                raise UserError(
                    f"--language is {short(code)}; allowed: codes of languages, such as en, de, zh-Hant"
                )
