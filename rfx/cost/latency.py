"""Measuring a latency table: what keeping n heads or n filters costs on the runtime that will serve
the model.

Stacks of whole Transformer blocks are built at several depths, one kind of sublayer with n units,
the other full. The slope of latency over depth is the cost of one such block: overheads that do not
grow with depth cancel, and the runtime fuses the block as it fuses the model's. With S(h, f) the
slope at h heads and f filters and D = S(H, F), a layer costs a(h) + b(f) = S(h, F) + S(H, f) - D.
How that sum is divided between a and b cannot be measured: both are given the same cost where they
are empty.
Two whole models anchor the table: the dense one, and the one with every sublayer emptied, which is
its fixed part.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rfx.core.errors import UsageError
from rfx.core.inputs import InputSpec
from rfx.core.progress import Progress
from rfx.core.store import Store
from rfx.core.workload import Workload
from rfx.cost.curves import Curves, anchor, midpoints, split
from rfx.cost.groups import Measured, Reference, measure_points
from rfx.cost.points import counts_of, grid_points
from rfx.cost.stacks import Bench, Stacks, StackSource
from rfx.cost.table import LatencyTable, TableKey
from rfx.cost.table_file import parse_table
from rfx.cost.whole import Partial, measure_anchors
from rfx.export.blocks import BlockShape
from rfx.runtimes.base import Engine, Runtime

VERSION = 4  # of this procedure: results of another are not taken from the store


def table_key(
    runtime: Runtime, workload: Workload, shape: BlockShape, quantizer: str = ""
) -> TableKey:
    """Where a table measured now would be valid.

    Args:
        quantizer: what makes the files of a quantized precision, with its version and options;
            empty where the runtime's own version says it.
    """
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
        heads=shape.heads_total,
        head_dim=shape.head_dim,
        filters=shape.filters_total,
        layout=shape.name,
        quantizer=quantizer,
    )


def load_or_measure(
    store: Store,
    runtime: Runtime,
    workload: Workload,
    shape: BlockShape,
    layers: int,
    *,
    dense: Engine,
    emptied: Callable[[], Engine],
    model_hash: str,
    inputs: InputSpec,
    progress: Progress,
    seed: int,
    partial: Mapping[str, Partial] | None = None,
    finish: Callable[[LatencyTable], LatencyTable] = lambda table: table,
    limit: float = float("inf"),
    stacks: StackSource | None = None,
    quantizer: str = "",
) -> tuple[LatencyTable, bool]:
    """The table of a model of `layers` blocks of `shape`, from the store or measured now.

    The curves belong to the shape, the fixed part to the model (vocabulary, head); a corrupt entry
    is measured again.

    Args:
        dense: the dense model's engine.
        emptied: builds the engine of the model without any head or filter; not asked for where the
            store has the table.
        partial: by kind, the sites that compute a part of what the others do.
        finish: adds the whole-model checks to a table that was just measured.
        limit: additivity error above which a table is measured once more, and not kept if it is no
            better then.
        stacks: where the stacks come from; None: made here.
        quantizer: see `table_key`.

    Returns:
        The table, and whether it was in the store.
    """
    key = table_key(runtime, workload, shape, quantizer)
    stacks = stacks or Stacks(shape, workload, seed, runtime.capabilities.quantizer)
    bench = Bench(store, runtime, workload, shape, layers, stacks, progress, seed)
    partial = partial or {}
    parts = {kind: list(part.sites) for kind, part in sorted(partial.items())}
    entry = store.key(VERSION, "table", key.hash, layers, model_hash, parts)
    stored = store.get_json("latency-table", entry)
    if stored is not None:
        try:
            table = parse_table(stored, "the cache")
            if table.key == key and table.layers == layers:
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
        curves, errors, facts = _curves(bench, key)
        whole = measure_anchors(
            bench, dense, emptied, partial, inputs, float(facts["reference_ms"])
        )
        curves, errors, fixed, by_kind, note = anchor(curves, errors, layers, bench.dense, *whole)
        facts = {**facts, **note}
        shares = {name: by_kind[kind] for kind, names in parts.items() for name in names}
        tables.append(finish(LatencyTable(key, curves, fixed, layers, errors, (), facts, shares)))
        if (tables[-1].additivity_error or 0.0) <= limit:
            store.put_json("latency-table", entry, tables[-1].to_json())
            return tables[-1], False
        store.remove("latency-curves", _curves_entry(bench, key))
        progress.note(
            f"the table predicts whole models only to {tables[-1].additivity_error:.1%}: it is "
            "measured again"
        )
    return min(tables, key=lambda t: t.additivity_error or 0.0), False


def _curves_entry(bench: Bench, key: TableKey) -> str:
    return bench.store.key(VERSION, "curves", key.hash, bench.layers, bench.seed)


def _curves(bench: Bench, key: TableKey) -> tuple[Curves, Curves, dict[str, Any]]:
    """Costs by kind and count, their errors, and the facts of the measurement; from the store where
    it has them."""
    entry = _curves_entry(bench, key)
    done = bench.store.get_json("latency-curves", entry)
    if done is None:
        done, parts = _measure_curves(bench, entry)
        bench.store.put_json("latency-curves", entry, done)
        for part in parts:  # they are needed until the whole is kept
            bench.store.remove("latency-part", part)
    costs, errors = (
        {kind: {int(n): float(v) for n, v in curve.items()} for kind, curve in done[part].items()}
        for part in ("costs_ms", "errors_ms")
    )
    return costs, errors, done["facts"]


def _measure_curves(bench: Bench, entry: str) -> tuple[dict[str, Any], list[str]]:
    """Costs, errors and facts as the store keeps them, and the entries of the groups of which they
    are made."""
    runtime, (H, F) = bench.runtime, bench.dense
    smooth = runtime.capabilities.smooth
    heads, filters = counts_of(bench.shape, runtime, bench.workload.precision)
    started = time.time()
    done, reference = Measured(), Reference(bench)

    def measure(points: Sequence[tuple[int, int]], seed: int, title: str) -> None:
        measure_points(done, reference, points, seed, entry, title)

    try:
        measure(grid_points(bench.shape, filters), bench.seed, "measuring the latency table")
        # Tile edges first; then the middles of the steps, kept only where they are no step
        # themselves.
        middles = [] if smooth else midpoints({f: done.samples()[H, f] for f in filters}, F)
        if middles:
            measure([(H, f) for f in middles], bench.seed + 1, "measuring between tile edges")
            filters = sorted({*filters, *middles})
    finally:
        reference.close()
    costs, errors, notes = split(done.samples(), heads, filters, (H, F), smooth)
    facts = {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 1),
        "depths": list(bench.depths),
        "rounds": int(min(done.rounds)),
        "reference_ms": done.unit,
        "bend": float(np.median(done.bends)),
        **notes,
    }
    if done.run_facts:
        facts["measurement"] = done.run_facts
    state = runtime.state()
    if state is not None:
        facts["state"] = state
    return {"costs_ms": costs, "errors_ms": errors, "facts": facts}, done.parts
