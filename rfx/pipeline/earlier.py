"""What versions of rfx without a manifest wrote into an output, and what `rfx build` puts beside a
model: told from a stranger's files by what is in them, not by their names alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from rfx.core.bounded import read_json
from rfx.core.errors import UsageError
from rfx.core.files import file_hash
from rfx.evidence.read import read_curve, read_evidence
from rfx.evidence.report.curve import FILES as CURVE_FILES
from rfx.evidence.report.write import files as every_report
from rfx.export.triton import MARK, PLATFORMS
from rfx.runtimes.find import engine_files

FACTS = ".json"  # follows the name of an engine file
_SERVED = tuple(file for _, file in PLATFORMS.values())  # in a Triton repository
_PLAIN = ("plan.json", "artefact.json", "update.safetensors", "parity.sh", "parity.inputs.json")
_HEAD = 4096  # bytes of a text in which it says what it is

# How a report of rfx begins, within its first bytes.
_MARKS: dict[str, bytes] = {
    "report.html": b"<title>rfx",
    "sweep.html": b"<title>rfx sweep",
    "summary.md": b"## rfx: ",
    "README.md": b"library_name: rfx",
    "junit.xml": b'name="rfx ',
    "recipe.yaml": b"# The recommended point of a sweep, rfx",
    "sweep.csv": b"target,seed,latency_ratio",
    "sweep.svg": b"<svg",
}


def output_files(folder: Path) -> dict[str, str]:
    """The files of an output that rfx wrote and nobody has changed, each with its hash: those that
    the evidence names, of kinds that rfx writes, and the reports. None where there is no
    evidence."""
    try:
        recorded = read_evidence(folder).files
    except UsageError:
        return {}
    ours = {n: h for n, h in recorded.items() if _is_ours(folder, PurePosixPath(n))}
    reports = _marked(folder, {*every_report()} - {"evidence.json"})
    return {**ours, **reports, **built_files(folder), **_hashed(folder, ["evidence.json"])}


def report_files(folder: Path) -> dict[str, str]:
    """Those of a folder of reports alone."""
    try:
        read_evidence(folder)
    except UsageError:
        return {}
    names = {*every_report()} - {"evidence.json"}
    return {**_marked(folder, names), **_hashed(folder, ["evidence.json"])}


def sweep_files(folder: Path) -> dict[str, str]:
    """Those of a sweep."""
    try:
        read_curve(folder)
    except UsageError:
        return {}
    names = {*CURVE_FILES} - {"sweep.json"}
    return {**_marked(folder, names), **_hashed(folder, ["sweep.json"])}


def built_files(folder: Path) -> dict[str, str]:
    """Engine files in a folder, however deep, with the facts beside them that hold their hash. The
    engine that Triton serves is one of them."""
    found: dict[str, str] = {}
    if not folder.is_dir():
        return found
    for facts in sorted(folder.rglob(f"*{FACTS}")):
        engine = facts.with_name(facts.name.removesuffix(FACTS))
        if is_built(engine):
            beside = [engine.relative_to(folder), facts.relative_to(folder)]
            found |= _hashed(folder, [name.as_posix() for name in beside])
    return found


def is_built(engine: Path) -> bool:
    """Whether a file is an engine that rfx built and nobody has changed: its facts lie beside it
    and hold its hash."""
    facts = engine.with_name(engine.name + FACTS)
    if engine.is_symlink() or facts.is_symlink() or not engine.is_file() or not facts.is_file():
        return False
    try:
        said = read_json(facts, what="engine's facts")
    except UsageError:
        return False
    if not isinstance(said, dict) or not str(said.get("tool", "")).startswith("rfx "):
        return False
    recorded = said.get("engine_sha256", said.get("plan_sha256"))
    return isinstance(recorded, str) and recorded == file_hash(engine)


def is_facts(file: Path) -> bool:
    """Whether a file holds the facts of an engine that rfx built."""
    said = read_json(file, what="engine's facts")
    ours = isinstance(said, dict) and str(said.get("tool", "")).startswith("rfx ")
    return ours and ("engine_sha256" in said or "plan_sha256" in said)


def _is_ours(folder: Path, name: PurePosixPath) -> bool:
    """Whether rfx writes files of this name, and this one says that it is of rfx."""
    if name.is_absolute() or ".." in name.parts:
        return False
    top = name.parts[0]
    if top == "model" and len(name.parts) > 1:
        return _said(lambda: "rfx" in read_json(folder / top / "config.json", what="config"))
    if top == "triton" and len(name.parts) > 2:
        return _begins(folder / top / name.parts[1] / "config.pbtxt", MARK.encode())
    if len(name.parts) > 1:
        return False
    if name.suffix == ".onnx":
        return _said(lambda: b"rfx.precision" in (folder / top).read_bytes())
    beside = (*engine_files(), *(f"{n}{FACTS}" for n in engine_files()), f"model.onnx{FACTS}")
    return top in (*_PLAIN, *beside, *_SERVED)


def _marked(folder: Path, names: set[str]) -> dict[str, str]:
    """The reports among the named files. Earlier versions kept no hashes of them."""
    ours = [n for n in names if _begins(folder / n, _MARKS.get(n, b""))]
    return _hashed(folder, ours)


def _hashed(folder: Path, names: list[str]) -> dict[str, str]:
    return {n: file_hash(folder / n) for n in names if (folder / n).is_file()}


def _begins(file: Path, mark: bytes) -> bool:
    def read() -> bool:
        with file.open("rb") as stream:
            return mark in stream.read(_HEAD)

    return _said(read)


def _said(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except (OSError, UsageError, TypeError):
        return False
