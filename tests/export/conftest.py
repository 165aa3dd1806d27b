"""Graphs are traced without the shape checks, whose types know no symbolic sizes."""

import pytest
from jaxtyping import config


@pytest.fixture(autouse=True)
def no_shape_checks():
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
