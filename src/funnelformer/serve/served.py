"""The models of a service by their names: each has its queue, and its share of the requests in progress."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import jobs
from .backend import Ability, Backend
from .batching import Batcher, Lane
from .refused import Refused

__all__ = ["Served", "ServedModel", "model_in_path"]

_KEY = "funnelformer.model"
_FOLDER = "/models/"
_WANTED: dict[str, str] = {
    "classify": "classifies texts or their tokens",
    "embed": "has vectors",
    "fill": "fills masks (masked language modelling)",
    "answer": "answers questions (extractive question answering)",
    "inspect": "shows its inside",
    "rank": "ranks documents (classes or amounts of pairs of texts)",
}


class ServedModel:
    """One model: what its routes need.

    source: its folder or its name on the Hub. most_requests: how many requests may be in progress.
    """

    def __init__(self, name: str, source: str, backend: Backend, lane: Lane, most_requests: int) -> None:
        self.name, self.source = name, source
        self.backend = backend
        self.lane = lane
        self.created_s = int(time.time())
        self.abilities = backend.abilities | ({"rank"} if jobs.can_rank(backend) else set())
        self._most_requests = most_requests
        self._in_progress = 0
        self._was_folder = Path(source).exists()
        # A tokenizer keeps the settings of its last call, so each has one thread, apart from that of the models.
        self._tokenising = ThreadPoolExecutor(1, "tokenise")

    @property
    def is_on_disk(self) -> bool:
        """Whether the model's folder is still there; always True for a name on the Hub."""
        return not self._was_folder or Path(self.source).exists()

    async def answer(self, ability: Ability, make: Callable[[Backend], jobs.Job]) -> Any:
        """Run the job that `make` returns, and return its answer.

        Raises Refused (409) if the model lacks the ability, and (429) if it has too many requests.
        """
        if ability not in self.abilities:
            able = ", ".join(f"/{name}" for name in sorted(self.abilities))
            raise Refused(
                409, f"this model is not one that {_WANTED[ability]}; it answers {able}", field="model"
            )
        if self._in_progress >= self._most_requests:
            raise Refused(429, "too many requests for this model are in progress", {"Retry-After": "1"})
        self._in_progress += 1
        try:
            loop = asyncio.get_running_loop()
            job = await loop.run_in_executor(self._tokenising, make, self.backend)
            results = await self.lane.run(job.work)
            return await loop.run_in_executor(self._tokenising, job.finish, results)
        finally:
            self._in_progress -= 1

    def close(self) -> None:
        self._tokenising.shutdown()


class Served:
    """All models of a service. Requests for one model neither fill another's queue nor use up all requests allowed."""

    def __init__(
        self,
        sources: Mapping[str, str],
        backends: Mapping[str, Backend],
        batcher: Batcher,
        most_requests: int,
        batch_tokens: int | None,
    ) -> None:
        """most_requests: limit for all models together. batch_tokens: None: the best number for each backend."""
        share = max(1, most_requests // len(backends))
        self.models = {
            name: ServedModel(
                name,
                sources[name],
                backend,
                batcher.add_lane(name, backend.most_padding, batch_tokens or backend.batch_tokens),
                share,
            )
            for name, backend in backends.items()
        }

    @property
    def names(self) -> list[str]:
        return list(self.models)

    def named(self, name: str) -> ServedModel:
        """The model with this name. Raises Refused (404) if there is none."""
        if name not in self.models:
            raise Refused(
                404, f"no model {name[:80]!r}; {self._list()}", field="model", reason="no_such_model"
            )
        return self.models[name]

    def check_path(self, scope: MutableMapping[str, Any]) -> None:
        """Raise Refused (404) if the path names an unknown model."""
        if _KEY in scope:
            self.named(scope[_KEY])

    def chosen(self, scope: MutableMapping[str, Any], name: str | None) -> ServedModel:
        """The model that a request is for: the one named in its path or body, or the only one.

        Raises Refused (404) for an unknown name, and (422) if path and body disagree, or if none of several is named.
        """
        in_path = scope.get(_KEY)
        if in_path is not None and name is not None and name != in_path:
            raise Refused(422, f"model: is {name[:80]!r}, but the path says {in_path!r}", field="model")
        found = name if in_path is None else in_path
        if found is not None:
            return self.named(found)
        if len(self.models) > 1:
            raise Refused(
                422,
                f"model: there are several models; name one here or in the path /models/NAME/...; {self._list()}",
                field="model",
            )
        return next(iter(self.models.values()))

    async def answer(
        self,
        scope: MutableMapping[str, Any],
        name: str | None,
        ability: Ability,
        make: Callable[[Backend], jobs.Job],
    ) -> Any:
        """The chosen model's answer, see `chosen` and `ServedModel.answer`."""
        return await self.chosen(scope, name).answer(ability, make)

    def in_path(self, scope: MutableMapping[str, Any]) -> ServedModel | None:
        """The model that the path names, or the only one."""
        if len(self.models) > 1 and _KEY not in scope:
            return None
        return self.chosen(scope, None)

    def close(self) -> None:
        for model in self.models.values():
            model.close()

    def _list(self) -> str:
        return f"served: {', '.join(self.models)}"


def model_in_path(scope: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Turn a request for /models/NAME/route into one for /route of that model; others stay as they are."""
    path = scope["path"]
    if not path.startswith(_FOLDER):
        return scope
    name, slash, rest = path.removeprefix(_FOLDER).partition("/")
    return {**scope, "path": slash + rest, "raw_path": None, _KEY: name}
