"""The files of an output against the hashes that its evidence lists."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from rfx.core import manifest
from rfx.core.errors import UsageError
from rfx.core.files import file_hash
from rfx.core.recognised import OUTPUT, REPORTS, refuse_other
from rfx.core.text import one_line
from rfx.evidence.limits import knows_agreement
from rfx.evidence.records import Evidence
from rfx.evidence.report.write import files as reports

SIGNATURE = "evidence.json.sig"
SAID = 10  # files that a message lists
# An entry of an ONNX file's metadata, as it lies there: the key `rfx.plan` and 16 characters.
_PLAN = re.compile(rb"\x0a\x08rfx\.plan\x12\x10([0-9a-f]{16})")
_VOCABULARY = re.compile(rb"\x0a\x0erfx\.vocabulary\x12\x10([0-9a-f]{16})")


def require_files(evidence: Evidence, folder: str | Path) -> None:
    """Raises UsageError where the files in `folder` are not those that the evidence lists."""
    out = Path(folder)
    refuse_other(out, OUTPUT, REPORTS)
    if not out.is_dir():
        raise UsageError(
            "There is no folder of files to compare.",
            got=str(folder),
            allowed="an output folder of rfx prune-export",
            next_step="correct --files",
        )
    found = list(differences(evidence, out))
    if found:
        more = f"; and {len(found) - SAID} more" if len(found) > SAID else ""
        raise UsageError(
            "The files are not those that the evidence is of.",
            got="; ".join(one_line(f) for f in found[:SAID]) + more,
            allowed="every file as the evidence lists it, and no other file beside them",
            next_step="measure these files again: rfx verify, or restore those that were measured",
        )


def differences(evidence: Evidence, out: Path) -> Iterator[str]:
    """Everything in which the files differ from what is listed, each in words."""
    if not evidence.files:
        yield "the evidence lists no files"
    for name, digest in evidence.files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            yield f"{name} lies outside the folder"
            continue
        file = out / path
        if _linked(out, path):
            yield f"{name} is a link"
        elif not file.is_file():
            yield f"{name} is gone"
        elif file_hash(file) != digest:
            yield f"{name} has been changed"
        elif file.suffix == ".onnx":
            yield from _made_by(evidence, name, file)
    yield from _sizes(evidence, out)
    own = {*evidence.files, *reports(), SIGNATURE, manifest.FILE}
    for file in sorted(out.rglob("*")):
        name = file.relative_to(out).as_posix()
        if name in own - set(evidence.files) and file.is_symlink():
            yield f"{name} is a link"
        elif name not in own and (file.is_symlink() or not file.is_dir()):
            yield f"{name} is not listed"
    yield from _reports(evidence, out)


def _made_by(evidence: Evidence, name: str, file: Path) -> Iterator[str]:
    """What an ONNX file of rfx says of its plan and its vocabulary, against the evidence."""
    plan, kept = said_by_onnx(file)
    if plan is None:
        return
    if plan != evidence.plan.get("hash"):
        yield f"{name} was made by another plan ({plan})"
    if kept != (None if evidence.vocabulary is None else evidence.vocabulary.hash):
        yield (f"{name} has another vocabulary ({kept or 'the full one'}) than the evidence says")


def _sizes(evidence: Evidence, out: Path) -> Iterator[str]:
    """The size of each served file is part of what was judged."""
    if evidence.size is None:
        return
    for name, size in evidence.size.files.items():
        # A file that was judged in the place of model.onnx may lie deeper.
        named = [n for n in evidence.files if PurePosixPath(n).name == PurePosixPath(name).name]
        there = [out / n for n in named if (out / n).is_file()]
        if not there:
            yield f"{name}, whose size was judged, is gone"
        elif all(file.stat().st_size != size for file in there):
            yield f"{name} has {there[0].stat().st_size} bytes, the evidence says {size}"


def _reports(evidence: Evidence, out: Path) -> Iterator[str]:
    """The evidence is older than the reports made from it: the manifest has their hashes."""
    found = manifest.read(out)
    if found is None:
        # Earlier versions wrote none.
        if evidence.exported or (evidence.accuracy and knows_agreement(evidence.accuracy)):
            gone = not (out / manifest.FILE).exists()
            yield f"{manifest.FILE} is gone" if gone else f"{manifest.FILE} is damaged"
        return
    _, sealed = found
    for name in reports():
        file = out / name
        if file.is_symlink() or not file.is_file():
            continue
        if name not in sealed:
            yield f"{name} is not listed"
        elif file_hash(file) != sealed[name]:
            yield f"{name} has been changed"


def _linked(out: Path, path: PurePosixPath) -> bool:
    return any((out / p).is_symlink() for p in (path, *path.parents[:-1]))


def said_by_onnx(file: Path) -> tuple[str | None, str | None]:
    """The hashes of the plan and of the vocabulary that an ONNX file of rfx says in its metadata,
    without reading the rest of it; None where it says none."""
    if not file.stat().st_size:
        return None, None
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        plan, kept = _PLAN.search(data), _VOCABULARY.search(data)
        return plan and plan[1].decode(), kept and kept[1].decode()
