"""What a measurement says of where it was made."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from funnelformer.base import machine


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("is_tracked", [False, True])
def test_the_commit_is_that_of_the_source_and_of_no_other_repository(is_tracked, tmp_path, monkeypatch):
    """An environment may lie inside the user's repository, which does not track it."""
    package = tmp_path / ("src" if is_tracked else ".venv") / "funnelformer"
    (package / "base").mkdir(parents=True)
    shutil.copy(machine.__file__, package / "base/machine.py")
    (tmp_path / ".gitignore").write_text(".venv\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "the user's work")
    monkeypatch.setattr(machine, "__file__", str(package / "base/machine.py"))
    assert machine.versions()["commit"] == (git(tmp_path, "rev-parse", "HEAD") if is_tracked else None)


def test_every_accelerator_is_waited_for(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    for name in ("cpu", "cuda", "xpu", "mps"):
        machine.wait_for(torch.device(name))
    assert [device.type for device in waited] == ["cuda", "xpu", "mps"]


def test_nothing_else_waits_for_a_device():
    source = Path(machine.__file__).parents[1]
    found = [str(p.relative_to(source)) for p in source.rglob("*.py") if ".synchronize(" in p.read_text()]
    assert found == ["base/machine.py"]
