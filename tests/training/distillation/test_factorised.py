"""Narrow embeddings that begin as the wide ones' best approximation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from funnelformer import load_embedder
from funnelformer.modeling import FunnelformerModel
from funnelformer.training.distillation.factorised import factorised
from training.toy import fails, run


@pytest.fixture(scope="module")
def wide(lesson):
    return FunnelformerModel.from_pretrained(str(lesson.teacher), dtype=torch.float32).eval()


def of_tokens(model, segment=0):
    """[vocabulary, D]: what the embeddings give for each token at the first position."""
    ids = torch.arange(model.config.vocab_size)[:, None]
    with torch.no_grad():
        return model.embeddings(model.embeddings.word_embeddings(ids), torch.full_like(ids, segment))[:, 0]


def without_positions(model):
    for table in (model.embeddings.position_embeddings, model.embeddings.token_type_embeddings):
        table.weight.data.zero_()
    return model


def test_frequent_tokens_keep_what_they_have(lesson):
    wide = without_positions(
        FunnelformerModel.from_pretrained(str(lesson.teacher), dtype=torch.float32).eval()
    )
    counts = np.arange(wide.config.vocab_size)
    narrow = factorised(wide, 12, counts)
    assert narrow.embeddings.word_embeddings.weight.shape == (wide.config.vocab_size, 12)
    ours, theirs = of_tokens(narrow), of_tokens(wide)
    # Half of the ten directions are for the five most frequent ones. Measured: 4e-6 of values up to 4.
    torch.testing.assert_close(ours[-5:], theirs[-5:], atol=1e-4, rtol=0)
    assert not torch.allclose(ours, theirs, atol=0.1)
    left = (ours - theirs).square().sum() / (theirs - theirs.mean(0)).square().sum()
    assert left < 0.4


def test_all_codes_have_one_norm_so_the_layer_norm_changes_nothing(wide):
    narrow = factorised(wide, 12, np.ones(wide.config.vocab_size, dtype=np.int64))
    table = narrow.embeddings.word_embeddings.weight
    torch.testing.assert_close(table.mean(1), torch.zeros(len(table)), atol=1e-6, rtol=0)
    torch.testing.assert_close(table.square().mean(1), torch.ones(len(table)), atol=1e-5, rtol=0)
    torch.testing.assert_close(narrow.embeddings.layer_norm(table), table, atol=1e-4, rtol=0)


def test_the_rest_of_the_model_is_the_same(wide):
    narrow = factorised(wide, 8, np.ones(wide.config.vocab_size, dtype=np.int64))
    mine, theirs = narrow.state_dict(), wide.state_dict()
    rest = [name for name in theirs if not name.startswith("embeddings.")]
    assert rest
    assert all(torch.equal(mine[name], theirs[name]) for name in rest)


def test_a_student_with_narrow_embeddings(lesson, tmp_path, capsys):
    out = tmp_path / "out"
    assert (
        run(*lesson.command, "--steps", 10, "--embedding-size", 8, "--frozen-share", 0.5, "--out", out) == 0
    )
    student = load_embedder(str(out))
    assert student.model.embeddings.word_embeddings.weight.shape[1] == 8
    assert student.vectors(["the red cat runs ."]).shape == (1, 16)
    message = fails(capsys, *lesson.command, "--embedding-size", 16, "--out", tmp_path / "b")
    assert message == "--embedding-size 16: allowed is less than the model's width 16"
