"""What the benchmark of engines makes of its samples, and the texts it measures with."""

from __future__ import annotations

import engines
import transformers


def test_ratios_are_of_one_round_each():
    samples = {
        "L6 onnx": [0.010, 0.020, 0.040],
        "B2-2-2 onnx": [0.005, 0.016, 0.020],
        engines.PIPELINE: [0.020, 0.040, 0.080],
        "sentence-transformers onnx": [0.020, 0.020, 0.080],
    }
    rows = {row["subject"]: row for row in engines.rows_of("8x32", samples)}
    assert rows["B2-2-2 onnx"]["ms"]["median"] == 16
    assert rows["B2-2-2 onnx"]["of_full"] == {"median": 0.5, "q25": 0.5, "q75": 0.65}
    assert rows["B2-2-2 onnx"]["of_pipeline"]["median"] == 0.25
    assert rows["L6 onnx"]["of_pipeline"]["median"] == 0.5
    assert rows["sentence-transformers onnx"]["of_pipeline"]["median"] == 1
    assert "of_full" not in rows["L6 onnx"]
    assert "of_full" not in rows["sentence-transformers onnx"]
    assert "of_pipeline" not in rows[engines.PIPELINE]
    table = engines.tables(list(rows.values()), ["8x32"])
    assert "| B2-2-2 onnx | 0.50 (0.50 to 0.65) |" in table
    assert "| transformers' pipeline | 40.0 (30.0 to 60.0) |" in table


def test_texts_have_exactly_so_many_tokens(minilm):
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    texts = engines.make_texts(tokenizer, 3, 40)
    assert [len(ids) for ids in tokenizer(texts)["input_ids"]] == [40, 40, 40]
    assert len(set(texts)) == 3
