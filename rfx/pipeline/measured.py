"""Which files of an output a measurement is of, each with its hash.

Evidence vouches for the files that it lists. A file that was measured is listed as it is now; one
that was not is listed only where it still is what the earlier evidence says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from rfx.core import manifest
from rfx.core.artefact import INDEX, Artefact
from rfx.core.errors import EnvironmentMissingError
from rfx.core.files import file_hash
from rfx.evidence.files import SIGNATURE
from rfx.evidence.records import Evidence
from rfx.evidence.report.write import files as reports
from rfx.export.facts import weight_files

MODELS = (".onnx", ".plan", ".engine")  # a file that answers requests: it is never taken on trust


class Measured:
    """The files of an output as they are before a measurement.

    Args:
        folder: the output.
        artefact: its graphs.
        other: the file whose accuracy and latency are judged in place of model.onnx.
    """

    def __init__(self, folder: Path, artefact: Artefact, other: Path | None = None) -> None:
        self.folder = folder
        own = {*reports(), SIGNATURE}
        self.there = {n: h for n, h in manifest.hashes(folder).items() if n not in own}
        self.read = {n for n in self.there if _is_read(n)}
        for graph in artefact.files:
            self.also(graph, *weight_files(graph))
        others = [] if other is None else [other, *weight_files(other)]
        self.others = {file: file_hash(file) for file in others}

    def also(self, *files: Path) -> None:
        """More files of the output that are measured."""
        names = (f.relative_to(self.folder).as_posix() for f in files)
        self.read |= {name for name in names if name in self.there}

    def listed(self, before: Evidence) -> tuple[dict[str, str], list[str]]:
        """The files that new evidence lists, and those that rfx knew and that it leaves out,
        because they have changed and were not measured."""
        _, sealed = manifest.read(self.folder) or ("", {})
        measured = {self.there[name] for name in self.read}
        files = {
            name: digest
            for name, digest in self.there.items()
            if name in self.read
            or digest in (before.files.get(name), *measured)  # unchanged, or a copy in triton/
            or _made_anew(name, digest, sealed)
        }
        known = {*before.files, *sealed} & set(self.there)
        for file, digest in self.others.items():
            # The numbers are of this file: where another one of the output has its name, that one
            # is not vouched for.
            inside, place = self.folder.resolve(), file.resolve()
            name = place.relative_to(inside).as_posix() if inside in place.parents else file.name
            files[name] = digest
        return files, sorted(known - set(files))

    def require_unchanged(self) -> None:
        """Raises EnvironmentMissingError where a file was changed while it was measured."""
        paths = {self.folder / name: self.there[name] for name in self.read}
        paths |= self.others
        if changed := list(_changed(paths)):
            raise EnvironmentMissingError(
                "Files were changed by something else while they were measured.",
                got=manifest.some(changed),
                allowed="files that nothing writes while a job runs",
                next_step="find out what does that, then run the same command again",
            )


def _is_read(name: str) -> bool:
    """Whether verify loads a file, whatever graphs there are."""
    weights = name.startswith("model/") and ".safetensors" in name
    return weights or name in ("plan.json", "update.safetensors", INDEX, "model/config.json")


def _made_anew(name: str, digest: str, sealed: Mapping[str, str]) -> bool:
    """Whether a file is a configuration of Triton's repository that `rfx build` wrote since."""
    own = name.startswith("triton/") and not name.endswith(MODELS)
    return own and sealed.get(name) == digest


def _changed(paths: Mapping[Path, str]) -> Iterable[str]:
    for path, digest in paths.items():
        if not path.is_file() or file_hash(path) != digest:
            yield str(path)
