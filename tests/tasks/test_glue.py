"""GLUE's files as they are released, each with its quirks, and the same tasks from a `datasets` folder."""

from __future__ import annotations

import zipfile

import datasets
import pytest

from data.support import error_of, write
from funnelformer.data.bad_rows import BadRows
from funnelformer.tasks.kinds import kind_of
from funnelformer.tasks.releases import TASKS, find_task
from funnelformer.tasks.releases.glue import GLUE, SUBMISSION_FILES
from funnelformer.tasks.releases.submission import read_submission, write_submission
from funnelformer.tasks.task import read_part

# Of every file the header and rows of its form, written by hand; a quotation mark is a character.
FILES = {
    "CoLA/train.tsv": "gj04\t1\t\tOur friends \"won't buy this.\ngj04\t0\t*\tThey drank the pub.\n",
    "CoLA/dev.tsv": "gj04\t1\t\tThe sailors rode.\n",
    "CoLA/test.tsv": "index\tsentence\n0\tBill whistled.\n",
    "SST-2/train.tsv": "sentence\tlabel\nhide new secretions \t0\nof saucy \t1\n",
    "SST-2/dev.tsv": "sentence\tlabel\ncharming .\t1\n",
    "SST-2/test.tsv": "index\tsentence\n0\tuneasy\n",
    "MRPC/train.tsv": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    '1\t7\t8\tHe said "yes .\tYes .\n0\t1\t2\tA\tB\n',
    "MRPC/dev.tsv": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tC\tD\n",
    "MRPC/test.tsv": "\ufeffindex\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t7\t8\tE\tF\n",
    "STS-B/train.tsv": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
    "0\tmain-captions\tMSRvid\t2012test\t0001\tnone\tnone\tA plane .\tAn air plane .\t5.000\n",
    "STS-B/dev.tsv": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
    "0\tmain-captions\tMSRvid\t2012test\t0001\tnone\tnone\tA man .\tA girl .\t0.333\n",
    "STS-B/test.tsv": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\n"
    "0\tmain-captions\tMSRvid\t2012test\t0024\tnone\tnone\tA girl .\tA woman .\n",
    "QQP/train.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    "1\t2\t3\tHow?\tWhy?\t0\n4\t5\t6\tcut\n7\t8\t9\tA?\tB?\t1\n",
    "QQP/dev.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tWho?\tWhom?\t1\n",
    "QQP/test.tsv": "id\tquestion1\tquestion2\n0\tWhat?\t\n",
    "MNLI/train.tsv": "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse"
    "\tsentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label\n"
    "0\t31193\t31193n\tgovernment\t( a )\t( b )\t(ROOT a)\t(ROOT b)\tCream skimming.\tProduct.\tneutral\tneutral\n",
    "MNLI/dev_matched.tsv": "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse"
    "\tsentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label\n"
    "0\t6\t6c\tslate\t( a )\t( b )\t(R)\t(R)\tNew.\tOld.\tneutral\tcontradiction\tcontradiction\tneutral\tneutral"
    "\tcontradiction\n",
    "MNLI/dev_mismatched.tsv": "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse"
    "\tsentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label\n"
    "0\t7\t7e\tletters\t( a )\t( b )\t(R)\t(R)\tYour gift.\tA gift.\tentailment\tentailment\tneutral\tneutral"
    "\tentailment\tentailment\n",
    "MNLI/test_matched.tsv": "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse"
    "\tsentence1_parse\tsentence2_parse\tsentence1\tsentence2\n0\t1\t1\tg\t(\t(\t(\t(\tHear me.\tListen.\n",
    "MNLI/test_mismatched.tsv": "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse"
    "\tsentence1_parse\tsentence2_parse\tsentence1\tsentence2\n0\t1\t1\tg\t(\t(\t(\t(\tWhat?\tWhen?\n",
    "QNLI/train.tsv": "index\tquestion\tsentence\tlabel\n"
    "0\tWhen?\tIn 1909.\tentailment\n1\tWho?\tNo.\tnot_entailment\n",
    "QNLI/dev.tsv": "index\tquestion\tsentence\tlabel\n0\tWhere?\tHere.\tentailment\n",
    "QNLI/test.tsv": "index\tquestion\tsentence\n0\tHow?\tSo.\n",
    "RTE/train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tnot_entailment\n1\tC.\tD.\tentailment\n",
    "RTE/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tE.\tF.\tentailment\n",
    "RTE/test.tsv": "index\tsentence1\tsentence2\n0\tG.\tH.\n",
    "WNLI/train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tI.\tJ.\t1\n1\tK.\tL.\t0\n",
    "WNLI/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tM.\tN.\t0\n",
    "WNLI/test.tsv": "index\tsentence1\tsentence2\n0\tO.\tP.\n",
    "diagnostic/diagnostic.tsv": "index\tsentence1\tsentence2\n0\tThe cat sat.\tThe cat did not sit.\n",
    "diagnostic/diagnostic-full.tsv": "Lexical Semantics\tPredicate-Argument Structure\tLogic\tKnowledge\tDomain"
    "\tPremise\tHypothesis\tLabel\n\t\tNegation\t\tArtificial\tThe cat sat.\tThe cat did not sit.\tcontradiction\n",
}
# What a model is given of the first training row (AX: the labelled part), by the ids of the data set on the Hub.
FIRST = {
    "cola": {"text": "Our friends \"won't buy this.", "label": 1},
    "sst2": {"text": "hide new secretions ", "label": 0},
    "mrpc": {"text": 'He said "yes .', "text_pair": "Yes .", "label": 1},
    "stsb": {"text": "A plane .", "text_pair": "An air plane .", "label": 5.0},
    "qqp": {"text": "How?", "text_pair": "Why?", "label": 0},
    "mnli": {"text": "Cream skimming.", "text_pair": "Product.", "label": 1},
    "qnli": {"text": "When?", "text_pair": "In 1909.", "label": 0},
    "rte": {"text": "A.", "text_pair": "B.", "label": 1},
    "wnli": {"text": "I.", "text_pair": "J.", "label": 1},
    "ax": {"text": "The cat sat.", "text_pair": "The cat did not sit.", "label": 2},
}


@pytest.fixture(scope="module")
def glue(tmp_path_factory):
    folder = tmp_path_factory.mktemp("glue")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write(folder / name, content)
    return folder


@pytest.mark.parametrize("task", GLUE, ids=lambda task: task.name)
def test_every_part_is_read(glue, task):
    for part in task.parts:
        table = read_part(task, str(glue), part, BadRows(skip=True))
        if part.is_labelled:
            first = kind_of(task).examples(table)[0]
            if part == task.parts[0]:
                assert first == FIRST[task.name]
        else:
            assert task.columns.label not in table.columns
            columns = {task.columns.text, task.columns.text_pair} - {None}
            assert columns <= table.columns.keys()


def test_the_two_dev_parts_of_mnli(glue):
    mnli = TASKS["mnli"]
    rows = [kind_of(mnli).examples(read_part(mnli, str(glue), part))[0] for part in mnli.of_role("dev")]
    assert rows == [
        {"text": "New.", "text_pair": "Old.", "label": 2},
        {"text": "Your gift.", "text_pair": "A gift.", "label": 0},
    ]
    assert [part.name for part in mnli.of_role("dev")] == ["dev-matched", "dev-mismatched"]


def test_a_cut_row_is_refused_or_counted(glue):
    """QQP's released training file has such rows."""
    qqp = TASKS["qqp"]
    message = f"{glue}/QQP/train.tsv: line 3: 4 fields, but the header has 6"
    assert error_of(read_part, qqp, str(glue), qqp.part("train")) == message
    bad = BadRows(skip=True)
    assert len(read_part(qqp, str(glue), qqp.part("train"), bad)) == 2
    assert bad.problems == [message]


def test_the_folder_the_task_folder_or_the_file(glue, tmp_path):
    rte = TASKS["rte"]
    for source in (glue, glue / "RTE", glue / "RTE" / "train.tsv"):
        assert len(read_part(rte, str(source), rte.part("train"))) == 2
    message = error_of(read_part, rte, str(tmp_path), rte.part("dev"))
    assert message == f"{tmp_path}: no dev.tsv in this folder, nor in RTE in it: the dev part of rte"


def test_a_datasets_folder_of_the_hubs_form(tmp_path):
    """The Hub's columns, and labels as numbers with names; -1 is none."""
    features = datasets.Features(
        {
            "premise": datasets.Value("string"),
            "hypothesis": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["entailment", "neutral", "contradiction"]),
            "idx": datasets.Value("int32"),
        }
    )
    rows = {"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [2, 1], "idx": [0, 1]}
    parts = {part.hub: datasets.Dataset.from_dict(rows, features=features) for part in TASKS["mnli"].parts}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path))
    mnli = TASKS["mnli"]
    for part in mnli.parts:
        examples = kind_of(mnli).examples(read_part(mnli, str(tmp_path), part))
        assert examples.to_dict() == {"text": ["a", "b"], "text_pair": ["c", "d"], "label": [2, 1]}


def test_a_hub_name(monkeypatch):
    asked = []

    def load(*arguments):
        asked.append(arguments)
        rows = {"sentence": ["fine"], "label": [1], "idx": [0]}
        features = datasets.Features(
            {
                "sentence": datasets.Value("string"),
                "label": datasets.ClassLabel(names=["unacceptable", "acceptable"]),
                "idx": datasets.Value("int32"),
            }
        )
        return datasets.DatasetDict(validation=datasets.Dataset.from_dict(rows, features=features))

    monkeypatch.setattr("funnelformer.data.tables.reach_hub", lambda *_: None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    cola = TASKS["cola"]
    table = read_part(cola, cola.release.hub, cola.part("dev"))
    assert kind_of(cola).examples(table).to_dict() == {"text": ["fine"], "label": [1]}
    assert asked == [("nyu-mll/glue", "cola")]


def test_a_label_that_is_none_of_the_task(glue, tmp_path):
    path = write(tmp_path / "dev.tsv", FILES["RTE/dev.tsv"].replace("\tentailment", "\tentails"))
    rte = TASKS["rte"]
    message = error_of(kind_of(rte).examples, read_part(rte, str(path), rte.part("dev")))
    assert message == (
        f"{path}: row 1 (line 2): column 'label' has 'entails', which is not one of the model's labels; "
        "did you mean 'entailment'?; known labels: entailment, not_entailment"
    )


def test_names_of_tasks():
    assert find_task("SST-2").name == "sst2"
    assert find_task("STS_B").name == "stsb"
    assert error_of(find_task, "mnly").startswith(
        "--task mnly is not known; did you mean 'mnli'?; known: cola, "
    )


# ---- the leaderboard's zip


def test_files_of_the_leaderboard():
    """The eleven names of https://gluebenchmark.com/faq, and the forms of the labels there."""
    names = "CoLA SST-2 MRPC STS-B QQP MNLI-m MNLI-mm QNLI RTE WNLI AX"
    assert sorted(SUBMISSION_FILES) == sorted(f"{name}.tsv" for name in names.split())
    submitted = {task.name: list(task.release.submitted.values()) for task in GLUE}
    for name in ("cola", "sst2", "mrpc", "qqp", "wnli"):
        assert submitted[name] == ["0", "1"]
    for name in ("mnli", "ax"):
        assert submitted[name] == ["entailment", "neutral", "contradiction"]
    for name in ("qnli", "rte"):
        assert submitted[name] == ["entailment", "not_entailment"]


def test_the_zip_grows(tmp_path):
    path = tmp_path / "glue.zip"
    assert read_submission(path) == {}
    missing = write_submission(path, {"RTE.tsv": "index\tprediction\n0\tentailment\n"})
    assert set(missing) == set(SUBMISSION_FILES) - {"RTE.tsv"}
    files = read_submission(path) | {"CoLA.tsv": "index\tprediction\n0\t1\n"}
    write_submission(path, files)
    before = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["CoLA.tsv", "RTE.tsv"]
        assert archive.read("RTE.tsv") == b"index\tprediction\n0\tentailment\n"
    write_submission(path, files)
    assert path.read_bytes() == before
    assert write_submission(path, dict.fromkeys(SUBMISSION_FILES, "")) == []


def test_a_file_that_is_no_submission(tmp_path):
    path = write(tmp_path / "a.zip", "text")
    assert error_of(read_submission, path).startswith(
        f"{path}: exists already and is not the zip of a submission ("
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "")
    message = f"{path}: exists already and holds 'notes.txt', which is not a file of a GLUE submission"
    assert error_of(read_submission, path) == message
