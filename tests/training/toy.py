"""A toy language of a few words, and folders of tiny models that speak it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback

from funnelformer import FunnelformerConfig, FunnelformerForMaskedLM
from funnelformer.cli import main
from funnelformer.corpus.vocabulary import train_tokenizer

COLOURS = ("red", "blue", "green")
ANIMALS = ("cat", "dog", "bird", "fish", "cow")
VERBS = ("runs", "sleeps", "eats", "sings")


@dataclass(frozen=True)
class Toy:
    """corpus: text to pretrain on. tokenizer: of its words. pretrained: a masked-LM model, weights random."""

    folder: Path
    corpus: Path
    tokenizer: Path
    pretrained: Path


def sentence(generator: random.Random, animal: str | None = None) -> str:
    animal = animal or generator.choice(ANIMALS)
    return f"the {generator.choice(COLOURS)} {animal} {generator.choice(VERBS)} ."


def make_toy(folder: Path) -> Toy:
    generator = random.Random(0)
    documents = ["\n".join(sentence(generator) for _ in range(6)) for _ in range(120)]
    corpus = folder / "corpus.txt"
    corpus.write_text("\n\n".join(documents))
    tokenizer = train_tokenizer([corpus], folder / "tok", vocab_size=120)
    save_model(folder / "pretrained", len(tokenizer))
    tokenizer.save_pretrained(folder / "pretrained")
    return Toy(folder, corpus, folder / "tok", folder / "pretrained")


def save_model(folder: Path, vocab_size: int, name: str = "L1H16", **settings) -> None:
    torch.manual_seed(0)
    config = FunnelformerConfig.from_name(name, vocab_size=vocab_size, initializer_std=0.1, **settings)
    FunnelformerForMaskedLM(config).save_pretrained(folder)


def write_table(path: Path, rows: list[tuple], header: tuple[str, ...] = ("text", "label")) -> Path:
    """Write a .tsv of `rows`."""
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in (header, *rows)))
    return path


def animal_rows(num_rows: int, seed: int = 0, labels: dict[str, str] | None = None) -> list[tuple[str, str]]:
    """Sentences whose animal decides the label; as many of each."""
    labels = labels or {"cat": "yes", "dog": "no"}
    generator = random.Random(seed)
    animals = [list(labels)[i % len(labels)] for i in range(num_rows)]
    return [(sentence(generator, animal), labels[animal]) for animal in animals]


def tokens(command: str, *arguments: object) -> list[str]:
    """Split a command line; of an option given twice, which the program refuses, the last counts."""
    groups: list[list[str]] = [[]]
    for token in (*command.split(), *map(str, arguments)):
        if token.startswith("--"):
            groups = [group for group in groups if group[:1] != [token]]
            groups.append([])
        groups[-1].append(token)
    return [token for group in groups for token in group]


def run(command: str, *arguments: object) -> int:
    """Call the command line in this process; the exit code."""
    try:
        main(tokens(command, *arguments))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def fails(capsys: pytest.CaptureFixture[str], command: str, *arguments: object) -> str:
    """The one line on stderr of a command that must end with exit code 2."""
    capsys.readouterr()
    assert run(command, *arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content; folders too."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


PRETRAIN = (
    "pretrain --model L1H16 --steps 20 --block-size 16 --batch-size 8 --device cpu --learning-rate 0.01 "
    "--validation-fraction 0.1 --save-every 10 --evaluate-every 10 --log-every 5 --report-to none"
)
FINETUNE = "finetune --epochs 1 --batch-size 8 --device cpu --learning-rate 0.01 --max-length 16"


def weights_equal(first: Path, second: Path) -> bool:
    """Whether two model folders hold the same tensors, bit for bit."""
    one, two = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def log_of(out: Path) -> list[dict]:
    """The entries of log.jsonl without times, speed and memory."""
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    unlike = ("runtime", "per_second", "mfu", "memory_bytes", "train_seconds")
    return [{k: v for k, v in entry.items() if not k.endswith(unlike)} for entry in entries]


def metrics_of(out: Path) -> dict:
    """What metrics.json says of a run's result, without what it cost."""
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics.pop("cost")["train_seconds"] > 0
    assert metrics.pop("versions")
    return metrics


class StopAt(TrainerCallback):
    """Interrupts the training after a step, as Ctrl-C would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@contextmanager
def interrupted_at(step: int) -> Iterator[None]:
    """Every Trainer made in the block stops after `step` steps."""
    original = Trainer.__init__

    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.add_callback(StopAt(step))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "__init__", init)
        yield


__all__ = [
    "FINETUNE",
    "PRETRAIN",
    "Toy",
    "animal_rows",
    "fails",
    "interrupted_at",
    "log_of",
    "make_toy",
    "metrics_of",
    "run",
    "save_model",
    "sentence",
    "tokens",
    "tree",
    "weights_equal",
    "write_table",
]
