"""The folder of a run: when it may be used, what is written down, which checkpoint counts."""

from __future__ import annotations

import errno
import json
import tomllib

import pytest
import tomli_w

from funnelformer.base.errors import UserError
from funnelformer.base.options import parse_options
from funnelformer.cli import app
from funnelformer.training.finetuning.config import FinetuneConfig
from funnelformer.training.pretraining.config import PretrainConfig
from funnelformer.training.run.config import RunConfig
from funnelformer.training.run.folder import (
    check_run,
    complete_checkpoints,
    last_checkpoint,
    mark_complete,
    one_line_errors,
    open_run,
    remove_checkpoint,
    resolved,
)
from training.toy import tree


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def checkpoint(out, step, is_whole=True):
    """A folder as RunTrainer leaves it; if it is not whole, its save did not end."""
    folder = out / "checkpoints" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "trainer_state.json").write_text('{"global_step": 1}')
    if is_whole:
        mark_complete(folder)
    return folder


# ---- options


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.25", 0.25),
        ("1e-9", 1e-9),
        ("true", True),
        ("none", None),
        ("max", "max"),
        ('"3"', "3"),
        ("[1, 2]", [1, 2]),
        ("gelu_new", "gelu_new"),
        ("", ""),
        ("3 = 4", "3 = 4"),
        ("B4-4", "B4-4"),
    ],
)
def test_options_are_read_as_toml(text, value):
    parsed = parse_options({"key": text})
    assert parsed == {"key": value}
    assert type(parsed["key"]) is type(value)


def test_options_from_python_keep_their_type():
    assert parse_options({"a": 3, "b": [1], "c": False, "d": None}) == {
        "a": 3,
        "b": [1],
        "c": False,
        "d": None,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "--batch-size is 0; allowed: 1 or more"),
        ({"keep_checkpoints": 0}, "--keep-checkpoints is 0; allowed: 1 or more"),
        ({"learning_rate": float("nan")}, "--learning-rate is nan; allowed: a finite number, more than 0"),
        ({"clip": 0.0}, "--clip is 0.0; allowed: more than 0"),
        ({"weight_decay": -1.0}, "--weight-decay is -1.0; allowed: 0 or more"),
        ({"weight_decay": float("nan")}, "--weight-decay is nan; allowed: a finite number, 0 or more"),
        ({"warmup": 1.0}, "--warmup is 1.0; allowed: 0 <= fraction < 1"),
        ({"seed": 2**32}, "--seed is 4294967296; allowed: 0 to 4294967295"),
        ({"resume": True, "overwrite": True}, "--resume and --overwrite exclude each other"),
        ({"auto_resume": True, "overwrite": True}, "--auto-resume and --overwrite exclude each other"),
    ],
)
def test_values_out_of_range(out, changes, message):
    with pytest.raises(UserError) as caught:
        RunConfig(out=out, **changes)
    assert str(caught.value) == message


# ---- the resolved config


def test_resolved_leaves_out_what_is_unset(out):
    config = PretrainConfig(out=out, train=["a.txt"], tokenizer="tok", model_options={"pooling": "max"})
    values = resolved(config)
    assert values["out"] == str(out)
    assert values["tokenizer"] == "tok"
    assert values["train"] == ["a.txt"]
    assert values["set"] == {"pooling": "max"}
    assert not {"resume", "overwrite", "text-column", "model-options"} & values.keys()


def parsed_again(command, file, monkeypatch):
    """The config that --config `file` gives."""
    seen = []
    monkeypatch.setattr(
        "funnelformer.training.pretraining.pretrain.pretrain", lambda config: seen.append(config) or {}
    )
    monkeypatch.setattr(
        "funnelformer.training.finetuning.finetune.finetune", lambda config: seen.append(config) or {}
    )
    app.meta([command, "--config", str(file)], exit_on_error=False, print_error=False)
    return seen[0]


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_the_written_config_gives_the_same_config_again(tmp_path, out, monkeypatch, command, capsys):
    """Nothing is lost on the way: the whole dataclass is equal, defaults and all."""
    common = {
        "out": out,
        "batch_size": 3,
        "learning_rate": 2.5e-5,
        "schedule": "cosine",
        "seed": 7,
        "device": "cpu",
        "model_options": {"pooling": "max", "embedding_size": "8", "classifier_dropout": "none"},
    }
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "b 1.txt"):
        (tmp_path / name).write_text("a b\n")
    if command == "pretrain":
        config = PretrainConfig(train=["a.txt", "b *.txt"], tokenizer="tok", model="L1H16", steps=3, **common)
    else:
        config = FinetuneConfig(train="a.tsv", model="m", label="y", text_pair="b", epochs=0.5, **common)
    open_run(config, command)
    again = parsed_again(command, out / "run_config.toml", monkeypatch)
    assert again == config
    assert resolved(again) == resolved(config) == tomllib.loads((out / "run_config.toml").read_text())


def test_typed_options_in_toml_and_flags_that_win(tmp_path, out, monkeypatch, capsys):
    file = tmp_path / "run.toml"
    table = {"pool_q_only": False, "embedding_size": 8, "blocks": [1, 1], "pooling": "max"}
    text = {
        "train": ["a.txt"],
        "tokenizer": "t",
        "out": "from-file",
        "steps": 3,
        "batch_size": 5,
        "set": table,
    }
    file.write_text(tomli_w.dumps(text))
    config = parsed_again("pretrain", file, monkeypatch)
    assert parse_options(config.model_options) == table
    assert (config.steps, config.batch_size, str(config.tokenizer)) == (3, 5, "t")

    seen = []
    monkeypatch.setattr(
        "funnelformer.training.pretraining.pretrain.pretrain", lambda config: seen.append(config) or {}
    )
    flags = ["--steps", "9", "--out", str(out), "--tokenizer", "other"]
    app.meta(["pretrain", "--config", str(file), *flags], exit_on_error=False, print_error=False)
    (config,) = seen
    assert (config.steps, config.out, str(config.tokenizer)) == (9, out, "other")
    assert (config.batch_size, config.train) == (5, ["a.txt"])


# ---- open_run


def test_a_new_run_writes_config_and_circumstances(out):
    assert open_run(RunConfig(out=out / "deep", seed=5), "pretrain") is None
    assert sorted(path.name for path in (out / "deep").iterdir()) == [
        "inputs.json",
        "run.json",
        "run_config.toml",
    ]
    assert tomllib.loads((out / "deep" / "run_config.toml").read_text())["seed"] == 5
    run = json.loads((out / "deep" / "run.json").read_text())
    assert run["command"] == "pretrain"
    assert {"argv", "python", "torch", "transformers", "device", "num_threads", "commit"} <= run.keys()


def test_an_empty_folder_is_as_good_as_none(out):
    out.mkdir()
    assert open_run(RunConfig(out=out), "pretrain") is None


def test_checking_writes_nothing(tmp_path, out):
    assert check_run(RunConfig(out=out)) is None
    assert tree(tmp_path) == {}


def refused(config, call=open_run):
    before = tree(config.out) if config.out.is_dir() else None
    with pytest.raises(UserError) as caught:
        call(config, "pretrain")
    assert (tree(config.out) if config.out.is_dir() else None) == before
    return str(caught.value)


def test_overwrite_replaces_a_run_and_nothing_else(out):
    open_run(RunConfig(out=out, seed=1), "pretrain")
    (out / "model.safetensors").write_bytes(b"old")
    assert "is not empty" in refused(RunConfig(out=out, seed=2))
    open_run(RunConfig(out=out, seed=2, overwrite=True), "pretrain")
    assert sorted(path.name for path in out.iterdir()) == ["inputs.json", "run.json", "run_config.toml"]
    assert tomllib.loads((out / "run_config.toml").read_text())["seed"] == 2

    (out / "run_config.toml").unlink()
    assert refused(RunConfig(out=out, overwrite=True)) == (
        f"{out} is not the folder of a run (it has no run_config.toml); --overwrite would destroy it"
    )


def test_out_is_a_file_or_below_one(out):
    out.write_text("a file")
    assert refused(RunConfig(out=out)) == f"{out} is a file; --out names a folder"
    assert refused(RunConfig(out=out / "sub")) == f"{out / 'sub'}: cannot be made (Not a directory)"
    assert out.read_text() == "a file"


# ---- checkpoints


def test_the_last_complete_checkpoint(out):
    assert last_checkpoint(out) is None
    checkpoint(out, 9)
    newest = checkpoint(out, 100)
    checkpoint(out, 200, is_whole=False)
    assert last_checkpoint(out) == newest
    assert [folder.name for folder in complete_checkpoints(out / "checkpoints")] == [
        "checkpoint-9",
        "checkpoint-100",
    ]


def test_a_checkpoint_that_lost_something_is_none(out):
    """A file cut short or deleted, also in a folder below, and a list of files cut short."""

    def broken(step, harm):
        folder = checkpoint(out, step, is_whole=False)
        (folder / "generator").mkdir()
        (folder / "generator" / "model.safetensors").write_bytes(b"more weights")
        mark_complete(folder)
        assert last_checkpoint(out) == folder
        harm(folder)
        assert last_checkpoint(out) is None

    broken(1, lambda folder: (folder / "model.safetensors").write_bytes(b"wei"))
    broken(2, lambda folder: (folder / "generator" / "model.safetensors").write_bytes(b"more"))
    broken(3, lambda folder: (folder / "generator" / "model.safetensors").unlink())
    broken(4, lambda folder: (folder / "trainer_state.json").unlink())
    broken(5, lambda folder: (folder / "complete.json").write_text('{"bytes": {"mod'))
    broken(6, lambda folder: (folder / "complete.json").unlink())


def test_a_checkpoint_half_deleted_is_none(out, monkeypatch):
    whole, old = checkpoint(out, 9), checkpoint(out, 10)

    def killed(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_checkpoint(old)
    assert (old / "trainer_state.json").exists()
    assert last_checkpoint(out) == whole
    remove_checkpoint(old)
    assert not old.exists()


def test_auto_resume_begins_or_goes_on(out):
    """A new folder, one cut off before its first checkpoint, one with a checkpoint; changes are refused in each."""
    config = RunConfig(out=out, auto_resume=True)
    assert open_run(config, "pretrain") is None
    checkpoint(out, 5, is_whole=False)
    with pytest.raises(UserError, match="the run began with seed = 42, now it is 1"):
        check_run(RunConfig(out=out, auto_resume=True, seed=1))
    assert open_run(config, "pretrain") is None
    assert not (out / "checkpoints").exists()
    whole = checkpoint(out, 9)
    assert open_run(config, "pretrain") == whole
    with pytest.raises(UserError, match="the run began with seed = 42, now it is 1"):
        check_run(RunConfig(out=out, auto_resume=True, seed=1))
    (out / "run_config.toml").unlink()
    whole.joinpath("complete.json").unlink()
    with pytest.raises(UserError, match="is not empty; choose another --out"):
        check_run(config)


def test_resume_removes_what_an_interrupted_save_left(out):
    open_run(RunConfig(out=out), "pretrain")
    complete, half = checkpoint(out, 9), checkpoint(out, 10, is_whole=False)
    config = RunConfig(out=out, resume=True)
    assert check_run(config) == complete
    assert half.exists()
    assert open_run(config, "pretrain") == complete
    assert complete.exists()
    assert not half.exists()


def test_resume_needs_a_complete_checkpoint(out):
    open_run(RunConfig(out=out), "pretrain")
    checkpoint(out, 10, is_whole=False)
    assert refused(RunConfig(out=out, resume=True)) == (
        f"{out} holds no complete checkpoint to resume from; run without --resume to start again"
    )


def test_resume_refuses_other_options(out, tmp_path):
    open_run(RunConfig(out=out), "pretrain")
    checkpoint(out, 9)
    assert refused(RunConfig(out=out, resume=True, batch_size=4)) == (
        f"{out / 'run_config.toml'}: the run began with batch-size = 32, now it is 4"
    )
    moved = tmp_path / "moved"
    out.rename(moved)
    assert open_run(RunConfig(out=moved, resume=True), "pretrain") == moved / "checkpoints" / "checkpoint-9"
    (moved / "run_config.toml").write_text("= broken")
    message = refused(RunConfig(out=moved, resume=True))
    assert message.startswith(f"{moved / 'run_config.toml'}: not valid TOML (")
    assert message.endswith("; so the run cannot be resumed")


def test_the_parts_of_a_step_may_change_but_not_its_sequences(out, monkeypatch):
    """Other processes, with batches or accumulation to match; a run that does not say its sequences is taken as is."""
    open_run(RunConfig(out=out, batch_size=4, gradient_accumulation=2), "pretrain")
    whole = checkpoint(out, 9)
    assert json.loads((out / "run.json").read_text())["sequences_per_step"] == 8
    for num_processes, batch_size, accumulation in ((2, 4, 1), (2, 2, 2), (1, 8, 1), (4, 1, 2)):
        monkeypatch.setenv("WORLD_SIZE", str(num_processes))
        parts = {"batch_size": batch_size, "gradient_accumulation": accumulation}
        assert open_run(RunConfig(out=out, resume=True, **parts), "pretrain") == whole
    monkeypatch.setenv("WORLD_SIZE", "2")
    same_parts = RunConfig(out=out, resume=True, batch_size=4, gradient_accumulation=2)
    assert refused(same_parts) == (
        f"{out / 'run_config.toml'}: the run began with 8 sequences a step, now they are 16 on 2 processes; "
        "set --batch-size x --gradient-accumulation so that they are the same"
    )
    (out / "run.json").unlink()
    assert check_run(same_parts) == whole
    assert "the run began with batch-size = 4, now it is 2" in refused(
        RunConfig(out=out, resume=True, batch_size=2, gradient_accumulation=2)
    )


# ---- trouble on the way


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 38528 vs 38420"),
        RuntimeError(
            "[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing file data/0"
        ),
        RuntimeError("Error while serializing: I/O error: File too large (os error 27)"),
    ],
)
def test_a_full_disk_is_one_line(out, error):
    with pytest.raises(UserError) as caught, one_line_errors(out):
        raise error
    assert str(caught.value) == (
        f"{out}: no space left to write to; make room; no checkpoint had been written yet; "
        "begin again with --overwrite"
    )
    last = checkpoint(out, 9)
    later = ValueError("raised while the first was handled")
    later.__context__ = error
    with pytest.raises(UserError) as caught, one_line_errors(out):
        raise later
    assert str(caught.value).endswith(f"the last good checkpoint is {last}; go on from it with --resume")


def test_an_interrupt_names_the_last_checkpoint(out):
    last = checkpoint(out, 9)
    with pytest.raises(KeyboardInterrupt) as caught, one_line_errors(out):
        raise KeyboardInterrupt
    assert str(caught.value) == (
        f"interrupted; the last good checkpoint is {last}; go on from it with --resume"
    )


def test_a_mistake_of_ours_stays_one(out):
    with pytest.raises(ValueError, match="ours"), one_line_errors(out):
        raise ValueError("ours")
