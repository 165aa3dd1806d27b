"""transformers' Auto classes learn ours as soon as they are loaded, and `import funnelformer` does not load them."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

__all__ = ["register_when_used"]

# A module of transformers -> ours, which registers its classes when it is imported.
_OURS = {
    "transformers.models.auto.configuration_auto": "funnelformer.config.model_config",
    "transformers.models.auto.modeling_auto": "funnelformer.modeling",
}


def register_when_used() -> None:
    """Import ours where transformers' tables of classes are loaded already, or else right after they are."""
    waiting = dict(_OURS)
    for theirs, ours in _OURS.items():
        if theirs in sys.modules:
            importlib.import_module(ours)
            del waiting[theirs]
    if waiting:
        sys.meta_path.insert(0, _Finder(waiting))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds nothing itself: the modules that are waited for get a loader that imports ours after them."""

    def __init__(self, waiting: dict[str, str]) -> None:
        self._waiting = waiting

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        ours = self._waiting.pop(name, None)
        if not self._waiting and self in sys.meta_path:
            sys.meta_path.remove(self)
        if ours is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, ours)
        return spec


class _Loader(importlib.abc.Loader):
    """Their loader, and then ours."""

    def __init__(self, theirs: importlib.abc.Loader, ours: str) -> None:
        self._theirs, self._ours = theirs, ours

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._theirs.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = self._theirs  # what reads the source through it finds the one that can
        module.__loader__ = self._theirs
        self._theirs.exec_module(module)
        if self._ours not in sys.modules:  # it may be what imports theirs, and registers at its end
            importlib.import_module(self._ours)
