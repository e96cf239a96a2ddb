"""A file or a folder that is given in the place of another kind: what it is, and where the one that
was meant most likely lies.

This is asked only after a reader has failed, or of a document that it has read: it looks at names
of keys, at first bytes and at what lies in a folder, and judges nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfx.core.bounded import read_json, read_text
from rfx.core.errors import UsageError, UserError
from rfx.core.home import at_home
from rfx.core.signs import UNKNOWN, head_of, refusal, saved_instead, sign_of

EVIDENCE, PLAN, MANIFEST, TABLE, SWEEP = "evidence", "plan", "manifest", "table", "sweep"
SHAPES, FACTS, RECIPE, CONFIG, EXAMPLES = "shapes", "facts", "recipe", "config", "examples"
OUTPUT, SWEEPS, REPORTS, MODEL = "output", "sweep folder", "reports", "model"
ONNX, KEY, WEIGHTS, TOKENIZER = "onnx", "key", "weights", "tokenizer"
INDEX, ARTEFACT, LINES = "weights index", "artefact", "lines"
_MOST_MB = 64

# Of each kind: what it is, with its article, and what takes it.
_SAID: dict[str, tuple[str, str]] = {
    EVIDENCE: ("the evidence of an rfx output", "`rfx gate` judges evidence"),
    PLAN: ("the plan of an rfx output", "a plan is read with its output: `rfx verify OUTPUT`"),
    MANIFEST: ("the list of files of an rfx output", "`rfx verify` takes the output's folder"),
    TABLE: ("a latency table", "a latency table is given with --table"),
    SWEEP: ("the result of `rfx sweep`", "sweep.html shows it"),
    SHAPES: ("a file of `rfx shapes`", "it is for the board: `python -m rfx.board profile`"),
    FACTS: ("the facts of an engine of `rfx build`", "they lie beside the engine and stay there"),
    RECIPE: ("a recipe", "a recipe is the first argument of prune-export, plan and sweep"),
    CONFIG: ("the configuration of a model", "a model is given by its folder"),
    EXAMPLES: ("a file of examples", "examples are given with --train and --eval"),
    LINES: ("a file of JSON lines, as examples are", "examples are given with --train and --eval"),
    OUTPUT: ("an output folder of rfx", "`rfx verify` and `rfx gate` take such a folder"),
    SWEEPS: ("the folder of a sweep", "sweep.html in it shows the curve"),
    REPORTS: ("a folder of reports of `rfx verify`", "`rfx gate` judges the evidence in it"),
    MODEL: ("the folder of a model", "a model is the first argument of prune-export and plan"),
    ONNX: ("an ONNX file", "ONNX files are given to `rfx build` and to --onnx of `rfx verify`"),
    KEY: ("a key", "keys are given with --sign and --verify-key"),
    WEIGHTS: (
        "the weights of a model",
        "a model is given by its folder, in which config.json and the tokenizer lie too",
    ),
    TOKENIZER: ("the tokenizer of a model", "a model is given by its folder"),
    INDEX: ("the index of a model's weights", "a model is given by its folder"),
    ARTEFACT: ("the list of graphs of an rfx output", "`rfx verify` takes the output's folder"),
}
# What is asked for, with its article.
_WANTED = {
    EVIDENCE: "evidence",
    TABLE: "a latency table",
    RECIPE: "a recipe",
    EXAMPLES: "a file of examples",
    OUTPUT: "an output folder of rfx prune-export",
    MODEL: "a model",
    ONNX: "an ONNX file",
    KEY: "a key",
    SHAPES: "a file of `rfx shapes`",
    SWEEP: "the result of `rfx sweep`",
}
# The same with where it comes from.
_ALLOWED = {
    EVIDENCE: "evidence.json, or an output folder of rfx prune-export",
    TABLE: "a JSON file of `rfx profile --out`",
    RECIPE: "a YAML or JSON file with the keys of a recipe, or the name of one that comes with rfx",
    MODEL: "a folder with config.json and model.safetensors, or a hub name",
    ONNX: "an ONNX file, e.g. model.onnx of an output of prune-export",
    SHAPES: "a JSON file of `rfx shapes`",
    SWEEP: "sweep.json, or an output folder of rfx sweep",
}
# Keys that the documents of each kind have. The first kind of which all are there is taken.
_DOCUMENTS: tuple[tuple[str, frozenset[str]], ...] = (
    (EVIDENCE, frozenset({"schema_version", "gates", "recipe", "plan"})),
    (SWEEP, frozenset({"schema_version", "points", "budget", "recipe"})),
    (TABLE, frozenset({"schema_version", "key", "costs_ms"})),
    (SHAPES, frozenset({"schema_version", "kind", "graphs", "weights"})),
    (ARTEFACT, frozenset({"schema_version", "graphs", "metadata"})),
    (MANIFEST, frozenset({"schema_version", "kind", "tool", "files"})),
    (FACTS, frozenset({"compute_capabilities", "onnx_sha256"})),
    (PLAN, frozenset({"schema_version", "hash", "sites"})),
    (CONFIG, frozenset({"model_type"})),
    (CONFIG, frozenset({"architectures"})),
    (TOKENIZER, frozenset({"added_tokens", "pre_tokenizer"})),
    (TOKENIZER, frozenset({"tokenizer_class"})),
    (INDEX, frozenset({"weight_map"})),
)
# Keys of a recipe, of this version and of the first one; two of them make a recipe, or one section.
_SECTIONS = frozenset({"budget", "workload", "limits", "calibration", "engine", "conditions"})
_RECIPE = _SECTIONS | frozenset(
    {"name", "model", "task", "metric", "max_length", "data", "target", "method", "seed"}
)
_TEXTS = frozenset({"name", "model", "task", "metric", "target"})  # of these, values are texts
_TOP = re.compile(r"^([a-z_]+)[ \t]*:(?=[ \t\r\n]|$)", re.M)


@dataclass(frozen=True)
class Found:
    """What something is.

    Args:
        kind: one of the kinds above, or that of a sign.
        said: the same for a message, with its article.
        belongs: what takes it, or what gives the file that was meant.
    """

    kind: str
    said: str
    belongs: str


def _known(kind: str) -> Found:
    return Found(kind, *_SAID[kind])


def of_document(data: object) -> Found | None:
    """What a JSON document is, by its keys; None where it is none of those that rfx or transformers
    writes."""
    if not isinstance(data, Mapping):
        return None
    keys = {k for k in data if isinstance(k, str)}
    for kind, needed in _DOCUMENTS:
        if needed <= keys:
            return _known(kind)
    # A file of examples may have columns of these names.
    plain = all(isinstance(data[k], (str, type(None))) for k in keys & _TEXTS)
    if not plain or isinstance(data.get("data"), list):
        return None
    return _known(RECIPE) if _of_a_recipe(keys) else None


def _of_a_recipe(keys: set[str]) -> bool:
    return bool(keys & _SECTIONS and len(keys & _RECIPE) > 1) or len(keys & _RECIPE) > 2


def recognised(path: Path) -> Found | None:
    """What a file or a folder is; None where nothing says so, or where nothing is there."""
    try:
        if path.is_dir():
            return _of_folder(path)
        head = head_of(path)
        if not head:
            return None
    except (OSError, ValueError):  # a name that is too long, or that holds a NUL character
        return None
    sign = sign_of(head)
    if sign is not None:
        if sign.kind in ("safetensors", "torch", "gguf"):
            return Found(WEIGHTS, sign.said, _SAID[WEIGHTS][1])
        return _known(sign.kind) if sign.kind in _SAID else Found(sign.kind, sign.said, "")
    return _of_text(path, head)


def _of_folder(folder: Path) -> Found | None:
    if (folder / "sweep.json").is_file():
        return _known(SWEEPS)
    if (folder / "evidence.json").is_file():
        whole = (folder / "plan.json").is_file() or (folder / "model").is_dir()
        return _known(OUTPUT if whole else REPORTS)
    return _known(MODEL) if (folder / "config.json").is_file() else None


def _of_text(path: Path, head: bytes) -> Found | None:
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv", ".jsonl"):
        return _known(EXAMPLES)
    try:
        if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
            return _of_json(path)
        if suffix in (".yaml", ".yml"):
            text = read_text(path, what="recipe", most_mb=1)
            return _known(RECIPE) if _of_a_recipe(set(_TOP.findall(text))) else None
    except UserError:
        return None
    return None


def _of_json(path: Path) -> Found | None:
    try:
        data: Any = read_json(path, what="file", most_mb=_MOST_MB)
    except UsageError:
        with path.open("rb") as stream:  # lines of JSON are no JSON
            line = stream.readline(1 << 20)
        return _known(LINES) if line.rstrip().endswith(b"}") else None
    if isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
        return _known(EXAMPLES)
    return of_document(data)


@contextmanager
def told_apart(path: str | Path, *wanted: str) -> Iterator[None]:
    """Whatever is wrong with a file or a folder, it is said first if it is of another kind.

    Args:
        wanted: the kinds that are right; the first one is asked for in the message.

    Raises:
        UsageError: naming what it is, and where the right one lies where that is known.
    """
    try:
        yield
    except UserError as error:
        place = _place(path)
        found = None if place is None else recognised(place)
        if place is None or found is None or found.kind in wanted:
            raise
        raise other_kind(found, place, wanted[0], error.allowed) from None


def _place(path: str | Path) -> Path | None:
    try:
        return at_home(str(path))
    except (TypeError, ValueError, RuntimeError):  # what is no path at all is said by its reader
        return None


def refuse_other(path: Path, *wanted: str) -> None:
    """As `told_apart`, before anything is read: for readers that would take another kind for their
    own.

    Raises:
        UsageError: it is of another kind.
    """
    found = recognised(path)
    if found is not None and found.kind not in wanted:
        raise other_kind(found, path, wanted[0])


def other_kind(found: Found, path: Path, wanted: str, allowed: object = None) -> UsageError:
    """The error of something that is of another kind than it should be.

    Args:
        wanted: the kind that it should be.
        allowed: the same in the words of its reader.
    """
    name, near = _WANTED.get(wanted, wanted), _near(path, wanted)
    allowed = _ALLOWED.get(wanted, allowed) or name
    if near is None and (saved := saved_instead(head_of(path))):
        return refusal(saved, path, str(allowed))
    step = f"give {near}" if near is not None else f"give {name}"
    if found.kind == OUTPUT and wanted in (MODEL, RECIPE):
        step = "give the model that this output was made from; evidence.json in it names that"
    sign = sign_of(head_of(path))
    belongs = found.belongs
    if not belongs and near is None and sign is not None and sign.next_step != UNKNOWN:
        step = sign.next_step  # the file itself is most likely the right one
    if wanted == MODEL and near is None and found.kind == WEIGHTS:
        step, belongs = belongs, ""
    return UsageError(
        f"This is {found.said}, not {name}.",
        got=str(path),
        allowed=allowed,
        next_step=f"{step}; {belongs}" if belongs else step,
    )


def _near(path: Path, wanted: str) -> Path | None:
    """What was most likely meant: of the right kind, in the same folder or in the one above."""
    folders = [path, path.parent, path.parent.parent]
    names = {
        EVIDENCE: [f / "evidence.json" for f in folders],
        OUTPUT: folders,
        ONNX: [f / "model.onnx" for f in folders],
        MODEL: [f for f in folders if (f / "config.json").is_file()],
        TABLE: [f / "table.json" for f in folders],
        SWEEP: [f / "sweep.json" for f in folders],
    }
    for place in names.get(wanted, []):
        found = recognised(place)
        if found is not None and found.kind == wanted and place != path:
            return place
    return None
