"""What `serve` can be told, and the limits of the service in one place."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..base.errors import UserError
from ..base.files import read_bytes
from ..base.options import (
    Backend,
    DeviceOption,
    LongestText,
    at_least,
    between,
    check_ranges,
    grouped,
)
from ..tasks.window_options import WindowOptions

__all__ = ["TOKEN_VARIABLE", "ServeConfig", "name_models"]

TOKEN_VARIABLE = "FUNNELFORMER_TOKEN"
_LEAST_TOKEN_CHARS = 16
TIMEOUT = between("more than 0, up to 86,400 (a day)", lambda value: 0 < value <= 86_400)
# The name of a model is a part of paths and of answers.
_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)=(.+)", re.DOTALL)
_ROOT_PATH = re.compile(r"/|(/[A-Za-z0-9._~-]+)+/?")


@grouped(
    most="host port token_file device",
    model="backend",
    run="root_path max_delay_ms max_batch_tokens max_queue max_requests client_timeout_s shutdown_timeout_s",
    data="max_length auto_truncate max_texts max_text_chars max_body_bytes inspect_tokens",
)
@dataclass(kw_only=True)
class ServeConfig(WindowOptions):
    """What `serve` can be told."""

    model: Annotated[str, Parameter(show=False, parse=False)] = ""
    models: Annotated[dict[str, str], Parameter(show=False, parse=False)] = field(default_factory=dict)
    host: str = "127.0.0.1"
    "Address to listen on; 0.0.0.0 means all addresses of this machine."
    port: Annotated[int, between("0 to 65535", lambda value: 0 <= value <= 65535)] = 8000
    "Port to listen on; 0 takes a free one."
    root_path: str = ""
    "Path under which a proxy offers the service: /nlp for https://host/nlp/. The proxy may strip it or pass it on."
    token_file: Path | None = None
    "File with the bearer token that requests must carry; by default the token in FUNNELFORMER_TOKEN, or none."
    backend: Backend = "auto"
    "What runs the model: PyTorch, or onnx or openvino for an export. auto takes what the folder has, PyTorch first."
    device: DeviceOption = "auto"
    max_length: LongestText = None
    auto_truncate: bool = False
    "Also cut longer texts on the routes of OpenAI and text-embeddings-inference, which otherwise refuse them."
    max_delay_ms: Annotated[float, between("0 to 60000", lambda value: 0 <= value <= 60_000)] = 5.0
    "Milliseconds that a text may wait for others to join its batch, while nothing else is computed."
    max_batch_tokens: Annotated[int | None, at_least(1)] = None
    "Tokens in a batch, padding included; by default 1024 on a CPU, 16384 elsewhere."
    max_queue: Annotated[int, at_least(1)] = 512
    "Most texts that may wait for each model; a request that finds no room gets 429."
    max_requests: Annotated[int, at_least(1)] = 256
    "Requests in progress, including those whose body is still arriving; one more gets 429."
    max_texts: Annotated[int, at_least(1)] = 64
    "Most texts in a request."
    max_text_chars: Annotated[int, at_least(1)] = 100_000
    "Most characters in a text."
    max_body_bytes: Annotated[int, at_least(1)] = 1_000_000
    "Most bytes in a request's body."
    inspect_tokens: Annotated[int, at_least(3)] = 128
    "Most tokens that the view of the funnel shows."
    client_timeout_s: Annotated[float, TIMEOUT] = 10.0
    "Seconds that a client may take to send a request's head or body, or to read its answer."
    shutdown_timeout_s: Annotated[float, TIMEOUT] = 60.0
    "Seconds that accepted requests have to finish after SIGTERM."

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.token_file is not None:
            self.token_file = Path(self.token_file)
        check_ranges(self)
        if self.root_path and not _ROOT_PATH.fullmatch(self.root_path):
            raise UserError(
                f"--root-path is {self.root_path!r}; allowed: a path as /nlp, of letters, digits and -._~/"
            )
        self.root_path = self.root_path.rstrip("/")
        if self.max_texts > self.max_queue:
            raise UserError(f"--max-texts {self.max_texts} is more than --max-queue {self.max_queue}")

    @property
    def sources(self) -> dict[str, str]:
        """The folder or the Hub name of each model, by the name under which it is served."""
        return self.models or {_own_name(self.model): self.model}

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def token(self) -> str | None:
        """The bearer token, without the white space around it. Raises UserError for one that cannot be used."""
        if self.token_file is not None:
            where = str(self.token_file)
            try:
                token = read_bytes(self.token_file).decode("ascii").strip()
            except UnicodeDecodeError:
                raise UserError(f"{where}: a token may hold only ASCII characters") from None
        else:
            where, token = TOKEN_VARIABLE, os.environ.get(TOKEN_VARIABLE, "").strip()
            if not token:
                return None
        if len(token) < _LEAST_TOKEN_CHARS or not token.isascii() or len(token.split()) != 1:
            raise UserError(
                f"{where}: a token has at least {_LEAST_TOKEN_CHARS} ASCII characters and no white space"
            )
        return token


def name_models(arguments: Sequence[str]) -> dict[str, str]:
    """Read the arguments of `serve`, NAME=FOLDER or FOLDER, into folders by name; the default is the folder's name.

    Raises UserError if two models have one name, or if there is none.
    """
    found: dict[str, str] = {}
    for argument in arguments:
        named = None if Path(argument).exists() else _NAMED.fullmatch(argument)
        name, source = (named[1], named[2]) if named else (_own_name(argument), argument)
        if name in found:
            raise UserError(
                f"{argument}: there is a model {name!r} already; name one of them, as NAME={source}"
            )
        found[name] = source
    if not found:
        raise UserError("serve needs a model: a folder, or several as NAME=FOLDER")
    return found


def _own_name(source: str) -> str:
    return Path(source).name or Path(source).resolve().name
