"""What each route answers: the values of `funnelformer predict`, or those of a direct call of the model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from funnelformer import (
    FunnelformerForMaskedLM,
    FunnelformerForQuestionAnswering,
    FunnelformerModel,
    __version__,
)
from funnelformer.data.tokenizer import load_tokenizer
from funnelformer.inference.answer import answer
from funnelformer.inference.predict import predict
from funnelformer.inference.predictor import load_predictor
from serve.running import running, save, until

# Probabilities are rounded to 6 digits; beside them measured 3.6e-7 between a text alone and in a padded batch.
TOLERANCE = 2e-6


def predicted(model, tmp_path, rows):
    """What `funnelformer predict` says of some rows, without their own columns."""
    source, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    predict(str(model), str(source), out=out, device="cpu")
    found = [json.loads(line) for line in out.read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in rows[0]} for row in found]


def close(found, expected):
    """Equal rows, their numbers within the tolerance."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() - {"cut"} == other.keys()
        for name, value in other.items():
            is_number = isinstance(value, float | dict)
            assert one[name] == (pytest.approx(value, abs=TOLERANCE) if is_number else value)


def test_classes_are_those_of_predict(service, classifier, texts, tmp_path):
    found = service.results("/classify", texts=texts)
    close(found, predicted(classifier, tmp_path, [{"text": text} for text in texts]))
    assert not any(row["cut"] for row in found)
    # One by one: no text's answer depends on those beside it.
    close(
        [service.results("/classify", texts=[text])[0] for text in texts[:4]],
        [{name: value for name, value in row.items() if name != "cut"} for row in found[:4]],
    )


def test_pairs(toy, tmp_path):
    model = save(
        toy.folder / "pairs", toy.tokenizer, "texts", {"text": "a", "text_pair": "b"}, labels=("no", "yes")
    )
    pairs = [["the red cat eats .", "the cow runs ."], ["the dog", "the blue bird sings . the cow sleeps ."]]
    with running(model) as client:
        found = client.results("/classify", texts=pairs)
        close(found, predicted(model, tmp_path, [{"a": a, "b": b} for a, b in pairs]))
        reply = client.post("/classify", {"texts": ["the cat", pairs[0]]})
        assert (reply.status, reply.error) == (
            422,
            "texts.0: the model was trained on pairs of texts; give two",
        )
        assert client.get("/health").json["reads_pairs"] is True


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("regression", {"num_labels": 1, "problem_type": "regression"}),
        ("multi-label", {"labels": ("a", "b", "c"), "problem_type": "multi_label_classification"}),
    ],
)
def test_amounts_and_several_labels(toy, texts, tmp_path, kind, settings):
    model = save(toy.folder / kind, toy.tokenizer, "texts", **settings)
    with running(model) as client:
        close(
            client.results("/classify", texts=texts), predicted(model, tmp_path, [{"text": t} for t in texts])
        )
        assert client.get("/health").json["kind"] == kind


def test_tags_of_tokens(toy, texts, tmp_path):
    labels = ("O", "B-animal", "I-animal", "B-act", "I-act")
    model = save(toy.folder / "tags", toy.tokenizer, "tokens", {"task": "ner"}, labels=labels)
    with running(model, max_length=24) as client:
        found = client.results("/classify", texts=texts)
        source = tmp_path / "texts.jsonl"
        source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        predict(str(model), str(source), out=tmp_path / "out.jsonl", max_length=24, device="cpu")
        expected = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert [(row["tokens"], row["prediction"]) for row in found] == [
            (row["tokens"], row["prediction"]) for row in expected
        ]
        assert {tag for row in found for tag in row["prediction"]} - {"O"}
        assert {row["cut"] for row in found} == {False}
        # The last words of a text beyond the 22 tokens of a window are said what they are said in its last window.
        long = " ".join(["the", "red", "cat", "sleeps", "."] * 6)
        (whole,) = client.results("/classify", texts=[long])
        (end,) = client.results("/classify", texts=[" ".join(long.split()[11:])])
        assert whole["prediction"][-5:] == end["prediction"][-5:] != ["O"] * 5
        assert client.post("/classify", {"texts": [["a", "b"]]}).status == 422


def test_what_is_cut_is_told(toy, classifier):
    """At --max-length 12 of which two are special: the first ten words decide, as in `predict`."""
    with running(classifier, max_length=12) as client:
        long, short = client.results("/classify", texts=["red " * 40, "red " * 10])
        assert (long.pop("cut"), short.pop("cut")) == (True, False)
        close([long], [short])


def test_long_texts_in_windows(toy):
    """10 words in windows of 6, each beginning 3 after the last: 0 to 6, 3 to 9, 6 to 10; the mean of their logits."""
    task = {"max_length": 8, "doc_stride": 3}
    model = save(toy.folder / "windows", toy.tokenizer, "texts", task, labels=("no", "yes"))
    words = ["the", "red", "cat", "eats", ".", "the", "blue", "bird", "sings", "."]
    predictor = load_predictor(str(model), device="cpu")
    with running(model, max_queue=3, max_texts=1) as client:
        (found,) = client.results("/classify", texts=[" ".join(words)])
        logits = predictor.logits([" ".join(words[i : i + 6]) for i in (0, 3, 6)]).mean(0, keepdims=True)
        expected = predictor.probabilities(logits)[0].tolist()
        assert list(found["probabilities"].values()) == pytest.approx(expected, abs=TOLERANCE)
        reply = client.post("/classify", {"texts": ["red " * 30]})
        assert (reply.status, reply.error) == (422, "9 sequences to read; allowed: 3")


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_are_the_encoders(service, classifier, texts, pooling):
    model = FunnelformerModel.from_pretrained(classifier, decoder_layers=0).eval()
    tokenizer = load_tokenizer(classifier)
    found = service.results("/embed", texts=texts, pooling=pooling)
    unit = service.results("/embed", texts=texts, pooling=pooling, normalize=True)
    for row, one, text in zip(found, unit, texts, strict=True):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).encoder_last_hidden_state[0]
        vector = (states.mean(0) if pooling == "mean" else states[0]).numpy()
        # Measured 1.2e-6.
        assert row["vector"] == pytest.approx(vector.tolist(), abs=1e-5)
        assert one["vector"] == pytest.approx((vector / np.linalg.norm(vector)).tolist(), abs=1e-5)


def test_masks_are_filled(toy):
    texts = ["the <mask> cat runs .", "the red <mask> <mask> . the dog sleeps ."]
    model = FunnelformerForMaskedLM.from_pretrained(toy.pretrained).eval()
    tokenizer = load_tokenizer(toy.pretrained)
    with running(toy.pretrained) as client:
        found = client.results("/fill", texts=texts, top=3)
        assert [len(row["masks"]) for row in found] == [1, 2]
        for row, text in zip(found, texts, strict=True):
            batch = tokenizer(text, return_tensors="pt")
            with torch.no_grad():
                logits = model(**batch).logits[0, batch["input_ids"][0] == tokenizer.mask_token_id]
            values, ids = logits.softmax(-1).topk(3)
            for candidates, probabilities, numbers in zip(row["masks"], values, ids, strict=True):
                assert [entry["token"] for entry in candidates] == tokenizer.convert_ids_to_tokens(numbers)
                assert [entry["probability"] for entry in candidates] == pytest.approx(
                    probabilities.tolist(), abs=TOLERANCE
                )
        assert client.results("/fill", texts=texts, top=3.0) == found
        for text, said in (
            ("the cat", "texts.0: has no <mask>"),
            ("<mask> " * 17, "texts.0: has 17 <mask>; allowed: up to 16"),
            ("red " * 600 + "<mask>", "texts.0: a <mask> is beyond the 512 tokens that the model reads"),
        ):
            reply = client.post("/fill", {"texts": [text]})
            assert (reply.status, reply.error) == (422, said)


def test_answers(toy):
    """In one window the best spans of all; in several, a part of the text at the place that is said."""
    model_folder = save(toy.folder / "answers", toy.tokenizer, "answers", layout="L1H16")
    model = FunnelformerForQuestionAnswering.from_pretrained(model_folder).eval()
    tokenizer = load_tokenizer(model_folder)
    question, context = "the red cat ?", "the dog eats . the blue bird sings . the cow sleeps ."
    encoded = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
    offsets = encoded.pop("offset_mapping")[0].tolist()
    places = [place for place, part in enumerate(encoded.sequence_ids()) if part == 1]
    with torch.no_grad():
        output = model(**encoded)
    scores: dict[str, tuple[float, int, int]] = {}
    for i, first in enumerate(places):
        for last in places[i:]:
            begin, end = offsets[first][0], offsets[last][1]
            score = float(output.start_logits[0, first] + output.end_logits[0, last])
            text = context[begin:end]
            scores[text] = max(scores.get(text, (-np.inf, 0, 0)), (score, begin, end))
    # Of the 20 best spans, two of which may be the same words.
    expected = sorted(scores.values(), reverse=True)[:20]
    with running(model_folder, max_length=48) as client:
        found = client.results("/answer", question=question, context=context, top=3)
        assert [(row["start"], row["end"]) for row in found] == [entry[1:] for entry in expected[:3]]
        ratios = [row["score"] / found[0]["score"] for row in found]
        best = expected[0][0]
        assert ratios == pytest.approx([np.exp(entry[0] - best) for entry in expected[:3]], abs=1e-4)
        long = " ".join([context] * 9)
        rows = client.results("/answer", question=question, context=long, top=5)
        assert len({(row["start"], row["end"]) for row in rows}) == 5
        for row in [*found, *rows]:
            text = context if row in found else long
            assert row["answer"] == text[row["start"] : row["end"]] != ""
        reply = client.post("/answer", {"question": "red " * 60, "context": context})
        assert (reply.status, reply.error) == (422, "question: has 60 tokens; allowed: up to 22")
        reply = client.post("/answer", {"question": question, "context": "red " * 9000})
        assert reply.status == 422
        assert reply.error.endswith("allowed: up to 64")


@pytest.mark.parametrize(("head", "threshold"), [("simple", -50.0), ("simple", 50.0), ("conditional", 50.0)])
def test_answers_are_those_of_predict(toy, head, threshold):
    """Both heads, in several windows; the empty answer is first where the odds are above the model's threshold."""
    name = f"maybe-{head}-{threshold}"
    task = {"task": "squad2", "max_length": 32, "doc_stride": 8, "null_threshold": threshold}
    folder = save(toy.folder / name, toy.tokenizer, "answers", task, qa_head=head, decoder_layers=1)
    question, context = "the red cat ?", "the dog eats . the blue bird sings . the cow sleeps . " * 3
    (expected,) = answer(load_predictor(str(folder), device="cpu"), [question], [context])
    with running(folder) as client:
        found = client.results("/answer", question=question, context=context, top=40)
    assert found[0]["answer"] == expected.text
    assert (expected.text == "") == (threshold < 0)
    by_place = {(c.begin, c.end): c for c in expected.best}
    assert len(by_place) == len(found) > 5
    for row in found:
        candidate = by_place[row["start"], row["end"]]
        assert row["answer"] == candidate.text
        assert row["score"] == pytest.approx(candidate.probability, abs=TOLERANCE)


@pytest.mark.parametrize(
    ("kind", "able"),
    [("masked", {"embed", "fill", "inspect"}), ("choices", {"embed", "inspect"})],
)
def test_a_model_without_the_head_says_what_it_can_do(toy, kind, able):
    model = save(toy.folder / f"without-{kind}", toy.tokenizer, kind)
    bodies = {
        "classify": {"texts": ["a"]},
        "embed": {"texts": ["a"]},
        "fill": {"texts": ["<mask>"]},
        "answer": {"question": "a", "context": "b"},
        "inspect": {"text": "a"},
    }
    with running(model) as client:
        assert client.get("/health").json["abilities"] == sorted(able)
        for name, body in bodies.items():
            reply = client.post(f"/{name}", body)
            assert reply.status == (200 if name in able else 409)
            if name not in able:
                assert reply.error.endswith("it answers " + ", ".join(f"/{one}" for one in sorted(able)))


def test_health(service, classifier):
    health = service.get("/health").json
    assert health.pop("uptime_s") > 0
    assert health == {
        "status": "ok",
        "version": __version__,
        "model": classifier.name,
        "layout": "B1-1-1H16",
        "kind": "classification",
        "labels": ["no", "perhaps", "yes"],
        "abilities": ["classify", "embed", "inspect", "rank"],
        "reads_pairs": False,
        "mask_token": "<mask>",
        "max_length": 512,
        "needs_token": False,
        "model_on_disk": True,
        "waiting_texts": 0,
    }


def test_metrics_count_requests_batches_and_tokens(classifier):
    with running(classifier, max_delay_ms=0.0) as client:
        client.results("/classify", texts=["the red cat"] * 3)  # 5 tokens each
        client.post("/classify", b"{")
        until(lambda: client.counter("funnelformer_requests_total") >= 2, "requests are not counted")
        assert client.counter("funnelformer_tokens_total") == 15
        assert client.counter("funnelformer_padding_tokens_total") == 0
        assert client.counter("funnelformer_batch_texts_sum") == 3
        text = client.get("/metrics").body.decode()
        assert 'funnelformer_requests_total{route="/classify",status="400"} 1.0' in text
        assert "process_resident_memory_bytes" in text


def test_the_interface_is_described_without_the_network(service):
    document = service.get("/openapi.json").json
    assert set(document["paths"]) == {
        "/classify", "/embed", "/fill", "/answer", "/rank", "/inspect", "/predict", "/rerank", "/info",
        "/v1/embeddings", "/v1/models", "/v1/models/{model}", "/health", "/metrics",
    }  # fmt: skip
    for path in ("/", "/docs", "/page.css", "/page.js", "/docs.js", "/icon.svg"):
        reply = service.get(path)
        assert reply.status == 200
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        # No address but the name of SVG's elements, and no style or script outside of the files.
        content = reply.body.decode().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in content
        assert "https://" not in content
        assert not any(inline in content for inline in ("<style", "style=", "onclick", "innerHTML"))
