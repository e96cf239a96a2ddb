"""Measuring a latency table: what keeping n heads or n filters costs on the runtime that will serve
the model.

What is timed is the model itself, as it is exported: with n units in all sublayers of one size, and
all units in the others. What n units cost is how much faster the model is without any, divided by
the number of these sublayers. So every family's layers are timed as they are, and fused as the
runtime fuses them. A model of many layers is timed with its first ones alone where that is sharp
enough (`Capabilities.max_depth`).
Two whole models anchor the table: the dense one, and the one with every sublayer emptied, which is
its fixed part. In that the residuals and norms of the sublayers are, which stay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rfx.core.errors import UsageError
from rfx.core.kind import Kind
from rfx.core.workload import Workload
from rfx.cost.alike import Alike, ModelShape
from rfx.cost.bench import Bench
from rfx.cost.curves import DENSE, Curves, Point, Sites, anchor, midpoints, split
from rfx.cost.groups import Measured, Reference, measure_points
from rfx.cost.points import counts_of, points_of
from rfx.cost.table import LatencyTable, TableKey
from rfx.cost.table_file import parse_table
from rfx.cost.whole import measure_anchors
from rfx.runtimes.base import Engine, Runtime

VERSION = 6  # of this procedure: results of another are not taken from the store


def table_key(
    runtime: Runtime, workload: Workload, shape: ModelShape, quantizer: str = ""
) -> TableKey:
    """Where a table measured now would be valid.

    Args:
        quantizer: what makes the files of a quantized precision, with its version and options;
            empty where the runtime's own version says it.
    """
    heads, filters = shape.first(Kind.MHA), shape.first(Kind.FFN)
    return TableKey(
        runtime=runtime.name,
        version=runtime.version(),
        device=runtime.device(),
        clock=runtime.clock_for(workload),
        threads=workload.threads,
        precision=workload.precision,
        batch=workload.batch,
        sequence=workload.sequence,
        hidden=shape.hidden,
        heads=heads.units if heads else 0,
        head_dim=heads.width if heads else 0,
        filters=filters.units if filters else 0,
        layout=shape.name,
        quantizer=quantizer,
    )


def load_or_measure(
    bench: Bench,
    *,
    dense: Engine,
    emptied: Callable[[], Engine],
    without: Mapping[str, Callable[[], Engine]],
    model_hash: str,
    finish: Callable[[LatencyTable], LatencyTable] = lambda table: table,
    limit: float = float("inf"),
    quantizer: str = "",
) -> tuple[LatencyTable, bool]:
    """The table of a model, from the store or measured now.

    The curves belong to the shape, the fixed part to the model (vocabulary, head); a corrupt entry
    is measured again.

    Args:
        dense: the dense model's engine.
        emptied: builds the engine of the model without any head or filter; not asked for where the
            store has the table.
        without: see `measure_anchors`; for the curves that have partial sites.
        finish: adds the whole-model checks to a table that was just measured.
        limit: additivity error above which a table is measured once more, and not kept if it is no
            better then.
        quantizer: see `table_key`.

    Returns:
        The table, and whether it was in the store.
    """
    store, shape = bench.store, bench.shape
    key = table_key(bench.runtime, bench.workload, shape, quantizer)
    parts = {name: list(sites) for name, sites in sorted(shape.partial.items())}
    entry = store.key(VERSION, "table", key.hash, shape.layers, model_hash, parts, bench.made_by)
    stored = store.get_json("latency-table", entry)
    if stored is not None:
        try:
            table = parse_table(stored, "the cache")
            if table.key == key and table.layers == shape.layers:
                return table, True
            store.warn(
                "A cached latency table has another key than it is filed under: it is measured "
                "again."
            )
        except UsageError as error:
            store.warn(
                f"The cached latency table is not valid ({error.got}): it is measured again."
            )
        store.remove("latency-table", entry)

    tables = []
    for _ in range(2):
        rises, errors, facts = _curves(bench, key)
        whole = measure_anchors(bench, dense, emptied, without, float(facts["reference_ms"]))
        dense_ms, emptied_ms, added = whole
        sites = {g.name: _sites(bench, g, added.get(g.name, 0.0)) for g in shape.alike}
        costs, errors, fixed, by_curve, note = anchor(rises, errors, sites, dense_ms, emptied_ms)
        shares = {site: by_curve[name] for name, own in parts.items() for site in own}
        made = LatencyTable(
            key,
            costs,
            fixed,
            shape.layers,
            errors,
            measured={**facts, **note},
            shares=shares,
            curves=shape.curves,
        )
        tables.append(finish(made))
        if (tables[-1].additivity_error or 0.0) <= limit:
            store.put_json("latency-table", entry, tables[-1].to_json())
            return tables[-1], False
        store.remove("latency-curves", _curves_entry(bench, key))
        bench.progress.note(
            f"the table predicts whole models only to {tables[-1].additivity_error:.1%}: it is "
            "measured again"
        )
    return min(tables, key=lambda t: t.additivity_error or 0.0), False


def _sites(bench: Bench, group: Alike, added_ms: float) -> Sites:
    """How many sites a curve is of, in the whole model and in those that are timed."""
    timed, at_one = bench.models.sites[group.name]
    return Sites(
        units=group.units,
        whole=len(group.sites),
        timed=timed,
        partial=len(group.partial),
        timed_partial=at_one,
        least=group.least if group.partial else 0,
        added_ms=added_ms,
    )


def _curves_entry(bench: Bench, key: TableKey) -> str:
    parts = {name: list(sites) for name, sites in bench.shape.partial.items()}
    timed = [bench.models.layers, parts, bench.made_by]
    return bench.store.key(VERSION, "curves", key.hash, bench.shape.layers, timed, bench.seed)


def _curves(bench: Bench, key: TableKey) -> tuple[Curves, Curves, dict[str, Any]]:
    """What n units add to the models that are timed, by curve and count, the errors of that, and
    the facts of the measurement; from the store where it has them."""
    entry = _curves_entry(bench, key)
    done = bench.store.get_json("latency-curves", entry)
    if done is None:
        done, parts = _measure_curves(bench, entry)
        bench.store.put_json("latency-curves", entry, done)
        for part in parts:  # they are needed until the whole is kept
            bench.store.remove("latency-part", part)
    costs, errors = (
        {name: {int(n): float(v) for n, v in curve.items()} for name, curve in done[part].items()}
        for part in ("rises_ms", "errors_ms")
    )
    return costs, errors, done["facts"]


def _measure_curves(bench: Bench, entry: str) -> tuple[dict[str, Any], list[str]]:
    """What n units add, the errors of that and facts as the store keeps them, and the entries of
    the groups of which they are made."""
    runtime, shape = bench.runtime, bench.shape
    smooth = runtime.capabilities.smooth
    counts = counts_of(shape, runtime, bench.workload.precision)
    started = time.time()
    done, reference = Measured(), Reference(bench)

    def measure(points: Sequence[Point], seed: int, title: str) -> None:
        measure_points(done, reference, points, seed, entry, title)

    try:
        first = [p for group in shape.alike for p in points_of(group, counts[group.name])]
        measure(first, bench.seed, "measuring the latency table")
        # Tile edges first; then the middles of the steps, kept only where they are no step
        # themselves.
        middles: list[Point] = []
        for group in shape.alike if not smooth else ():
            if group.kind is Kind.FFN:
                samples = done.samples()
                at = {n: samples[_point(group, n)] for n in counts[group.name]}
                between = midpoints(at)
                middles += points_of(group, between)
                counts[group.name] = sorted({*counts[group.name], *between})
        if middles:
            measure(middles, bench.seed + 1, "measuring between tile edges")
    finally:
        reference.close()
    rises, errors = split(done.samples(), counts, smooth)
    facts = {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 1),
        "layers": bench.models.layers,
        "rounds": int(min(done.rounds)),
        "reference_ms": done.unit,
        "smoothed": smooth,
    }
    if done.run_facts:
        facts["measurement"] = done.run_facts
    state = runtime.state()
    if state is not None:
        facts["state"] = state
    return {"rises_ms": rises, "errors_ms": errors, "facts": facts}, done.parts


def _point(group: Alike, count: int) -> Point:
    return DENSE if count == group.units else (group.name, count)
