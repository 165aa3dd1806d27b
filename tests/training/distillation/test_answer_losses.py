"""The distance of a model's answers to a teacher's, beside values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from funnelformer.training.distillation.answer_losses import answer_losses, divergence, label_divergence


def test_of_two_classes_by_hand():
    """Behind a temperature of 2 the teacher says 3/4 and 1/4, the model 1/2 and 1/2."""
    theirs, ours = torch.tensor([[2 * math.log(3), 0.0]]), torch.tensor([[5.0, 5.0]])
    wanted = 4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    assert divergence(ours, theirs, 2.0).item() == pytest.approx(wanted, rel=1e-6)
    assert answer_losses("classification", {"logits": ours}, theirs, {}, 2.0).item() == pytest.approx(wanted)
    # Its gradient is T (p of the model - p of the teacher).
    ours.requires_grad_()
    divergence(ours, theirs, 2.0).sum().backward()
    torch.testing.assert_close(ours.grad, torch.tensor([[-0.5, 0.5]]))


def test_of_several_labels_by_hand():
    """Two labels: 3/4 beside 1/2, and 1/2 beside 1/2."""
    theirs, ours = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    wanted = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    assert label_divergence(ours, theirs, 1.0).item() == pytest.approx(wanted, rel=1e-6)
    # Logits that float32 has no share for beside 0 and 1.
    certain = torch.tensor([[300.0, -300.0]])
    assert label_divergence(certain, certain, 1.0).item() == 0
    assert label_divergence(-certain, certain, 1.0).item() == pytest.approx(300)


def test_of_amounts_tags_and_choices():
    amounts = answer_losses(
        "regression", {"logits": torch.tensor([[1.0], [2.0]])}, torch.tensor([[3.0], [2.5]]), {}, 7.0
    )
    assert amounts.tolist() == [4.0, 0.25]
    logits = torch.randn(2, 3, 4)
    labels = torch.tensor([[-100, 1, 2], [3, -100, -100]])
    theirs = torch.randn(3, 4)
    found = answer_losses("tokens", {"logits": logits}, theirs, {"labels": labels}, 1.5)
    mine = torch.stack([logits[0, 1], logits[0, 2], logits[1, 0]])
    torch.testing.assert_close(found, divergence(mine, theirs, 1.5))
    torch.testing.assert_close(
        answer_losses("choice", {"logits": mine}, theirs, {"labels": torch.tensor([0, 1, 2])}, 1.5), found
    )


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_of_windows_only_the_tokens_that_may_answer_count(temperature):
    """The logits elsewhere are the lowest, as our head has them, or anything, as others have them."""
    may_answer = torch.tensor([[1, 0, 1, 1], [1, 0, 1, 0]])
    ours = {name: torch.randn(2, 4) for name in ("start_logits", "end_logits")}
    theirs = torch.randn(5, 2)
    wanted = []
    for row, (places, begin) in enumerate((([0, 2, 3], 0), ([0, 2], 3))):
        parts = [
            divergence(
                logits[row, places][None], theirs[begin : begin + len(places), column][None], temperature
            )
            for column, logits in enumerate(ours.values())
        ]
        wanted.append(float(sum(parts)) / 2)
    hidden = {
        name: logits.masked_fill(may_answer == 0, torch.finfo(torch.float32).min)
        for name, logits in ours.items()
    }
    for logits in (ours, hidden):
        for tensor in logits.values():
            tensor.requires_grad_()
        found = answer_losses("span", logits, theirs, {"answer_mask": may_answer}, temperature)
        assert found.tolist() == pytest.approx(wanted, rel=1e-5)
        found.sum().backward()
        gradient = logits["start_logits"].grad
        assert bool(gradient.isfinite().all())
        assert bool((gradient[may_answer == 0] == 0).all())


@pytest.mark.parametrize("kind", ["classification", "multi-label", "regression"])
def test_who_says_the_same_is_no_way_off(kind):
    logits = torch.randn(5, 1 if kind == "regression" else 4) * 10
    assert answer_losses(kind, {"logits": logits}, logits.clone(), {}, 2.0).tolist() == [0.0] * 5
