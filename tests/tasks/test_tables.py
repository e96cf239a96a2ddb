"""Tables and documents of examples as people have them: whatever is certain is read and said, and
the rest is refused with the way out."""

import gzip
import json

import pandas
import pyarrow
import pyarrow.parquet
import pytest

from rfx.core.errors import UsageError
from rfx.tasks.data import load_examples
from rfx.tasks.find import task_class

ROWS = [{"text": "a good, film", "label": "1"}, {"text": "bad; plot", "label": "0"}]
TEXT = 'text,label\n"a good, film",1\nbad; plot,0\n'


def read(tmp_path, name, data, **more):
    """The rows, and what was said of them."""
    file = tmp_path / name
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    said = []
    return load_examples(file, note=said.append, **more), "; ".join(said)


def refused(tmp_path, name, data, *words, **more):
    with pytest.raises(UsageError) as error:
        read(tmp_path, name, data, **more)
    said = error.value.render()
    assert name in said and error.value.next_step and len(said) < 1500
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    ("name", "data", "note"),
    [
        ("x.csv", TEXT, ""),
        ("x.csv", 'text;label\n"a good, film";1\n"bad; plot";0\n', "semicolons, not by commas"),
        ("x.csv", 'text|label\n"a good, film"|1\nbad; plot|0\n', "vertical bars"),
        ("x.csv", "text\tlabel\na good, film\t1\nbad; plot\t0\n", "tabs, not by commas"),
        ("x.tsv", TEXT, "commas, not by tabs"),
        ("x.csv", "sep=,\r\n" + TEXT, "first line says that commas"),
        ("x.csv", 'sep=;\ntext;label\na good, film;1\n"bad; plot";0\n', "says that semicolons"),
        ("x.csv", '" text ",label \n"a good, film",1\nbad; plot,0\n', ""),
        ("x.csv", ',text,label\n0,"a good, film",1\n1,bad; plot,0\n', ""),
        ("x.csv", TEXT + ",\n,\n\n", "2 empty rows at its end"),
        ("x.csv", TEXT.encode("utf-16"), "UTF-16"),
        ("x.csv", TEXT.encode("utf-32"), "UTF-32"),
        # Without a time: both processes of a suite have to collect one and the same case.
        ("x.csv.gz", gzip.compress(("\ufeff" + TEXT.replace("\n", "\r\n")).encode(), mtime=0), ""),
        ("x.json", json.dumps({"train": ROWS}), "those under 'train'"),
        ("x.json", json.dumps({"version": 1, "data": ROWS}), ""),
        ("x.json", pandas.DataFrame(ROWS).to_json(), "holds columns"),
        ("x.json", pandas.DataFrame(ROWS).to_json(orient="split"), "holds columns"),
        ("x.json", json.dumps(pandas.DataFrame(ROWS).to_dict("list")), "holds columns"),
        ("x.json", "\n".join(map(json.dumps, ROWS)), "an object a line"),
        ("x.jsonl", "\n".join(map(json.dumps, ROWS)).encode("utf-16"), "UTF-16"),
    ],
)
def test_the_same_rows_in_every_form(tmp_path, name, data, note):
    rows, said = read(tmp_path, name, data)
    assert rows == ROWS
    assert (note in said) if note else not said


def test_windows_1252_is_read_and_said_and_other_encodings_are_not_guessed(tmp_path):
    text = "text,label\nein schöner Film – “gut”,1\nun été à Paris,0\n"
    rows, said = read(tmp_path, "x.csv", text.encode("cp1252"))
    assert [r["text"] for r in rows] == ["ein schöner Film – “gut”", "un été à Paris"]
    assert "Windows-1252" in said
    refused(tmp_path, "x.csv", "text,label\nхороший фильм,1\n".encode("cp1251"), "save it as UTF-8")
    refused(tmp_path, "x.csv", "text,label\n良い映画,1\n".encode("shift-jis"), "save it as UTF-8")
    refused(tmp_path, "x.csv", b"text,label\n\xff\x00\x01,1\n", "save it as UTF-8")
    refused(tmp_path, "x.csv", b"\xff\xfex", "begins as UTF-16")
    refused(tmp_path, "x.jsonl", '{"text": "é"}'.encode("latin-1"), "save it as UTF-8")


def test_words_for_nothing_stay_the_texts_they_are(tmp_path):
    words = ["null", "NA", "nan", "None", "NULL", "N/A"]
    rows, _ = read(tmp_path, "x.csv", "text,label\n" + "".join(f"{w},0\n" for w in words))
    assert [r["text"] for r in rows] == words


def test_cola_has_no_header_and_is_known_by_its_columns(tmp_path):
    cola = "gj04\t1\t\tThey drank the pub.\ngj04\t0\t*\tThey drank the \"pub.\nc\t1\t\tIt's in.\n"
    rows, said = read(tmp_path, "x.tsv", cola)
    assert rows[1] == {
        "source": "gj04",
        "label": "0",
        "mark": "*",
        "sentence": 'They drank the "pub.',
    }
    assert len(rows) == 3 and "no header" in said and "sentence" in said
    # One row is otherwise: nothing is certain.
    refused(tmp_path, "x.tsv", cola + "c\t2\t\tIt is.\n", "no header", "They drank", "--column")


def test_a_first_line_that_is_an_example_is_no_header(tmp_path):
    lines = "a fine film,1\nbad,0\n"
    refused(tmp_path, "x.csv", lines, "no header", "a fine film,1", "text,label")
    refused(tmp_path, "x.csv", f"{'long ' * 40},good\nbad,bad\n", "no header")
    rows, _ = read(tmp_path, "x.csv", lines, named={"a fine film"})
    assert rows == [{"a fine film": "bad", "1": "0"}]
    assert read(tmp_path, "x.csv", "0,1\ngood,1\n")[0] == [{"0": "good", "1": "1"}]
    assert read(tmp_path, "x.csv", "text,2024\ngood,1\n")[0] == [{"text": "good", "2024": "1"}]


GERMAN = [
    "Ein Film, der gut ist, und lang",
    "Schlecht; sehr schlecht",
    "Gut, danke",
    "Er kostet 3,50 Euro, sagt man",
]


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
def test_one_column_of_texts_may_hold_commas(tmp_path, name):
    data = "\r\n".join(["text", *GERMAN, '"In Anführung, so"', ""]).encode()
    rows, said = read(tmp_path, name, gzip.compress(data) if name.endswith("gz") else data)
    assert [r["text"] for r in rows] == [*GERMAN, "In Anführung, so"]
    assert "the commas are part of its texts" in said


@pytest.mark.parametrize(
    "lines",
    [
        ["a good film,1", "bad,0"],  # each row has a second field
        ["a good film, really,positive", "bad, it is,negative", "so so"],  # its last is one word
        ["ein Film, der gut ist", "ein Film, der nicht gut ist"],  # each row has a comma
    ],
)
def test_one_column_that_may_be_two_is_refused_with_both_ways_out(tmp_path, lines):
    words = ("Line 2", "e.g. text,label", "in double quotes", ".txt")
    refused(tmp_path, "x.csv", "\n".join(["text", *lines]), *words)


SCHLECHT = ["Ein Film, der gut ist", "Schlecht"]


@pytest.mark.parametrize(
    ("name", "lines", "words"),
    [
        # One column, whose rows are read by a separator that nobody types.
        ("x.csv", ["text", *SCHLECHT, '"Gut", sagt er'], ("line 4", "goes on behind")),
        ("x.csv", ["text", *SCHLECHT, '"Gut, sagt er', "a"], ("line 4", "never closed")),
        ("x.csv", ["text,label", "a,1", '"b" c,0', "d,1"], ("line 3", "goes on behind")),
        ("x.csv", ["text,label", '"b,0', "c,1", "d,1"], ("line 2", "never closed")),
        ("x.csv", ['"text,label', "c,1", "d,1"], ("line 1", "never closed")),
        ("x.tsv", ['"text"\t"label"', '"a"\t"1"', '"b" c\t"0"'], ("line 3", "goes on behind")),
    ],
)
def test_broken_quotes_are_told_in_words(tmp_path, name, lines, words):
    (tmp_path / name).write_text("\n".join([*lines, ""]), encoding="utf-8")
    with pytest.raises(UsageError) as error:
        load_examples(tmp_path / name)
    said = error.value.render()
    assert all(word in said for word in (*words, '"""Good"", he said"'))
    # What separates the fields may be a sign that cannot be seen.
    assert "expected after" not in said and "x1f" not in said and "\x1f" not in said


@pytest.mark.parametrize("first", ["\n", "\r\n", "  \n", ",,\n"])
def test_an_empty_first_line_is_no_header(tmp_path, first):
    """Found by the guided fuzzer: it ended in a traceback."""
    fault = "names no columns" if "," in first else "is empty"
    refused(tmp_path, "x.csv", f"{first}text,label\na,1\n", "first line", fault, "'text,label'")
    refused(tmp_path, "x.csv", first + "p.txt;b\n", fault)
    refused(tmp_path, "x.tsv", first.replace(",", "\t") + '"a\t"', "x.tsv")
    refused(tmp_path, "x.csv", first, "no examples")


def test_what_cannot_be_certain_is_refused_with_the_way_out(tmp_path):
    for name, data, words in (
        ("x.json", json.dumps({"train": ROWS, "test": ROWS}), ("several lists", "train, test")),
        ("x.json", json.dumps(ROWS[0]), ("no list", "text, label")),
        ("x.json", json.dumps([1, ROWS[0]]), ("no list", "a number")),
        ("x.json", "null", ("no list", "nothing")),
        ("x.json", '{"a": {"0": 1}, "b": {"1": 1}}', ("no list",)),
        ("x.json", '[{"a": ' + "9" * 5000 + "}]", ("not JSON", "digits")),
        ("x.json", "[" * 100_000 + "]" * 100_000, ("not JSON", "deep")),
        ("x.jsonl", '{"a": 1}\n' + '{"a":' * 50_000, ("Line 2", "deep")),
        ("x.jsonl", '{"a": "' + "x" * 10**6, ("Line 1",)),
        ("x.csv", ",".join(f"c{i}" for i in range(10**6)) + "\n1\n", ("too many columns",)),
        ("x.csv", "t" * 10**6 + ",label\n" + "x," * 10**5 + "\n", ("fields where",)),
        ("x.csv.gz", gzip.compress(TEXT.encode())[:-9], ("cut off",)),
        ("x.csv.gz", b"\x1f\x8c" + gzip.compress(TEXT.encode())[2:], ("no sound gzip file",)),
        ("x.jsonl.gz", gzip.compress(b"\0" * (3 << 20)), ("unpacked", "--max-data-mb")),
        ("x.csv", TEXT * 100_000, ("3.8 MB", "at most 2 MB", "--max-data-mb", "--max-data-mb 4")),
    ):
        refused(tmp_path, name, data, *words, max_mb=2 if "--max-data-mb" in words else 64)


def test_columns_of_parquet_are_plain_values(tmp_path):
    frame = pandas.DataFrame(
        {
            "text": pandas.Series(["a", "b"], dtype="category"),
            "label": pandas.Series([1, None], dtype="Int64"),
            "truth": [True, False],
            "tags": [[1, 2], [3]],
        }
    )
    frame.index = ["x", "y"]
    frame.to_parquet(tmp_path / "x.parquet")
    assert load_examples(tmp_path / "x.parquet") == [
        {"text": "a", "label": 1, "truth": True, "tags": [1, 2]},
        {"text": "b", "label": None, "truth": False, "tags": [3]},
    ]


def test_a_small_parquet_that_unpacks_to_much_is_refused(tmp_path):
    file = tmp_path / "x.parquet"
    table = pyarrow.table({"text": pyarrow.array(["x" * 1000] * 20_000).dictionary_encode()})
    pyarrow.parquet.write_table(table, file)
    assert file.stat().st_size < 20_000
    with pytest.raises(UsageError, match="too large") as error:
        load_examples(file, max_mb=0.1)
    assert "--max-data-mb" in error.value.next_step
    for cut in (10, 100, -4):
        file.write_bytes(file.read_bytes()[:cut])
        with pytest.raises(UsageError, match="cannot be read"):
            load_examples(file)


@pytest.mark.parametrize("source", [None, 7, "", b"x.csv", ["x.csv"], "a\0b.csv"])
def test_what_is_no_path_is_said_to_be_none(source):
    with pytest.raises(UsageError, match="needs a path") as error:
        load_examples(source)
    assert error.value.next_step and "NoneType" not in error.value.render()


def test_devices_and_names_that_are_too_long_are_refused(tmp_path):
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    (tmp_path / "folder.csv").mkdir()
    for source, said in (
        ("/dev/zero", "a device"),
        (tmp_path / "zero.csv", "a device"),
        (tmp_path / "folder.csv", "a folder"),
        ("n" * 5000, "does not exist"),
        ("/" + "n" * 5000 + ".csv", "does not exist"),
    ):
        with pytest.raises(UsageError, match=said) as error:
            load_examples(source)
        assert len(error.value.render()) < 1000


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("text,label\nein schöner Film über café,1\nnaïf,0\nune idée", 1),
        ("text,label\ngood,1\ncosts 5 €", 1),
        ("text,label\nschön,1\ncosts 5 €", 2),
        ("text,label\nschön,1\nfine 🎬", 3),
    ],
)
@pytest.mark.parametrize("name", ["x.csv", "x.txt", "x.csv.gz"])
def test_a_utf_8_file_that_is_cut_within_a_character_is_no_windows_1252(tmp_path, name, text, cut):
    data = text.rstrip("e").encode()[: -cut or None]
    zipped = gzip.compress(data) if name.endswith(".gz") else data
    refused(tmp_path, name, zipped, "copy the file again")
    with pytest.raises(UsageError, match="cannot be read as UTF-8") as error:
        load_examples(tmp_path / name)
    start = len(data.decode("utf-8", errors="ignore").encode())
    assert f"at byte {start}" in error.value.got


def test_a_utf_8_file_with_a_damaged_byte_is_refused(tmp_path):
    data = "text,label\nschöner Film,1\nüber naïf,0\n".encode().replace(b"Film", b"F\xe9lm")
    refused(tmp_path, "x.csv", data, "mend that byte")
    rows, _ = read(tmp_path, "x.csv", "text,label\n«CAFÉ» bon,1\ncafé,0".encode("cp1252"))
    assert rows[0]["text"] == "«CAFÉ» bon"  # two of its bytes are UTF-8 by chance
    rows, _ = read(tmp_path, "x.txt", b"the good caf\xe9")
    assert rows[0]["text"] == "the good café"


def _parquet(file, table, features):
    said = features if isinstance(features, bytes) else json.dumps({"info": {"features": features}})
    table = pyarrow.table(table).replace_schema_metadata({"huggingface": said})
    pyarrow.parquet.write_table(table, file)
    return load_examples(file)


def test_the_class_names_of_a_datasets_parquet_file_are_read(tmp_path):
    file = tmp_path / "x.parquet"
    label = {"names": ["positive", "negative"], "_type": "ClassLabel"}
    rows = _parquet(file, {"text": ["a", "b"], "label": [0, 1]}, {"label": label, "text": {}})
    task = task_class("text-classification")(
        None, num_labels=2, id2label={0: "negative", 1: "positive"}
    )
    assert [e.label for e in task.examples(rows)] == [1, 0]
    assert task.mapping == {"0": "positive", "1": "negative"}
    for several in ({"feature": label, "_type": "Sequence"}, [label]):
        table = {"tokens": [["a", "b"]], "ner_tags": [[0, 1]]}
        (row,) = _parquet(file, table, {"ner_tags": several})
        assert row["__names__"] == {"ner_tags": ["positive", "negative"]}


@pytest.mark.parametrize(
    "said",
    [b"", b"{", b"\xff", b"[]", b"null", b'{"info": 3}', b'{"info": {"features": []}}']
    + [
        {"label": f}
        for f in (None, 3, [], [3], {"names": 5, "_type": "ClassLabel"}, {"feature": 3})
    ]
    + [{"label": {"names": ["a", 1], "_type": "ClassLabel"}}],
)
def test_metadata_that_name_no_classes_are_left_alone(tmp_path, said):
    rows = _parquet(tmp_path / "x.parquet", {"text": ["a"], "label": [0], "__names__": [7]}, said)
    assert rows == [{"text": "a", "label": 0}]
