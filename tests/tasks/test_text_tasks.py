"""The csv files of Zhang et al. and IMDB's folder."""

from __future__ import annotations

import datasets
import pytest

from data.support import error_of, write
from funnelformer.data.bad_rows import BadRows
from funnelformer.tasks.kinds import kind_of
from funnelformer.tasks.releases import TASKS
from funnelformer.tasks.releases.reviews_and_news import TEXTS
from funnelformer.tasks.task import read_part


def examples(name, source, part="train", bad=None):
    task = TASKS[name]
    bad = bad or BadRows()
    return kind_of(task).examples(read_part(task, str(source), task.part(part), bad), bad).to_dict()


# name -> folder, a training file in the form of the release, what a model is given
ZHANG = {
    "ag": (
        "ag_news_csv",
        '"3","Wall St. Bears","Wall Street\'s dwindling\\band of ""ultra-cynics"""\n"4","","Orbit"\n',
        ['Wall St. Bears Wall Street\'s dwindling band of "ultra-cynics"', "Orbit"],
        [2, 3],
    ),
    "dbpedia": (
        "dbpedia_csv",
        '1,"E. D. Abbott Ltd"," Abbott was a coachbuilder."\n14,"A Book"," Pages."\n',
        ["E. D. Abbott Ltd Abbott was a coachbuilder.", "A Book Pages."],
        [0, 13],
    ),
    "yelp2": (
        "yelp_review_polarity_csv",
        '"1","Bad.\\nIt said \\""no\\""."\n"2","Good."\n',
        ['Bad.\nIt said "no".', "Good."],
        [0, 1],
    ),
    "yelp5": ("yelp_review_full_csv", '"5","Yes."\n"1","No, no."\n', ["Yes.", "No, no."], [4, 0]),
    "amazon2": (
        "amazon_review_polarity_csv",
        '"2","Stuning","Even for the non-gamer"\n"1","a, b","c"\n',
        ["Stuning Even for the non-gamer", "a, b c"],
        [1, 0],
    ),
    "amazon5": ("amazon_review_full_csv", '"3","t","x"\n"2","u","y"\n', ["t x", "u y"], [2, 1]),
}


@pytest.mark.parametrize("name", ZHANG)
def test_zhang(name, tmp_path):
    folder, content, texts, labels = ZHANG[name]
    (tmp_path / folder).mkdir()
    for part in ("train", "test"):
        write(tmp_path / folder / f"{part}.csv", content)
    for source in (tmp_path, tmp_path / folder):
        for part in ("train", "test"):
            assert examples(name, source, part) == {"text": texts, "label": labels}


def test_all_have_a_test():
    assert {task.name for task in TEXTS} == {"imdb", *ZHANG}
    assert [len(TASKS[name].labels) for name in ZHANG] == [4, 14, 2, 5, 2, 5]


def test_bad_rows_of_zhang(tmp_path):
    path = write(tmp_path / "train.csv", '"1","a","b"\n"5","c","d"\n"2","e"\n"3","",""\n"4","f","g"\n')
    message = f"{path}: line 3: 2 fields, but its rows have 3"
    assert error_of(examples, "ag", path) == message
    bad = BadRows(skip=True)
    assert examples("ag", path, bad=bad) == {"text": ["a b", "f g"], "label": [0, 3]}
    assert bad.problems == [
        message,
        f"{path}: row 2 (line 2): column 'label' has '5', which is not one of the model's labels; "
        "known labels: World, Sports, Business, Sci/Tech",
        f"{path}: row 3 (line 4): column 'text' is empty",
    ]


def test_the_hubs_columns_give_the_same(tmp_path):
    features = datasets.Features(
        {
            "label": datasets.ClassLabel(names=["negative", "positive"]),
            "title": datasets.Value("string"),
            "content": datasets.Value("string"),
        }
    )
    rows = {"label": [1, 0], "title": ["Stuning", "a, b"], "content": ["Even for the non-gamer", "c"]}
    data = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(train=data, test=data).save_to_disk(str(tmp_path / "saved"))
    texts, labels = ZHANG["amazon2"][2:]
    assert examples("amazon2", tmp_path / "saved") == {"text": texts, "label": labels}


@pytest.fixture
def imdb(tmp_path):
    for part in ("train", "test"):
        for label in ("neg", "pos", "unsup"):
            (tmp_path / "aclImdb" / part / label).mkdir(parents=True)
    folder = tmp_path / "aclImdb" / "train"
    write(folder / "pos" / "10_9.txt", "Great.<br /><br />Go.")
    write(folder / "pos" / "2_7.txt", "Caf\u00e9.")
    write(folder / "neg" / "0_3.txt", "Bad.")
    write(folder / "unsup" / "0_0.txt", "Not read.")
    write(folder / "pos" / "notes.md", "Not read.")
    write(tmp_path / "aclImdb" / "test" / "pos" / "0_10.txt", "Fine.")
    return tmp_path


def test_imdb(imdb):
    expected = {"text": ["Bad.", "Caf\u00e9.", "Great.\n\nGo."], "label": [0, 1, 1]}
    assert examples("imdb", imdb) == examples("imdb", imdb / "aclImdb") == expected


def test_bad_files_of_imdb(imdb):
    folder = imdb / "aclImdb"
    message = f"{folder}/test/neg: no files NUMBER_RATING.txt in it, as aclImdb has"
    assert error_of(examples, "imdb", imdb, "test") == message
    empty = write(folder / "train" / "neg" / "1_1.txt", "")
    assert error_of(examples, "imdb", imdb) == f"{empty}: the file is empty"
    bad = BadRows(skip=True)
    assert len(examples("imdb", imdb, bad=bad)["text"]) == 3
    assert bad.problems == [f"{empty}: the file is empty"]
    (folder / "train" / "neg").rename(folder / "train" / "negative")
    assert error_of(examples, "imdb", imdb) == f"{folder}/train: no folder 'neg' in it, as aclImdb has"


def test_imdb_saved_by_datasets(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    data = datasets.Dataset.from_dict({"text": ["a<br />b"], "label": [1]}, features=features)
    datasets.DatasetDict(train=data, test=data).save_to_disk(str(tmp_path))
    assert examples("imdb", tmp_path) == {"text": ["a\nb"], "label": [1]}
