"""Whether the Hugging Face Hub can be reached: asked once, before its client tries each file again and again."""

from __future__ import annotations

import functools
import re
import socket
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from .errors import UserError, did_you_mean

__all__ = ["HUB_NAME", "check_reachable", "hub_problem", "reach_hub"]

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_PROBE_S = 2.0


def check_reachable(source: str) -> None:
    """`reach_hub` for a model that can only be on the Hub: before the libraries are loaded, which takes longer."""
    if HUB_NAME.fullmatch(source) and not Path(source).exists():
        reach_hub(source)


def reach_hub(name: str, kind: str = "model") -> None:
    """Return if `name` can be had: the Hub answers, or its cache on this machine has it.

    kind: model or dataset. Without a network, the Hub's client reads only its cache from here on, in this process.
    If neither has it, raises UserError within 3 s and says how to use a folder instead.
    """
    problem = hub_problem()
    if problem is None:
        return
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind) / "snapshots"
    is_cached = folder.is_dir() and any(folder.iterdir())
    if not is_cached:
        path = Path(name)
        hint = did_you_mean(path.name, sorted(entry.name for entry in path.parent.glob("*")))
        option, missing = "", "folder"
        if kind == "dataset":
            option, missing = " --repo-type dataset", "file or folder"
        raise UserError(
            f"{name}: no such {missing}{hint}, and {problem}; on a machine with a network, `hf download {name}{option} "
            "--local-dir FOLDER` writes one: copy it here and name it instead"
        )
    if not constants.HF_HUB_OFFLINE:
        print(f"{problem}: {name} is taken from the cache of this machine", file=sys.stderr)
        constants.HF_HUB_OFFLINE = True


def hub_problem() -> str | None:
    """Why the Hub cannot be asked, within 3 s; None where it can."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    found = _problem(constants.ENDPOINT)
    return None if found is None else f"the Hugging Face Hub cannot be reached ({found})"


@functools.cache
def _problem(endpoint: str) -> str | None:
    """Why no connection can be made to a server or the proxy before it; None where one can."""
    proxy = getproxies().get(urlsplit(endpoint).scheme)
    address = urlsplit(proxy if proxy and "//" in proxy else f"//{proxy}" if proxy else endpoint)
    host, port = address.hostname or "", address.port or (80 if address.scheme == "http" else 443)
    outcome = ["no answer in 2 s"]

    def connect() -> None:
        try:
            socket.create_connection((host, port), _PROBE_S).close()
            outcome[0] = ""
        except OSError as error:
            outcome[0] = str(error.strerror or error) or type(error).__name__

    # A thread, as the look-up of a name has no time limit of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_PROBE_S)
    return f"{host}: {outcome[0]}" if outcome[0] else None
