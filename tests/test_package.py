"""The package itself: its wheel, its version, its completion."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from funnelformer import FunnelformerConfig, __version__
from funnelformer.base.version import VERSION_KEY
from funnelformer.cli import app
from training.toy import run

ROOT = Path(__file__).parents[1]
MOST_WHEEL_BYTES = 30_000_000


def test_the_wheel_is_small_and_has_the_page(tmp_path):
    """Built as `pip wheel .` does, by the backend alone, which needs no network."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(
        ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    build = "import setuptools.build_meta as backend; print(backend.build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wheel = tmp_path / done.stdout.splitlines()[-1]
    assert wheel.name == f"funnelformer-{__version__}-py3-none-any.whl"
    # 28 MB when this was written, of which the model that comes along is 27.5.
    assert wheel.stat().st_size < MOST_WHEEL_BYTES
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert "funnelformer/py.typed" in names
    pages = {path.name for path in (ROOT / "src/funnelformer/serve/page").iterdir()}
    assert {f"funnelformer/serve/page/{name}" for name in pages} <= names
    bundled = ROOT / "src/funnelformer/bundled"
    files = {path.relative_to(bundled.parent.parent) for path in bundled.rglob("*") if path.is_file()}
    assert {path.as_posix() for path in files} <= names


def test_the_version_is_said_once_more_in_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__


def test_a_saved_config_has_the_version_that_saved_it(tmp_path):
    FunnelformerConfig.from_name("B1-1H16").save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    values = json.loads(file.read_text())
    assert values[VERSION_KEY] == __version__
    # One that another version saved loads, and is saved with this one's.
    file.write_text(json.dumps({**values, VERSION_KEY: "0.0.1"}))
    config = FunnelformerConfig.from_pretrained(tmp_path)
    assert config.name == "B1-1H16"
    assert config.to_dict()[VERSION_KEY] == __version__
    assert not hasattr(config, VERSION_KEY)


def test_completion_knows_commands_and_options(tmp_path, monkeypatch, capsys):
    script = app.generate_completion(shell="bash")
    for word in ("finetune", "serve", "--max-delay-ms", "--layer-decay"):
        assert word in script
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run("--install-completion --shell bash --output", tmp_path / "there" / "completion") == 0
    assert (tmp_path / "there" / "completion").read_text() == script


EXTRA = ("fastapi", "uvicorn", "prometheus_client")


@pytest.mark.parametrize("missing", EXTRA)
def test_serve_without_its_extra_says_what_to_install(missing, tmp_path, monkeypatch, capsys):
    for name in EXTRA:
        pytest.importorskip(name, reason="of several that are missing the first is named")
    for name in [name for name in sys.modules if name.startswith("funnelformer.serve.")]:
        if name != "funnelformer.serve.config":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    assert run("serve", tmp_path) == 2
    assert capsys.readouterr().err == (
        f"error: serve needs {missing}, which is not installed: pip install 'funnelformer[serve]'\n"
    )
