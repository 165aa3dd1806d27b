"""A service of exported graphs answers as that of the models they were exported from."""

from __future__ import annotations

import numpy as np
import pytest

from funnelformer.base.sentence_modules import SentenceEmbedding
from funnelformer.data.tokenizer import load_tokenizer
from funnelformer.export.command import export
from serve.conftest import LABELS
from serve.running import running, save

pytest.importorskip("onnx", reason="needs the extra onnx")
pytestmark = pytest.mark.usefixtures("no_shape_checks", "traced_once")

# Largest difference of a number in an answer; 1e-6 measured, and answers are rounded to six digits.
TOLERANCE = 1e-5


def exported(folder, task=None):
    out = folder.with_name(f"{folder.name}-{task}")
    export(str(folder), out, task=task, check_to=24, say=lambda line: None)
    return out


def both(folder, task, path, *bodies):
    """Of each body the answers of the model and of its export, which has no layers to look into."""
    answers = []
    for served in (folder, exported(folder, task)):
        with running(served) as client:
            answers.append([client.results(path, **body) for body in bodies])
            refused = client.post("/inspect", {"text": "the red cat"})
    assert refused.status == 409
    return zip(*answers, strict=True)


def test_classes(toy, texts):
    folder = save(toy.folder / "classes-graph", toy.tokenizer, "texts", labels=LABELS, layout="B1-1H16")
    ((ours, graph),) = both(folder, None, "/classify", {"texts": texts})
    assert len(graph) == len(texts)
    for one, other in zip(ours, graph, strict=True):
        assert one["prediction"] == other["prediction"]
        assert other["probabilities"] == pytest.approx(one["probabilities"], abs=TOLERANCE)
    assert {one["prediction"] for one in ours} <= set(LABELS)


@pytest.mark.slow
def test_masks(toy):
    folder = save(toy.folder / "masked-graph", toy.tokenizer, "masked", layout="L1H16", decoder_layers=1)
    mask = "<mask>"
    body = {"texts": [f"the red {mask} sleeps .", f"{mask} cat {mask}"], "top": 3}
    ((ours, graph),) = both(folder, None, "/fill", body)
    flat = [_numbers(value) for value in (ours, graph)]
    assert len(flat[0]) == len(flat[1]) > 0
    np.testing.assert_allclose(flat[1], flat[0], atol=TOLERANCE)


def test_vectors(toy, texts):
    folder = save(toy.folder / "vectors-graph", toy.tokenizer, "states", layout="L1H16", decoder_layers=1)
    bodies = [{"texts": texts[:5], "pooling": pooling} for pooling in ("mean", "cls")]
    for answers in both(folder, "embeddings", "/embed", *bodies):
        ours, graph = map(_numbers, answers)
        assert len(ours) == 5 * 16
        np.testing.assert_allclose(graph, ours, atol=TOLERANCE)


def test_vectors_of_openai_clients(toy, texts):
    """Of texts and of token ids behind a prompt, as the service of the model itself gives them; and what /info says."""
    prompted = SentenceEmbedding(prompts={"query": "the blue "}, default_prompt="query")
    settings = {"layout": "L1H16", "decoder_layers": 1, "sentence_embedding": prompted.to_dict()}
    folder = save(toy.folder / "openai-graph", toy.tokenizer, "states", **settings)
    ids = load_tokenizer(folder)(texts[:3], add_special_tokens=False)["input_ids"]
    found = []
    for served in (folder, exported(folder, "embeddings")):
        with running(None, models={"one": str(served)}) as client:
            replies = [
                client.post("/v1/embeddings", {"input": given, "model": "one"}) for given in (texts[:3], ids)
            ]
            assert client.get("/info").json["model_dtype"] == "float32"
            assert client.post("/v1/embeddings", {"input": [10**6], "model": "one"}).status == 400
        found += [[entry["embedding"] for entry in reply.json["data"]] for reply in replies]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=TOLERANCE)


@pytest.mark.slow  # fast: `rank` with an export in test_command.py, the routes with a model in test_routes.py
def test_ranks(toy, texts):
    names = {"task": {"text": "a", "text_pair": "b"}, "labels": ("no", "yes"), "layout": "L1H16"}
    folder = save(toy.folder / "rank-graph", toy.tokenizer, "texts", **names)
    found = []
    for served in (folder, exported(folder)):
        with running(served) as client:
            given = {"query": "the red cat", "texts": texts[:5]}
            found.append((client.results("/rank", **given), client.post("/rerank", given).json))
    for ours, graph in zip(*found, strict=True):
        assert [row["index"] for row in graph] == [row["index"] for row in ours]
        np.testing.assert_allclose(_numbers(graph), _numbers(ours), atol=TOLERANCE)


@pytest.mark.parametrize("head", [pytest.param("simple", marks=pytest.mark.slow), "conditional"])
def test_answers(toy, head):
    """In three windows, one of them padded."""
    task = {"task": "squad2", "max_length": 24, "doc_stride": 8}
    settings = {"layout": "L1H16", "qa_head": head, "decoder_layers": 1}
    folder = save(toy.folder / f"{head}-graph", toy.tokenizer, "answers", task, **settings)
    body = {"question": "the red cat ?", "context": "the dog eats . the blue bird sings . " * 3, "top": 4}
    ((ours, graph),) = both(folder, None, "/answer", body)
    assert len(ours) == 4
    for one, other in zip(ours, graph, strict=True):
        assert other == one | {"score": pytest.approx(one["score"], abs=TOLERANCE)}


def _numbers(value):
    """All floats in an answer, in its order."""
    if isinstance(value, dict):
        return [number for part in value.values() for number in _numbers(part)]
    if isinstance(value, list):
        return [number for part in value for number in _numbers(part)]
    return [value] if isinstance(value, float) else []
