"""What balancers, proxies and clients with compressed bodies meet."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from urllib.parse import urljoin

import pytest
import zstandard

from funnelformer.base.errors import UserError
from funnelformer.serve.codings import decompress
from funnelformer.serve.config import ServeConfig
from funnelformer.serve.freed_memory import FreedMemory
from serve.running import running

GET_ROUTES = (
    "/",
    "/docs",
    "/openapi.json",
    "/health",
    "/metrics",
    "/page.css",
    "/page.js",
    "/docs.js",
    "/icon.svg",
)
LIMIT = 5000


def raw_deflate(data):
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACKED = {
    "gzip": gzip.compress,
    "x-gzip": lambda data: gzip.compress(data[:5]) + gzip.compress(data[5:]),
    "deflate": zlib.compress,
    "deflate, no header": raw_deflate,
    "zstd": zstandard.compress,
    "zstd, no size": lambda data: zstandard.ZstdCompressor(write_content_size=False).compress(data),
    "zstd, frames": lambda data: zstandard.compress(data[:7]) + zstandard.compress(data[7:]),
}


@pytest.mark.parametrize("path", GET_ROUTES)
def test_head_is_answered_like_get(service, path):
    got, head = service.get(path), service.send("HEAD", path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    assert "content-security-policy" in head.headers
    if path not in ("/health", "/metrics"):  # their numbers change
        assert head.headers["content-length"] == str(len(got.body))


def test_head_elsewhere(service):
    assert service.send("HEAD", "/nothing").status == 404
    assert service.send("HEAD", "/classify").status == 405


@pytest.mark.parametrize("name", PACKED)
def test_compressed_bodies_are_read(service, name):
    values = {"texts": ["the red cat eats ."]}
    expected = service.results("/classify", **values)
    body = PACKED[name](json.dumps(values).encode())
    reply = service.post("/classify", body, Content_Encoding=name.partition(",")[0].upper())
    assert reply.status == 200
    assert reply.json["results"] == expected


@pytest.mark.parametrize("name", PACKED)
def test_a_compressed_body_has_the_limits_of_a_plain_one(name):
    coding = name.partition(",")[0]
    text = b'{"texts": ["a"]}' * 300
    assert decompress(PACKED[name](text), coding, len(text)) == text
    assert decompress(PACKED[name](text), coding, len(text) - 1) is None
    assert decompress(PACKED[name](b""), coding, 10) == b""


@pytest.mark.parametrize("name", PACKED)
def test_a_bomb_is_not_unpacked(classifier, name):
    """50 MB of zeros; what is made of them stays below 4 MB."""
    import tracemalloc

    bomb = PACKED[name](bytes(50_000_000))
    tracemalloc.start()
    try:
        assert decompress(bomb, name.partition(",")[0], LIMIT) is None
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", PACKED)
def test_damaged_bodies_are_one_line(service, name):
    coding = name.partition(",")[0]
    whole = PACKED[name](b'{"texts": ["the cat runs ."]}')
    for body in (whole[:-3], b"{}", whole[: len(whole) // 2], whole + b"more", b""):
        reply = service.post("/classify", body, Content_Encoding=coding)
        assert reply.status == 400, body
        assert reply.error.startswith((f"the body is not valid {coding}", "the body is not valid JSON"))


def test_other_codings_are_refused(service):
    for coding in ("br", "compress", "gzip, gzip"):
        reply = service.post("/classify", b"x", Content_Encoding=coding)
        assert (reply.status, reply.headers["accept-encoding"]) == (415, "gzip, deflate, zstd")
        assert reply.error == f"content-encoding: '{coding}' is not known; allowed: gzip, deflate, zstd"
    big = gzip.compress(bytes(2_000_000))
    reply = service.post("/classify", big, Content_Encoding="gzip")
    assert (reply.status, reply.error) == (413, "the body is larger than 1000000 bytes")


def test_below_the_path_of_a_proxy(classifier):
    """Whether the proxy takes the path off or leaves it in; other paths that begin alike are none of it."""
    with running(classifier, root_path="/nlp/") as client:
        for prefix in ("", "/nlp"):
            for path in GET_ROUTES:
                assert client.get(prefix + path).status == 200, prefix + path
            reply = client.post(f"{prefix}/classify", {"texts": ["the cat"]})
            assert reply.status == 200
        moved = client.get("/nlp")
        assert (moved.status, moved.headers["location"]) == (308, "/nlp/")
        assert client.get("/nlpx/health").status == 404
        assert client.get("/openapi.json").json["servers"] == [{"url": "/nlp"}]
        assert 'route="/classify"' in client.get("/metrics").body.decode()


def test_a_token_is_needed_below_a_path_too(classifier):
    with running(classifier, root_path="/nlp", token="a-token-of-some-length") as client:
        assert client.get("/nlp/health").status == 200
        assert client.post("/nlp/classify", {"texts": ["the cat"]}).status == 401
        assert client.get("/nlp/metrics").status == 401
        assert client.get("/nlp/nlp/health").status == 401


def test_pages_name_everything_relatively(service):
    """Read at https://host/nlp/, all that a page names lies below it."""
    import re

    for page in ("/", "/docs"):
        content = service.get(page).body.decode()
        names = re.findall(r'(?:href|src)="([^"]+)"', content)
        assert names
        for name in names:
            address = urljoin(f"https://host/nlp{page}", name)
            assert address.startswith("https://host/nlp/"), name
            assert service.get(address.removeprefix("https://host/nlp")).status == 200
    for script in ("/page.js", "/docs.js"):
        assert not re.findall(r'(?:fetch|ask)\("/', service.get(script).body.decode())
    assert service.get("/openapi.json").json["servers"] == [{"url": "."}]


@pytest.mark.parametrize("path", ["nlp", "/a b", "//", "/a//b", "/a?b", "https://host/nlp"])
def test_a_root_path_is_a_path(path):
    with pytest.raises(UserError, match=r"--root-path is .*; allowed: a path as /nlp"):
        ServeConfig(root_path=path)


def test_memory_is_given_back_when_nothing_waits(service, monkeypatch):
    given = []
    memory = FreedMemory(lambda: given.append(1))
    assert memory.wait_s is None
    memory.batch_ended()
    assert memory.wait_s > 0
    assert not given
    memory.give_back()
    assert (given, memory.wait_s) == ([1], None)
    monkeypatch.setattr("time.monotonic", lambda now=memory._last: now + 60)
    memory.batch_ended()  # batches follow one another without a pause
    assert given == [1, 1]


def test_freed_memory_goes_back_to_the_system():
    """64 MB in pieces that glibc would keep: behind each freed one lies one that is in use."""
    import psutil

    if not psutil.LINUX:
        pytest.skip("needs glibc")
    rss = psutil.Process().memory_info
    pieces = [io.BytesIO(b"x" * 8000) for _ in range(16_000)]
    kept = pieces[::2]
    before = rss().rss
    del pieces
    FreedMemory().give_back()
    assert before - rss().rss > 30e6
    assert len(kept) == 8000
