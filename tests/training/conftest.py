"""Pretraining on the toy's corpus."""

import pytest


@pytest.fixture(scope="module")
def command(toy):
    """The command into a folder, with these flags."""
    from training.toy import PRETRAIN

    return lambda out, *flags: (
        *(PRETRAIN, "--train", toy.corpus, "--tokenizer", toy.tokenizer, "--out", out),
        *flags,
    )


@pytest.fixture(scope="module")
def pretrain(command):
    """Runs it, and gives its exit code."""
    from training.toy import run

    return lambda out, *flags: run(*command(out, *flags))
