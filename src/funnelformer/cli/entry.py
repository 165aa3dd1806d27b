"""The command line as a process: options from a file, errors as one line, exit codes."""

from __future__ import annotations

import errno
import os
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, get_args

import cyclopts
import datasets
import transformers
from cyclopts import Parameter

from ..data.files import iter_lines
from ..errors import UserError, joined, printable, reject_unknown
from ..strict_json import json_text
from ..training.processes import rank
from . import inference, measuring, models, training  # noqa: F401  # they add their commands
from .app import app

__all__ = ["main"]


@app.meta.default
def _meta(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Path | None = None,
) -> Any:
    """Read options from a TOML file first.

    Parameters
    ----------
    config
        TOML file with options of the command; flags on the command line win.
    """
    # As an argument of its own "-" is stdin, the default of `predict`; cyclopts takes it for an option.
    tokens = tuple(token for i, token in enumerate(tokens) if token != "-" or tokens[i - 1].startswith("--"))
    app.config = ()
    if config is not None and tokens:
        # Commands below it, as those of lra and bench.
        inner = set(app[tokens[0]]) if tokens[0] in app else set()
        if len(tokens) > 1 and tokens[1] in inner and not tokens[1].startswith("-"):
            raise UserError(f"--config {config}: {tokens[0]} {tokens[1]} takes no file of options")
        options, settings = _options_from(config, tokens[0])
        # Under the command's name: at the top level cyclopts drops keys that are commands, as `tokenizer` is.
        app.config = (cyclopts.config.Dict({tokens[0]: options}, source=str(config)),)
        # As flags: of a table cyclopts would drop every key as soon as the command line sets one.
        given = {token.partition("=")[0] for token in tokens}
        tokens += tuple(f"--set.{k}={v}" for k, v in settings.items() if f"--set.{k}" not in given)
        # A key that is a command as well (`generate` of lra) would be dropped below the top level too.
        tokens += tuple(f"--{k}={v}" for k, v in options.items() if k in inner and f"--{k}" not in given)
    return app(tokens, exit_on_error=False, print_error=False)


def _options_from(file: Path, command: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The options in a TOML file, checked against those of the command, and apart from them its table `set`."""
    settings: dict[str, str] = {}
    try:
        options = tomllib.loads("\n".join(line for _, line in iter_lines(file)))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{file}: not valid TOML ({error})") from None
    if command in app:
        arguments = app[command].assemble_argument_collection()
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
    """Run the command line: exit code 2 and one line for input that cannot be used, 130 when interrupted."""
    transformers.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()
        datasets.disable_progress_bars()
    try:
        app.meta(arguments, exit_on_error=False, print_error=False)
    except (UserError, cyclopts.CycloptsError) as error:
        sys.exit(_fail(joined(error)))
    except KeyboardInterrupt as interrupt:
        print(printable(str(interrupt)) or "interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of stdout left, as `head` does; Python must not try to flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        # A full disk, a folder without permission; without a file's name it is more likely our mistake.
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        sys.exit(_fail(f"{error.filename or 'output'}: {error.strerror}"))


def _fail(message: str) -> int:
    process = f" (process {rank()})" if rank() else ""
    print(f"error{process}: {printable(message)}", file=sys.stderr)
    return 2
