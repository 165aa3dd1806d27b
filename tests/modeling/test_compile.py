"""torch.compile: one graph, the same values and gradients, few graphs for many lengths.

Each test runs in a process of its own, without the import hook of the shape checks.
"""

import warnings

import pytest

from training.children import call

pytestmark = pytest.mark.slow  # to load the compiler takes as long as hundreds of fast tests

CASES = (
    ("B1-1H32", {}, (12, 17, 600)),
    ("B1-1H32", {"pooling": "max", "separate_cls": False, "padding": "original"}, (12, 600)),
    ("B1-1H32", {"pooling": "top"}, (12,)),
    ("L1H32", {"position": "absolute"}, (12,)),
    ("B1-1H32", {"mixer": ["ponet", "fourier"], "cls_token_id": 5, "sep_token_id": 6}, (12,)),
)
EQUAL = """
import torch
from models import batch, build, small_config
from funnelformer import FunnelformerForMaskedLM, FunnelformerModel

for name, options, lengths in CASES:
    torch._dynamo.reset()
    model = build(FunnelformerModel, small_config(name, **options))
    compiled = torch.compile(model, fullgraph=True, backend=BACKEND)
    for length in lengths:
        inputs = batch(length, [length, 7])
        with torch.no_grad():
            torch.testing.assert_close(
                compiled(*inputs).last_hidden_state, model(*inputs).last_hidden_state, rtol=0, atol=2e-5
            )
for implementation in IMPLEMENTATIONS:
    model = build(FunnelformerForMaskedLM, small_config("B1-1H32"), implementation).train()
    inputs = batch(16, [16, 9])
    model(*inputs, labels=inputs[0]).loss.backward()
    plain = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    torch.compile(model, fullgraph=True, backend=BACKEND)(*inputs, labels=inputs[0]).loss.backward()
    for p, q in zip(model.parameters(), plain):
        torch.testing.assert_close(p.grad, q, rtol=1e-4, atol=1e-5)
try:
    model(inputs[0], inputs[1][:, :-1])
except ValueError as error:
    assert "attention_mask has shape (2, 15), the input (2, 16)" in str(error)
    print("as expected")
"""

# Odd and even lengths of one graph; the Fourier mixer has one for each power of two.
FEW_GRAPHS = """
import torch
from torch._dynamo.utils import counters
from models import batch, build, small_config
from funnelformer import FunnelformerForSequenceClassification

special = {"cls_token_id": 5, "sep_token_id": 6}
for implementation, options, most in (
    ("sdpa", {}, 1),
    ("eager", {}, 1),
    ("sdpa", {"mixer": "ponet", **special}, 1),
    ("sdpa", {"mixer": "fourier"}, 2),
):
    torch._dynamo.reset()
    counters.clear()
    config = small_config("B1-1H32", num_labels=3, **options)
    model = build(FunnelformerForSequenceClassification, config, implementation)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    for length in (30, 17, 61, 33, 25, 48, 32, 20):
        inputs = batch(length, [length, length // 2, 7])
        with torch.no_grad():
            torch.testing.assert_close(compiled(*inputs).logits, model(*inputs).logits, rtol=0, atol=2e-5)
    number = counters["stats"]["unique_graphs"]
    print(implementation, options, "graphs:", number, dict(counters["graph_break"]), flush=True)
    assert number <= most, (implementation, options, number)
    assert not counters["graph_break"]
print("as expected")
"""


def run(code, folder):
    output = folder / "output.txt"
    assert call(execute, code, output=output) == 0, output.read_text()[-3000:]
    assert "as expected" in output.read_text()
    return output.read_text()


def execute(code):
    warnings.simplefilter("ignore")
    exec(code, {})


def equal(backend, cases, implementations, folder):
    settings = f"BACKEND, CASES, IMPLEMENTATIONS = {backend!r}, {cases!r}, {implementations!r}\n"
    run(settings + EQUAL, folder)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_every_option_compiled_in_one_graph_equals_eager(backend, tmp_path):
    equal(backend, CASES, ("sdpa", "eager"), tmp_path)


def test_many_lengths_need_few_graphs(tmp_path):
    print(run(FEW_GRAPHS, tmp_path))
