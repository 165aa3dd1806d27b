"""Heads of question answering: the paper's against its formulas, the best spans against all spans."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from funnelformer import FunnelformerForQuestionAnswering
from funnelformer.base.errors import UserError
from funnelformer.checkpoints.convert import convert
from funnelformer.modeling import SpanOutput
from funnelformer.tasks.span_search import NUM_BEST, best_spans
from models import batch, build, small_config

LENGTH = 17
# Largest difference in float64 between a sequence alone and in a padded batch, or another way of summing.
TOLERANCE = 1e-9


def spans_of(output, max_answer_length, end_beam=5):
    """`best_spans` of a model's output, as a tensor."""
    logits = (output.start_logits, output.end_logits, output.start_index, output.null_logits)
    arrays = [None if x is None else x.numpy() for x in logits]
    return torch.from_numpy(best_spans(*arrays, max_answer_length=max_answer_length, end_beam=end_beam))


def model_of(head="conditional", **settings):
    config = small_config(qa_head=head, qa_start_beam=3, qa_end_beam=2, **settings)
    return build(FunnelformerForQuestionAnswering, config, dtype=torch.float64)


def inputs_of(lengths=(17, 12, 9)):
    """[CLS] question of 3 [SEP] passage [SEP]: answers may be at [CLS] and in the passage."""
    input_ids, mask, segments = batch(max(lengths), list(lengths))
    answer_mask = mask.clone()
    answer_mask[:, 1:5] = 0
    for row, length in enumerate(lengths):
        answer_mask[row, length - 1] = 0
    inputs = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": segments}
    return {**inputs, "answer_mask": answer_mask}


def states(model, inputs):
    body = {name: tensor for name, tensor in inputs.items() if name != "answer_mask"}
    return model.funnelformer(**body).last_hidden_state


@torch.no_grad()
def test_the_papers_head_is_its_formulas():
    model, inputs = model_of(), inputs_of()
    head, hidden = model.qa_outputs, states(model, inputs)
    output = model(**inputs)
    hidden_away = inputs["answer_mask"] == 0
    start = (hidden @ head.start.weight[0] + head.start.bias).masked_fill(hidden_away, -torch.inf)
    shown = output.start_logits.masked_fill(hidden_away, -torch.inf)
    torch.testing.assert_close(shown, start, atol=TOLERANCE, rtol=0)
    assert (output.start_logits[hidden_away] < -1e300).all()
    for row in range(3):
        expected = start[row].clone()
        expected[0] = -torch.inf
        assert output.start_index[row].tolist() == expected.topk(3).indices.tolist()
        for number, index in enumerate(output.start_index[row]):
            joined = torch.cat([hidden[row], hidden[row, index].expand(LENGTH, -1)], dim=-1)
            end = head.end(head.end_norm(torch.tanh(head.end_dense(joined)))).squeeze(-1)
            keep = ~hidden_away[row]
            torch.testing.assert_close(
                output.end_logits[row, number][keep], end[keep], atol=TOLERANCE, rtol=0
            )
        mean = (start[row].float().softmax(-1).double()[:, None] * hidden[row]).sum(0)
        joined = torch.tanh(head.null_dense(torch.cat([mean, hidden[row, 0]])))
        torch.testing.assert_close(output.null_logits[row], head.null(joined)[0], atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_the_loss_of_the_papers_head():
    """0.5 (start + end given the true start) + 0.5 (no answer): the second sequence has none, the third is outside."""
    model, inputs = model_of(), inputs_of()
    positions = {"start_positions": torch.tensor([6, 0, 99]), "end_positions": torch.tensor([9, 0, 99])}
    output = model(**inputs, **positions)
    head, hidden = model.qa_outputs, states(model, inputs)
    total = torch.zeros((), dtype=torch.float64)
    for row, start, end in ((0, 6, 9), (1, 0, 0)):
        keep = inputs["answer_mask"][row].bool()
        joined = torch.cat([hidden[row], hidden[row, start].expand(LENGTH, -1)], dim=-1)
        ends = head.end(head.end_norm(torch.tanh(head.end_dense(joined)))).squeeze(-1)
        starts = head.start(hidden[row]).squeeze(-1)
        for logits, place in ((starts, start), (ends, end)):
            log_probabilities = logits.masked_fill(~keep, -torch.inf).log_softmax(-1)
            total -= 0.5 * log_probabilities[place] / 2
        none = torch.tensor(float(start == 0), dtype=torch.float64)
        total += 0.5 * F.binary_cross_entropy_with_logits(output.null_logits[row], none) / 2
    assert output.loss.item() == pytest.approx(total.item(), abs=1e-5)  # losses are float32
    assert output.end_logits.shape == (3, 3, LENGTH)
    model.train()
    in_training = model(**inputs, **positions)
    assert in_training.loss.item() == pytest.approx(output.loss.item(), abs=1e-6)
    assert in_training.start_index.tolist() == [[6], [0], [LENGTH - 1]]


def test_every_parameter_of_the_papers_head_learns():
    model, inputs = model_of(), inputs_of()
    positions = {"start_positions": torch.tensor([6, 0, 5]), "end_positions": torch.tensor([9, 0, 7])}
    model.train()(**inputs, **positions).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0 or name.endswith(("key.bias", "segment_bias")), name


def test_nothing_to_learn_is_no_loss():
    """All positions are outside: 0, not the mean of nothing."""
    for head in ("simple", "conditional"):
        positions = {name: torch.tensor([99, 99, 99]) for name in ("start_positions", "end_positions")}
        assert model_of(head)(**inputs_of(), **positions).loss.item() == 0.0


@torch.no_grad()
@pytest.mark.parametrize("head", ["simple", "conditional"])
def test_a_sequence_does_not_depend_on_its_batch(head):
    """Spans, odds and loss are those of each sequence alone, however far it is padded."""
    model, lengths = model_of(head), (17, 12, 9)
    together = spans_of(model(**inputs_of(lengths)), 4, 2)
    for row, length in enumerate(lengths):
        alone = {name: tensor[row : row + 1, :length] for name, tensor in inputs_of(lengths).items()}
        further = {name: F.pad(tensor, (0, 6)) for name, tensor in alone.items()}
        for inputs in (alone, further):
            spans = spans_of(model(**inputs), 4, 2)
            torch.testing.assert_close(spans[0], together[row], atol=1e-5, rtol=0)
        positions = {"start_positions": torch.tensor([6]), "end_positions": torch.tensor([7])}
        losses = [model(**inputs, **positions).loss.item() for inputs in (alone, further)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-6)


@torch.no_grad()
def test_the_best_spans_of_the_simple_head_are_those_of_all():
    model, inputs = model_of("simple"), inputs_of()
    output, most = model(**inputs), 4
    found = spans_of(output, most)
    assert found.shape == (3, 1 + NUM_BEST, 3)
    for row, keep in enumerate(inputs["answer_mask"].bool().tolist()):
        start, end = output.start_logits[row], output.end_logits[row]
        every = [
            (i, j, (start[i] + end[j]).item())
            for i in range(1, LENGTH)
            for j in range(i, min(i + most, LENGTH))
            if keep[i] and keep[j]
        ]
        every.sort(key=lambda span: -span[2])
        for (i, j, score), expected in zip(found[row, 1:].tolist(), every[:NUM_BEST], strict=False):
            assert (i, j) == expected[:2]
            assert score == pytest.approx(expected[2], abs=1e-5)
        assert torch.isneginf(found[row, 1 + len(every) :, 2]).all()
        odds = (start[0] + end[0]).item() - every[0][2]
        assert found[row, 0].tolist() == pytest.approx([0, 0, odds], abs=1e-5)


def test_the_best_spans_of_a_beam_by_hand():
    """Starts 2 and 1; of each the two best ends that are not before it and make at most 2 tokens."""
    third = torch.tensor([[0.1, 0.3, 0.6, 0.0]]).log()
    ends = torch.tensor([[[0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]]]).log()
    output = SpanOutput(
        start_logits=third,
        end_logits=ends,
        start_index=torch.tensor([[2, 1]]),
        null_logits=torch.tensor([0.7]),
    )
    rows = spans_of(output, 2, 2)[0].tolist()
    assert rows[0] == pytest.approx([0, 0, 0.7])
    expected = [(2, 3, 0.6 * 0.4), (2, 2, 0.6 * 0.3), (1, 2, 0.3 * 0.3), (1, 1, 0.3 * 0.2)]
    for row, (first, last, probability) in zip(rows[1:5], expected, strict=True):
        assert row == pytest.approx([first, last, torch.tensor(probability).log().item()], abs=1e-6)
    assert all(row[2] == -torch.inf for row in rows[5:])


@torch.no_grad()
@pytest.mark.parametrize("head", ["simple", "conditional"])
def test_a_passage_without_tokens_has_no_span(head):
    inputs = inputs_of((7, 7))
    inputs["answer_mask"][:, 1:] = 0
    spans = spans_of(model_of(head)(**inputs), 4, 2)
    assert torch.isneginf(spans[:, 1:, 2]).all()
    assert torch.isfinite(spans[:, 0]).all()


@torch.no_grad()
def test_it_is_saved_and_loaded(tmp_path):
    model, inputs = model_of().float(), inputs_of()
    model.save_pretrained(tmp_path / "a")
    again, report = FunnelformerForQuestionAnswering.from_pretrained(tmp_path / "a", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert again.config.qa_head == "conditional"
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    # Products of equal weights at other addresses may round their last bit otherwise.
    torch.testing.assert_close(
        again.eval()(**inputs).to_tuple(), model(**inputs).to_tuple(), rtol=0, atol=1e-6
    )
    convert(str(tmp_path / "a"), tmp_path / "b")
    copy = FunnelformerForQuestionAnswering.from_pretrained(tmp_path / "b").eval()
    torch.testing.assert_close(copy(**inputs).null_logits, model(**inputs).null_logits, rtol=0, atol=1e-6)
    with pytest.raises(UserError, match=r"cannot hold .*qa_head='conditional'"):
        convert(str(tmp_path / "a"), tmp_path / "c", to="transformers")
    with pytest.raises(UserError, match=r"qa_head is 'conditionl'.*did you mean 'conditional'"):
        small_config(qa_head="conditionl")
