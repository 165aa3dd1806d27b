"""Files of the CoNLL form, and the entities that tags spell."""

from __future__ import annotations

import datasets
import pytest

from data.support import error_of, number_tokenizer, table, write
from funnelformer.data.bad_rows import BadRows
from funnelformer.data.tables import TaskColumns
from funnelformer.tasks.kinds import kind_of
from funnelformer.tasks.releases import TASKS
from funnelformer.tasks.task import Task, read_part
from funnelformer.tasks.tokens import entity_scores

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
    encoded = kind.encode(examples, tokenizer, 5)
    assert encoded.num_cut == 1
    assert encoded.features["labels"][0] == [-100, 0, 1, -100, -100]
    assert encoded.features["words"][0] == [0, 1]
    logits = [[[0, 0, 9], [1, 0, 0], [0, 1, 0], [0, 0, 9], [0, 0, 9]]]
    assert kind.tags(logits, encoded.features["labels"], encoded) == [["O", "B-person", "O"]]
    assert kind.score(logits, encoded.features["labels"], encoded) == {
        "f1": pytest.approx(2 / 3),
        "recall": 0.5,
    }
