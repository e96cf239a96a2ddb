"""The last step of an output: evidence, reports, signature and manifest, beside what was made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rfx.core import manifest
from rfx.evidence.records import Evidence
from rfx.evidence.report.write import write_reports
from rfx.evidence.signature import sign

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def finish(
    evidence: Evidence,
    folder: Path,
    *,
    made: Mapping[str, str],
    graphs: Iterable[str],
    key: Ed25519PrivateKey | None,
    warn: Callable[[str], None],
) -> None:
    """Write the evidence with its reports into a finished output, and seal it.

    Args:
        made: hashes of the files as they were when they were made.
        graphs: names of the ONNX files that belong to it.
        key: what evidence.json is signed with; None: it is not.
        warn: told of a report that could not be written.
    """
    reports = write_reports(evidence, folder, warn)
    # What has gone or changed since it was made must not pass for a whole output.
    needed = ("plan.json", "model/config.json", *dict.fromkeys(graphs))
    if key is not None:
        reports.append(sign(folder / "evidence.json", key))
    names = [*needed, *(report.name for report in reports)]
    manifest.seal(folder, manifest.OUTPUT, {**evidence.files, **made}, names)
