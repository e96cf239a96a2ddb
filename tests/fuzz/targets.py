"""What fuzzers feed: each target takes bytes and gives them to one reader of users' documents. The
only exception that may come out of a reader is a `UserError`."""

from __future__ import annotations

import json
import random
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rfx.core import migrate
from rfx.core.bounded import parse_json
from rfx.core.errors import UserError
from rfx.core.plan import Plan
from rfx.cost.bundle import Bundle
from rfx.cost.table_file import read_table
from rfx.evidence.read import read_curve, read_evidence
from rfx.recipe.read import make_recipe, read_recipe
from rfx.tasks.data import load_examples
from tests.evidences import make_evidence

KEPT = Path(__file__).parents[1] / "golden" / "schema1"
Target = Callable[[bytes, Path], object]


def rows(suffix: str) -> Target:
    def read(data: bytes, folder: Path) -> object:
        file = folder / f"x{suffix}"
        file.write_bytes(data)
        return load_examples(file, max_mb=8)

    return read


def document(name: str, reader: Callable[[Path], object]) -> Target:
    def read(data: bytes, folder: Path) -> object:
        file = folder / name
        file.write_bytes(data)
        return reader(file)

    return read


def plan(data: bytes, folder: Path) -> object:
    found = parse_json(data.decode("utf-8", "replace"), what="plan")
    if isinstance(found, dict):
        found = migrate.plan(found)
    return Plan.from_json(found)


def nested(data: bytes, folder: Path) -> object:
    """A recipe as nested data, as Python code gives it."""
    return make_recipe(parse_json(data.decode("utf-8", "replace"), what="recipe"))


TARGETS: dict[str, Target] = {
    "csv": rows(".csv"),
    "tsv": rows(".tsv"),
    "txt": rows(".txt"),
    "jsonl": rows(".jsonl"),
    "json": rows(".json"),
    "csv.gz": rows(".csv.gz"),
    "parquet": rows(".parquet"),
    "recipe": document("r.yaml", read_recipe),
    "nested recipe": nested,
    "table": document("t.json", read_table),
    "plan": plan,
    "evidence": document("evidence.json", read_evidence),
    "sweep": document("sweep.json", read_curve),
    "shapes": document("shapes.json", Bundle),
}


def fed(name: str, data: bytes) -> bool:
    """Give bytes to a target: whether it read them. Anything but a `UserError` goes through."""
    with tempfile.TemporaryDirectory(prefix="rfx-fuzz-") as folder:
        try:
            TARGETS[name](data, Path(folder))
        except UserError as error:
            said = error.render()
            assert len(said) < 20_000, f"a message of {len(said)} characters"
            assert not re.search(r"\b(NoneType|KeyError|TypeError|AttributeError)\b", said), said
            return False
    return True


def seeds(name: str) -> list[bytes]:
    """Sound documents of a target, to start from."""
    table = [{"text": 'a "good", film', "label": 1}, {"text": "bad\n", "label": None}]
    lines = "".join(json.dumps(r) + "\n" for r in table)
    now = make_evidence().model_dump_json().encode()  # of this version; what is kept is older
    separated = 'text,label\n"a ""good"", film",1\nbad,0\n'
    if name == "parquet":
        return [_parquet(table)]
    if name == "csv.gz":
        import gzip

        return [gzip.compress(separated.encode(), mtime=0)]
    return {
        "csv": [separated.encode(), separated.replace(",", ";").encode("utf-16"), b"sep=;\na;b\n"],
        "tsv": [b'text\tlabel\n"a good film"\t1\nbad\t0\n', b"gj04\t1\t\tA sentence.\n" * 3],
        "txt": [b"a\nb\n", "ein schöner Film\n".encode("latin-1")],
        "jsonl": [lines.encode()],
        "json": [
            json.dumps(table).encode(),
            json.dumps({"train": table}).encode(),
            b'{"text": {"0": "a"}, "label": {"0": 1}}',
            b'{"data": [{"paragraphs": [{"context": "c", "qas": [{"id": 1, "question": "q", '
            b'"answers": [{"text": "c", "answer_start": 0}]}]}]}]}',
        ],
        "recipe": [(KEPT / "recipe.yaml").read_bytes()],
        "nested recipe": [json.dumps(json.loads(_kept("evidence"))["recipe"]).encode()],
        "table": [_kept("table")],
        "plan": [json.dumps(json.loads(d)["plan"]).encode() for d in (_kept("evidence"), now)],
        "evidence": [_kept("evidence"), now],
        "sweep": [_kept("sweep"), _with_rival(_kept("sweep"))],
        "shapes": [(KEPT.parent / "shapes.json").read_bytes()],
    }[name]


def _with_rival(sweep: bytes) -> bytes:
    """A sweep of today, with the dense model quantized alone."""
    data = json.loads(sweep)
    dense = next(p["accuracy"]["dense"] for p in data["points"] if p["accuracy"])
    latency = {"ms": 4.0, "dense_ms": 10.0, "ratio": 0.4, "interval": [0.39, 0.41]}
    data["rival"] = {
        "precision": "int8",
        "method": "ONNX Runtime",
        "metric": dense,
        "drop": 0.0,
        "agreement": 0.98,
        "divergence": 0.002,
        "bytes": 24_000_000,
        "latency": latency,
    }
    return json.dumps(data).encode()


def _kept(name: str) -> bytes:
    return (KEPT / f"{name}.json").read_bytes()


def _parquet(table: list[dict[str, Any]]) -> bytes:
    import io

    import pyarrow
    import pyarrow.parquet

    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), stream)
    return stream.getvalue()


# Values that have broken readers: of another type, huge, deep, empty, no numbers.
STRANGE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**64,
    10**39,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x" * 5000,
    "\ud800",
    "\x1b[31m\r\n::error::",
    "²",
    [],
    [[]],
    {},
    {"": 1},
    {"a": {"b": {"c": {}}}},
    [{"name": 1}],
)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A document with something wrong in it: bytes of a file, or values and keys of JSON."""
    if chance.random() < 0.6:
        try:
            found = json.loads(data)
        except ValueError:
            pass
        else:
            for _ in range(chance.randint(1, 3)):
                found = _changed(found, chance)
            return json.dumps(found).encode()
    out = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(out) + 1)
        kind = chance.randrange(5)
        if kind == 0:
            out[at : at + chance.randint(1, 9)] = bytes([chance.randrange(256)])
        elif kind == 1:
            out[at:at] = chance.choice(_TOKENS)
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            out[at:at] = out[at : at + chance.randint(1, 200)] * chance.randint(1, 5)
        elif out:
            out[at % len(out)] ^= 1 << chance.randrange(8)
    return bytes(out)


_TOKENS = (
    b"[" * 300,
    b'{"a":' * 300,
    b"9" * 5000,
    b"\x00",
    b'"',
    b'"' + b'\\"' * 20_000,
    b"\n",
    b"\r",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"&a [*a]",
    b"*a",
    b"!!python/object:os.x ",
    b"<<: ",
    b"2023-99-99",
    b"1e999",
    b"NaN",
    b"\xed\xa0\x80",
    b",,,,",
    b"? [a]: b\n",
    b"---\n",
    b"!!binary x",
    b"!!set {a}",
    b"0x",
    b"1_0:99",
)


def _changed(found: Any, chance: random.Random) -> Any:
    """The document with one value or key, however deep, exchanged for a strange one."""
    inside = isinstance(found, (dict, list)) and found and chance.random() < 0.85
    if not inside:
        return chance.choice(STRANGE)
    if isinstance(found, list):
        at = chance.randrange(len(found))
        return [*found[:at], _changed(found[at], chance), *found[at + 1 :]]
    key = chance.choice(list(found))
    new = dict(found)
    kind = chance.random()
    if kind < 0.1:
        del new[key]
    elif kind < 0.2:
        new[str(chance.choice(STRANGE))[:50]] = new.pop(key)
    else:
        new[key] = _changed(found[key], chance)
    return new
