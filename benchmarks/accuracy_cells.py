"""Cells of the accuracy benchmark: which are made again, the predictions that are kept of them, and
the intervals of the metric's differences."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy_bench import Bench
from benchmarks.accuracy_recipes import RECIPES, resolved
from rfx.core.environment import tool
from rfx.core.files import atomic_write_text

Cell = dict[str, Any]

RESAMPLES = 1000  # of the judged examples


def code() -> str:
    """Digest of rfx's sources: it says which state of them made a cell."""
    import rfx

    files = sorted(Path(rfx.__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:16]


def fresh_parts(method: str, *, again: bool) -> Cell:
    """What a cell must hold to be taken as it is.

    Args:
        again: cells that other code of rfx made are not taken either.
    """
    return {"method": resolved(method), "tool": tool(), **({"code": code()} if again else {})}


def stale(cell: Cell | None, fresh: Cell, weights: str) -> bool:
    """Whether a cell is to be made (again). Cells of before 2026-11-22 do not name the weights that
    they were made of."""
    return (
        cell is None
        or any(cell.get(part) != value for part, value in fresh.items())
        or cell.get("weights", weights) != weights
    )


def keep_predictions(cache: Path, key: str, cell: Cell, predictions: list[Any]) -> None:
    """Keep what a cell's model predicts in the cache. The divergence beside it tells later whether
    the cell of that name is still the same."""
    (cache / "predictions").mkdir(exist_ok=True)
    plain = [p.item() if hasattr(p, "item") else p for p in predictions]
    atomic_write_text(
        prediction_file(cache, key),
        json.dumps({"divergence": cell["divergence"], "predictions": plain}),
    )


def prediction_file(cache: Path, key: str) -> Path:
    """Where the predictions of a cell are kept."""
    return cache / "predictions" / (key.replace("|", "_") + ".json")


def kept_predictions(cache: Path, key: str, cell: Cell) -> list[Any] | None:
    """The predictions of a cell; None where they are not there, or are another cell's."""
    file = prediction_file(cache, key)
    known = json.loads(file.read_text()) if file.is_file() else {}
    return known.get("predictions") if known.get("divergence") == cell["divergence"] else None


def intervals(
    make_bench: Callable[[], Bench], prefix: str, suffix: str, cache: Path, results: dict[str, Any]
) -> dict[str, Any]:
    """The metric of `rfx` less that of each other recipe, in points, with its 95 % interval.

    The difference is a mean over the seeds. The interval is that of this mean over other draws of
    the judged examples, the same ones for both recipes and all seeds; the seeds stay as they are.

    Args:
        make_bench: called where an interval has to be computed.
        prefix: the pair.
        suffix: share and number of calibration examples, as in a cell's key.
        cache: where predictions are kept.
        results: intervals that it holds of the same cells are taken.
    """
    cells: dict[str, Cell] = results["cells"]
    out: dict[str, Any] = {}

    def by_seed(recipe: str) -> dict[int, str]:
        return {
            int(k.split("|")[2]): k
            for k in cells
            if k.startswith(f"{prefix}|{recipe}|") and k.endswith(f"|{suffix}")
        }

    ours = by_seed("rfx")
    for recipe in (r for r in RECIPES if r != "rfx"):
        key, theirs = f"{prefix}|{recipe}|{suffix}", by_seed(recipe)
        couples = [(ours[s], theirs[s]) for s in sorted(ours.keys() & theirs.keys())]
        of = [[cells[k]["divergence"] for k in couple] for couple in couples]
        known = results.get("intervals", {}).get(key)
        if known is not None and known["of"] == of:
            out[key] = known
            continue
        kept = [[kept_predictions(cache, k, cells[k]) for k in couple] for couple in couples]
        predictions = [[p for p in couple if p is not None] for couple in kept]
        # A mean over some of the seeds would be another quantity than the tables show.
        if not couples or any(len(couple) < 2 for couple in predictions):
            continue
        out[key] = {**_difference(make_bench(), predictions), "of": of}
    return out


def _difference(bench: Bench, predictions: list[list[list[Any]]]) -> dict[str, Any]:
    """Of the predictions by seed, ours and theirs: the metric's difference and its interval."""
    examples = bench.examples.evaluation
    drawn = np.mean(
        [bench.task.bootstrap(*p, examples, resamples=RESAMPLES, seed=0) for p in predictions],
        axis=0,
    )
    low, high = np.percentile(100 * drawn, (2.5, 97.5))
    apart = [
        100 * (bench.task.metric(a, examples) - bench.task.metric(b, examples))
        for a, b in predictions
    ]
    return {
        "difference": float(np.mean(apart)),
        "interval": [float(low), float(high)],
        "by_seed": apart,
        "judged": len(examples),
    }
