"""The latency table of a model on its target: measured, taken from the store, or brought by the
user."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial as partial_of

import numpy as np

from rfx.core.environment import versions
from rfx.core.errors import UsageError
from rfx.core.plan import FULL, Plan
from rfx.cost.alike import Alike, ModelShape
from rfx.cost.bench import Bench
from rfx.cost.latency import load_or_measure, table_key
from rfx.cost.table import LatencyTable, TableKey
from rfx.cost.table_file import read_table as read_table
from rfx.cost.table_file import require_table_place as require_table_place
from rfx.cost.table_file import write_table as write_table
from rfx.cost.whole import check_additivity
from rfx.evidence.records import TablePart
from rfx.models.shrink import shrink
from rfx.models.subject import Subject
from rfx.pipeline import require
from rfx.pipeline.choose import at_precision
from rfx.pipeline.dense import EXPORTERS, Baseline, export_model, workload_of
from rfx.pipeline.quantizing import for_timing, made_by, table_method
from rfx.pipeline.score import codes
from rfx.pipeline.session import Session
from rfx.pipeline.timed import Timed, model_shape
from rfx.recipe.spec import Recipe
from rfx.runtimes.base import Engine

ADDITIVITY_LIMIT = 0.05
ADDITIVITY_PLANS = 3


@dataclass
class Tables:
    """Where a job's latency table comes from. A job has one table, also where it is too inexact to
    be kept in the store: it is measured when it is first asked for.

    Args:
        given: a table that the user brought; it is taken if its key fits, and refused if not.
    """

    given: LatencyTable | None = None
    share: float | None = None  # see `rfx.pipeline.loop.anchored_at`: it is measured once, too
    _found: list[tuple[LatencyTable, bool]] = field(default_factory=list)

    def of(
        self, session: Session, recipe: Recipe, dense: Baseline, quantized: Baseline | None
    ) -> tuple[Recipe, Baseline]:
        """The recipe and the dense model whose table the search goes by.

        Of quantized models it is that of the fp32 ones where latency is near linear in the counts:
        measured on two models, its plans are as good at the same latency as those of a table of
        quantized models (benchmarks.int8), which takes twice as long. Where latency goes in steps,
        the steps differ with the precision. A table that the user brought is taken as it is, one of
        quantized models too.

        Args:
            quantized: the dense model at the recipe's precision, where that is a quantized one.
        """
        if quantized is None:
            return recipe, dense
        precision = recipe.workload.precision
        full = self.given is None and session.target.serves.capabilities.smooth
        if full or (self.given and require.searched_in_full(self.given, precision)):
            return at_precision(recipe, FULL, "the table that the search goes by"), dense
        return recipe, quantized

    def get(
        self,
        session: Session,
        recipe: Recipe,
        subject: Subject,
        dense: Baseline,
        outputs: tuple[str, ...],
    ) -> tuple[LatencyTable, bool]:
        """The table, and whether it had been measured before.

        Raises:
            UsageError: the given table belongs to another runtime, device, shape or workload.
        """
        shape = model_shape(recipe, subject, dense.artefact)
        workload = workload_of(recipe)
        method = table_method(session.target.serves, workload.precision)
        key = table_key(session.target.serves, workload, shape, method)
        if self.given is not None:
            return _fitting(self.given, key, shape, absent=session.target.absent), True
        for table, _ in self._found:
            if table.key == key:
                return table, True
        self._found.append(_measured(session, recipe, subject, dense, outputs, shape))
        return self._found[-1]


def table_part(table: LatencyTable, cached: bool) -> TablePart:
    """What the evidence says of a table."""
    return TablePart(
        key=table.key.to_json(),
        key_hash=table.key.hash,
        hash=table.hash,
        costs_ms={k: dict(v) for k, v in table.costs_ms.items()},
        fixed_ms=table.fixed_ms,
        shares=dict(table.shares),
        curves=dict(table.curves),
        additivity=[dict(r) for r in table.additivity],
        additivity_error=table.additivity_error,
        from_cache=cached,
    )


def random_plan(
    subject: Subject,
    counts: Mapping[str, Sequence[int]],
    rng: np.random.Generator,
    shape: ModelShape,
) -> Plan:
    """Random counts of those given for each curve at every site of it, random units. Partial sites
    keep `Alike.least` units at least."""
    groups = {name: group for group in shape.alike for name in group.sites}
    kept = {}
    for site in subject.sites:
        group = groups[site.name]
        allowed = [n for n in counts[group.name] if group.kept(site.name, n) == n]
        kept[site.name] = rng.permutation(site.units)[: int(rng.choice(allowed))].tolist()
    return Plan.of(subject.sites, kept)


def without_partial(subject: Subject, group: Alike) -> Plan:
    """The dense model whose partial sites of a curve keep the fewest units that they are timed
    with."""
    kept = {s.name: range(s.units) for s in subject.sites}
    return Plan.of(subject.sites, kept | {name: range(group.least) for name in group.partial})


def _fitting(
    given: LatencyTable, key: TableKey, shape: ModelShape, *, absent: bool
) -> LatencyTable:
    if absent:  # version, device and clock are the board's
        key = replace(
            key, version=given.key.version, device=given.key.device, clock=given.key.clock
        )
    if (given.key, given.layers, *_sites(given)) != (key, shape.layers, *_own_sites(shape)):
        raise UsageError(
            "The latency table belongs to another runtime, device, model or workload.",
            got=_difference(given, key, shape),
            allowed="a table whose key fits this run",
            next_step="measure one here with `rfx profile`, or run where the table was measured",
        )
    return given


def _sites(table: LatencyTable) -> tuple[set[str], tuple[dict[str, str], dict[str, int]]]:
    """What a table says of single sites: those at one position; the curves, and their units."""
    units = {name: max(curve) for name, curve in table.costs_ms.items()}
    return set(table.shares), (dict(table.curves), units)


def _own_sites(shape: ModelShape) -> tuple[set[str], tuple[dict[str, str], dict[str, int]]]:
    units = {g.name: g.units for g in shape.alike}
    return {n for own in shape.partial.values() for n in own}, (shape.curves, units)


def _difference(given: LatencyTable, key: TableKey, shape: ModelShape) -> str:
    ours, theirs = asdict(key), asdict(given.key)
    rows = [f"{k}: table {theirs[k]!r}, here {ours[k]!r}" for k in ours if ours[k] != theirs[k]]
    if given.layers != shape.layers:
        rows.append(f"layers: table {given.layers}, here {shape.layers}")
    (theirs_partial, theirs_curves), (ours_partial, ours_curves) = _sites(given), _own_sites(shape)
    if theirs_partial != ours_partial:
        a, b = (", ".join(sorted(n)) or "none" for n in (theirs_partial, ours_partial))
        rows.append(f"sublayers at one position: table {a}, here {b}")
    if theirs_curves != ours_curves:
        rows.append("sublayers of several sizes: the table has others than the model")
    return "; ".join(rows)


def bench_of(
    session: Session,
    recipe: Recipe,
    subject: Subject,
    outputs: tuple[str, ...],
    shape: ModelShape,
) -> Bench:
    """What a table of the recipe's model is measured with."""
    quantizing = for_timing(session, recipe, subject)
    return Bench(
        session.store,
        session.target.here,
        workload_of(recipe),
        shape,
        Timed(session, recipe, subject, outputs, shape, quantizing),
        subject.inputs,
        session.progress,
        recipe.seed,
        " ".join(f"{n} {v}" for n, v in versions().items() if n in EXPORTERS),
    )


def _measured(
    session: Session,
    recipe: Recipe,
    subject: Subject,
    dense: Baseline,
    outputs: tuple[str, ...],
    shape: ModelShape,
) -> tuple[LatencyTable, bool]:
    workload = workload_of(recipe)
    made = made_by(session.target.serves, workload.precision)
    quantizing = for_timing(session, recipe, subject)

    def build(plan: Plan) -> Engine:
        folder = session.store.scratch("emptied")
        try:
            small = shrink(subject.model, subject.sites, plan)
            artefact = export_model(
                recipe, subject, small, folder, outputs, plan, quantizing=quantizing
            )
            return session.build(artefact, workload)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    with session.stage("latency table") as clock:
        # The fixed part belongs to this model (vocabulary, head), hence the hash. A table that
        # fails its check is measured a second time.
        table, cached = load_or_measure(
            bench_of(session, recipe, subject, outputs, shape),
            dense=dense.engine,
            emptied=lambda: build(Plan.of(subject.sites, {s.name: () for s in subject.sites})),
            without={
                group.name: partial_of(build, without_partial(subject, group))
                for group in shape.alike
                if group.partial
            },
            model_hash="/".join([subject.hash, recipe.exporter, made, *codes(recipe)]),
            finish=lambda fresh: _with_additivity(
                session, recipe, subject, dense, outputs, fresh, shape
            ),
            limit=ADDITIVITY_LIMIT,
            quantizer=table_method(session.target.serves, workload.precision),
        )
        clock.cached = cached
    error = table.additivity_error
    if error is not None and error > ADDITIVITY_LIMIT:
        session.warn(
            f"The latency table predicts the latency of whole models only to {error:.1%} (the "
            f"limit is {ADDITIVITY_LIMIT:.0%}), although it was measured twice; the cache "
            "does not keep it. "
            "The closed loop corrects for it. A quieter machine gives a better table."
        )
    return table, cached


def _with_additivity(
    session: Session,
    recipe: Recipe,
    subject: Subject,
    dense: Baseline,
    outputs: tuple[str, ...],
    table: LatencyTable,
    shape: ModelShape,
) -> LatencyTable:
    """Predicted against measured latency of random plans of the whole model."""
    rng = np.random.default_rng(recipe.seed)
    counts = {name: sorted(curve) for name, curve in table.costs_ms.items()}
    folder = session.store.scratch("additivity")
    workload = workload_of(recipe)
    try:
        engines: list[tuple[Plan, Engine]] = []
        with session.progress.bar("checking the table on whole models", ADDITIVITY_PLANS) as bar:
            for i in range(ADDITIVITY_PLANS):
                plan = random_plan(subject, counts, rng, shape)
                small = shrink(subject.model, subject.sites, plan)
                artefact = export_model(
                    recipe,
                    subject,
                    small,
                    folder,
                    outputs,
                    plan,
                    name=f"{i}.onnx",
                    quantizing=for_timing(session, recipe, subject),
                )
                engines.append((plan, session.build(artefact, workload)))
                bar.advance()
        return check_additivity(
            table,
            subject.sites,
            engines,
            dense.engine,
            workload,
            inputs=subject.inputs,
            progress=session.progress,
            seed=recipe.seed,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
