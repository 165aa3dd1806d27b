"""Files of the CoNLL form, and the entities that tags spell."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from data.support import error_of, number_tokenizer, table, write
from funnelformer.data.bad_rows import BadRows
from funnelformer.data.tables import TaskColumns
from funnelformer.tasks.judge import judge
from funnelformer.tasks.kinds import kind_of
from funnelformer.tasks.releases import TASKS
from funnelformer.tasks.task import Task, read_part
from funnelformer.tasks.tokens import encode_words, entity_scores
from funnelformer.tasks.windowing import Windowing

NER = TASKS["ner"]
LABELS = ("O", "B-person", "I-person")


def read(source, part="train", bad=None):
    bad = bad or BadRows()
    return kind_of(NER).examples(read_part(NER, str(source), NER.part(part), bad), bad).to_dict()


def test_two_columns_and_four(tmp_path):
    """As WNUT-17 (one space), and as CoNLL-2003 (parts of speech between, tags that begin with I, documents)."""
    expected = {
        "tokens": [["Ada", "Lovelace", "wrote"], ["She", "did"]],
        "tags": [["B-person", "I-person", "O"], ["O", "O"]],
    }
    write(tmp_path / "train.txt", "Ada B-person\nLovelace I-person\nwrote O\n\n\nShe O\ndid O")
    assert read(tmp_path) == expected
    write(
        tmp_path / "eng.testb",
        "-DOCSTART- -X- O O\n\nAda NNP I-NP B-person\nLovelace NNP I-NP I-person\nwrote VBD I-VP O\n\n"
        "She PRP I-NP O\ndid VBD I-VP O\n",
    )
    assert read(tmp_path, "test") == expected
    write(tmp_path / "dev.jsonl", '{"tokens": ["a"], "tags": ["O"]}\n')
    assert read(tmp_path, "dev") == {"tokens": [["a"]], "tags": [["O"]]}


def test_bad_lines(tmp_path):
    path = write(tmp_path / "train.txt", "a O\nb\n\nc person\n\nd O\n")
    form = "; a line is a token and its tag, as B-person, I-person or O"
    first = f"{path}: line 2: a token without a tag{form}"
    assert error_of(read, path) == first
    bad = BadRows(skip=True)
    assert read(path, bad=bad) == {"tokens": [["d"]], "tags": [["O"]]}
    assert bad.problems == [first, f"{path}: line 4: 'person' is no tag{form}"]


def test_bad_lists():
    def message(**columns):
        return error_of(kind_of(NER).examples, table(**columns))

    assert message(tokens=[["a"]], tags=[["person"]]) == (
        "train.tsv: row 1 (line 2): column 'tags' has 'person'; a tag is O, or as B-person and I-person"
    )
    assert message(tokens=[["a"], ["a", "b"]], tags=[["O"], ["O"]]) == (
        "train.tsv: row 2 (line 3): column 'tags' has 1 tags for 2 tokens: 'a b'"
    )
    assert message(tokens=["a"], tags=[["O"]]).endswith("column 'tokens' is not a list but 'a'")
    assert message(tokens=[[]], tags=[[]]).endswith("column 'tokens' is an empty list")
    assert message(tokens=[["a", ""]], tags=[["O", "O"]]).endswith("column 'tokens' is empty")


def test_a_datasets_folder_with_numbered_tags(tmp_path):
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=["O", "B-person", "I-person"])),
        }
    )
    rows = {"tokens": [["Ada", "wrote"]], "ner_tags": [[1, 0]]}
    data = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(train=data, validation=data).save_to_disk(str(tmp_path))
    assert read(tmp_path) == {"tokens": [["Ada", "wrote"]], "tags": [["B-person", "O"]]}


def test_labels_of_the_training_data():
    """Both tags of every type, O first: an entity may go on where none does in the training data."""
    examples = datasets.Dataset.from_dict({"tokens": [["a", "b"]], "tags": [["B-place", "I-act"]]})
    assert kind_of(NER).label_names(examples) == ("O", "B-act", "I-act", "B-place", "I-place")
    only = datasets.Dataset.from_dict({"tokens": [["a"]], "tags": [["O"]]})
    assert (
        error_of(kind_of(NER).label_names, only)
        == "only one tag, 'O', in the training data: nothing to learn"
    )


def test_entity_scores_by_hand():
    """Gold: Ada Lovelace, Paris, Rome. Said: Ada alone, Paris as a person, Rome, and a cat: 1 of 4, and 1 of 3."""
    gold = [["B-person", "I-person", "O"], ["B-place", "O"], ["B-place", "O"]]
    said = [["B-person", "O", "O"], ["B-person", "O"], ["B-place", "B-person"]]
    scores = entity_scores(said, gold)
    assert scores == pytest.approx({"precision": 1 / 4, "recall": 1 / 3, "f1": 2 / (4 + 3)})
    assert entity_scores([["O"]], [["O"]]) == {"f1": 0.0, "precision": 0.0, "recall": 0.0}
    assert entity_scores(gold, gold)["f1"] == 1.0


def test_the_first_piece_has_the_tag_and_what_is_cut_is_outside():
    """ "12+13" has two pieces. <cls> 5 12 +13 7 <sep>, at most 5 ids: 7 is cut and called O."""
    kind = kind_of(Task("", "tokens", TaskColumns("tokens", None, "tags"), LABELS, ("f1", "recall")))
    examples = datasets.Dataset.from_dict(
        {"tokens": [["5", "12+13", "7"]], "tags": [["O", "B-person", "B-person"]]}
    )
    tokenizer = number_tokenizer()
    assert kind.lengths(examples, tokenizer).tolist() == [6]
    encoded = kind.encode(examples, tokenizer, 5)  # windows of 5, 12, +13 and of 12, +13, 7
    assert encoded.num_cut == 0
    assert encoded.features["labels"][:] == [[-100, 0, 1, -100, -100], [-100, -100, -100, 1, -100]]
    assert encoded.features["words"][:] == [[0, 1], [2]]
    logits = [
        [[0, 0, 9], [1, 0, 0], [0, 1, 0], [0, 0, 9], [0, 0, 9]],
        [[0, 9, 0], [0, 9, 0], [0, 9, 0], [1, 0, 0], [0, 9, 0]],
    ]
    assert kind.tags(logits, encoded.features["labels"], encoded) == [["O", "B-person", "O"]]
    assert kind.score(logits, encoded.features["labels"], encoded) == {
        "f1": pytest.approx(2 / 3),
        "recall": 0.5,
    }


# ---- windows


@pytest.fixture(scope="module")
def tokenizer():
    """A piece for every letter: "abc" is a, ##b, ##c."""
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *"abcdefghij",
        *(f"##{letter}" for letter in "abcdefghij"),
    ]
    backend = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(vocabulary)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def places_of(found):
    """Of each window the words that take their tags there."""
    return [sorted(places.values()) for places in found.places]


def test_each_word_is_taken_from_the_window_with_most_context(tokenizer):
    """Ten words in windows of 6 pieces (8 with the special ones), 4 apart: 0 to 6, 4 to 10.

    Words 4 and 5 are in both: 4 has one piece after it in the first and none before it in the second, 5 the other way
    around.
    """
    words = [list("abcdefghij"), ["a"]]
    found = encode_words(tokenizer, words, 8, 4)
    assert found.owners == [0, 0, 1]
    assert places_of(found) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [0]]
    assert found.places[1] == {2: 5, 3: 6, 4: 7, 5: 8, 6: 9}
    tokens = tokenizer.convert_ids_to_tokens(found.features["input_ids"][1])
    assert tokens == ["[CLS]", *"efghij", "[SEP]"]


def test_a_window_within_a_word(tokenizer):
    """The first piece of a word carries its tag, also where a later window begins with its second piece."""
    words = [["a", "b", "cde", "f", "g"]]  # pieces a b c ##d ##e f g, in windows of three
    for stride in (1, 2, 3):
        found = encode_words(tokenizer, words, 5, stride)
        said = sorted(word for places in found.places for word in places.values())
        assert said == [0, 1, 2, 3, 4]
        for ids, places in zip(found.features["input_ids"], found.places, strict=True):
            for place, word in places.items():
                assert tokenizer.convert_ids_to_tokens(ids)[place] == words[0][word][0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=30), min_size=1, max_size=3),
    st.integers(3, 9),
    st.data(),
)
def test_no_word_is_lost_and_none_is_twice(tokenizer, lengths, max_length, data):
    stride = data.draw(st.none() | st.integers(1, max_length - 2))
    words = [["abcde"[:length] for length in sentence] for sentence in lengths]
    found = encode_words(tokenizer, words, max_length, stride)
    assert all(len(ids) <= max_length for ids in found.features["input_ids"])
    for number, sentence in enumerate(words):
        said = [
            word
            for places, owner in zip(found.places, found.owners, strict=True)
            if owner == number
            for word in places.values()
        ]
        assert sorted(said) == list(range(len(sentence)))


def test_tags_beyond_the_first_window(tokenizer):
    """What the model says of the 9th word, beyond 6 pieces, is its tag; a sentence of one window is as without."""
    tagged = Task("", "tokens", TaskColumns("tokens", None, "tags"), LABELS, ("f1",))
    tags = [["O"] * 8 + ["B-person", "I-person"], ["B-person"]]
    rows = datasets.Dataset.from_dict({"tokens": [list("abcdefghij"), ["a"]], "tags": tags})
    kind = kind_of(tagged, Windowing(4))
    encoded = kind.encode(rows, tokenizer, 8)
    gold = encoded.features["labels"][:]
    assert gold == [
        [-100, 0, 0, 0, 0, 0, -100, -100],
        [-100, -100, 0, 0, 0, 1, 2, -100],
        [-100, 1, -100],
    ]
    outputs = [np.eye(3)[np.maximum(labels, 0)] for labels in gold]
    assert kind.tags(outputs, gold, encoded) == tags
    assert kind.score(outputs, gold, encoded)["f1"] == 1.0
    assert [labels.tolist() for _, labels in kind.of_sentences(outputs, gold, encoded)] == [
        [0] * 8 + [1, 2],
        [1],
    ]
    judged = judge(kind, [np.eye(3)[np.zeros(len(labels), int)] for labels in gold], gold, encoded)
    assert judged.is_wrong.tolist() == [True, True]
    assert judged.losses[1] == pytest.approx(np.log(np.e + 2))
    assert judged.losses[0] == pytest.approx(np.log(np.e + 2) - 0.8)
    assert kind.saved() == {"doc_stride": 4}
    assert kind.remark(encoded, 8).startswith("1 of 2 training texts exceed 8 tokens and are read in windows")
    whole = kind_of(tagged).encode(rows, tokenizer, 12)
    assert whole.features["labels"][:] == [[-100, *[0] * 8, 1, 2, -100], [-100, 1, -100]]
    assert kind_of(tagged).saved() == {}
    assert kind_of(tagged).remark(whole, 12) is None
