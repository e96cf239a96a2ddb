"""Files of examples that are otherwise than their names say, two files that do not go together, and
encodings that are none of those that are certain."""

import bz2
import gzip
import json

import pandas
import pyarrow
import pyarrow.parquet
import pytest

from rfx.core.errors import UsageError
from rfx.tasks.data import load_examples
from rfx.tasks.examples import Source, read_examples
from rfx.tasks.find import task_class
from tests.conftest import sentences
from tests.conftest import tokenizer as make_tokenizer

ROWS = [{"text": "a good film", "label": 1}, {"text": "bad ü", "label": 0}]
LINES = "".join(json.dumps(r) + "\n" for r in ROWS)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("words"))


def read(tmp_path, name, data):
    file = tmp_path / name
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    said = []
    return load_examples(file, note=said.append), "; ".join(said)


def refused(tmp_path, name, data, *words):
    with pytest.raises(UsageError) as error:
        read(tmp_path, name, data)
    said = error.value.render()
    assert name in said and error.value.next_step
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    ("name", "data", "note"),
    [
        ("x.jsonl", gzip.compress(LINES.encode(), mtime=0), "compressed by gzip, though"),
        ("x.json", gzip.compress(json.dumps(ROWS).encode(), mtime=0), "compressed by gzip, though"),
        ("x.jsonl.gz", LINES, "not compressed, though"),
        ("x.jsonl", json.dumps(ROWS), "one JSON document"),
        ("x.jsonl", json.dumps(ROWS, indent=2), "one JSON document"),
        ("x.jsonl", "\n\n" + json.dumps(ROWS, indent=2) + "\n", "one JSON document"),
        ("x.jsonl", json.dumps({"train": ROWS}, indent=1), "one JSON document"),
        ("x.jsonl", "\n".join(json.dumps(r, indent=2) for r in ROWS), "several lines each"),
        ("x.jsonl", LINES, ""),
    ],
)
def test_what_is_certain_is_read_and_said(tmp_path, name, data, note):
    rows, said = read(tmp_path, name, data)
    assert rows == ROWS and (note in said if note else not said)


def test_one_example_over_several_lines_is_one(tmp_path):
    assert read(tmp_path, "x.jsonl", json.dumps(ROWS[0], indent=2))[0] == ROWS[:1]


def test_a_mistake_in_json_lines_is_still_named_by_its_line(tmp_path):
    refused(tmp_path, "x.jsonl", LINES + '{"text": "x"\n', "Line 3")
    refused(tmp_path, "x.jsonl", "[1]\n[2]\n", "Line 1")
    refused(tmp_path, "x.jsonl", "[\n" + LINES.replace("}\n", "},\n"), "JSON that rfx reads")
    refused(tmp_path, "x.jsonl", "[" * 5000, "Line 1")


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
PAGE = b"\xef\xbb\xbf\n<!DOCTYPE html>\n<html lang=en><body>Sign in</body></html>"


@pytest.mark.parametrize("kind", ["csv", "tsv", "txt", "json", "jsonl", "parquet", "csv.gz"])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (LFS, ("a pointer of Git LFS", "git lfs pull")),
        (PAGE, ("a page of HTML", "download the file itself")),
    ],
)
def test_a_pointer_or_a_page_is_named_in_every_format(tmp_path, kind, data, words):
    refused(tmp_path, f"x.{kind}", data, *words)
    if kind.endswith("gz"):
        refused(tmp_path, f"x.{kind}", gzip.compress(data), *words)


def test_a_text_may_begin_as_a_page_does(tmp_path):
    """A page goes on with another tag, a text with words."""
    texts = ["<html> is where a page begins", "<body> comes after it", "and this is plain"]
    rows, said = read(tmp_path, "x.txt", "\n".join(texts) + "\n")
    assert [row["text"] for row in rows] == texts and "page" not in said
    refused(tmp_path, "x.txt", b"<html lang=en>\n<head>\n", "a page of HTML")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x.xlsx", ("a workbook", "save what is in it")),
        ("x.csv", ("a workbook", "save what is in it")),
        ("y.csv", ("a table of Parquet", "ends in .parquet")),
        ("z.csv", ("compressed by bzip2", "bunzip2")),
        ("p.txt", ("a PDF document",)),
    ],
)
def test_other_formats_are_named_by_their_first_bytes(tmp_path, name, words):
    parquet = tmp_path / "whole"
    pandas.DataFrame(ROWS).to_parquet(parquet)
    data = {
        "x": b"PK\x03\x04" + b"\0" * 26 + b"[Content_Types].xml" + bytes(range(256)),
        "y": parquet.read_bytes(),
        "z": bz2.compress(LINES.encode()),
        "p": b"%PDF-1.7\n1 0 obj\n",
    }[name[0]]
    refused(tmp_path, name, data, *words)


def test_bytes_in_a_parquet_file_are_text_where_they_are(tmp_path):
    texts = [row["text"].encode() for row in ROWS]
    table = pyarrow.table({"text": texts, "label": [1, 0], "raw": [b"\xff", None]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    said = []
    rows = load_examples(tmp_path / "x.parquet", note=said.append)
    assert [row["text"] for row in rows] == [row["text"] for row in ROWS]
    assert rows[0]["raw"] == b"\xff" and said == [
        "x.parquet: bytes are read as text in UTF-8: text"
    ]


ENGLISH = "a plain English text that has many letters and no accents at all"


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        ("これはとても良い映画です", "shift_jis"),
        ("カタカナ", "shift_jis"),
        ("东京很好的电影", "gbk"),
        ("좋은영화", "euc_kr"),
        ("Хороший фильм", "cp1251"),
        ("Zażółć gęślą jaźń w środę", "cp1250"),
        ("Zażółć gęślą jaźń w środę", "iso8859_2"),
        ("L'été à Montréal était très bon", "mac_roman"),
        ("L'été à Montréal était très bon", "cp850"),
        ("çok güzel bir şey ağaç ışık", "cp1254"),
        ("καλή ταινία", "cp1253"),
        ("סרט טוב", "cp1255"),
    ],
)
@pytest.mark.parametrize("before", ["", f"{ENGLISH},1\n" * 20])
def test_other_encodings_are_refused_with_the_line(tmp_path, text, codec, before):
    data = f"text,label\n{before}so {text},0\n".encode(codec)
    refused(tmp_path, "x.csv", data, "UTF-8", f"line {2 + before.count(chr(10))}")


@pytest.mark.parametrize(
    "text",
    [
        "L'été à Montréal c'était très bon — « génial » et créée",
        "Große Füße über Köln kosten 5 € „schön“ und ‚ja‘",
        "¿Qué pasó? ¡Niño! 20°C y nº5 con 3½ m²",
        "Það er gott veður í dag og íþróttir eru góðar",
        "col·legi perché è già più • ok ™ ® © idee\u00ebn",
        "nãããããããão pode ser uma coisa assim tão boa",
    ],
)
def test_western_texts_are_still_read(tmp_path, text):
    rows, said = read(tmp_path, "x.csv", f"text,label\n{ENGLISH},1\n{text},0\n".encode("cp1252"))
    assert rows[1]["text"] == text and "Windows-1252" in said


def joined(tokenizer, training, judged, warned=None, **more):
    task = task_class("text-classification")(
        tokenizer, num_labels=2, id2label={0: "negative", 1: "positive"}, **more
    )
    return read_examples(
        task,
        train=Source("a", rows=tuple(training)),
        evaluation=Source("b", rows=tuple(judged)),
        count=8,
        warn=(lambda text: None) if warned is None else warned.append,
    )


def counted(rows, make):
    return [{**row, "label": make(row["label"])} for row in rows]


@pytest.mark.parametrize(
    ("training", "judged", "labels", "step"),
    [
        (lambda n: n, lambda n: n + 1, None, "subtract 1 from every label of the evaluation"),
        (lambda n: n + 1, lambda n: n, None, "subtract 1 from every label of the training"),
        (lambda n: n, lambda n: 2 * n - 1, None, "write 0 for each -1 in the labels of the eval"),
        (lambda n: 2 * n - 1, lambda n: n, None, "write 0 for each -1 in the labels of the train"),
        (lambda n: str(n), lambda n: str(n + 1), None, "subtract 1"),
    ],
)
def test_files_that_count_their_labels_differently_are_said_to(
    tokenizer, training, judged, labels, step
):
    with pytest.raises(UsageError) as error:
        joined(
            tokenizer,
            counted(sentences(40, 0), training),
            counted(sentences(40, 1), judged),
            label_names=labels,
        )
    said = error.value.render()
    assert "the two files count them differently" in said and "add --labels" not in said
    assert step in error.value.next_step


@pytest.mark.parametrize(("by", "labels"), [(1, "--labels 1,2"), (-1, "--labels=-1,1")])
def test_files_that_count_alike_are_told_of_labels(tokenizer, by, labels):
    def make(number):
        return number + 1 if by == 1 else 2 * number - 1

    with pytest.raises(UsageError) as error:
        joined(tokenizer, counted(sentences(40, 0), make), counted(sentences(40, 1), make))
    assert labels in error.value.next_step


def pairs(rows):
    return [{**row, "text_pair": "the film"} for row in rows]


def test_single_texts_and_pairs_do_not_go_together(tokenizer):
    singles = sentences(40, 0), sentences(40, 1)
    for training, judged, said in (
        (singles[0], pairs(singles[1]), "The evaluation examples are pairs"),
        (pairs(singles[0]), singles[1], "The training examples are pairs"),
    ):
        with pytest.raises(UsageError, match=said):
            joined(tokenizer, training, judged)


def test_single_texts_among_pairs_are_left_out_and_named(tokenizer):
    training = sentences(40, 0)
    warned = []
    found = joined(tokenizer, training[:3] + pairs(training[3:]), pairs(sentences(40, 1)), warned)
    assert found.skipped == 3
    assert any("rows 1, 2, 3 have no 'text_pair'" in text for text in warned)
    with pytest.raises(UsageError, match="Row 5 has no 'text_pair'"):
        mixed = sentences(40, 1)
        joined(tokenizer, pairs(training), pairs(mixed[:4]) + mixed[4:5] + pairs(mixed[5:]))
