"""The program in another process: Ctrl-C and a full disk leave one line and a checkpoint that goes on."""

from __future__ import annotations

import ast
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import Trainer

from funnelformer import FunnelformerConfig, FunnelformerForMaskedLM, __version__
from funnelformer.cli import app
from training.toy import PRETRAIN, fails, run, tokens, weights_equal

SOURCE = Path(__file__).parents[2] / "src"
# Files may not grow beyond `argv[1]` bytes once the first checkpoint is complete, as on a disk that fills up.
FULL_DISK = """
import resource, sys
from transformers import Trainer, TrainerCallback

class Fill(TrainerCallback):
    def on_save(self, args, state, control, **kwargs):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))

original = Trainer.__init__
def init(self, *args, **kwargs):
    original(self, *args, **kwargs)
    self.add_callback(Fill())
Trainer.__init__ = init

from funnelformer.cli import main
main(sys.argv[2:])
"""


def arguments(toy, out, *flags):
    return tokens(PRETRAIN, "--train", toy.corpus, "--tokenizer", toy.tokenizer, "--out", out, *flags)


def start(*command):
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def test_version_and_help(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == __version__
    assert run("pretrain --help") == 0
    text = capsys.readouterr().out
    for flag in ("--train", "--tokenizer", "--set", "--resume", "--config"):
        assert flag in text


GROUPS = {"Most used", "Data", "Model", "Optimisation", "Run", "Output", "Common", "Commands"}


def every_command(group=app, path=()):
    for name in group:
        if name.startswith("-"):
            continue
        command = group[name]
        yield (*path, name), command
        yield from every_command(command, (*path, name))


def test_every_option_of_every_command_has_a_help_text():
    commands = dict(every_command())
    assert {("pretrain",), ("predict",), ("lra", "report")} <= commands.keys()
    for path, command in commands.items():
        for argument in command.assemble_argument_collection(parse_docstring=True):
            if (
                argument.parse and argument.show and argument.name != "*"
            ):  # a dataclass, of options by themselves
                assert argument.parameter.help, (path, argument.name)


def test_numbers_say_what_is_allowed():
    """But the layers of an encoder, which are counted in a folder that is not read yet."""
    without = set()
    for path, command in every_command():
        for argument in command.assemble_argument_collection(parse_docstring=True):
            is_number = re.search(r"\b(int|float)\b", str(argument.hint))
            if is_number and argument.show and "allowed: " not in str(argument.parameter.show_default):
                without.add((path[-1], argument.name))
    assert without == {("convert", "--layers"), ("distill", "--layers")}


def test_no_line_of_help_is_written_twice():
    """What several commands say of an option stands in a type that they share."""
    lines: dict[str, list[str]] = {}
    for file in (Path(__file__).parents[2] / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            for option, said in pairwise(getattr(node, "body", []) if isinstance(node, ast.ClassDef) else []):
                match option, said:
                    case ast.AnnAssign(), ast.Expr(value=ast.Constant(value=str(text))):
                        lines.setdefault(text, []).append(f"{node.name}.{ast.unparse(option.target)}")
                    case _:
                        pass
    assert len(lines) > 150
    assert [(text, options) for text, options in lines.items() if len(options) > 1] == []


def test_options_stand_in_the_groups_and_five_at_most_are_most_used(capsys):
    for path, _ in every_command():
        assert run(f"{' '.join(path)} --help") == 0
        text = capsys.readouterr().out
        panels = dict(re.findall(r"(?s)╭─ ([\w ]+?) ─+╮\n(.*?)╰", text))
        assert "Most used" in panels, path
        assert panels.keys() <= GROUPS, path
        assert len(re.findall(r"(?m)^│ (?:\*  |   )(?:--)?\w", panels["Most used"])) <= 5, path
        assert "object at 0x" not in text, path
        assert ": ," not in text, path  # a name in angle brackets is lost: the help is markup


def test_info_and_convert(toy, tmp_path, capsys):
    assert run("info L1H16 --lengths 128 256 --json") == 0
    info = json.loads(capsys.readouterr().out)
    assert (info["name"], [entry["flops"]["length"] for entry in info["lengths"]]) == ("L1H16", [128, 256])
    assert run("convert", toy.pretrained, tmp_path / "out", "--set.padding=original") == 0
    assert FunnelformerForMaskedLM.from_pretrained(tmp_path / "out").config.padding == "original"


def test_set_flags_join_the_table_of_the_config_file(toy, tmp_path):
    """Each key by itself: one flag must not drop the rest of `[set]`."""
    file = tmp_path / "options.toml"
    file.write_text("[set]\ninitializer_std = 0.06\nhidden_dropout = 0.3\npadding = 'original'\n")
    flags = ("--set.hidden_dropout=0.2", "--set.attention_dropout", 0.4, "--config", file)
    assert run("", *arguments(toy, tmp_path / "out", "--steps", 1), *flags) == 0
    config = FunnelformerConfig.from_pretrained(tmp_path / "out")
    read = (config.initializer_std, config.hidden_dropout, config.attention_dropout, config.padding)
    assert read == (0.06, 0.2, 0.4, "original")


def test_tokenizer(toy, tmp_path, capsys):
    assert run("tokenizer --train", toy.corpus, "--out", tmp_path / "tok", "--vocab-size", 120) == 0
    assert capsys.readouterr().out == f"78 entries; the tokenizer is in {tmp_path / 'tok'}\n"
    assert (tmp_path / "tok" / "tokenizer.json").read_bytes() == (
        toy.tokenizer / "tokenizer.json"
    ).read_bytes()


@pytest.mark.slow
def test_ctrl_c_names_the_last_checkpoint(toy, tmp_path):
    """Exit code 130, one line, no traceback; the checkpoint loads and goes on."""
    out = tmp_path / "out"
    process = start("-m", "funnelformer", *arguments(toy, out, "--steps", 100_000))
    first = out / "checkpoints" / "checkpoint-10" / "complete.json"
    deadline = time.monotonic() + 90
    while not first.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    (line,) = errors.splitlines()
    start_of_line = "interrupted; the last good checkpoint is "
    assert line.startswith(start_of_line)
    assert line.endswith("; go on from it with --resume")
    checkpoint = Path(line.removeprefix(start_of_line).removesuffix("; go on from it with --resume"))
    assert checkpoint.parent == out / "checkpoints"
    assert FunnelformerForMaskedLM.from_pretrained(checkpoint).config.hidden_size == 16
    assert not (out / "model.safetensors").exists()


@pytest.mark.slow
def test_a_full_disk_keeps_the_last_checkpoint(toy, tmp_path):
    """Exit code 2, one line; with room again the run ends where it would have."""
    out = tmp_path / "out"
    # model.safetensors has about 24 kB and is written; optimizer.pt would have 50 kB.
    process = start("-c", FULL_DISK, "40000", *arguments(toy, out))
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 2
    last = out / "checkpoints" / "checkpoint-10"
    assert errors == (
        f"error: {out}: no space left to write to; make room; the last good checkpoint is {last}; "
        "go on from it with --resume\n"
    )
    FunnelformerForMaskedLM.from_pretrained(last)
    assert run("", *arguments(toy, out, "--resume")) == 0
    assert run("", *arguments(toy, tmp_path / "whole")) == 0
    assert weights_equal(out, tmp_path / "whole")


def test_a_disk_too_full_for_the_weights(toy, tmp_path, monkeypatch, capsys):
    """The same for safetensors' own message, in this process; the limit is taken back at once."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    original = Trainer.save_model

    def save_model(self, *args, **kwargs):
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        try:
            original(self, *args, **kwargs)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(Trainer, "save_model", save_model)
    out = tmp_path / "out"
    assert fails(capsys, "", *arguments(toy, out)) == (
        f"{out}: no space left to write to; make room; no checkpoint had been written yet; "
        "begin again with --overwrite"
    )


def test_the_seed_of_torch_is_not_needed(toy, tmp_path):
    """What ran before in the process does not matter."""
    for name, seed in (("one", 1), ("two", 2)):
        torch.manual_seed(seed)
        assert run("", *arguments(toy, tmp_path / name, "--steps", 2)) == 0
    assert weights_equal(tmp_path / "one", tmp_path / "two")


def test_a_command_leaves_its_process_group_when_its_work_is_done(monkeypatch, capsys):
    """After an error it does not: the others may be waiting for it."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    try:
        assert "Unknown option" in fails(capsys, "info", "B1-1H16", "--set.nothing=1")
        assert torch.distributed.is_initialized()
        assert run("info", "B1-1H16") == 0
        assert not torch.distributed.is_initialized()
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
