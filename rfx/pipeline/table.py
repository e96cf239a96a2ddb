"""The latency table of a model on its target: measured, taken from the store, or brought by the
user."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from rfx.core.errors import UnsupportedModelError, UsageError
from rfx.core.plan import Kind, Plan
from rfx.cost.latency import load_or_measure, table_key
from rfx.cost.table import LatencyTable, TableKey
from rfx.cost.table_file import read_table as read_table
from rfx.cost.table_file import write_table as write_table
from rfx.cost.whole import check_additivity
from rfx.evidence.records import TablePart
from rfx.export.blocks import BlockShape
from rfx.models.families.find import layout
from rfx.models.shrink import shrink
from rfx.models.subject import Subject
from rfx.pipeline.dense import Baseline, export_model, workload_of
from rfx.pipeline.score import codes
from rfx.pipeline.session import Session
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
    _found: list[tuple[LatencyTable, bool]] = field(default_factory=list)

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
        shape = block_shape(subject)
        key = table_key(session.target.serves, workload_of(recipe), shape)
        if self.given is not None:
            return _fitting(self.given, key, subject, absent=session.target.absent), True
        for table, _ in self._found:
            if table.key == key:
                return table, True
        self._found.append(_measured(session, recipe, subject, dense, outputs, shape))
        return self._found[-1]


def table_part(table: LatencyTable, cached: bool) -> TablePart:
    """What the evidence says of a table."""
    return TablePart(
        key=asdict(table.key),
        key_hash=table.key.hash,
        hash=table.hash,
        costs_ms={k: dict(v) for k, v in table.costs_ms.items()},
        fixed_ms=table.fixed_ms,
        additivity=[dict(r) for r in table.additivity],
        additivity_error=table.additivity_error,
        from_cache=cached,
    )


def block_shape(subject: Subject) -> BlockShape:
    """The shape of the model's Transformer layers, by which tables are comparable.

    Raises:
        UnsupportedModelError: the model lacks heads or filters, or its activation has no block.
    """
    heads, filters = subject.first(Kind.MHA), subject.first(Kind.FFN)
    if heads is None or filters is None:
        raise UnsupportedModelError(
            "rfx has no block to measure the latency of this model's layers with.",
            got=", ".join(sorted({s.kind.value for s in subject.sites})),
            allowed="layers with attention and a feed-forward network",
            next_step="prune with a FLOPs budget (--flops) instead",
        )
    config = subject.model.config
    activation = getattr(config, "hidden_act", None) or getattr(config, "activation", "gelu")
    return BlockShape(
        hidden=subject.hidden,
        heads_total=heads.units,
        head_dim=heads.width,
        filters_total=filters.units,
        layout=layout(subject.sites),
        activation=str(activation),
    )


def random_plan(subject: Subject, counts: dict[Kind, list[int]], rng: np.random.Generator) -> Plan:
    """Random counts of those given for each kind at every site, random units."""
    kept = {}
    for site in subject.sites:
        count = int(rng.choice(counts[site.kind]))
        kept[site.name] = rng.permutation(site.units)[:count].tolist()
    return Plan.of(subject.sites, kept)


def _fitting(given: LatencyTable, key: TableKey, subject: Subject, *, absent: bool) -> LatencyTable:
    if absent:  # version, device and clock are the board's
        key = replace(
            key, version=given.key.version, device=given.key.device, clock=given.key.clock
        )
    if given.key != key or given.layers != subject.layers:
        raise UsageError(
            "The latency table belongs to another runtime, device, shape or workload.",
            got=_difference(given, key, subject.layers),
            allowed="a table whose key fits this run",
            next_step="measure one here with `rfx profile`, or run where the table was measured",
        )
    return given


def _difference(given: LatencyTable, key: TableKey, layers: int) -> str:
    ours, theirs = asdict(key), asdict(given.key)
    rows = [f"{k}: table {theirs[k]!r}, here {ours[k]!r}" for k in ours if ours[k] != theirs[k]]
    if given.layers != layers:
        rows.append(f"layers: table {given.layers}, here {layers}")
    return "; ".join(rows)


def _measured(
    session: Session,
    recipe: Recipe,
    subject: Subject,
    dense: Baseline,
    outputs: tuple[str, ...],
    shape: BlockShape,
) -> tuple[LatencyTable, bool]:
    workload = workload_of(recipe)

    def emptied() -> Engine:
        plan = Plan.of(subject.sites, {s.name: () for s in subject.sites})
        folder = session.store.scratch("emptied")
        try:
            small = shrink(subject.model, subject.sites, plan)
            return session.build(
                export_model(recipe, subject, small, folder, outputs, plan), workload
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    with session.stage("latency table") as clock:
        # The fixed part belongs to this model (vocabulary, head), hence the hash. A table that
        # fails its check is measured a second time.
        table, cached = load_or_measure(
            session.store,
            session.target.here,
            workload,
            shape,
            subject.layers,
            dense=dense.engine,
            emptied=emptied,
            model_hash="/".join([subject.hash, recipe.exporter, *codes(recipe)]),
            inputs=subject.inputs,
            progress=session.progress,
            seed=recipe.seed,
            finish=lambda fresh: _with_additivity(session, recipe, subject, dense, outputs, fresh),
            limit=ADDITIVITY_LIMIT,
        )
        clock.cached = cached
    error = table.additivity_error
    if error is not None and error > ADDITIVITY_LIMIT:
        session.warn(
            f"The latency table predicts the latency of whole models only to {error:.1%} (the "
            f"limit is {ADDITIVITY_LIMIT:.0%}), although it was measured twice; it is not kept. "
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
) -> LatencyTable:
    """Predicted against measured latency of random plans of the whole model."""
    rng = np.random.default_rng(recipe.seed)
    counts = {s.kind: sorted(table.curve(s.kind)) for s in subject.sites}
    folder = session.store.scratch("additivity")
    workload = workload_of(recipe)
    try:
        engines: list[tuple[Plan, Engine]] = []
        with session.progress.bar("checking the table on whole models", ADDITIVITY_PLANS) as bar:
            for i in range(ADDITIVITY_PLANS):
                plan = random_plan(subject, counts, rng)
                small = shrink(subject.model, subject.sites, plan)
                artefact = export_model(
                    recipe, subject, small, folder, outputs, plan, name=f"{i}.onnx"
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
