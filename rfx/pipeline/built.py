"""What `rfx build` puts beside a model: told from a stranger's files by what is in them, not by
their names."""

from __future__ import annotations

from pathlib import Path

from rfx.core.bounded import read_json
from rfx.core.errors import UsageError
from rfx.core.files import file_hash

FACTS = ".json"  # follows the name of an engine file


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


def _hashed(folder: Path, names: list[str]) -> dict[str, str]:
    return {n: file_hash(folder / n) for n in names if (folder / n).is_file()}
