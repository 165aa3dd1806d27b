"""Requests made from the OpenAPI document, right and wrong ones: the answers are those that it says."""

from __future__ import annotations

import itertools

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


# They keep what breaks them small.
LIMITS = {"max_text_chars": 300, "max_texts": 5}
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
SETTINGS = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def document(client):
    return schemathesis.openapi.from_url(
        f"http://127.0.0.1:{client.port}/openapi.json",
        config=SchemathesisConfig.from_dict({"checks": CHECKS}),
    )


def unsaid(path):
    """Not in the document, the same for every model: that a text to fill has a mask, and which labels a model has."""
    return [schemathesis.checks.positive_data_acceptance] if path in ("/fill", "/rank") else []


def without_prompt(case):
    """Nor are the prompts of a model in it."""
    if isinstance(case.body, dict):
        case.body.pop("prompt_name", None)


@pytest.fixture(scope="module")
def pairs(toy):
    return save(toy.folder / "fuzzed-pairs", toy.tokenizer, "texts", labels=("no", "yes"))


@pytest.fixture(scope="module")
def documents(classifier, pairs, toy):
    """The document of a service whose model can answer the path."""
    answers = save(toy.folder / "fuzzed", toy.tokenizer, "answers")
    with (
        running(classifier, **LIMITS) as service,
        running(toy.pretrained, **LIMITS) as filling,
        running(answers, **LIMITS) as answering,
        running(pairs, **LIMITS) as ranking,
    ):
        clients = dict.fromkeys((*POSTS, *GETS), service)
        clients |= {"/fill": filling, "/answer": answering, "/rank": ranking, "/rerank": ranking}
        yield {path: document(client) for path, client in clients.items()}


# Without schemathesis' pytest plugin, which pytest 9.2 has outrun: its API makes the same requests and checks.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [
        *(("POST", path, mode) for path in POSTS for mode in MODES),
        *(("GET", path, GenerationMode.POSITIVE) for path in GETS),
    ],
)
def test_answers_are_those_of_the_document(documents, method, path, mode):
    """No 5xx, a status and a form that the document has, right requests taken and wrong ones refused."""

    @given(documents[path][path][method].as_strategy(generation_mode=mode))
    @settings(SETTINGS, max_examples=25 if method == "POST" else 1)
    def check(case):
        if mode is GenerationMode.POSITIVE:
            without_prompt(case)
        case.call_and_validate(timeout=60, excluded_checks=unsaid(path))

    check()


BOTH = tuple(path for path in POSTS if path not in ("/fill", "/answer"))


@pytest.fixture(scope="module")
def two(classifier, pairs):
    """A service of two models that can answer the same routes, and what each says of a text before it is fuzzed."""
    with running(None, models={"A": str(classifier), "B": str(pairs)}, **LIMITS) as client:
        before = {name: client.results("/classify", texts=["the cat runs ."], model=name) for name in "AB"}
        yield client, document(client), before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("named_in", ["path", "body"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", BOTH)
def test_answers_of_two_models_are_those_of_the_document(two, path, mode, named_in):
    """The model is named in the path or in the body, in turn; afterwards both answer as before, and nothing waits."""
    client, found, before = two
    numbers = itertools.count()

    @given(found[path]["POST"].as_strategy(generation_mode=mode))
    @SETTINGS
    def check(case):
        name = "AB"[next(numbers) % 2]
        if path == "/rerank":  # A has three classes
            name = "B"
        base = f"http://127.0.0.1:{client.port}"
        if mode is GenerationMode.POSITIVE:
            without_prompt(case)
            case.body["model"] = name
        if named_in == "path":
            base += f"/models/{name}"
            if mode is GenerationMode.POSITIVE and path != "/v1/embeddings":  # which asks for the field
                del case.body["model"]
        elif isinstance(case.body, dict):
            case.body.setdefault("model", name)
        case.call_and_validate(base_url=base, timeout=60, excluded_checks=unsaid(path))

    check()
    assert next(numbers) > 10
    assert client.waiting() == 0
    for name, said in before.items():
        assert client.results("/classify", texts=["the cat runs ."], model=name) == said
