"""What a killed process left is removed by the next of the same output, and nothing else is; modes follow the umask."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from data.support import error_of, write
from funnelformer.base.files import (
    atomic_folder,
    atomic_path,
    atomic_writer,
    check_readable,
    iter_lines,
    temporary_folder,
)
from funnelformer.base.json_toml import read_json
from funnelformer.base.leftovers import temporary_name

SOURCE = Path(__file__).parents[2] / "src"
# The package without what its first import takes, seconds and 500 MB.
BARE = f"""
import sys, types
sys.modules["funnelformer"] = types.ModuleType("funnelformer")
sys.modules["funnelformer"].__path__ = [{str(SOURCE / "funnelformer")!r}]
"""
# Begins to write argv[1] as a file and argv[2] as a folder, and waits.
CHILD = """
import sys, time
from funnelformer.base.files import atomic_folder, atomic_path, temporary_folder
with atomic_path(sys.argv[1]) as file, atomic_folder(sys.argv[2]) as folder, temporary_folder("test"):
    file.write_bytes(b"x" * 1000)
    (folder / "weights").write_bytes(b"x" * 2000)
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def writing(tmp_path, monkeypatch):
    """Processes that are writing the file `out` and the folder `model`."""
    place = tmp_path / "system"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    started = []

    def start():
        environment = {**os.environ, "PYTHONPATH": str(SOURCE), "TMPDIR": str(place)}
        child = subprocess.Popen(
            [sys.executable, "-c", BARE + CHILD, str(tmp_path / "out"), str(tmp_path / "model")],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        started.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        return child

    yield start
    for child in started:
        child.kill()
        child.wait()
        child.stdout.close()


def hidden(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.startswith("."))


def test_leftovers_of_a_killed_process(writing, tmp_path, capsys):
    child, living = writing(), writing()
    child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    others = [
        write(tmp_path / name, "") for name in (".out.tmp", ".out.0-1-2-3.tmp", f".other{temporary_name('')}")
    ]
    assert len(hidden(tmp_path)) == 4 + len(others)  # the child is dead, but not buried yet
    with atomic_writer(tmp_path / "out") as file:
        file.write("new")
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith(f"removed {tmp_path}/.out.")
    assert message.endswith(", left by a process that was killed (1,000 bytes)\n")
    child.wait()
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "a").write_text("new")
    assert "(2,000 bytes)" in capsys.readouterr().err
    # Those of the living one are there, and of other outputs.
    assert len(hidden(tmp_path)) == 2 + len(others)
    assert all(other.exists() for other in others)
    with temporary_folder("test"):
        assert len(os.listdir(tmp_path / "system")) == 2
    assert len(os.listdir(tmp_path / "system")) == 1
    assert living.poll() is None


def test_a_number_that_another_process_has_now(tmp_path, capsys):
    """A process with this one's number that began at another time is dead."""
    host, rest = temporary_name("out").removeprefix(".out.").split("-", 1)
    process, began, token, *_ = rest.removesuffix(".tmp").split("-")
    mine = write(tmp_path / f".out.{host}-{process}-{began}-{token}.tmp", "mine")
    earlier = write(tmp_path / f".out.{host}-{process}-{int(began) - 1}-{token}.tmp", "earlier")
    elsewhere = write(tmp_path / f".out.00000000-{process}-{int(began) - 1}-{token}.tmp", "another host's")
    with atomic_path(tmp_path / "out"):
        pass
    assert str(earlier) in capsys.readouterr().err
    assert [path.exists() for path in (mine, earlier, elsewhere)] == [True, False, True]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002, 0o077])
def test_modes_follow_the_umask(tmp_path, umask):
    """Also of what a library made private."""

    def private(path):
        path.unlink(missing_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))

    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / "file") as temporary:
            private(temporary)
        with atomic_folder(tmp_path / "folder") as folder:
            (folder / "inner").mkdir(mode=0o700)
            private(folder / "inner" / "a")
        with atomic_writer(tmp_path / "text"):
            pass
    finally:
        os.umask(before)
    names = ("file", "text", "folder/inner/a")
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in names} == {0o666 & ~umask}
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("folder", "folder/inner")} == {
        0o777 & ~umask
    }


@pytest.fixture
def as_nobody():
    """A folder anybody may list, and this process as a user who owns nothing."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "private").mkdir()
        write(folder / "model.safetensors", "x").chmod(0o600)
        write(folder / "private" / "a.json", "{}")
        (folder / "private").chmod(0o700)
        os.seteuid(65534)
        yield folder
        os.seteuid(0)


def test_a_permission_problem_is_called_one(as_nobody):
    file = as_nobody / "model.safetensors"
    assert error_of(iter_lines, file) == f"{file}: permission denied; this user may not read the file"
    assert error_of(check_readable, as_nobody).startswith(f"{file}: permission denied")
    assert "permission denied" in error_of(iter_lines, as_nobody / "private" / "a.json")
    assert "permission denied" in error_of(read_json, as_nobody / "private" / "a.json")

    def use(writer, path):
        with writer(path):
            pass

    for writer in (atomic_writer, atomic_path, atomic_folder):
        assert error_of(use, writer, as_nobody / "new").endswith("new: cannot be written (Permission denied)")
