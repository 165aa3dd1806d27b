"""Requests made from the OpenAPI document, right and wrong ones: the answers are those that it says."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis")

from schemathesis import GenerationMode  # noqa: E402
from schemathesis.config import SchemathesisConfig  # noqa: E402

from serve.running import running, save  # noqa: E402

POSTS = (
    "/classify", "/embed", "/fill", "/answer", "/rank", "/inspect",
    "/predict", "/rerank", "/v1/embeddings",
)  # fmt: skip
GETS = ("/health", "/metrics", "/info", "/v1/models")
# What is wrong is one of these; text-embeddings-inference has 413 for too many texts.
CHECKS = {"negative_data_rejection": {"expected-statuses": ["400", "404", "413", "422"]}}


@pytest.fixture(scope="module")
def documents(classifier, toy):
    """The document of a service whose model can answer the path; its limits keep what breaks them small."""
    limits = {"max_text_chars": 300, "max_texts": 5}
    answers = save(toy.folder / "fuzzed", toy.tokenizer, "answers")
    pairs = save(toy.folder / "fuzzed-pairs", toy.tokenizer, "texts", labels=("no", "yes"))
    with (
        running(classifier, **limits) as service,
        running(toy.pretrained, **limits) as filling,
        running(answers, **limits) as answering,
        running(pairs, **limits) as ranking,
    ):
        clients = dict.fromkeys((*POSTS, *GETS), service)
        clients |= {"/fill": filling, "/answer": answering, "/rank": ranking, "/rerank": ranking}
        yield {
            path: schemathesis.openapi.from_url(
                f"http://127.0.0.1:{client.port}/openapi.json",
                config=SchemathesisConfig.from_dict({"checks": CHECKS}),
            )
            for path, client in clients.items()
        }


# Without schemathesis' pytest plugin, which pytest 9.2 has outrun: its API makes the same requests and checks.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [
        *(
            ("POST", path, mode)
            for path in POSTS
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        ),
        *(("GET", path, GenerationMode.POSITIVE) for path in GETS),
    ],
)
def test_answers_are_those_of_the_document(documents, method, path, mode):
    """No 5xx, a status and a form that the document has, right requests taken and wrong ones refused."""

    # That a text to fill has a mask is not in the document, which is the same for every model.
    unsaid = [schemathesis.checks.positive_data_acceptance] if path == "/fill" else []

    @given(documents[path][path][method].as_strategy(generation_mode=mode))
    @settings(
        max_examples=25 if method == "POST" else 1,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case):
        case.call_and_validate(timeout=60, excluded_checks=unsaid)

    check()
