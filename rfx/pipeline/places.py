"""Where a result may go: never over a stranger's files. Asked before any work."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from rfx.core import manifest
from rfx.core.errors import UsageError
from rfx.core.files import as_path, require_file_place, require_outside, require_place
from rfx.core.home import at_home
from rfx.core.leftovers import settle, settle_within
from rfx.evidence.read import read_curve, read_evidence
from rfx.pipeline import built
from rfx.recipe.spec import Recipe

CACHE = "the cache of rfx"
OUTPUTS = "a new or empty folder, or an earlier output of rfx that nobody has changed"
SWEEPS = "a new or empty folder, or an earlier sweep that nobody has changed"
REPORTS = "a new or empty folder, or one that holds reports of rfx alone"


def output_folder(
    out: str | Path, recipe: Recipe, cache: Path, warn: Callable[[str], None]
) -> Path:
    """An existing folder is replaced only if rfx wrote every file in it; a place that cannot be
    written is named before the work. What a killed process has left there is brought in order.

    Raises:
        UsageError: the folder holds something else, cannot be written, is or holds the model's or
            the data's, or lies in the cache.
    """
    return _folder(out, recipe, cache, warn, output_strangers, "rfx", OUTPUTS)


def sweep_folder(out: str | Path, recipe: Recipe, cache: Path, warn: Callable[[str], None]) -> Path:
    """The same for the output of a sweep: without a sweep.json nothing there is a sweep's, whatever
    it is called."""
    return _folder(out, recipe, cache, warn, sweep_strangers, "a sweep", SWEEPS)


def report_folder(out: str | Path, warn: Callable[[str], None]) -> Path:
    """Reports alone go where nothing else is: never over a model or a stranger's files.

    Raises:
        UsageError: the folder holds other things.
    """
    path = as_path(out)
    require_place(path)
    settle(path, no_strangers(report_strangers), warn)
    if found := report_strangers(path):
        raise UsageError(
            "The folder for the new reports holds other things.",
            got=f"{path}: {manifest.some(found)}",
            allowed=REPORTS,
            next_step="give another --out",
        )
    require_outside(path)
    settle_within(path)  # it is known to be ours
    return path


def engine_file(out: Path) -> Path:
    """An engine and the facts beside it replace those of an earlier build alone. A link stays a
    link.

    Returns:
        The place to write to: what a link names.

    Raises:
        UsageError: another file is there, or none can be written.
    """
    if out.exists() and not out.is_dir() and not out.is_file():
        raise UsageError(
            "An engine is written to a file, with its facts beside it.",
            got=f"{out}, which is a device or a pipe",
            allowed="a path to a file",
            next_step="give another --out",
        )
    out = Path(os.path.realpath(out))
    kind = "an engine of `rfx build` with its facts beside it"
    require_file_place(out, ours=built.is_built, kind=kind)
    facts = out.with_name(out.name + built.FACTS)
    require_file_place(facts, ours=built.is_facts, kind=kind)
    return out


def record_engine(engine: Path) -> None:
    """An engine that was built into an output, however deep, belongs to it from now on."""
    engine = Path(os.path.realpath(engine))
    facts = engine.with_name(engine.name + built.FACTS)
    for folder in engine.parents:
        if manifest.read(folder) is not None:
            manifest.record(folder, [engine, facts])
            return


def record_served(folder: Path) -> None:
    """So does a model repository of Triton's that was made anew."""
    output = folder.parent.parent
    without = [folder.relative_to(output).as_posix()]
    manifest.record(output, folder.rglob("*"), without=without)


def edited(folder: Path) -> list[str]:
    """What somebody has changed in a folder of an output since rfx wrote it, as far as the output's
    manifest tells."""
    output = folder.parent.parent
    found = manifest.read(output)
    if found is None:
        return []
    start = f"{folder.relative_to(output)}/"
    return [text for text in manifest.strangers(output, found[1]) if text.startswith(start)]


def output_strangers(folder: Path) -> list[str]:
    """What lies in a folder and is no output of `prune-export` as rfx wrote it."""
    return _strangers(folder, (manifest.OUTPUT, manifest.REPORTS), _whole_output)


def sweep_strangers(folder: Path) -> list[str]:
    """The same for a sweep."""
    return _strangers(folder, (manifest.SWEEP,), _whole_sweep)


def report_strangers(folder: Path) -> list[str]:
    """The same for reports alone."""
    return _strangers(folder, (manifest.REPORTS,), _whole_output)


def no_strangers(strangers: Callable[[Path], list[str]]) -> Callable[[Path], bool]:
    """Whether a folder may be removed, asked of it once more when it is."""
    return lambda folder: not strangers(folder)


def _folder(
    out: str | Path,
    recipe: Recipe,
    cache: Path,
    warn: Callable[[str], None],
    strangers: Callable[[Path], list[str]],
    by: str,
    allowed: str,
) -> Path:
    path = as_path(out)
    require_place(path)
    _require_apart(path, recipe, cache)
    settle(path, no_strangers(strangers), warn)
    found = strangers(path)
    if found and (path / "evidence.json").is_file() and manifest.read(path) is None:
        allowed += f"; {manifest.FILE}, which says what rfx wrote there, is missing or damaged"
    manifest.refuse(path, found, by, allowed)
    require_outside(path)
    settle_within(path)  # it is known to be ours
    return path


def _strangers(
    folder: Path,
    kinds: tuple[str, ...],
    whole: Callable[[Path, dict[str, str]], bool],
) -> list[str]:
    """By the manifest. Without one, as earlier versions wrote outputs, nothing says what somebody
    has changed since: everything there is a stranger's."""
    if not folder.is_dir():
        return []
    found = manifest.read(folder)
    if found is None:
        return manifest.strangers(folder, {})
    kind, files = found
    if kind not in kinds or not whole(folder, files):
        return manifest.strangers(folder, {}) or [f"{manifest.FILE} (of another kind)"]
    # A build that was killed has not told the manifest yet: an engine speaks for itself.
    return manifest.strangers(folder, {**files, **built.built_files(folder)})


def _whole_output(folder: Path, files: dict[str, str]) -> bool:
    """Whether a manifest and the evidence speak of the same files. `rfx build` makes the model
    repository anew."""
    try:
        named = read_evidence(folder).files
    except UsageError:
        return False
    return "evidence.json" in files and all(n in files or n.startswith("triton/") for n in named)


def _whole_sweep(folder: Path, files: dict[str, str]) -> bool:
    try:
        read_curve(folder)
    except UsageError:
        return False
    return "sweep.json" in files


def _require_apart(out: Path, recipe: Recipe, cache: Path) -> None:
    """The output is not what a job reads, and holds nothing of it: an output is replaced as a
    whole. A folder of its own within the model's or the data's loses nothing; rfx clears its cache
    itself, and no output may lie there.

    Raises:
        UsageError: it is.
    """
    out = Path(os.path.realpath(out))
    for what, given in (
        ("the model's folder", recipe.model),
        ("the examples of --train", recipe.data.train),
        ("the examples of --eval", recipe.data.eval),
        (CACHE, cache),
    ):
        if given is None or not os.path.lexists(at_home(os.fspath(given))):
            continue
        place = Path(os.path.realpath(at_home(os.fspath(given))))
        where = "is" * (out == place)
        if what == CACHE and place in out.parents:
            where = "lies within"
        elif out in place.parents:
            where = "holds"
        if where:
            raise UsageError(
                f"The output folder {where} {what}.",
                got=f"{out} and {place}" if out != place else str(out),
                allowed="a folder of its own",
                next_step="give another --out",
            )
