"""Input that cannot be used: exit code 2, one line that names what is wrong, and nothing written."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from funnelformer import FunnelformerConfig, FunnelformerForSequenceClassification
from funnelformer.checkpoints.net_config import net_config
from funnelformer.data.tokenizer import load_tokenizer
from training.toy import FINETUNE, PRETRAIN, animal_rows, fails, run, save_model, tree, write_table


@pytest.fixture(scope="module")
def good(toy):
    """A good table of 16 rows; row 1 is a cat, "yes"."""
    return write_table(toy.folder / "good.tsv", animal_rows(16))


@pytest.fixture(scope="module")
def classifier(toy):
    """A model with a head for "no" and "yes"."""
    tokenizer = load_tokenizer(toy.tokenizer)
    config = FunnelformerConfig.from_name(
        "L1H16",
        vocab_size=len(tokenizer),
        id2label={0: "no", 1: "yes"},
        label2id={"no": 0, "yes": 1},
        position="absolute",
        max_position_embeddings=32,
    )
    folder = toy.folder / "classifier"
    FunnelformerForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def refused(capsys, tmp_path, out):
    """Run a command that must fail; the line it says. No file may appear or change below tmp_path."""

    def call(command, *arguments):
        before = tree(tmp_path)
        line = fails(capsys, command, *arguments)
        assert tree(tmp_path) == before
        return line

    return call


@pytest.fixture
def finetuned(refused, toy, out):
    """Fine-tune on a file that must be refused."""
    return lambda *arguments: refused(f"{FINETUNE} --model", toy.pretrained, "--out", out, *arguments)


@pytest.fixture
def pretrained(refused, toy, out):
    def call(*arguments, train=toy.corpus):
        return refused(f"{PRETRAIN} --train", train, "--tokenizer", toy.tokenizer, "--out", out, *arguments)

    return call


# ---- files


@pytest.mark.parametrize("name", ["trian.tsv", "trian.txt"])
def test_missing_file_names_the_nearest(finetuned, pretrained, good, tmp_path, name):
    near = tmp_path / name.replace("trian", "train")
    shutil.copy(good, near)
    call = finetuned if name.endswith("tsv") else pretrained
    arguments = ["--train", tmp_path / name] if call is finetuned else []
    line = call(*arguments) if arguments else call(train=tmp_path / name)
    assert line == f"{tmp_path / name}: no such file; did you mean {near.name!r}?"


def test_missing_file_to_evaluate_and_to_predict(refused, classifier, good, tmp_path, out):
    for command in ("evaluate", "predict"):
        line = refused(command, classifier, good.with_name("godo.tsv"), "--out", out)
        assert line == f"{good.with_name('godo.tsv')}: no such file; did you mean 'good.tsv'?"


def test_empty_file(finetuned, pretrained, refused, tmp_path, out):
    for name, call in (("a.tsv", finetuned), ("a.txt", pretrained)):
        (tmp_path / name).touch()
        path = tmp_path / name
        line = call("--train", path) if name == "a.tsv" else call(train=path)
        assert line == f"{path}: the file is empty"
    assert refused("tokenizer --train", tmp_path / "a.txt", "--out", out).endswith("a.txt: the file is empty")


def test_bytes_that_are_no_utf8_name_the_line(finetuned, pretrained, tmp_path, good):
    (tmp_path / "a.tsv").write_bytes(good.read_bytes() + b"caf\xe9\tyes\n")
    line = finetuned("--train", tmp_path / "a.tsv")
    assert line == f"{tmp_path / 'a.tsv'}: line 18: not valid UTF-8 (byte 0xe9 at column 4)"
    (tmp_path / "a.txt").write_bytes(b"one\n\ntwo\n\nthr\xff\n")
    line = pretrained(train=tmp_path / "a.txt")
    assert line == f"{tmp_path / 'a.txt'}: line 5: not valid UTF-8 (byte 0xff at column 4)"


def test_a_corpus_too_small_for_one_block(pretrained, tmp_path):
    (tmp_path / "a.txt").write_text("the red cat")
    assert "does not fill one block of 16 ids" in pretrained(
        "--validation-fraction", 0, train=tmp_path / "a.txt"
    )


def test_too_few_documents(pretrained, tmp_path):
    """None to hold out, none to be another document's, not enough for one step."""
    path = tmp_path / "a.txt"
    path.write_text("the red cat runs .\nthe blue dog eats .\n" * 4)
    assert pretrained(train=path) == (
        "the validation part of the corpus does not fill one block of 16 ids; give more text, a smaller block size "
        "or another validation fraction"
    )
    line = pretrained("--objective", "mlm+sso", "--validation-fraction", 0, train=path)
    assert line == (
        "--train: there is one document to train on, but a part B from elsewhere needs two; give more text"
    )
    assert pretrained("--validation-fraction", 0, train=path) == (
        "--train: the corpus gives 2 sequences, too few for a step of 8; give more text, or a smaller --batch-size"
    )


# ---- columns, rows, labels


def test_wrong_column(finetuned, refused, classifier, good, out):
    line = finetuned("--train", good, "--text", "txt")
    assert line == f"{good}: no column 'txt'; did you mean 'text'?; it has 'text', 'label'"
    line = refused("evaluate", classifier, good, "--label", "lable", "--out", out)
    assert line == f"{good}: no column 'lable'; did you mean 'label'?; it has 'text', 'label'"


def test_predict_without_a_plain_text_column(refused, classifier, tmp_path, out):
    table = write_table(tmp_path / "a.tsv", [("x", "y", "z")], ("one", "two", "three"))
    line = refused("predict", classifier, table, "--out", out)
    assert (
        line == f"{table}: cannot tell which column is the text; set --text to one of 'one', 'two', 'three'"
    )


def test_one_class_only(finetuned, tmp_path):
    table = write_table(tmp_path / "a.tsv", [("the cat", "yes"), ("the dog", "yes"), ("the cow", "yes")])
    assert finetuned("--train", table) == f"only one class, 'yes', in {table}: nothing to learn"


def test_a_label_unseen_in_training(finetuned, refused, classifier, good, tmp_path, out):
    table = write_table(tmp_path / "dev.tsv", [("the cat", "yes"), ("the dog", "yess")])
    expected = (
        f"{table}: row 2 (line 3): column 'label' has 'yess', which is not one of the model's labels; "
        "did you mean 'yes'?; known labels: no, yes"
    )
    assert finetuned("--train", good, "--dev", table) == expected
    assert refused("evaluate", classifier, table, "--out", out) == expected


@pytest.mark.parametrize("value", ["NaN", "", "inf", "good"])
def test_an_amount_that_is_no_number(finetuned, tmp_path, value):
    table = write_table(tmp_path / "a.tsv", [("the cat", 1.5), ("the dog", value), ("the cow", 2)])
    line = finetuned("--regression", "--train", table)
    assert line == f"{table}: row 2 (line 3): column 'label' is not a finite number ({value!r})"


def test_an_empty_label(finetuned, tmp_path):
    table = write_table(tmp_path / "a.tsv", [("the cat", "yes"), ("the dog", ""), ("the cow", "no")])
    assert finetuned("--train", table) == f"{table}: row 2 (line 3): column 'label' has no label ('')"


def test_an_empty_text(finetuned, refused, classifier, tmp_path, out):
    table = write_table(
        tmp_path / "a.tsv", [("the cat", "yes"), (" ", "no"), ("the cow", "no"), ("a", "yes")]
    )
    expected = f"{table}: row 2 (line 3): column 'text' is empty"
    assert finetuned("--train", table) == expected
    for command in ("evaluate", "predict"):
        assert refused(command, classifier, table, "--out", out) == expected
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    line = refused("predict", classifier, tmp_path / "a.txt", "--out", out)
    assert line == f"{tmp_path / 'a.txt'}: row 2 (line 2): column 'text' is empty"


def test_a_class_too_rare_for_a_dev_part(finetuned, tmp_path):
    table = write_table(tmp_path / "a.tsv", [*animal_rows(30), ("the cow eats", "maybe")])
    line = finetuned("--train", table)
    assert line.startswith(f"{table}: no dev part can be drawn from every class (")
    assert line.endswith("give --dev or another --dev-fraction")


def test_predict_does_not_replace_a_column(refused, classifier, tmp_path, out):
    table = write_table(tmp_path / "a.tsv", [("the cat", "yes")], ("text", "prediction"))
    line = refused("predict", classifier, table, "--out", out)
    assert line == f"{table}: has a column 'prediction', which the predictions need; rename it"


@pytest.mark.parametrize("command", ["predict", "evaluate", "embed", "rank"])
def test_what_is_read_is_not_written_over(refused, classifier, tmp_path, command):
    """The data by any name, and the files of the model."""
    table = write_table(tmp_path / "data.jsonl", animal_rows(4))
    (tmp_path / "link.jsonl").symlink_to(table)
    (tmp_path / "hard.jsonl").hardlink_to(table)
    arguments = [classifier, *(["--query", "the cat", "--documents"] if command == "rank" else []), table]
    for name in ("data.jsonl", "link.jsonl", "hard.jsonl"):
        path = tmp_path / name
        assert (
            refused(command, *arguments, "--out", path)
            == f"--out {path}: is the file that is read; choose another"
        )
    if command != "embed":  # which writes no such file
        config = classifier / "config.json"
        before = config.read_bytes()
        line = refused(command, *arguments, "--out", config)
        assert line == f"--out {config}: is a file of the model; choose another"
        assert config.read_bytes() == before


def test_two_classes_of_one_name(refused, classifier, good, tmp_path, out):
    """Of their probabilities one would be lost."""
    folder = shutil.copytree(classifier, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": {"0": "a", "1": "a"}}))
    line = refused("predict", folder, good, "--out", out)
    assert line.endswith("model config: id2label has two classes with the name 'a'")


# ---- options


@pytest.fixture
def toml(tmp_path, toy):
    def write(text, name="run.toml"):
        path = tmp_path / name
        path.write_text(f'train = ["{toy.corpus}"]\ntokenizer = "{toy.tokenizer}"\nmodel = "L1H16"\n{text}\n')
        return path

    return write


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stesp = 3", "{file}: unknown key 'stesp'; did you mean 'steps'?"),
        ('steps = "three"', 'Invalid value for [steps] from {file}: unable to convert "three" into int.'),
        ("steps = 5.5", "{file}: steps is 5.5; allowed: a whole number"),
        ("steps = [1, 2]", "{file}"),
        ("batch-size = 0", "--batch-size is 0; allowed: 1 or more"),
        ("learning_rate = -1", "--learning-rate is -1.0; allowed: more than 0"),
        ("seed = -1", "--seed is -1; allowed: 0 to 4294967295"),
        ("steps = = 3", "{file}: not valid TOML (Invalid value (at line 4, column 9))"),
        ('schedule = "liner"', "schedule"),
        (
            "[set]\nembeding_size = 8",
            "model config: unknown key 'embeding_size'; did you mean 'embedding_size'?",
        ),
        ("[set]\nhidden_dropout = 2", "model config: hidden_dropout is 2; allowed: 0 <= p < 1"),
        ('[set]\nhidden_dropout = "much"', "hidden_dropout is 'much'; allowed: a finite number"),
    ],
)
def test_toml(refused, toml, out, text, expected):
    file = toml(text)
    line = refused("pretrain --config", file, "--out", out)
    assert expected.format(file=file) in line


def test_missing_and_binary_toml(refused, toml, tmp_path, out):
    toml("")
    line = refused("pretrain --config", tmp_path / "runn.toml", "--out", out)
    assert line == f"{tmp_path / 'runn.toml'}: no such file; did you mean 'run.toml'?"
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    line = refused("pretrain --config", tmp_path / "b.toml", "--out", out)
    assert line.startswith(f"{tmp_path / 'b.toml'}: line 1: not valid UTF-8")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--stesp", "3"], "Unknown option: --stesp. Did you mean --steps?"),
        (["--steps", "three"], 'Invalid value for --steps: unable to convert "three" into int.'),
        (
            ["--set.embeding_size=8"],
            "model config: unknown key 'embeding_size'; did you mean 'embedding_size'?",
        ),
        (
            ["--set.pooling=meen"],
            "model config: pooling is 'meen'; allowed: mean, max, top; did you mean 'mean'?",
        ),
        (["--block-size", "4"], "--block-size is 4; allowed: 8 or more"),
        (["--validation-fraction", "1"], "--validation-fraction is 1.0; allowed: 0 <= fraction < 1"),
        (["--resume", "--overwrite"], "--resume and --overwrite exclude each other"),
    ],
)
def test_flags(pretrained, arguments, expected):
    assert pretrained(*arguments) == expected


def test_an_unknown_flag_of_predict(refused, classifier, good):
    for line in (
        refused("predict", classifier, "--ouut", "x"),
        refused("predict", classifier, good, "--ouut=x"),
    ):
        assert line.startswith("Unknown option: --ouut")
        assert line.endswith("Did you mean --out?")


def test_unknown_command(refused):
    assert refused("pretrian").startswith('Unknown command "pretrian". Did you mean "pretrain"?')


@pytest.mark.parametrize("flags", [["--max-length", "2"], ["--batch-size", "0"]])
def test_counts_of_evaluate_and_predict(refused, classifier, good, out, flags):
    for command in ("evaluate", "predict"):
        line = refused(command, classifier, good, "--out", out, *flags)
        assert line.startswith(f"{flags[0]} is {flags[1]}; allowed: ")


def test_an_option_of_the_last_run_does_not_stay(refused, toml, toy, out):
    """A file given with --config belongs to that call alone, from Python too."""
    refused("pretrain --config", toml("batch-size = 0"), "--out", out)
    assert refused("pretrain --out", out) == 'Command "pretrain" parameter --train requires an argument.'


# ---- models


def test_invalid_model_names_show_the_grammar(pretrained, finetuned, refused, toy, good, out):
    grammar = (
        "a name is B<layers>[x<repeats>]-...H<width> or L<layers>H<width>, "
        "as in B4-4-4H768, B6-3x2-3x2H768, L12H768"
    )
    line = pretrained("--model", "B4-4H")
    assert line.startswith(f"model name 'B4-4H' cannot be read: {grammar}")
    line = refused(f"{FINETUNE} --model L1H --tokenizer", toy.tokenizer, "--train", good, "--out", out)
    assert line.startswith(f"model name 'L1H' cannot be read: {grammar}")


def test_a_mistyped_folder_is_not_taken_for_a_layout(refused, good, out, toy, monkeypatch):
    monkeypatch.chdir(toy.folder)
    line = refused(f"{FINETUNE} --model pretrainde --train", good, "--out", out)
    assert line.startswith("model name 'pretrainde' cannot be read")
    assert line.endswith("and there is no such folder; did you mean 'pretrained'?")


def test_a_folder_that_is_no_model(refused, toy, good, tmp_path, out):
    empty = tmp_path / "empty"
    empty.mkdir()
    line = refused(f"{FINETUNE} --model", empty, "--tokenizer", toy.tokenizer, "--train", good, "--out", out)
    assert line.startswith(f"{empty}: no model; looked for config.json")
    for command in ("evaluate", "predict"):
        line = refused(command, toy.tokenizer, good, "--out", out)
        assert line.startswith(f"{toy.tokenizer}: no model; looked for config.json")
    line = refused("convert", empty, out)
    assert line.startswith(f"{empty}: no model; looked for config.json")
    missing = toy.folder / "pretrainde"
    line = refused("evaluate", missing, good, "--out", out)
    assert line == f"{missing}: no such tokenizer folder; did you mean 'pretrained'?"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("intermediate_size", 48, "has shape [16, 64], the config wants [16, 48]"),
        ("blocks", [2], "is not among the weights"),
        ("position", "absolute", "of the weights has no place in the config's model"),
        ("embedding_size", 8, "has shape [16], the config wants [8]"),
    ],
)
def test_weights_that_do_not_fit_the_config(refused, toy, good, tmp_path, out, key, value, expected):
    model = tmp_path / "model"
    shutil.copytree(toy.pretrained, model)
    config = json.loads((model / "config.json").read_text())
    changed = {**config, key: value}
    if key == "blocks":
        changed["repeats"] = [1] * len(value)
    (model / "config.json").write_text(json.dumps(changed))
    line = refused(f"{FINETUNE} --model", model, "--train", good, "--out", out)
    assert line.startswith(f"{model}: parameter funnelformer.")
    assert line.endswith(expected)
    line = refused(f"{PRETRAIN} --model", model, "--train", toy.corpus, "--tokenizer", model, "--out", out)
    assert line.startswith(f"{model}: parameter funnelformer.")


def test_an_unknown_key_in_config_json(refused, toy, good, tmp_path, out):
    model = tmp_path / "model"
    shutil.copytree(toy.pretrained, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "hidden_droput": 0.5}))
    line = refused(f"{FINETUNE} --model", model, "--train", good, "--out", out)
    assert "unknown key 'hidden_droput'; did you mean 'hidden_dropout'?" in line


def test_weights_cut_short(refused, toy, good, tmp_path, out):
    model = tmp_path / "model"
    shutil.copytree(toy.pretrained, model)
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[:1000])
    line = refused(f"{FINETUNE} --model", model, "--train", good, "--out", out)
    assert line.startswith(f"{model}")


class _Touch:
    """Makes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("torch_zip", [True, False])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.ckpt.pt"])
def test_code_in_a_checkpoint_does_not_run(refused, toy, good, tmp_path, out, name, torch_zip):
    model = tmp_path / "model"
    shutil.copytree(toy.pretrained, model)
    (model / "model.safetensors").unlink()
    if name == "model.ckpt.pt":
        config = FunnelformerConfig.from_name("B1-1H16", padding="original")
        (model / "config.json").unlink()
        (model / "net_config.pytorch.json").write_text(json.dumps(net_config(config)))
    sentinel = tmp_path / "it-ran"
    content = {"a": _Touch(sentinel)}
    if torch_zip:
        torch.save(content, model / name)
    else:
        (model / name).write_bytes(pickle.dumps(content))
    for command in (
        f"{FINETUNE} --train {good} --out {out} --model",
        f"{PRETRAIN} --train {toy.corpus} --tokenizer {toy.tokenizer} --out {out} --model",
        f"evaluate --data {good} --out {out} --model",
        f"predict --data {good} --out {out} --model",
        f"convert --target {out} --source",
    ):
        assert str(model) in refused(command, model)
    assert not sentinel.exists()


def test_another_models_tokenizer(refused, toy, good, tmp_path, out):
    """The tokenizer has more entries than the model's vocabulary."""
    model = tmp_path / "model"
    save_model(model, 40)
    largest = len(load_tokenizer(toy.tokenizer)) - 1
    expected = (
        f"{model}: the tokenizer has ids up to {largest}, but the model's vocabulary ends at 39; "
        "is it another model's tokenizer?"
    )
    given = ["--tokenizer", toy.tokenizer, "--model", model, "--out", out]
    assert refused(f"{FINETUNE} --train", good, *given) == expected
    assert refused(f"{PRETRAIN} --train", toy.corpus, *given) == expected
    shutil.copytree(toy.tokenizer, model, dirs_exist_ok=True)
    line = refused(f"{FINETUNE} --train", good, "--model", model, "--out", out)
    assert line == expected


def test_token_ids_beyond_the_vocabulary(refused, pretrained, toy, good, classifier, tmp_path, out):
    """A tokenizer with one more token, far out, in the model's own folder."""
    assert pretrained("--set.vocab_size=30").startswith("--set.vocab_size: the tokenizer has ids up to ")
    model = tmp_path / "model"
    shutil.copytree(classifier, model)
    tokenizer = load_tokenizer(model)
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(model)
    for command in ("evaluate", "predict"):
        line = refused(command, model, good, "--out", out)
        assert line.startswith(f"{model}: the tokenizer has ids up to {len(tokenizer) - 1}, but")


def test_lengths_beyond_absolute_positions(refused, pretrained, classifier, good, tmp_path, out, toy):
    expected = "is beyond the model's max_position_embeddings 32"
    flags = ["--set.position=absolute", "--set.max_position_embeddings=32"]
    assert pretrained(*flags, "--block-size", 64) == f"--block-size 64 {expected}"
    line = refused(f"{FINETUNE} --model", classifier, "--train", good, "--out", out, "--max-length", 33)
    assert line == f"--max-length 33 {expected}"
    for command in ("evaluate", "predict"):
        line = refused(command, classifier, good, "--out", out, "--max-length", 33)
        assert line == f"--max-length 33 {expected}"
    model = tmp_path / "model"
    save_model(model, len(load_tokenizer(toy.tokenizer)), position="absolute", max_position_embeddings=32)
    assert pretrained("--model", model, "--block-size", 64) == f"--block-size 64 {expected}"


def test_a_pretrained_model_without_a_head(refused, toy, good, out):
    for command in ("evaluate", "predict"):
        line = refused(command, toy.pretrained, good, "--out", out)
        assert line == (
            f"{toy.pretrained}: has no classification head; fine-tune it first (funnelformer finetune)"
        )


def test_a_layout_needs_a_tokenizer(refused, good, out):
    line = refused(f"{FINETUNE} --model L1H16 --train", good, "--out", out)
    assert line == "--model L1H16 starts from nothing, so --tokenizer is needed"


def test_pretraining_several_blocks_without_a_decoder(pretrained):
    line = pretrained("--model", "B1-1H16", "--set.decoder_layers=0")
    assert line == ("--model B1-1H16: masked language modelling needs a decoder: set decoder_layers >= 1")


# ---- the output


def test_a_folder_that_is_not_empty(finetuned, pretrained, refused, good, toy, out):
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    expected = f"{out} is not empty; choose another --out, or pass --resume or --overwrite"
    assert pretrained() == expected
    assert finetuned("--train", good) == expected
    assert finetuned("--train", good, "--overwrite") == (
        f"{out} is not the folder of a run (it has no run_config.toml); --overwrite would destroy it"
    )
    line = refused("tokenizer --train", toy.corpus, "--out", out)
    assert line == f"{out} is not empty; choose another or pass --overwrite"


def test_places_that_cannot_be_written(finetuned, pretrained, refused, classifier, good, tmp_path, out, toy):
    out.write_text("a file")
    assert pretrained() == f"{out} is a file; --out names a folder"
    below = out / "sub"
    line = refused(f"{FINETUNE} --model", toy.pretrained, "--train", good, "--out", below)
    assert line == f"{below}: cannot be made (Not a directory)"
    for command in ("evaluate", "predict"):
        line = refused(command, classifier, good, "--out", below)
        assert line.startswith(f"{below}: cannot be written (")
    tmp = tmp_path / "folder"
    tmp.mkdir()
    line = refused("predict", classifier, good, "--out", tmp)
    assert line == f"{tmp}: is a folder, cannot write a file there"


def test_overwrite_keeps_the_old_run_until_the_input_is_read(toy, tmp_path, out, refused):
    train = tmp_path / "corpus.txt"
    shutil.copy(toy.corpus, train)
    command = [PRETRAIN, "--train", train, "--tokenizer", toy.tokenizer, "--out", out, "--steps", 1]
    assert run(*command) == 0
    train.write_bytes(b"\xff")
    assert "not valid UTF-8" in refused(*command, "--overwrite")


def test_resume_with_nothing_to_resume(finetuned, pretrained, good, out):
    expected = f"{out} holds no complete checkpoint to resume from; run without --resume to start again"
    assert pretrained("--resume") == expected
    out.mkdir()
    assert finetuned("--train", good, "--resume") == expected


def test_resume_with_changed_options(pretrained, toy, out):
    command = [PRETRAIN, "--train", toy.corpus, "--tokenizer", toy.tokenizer, "--out", out]
    assert run(*command, "--steps", 2, "--save-every", 1) == 0
    line = pretrained("--resume", "--steps", 2, "--save-every", 1, "--learning-rate", 0.5)
    assert line == f"{out / 'run_config.toml'}: the run began with learning-rate = 0.01, now it is 0.5"
    line = pretrained("--resume", "--steps", 2, "--save-every", 1, "--set.pooling=max")
    assert line == f"{out / 'run_config.toml'}: the run began with set = {{}}, now it is {{'pooling': 'max'}}"


# ---- the real command


def test_the_program_itself(tmp_path, toy):
    """Exit code, one line, no traceback, and nothing else on stderr, from another process."""
    options = (
        f"{PRETRAIN} --train {toy.corpus} --tokenizer {toy.tokenizer} --out {tmp_path / 'out'} --stesp 3"
    )
    done = subprocess.run(
        [sys.executable, "-m", "funnelformer", *options.split()],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")},
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr == "error: Unknown option: --stesp. Did you mean --steps?\n"
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []
