"""The releases' files read back as literal ids, labels and parts; what is missing or bad is one line."""

from __future__ import annotations

import numpy as np
import pytest

from funnelformer.base.errors import UserError
from funnelformer.lra.arena_tasks import TASKS
from funnelformer.lra.listops import Grammar, encode, generate_distinct
from funnelformer.lra.pathfinder import PathfinderStyle, draw_images
from funnelformer.lra.readers import generate_data, read_data, write_data


def rows(examples, number=0):
    return [examples[i]["sequences"][number].tolist() for i in range(len(examples))]


def message(name, folder, length=None):
    with pytest.raises(UserError) as error:
        read_data(TASKS[name], folder, length or TASKS[name].length)
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.fixture
def reviews(tmp_path):
    for part in ("train", "test"):
        for name, text in (("neg", b"bad"), ("pos", b"g\x00\xff od")):
            folder = tmp_path / "aclImdb" / part / name
            folder.mkdir(parents=True)
            (folder / "0_1.txt").write_bytes(text + part.encode())
    return tmp_path


def test_text(reviews):
    """Bytes plus 1, cut at the length; the test part validates."""
    data = read_data(TASKS["text"], reviews, 5)
    assert rows(data.train) == [[99, 98, 101, 117, 115], [104, 1, 256, 33, 112]]
    assert data.train.labels.tolist() == [0, 1]
    assert data.test is data.validation
    assert data.notes == ("4 sequences exceed 5 tokens and were cut",)
    assert read_data(TASKS["text"], reviews / "aclImdb", 4000).notes == ()


def test_text_files_that_are_missing(reviews):
    (reviews / "aclImdb" / "test" / "pos" / "0_1.txt").unlink()
    text = message("text", reviews)
    assert text.startswith(
        f"{reviews / 'aclImdb/test/pos'}: holds no .txt file; needed: aclImdb_v1.tar.gz from"
    )
    (reviews / "aclImdb" / "test" / "pos").rmdir()
    assert message("text", reviews).startswith(
        f"{reviews / 'aclImdb/test/pos'}: no such file or folder; needed"
    )
    assert message("text", reviews / "x").startswith(
        f"{reviews / 'x'}: no such folder; needed: aclImdb_v1.tar.gz"
    )


@pytest.fixture
def papers(tmp_path):
    for part in ("train", "eval", "test"):
        lines = b"1.0\tA\tB\tab\tc" + part.encode() + b"\n0\tC\tD\t\xff\tdd\r\n"
        (tmp_path / f"new_aan_pairs.{part}.tsv").write_bytes(lines)
    return tmp_path


def test_retrieval(papers):
    data = read_data(TASKS["retrieval"], papers, 3)
    assert rows(data.train, 0) == [[98, 99], [256]]
    assert rows(data.train, 1) == [[100, 117, 115], [101, 101]]
    assert rows(data.validation, 1)[0] == [100, 102, 119]
    assert data.test.labels.tolist() == [1, 0]
    assert data.notes == ("3 sequences exceed 3 tokens and were cut",)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"1\tA\tB\tab", "has 4 columns; allowed: 5 (label, two ids, two texts, tabs between)"),
        (b"2\tA\tB\tab\tc", ": the label is b'2'; allowed: 0, 1, 0.0, 1.0"),
        (b"1\tA\tB\t\tc", ": one of the texts is empty"),
    ],
)
def test_bad_rows_of_retrieval(papers, line, text):
    file = papers / "new_aan_pairs.eval.tsv"
    file.write_bytes(file.read_bytes() + line + b"\n")
    assert message("retrieval", papers) == f"{file}: line 3{'' if text[0] == ':' else ' '}{text}"


def test_a_part_of_retrieval_is_missing(papers):
    (papers / "new_aan_pairs.test.tsv").unlink()
    assert message("retrieval", papers) == (
        f"{papers / 'new_aan_pairs.test.tsv'}: no such file or folder; needed: new_aan_pairs.train.tsv, .eval.tsv and "
        ".test.tsv of tsv_data in lra_release.gz, linked at github.com/google-research/long-range-arena"
    )


@pytest.fixture
def pictures(tmp_path):
    """Five files of four images each: image i of file f is class (4 f + i) % 10, all of one colour."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (10, 20, 30)]
    for file in range(6):
        name = f"data_batch_{file + 1}.bin" if file < 5 else "test_batch.bin"
        records = [
            bytes([(4 * file + i) % 10]) + b"".join(bytes([value]) * 1024 for value in colour)
            for i, colour in enumerate(colours)
        ]
        (folder / name).write_bytes(b"".join(records))
    return tmp_path


def test_image(pictures):
    """Grey values by hand: 76.245, 149.685, 29.07 and 2.99 + 11.74 + 3.42 = 18.15; the last tenth validates."""
    data = read_data(TASKS["image"], pictures, 1024)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [18, 2, 4]
    greys = [set(row) for row in rows(data.test)]
    assert greys == [{76}, {150}, {29}, {18}]
    assert data.train.labels.tolist() == [i % 10 for i in range(18)]
    assert data.validation.labels.tolist() == [8, 9]
    assert all(len(row) == 1024 for row in rows(data.train))


def test_image_keeps_rows_of_pixels_in_order(pictures):
    file = pictures / "cifar-10-batches-bin" / "test_batch.bin"
    ramp = bytes(range(256)) * 4
    file.write_bytes(bytes([3]) + ramp * 3)
    data = read_data(TASKS["image"], pictures, 1024)
    assert rows(data.test)[0] == list(ramp)


def test_bad_images(pictures):
    folder = pictures / "cifar-10-batches-bin"
    file = folder / "data_batch_2.bin"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    assert message("image", pictures) == f"{file}: has 12,291 bytes, not a multiple of the 3,073 of an image"
    file.write_bytes(content[:3073] + bytes([10]) + content[3074:])
    assert message("image", pictures) == f"{file}: image 2 has class 10; allowed: 0 to 9"
    file.unlink()
    assert message("image", pictures).startswith(
        f"{file}: no such file or folder; needed: cifar-10-binary.tar.gz"
    )
    assert message("image", pictures, 100) == "--length 100: the images of Image have 1024 pixels"


def test_pickles_are_not_opened(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"\x80\x04.")
    text = message("image", tmp_path)
    assert text.startswith(
        f"{tmp_path}: holds CIFAR-10's Python version, pickles that are not opened here; needed: "
    )
    assert "cifar-10-binary.tar.gz" in text


def test_listops_written_and_read(tmp_path):
    write_data("listops", out=tmp_path / "data", count=[20, 3, 4], length=40, seed=2)
    samples = generate_distinct(Grammar(min_length=10, max_length=40), 2, 27)
    data = read_data(TASKS["listops"], tmp_path / "data", 2000)
    everything = rows(data.train) + rows(data.validation) + rows(data.test)
    assert everything == [encode(sample.source).tolist() for sample in samples]
    assert data.test.labels.tolist() == [sample.target for sample in samples[23:]]
    cut = read_data(TASKS["listops"], tmp_path / "data", 12)
    assert max(map(len, rows(cut.train))) == 12
    assert cut.notes[0].endswith("sequences exceed 12 tokens and were cut")
    (tmp_path / "data" / "basic_val.tsv").unlink()
    text = message("listops", tmp_path / "data")
    assert text.startswith(
        f"{tmp_path / 'data/basic_val.tsv'}: no such file or folder; needed: basic_train.tsv"
    )
    assert text.endswith("or make data with `funnelformer lra generate listops --out FOLDER`")


def test_listops_generated():
    """The same samples as in files of the same seed; a tenth more each to validate and to test."""
    data = generate_data(TASKS["listops"], 20, 40, seed=2)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [20, 2, 2]
    samples = generate_distinct(Grammar(min_length=10, max_length=40), 2, 24)
    assert rows(data.test) == [encode(sample.source).tolist() for sample in samples[22:]]


def test_pathfinder_written_and_read(tmp_path):
    """Split 8 : 1 : 1 after a shuffle that is always the same, without loss."""
    write_data("pathfinder", out=tmp_path / "pathfinder32" / "curv_contour_length_14", count=[20], seed=4)
    data = read_data(TASKS["pathfinder"], tmp_path, 1024)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [16, 2, 2]
    images, labels = draw_images(20, 4, PathfinderStyle())
    expected = sorted(zip(images.reshape(20, -1).tolist(), labels.tolist(), strict=True))
    parts = (data.train, data.validation, data.test)
    found = [pair for part in parts for pair in zip(rows(part), part.labels.tolist(), strict=True)]
    assert sorted(found) == expected
    again = read_data(TASKS["pathfinder"], tmp_path, 1024)
    assert rows(again.test) == rows(data.test)
    text = message("path-x", tmp_path)
    assert text.startswith(f"{tmp_path / 'metadata'}: no such file or folder; needed: pathfinder128/")


def test_pathfinder_generated():
    data = generate_data(TASKS["pathfinder"], 10, 256, seed=1)
    images, labels = draw_images(12, 1, PathfinderStyle(size=16))
    assert np.array_equal(rows(data.train), images[:10].reshape(10, -1))
    assert data.test.labels.tolist() == [labels[11]]
    with pytest.raises(UserError, match="1000; allowed for Pathfinder: a square, as 1024 for 32 x 32 pixels"):
        generate_data(TASKS["pathfinder"], 10, 1000, seed=1)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ("text", [5], None),
            "Text cannot be generated, only listops, pathfinder, path-x; needed: aclImdb_v1",
        ),
        (("listops", [5, 5], None), "--count has 2 numbers; allowed: 1 or 3 (train, validation, test)"),
        (("listops", [0], None), "--count is 0; allowed: 1 or more"),
        (("listops", [5], 15), "--length is 15; allowed for ListOps: 16 or more"),
        (
            ("pathfinder", [5], 256),
            "--length is 256; allowed for Pathfinder: 1024, which its runs read",
        ),
        (("pathfinder", [5, 1, 1], None), "--count has 3 numbers; Pathfinder takes one, of all its images"),
        (("listop", [5], None), "no task 'listop'; known: listops, text"),
    ],
)
def test_what_cannot_be_written(tmp_path, arguments, text):
    name, counts, length = arguments
    with pytest.raises(UserError) as error:
        write_data(name, out=tmp_path / "out", count=counts, length=length)
    assert str(error.value).startswith(text)
    assert not (tmp_path / "out").exists()
