"""`--install-completion`: say what will be written, write it, and say how to undo it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ..base.errors import UserError
from .app import app

Shell = Literal["bash", "zsh", "fish", "powershell"]


@app.command(name="--install-completion")
def _install_completion(
    *,
    shell: Shell | None = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
) -> None:
    """Let the shell complete commands and options; says which files it changes, and how to undo it.

    Parameters
    ----------
    shell
        The shell; by default the one that runs.
    output
        File for the script of completions; then no file that the shell reads at its start is changed.
    """
    from cyclopts.completion.detect import ShellDetectionError, detect_shell
    from cyclopts.completion.install import get_default_completion_path

    try:
        shell = shell or detect_shell()
    except ShellDetectionError:
        raise UserError("the shell cannot be detected; name it with --shell") from None
    script = (output or get_default_completion_path(shell, app.name[0])).absolute()
    startup = _startup_file(shell) if output is None else None
    print(f"completions of {shell} go into {script}")
    if startup is not None:
        print(f"a comment and a line that loads them go into {startup}, unless they are there already")
    before = _lines(startup)
    app.install_completion(shell=shell, output=script, add_to_startup=startup is not None)
    added = [line for line in _lines(startup) if line not in before]
    print("done; for shells that are started from now on. To undo it:")
    print(f"  delete {script}")
    if added:
        print(f"  delete from {startup} the lines")
        print("\n".join(f"    {line}" for line in added))


def _startup_file(shell: Shell) -> Path | None:
    """What the shell reads when it starts, and has to name the script."""
    from cyclopts.completion.install import powershell_profile

    if shell == "powershell":
        return powershell_profile()
    return {"bash": Path.home() / ".bashrc", "zsh": Path.home() / ".zshrc"}.get(shell)


def _lines(file: Path | None) -> list[str]:
    return (
        [] if file is None or not file.is_file() else file.read_bytes().decode(errors="replace").splitlines()
    )
