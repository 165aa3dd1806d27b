"""`funnelformer serve`: load the models, listen, and end only when all accepted requests are answered."""

from __future__ import annotations

import dataclasses
import logging
import signal
import socket
import sys
from types import FrameType

import uvicorn

from ..base.errors import UserError
from .backend_choice import load_backend
from .config import TOKEN_VARIABLE, ServeConfig
from .connection import TimedConnection
from .routes import create_app

__all__ = ["Server", "make_server", "serve"]

_BACKLOG = 1024
_IDLE_S = 30  # how long a connection may be idle between two requests


class Server(uvicorn.Server):
    """uvicorn's server, which prints where it listens, and ends without an error after SIGTERM or Ctrl-C.

    After the first signal it answers the requests it has accepted; a second Ctrl-C ends it at once.
    """

    def __init__(self, config: uvicorn.Config, listener: socket.socket, settings: ServeConfig) -> None:
        super().__init__(config)
        self.listener = listener
        self.sources, self.root_path = settings.sources, settings.root_path

    def listen(self) -> None:
        """Serve until told to stop."""
        self.run(sockets=[self.listener])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = self.listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{port}{self.root_path}"
        for name, source in self.sources.items():
            where = address if len(self.sources) == 1 else f"{address}/models/{name}"
            print(f"{source} is served at {where} (Ctrl-C stops)", flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True


def serve(config: ServeConfig) -> None:
    """Serve models until SIGTERM or Ctrl-C; requests accepted before that are answered.

    Raises UserError for a model, an address or a token that cannot be used.
    """
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    token = config.token()
    server = make_server(config, token)
    if not config.is_local and token is None:
        print(
            f"anyone who reaches {config.host} can use the model: set --token-file or {TOKEN_VARIABLE}",
            file=sys.stderr,
        )
    server.listen()


def make_server(config: ServeConfig, token: str | None = None) -> Server:
    """Load the configured models, and make their server, bound to its address and ready to listen.

    Raises UserError for a model or an address that cannot be used.
    """
    listener = _bind(config.host, config.port)
    try:
        backends = {
            name: load_backend(dataclasses.replace(config, model=source))
            for name, source in config.sources.items()
        }
        app = create_app(backends, config, token)
    except BaseException:
        listener.close()
        raise
    connection = type("Connection", (TimedConnection,), {"timeout_s": config.client_timeout_s})
    settings = uvicorn.Config(
        app,
        http=connection,
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=max(1, round(config.shutdown_timeout_s)),
    )
    return Server(settings, listener, config)


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise UserError(f"{host}:{port}: cannot listen on this address ({error.strerror})") from error
    return listener
