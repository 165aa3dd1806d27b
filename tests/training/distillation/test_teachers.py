"""Teachers of other libraries, other widths and other tokenizers; texts that are longer than a teacher reads."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from funnelformer import load_embedder
from funnelformer.data.bad_rows import refuse
from funnelformer.spread.engine_options import ClusterOptions
from funnelformer.training.distillation.teacher import load_teacher
from funnelformer.training.distillation.teacher_outputs import compute_vectors
from funnelformer.training.distillation.text_files import TextFiles
from funnelformer.training.distillation.token_rows import tokenize
from sentence_folders import load_sentence_transformer, save_bert
from training.distillation.conftest import texts
from training.toy import fails, run

SHORT = ("--steps", 4, "--evaluate-every", 2, "--learn", "vectors")


def vectors_of(teacher, file, cache):
    files = TextFiles.find([str(file)])
    survey = files.survey(refuse, 0.0)
    tokens = tokenize(files, survey, teacher.reader, cache, refuse)
    found = compute_vectors(tokens, teacher, {"texts": survey.digest}, cache, ClusterOptions(), "cpu")
    return tokens, found.take(range(survey.number)).numpy()


def test_vectors_on_disk_are_those_of_the_library(lesson, modern, tmp_path):
    read = lesson.texts.read_text().splitlines()
    for folder in (lesson.teacher, modern):
        teacher = load_teacher(str(folder), "fp32", "cpu", None)
        assert (teacher.encoder is None) == (folder == modern)
        _, found = vectors_of(teacher, lesson.texts, tmp_path / "cache")
        # In float16, of numbers below 1. Measured: 2e-4.
        np.testing.assert_allclose(found, load_sentence_transformer(folder).encode(read), atol=1e-3)


def test_a_text_in_windows_has_the_mean_of_their_vectors(lesson, tmp_path):
    file = tmp_path / "long.txt"
    words = " ".join(texts(20)).split()
    file.write_text(" ".join(words[:12]) + "\n" + " ".join(words[:44]) + "\n" + " ".join(words[:100]) + "\n")
    teacher = load_teacher(str(lesson.teacher), "fp32", "cpu", 64)
    assert teacher.reads_windows
    tokens, found = vectors_of(teacher, file, tmp_path / "cache")
    # Of 32 tokens, 30 of them the text's; the third text is cut behind 64 tokens.
    rows = [" ".join(words[:30]), " ".join(words[30:44])], [" ".join(words[:30]), " ".join(words[30:60])]
    assert tokens.first_row.tolist() == [0, 1, 3, 5]
    assert tokens.lengths.tolist() == [14, 32, 16, 32, 32]
    embedder = load_embedder(str(lesson.teacher))
    for place, (weights, windows) in enumerate(zip(((32, 16), (32, 32)), rows, strict=True), start=1):
        mean = np.average(embedder.vectors(windows), axis=0, weights=weights)
        np.testing.assert_allclose(found[place], mean / np.linalg.norm(mean), atol=1e-3)


def test_a_hybrid_student_reads_in_one_piece_what_its_teacher_reads_in_windows(lesson, tmp_path, capsys):
    file = tmp_path / "long.txt"
    long = [" ".join(texts(12, seed)) for seed in range(30)]
    file.write_text("\n".join(long) + "\n")
    out = tmp_path / "out"
    mixers = ("--set.mixer=['ponet','attention']", "--max-length", 128)
    assert run(*lesson.command, *SHORT, *mixers, "--train", file, "--out", out) == 0
    printed = capsys.readouterr().out
    assert "the model has 64 positions, which are repeated" in printed
    assert "windows" in printed
    student = load_embedder(str(out))
    assert student.max_length == 128
    assert student.model.config.block_mixers == ["ponet", "attention"]
    assert student.vectors(long[:2]).shape == (2, 16)
    table = student.model.embeddings.position_embeddings.weight
    # It was trained, but for the positions that no text reached.
    torch.testing.assert_close(table[-4:], table[60:64], atol=0.2, rtol=0)
    message = fails(
        capsys, *lesson.command, "--learn", "states", "--max-length", 128, "--out", tmp_path / "b"
    )
    assert "because it reads windows" in message


def test_a_student_from_nothing_of_another_width_and_tokenizer(lesson, modern, toy, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["distill", "--teacher", modern, "--model", "B1-1H16", "--tokenizer", toy.tokenizer, *SHORT]
    command += ["--train", lesson.texts, "--batch-size", 8, "--device", "cpu", "--cache", tmp_path / "cache"]
    command += ["--validation-fraction", 0.1]
    assert run(*command, "--out", out) == 0
    projection = load_file(out / "projection.safetensors")["weight"]
    assert projection.shape == (24, 16)
    student = load_embedder(str(out))
    assert student.vectors(["the red cat runs ."]).shape == (1, 16)
    assert "projection.safetensors" in (out / "README.md").read_text()
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["agreement"] == metrics["cosine"]
    assert "overlap@10" in metrics
    # What was kept is nearer to the teacher than another projection is.
    read = lesson.texts.read_text().splitlines()
    theirs = load_sentence_transformer(modern).encode(read)
    ours = student.vectors(read) @ projection.numpy().T
    ours /= np.linalg.norm(ours, axis=1, keepdims=True)
    other = student.vectors(read) @ torch.nn.Linear(16, 24, bias=False).weight.detach().numpy().T
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    assert (ours * theirs).sum(1).mean() > (other * theirs).sum(1).mean()
    assert "states" in fails(capsys, *command, "--learn", "states", "--out", tmp_path / "b")


def test_what_is_no_teacher_is_said_before_work(lesson, tmp_path, capsys):
    out = ("--out", tmp_path / "out")
    assert "is a layout" in fails(capsys, *lesson.command, "--teacher", "B2-2H16", *out)
    other = save_bert(tmp_path / "other", num_layers=2)
    assert "does not have those layers" in fails(capsys, *lesson.command, "--teacher", other, *out)
    nothing = ("--model", "B1-1H16", "--learn", "states")
    command = ["distill", "--teacher", lesson.teacher, "--train", lesson.texts, *nothing]
    assert "for students made of the teacher" in fails(capsys, *command, *out)
    assert fails(capsys, *lesson.command, "--learn", "vectors=0", *out).endswith(
        "a weight above 0, such as 0.5"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_a_bad_row_is_named_or_left_out(lesson, tmp_path, capsys, suffix):
    file = tmp_path / f"texts.{suffix}"
    read = texts(40)
    if suffix == "txt":
        read[20] += "\0"
        file.write_text("\n".join(read) + "\n")
        where = f"{file}: line 21: the text has the character NUL"
    else:
        rows = [json.dumps({"text": text}) for text in read]
        rows[20] = '{"text": null}'
        file.write_text("\n".join(rows) + "\n")
        where = f"{file}: row 21 (line 21): column 'text' is not text but None"
    command = (*lesson.command, *SHORT, "--train", file, "--out", tmp_path / "out")
    assert fails(capsys, *command).startswith(where)
    assert not (tmp_path / "out").exists()
    assert run(*command, "--skip-bad-rows") == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["texts"], metrics["skipped_rows"]) == (39, 1)
