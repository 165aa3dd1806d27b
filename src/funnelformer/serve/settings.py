"""What `serve` can be told, and the limits of the service in one place."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ..data.files import read_bytes
from ..errors import UserError
from ..inference import Backend

__all__ = ["TOKEN_VARIABLE", "ServeConfig"]

TOKEN_VARIABLE = "FUNNELFORMER_TOKEN"
_LEAST_TOKEN_CHARS = 16
_LONGEST_S = 86_400  # a day


@Parameter(name="*")
@dataclass(kw_only=True)
class ServeConfig:
    """What `serve` can be told."""

    model: Annotated[str, Parameter(show=False, parse=False)] = ""
    host: str = "127.0.0.1"
    "Address to listen on; 0.0.0.0 is every one of this machine."
    port: int = 8000
    "Port to listen on; 0 takes a free one."
    token_file: Path | None = None
    "File with the bearer token that requests must carry; by default that of FUNNELFORMER_TOKEN, or none."
    backend: Backend = "auto"
    "What runs the model: PyTorch, or ONNX Runtime an export; auto takes what the folder has, PyTorch's first."
    device: Literal["auto", "cpu"] = "auto"
    "auto takes an accelerator when there is one."
    max_length: int | None = None
    "Tokens at which a text is cut; by default as in training."
    max_delay_ms: float = 5.0
    "Milliseconds that a text may wait for others to share a batch with, while nothing else is computed."
    max_batch_tokens: int | None = None
    "Tokens of a batch, padding included; by default 1024 on a CPU, else 16384."
    max_queue: int = 512
    "Texts that may wait; a request that finds no room is answered 429."
    max_requests: int = 256
    "Requests in progress, those whose body is still coming included; another is answered 429."
    max_texts: int = 64
    "Texts of a request."
    max_text_chars: int = 100_000
    "Characters of a text."
    max_body_bytes: int = 1_000_000
    "Bytes of a request's body."
    inspect_tokens: int = 128
    "Tokens that the view of the funnel shows."
    client_timeout_s: float = 10.0
    "Seconds that a client may take to send a request's head or body, or to read its answer."
    shutdown_timeout_s: float = 60.0
    "Seconds that accepted requests have to end after SIGTERM."

    def __post_init__(self) -> None:
        if self.token_file is not None:
            self.token_file = Path(self.token_file)
        if not 0 <= self.port <= 65535:
            raise UserError(f"--port is {self.port}; allowed: 0 to 65535")
        if self.max_length is not None and self.max_length < 3:
            raise UserError(f"--max-length is {self.max_length}; allowed: 3 and more")
        if not 0 <= self.max_delay_ms <= 60_000:
            raise UserError(f"--max-delay-ms is {self.max_delay_ms}; allowed: 0 to 60000")
        for name in ("max_queue", "max_requests", "max_texts", "max_text_chars", "max_body_bytes"):
            self._at_least(name, 1)
        self._at_least("inspect_tokens", 3)
        if self.max_batch_tokens is not None:
            self._at_least("max_batch_tokens", 1)
        for name in ("client_timeout_s", "shutdown_timeout_s"):
            if not 0 < getattr(self, name) <= _LONGEST_S:
                raise UserError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}; allowed: more than 0, up to {_LONGEST_S:,}"
                )
        if self.max_texts > self.max_queue:
            raise UserError(f"--max-texts {self.max_texts} is more than --max-queue {self.max_queue}")

    def _at_least(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if value < least:
            raise UserError(f"--{name.replace('_', '-')} is {value}; allowed: {least} and more")

    @property
    def is_local(self) -> bool:
        """Whether this machine alone can reach the service."""
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
                raise UserError(f"{where}: a token has ASCII characters alone") from None
        else:
            where, token = TOKEN_VARIABLE, os.environ.get(TOKEN_VARIABLE, "").strip()
            if not token:
                return None
        if len(token) < _LEAST_TOKEN_CHARS or not token.isascii() or len(token.split()) != 1:
            raise UserError(
                f"{where}: a token has at least {_LEAST_TOKEN_CHARS} ASCII characters and no white space"
            )
        return token
