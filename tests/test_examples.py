"""The examples of the README and of the guides run: their commands and their Python, at toy size and in their order."""

from __future__ import annotations

import glob
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zstandard
from huggingface_hub import constants
from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

from funnelformer.corpus.vocabulary import train_tokenizer
from test_prose import ROOT, command_lines, relative
from training.toy import run, tokens

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SERVICE = "http://127.0.0.1:8000"
VERBS = ("sleeps", "naps", "sits", "rests", "lies")
DOCUMENTS = [
    f"a {animal} {verb} on the sofa .\nthe {animal} {verb} all day ."
    for animal in ("cat", "kitten", "dog", "puppy")
    for verb in VERBS
]

# What is not run, by how it begins, and why.
NOT_RUN = {
    "pip install": "would change this environment; the extras are looked up, .ci/smoke.py installs the package",
    "docker": "needs its daemon, and text-embeddings-inference's image; tests/runtime has what the image installs",
    "uv pip compile": "asks an index for the newest versions",
    "make ": "these are the commands that run this",
    "python demo/documentation.py": "reads every installed package; tests/demo/test_documentation.py has a few",
    "python benchmarks/serve_load.py": "puts load on a service for minutes",
    "funnelformer push RUN user/name --private": "uploads; tests/export/test_push.py has a server of the Hub's calls",
    "funnelformer embed mini 's3://": "needs S3 and a cluster; tests/spread/test_ray_cluster.py has both here",
    "funnelformer prepare --train 's3://": "needs S3; tests/spread/test_ray_cluster.py has it here",
    "funnelformer prepare --train '/corpus/": "needs a cluster; tests/spread/test_ray_cluster.py has one here",
    "from fastembed": "needs other versions than this environment's; tests/export/test_fastembed.py makes its own",
    "torchrun --standalone --nproc-per-node 8": "eight processes; tests/training/run has two",
    "torchrun --nnodes 2": "two machines; tests/training/run/test_torchrun_nodes.py runs them on the loopback",
    "sbatch": "needs Slurm; tests/test_clusters.py reads the scripts",
    "kubectl apply": "needs a cluster; tests/test_clusters.py reads the manifest",
    "export TORCH_DISABLE": "belongs to the command below it",
}

# What makes a command small, beside or in place of what it says; it keeps what it says of the second.
SMALL = {
    "finetune": "--epochs 1 --device cpu",
    "pretrain": "--steps 2 --batch-size 4 --validation-fraction 0.3 --device cpu --report-to none",
    "prepare": "--block-size 16 --workers 1",
    "tokenizer": "",
    "distill": "--steps 1 --evaluate-every 1 --batch-size 2 --validation-fraction 0.3 --device cpu",
    "export": "--check-to 20",
    "bench": "--quick --no-memory",
    "lra": "",
    "evaluate": "--device cpu",
    "predict": "--device cpu",
    "embed": "--device cpu",
    "rank": "--device cpu",
    "serve": "--port 0 --device cpu",
}
UNLESS_SAID = {
    "finetune": "--dev-fraction 0.3 --batch-size 8 --max-length 16",
    "pretrain": "--block-size 16 --model B1-1H16",
}
# Sizes that a toy does not need.
SMALLER = {
    "distill": {"/shared/teacher": "shared/teacher"},
    "bench": {
        "B4-4-4H768": "B1-1H16",
        "Hybrid-4-4-4H768": "B1H16",
        "bert": "bert:L1H16",
        "compiled": None,
        "8x32": "2x8",
        "8x128": None,
        "2x512": None,
        "1x2048": None,
    },
    "pretrain": {"B4-4-4H768": "B1-1H16", "B1-1-1H128": "B1-1-1H16", "5000": "1"},
    "lra": {"20000": "8", "3000": "1", "32": "2", "2000": "4"},
}
# What stands for more than it says.
ELIDED = {"pretrain": "--train data --tokenizer tok --out runs/probed"}
# The README leaves open what these are.
NAMES = {"NAME": "all-MiniLM-L6-v2", "SRC": "all-MiniLM-L6-v2"}
README_VALUES = {"--query": "cat", "--documents": "texts.txt"}


def write(name: str, text: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)


def make_encoder(folder: Path, model_class: Any = BertModel, **settings: Any) -> None:
    """A BERT of six layers as wide as MiniLM and thin otherwise; every word has a token or letters."""
    torch.manual_seed(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", *letters, *(f"##{x}" for x in letters)]
    words += ["cat", "kitten", "the", "sofa", "on", *VERBS]
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 32}
    model_class(BertConfig(vocab_size=len(words), **sizes, **settings)).save_pretrained(folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the pages take for granted: models by the names they use, tables, texts."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_encoder(Path("all-MiniLM-L6-v2"))
        for name in (
            "sentence-transformers/all-MiniLM-L6-v2",
            "google-bert/bert-base-uncased",
            "some/encoder",
            "runs/demo-sources/all-MiniLM-L6-v2",
        ):
            shutil.copytree("all-MiniLM-L6-v2", name)
        make_encoder(Path("cross-encoder/ms-marco-MiniLM-L6-v2"), BertForSequenceClassification, num_labels=1)
        rows = [(f"a {animal} {verb} on the sofa", animal) for animal in ("cat", "kitten") for verb in VERBS]
        table = "text,label\n" + "".join(f"{text},{label}\n" for text, label in rows)
        for name in ("YOUR", "reviews", "mine", "few", "dev", "train", "test", "sst2-small", "sst2-dev"):
            write(f"{name}.csv", table)
            write(f"{name}.tsv", table.replace(",", "\t"))
        pairs = [
            (text, other, int(first == second)) for text, first in rows[::2] for other, second in rows[1::2]
        ]
        write("pairs.csv", "sentence1,sentence2,label\n" + "".join(f"{a},{b},{c}\n" for a, b, c in pairs))
        write("pairs.tsv", "query\tpassage\n" + "".join(f"{a}\t{b}\n" for a, b, _ in pairs))
        write(
            "sts/dev.tsv",
            "sentence1\tsentence2\tscore\n" + "".join(f"{a}\t{b}\t{5 * c}\n" for a, b, c in pairs),
        )
        for name in ("texts.txt", "texts/one.txt", "reviews.txt"):
            write(name, "".join(f"{text}\n" for text, _ in rows))
        write("documents.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS))
        write("runs/documentation.txt", "\n\n".join(DOCUMENTS * 8))
        text = "".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS * 8)
        write("wiki/a.jsonl.zst", "")
        Path("wiki/a.jsonl.zst").write_bytes(zstandard.compress(text.encode()))
        train_tokenizer([Path("runs/documentation.txt")], Path("tok"), vocab_size=80)
        cola = "".join(f"x\t{n % 2}\t\ta cat {verb} .\n" for n, verb in enumerate(VERBS * 2))
        for name in ("train", "dev"):
            write(f"glue/CoLA/{name}.tsv", cola)
        write("glue/CoLA/test.tsv", "index\tsentence\n0\ta cat sits .\n1\ta kitten sits .\n")
        for part in ("train", "test"):
            for label in ("pos", "neg"):
                write(f"aclImdb/{part}/{label}/0_1.txt", f"a {label} film")
        assert run("convert all-MiniLM-L6-v2 runs/pretrained") == 0
        small = SMALL["finetune"] + " " + UNLESS_SAID["finetune"]
        assert run(f"finetune --model runs/pretrained --train reviews.csv --out runs/full {small}") == 0
        assert run(f"finetune --model runs/pretrained --train pairs.csv --out runs/pairs {small}") == 0
        assert run("convert runs/pretrained runs/funnel --layout B2-2-2") == 0
        for name in ("runs/reviews", "runs/tuned", "runs/sst2", "runs/other", "RUN"):
            shutil.copytree("runs/full", name)
    return folder


@dataclass
class Example:
    """A block of a page. kind: python, or shell."""

    kind: str
    text: str


def examples(page: Path) -> list[Example]:
    """The blocks of code of a page in order: indented ones, whose first line says what they are, and fenced Python."""
    found: list[Example] = []
    pattern = r"(?ms)^```(\w+)\n(.*?)^```|(?<=\n\n)((?:(?: {4}[^\n]*|\s*)\n)+)"
    for fence, fenced, indented in re.findall(pattern, "\n\n" + page.read_text()):
        text = fenced or re.sub(r"(?m)^ {4}", "", indented).strip("\n")
        text = re.sub(r"(?m)^ {4}", "", text) if text.startswith("    ") else text
        if text.strip():
            is_python = fence == "python" or re.match(r"(import|from) ", text) is not None
            found.append(Example("python" if is_python else "shell", text))
    return found


def lines_of(text: str) -> list[str]:
    """Commands of a block, with continued lines joined; a comment of its own is none."""
    joined = re.sub(r"\\\n\s*", "", text).splitlines()
    return [line.strip() for line in joined if line.strip() and not line.lstrip().startswith("#")]


def reason(text: str) -> str | None:
    return next((why for start, why in NOT_RUN.items() if text.startswith(start)), None)


def toy_words(line: str) -> list[str]:
    """A command of ours as it is run here."""
    command, *given = shlex.split(line, comments=True)
    words: list[str] = []
    for word in given:
        smaller = SMALLER.get(command, {}).get(word, word)
        if smaller == "..." and command in ELIDED:
            words += ELIDED[command].split()
        elif smaller is not None:
            words += glob.glob(smaller) if smaller.endswith("/*") else [smaller]
    said = {word for word in words if word.startswith("--")}
    extra = SMALL.get(command, "")
    if command == "lra" and words[0] in ("listops", "text"):
        extra = "--steps 1 --batch-size 2 --length 40 --device cpu"
    if "--frozen" in said or "--few-shot" in said:  # they have no scored steps
        extra = extra.replace("--epochs 1", "--contrastive-epochs 1" if "--few-shot" in said else "")
    # Options beside which another one is refused, or says nothing.
    without = {"--dev-fraction": {"--data", "--dev"}, "--batch-size": {"--sweep", "--frozen"}}
    default = UNLESS_SAID.get(command, "").split()
    for name, value in zip(default[::2], default[1::2], strict=True):
        if not said & {name, *without.get(name, ())}:
            extra += f" {name} {value}"
    if "--sweep" in said:  # which stands there twice
        return [command, *words, *extra.split()]
    return tokens(command, *words, *extra.split())


def written_by(words: list[str]) -> list[str]:
    """Where a command writes: a name that the page has used before is made free."""
    command, *rest = words
    names = [
        rest[at + 1] for at, word in enumerate(rest) if word in ("--out", "--save-sentence-transformers")
    ]
    if command in ("convert", "export"):
        names.append(rest[1])
    return names


@dataclass
class Runner:
    """Runs the examples of a page; a service goes on until the page starts another one."""

    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch
    names: dict[str, Any] = field(default_factory=dict)
    service: subprocess.Popen[str] | None = None
    address: str = SERVICE

    def run(self, example: Example) -> None:
        if example.kind == "python":
            if reason(example.text) is None:
                self._python(example.text)
            return
        for line in lines_of(example.text):
            if reason(line) is None:
                self._line(line)

    def _python(self, text: str) -> None:
        """What a comment says that a line prints is what it prints, if it is a size or a number."""
        if "InferenceClient" in text:  # of an address of this machine
            self.monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        self.capsys.readouterr()
        exec(compile(text.replace(SERVICE, self.address), "example", "exec"), self.names)
        said = self.capsys.readouterr().out.splitlines()
        for promised in re.findall(r"print\(.*\)  # (torch\.Size\(\[[\d, ]+\]\)|\([\d, ]+\)|\d[\d ]*)", text):
            assert promised.strip() in said

    def _line(self, line: str) -> None:
        program = line.split()[0]
        if program == "curl":
            words = shlex.split(line.replace(SERVICE, self.address))
            done = subprocess.run([*words, "-sS", "--fail"], capture_output=True, text=True)
            assert done.returncode == 0, (line, done.stderr)
            assert json.loads(done.stdout)
        elif program == "torchrun":
            words = shlex.split(line)
            at = words.index("funnelformer")
            toy = toy_words(shlex.join(words[at + 1 :]))
            remove(written_by(toy))
            self._process("torch.distributed.run", *words[1 : at + 1], *toy)
        else:
            assert program == "funnelformer", line
            words = toy_words(line.removeprefix("funnelformer "))
            if words[0] == "serve":
                self._serve(words)
                return
            remove(written_by(words))
            if "ray" in words:
                self._process("funnelformer", *words)
            else:
                assert call(words) == 0, (line, words, self.capsys.readouterr().err)
            for name in written_by(words):
                assert Path(name).exists(), line

    def _process(self, *words: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", *words], env=environment(), capture_output=True, text=True
        )
        assert done.returncode == 0, (words, done.stderr)

    def _serve(self, words: list[str]) -> None:
        self.stop()
        self.service = subprocess.Popen(
            [sys.executable, "-m", "funnelformer", *words],
            stdout=subprocess.PIPE,
            env=environment(),
            text=True,
        )
        assert self.service.stdout is not None
        self.address = re.search(r"http://[0-9.:]+\d", self.service.stdout.readline())[0]  # type: ignore[index]

    def stop(self) -> None:
        if self.service is not None:
            self.service.terminate()
            assert self.service.wait(60) == 0
            self.service.stdout.close()  # type: ignore[union-attr]
            self.service = None


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def call(words: list[str]) -> int:
    """As `training.toy.run`, and an option may stand twice."""
    from funnelformer.cli import main

    try:
        main(words)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def remove(names: list[str]) -> None:
    for name in names:
        path = Path(name)
        assert not path.is_absolute()
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@pytest.fixture
def place(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the world to run a page in, beside what the repository has."""
    folder = tmp_path / "place"
    shutil.copytree(world, folder, copy_function=os.link)
    for name in ("recipes", "demo", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def runner(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    found = Runner(capsys, monkeypatch)
    yield found
    found.stop()


WITH_EXAMPLES = [page for page in PAGES if page.name != "README.md" and examples(page)]


@pytest.mark.slow
@pytest.mark.usefixtures("no_shape_checks")  # exports trace
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=relative)
def test_the_examples_of_a_page_run(page: Path, place: Path, runner: Runner) -> None:
    for example in examples(page):
        runner.run(example)


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_encoder(Path("sentence-transformers/all-MiniLM-L6-v2"))
    bundled, own = (example.text for example in examples(PAGES[0]) if example.kind == "python")
    exec(compile(bundled, "README.md", "exec"), {})
    alike, other = map(float, capsys.readouterr().out.split())
    assert -1 <= other < alike <= 1
    exec(compile(own, "README.md", "exec"), {})
    similarity = float(re.search(r"tensor\((-?[\d.]+)\)", capsys.readouterr().out)[1])
    assert -1 <= similarity <= 1


@pytest.mark.slow
@pytest.mark.usefixtures("no_shape_checks")
def test_the_commands_of_the_readme_run(place, capsys):
    """Those in its text and in its table that name what they work on; serve is on other pages."""
    found = set()
    for line in command_lines(PAGES[0].read_text()):
        words = toy_words(line)
        if len(line.split()) == 1 or words[0] == "serve":
            continue
        words = [
            README_VALUES[before] if word == "..." else NAMES.get(word, word)
            for before, word in pairwise(["", *words])
        ]
        remove(written_by(words))
        assert call([*words, *["--dry-run"] * (words[0] == "push")]) == 0, capsys.readouterr().err
        found.add(words[0])
    known = {
        "convert",
        "finetune",
        "distill",
        "evaluate",
        "predict",
        "embed",
        "rank",
        "export",
        "push",
        "info",
    }
    assert found >= known
    assert len(Path("labels.jsonl").read_text().splitlines()) == 10
    assert np.load("vectors.npy").shape == (10, 384)  # of "mini", which comes with the package
    assert Path("runs/small/model.onnx").is_file()


def test_what_is_not_run_is_named_once_and_is_there():
    """Every exception is one of an example, and every extra that a page installs is the package's."""
    starts: list[str] = []
    for page in PAGES:
        for example in examples(page):
            starts += [example.text] if example.kind == "python" else lines_of(example.text)
    for start in NOT_RUN:
        assert any(text.startswith(start) for text in starts), start
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for text in starts:
        if text.startswith("pip install"):
            assert set(re.findall(r"funnelformer\[(\w+)\]", text)) <= extras.keys()


def test_examples_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A\n\nText:\n\n    funnelformer info mini \\\n        --lengths 8  # why\n\n"
        "and\n\n```python\nprint(1)\n```\n\n"
        "1. item\n\n        funnelformer report a\n\nEnd.\n\n    import x\n\n    x.y()\n"
    )
    found = examples(page)
    assert [example.kind for example in found] == ["shell", "python", "shell", "python"]
    assert lines_of(found[0].text) == ["funnelformer info mini --lengths 8  # why"]
    assert lines_of(found[2].text) == ["funnelformer report a"]
    assert found[3].text == "import x\n\nx.y()"
