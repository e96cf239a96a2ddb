"""Hostile inputs, made here and now: models, files of examples, recipes, documents and arguments.

Each is a command line of rfx. None of them may end in a traceback, take more than its time and
memory, or print anything but one JSON object on stdout.
"""

from __future__ import annotations

import gzip
import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RAN = "the-code-of-the-model-ran"  # the file that a model's own code would write
CODE = f"open({RAN!r}, 'w').close()\n"
LONG = "x" * 100_000
TABLE = 1  # the version of tables that rfx writes
ESCAPES = "\x1b[2J\n::error::forged\n##[error]forged"
WRITTEN = "WRITTEN"  # in arguments: a place for what a run writes


@dataclass(frozen=True)
class Case:
    """A command line that must end in a message; `kind` is what is hostile in it."""

    kind: str
    name: str
    arguments: tuple[str, ...]


def cases(folder: Path) -> Iterator[Case]:
    """Make the inputs in a folder, one after the other."""
    base = Base(folder)
    for name, damage in MODELS.items():
        yield Case("model", name, base.plan(model=base.damaged(name, damage)))
    for name, content in data().items():
        suffix = ".jsonl.gz" if isinstance(content, bytes) and content[:2] == b"\x1f\x8b" else ""
        file = base.file("data", name, content, suffix or ".jsonl")
        yield Case("examples", name, base.plan(train=file))
    yield Case("examples", "a device without end", base.plan(train="/dev/zero"))
    yield Case("examples", "a folder", base.plan(train=folder))
    for name, content in recipes().items():
        file = base.file("recipe", name, content, ".yaml")
        yield Case("recipe", name, ("plan", str(file)))
    for name, content in tables().items():
        yield Case("table", name, base.plan(table=base.file("table", name, content, ".json")))
    for name, content in evidence().items():
        yield Case("evidence", name, ("gate", str(base.file("evidence", name, content, ".json"))))
    yield Case("evidence", "a device without end", ("gate", "/dev/zero"))
    yield Case("table", "a device without end", base.plan(table="/dev/zero"))
    yield from named(base)
    for name, text in ARGUMENTS.items():
        yield Case("argument", f"{name} as a model", base.plan(model=text))
        yield Case("argument", f"{name} as evidence", ("gate", text))
        yield Case("argument", f"{name} as a target", base.plan(target=text))
        yield Case("argument", f"{name} as a number", base.plan(sequence=text))


class Base:
    """A tiny model with its examples, both sound; what is hostile is made from copies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = folder / "model"
        _make_model(self.model)
        randomly = random.Random(0)
        words = ["good", "bad", "film", "plot", "very", "quite"]
        for name in ("train", "eval"):
            rows = [
                {"text": " ".join(randomly.choices(words, k=12)), "label": i % 2} for i in range(64)
            ]
            self.file("", name, "".join(json.dumps(r) + "\n" for r in rows), ".jsonl")

    def file(self, kind: str, name: str, content: str | bytes, suffix: str) -> Path:
        data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        file = self.folder / kind / f"{name.replace(' ', '-')}{suffix}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(data)
        return file

    def plan(self, **changed: Any) -> tuple[str, ...]:
        """A search without a runtime, which reads the model and the examples and scores them."""
        options = {
            "train": self.folder / "train.jsonl",
            "eval": self.folder / "eval.jsonl",
            "task": "text-classification",
            "max-length": 32,
            "examples": 32,
            "flops": 0.5,
        }
        model = changed.pop("model", self.model)
        if {"table", "latency"} & set(changed):
            del options["flops"]
            options["latency"] = 0.7
        options |= changed
        flags = [str(part) for k, v in options.items() for part in (f"--{k}", v)]
        return ("plan", str(model), *flags)

    def damaged(self, name: str, damage: Callable[[Path], None]) -> Path:
        copy = self.folder / "models" / name.replace(" ", "-")
        shutil.copytree(self.model, copy)
        damage(copy)
        return copy


def _make_model(folder: Path) -> None:
    import torch
    import transformers

    folder.mkdir(parents=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "plot", "very"]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    tokenizer = transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    transformers.BertForSequenceClassification(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _config(**values: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / "config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps(config | values), encoding="utf-8")

    return damage


def _text(name: str, content: str | bytes) -> Callable[[Path], None]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data) and None


def _own_code(folder: Path) -> None:
    _config(
        model_type="own",
        auto_map={
            "AutoConfig": "own.OwnConfig",
            "AutoModelForSequenceClassification": "own.OwnModel",
        },
    )(folder)
    (folder / "own.py").write_text(CODE, encoding="utf-8")


def _weights(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        file = folder / "model.safetensors"
        save_file(change(load_file(file)), file, {"format": "pt"})

    return damage


def _not_numbers(state: dict[str, Any]) -> dict[str, Any]:
    import torch

    name = next(n for n in state if n.endswith("query.weight"))
    return state | {name: torch.full_like(state[name], float("nan"))}


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def _pickled(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return exec, (CODE,)

    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({**state, "more": Bomb()}, folder / "pytorch_model.bin")


MODELS: dict[str, Callable[[Path], None]] = {
    "code of its own": _own_code,
    "pickled weights that run code": _pickled,
    "a configuration that is no JSON": _text("config.json", "{"),
    "a configuration nested 100000 deep": _text("config.json", "[" * 100_000),
    "an empty configuration": _text("config.json", ""),
    "100 million labels": _config(num_labels=10**8),
    "a million layers": _config(num_hidden_layers=10**6),
    "no heads": _config(num_attention_heads=0),
    "an unknown activation": _config(hidden_act="\x1b[2Jnonsense"),
    "sizes that are texts": _config(hidden_size="thirty-two"),
    "a tuple for an answer": _config(return_dict=False),
    "chunked feed-forward": _config(chunk_size_feed_forward=3),
    "weights that are cut off": _cut,
    "weights that are no numbers": _weights(_not_numbers),
    "weights with a prefix": _weights(lambda s: {f"module.{k}": v for k, v in s.items()}),
    "weights without a layer": _weights(lambda s: {k: v for k, v in s.items() if ".0." not in k}),
    "a tokenizer that is no JSON": _text("tokenizer.json", "{"),
    "nothing but a configuration": lambda f: (f / "model.safetensors").unlink(),
}


def data() -> dict[str, str | bytes]:
    """Files of examples."""

    def rows(**changed: Any) -> str:
        row = {"text": "good film", "label": 0} | changed
        return "".join(json.dumps(row | {"n": i}) + "\n" for i in range(64))

    zipped = gzip.compress(rows().encode() * 50)
    return {
        "empty": "",
        "random bytes": random.Random(0).randbytes(100_000),
        "a gzip bomb of 600 MB": gzip.compress(bytes(600 << 20), compresslevel=1),
        "a gzip file that is cut off": zipped[: len(zipped) // 2],
        "a gzip file with a wrong byte": zipped[:200] + b"\x00\xff\x00" + zipped[203:],
        "lines nested 100000 deep": "[" * 100_000 + "\n",
        "an integer of 5000 digits": rows().replace('"label": 0', '"label": ' + "9" * 5000),
        "lone surrogates": rows(text="good \ud800 film"),
        "lists as texts": rows(text=["good", "film"]),
        "mappings as texts": rows(text={"good": "film"}),
        "escape sequences as labels": rows(label="\x1b[2J\n::error::forged"),
        "labels of a megabyte": rows(label="x" * 20_000),
        "labels out of range": rows(label=7),
        "labels that are no numbers": rows(label=float("nan")),
        "columns of other names": rows().replace('"text"', '"\\u001b[31m"'),
        "one row": '{"text": "good", "label": 1}\n',
        "NUL bytes": rows(text="good\0film").replace("\\u0000", "\0"),
    }


def recipes() -> dict[str, str | bytes]:
    """Recipes."""
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]\n" for i in range(1, 12))
    return {
        "an alias bomb": "l0: &l0 [x]\n" + levels,
        "nested 50000 deep": "model: " + "[" * 50_000,
        "a tag of Python": "model: !!python/object/apply:os.system ['true']\n",
        "random bytes": random.Random(1).randbytes(10_000),
        "empty": "",
        "a list": "- model\n",
        "a megabyte for a number": "budget:\n  latency: " + "9" * 1_000_000 + "\n",
        "keys with escape sequences": '"\\e[2J\\n::error::forged": 1\n',
        "itself": "model: &a [*a]\n",
    }


def tables() -> dict[str, str | bytes]:
    """Latency tables. Those that are JSON objects are sound but for what their name says, so that
    the version is read and what is hostile is reached."""
    from tests.fuzz.targets import KEPT

    sound = json.loads((KEPT / "table.json").read_text(encoding="utf-8"))
    sound["schema_version"] = TABLE
    return _documents(sound) | {
        "numbers that are none": json.dumps(sound | {"fixed_ms": float("nan")}),
        "a curve without end": json.dumps(sound | {"costs_ms": {"mha": {"0": float("inf")}}}),
        "keys with escape sequences": json.dumps(
            sound | {"key": sound["key"] | {ESCAPES: 1}, "costs_ms": {ESCAPES: {"0": 1.0}}}
        ),
        "texts of a megabyte": json.dumps(sound | {"costs_ms": {"mha": {LONG * 10: LONG * 10}}}),
        "more layers than anything has": json.dumps(sound | {"layers": 10**39}),
    }


def evidence() -> dict[str, str | bytes]:
    """Evidence, the same way."""
    from tests.evidence.test_sound import honest

    sound = honest()
    return _documents(sound) | {
        "numbers that are none": json.dumps(sound | {"gates": float("inf")}),
        "a gate that is no number": json.dumps(
            sound | {"gates": [g | {"value": float("nan")} for g in sound["gates"]]}
        ),
        "keys with escape sequences": json.dumps(sound | {ESCAPES: 1}),
        "gates of escape sequences": json.dumps(
            sound | {"gates": [g | {"name": ESCAPES} for g in sound["gates"]]}
        ),
        "texts of a megabyte": json.dumps(sound | {"gates": [LONG * 10] * 5}),
    }


def _documents(sound: dict[str, Any]) -> dict[str, str | bytes]:
    return {
        "empty": "",
        "a list": "[]",
        "nested 100000 deep": "[" * 100_000 + "]" * 100_000,
        "an integer of 5000 digits": json.dumps(sound | {"more": 7}).replace(
            "7}", "9" * 5000 + "}"
        ),
        "random bytes": random.Random(2).randbytes(10_000),
        "a version of a megabyte": json.dumps(sound | {"schema_version": LONG * 10}),
        "a version of the future": json.dumps(sound | {"schema_version": 99}),
    }


def named(base: Base) -> Iterator[Case]:
    """Runs that come to their end, with escape sequences and commands of CI services in what they
    print and write."""
    from tests.evidence.test_sound import honest

    labels = base.damaged(
        "labels", _config(id2label={"0": ESCAPES, "1": "##[group]x"}, label2id={ESCAPES: 0})
    )
    yield Case("name", "labels of escape sequences, planned", base.plan(model=labels))
    run = base.plan(model=labels, target="ort", sequence=16, out=WRITTEN)[1:]
    whole = ("prune-export", *run, "--allow-weak-baseline")
    yield Case("name", "labels of escape sequences, exported", whole)
    forged = honest() | {"warnings": [ESCAPES], "tool": ESCAPES, "created": honest()["created"]}
    forged["model"] = forged["model"] | {"source": ESCAPES}
    file = str(base.file("evidence", "named", json.dumps(forged), ".json"))
    yield Case("name", "evidence of escape sequences", ("gate", file, "--junit", f"{WRITTEN}.xml"))


ARGUMENTS = {
    "a text of 100 kB": LONG,
    "an escape sequence": "\x1b[2J\n::error::forged",
    "bytes of no encoding": "half \udcff",
}
