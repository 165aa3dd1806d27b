"""What is imported when: `--help` and `--version` need no library of models, and AutoModel knows ours all the same."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import funnelformer
from funnelformer.cli import app
from training.toy import run

SOURCE = Path(funnelformer.__file__).parents[1]
HEAVY = (
    "torch",
    "transformers",
    "datasets",
    "pandas",
    "sklearn",
    "numpy",
    "pyarrow",
    "matplotlib",
    "fastapi",
)
REPORT = f"""
import sys
def loaded():
    return " ".join(name for name in {HEAVY!r} if name in sys.modules)
"""
COMMANDS = [name for name in app if not name.startswith("-") and name not in ("lra", "bench")] + [
    "lra",
    "lra generate",
    "lra report",
    "bench",
    "bench compare",
]


def python(code: str, *arguments: str) -> str:
    """The last line that a fresh interpreter prints."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run(
        [sys.executable, "-c", REPORT + code, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    return done.stdout.splitlines()[-1]


def test_help_and_version_import_no_library_of_models():
    """Of every command, in one fresh process; what is imported stays."""
    code = """
from funnelformer.cli import main
for command in sys.argv[1:]:
    main(command.split())
    print(command, "->", loaded())
    assert not loaded(), command
print("imported:", loaded())
"""
    helps = [f"{command} --help" for command in COMMANDS]
    assert python(code, "--version", "--help", *helps) == "imported: "


def test_import_funnelformer_is_light_and_report_needs_no_torch(tmp_path):
    assert python("import funnelformer; print('imported:', loaded())") == "imported: "


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "/no/such/model"],
        ["distill", "--teacher", "/no/such", "--model", "/no/such", "--train", "a.txt", "--out", "b"],
        ["finetune", "--teacher", "/no/such", "--model", "/no/such", "--train", "a.tsv", "--out", "b"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_the_cache_of_kernels_is_bounded_before_torch_is_there(arguments):
    code = f"""
import os
from funnelformer.cli import main
sys.modules["torch"] = None  # cannot be imported: what is set is set before
try:
    main({arguments})
except (SystemExit, ImportError):
    pass
print(os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"], os.environ["LRU_CACHE_CAPACITY"])
"""
    assert python(code) == "256 256"


def test_without_the_modules_of_posix(monkeypatch):
    """As on macOS and Windows: no `sched_getaffinity`, no `resource`."""
    from funnelformer.base.options import num_usable_cores
    from funnelformer.cost import peak

    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert num_usable_cores() == os.cpu_count()
    monkeypatch.setitem(sys.modules, "resource", None)

    class NoFile:
        def __init__(self, name):
            raise FileNotFoundError(name)

    monkeypatch.setattr(peak, "Path", NoFile)
    monkeypatch.setitem(
        sys.modules,
        "psutil",
        SimpleNamespace(Process=lambda: SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=7))),
    )
    assert peak.peak_memory_bytes(SimpleNamespace(type="cpu")) == 7


def test_a_dash_in_any_place_is_stdin():
    """Also as the first of the arguments, where the one before it is not the last."""
    from funnelformer.cli.entry import _meta

    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(app), "__call__", lambda self, tokens, **kwargs: seen.append(tokens))
        _meta("-", "predict", "model", "--out", "-")
        _meta("predict", "model", "-", "--skip-bad-rows")
    assert seen == [("predict", "model", "--out", "-"), ("predict", "model", "--skip-bad-rows")]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_install_completion_says_what_it_changes_and_how_to_undo_it(tmp_path, monkeypatch, capsys, shell):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ZSH", raising=False)
    monkeypatch.delenv("ZSH_CUSTOM", raising=False)
    startup = {"bash": ".bashrc", "zsh": ".zshrc"}.get(shell)
    if startup:
        (tmp_path / startup).write_text("alias ll='ls -l'\n")
    assert run("--install-completion --shell", shell) == 0
    out = capsys.readouterr().out
    (script,) = (path for path in tmp_path.rglob("*funnelformer*") if path.is_file())
    assert f"completions of {shell} go into {script}" in out
    assert f"  delete {script}" in out
    assert "finetune" in script.read_text()
    if startup:
        added = [line for line in (tmp_path / startup).read_text().splitlines() if "alias" not in line]
        assert added
        assert all(f"    {line}" in out.splitlines() for line in added if line)
        assert f"go into {tmp_path / startup}, unless" in out
    assert run("--install-completion --shell", shell) == 0  # again: nothing is added twice
    assert "the lines" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "code",
    [
        "import funnelformer\nfrom transformers import AutoModel, AutoConfig",
        pytest.param(
            "from transformers import AutoModel, AutoConfig\nAutoModel.from_config\nimport funnelformer",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "import funnelformer\nfrom transformers import Trainer, AutoModel, AutoConfig",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_auto_classes_load_our_folders(toy, code):
    """Whichever of the two is imported first."""
    after = """
config = AutoConfig.from_pretrained(sys.argv[1])
model = AutoModel.from_pretrained(sys.argv[1])
print(type(config).__name__, type(model).__name__)
"""
    assert python(code + after, str(toy.pretrained)) == "FunnelformerConfig FunnelformerModel"


def test_public_names_are_where_type_checkers_see_them():
    """`__init__` says one thing in its table, its docstring, its imports for type checkers, and `__all__`."""
    tree = ast.parse(inspect.getsource(funnelformer))
    (imports,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in imports.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == funnelformer._HOMES
    for name, module in seen.items():
        assert getattr(funnelformer, name) is getattr(importlib.import_module(f"funnelformer.{module}"), name)
        assert f"`{name}`" in funnelformer.__doc__  # `help(funnelformer)` begins with what there is
    assert {*seen} <= {*dir(funnelformer)}
    assert sorted(funnelformer.__all__) == sorted([*seen, "__version__"])
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        funnelformer.nothing  # noqa: B018


def test_help_shows_what_can_be_read():
    """Defaults and ranges in the signatures say what they are, not where in memory they lie."""
    for name in set(funnelformer.__all__) - {"__version__"}:
        text = str(inspect.signature(getattr(funnelformer, name)))
        assert " object at 0x" not in text, (name, text)


@pytest.mark.slow
def test_every_module_can_be_the_first_that_is_imported():
    """After the libraries, each in a fork of its own: no circle of imports depends on which end is first."""
    code = """
import os
from pathlib import Path
import torch, transformers, datasets, pandas, matplotlib.figure
from transformers import PreTrainedModel, PreTrainedConfig
failed = []
root = Path(sys.argv[1])
for file in sorted((root / "funnelformer").rglob("*.py")):
    name = ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    if name.endswith("__main__"):
        continue
    child = os.fork()
    if not child:
        try:
            __import__(name)
        except ModuleNotFoundError as error:
            os._exit(0 if "funnelformer" not in str(error) else 1)
        except BaseException as error:
            print(name, error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(name)
print("failed:", *failed)
"""
    assert python(code, str(SOURCE)) == "failed:"
