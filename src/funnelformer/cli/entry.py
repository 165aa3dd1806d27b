"""The command line as a process: options from a file, errors as one line, exit codes."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, get_args

import cyclopts
from cyclopts import Parameter

from ..base.errors import UserError, joined, printable, reject_unknown
from ..base.json_toml import read_toml
from ..base.packages import missing_from_runtime
from ..base.processes import leave_processes, rank
from ..base.streams import discard_stdout, flush_stdout, open_streams
from ..base.strict_json import json_text
from . import completion, inference, measuring, models, training  # noqa: F401  # they add their commands
from .app import app

__all__ = ["main"]


@app.meta.default
def _meta(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Path | None = None,
    debug: bool = False,
) -> Any:
    """Read options from a TOML file first.

    Parameters
    ----------
    config
        TOML file with options of the command; flags on the command line win.
    debug
        Show where in the program an error came up.
    """
    # As an argument of its own "-" is stdin, the default of `predict`; cyclopts takes it for an option.
    tokens = tuple(
        token for i, token in enumerate(tokens) if token != "-" or (i > 0 and tokens[i - 1].startswith("--"))
    )
    app.config = ()
    if config is not None and tokens:
        # Commands below it, as those of lra and bench.
        inner = set(app[tokens[0]]) if tokens[0] in app else set()
        command = tokens[:1]
        if len(tokens) > 1 and tokens[1] in inner and not tokens[1].startswith("-"):
            command, inner = tokens[:2], set()
        options, settings = _options_from(config, command)
        # Under the command's name: at the top level cyclopts drops keys that are commands, as `tokenizer` is.
        under: dict[str, Any] = options
        for name in reversed(command):
            under = {name: under}
        app.config = (cyclopts.config.Dict(under, source=str(config)),)
        # As flags: of a table cyclopts would drop every key as soon as the command line sets one.
        given = {token.partition("=")[0] for token in tokens}
        tokens += tuple(f"--set.{k}={v}" for k, v in settings.items() if f"--set.{k}" not in given)
        # A key that is a command as well (`generate` of lra) would be dropped below the top level too.
        tokens += tuple(f"--{k}={v}" for k, v in options.items() if k in inner and f"--{k}" not in given)
    return app(tokens, exit_on_error=False, print_error=False)


def _options_from(file: Path, command: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    """The options in a TOML file, checked against those of the command, and apart from them its table `set`."""
    settings: dict[str, str] = {}
    options = read_toml(file)
    if command[0] in app:
        named = app[command[0]] if len(command) == 1 else app[command[0]][command[1]]
        arguments = named.assemble_argument_collection()
        known = {argument.name.removeprefix("--"): argument.hint for argument in arguments}
        for key, value in list(options.items()):
            name = key.replace("_", "-")
            reject_unknown([name], known, str(file))
            if int in (known[name], *get_args(known[name])) and isinstance(
                value, float
            ):  # cyclopts would round it
                raise UserError(f"{file}: {key} is {value}; allowed: a whole number")
            if name == "set" and isinstance(value, dict):  # text, as on the command line
                settings = {
                    k: v if isinstance(v, str) else repr(v) if isinstance(v, float) else json_text(v)
                    for k, v in options.pop(key).items()
                }
    return options, settings


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Exit code 2 and one line for input that cannot be used, 130 when interrupted, 1 and one line for a mistake of ours.
    """
    open_streams()
    _quieten_libraries()
    given = sys.argv[1:] if arguments is None else arguments
    try:
        app.meta(arguments, exit_on_error=False, print_error=False)
        leave_processes()
        flush_stdout()
    except KeyboardInterrupt as interrupt:
        print(printable(str(interrupt)) or "interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        discard_stdout()  # its reader left, as `head` does
    except Exception as error:
        if "--debug" in given:
            traceback.print_exc()
        message, code = _explain(error)
        process = f" (process {rank()})" if rank() else ""
        print(f"error{process}: {printable(message)}", file=sys.stderr)
        try:
            flush_stdout()
        except OSError:
            discard_stdout()
        sys.exit(code)


def _quieten_libraries() -> None:
    """No advice and no bars of transformers, datasets and the Hub; by variables, which need no import."""
    bars = not sys.stderr.isatty()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if bars:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    # In a process that has imported them before, the variables are read no more.
    if (transformers := sys.modules.get("transformers")) is not None:
        transformers.logging.set_verbosity_error()
        if bars:
            transformers.logging.disable_progress_bar()
    if bars and (datasets := sys.modules.get("datasets")) is not None:
        datasets.disable_progress_bars()


def _explain(error: Exception) -> tuple[str, int]:
    """The line that a user gets for an error, and the exit code."""
    if isinstance(error, UserError | cyclopts.CycloptsError):
        return joined(error), 2
    if isinstance(error, ModuleNotFoundError) and (message := missing_from_runtime(error.name)):
        return message, 2
    if isinstance(error, PermissionError) and error.filename is not None:
        return f"{error.filename}: permission denied", 2
    # A full disk; without a file's name another error is more likely our mistake.
    if isinstance(error, OSError) and (error.filename is not None or error.errno == errno.ENOSPC):
        return f"{error.filename or 'output'}: {error.strerror}", 2
    return f"unexpected {type(error).__name__}: {joined(error)} (--debug shows where it came up)", 1
