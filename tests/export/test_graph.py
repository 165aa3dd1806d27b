"""Exported graphs against PyTorch: every head, mixer and way of pooling, at lengths the exporter never saw."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from funnelformer.base.errors import UserError
from funnelformer.export import graph
from funnelformer.export.check import TOLERANCE, Difference, check_graph, compare, grid, make_inputs, table
from funnelformer.export.signatures import TARGETS, Traced, find_target, target_of
from funnelformer.inference.engines import open_session
from models import build, small_config

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
ENGINES = ("onnx", "openvino")
pytestmark = pytest.mark.usefixtures("no_shape_checks")

IDS = {"cls_token_id": 5, "sep_token_id": 6}
# All that are too short for some block to pool, and odd ones; the sample has 37 tokens.
LENGTHS = (1, 2, 3, 4, 5, 6, 7, 9, 16, 33, 50, 75)
HYBRID = {"mixer": ["ponet", "attention"], **IDS}
# Each head once, each mixer, each way of pooling, each padding, each kind of positions.
CASES = {
    "text-classification": ("B1-1H16", {}),
    "token-classification": ("B1-1H16", {**HYBRID, "classifier_pooling": "mean"}),
    "fill-mask": (
        "L1H16",
        {
            "mixer": "ponet",
            "position": "absolute",
            "max_position_embeddings": 80,
            "ponet_segments": "chunks",
            "ponet_num_segments": 3,
            "default_token_type_id": 0,
            **IDS,
        },
    ),
    "multiple-choice": (
        "L1H16",
        {"position": "absolute", "max_position_embeddings": 80, "classifier_pooling": "mean"},
    ),
    "question-answering": ("B1-1H16", {"pooling": "top"}),
    "token-detection": ("L1H16", {"padding": "transformers"}),
    "feature-extraction": (
        "B1-1H16",
        {"pooling": "max", "separate_cls": False, "padding": "original", "pool_q_only": False},
    ),
    "embeddings": ("L1H16", {"mixer": "fourier"}),
}


def toy_model(task, layout, settings):
    target = TARGETS[task]
    return build(target.model_class, small_config(layout, num_labels=3, **{**settings, **target.settings}))


def exported(task, layout, settings, folder, **options):
    model = toy_model(task, layout, settings)
    graph.export_graph(model, TARGETS[task], folder / "model.onnx", **options)
    return model, open_session(folder / "model.onnx")


def differences(model, task, session, lengths=LENGTHS):
    """Of each length alone without padding, and in batches of two with right padding."""
    target = TARGETS[task]
    traced = Traced(model, target)
    names = session.input_names
    return [
        compare(traced, session, make_inputs(model.config, target, names, size, length, padding), padding)
        for length in lengths
        for size, padding in ((1, "none"), (2, "right"))
    ]


def numbers_in(file):
    """All whole numbers of a graph: if the sample's length were among them, it might be baked in."""
    content = onnx.load(file).graph
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in content.initializer]
    arrays += [
        onnx.numpy_helper.to_array(attribute.t)
        for node in content.node
        for attribute in node.attribute
        if attribute.HasField("t")
    ]
    return {int(number) for array in arrays if array.dtype == np.int64 for number in array.ravel()}


# The others are exported in other fast tests too (texts, answers, masks, choices), or as a part of a case here.
FAST = ("token-classification", "embeddings")
EVERY_HEAD = pytest.mark.parametrize(
    "task", [pytest.param(task, marks=() if task in FAST else pytest.mark.slow) for task in CASES]
)


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """The model of a case and the file it was exported to."""
    found = {}

    def get(task):
        if task not in found:
            folder = tmp_path_factory.mktemp(task)
            found[task] = exported(task, *CASES[task], folder)[0], folder / "model.onnx"
        return found[task]

    return get


@EVERY_HEAD
def test_every_head(task, once):
    """Of outputs up to 27, differences up to 1.9e-5 measured."""
    model, file = once(task)
    session = open_session(file)
    for value in session.session.get_inputs():
        sizes = ["batch", "choices", "length"] if task == "multiple-choice" else ["batch", "length"]
        assert value.shape == sizes
    assert session.output_names == list(TARGETS[task].outputs)
    assert not numbers_in(file) & {graph._SAMPLE_LENGTH - number for number in range(3)}
    worst = max(differences(model, task, session), key=lambda difference: difference.relative)
    assert worst.relative < TOLERANCE, worst.name


@EVERY_HEAD
def test_openvino_gives_the_same(task, once):
    """Of outputs up to 27, differences up to 1.9e-5 measured; all heads and mixers are tested below, slowly."""
    pytest.importorskip("openvino", reason="needs the extra openvino")
    if CASES[task][1].get("pooling") == "top":
        pytest.skip("OpenVINO keeps other tokens in top pooling, and is refused for it: test_command.py")
    model, file = once(task)
    session, other = open_session(file), open_session(file, "openvino")
    assert other.input_names == session.input_names
    assert other.output_names == session.output_names
    worst = max(differences(model, task, other), key=lambda difference: difference.relative)
    assert worst.relative < TOLERANCE, worst.name


# ---- the wide grid


def wide(cases, chosen):
    """The cases as parameters: those chosen are slow tests, the rest are run by `make test-all` alone."""
    return [pytest.param(*case, marks=() if case in chosen else pytest.mark.wide) for case in cases]


def every_pair(cases):
    """Cases, each the one with most pairs of two values that none before it has, until each pair was there."""
    pairs = {case: set(itertools.combinations(enumerate(case), 2)) for case in cases}
    left, chosen = set().union(*pairs.values()), []
    while left:
        chosen.append(max(cases, key=lambda case: len(pairs[case] & left)))
        left -= pairs[chosen[-1]]
    return chosen


POOLINGS = [
    values
    for values in itertools.product(
        ("mean", "max", "top"),
        (True, False),
        (True, False),
        (True, False),
        ("exact", "original", "transformers"),
    )
    if values[1] or values[2]  # without the first token apart nothing is truncated
]
MIXERS = {
    "attention": {},
    "absolute": {"position": "absolute", "max_position_embeddings": 80, "default_token_type_id": 0},
    "ponet": {"mixer": "ponet", **IDS},
    "sentences": {"mixer": "ponet", "ponet_segments": "sentences", "sentence_end_token_ids": [7, 8], **IDS},
    "fourier": {"mixer": "fourier"},
    "hybrid": {"mixer": ["ponet", "attention", "attention"], **IDS},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pooling", "separate_cls", "truncate_seq", "pool_q_only", "padding"),
    wide(POOLINGS, every_pair(POOLINGS)),
)
def test_every_way_of_pooling(pooling, separate_cls, truncate_seq, pool_q_only, padding, tmp_path):
    settings = {
        "pooling": pooling,
        "separate_cls": separate_cls,
        "truncate_seq": truncate_seq,
        "pool_q_only": pool_q_only,
        "padding": padding,
    }
    model, _ = exported("token-classification", "B1-1-1H16", settings, tmp_path)
    for engine in ENGINES[:1] if pooling == "top" else ENGINES:
        session = open_session(tmp_path / "model.onnx", engine)
        assert max(d.relative for d in differences(model, "token-classification", session)) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "mixer"), wide(itertools.product(TARGETS, MIXERS), list(zip(TARGETS, itertools.cycle(MIXERS))))
)
def test_every_head_with_every_mixer(task, mixer, tmp_path):
    model, _ = exported(task, "B1-1x2-1H16", MIXERS[mixer], tmp_path)
    for engine in ENGINES:
        session = open_session(tmp_path / "model.onnx", engine)
        assert max(d.relative for d in differences(model, task, session)) < TOLERANCE


@pytest.mark.slow
def test_ten_blocks_that_end_in_one_state(tmp_path):
    model, _ = exported("embeddings", "B1-1-1-1-1-1-1-1-1-1H16", {"separate_cls": False}, tmp_path)
    for engine in ENGINES:
        session = open_session(tmp_path / "model.onnx", engine)
        found = differences(model, "embeddings", session, (1, 2, 3, 37, 255, 512, 513))
        assert max(d.relative for d in found) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("mixer", ["attention", "fourier", "hybrid"])
def test_up_to_4096_tokens(mixer, tmp_path):
    model, session = exported("token-classification", "B1-1-1H16", MIXERS[mixer], tmp_path)
    found = check_graph(model, session, TARGETS["token-classification"], 4096)
    assert len(found) >= 30
    assert found[-1].length == 4096


# ---- what the graph holds


def test_chosen_inputs_and_opset(tmp_path):
    model, session = exported("feature-extraction", "L1H16", {}, tmp_path, inputs=("input_ids",), opset=18)
    assert session.input_names == ["input_ids"]
    assert onnx.load(tmp_path / "model.onnx").opset_import[0].version == 18
    assert max(d.relative for d in differences(model, "feature-extraction", session, (1, 2, 40))) < TOLERANCE


def test_what_has_no_onnx_form_is_named(tmp_path):
    model = toy_model("text-classification", "L1H16", {})

    class Odd(torch.nn.Module):
        def forward(self, vector):
            return vector + torch.linalg.eigvals(vector.T @ vector).real

    model.classifier.dense = Odd()
    with pytest.raises(UserError, match=r"cannot be exported: classifier\.dense: .*linalg_eig"):
        graph.export_graph(model, TARGETS["text-classification"], tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_length_that_the_code_fixes_is_named(tmp_path):
    model = toy_model("text-classification", "L1H16", {})

    class Odd(torch.nn.Module):
        def forward(self, embedded, segments):
            return embedded if embedded.size(1) == graph._SAMPLE_LENGTH else embedded * 2

    model.funnelformer.embeddings = Odd()
    model.funnelformer.embeddings.word_embeddings = torch.nn.Embedding(60, 16)
    with pytest.raises(UserError, match="cannot be exported: "):
        graph.export_graph(model, TARGETS["text-classification"], tmp_path / "model.onnx")


# ---- the check itself


def test_the_grid():
    config = small_config("B1-1H16")
    cases = grid(config, 1025)
    assert len(cases) >= 30
    assert {1, 2, 3, 511, 513, 1025} <= {length for _, length, _ in cases}
    assert {padding for _, _, padding in cases} == {"none", "right", "left"}
    assert "left" not in {padding for _, _, padding in grid(small_config("L1H16", padding="original"), 20)}
    short = small_config("L1H16", position="absolute", max_position_embeddings=10)
    assert len(grid(short, 1025)) >= 30
    assert max(length for _, length, _ in grid(short, 1025)) == 10


def test_inputs_of_a_case():
    config = small_config("B1-1H16", **IDS)
    target = TARGETS["text-classification"]
    names = ("input_ids", "attention_mask", "token_type_ids")
    right = make_inputs(config, target, names, 4, 9, "right")
    left = make_inputs(config, target, names, 4, 9, "left")
    for row in range(4):
        number = int(right["attention_mask"][row].sum())
        assert right["attention_mask"][row].tolist() == [1] * number + [0] * (9 - number)
        for name in names:
            assert left[name][row, 9 - number :].tolist() == right[name][row, :number].tolist()
        if number > 2:
            assert right["input_ids"][row, 0] == IDS["cls_token_id"]
            assert right["input_ids"][row, number - 1] == IDS["sep_token_id"]
    choices = make_inputs(config, TARGETS["multiple-choice"], names, 4, 9, "right")
    assert choices["input_ids"].shape == (4, 3, 9)


class Constant:
    """A session whose first output is a number too much."""

    def __init__(self, traced, added):
        self.traced, self.added = traced, added

    input_names = ("input_ids", "attention_mask", "token_type_ids")

    def run(self, inputs):
        with torch.no_grad():
            outputs = self.traced(**{name: torch.from_numpy(value) for name, value in inputs.items()})
        values = [(outputs[0] + self.added).numpy(), *(output.numpy() for output in outputs[1:])]
        return dict(zip(self.traced.outputs, values, strict=True))


def test_the_check_counts_by_the_largest_output():
    model = toy_model("text-classification", "L1H16", {})
    target = TARGETS["text-classification"]
    traced = Traced(model, target)
    inputs = make_inputs(model.config, target, ("input_ids", "attention_mask"), 2, 8, "right")
    with torch.no_grad():
        largest = max(1.0, float(traced(**inputs)[0].abs().max()))
    found = compare(traced, Constant(traced, 0.5), inputs, "right")
    assert found.absolute == pytest.approx(0.5, abs=1e-6)
    assert found.relative == pytest.approx(0.5 / largest, abs=1e-6)
    with pytest.raises(UserError, match=r"differs from the model by 5\.0e-01 .* at \d x \d+, padding: "):
        check_graph(model, Constant(traced, 0.5), target, 9)
    with pytest.raises(UserError, match=r"gives logits NaN or infinity at 1 x 1, padding: none"):
        check_graph(model, Constant(traced, float("nan")), target, 9, tolerance=None)


def test_the_table_names_the_largest():
    lines = table(
        [Difference(1, 8, "none", 1e-6, 1e-6), Difference(2, 2048, "left", 3e-5, 1.5e-5)]
    ).splitlines()
    assert lines[2].split() == ["2", "2,048", "left", "3.0e-05", "1.5e-05"]
    assert lines[3:] == [
        "compared with PyTorch: 2 shapes, 1 to 2 sequences of 8 to 2,048 tokens",
        "largest difference: 3.0e-05 (1.5e-05 relative) at 2 x 2,048, padding: left",
    ]


def test_targets():
    assert target_of("FunnelformerForMaskedLM") == "fill-mask"
    with pytest.raises(UserError, match="did you mean 'text-classification'"):
        find_target("text-clasification")
    with pytest.raises(UserError, match="FunnelformerForElectra cannot be exported"):
        target_of("FunnelformerForElectra")


def test_two_exports_are_equal_byte_for_byte(once, tmp_path):
    """Addresses of functions and numbers that count up in a process would tell them apart."""
    content = once("embeddings")[1].read_bytes()
    exported("embeddings", *CASES["embeddings"], tmp_path)
    assert content == (tmp_path / "model.onnx").read_bytes()
    assert b" at 0x" not in content
    assert b"site-packages" not in content
