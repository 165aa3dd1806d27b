"""`funnelformer export`: the folder, its int8 forms, and the same predictions from ONNX Runtime as from PyTorch."""

from __future__ import annotations

import json
import shutil
from importlib import util

import numpy as np
import pytest
import torch

from funnelformer import FunnelformerConfig
from funnelformer.base.errors import UserError
from funnelformer.data.tokenizer import load_tokenizer
from funnelformer.export import command, int8
from funnelformer.export.command import export
from funnelformer.export.signatures import TARGETS
from funnelformer.inference.answer import answer
from funnelformer.inference.embed import embed
from funnelformer.inference.embedder import load_embedder
from funnelformer.inference.engines import OnnxRuntimeSession, OpenVinoSession, best_engine
from funnelformer.inference.evaluate import evaluate
from funnelformer.inference.onnx_model import OnnxModel, is_export
from funnelformer.inference.predict import predict
from funnelformer.inference.predictor import load_predictor
from funnelformer.inference.rank import rank
from training.toy import animal_rows, fails, write_table

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("openvino", reason="needs the extra openvino")
pytestmark = pytest.mark.usefixtures("no_shape_checks", "traced_once")

LABELS = ("no", "perhaps", "yes")
# Largest difference of a logit; they reach 2, 1e-6 measured.
TOLERANCE = 1e-5


def save(folder, toy, task, layout="B1-1H16", names=LABELS, **settings):
    """A model with random weights for a task, with the toy's tokenizer."""
    torch.manual_seed(6)
    tokenizer = load_tokenizer(toy.tokenizer)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    config = FunnelformerConfig.from_name(
        layout, vocab_size=len(tokenizer), initializer_std=0.4, **labels, **settings
    )
    TARGETS[task].model_class(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "task.json").write_text(json.dumps({"max_length": 40}))
    return folder


def quiet(line):
    """Takes the place of print."""


@pytest.fixture(scope="module")
def texts(toy, no_shape_checks, traced_once):
    """A classifier and its export."""
    folder = save(toy.folder / "texts", toy, "text-classification")
    report = export(str(folder), toy.folder / "texts-onnx", check_to=40, say=quiet)
    return folder, toy.folder / "texts-onnx", report


@pytest.fixture(scope="module")
def table(toy):
    rows = [(text, LABELS[i % 3]) for i, (text, _) in enumerate(animal_rows(24))]
    return write_table(toy.folder / "table.tsv", rows)


def test_the_folder(texts):
    source, folder, report = texts
    names = {path.name for path in folder.iterdir()}
    assert {"model.onnx", "config.json", "tokenizer.json", "task.json", "export.json"} <= names
    assert is_export(folder)
    assert not is_export(source)
    assert json.loads((folder / "export.json").read_text()) == report
    assert report["task"] == "text-classification"
    assert report["inputs"] == ["input_ids", "attention_mask", "token_type_ids"]
    assert report["outputs"] == ["logits"]
    assert report["checked"]["cases"] >= 30
    assert report["checked"]["largest"]["relative"] <= 1e-4
    assert report["bytes"] == (folder / "model.onnx").stat().st_size
    onnx.checker.check_model(onnx.load(folder / "model.onnx"))


def test_what_other_servers_read(texts):
    """text-embeddings-inference asks for sizes that are defaults of ours, and both it and FastEmbed for a length."""
    _, folder, _ = texts
    config = json.loads((folder / "config.json").read_text())
    assert (config["num_hidden_layers"], config["hidden_size"]) == (2, 16)
    assert config["max_position_embeddings"] == 512
    assert config["id2label"] == {"0": "no", "1": "perhaps", "2": "yes"}
    assert json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"] == 40
    assert json.loads((folder / "sentence_bert_config.json").read_text()) == {"max_seq_length": 40}
    assert FunnelformerConfig.from_pretrained(folder).blocks == [1, 1]
    (folder.parent / "wrong").mkdir()
    (folder.parent / "wrong" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(UserError, match="num_hidden_layers is 3; the blocks have 2"):
        FunnelformerConfig.from_pretrained(folder.parent / "wrong")


def test_logits_are_those_of_pytorch(texts):
    source, folder, _ = texts
    lines = [" ".join(text for text, _ in animal_rows(number + 1)) for number in range(7)]
    ours = load_predictor(str(source), device="cpu")
    for engine, session in (("onnx", OnnxRuntimeSession), ("openvino", OpenVinoSession)):
        theirs = load_predictor(str(folder), backend=engine)
        assert isinstance(theirs.model, OnnxModel)
        assert isinstance(theirs.model.session, session)
        assert not any(isinstance(value, torch.nn.Module) for value in vars(theirs.model).values())
        assert theirs.labels == list(LABELS)
        np.testing.assert_allclose(theirs.logits(lines), ours.logits(lines), rtol=0, atol=TOLERANCE)


def test_predict_and_evaluate(texts, table, tmp_path):
    source, folder, _ = texts
    assert evaluate(str(folder), str(table)) == pytest.approx(evaluate(str(source), str(table)))
    for name, model in (("torch", source), ("onnx", folder)):
        predict(str(model), str(table), out=tmp_path / f"{name}.jsonl")
    read = [
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("torch", "onnx")
    ]
    for ours, theirs in zip(*read, strict=True):
        assert theirs["prediction"] == ours["prediction"]
        assert theirs["probabilities"] == pytest.approx(ours["probabilities"], abs=2e-6)


def test_top_pooling_is_for_onnx_runtime(texts, tmp_path):
    """OpenVINO keeps other tokens: outputs differed by 0.9. It is neither chosen nor let be asked for."""
    folder = tmp_path / "top"
    shutil.copytree(texts[1], folder)
    assert best_engine(folder) == "openvino"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "pooling": "top"}))
    assert best_engine(folder) == "onnx"
    with pytest.raises(UserError, match="OpenVINO keeps other tokens in top pooling; use --backend onnx"):
        OnnxModel(folder, engine="openvino")


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_rank(texts, engine, tmp_path):
    source, folder, _ = texts
    documents = tmp_path / "documents.txt"
    documents.write_text("".join(text + "\n" for text, _ in animal_rows(6)))
    found = []
    for model, backend in ((source, "torch"), (folder, engine)):
        rank(
            str(model),
            str(documents),
            query="the red cat",
            label="yes",
            backend=backend,
            out=tmp_path / "ranked",
        )
        found.append([json.loads(line) for line in (tmp_path / "ranked").read_text().splitlines()])
    ours, theirs = found
    assert len(ours) == 6
    assert theirs == [row | {"score": pytest.approx(row["score"], abs=TOLERANCE)} for row in ours]


def test_tags_of_tokens(toy, tmp_path):
    names = ("O", "B-animal", "I-animal")
    source = save(tmp_path / "tokens", toy, "token-classification", "L1H16", names=names)
    export(str(source), tmp_path / "out", check_to=20, say=quiet)
    data = tmp_path / "data.txt"
    data.write_text("".join(text + "\n" for text, _ in animal_rows(9)))
    for name, model in (("torch", source), ("onnx", tmp_path / "out")):
        predict(str(model), str(data), out=tmp_path / f"{name}.jsonl")
    assert (tmp_path / "onnx.jsonl").read_text() == (tmp_path / "torch.jsonl").read_text()


def test_vectors(toy, texts, tmp_path):
    """Of both poolings, from one graph."""
    source = save(tmp_path / "encoder", toy, "feature-extraction", "L1H16", decoder_layers=1)
    export(str(source), tmp_path / "out", task="embeddings", check_to=20, say=quiet)
    lines = [" ".join(text for text, _ in animal_rows(number + 1)) for number in range(7)]
    found = {}
    for pooling in ("mean", "cls"):
        ours = load_embedder(str(source), pooling=pooling, normalize=True, device="cpu")
        theirs = load_embedder(str(tmp_path / "out"), pooling=pooling, normalize=True)
        assert isinstance(theirs.model, OnnxModel)
        found[pooling] = theirs.vectors(lines)
        np.testing.assert_allclose(found[pooling], ours.vectors(lines), rtol=0, atol=1e-6)
    assert np.abs(found["mean"] - found["cls"]).max() > 0.01
    default = load_embedder(str(tmp_path / "out"), normalize=True)
    np.testing.assert_array_equal(default.vectors(lines), found["mean"])
    with pytest.raises(UserError, match="needs the weights, and an export has none"):
        embed(str(tmp_path / "out"), save_to=tmp_path / "saved")
    with pytest.raises(UserError, match="gives no vectors; export the model with --task embeddings"):
        load_embedder(str(texts[1]))


@pytest.mark.parametrize("head", ["simple", pytest.param("conditional", marks=pytest.mark.slow)])
def test_answers_to_questions(toy, tmp_path, head):
    """With what must not be an answer hidden, as in PyTorch, and the windows of long passages."""
    source = save(tmp_path / "spans", toy, "question-answering", "L1H16", qa_head=head)
    (source / "task.json").write_text(json.dumps({"task": "squad2", "max_length": 40, "doc_stride": 8}))
    export(str(source), tmp_path / "out", check_to=20, say=quiet)
    passages = [" ".join(text for text, _ in animal_rows(number + 1)) for number in range(7)]
    questions = ["the red cat"] * len(passages)
    ours = answer(load_predictor(str(source), device="cpu"), questions, passages)
    theirs = answer(load_predictor(str(tmp_path / "out")), questions, passages)
    assert max(len(found.best) for found in ours) > 10
    for mine, other in zip(ours, theirs, strict=True):
        assert [found.text for found in other.best] == [found.text for found in mine.best]
        assert other.null_odds == pytest.approx(mine.null_odds, abs=1e-5)


def test_choices(toy, tmp_path):
    source = save(tmp_path / "choices", toy, "multiple-choice", "L1H16", names=("A", "B", "C"))
    export(str(source), tmp_path / "out", check_to=20, say=quiet)
    rows = [
        {
            "article": text,
            "question": "the cat",
            "options": ["runs", "sleeps .", "eats the fish"],
            "answer": "ABC"[i % 3],
        }
        for i, (text, _) in enumerate(animal_rows(10))
    ]
    data = tmp_path / "dev.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ours, theirs = (
        evaluate(str(model), str(data), task="choice", part="dev") for model in (source, tmp_path / "out")
    )
    assert theirs == ours


# ---- int8


def test_int8_of_what_it_may_cost(texts, table, tmp_path):
    """With labels: every group was measured, and the score is held or only the least sensitive is left."""
    source, _, plain = texts
    said: list[str] = []
    report = export(
        str(source), tmp_path / "out", int8="dynamic", calibration=str(table), check_to=40, say=said.append
    )
    found = report["int8"]
    groups = {choice["group"]: choice["num_nodes"] for choice in found["choices"]}
    assert groups == {
        "embeddings": 1,
        **{f"block {i}: {part}": n for i in (1, 2) for part, n in (("mixer", 4), ("feed-forward", 2))},
    }
    assert all(choice["error"] > 0 for choice in found["choices"])
    assert found["judged_by"] == "accuracy"
    assert found["scores"]["onnx"] == found["scores"]["torch"]
    assert found["scores"]["int8"]["accuracy"] == found["judged"][-1]
    chosen = [choice for choice in found["choices"] if choice["is_int8"]]
    assert found["judged"][-1] >= found["least"] or len(chosen) == 1
    # What was left out is what the outputs are most sensitive to.
    left = [choice["error"] for choice in found["choices"] if not choice["is_int8"]]
    assert not left or min(left) >= max(choice["error"] for choice in chosen)
    types = [node.op_type for node in onnx.load(tmp_path / "out" / "model.onnx").graph.node]
    products = [choice["num_nodes"] for choice in chosen if choice["group"] != "embeddings"]
    assert types.count("MatMulInteger") == sum(products)
    assert found["bytes"] == (tmp_path / "out" / "model.onnx").stat().st_size
    assert {path.name for path in (tmp_path / "out").glob("*.onnx*")} == {"model.onnx"}
    assert evaluate(str(tmp_path / "out"), str(table))["accuracy"] == found["scores"]["int8"]["accuracy"]
    assert plain["bytes"] == report["bytes"]


def test_static_int8_from_texts(texts, tmp_path):
    """Without labels: the share of the answers that stay is held."""
    source, _, _ = texts
    lines = tmp_path / "texts.txt"
    lines.write_text("".join(text + "\n" for text, _ in animal_rows(20)))
    report = export(
        str(source), tmp_path / "out", int8="static", calibration=str(lines), check_to=20, say=quiet
    )
    found = report["int8"]
    assert found["judged_by"] == "share of the same answers"
    assert found["examples"] == 20
    assert "scores" not in found
    types = {node.op_type for node in onnx.load(tmp_path / "out" / "model.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= types
    assert "MatMulInteger" not in types


def test_the_most_sensitive_group_is_left_out_first(monkeypatch, tmp_path):
    """Three groups by hand: all are bad, then all but b are good enough."""
    groups = {"a": ["n1", "n2"], "b": ["n3"], "c": ["n4"]}
    errors = {("n1", "n2"): 0.1, ("n3",): 0.5, ("n4",): 0.2}
    written: list[tuple[str, ...]] = []
    monkeypatch.setattr(int8, "groups_of", lambda file: groups)
    monkeypatch.setattr(
        int8, "quantise", lambda file, target, mode, nodes, batches=(): written.append(tuple(nodes))
    )
    expected = np.array([-1.0, 1.0])  # of standard deviation 1

    def outputs(file, batches):
        return [expected + errors.get(written[-1], 0.0)] if written else [expected]

    monkeypatch.setattr(int8, "_outputs", outputs)
    scores = iter([0.5, 0.9])
    result = int8.quantise_measured(tmp_path, tmp_path, "dynamic", [], lambda file: next(scores), 0.8)
    assert written[3:] == [("n1", "n2", "n4", "n3"), ("n1", "n2", "n4")]
    assert result.judged == [0.5, 0.9]
    assert [(c.group, c.num_nodes, c.is_int8) for c in result.choices] == [
        ("a", 2, True),
        ("b", 1, False),
        ("c", 1, True),
    ]
    assert [c.error for c in result.choices] == pytest.approx([0.1, 0.5, 0.2])


# ---- nothing is left of what failed


def test_a_graph_that_differs_is_not_written(texts, tmp_path, monkeypatch):
    source, _, _ = texts
    monkeypatch.setattr(command, "check_graph", _refuse)
    with pytest.raises(UserError, match="differs"):
        export(str(source), tmp_path / "out", say=quiet)
    assert not list(tmp_path.iterdir())


def _refuse(*arguments, **options):
    raise UserError("the exported graph differs")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--task fill-mask", "masked language modelling needs a decoder"),
        ("--task translation", "--task 'translation' is unknown"),
        ("--int8 static", "--int8 static takes its ranges from texts"),
        ("--calibration table.tsv", "--calibration is only for --int8"),
        ("--int8 dynamic --calibration none.tsv", "none.tsv: no such file"),
        ("--opset 9", "--opset is 9; allowed: 18 to"),
        ("--check-to 0", "--check-to is 0"),
    ],
)
def test_what_cannot_be_exported(texts, capsys, tmp_path, flags, message):
    source, _, _ = texts
    assert message in fails(capsys, f"export {source} {tmp_path / 'out'} {flags}")
    assert not (tmp_path / "out").exists()


def test_a_head_that_was_never_trained(toy, tmp_path):
    with pytest.raises(
        UserError, match=r"has no parameter classifier\..*, so no head for text-classification"
    ):
        export(str(toy.pretrained), tmp_path / "out", task="text-classification")
    assert not list(tmp_path.iterdir())


def test_without_the_extra(texts, tmp_path, monkeypatch):
    source, folder, _ = texts
    found = util.find_spec
    monkeypatch.setattr(
        "funnelformer.base.packages.find_spec", lambda name: None if "onnx" in name else found(name)
    )
    with pytest.raises(UserError, match=r"onnx is not installed: pip install 'funnelformer\[onnx\]'"):
        export(str(source), tmp_path / "out")
    with pytest.raises(UserError, match="onnxruntime is not installed"):
        load_predictor(str(folder), backend="onnx")


def test_folders_that_hold_no_graph(texts, tmp_path):
    source, folder, _ = texts
    with pytest.raises(UserError, match=r"no model\.onnx, which --backend onnx runs; make one: funnelformer"):
        load_predictor(str(source), backend="onnx")
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(UserError, match="ONNX Runtime cannot load it"):
        load_predictor(str(tmp_path), backend="onnx")


def test_inputs_that_the_graph_lacks(texts):
    _, folder, _ = texts
    model = OnnxModel(folder)
    with pytest.raises(ValueError, match="the graph reads input_ids, attention_mask, token_type_ids, not"):
        model(input_ids=np.ones((1, 4), dtype=np.int64))
