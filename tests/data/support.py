"""What the tests of the data package share."""

from collections.abc import Iterator

import pytest

from funnelformer.errors import UserError


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def error_of(call, *args, **kwargs):
    """Return the message of the UserError that `call` raises, or the iterator it returns; it must be one line."""

    def run():
        result = call(*args, **kwargs)
        if isinstance(result, Iterator):
            list(result)

    with pytest.raises(UserError) as caught:
        run()
    message = str(caught.value)
    assert "\n" not in message
    return message
