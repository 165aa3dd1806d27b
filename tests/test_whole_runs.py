"""What a user's commands leave, taken together: modes of files, from pretraining to an export."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from training.toy import FINETUNE, PRETRAIN, animal_rows, run, write_table


@pytest.mark.slow
@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_every_file_and_folder_respects_the_umask(toy, no_shape_checks, tmp_path, umask):
    """Also what torch, safetensors, tokenizers, matplotlib and ONNX write: another user of the group can read it."""
    table = write_table(tmp_path / "table.tsv", animal_rows(40))
    texts = tmp_path / "texts.txt"
    texts.write_text("the red cat runs .\nthe blue dog sings .\n")
    out = tmp_path / "out"
    before = os.umask(umask)
    try:
        out.mkdir()
        commands = [
            (PRETRAIN, "--train", toy.corpus, "--tokenizer", toy.tokenizer, "--out", out / "pretrained"),
            (FINETUNE, "--model", out / "pretrained", "--train", table, "--out", out / "tuned"),
            ("convert", out / "pretrained", out / "converted", "--layers", "0"),
            ("embed", out / "pretrained", texts, "--out", out / "vectors.npy", "--device", "cpu"),
            (
                "embed",
                out / "pretrained",
                "--save-sentence-transformers",
                out / "sentences",
                "--device",
                "cpu",
            ),
            ("predict", out / "tuned", texts, "--out", out / "labels.jsonl", "--device", "cpu"),
            ("export", out / "tuned", out / "onnx", "--int8", "dynamic"),
            ("report", out / "tuned", "--out", out / "page.html"),
        ]
        codes = {command[0].split()[0]: run(*command) for command in commands}
    finally:
        os.umask(before)
    assert codes["convert"] == 0
    assert all(code == 0 for code in codes.values()), codes
    found = {path: stat.S_IMODE(path.lstat().st_mode) for path in out.rglob("*")}
    assert len(found) > 40
    wrong = {
        str(path.relative_to(out)): oct(mode)
        for path, mode in found.items()
        if mode != (0o777 if Path(path).is_dir() else 0o666) & ~umask
    }
    assert wrong == {}
