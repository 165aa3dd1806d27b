"""Tiny models of every head, and one service that most tests share."""

from __future__ import annotations

import random

import pytest

from training.toy import make_toy, sentence

LABELS = ("no", "perhaps", "yes")


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    return make_toy(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="session")
def classifier(toy):
    from serve.running import save  # which skips a module where the extra is missing

    return save(toy.folder / "classes", toy.tokenizer, "texts", labels=LABELS)


@pytest.fixture(scope="session")
def service(classifier):
    from serve.running import running

    with running(classifier) as client:
        yield client


@pytest.fixture(scope="session")
def texts():
    """Texts of 5 to 35 words, the lengths mixed."""
    generator = random.Random(1)
    return [" ".join(sentence(generator) for _ in range(generator.randint(1, 7))) for _ in range(21)]
