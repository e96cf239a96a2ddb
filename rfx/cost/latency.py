"""Measuring a latency table: what keeping n heads or n filters costs on the runtime that will serve
the model.

Stacks of whole Transformer blocks are built at several depths, one kind of sublayer with n units,
the other full. The
slope of latency over depth is the cost of one such block: overheads that do not grow with depth
cancel, and the runtime fuses the block as it fuses the model's. With S(h, f) the slope at h heads
and f filters and D = S(H, F), a layer costs a(h) + b(f) = S(h, F) + S(H, f) - D. The split between
a and b is a matter of convention: empty sublayers cost the same.
Two whole models anchor the table: the dense one, and the one with every sublayer emptied, which is
its fixed part.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rfx.core.errors import UsageError
from rfx.core.inputs import InputSpec
from rfx.core.plan import Kind, Plan, Site
from rfx.core.progress import Progress
from rfx.core.store import Store
from rfx.core.workload import Workload
from rfx.cost.curves import anchor, midpoints, split
from rfx.cost.table import LatencyTable, TableKey
from rfx.cost.table_file import parse_table
from rfx.export.blocks import BlockShape, stack, stack_inputs
from rfx.runtimes.base import BoundRun, Engine, Runtime
from rfx.runtimes.timing import interleave

VERSION = 2  # of this procedure: results of another are not taken from the store
MAX_FILTER_COUNTS = 49  # measured filter counts; a finer grid of the runtime is thinned to this
MIN_ROUNDS = 24
ANCHOR_SECONDS = 3.0  # of timing whole models, at least
SECONDS = (8.0, 90.0)  # at least and at most, of timing in all groups together
MAX_GROUP = 16  # points that are timed in turns; what an interruption costs
RESAMPLES = 200

Point = tuple[int, int]  # heads, filters


def table_key(runtime: Runtime, workload: Workload, shape: BlockShape) -> TableKey:
    """Where a table measured now would be valid."""
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
    )


def filter_counts(total: int, grid: int) -> list[int]:
    """Multiples of the runtime's grid from 0 to all, thinned by doubling the step where they are
    too many."""
    step = max(1, grid)
    while total / step > MAX_FILTER_COUNTS - 1:
        step *= 2
    return sorted({*range(0, total + 1, step), total})


def grid_points(shape: BlockShape, filters: Sequence[int]) -> list[Point]:
    """The blocks that are measured first: every head count with all filters, every filter count
    with all heads, none."""
    H, F = shape.heads_total, shape.filters_total
    return sorted(
        {(h, F) for h in range(H + 1)} | {(H, f) for f in filters} | {(0, 0)}, reverse=True
    )


def possible_points(shape: BlockShape, runtime: Runtime, precision: str) -> list[Point]:
    """Every block that a measurement may ask for, the midpoints included."""
    counts = filter_counts(shape.filters_total, runtime.grid(Kind.FFN, precision))
    middles = (
        set()
        if runtime.capabilities.smooth
        else {(a + b) // 2 for a, b in zip(counts, counts[1:]) if a > 0 and (a + b) // 2 % 8 == 0}
    )
    return grid_points(shape, sorted({*counts, *middles}))


def possible_depths(layers: int, runtime: Runtime) -> list[int]:
    """Every depth of a stack."""
    low, high = depths(layers, runtime.capabilities.max_depth)
    return sorted({low, (low + high) // 2, high})


def depths(layers: int, most: int = 12) -> tuple[int, int]:
    """The depths of the stacks: the model's (at most the runtime's `max_depth`), and a quarter of
    it. Far apart, so that the slope is sharp; the dense block is measured halfway too, which tells
    whether latency is linear in depth."""
    deepest = min(max(layers, 2), most)
    return max(1, deepest // 4), deepest


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
    finish: Callable[[LatencyTable], LatencyTable] = lambda table: table,
    limit: float = float("inf"),
    stacks: Stacks | None = None,
) -> tuple[LatencyTable, bool]:
    """The table of a model of `layers` blocks of `shape`, from the store or measured now.

    The curves belong to the shape, the fixed part to the model (vocabulary, head); a corrupt entry
    is measured again.

    Args:
        dense: the dense model's engine.
        emptied: builds the engine of the model without any head or filter; not asked for where the
            store has the table.
        finish: adds the whole-model checks to a table that was just measured.
        limit: additivity error above which a table is measured once more, and not kept if it is no
            better then.
        stacks: where the stacks come from; None: made here.

    Returns:
        The table, and whether it was in the store.
    """
    key = table_key(runtime, workload, shape)
    stacks = stacks or Stacks(shape, workload.precision, seed)
    entry = store.key(VERSION, "table", key.hash, layers, model_hash)
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
        curves, errors, facts = _curves(
            store, runtime, workload, shape, layers, key, progress, seed, stacks
        )
        anchors = _whole_models(
            store,
            runtime,
            workload,
            shape,
            layers,
            dense,
            emptied,
            inputs,
            facts,
            seed,
            stacks,
        )
        curves, errors, fixed, note = anchor(
            curves, errors, layers, (shape.heads_total, shape.filters_total), *anchors
        )
        tables.append(
            finish(LatencyTable(key, curves, fixed, layers, errors, (), {**facts, **note}))
        )
        if (tables[-1].additivity_error or 0.0) <= limit:
            store.put_json("latency-table", entry, tables[-1].to_json())
            return tables[-1], False
        store.remove("latency-curves", store.key(*_curves_key(key, layers, seed)))
        progress.note(
            f"the table predicts whole models only to {tables[-1].additivity_error:.1%}: it is "
            "measured again"
        )
    return min(tables, key=lambda t: t.additivity_error or 0.0), False


def _curves_key(key: TableKey, layers: int, seed: int) -> tuple:
    return VERSION, "curves", key.hash, layers, seed


def _curves(store, runtime, workload, shape, layers, key, progress, seed, stacks):
    """Costs by kind and count, their errors, and the facts of the measurement; from the store where
    it has them."""
    entry = store.key(*_curves_key(key, layers, seed))
    done = store.get_json("latency-curves", entry)
    if done is None:
        done = _measure_curves(
            store, runtime, workload, shape, layers, progress, seed, entry, stacks
        )
        store.put_json("latency-curves", entry, done)
    by_count = [
        {kind: {int(n): float(v) for n, v in curve.items()} for kind, curve in done[part].items()}
        for part in ("costs_ms", "errors_ms")
    ]
    return by_count[0], by_count[1], done["facts"]


def _measure_curves(store, runtime, workload, shape, layers, progress, seed, entry, stacks) -> dict:
    H, F = shape.heads_total, shape.filters_total
    heads, filters = (
        list(range(H + 1)),
        filter_counts(F, runtime.grid(Kind.FFN, workload.precision)),
    )
    dense: Point = (H, F)
    points = grid_points(shape, filters)
    started = time.time()
    done = _Measured()
    reference = _Reference(store, runtime, workload, shape, layers, stacks, seed)
    try:
        _measure_points(
            done, reference, points, progress, seed, entry, "measuring the latency table"
        )
        # tile edges first; then the middles of the steps, kept only where they are no step
        # themselves
        if not runtime.capabilities.smooth:
            middles = midpoints({f: done.samples()[H, f] for f in filters}, F)
            if middles:
                more = [(H, f) for f in middles]
                _measure_points(
                    done, reference, more, progress, seed + 1, entry, "measuring between tile edges"
                )
                filters = sorted({*filters, *middles})
    finally:
        reference.close()
    costs, errors, notes = split(done.samples(), heads, filters, dense, runtime.capabilities.smooth)
    for part in done.parts:
        store.remove("latency-part", part)
    facts = {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 1),
        "depths": list(depths(layers, runtime.capabilities.max_depth)),
        "rounds": int(min(done.rounds)),
        "reference_ms": done.unit,
        "bend": float(np.median(done.bends)),
        **notes,
    }
    if done.run_facts:
        facts["measurement"] = done.run_facts
    if runtime.state() is not None:
        facts["state"] = runtime.state()
    return {"costs_ms": costs, "errors_ms": errors, "facts": facts}


@dataclass
class _Measured:
    """Slopes of the points so far, each group in units of the reference that all groups have in
    common: machines drift between groups."""

    slopes: dict[Point, np.ndarray] = field(
        default_factory=dict
    )  # bootstrap samples, the estimate first: [1 + RESAMPLES]
    reference: list[float] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    bends: list[float] = field(default_factory=list)
    parts: list[str] = field(
        default_factory=list
    )  # entries of the store that can go when all is done
    run_facts: dict[str, object] = field(default_factory=dict)  # see BoundRun.measurement

    @property
    def unit(self) -> float:
        return float(np.median(self.reference))

    def take(self, saved: Mapping, part: str) -> None:
        """One group's results, as `_measure_group` gives them and the store keeps them."""
        self.reference.append(saved["reference_ms"])
        self.rounds.append(saved["rounds"])
        self.bends.append(saved["bend"])
        self.parts.append(part)
        self.run_facts.update(saved["measurement"])
        for (h, f), values in saved["slopes"]:
            self.slopes[h, f] = np.asarray(values) / saved["reference_ms"]

    def samples(self) -> dict[Point, np.ndarray]:
        """Milliseconds."""
        return {p: s * self.unit for p, s in self.slopes.items()}


class _Reference:
    """The dense stacks at three depths that every group is timed against: built and bound once for
    all groups, when the first of them is measured (a run that finds all in the store builds
    nothing)."""

    def __init__(self, store, runtime, workload, shape, layers, stacks, seed):
        self.store, self.runtime, self.workload, self.shape, self.stacks, self.seed = (
            store,
            runtime,
            workload,
            shape,
            stacks,
            seed,
        )
        low, high = self.depths = depths(layers, runtime.capabilities.max_depth)
        self.point: Point = (shape.heads_total, shape.filters_total)
        self.three = (low, sum(self.depths) // 2, high)
        self._inputs = stack_inputs(shape, workload.batch, workload.sequence, seed)
        self._engines: list[Engine] = []
        self._runs: dict[str, BoundRun] = {}

    def bind(self, point: Point, depth: int, folder: Path, engines: list[Engine]) -> BoundRun:
        """A stack's engine, added to `engines`, bound."""
        engines.append(_build_stack(self.runtime, self.workload, self.stacks, point, depth, folder))
        return engines[-1].bind(self._inputs)

    def runs(self, folder: Path) -> dict[str, BoundRun]:
        for depth in self.three:
            name = _run_name(self.point, depth)
            if name not in self._runs:
                self._runs[name] = self.bind(self.point, depth, folder, self._engines)
        return dict(self._runs)

    def close(self) -> None:
        self._runs.clear()
        for engine in self._engines:
            engine.close()


def _run_name(point: Point, depth: int) -> str:
    return f"{point[0]}/{point[1]}/{depth}"


def _measure_points(
    done: _Measured, reference: _Reference, points, progress, seed, entry, title
) -> None:
    """Measure in groups, each against the reference. Those that an interrupted run finished are
    taken from the store; the rest is divided anew, since less or more memory may be free now."""
    store, left, number = reference.store, [p for p in points if p != reference.point], 0
    while (
        left
        and (saved := store.get_json("latency-part", store.key(entry, seed, number))) is not None
    ):
        done.take(saved, store.key(entry, seed, number))
        left = [p for p in left if p not in done.slopes]
        number += 1
    size = _group_size(reference.runtime, reference.shape, reference.workload, reference.depths)
    groups = _groups(left, size, seed)
    with progress.bar(title, number + len(groups)) as bar:
        bar.advance(number)
        for i, group in enumerate(groups, number):
            part = store.key(entry, seed, i)
            saved = _measure_group(reference, group, -(-len(points) // size), seed + i)
            store.put_json("latency-part", part, saved)
            done.take(saved, part)
            bar.advance()


def _group_size(
    runtime: Runtime, shape: BlockShape, workload: Workload, ds: tuple[int, int]
) -> int:
    """How many points the runtime has memory for beside the reference: weights, and activations
    that engines do not share."""
    inner = shape.heads_total * shape.head_dim
    weights = 4 * shape.hidden * inner + 2 * shape.hidden * shape.filters_total  # one block
    tokens = workload.batch * workload.sequence
    activations = (
        runtime.capabilities.own_activations
        * tokens
        * (
            4 * shape.hidden
            + 3 * inner
            + shape.filters_total
            + 2 * shape.heads_total * workload.sequence
        )
    )
    each = (4 if workload.precision == "fp32" else 2) * (weights * sum(ds) + activations * len(ds))
    return max(2, min(MAX_GROUP, int(runtime.group_bytes() // each)))


def _groups(points: Sequence[Point], size: int, seed: int) -> list[list[Point]]:
    """The points in parts of `size`. Shuffled, so that what one part has in common is no step in a
    curve."""
    order = np.random.default_rng(seed).permutation(len(points))
    return [
        [points[i] for i in order[start : start + size]] for start in range(0, len(points), size)
    ]


def _measure_group(reference: _Reference, group: list[Point], groups: int, seed: int) -> dict:
    """Slopes over depth of the points of one group, and of the dense point."""
    ds, dense = reference.depths, reference.point
    folder = reference.store.scratch("stacks")
    engines: list[Engine] = []
    runs: dict[str, BoundRun] = {}
    try:
        runs |= reference.runs(folder)
        runs |= {_run_name(p, d): reference.bind(p, d, folder, engines) for p in group for d in ds}
        times = interleave(
            runs,
            min_rounds=MIN_ROUNDS,
            min_seconds=SECONDS[0] / groups,
            max_seconds=SECONDS[1] / groups,
            warmup_ms=20.0,
            seed=seed,
        )
        facts = {k: v for run in runs.values() for k, v in run.measurement().items()}
    finally:
        runs.clear()  # they hold their buffers
        for engine in engines:
            engine.close()
        shutil.rmtree(folder, ignore_errors=True)
    rows = len(next(iter(times.values())))
    rng = np.random.default_rng(seed)
    draws = np.concatenate(
        [np.arange(rows)[None], rng.integers(0, rows, (RESAMPLES, rows))]
    )  # [1 + R, rounds]
    x = np.asarray(ds, dtype=np.float64) - np.mean(ds)
    slopes = []
    for point in (dense, *group):
        medians = np.stack(
            [np.median(times[_run_name(point, d)][draws], axis=1) for d in ds]
        )  # [depths, 1 + R]
        slopes.append((point, (x @ medians / (x @ x)).tolist()))
    low, middle, top = (float(np.median(times[_run_name(dense, d)])) for d in reference.three)
    expected = low + (top - low) * (reference.three[1] - ds[0]) / (ds[1] - ds[0])
    return {
        "slopes": slopes,
        "reference_ms": top,
        "rounds": rows,
        "bend": middle / expected - 1,
        "measurement": facts,
    }


class Stacks:
    """Where the ONNX files of stacks come from: made here. A board takes them from its bundle
    instead."""

    def __init__(self, shape: BlockShape, precision: str, seed: int):
        self.shape, self.precision, self.seed = shape, precision, seed
        self._checked = False

    def file(self, point: Point, depth: int, folder: Path) -> Path:
        """An ONNX file of `depth` blocks of (heads, filters), in `folder`."""
        import onnx

        from rfx.export.precision.convert import convert_precision

        path = folder / "stack.onnx"
        made = stack(self.shape, [point] * depth, seed=self.seed)
        # The checker on the first alone: the others have its nodes, and it takes longer than the
        # conversion.
        onnx.save(convert_precision(made, self.precision, check=not self._checked), str(path))
        self._checked = True
        return path


def _build_stack(
    runtime, workload, stacks: Stacks, point: Point, depth: int, folder: Path
) -> Engine:
    file = stacks.file(point, depth, folder)
    try:
        return runtime.build(file, workload)
    finally:
        file.unlink(missing_ok=True)


def _whole_models(
    store, runtime, workload, shape, layers, dense, emptied, inputs, facts, seed, stacks
) -> tuple[float, float]:
    """Latency of the dense and of the emptied model, on the table's scale."""
    folder = store.scratch("anchors")
    engines: list[Engine] = []
    try:
        empty = emptied()
        engines.append(empty)
        layer = (shape.heads_total, shape.filters_total)
        reference = _build_stack(
            runtime,
            workload,
            stacks,
            layer,
            depths(layers, runtime.capabilities.max_depth)[-1],
            folder,
        )
        engines.append(reference)
        times = interleave(
            {
                "reference": reference.bind(
                    stack_inputs(shape, workload.batch, workload.sequence, seed)
                ),
                **{
                    name: engine.bind(inputs.example(workload, seed=seed, names=engine.input_names))
                    for name, engine in (("dense", dense), ("emptied", empty))
                },
            },
            min_rounds=MIN_ROUNDS,
            min_seconds=ANCHOR_SECONDS,
            max_seconds=10 * ANCHOR_SECONDS,
            seed=seed,
        )
    finally:
        for engine in engines:
            engine.close()
        shutil.rmtree(folder, ignore_errors=True)
    unit = float(facts["reference_ms"]) / float(np.median(times["reference"]))
    return float(np.median(times["dense"])) * unit, float(np.median(times["emptied"])) * unit


def check_additivity(
    table: LatencyTable,
    sites: Sequence[Site],
    engines: Sequence[tuple[Plan, Engine]],
    dense: Engine,
    workload: Workload,
    *,
    inputs: InputSpec,
    progress: Progress,
    seed: int,
) -> LatencyTable:
    """The table with `additivity` filled in: predicted against measured latency of whole pruned
    models.

    Both are shares of the dense model's latency, from one interleaved run, put on the table's
    scale.
    """
    from dataclasses import replace

    runs = {"dense": dense.bind(inputs.example(workload, seed=seed, names=dense.input_names))}
    for i, (_, engine) in enumerate(engines):
        runs[str(i)] = engine.bind(inputs.example(workload, seed=seed, names=engine.input_names))
    try:
        times = interleave(
            runs,
            min_rounds=MIN_ROUNDS,
            min_seconds=ANCHOR_SECONDS,
            max_seconds=10 * ANCHOR_SECONDS,
            seed=seed,
        )
    finally:
        for _, engine in engines:
            engine.close()
    dense_ms = table.predict_ms(list(sites), {s.name: s.units for s in sites})
    rows = []
    for i, (plan, _) in enumerate(engines):
        predicted = table.predict_ms(list(sites), plan.counts)
        measured = dense_ms * float(np.median(times[str(i)]) / np.median(times["dense"]))
        rows.append(
            {
                "plan": plan.hash,
                "layers": plan.layers,
                "predicted_ms": predicted,
                "measured_ms": measured,
                "error": predicted / measured - 1,
            }
        )
    return replace(table, additivity=tuple(rows))
