"""The command line, and functions, in processes of their own, that can be killed.

They come from a server that has imported the package once, and start in a tenth of a second; without pytest's import
hook for shapes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from training.toy import tokens

# What the commands import when they are called, which takes five seconds.
_USED = (
    "funnelformer.training.pretraining.pretrain",
    "funnelformer.training.finetuning.finetune",
    "funnelformer.inference.evaluate",
    "funnelformer.inference.predict",
    "funnelformer.serve.server",
    "funnelformer.serve.torch_backend",
)
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["funnelformer.cli", *_USED])
_TIMEOUT_S = 300


def _begin(environment: dict[str, str], output: str) -> None:
    os.environ.update(environment)
    import torch

    torch.set_num_threads(1)
    file = open(output, "a", buffering=1)  # noqa: SIM115 - the process ends with it
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    sys.stdout = sys.stderr = file


def _command(arguments: list[str], environment: dict[str, str], output: str, harm: Any) -> None:
    _begin(environment, output)
    from funnelformer.cli import main

    if harm is not None:
        harm()
    main(arguments)


def _function(
    function: Callable[..., None], arguments: Any, environment: dict[str, str], output: str
) -> None:
    _begin(environment, output)
    function(*arguments)


def call(function: Callable[..., None], *arguments: object, output: Path, **environment: str) -> int:
    """Call a module's function in a process of its own; the exit code.

    output: file that takes what it prints. environment: set before the function is called.
    """
    child = _CONTEXT.Process(target=_function, args=(function, arguments, environment, str(output)))
    child.start()
    return finish([child])[0]


def warm_run(command: list[str], env: dict[str, str], **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """What `subprocess.run` gives of `python -m funnelformer ...`, from a process that need not import it."""
    assert command[:3] == [sys.executable, "-m", "funnelformer"]
    with tempfile.NamedTemporaryFile("r") as output:
        child = _CONTEXT.Process(target=_command, args=(command[3:], env, output.name, None))
        child.start()
        (code,) = finish([child])
        text = output.read()
    return subprocess.CompletedProcess(command, code, text, text)


def start(
    command: str, *arguments: object, output: Path, harm: Any = None, num_processes: int = 1
) -> list[Any]:
    """Start the command as so many processes of one run, as torchrun does.

    output: file that takes what process 0 prints; that of others has .1 ... behind it.
    harm: function of a module that each calls first.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(num_processes):
        environment = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        if num_processes > 1:
            environment |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(num_processes),
                "LOCAL_WORLD_SIZE": str(num_processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
        name = str(output) + (f".{rank}" if rank else "")
        child = _CONTEXT.Process(target=_command, args=(tokens(command, *arguments), environment, name, harm))
        child.start()
        children.append(child)
    return children


def finish(children: Iterable[Any]) -> list[int]:
    """Wait for the processes; their exit codes, -9 for one that was killed."""
    codes = []
    for child in children:
        child.join(_TIMEOUT_S)
        if child.exitcode is None:
            child.kill()
            raise TimeoutError("a child process did not end")
        codes.append(child.exitcode)
    return codes


def kill_when(children: list[Any], happened: Callable[[], bool], delay_s: float = 0.0) -> list[int]:
    """Send SIGKILL to all of them soon after something has happened; their exit codes."""
    deadline = time.monotonic() + _TIMEOUT_S
    while not happened() and all(child.is_alive() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    time.sleep(delay_s)
    for child in children:
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
    return finish(children)
