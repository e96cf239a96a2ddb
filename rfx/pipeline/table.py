"""The latency table of a model on its target: measured, taken from the store, or brought by the
user."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial as partial_of

import numpy as np

from rfx.core.artefact import Artefact
from rfx.core.errors import UnsupportedModelError, UsageError
from rfx.core.plan import Kind, Plan
from rfx.cost.latency import load_or_measure, table_key
from rfx.cost.table import LatencyTable, TableKey
from rfx.cost.table_file import read_table as read_table
from rfx.cost.table_file import require_table_place as require_table_place
from rfx.cost.table_file import write_table as write_table
from rfx.cost.whole import Partial, check_additivity, units_left
from rfx.evidence.records import TablePart
from rfx.export.blocks import BlockShape
from rfx.export.one_position import modules_at_one_position
from rfx.models.families.find import layout
from rfx.models.shrink import shrink
from rfx.models.subject import Subject
from rfx.pipeline.dense import Baseline, export_model, workload_of
from rfx.pipeline.quantizing import for_timing, made_by, table_method
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
    share: float | None = None  # see `rfx.pipeline.loop.anchored_at`: it is measured once, too
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
        workload = workload_of(recipe)
        method = table_method(session.target.serves, workload.precision)
        key = table_key(session.target.serves, workload, shape, method)
        partial = partial_sites(subject, dense.artefact)
        if self.given is not None:
            absent = session.target.absent
            return _fitting(self.given, key, subject, partial, absent=absent), True
        for table, _ in self._found:
            if table.key == key:
                return table, True
        self._found.append(_measured(session, recipe, subject, dense, outputs, shape, partial))
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
        additivity=[dict(r) for r in table.additivity],
        additivity_error=table.additivity_error,
        from_cache=cached,
    )


def block_shape(subject: Subject) -> BlockShape:
    """The shape of the model's Transformer layers, by which tables are comparable.

    Raises:
        UnsupportedModelError: the model's layers are not those of which rfx has a block, or its
            activation has none.
    """
    heads, filters = subject.first(Kind.MHA), subject.first(Kind.FFN)
    why = _no_block(subject)
    if why or heads is None or filters is None:
        raise UnsupportedModelError(
            "rfx has no block to measure the latency of this model's layers with.",
            got=why,
            allowed="layers of one attention, with a linear of query, key and value each, and one "
            "feed-forward network of two linears",
            next_step="prune it with a FLOPs budget, --flops 0.5 for example; the latency of the "
            "result is measured all the same",
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


def _no_block(subject: Subject) -> str:
    """Why the layers are not such as the stacks of a table are made of; empty where they are."""
    kinds = [s.kind for s in subject.sites]
    if set(kinds) != {Kind.MHA, Kind.FFN}:
        return f"sites of {', '.join(sorted({k.label for k in kinds}))} alone"
    if not all(s.layer_path for s in subject.sites):
        return "no chain of layers"
    if kinds != [Kind.MHA, Kind.FFN] * subject.layers:
        return f"{len(kinds)} sites in {subject.layers} layers"
    for site in subject.sites:
        producers, factor = (3, 4 * site.width) if site.kind is Kind.MHA else (1, 2)
        others = site.weights and site.weights != factor * subject.hidden
        if site.slices or others or len(site.inputs) != producers:
            return f"{site.name}: {', '.join(site.inputs)} before {site.output}"
    return ""


def partial_sites(subject: Subject, dense: Artefact) -> dict[str, tuple[str, ...]]:
    """By kind, the sites whose output is computed at one position alone in the exported dense model
    (see `rfx.export.one_position`): they cost less than the others of their kind."""
    modules = modules_at_one_position(dense.files)
    kinds = dict.fromkeys(s.kind for s in subject.sites if s.output in modules)
    return {
        kind.value: tuple(s.name for s in subject.sites if s.kind is kind and s.output in modules)
        for kind in kinds
    }


def without(subject: Subject, kind: str, names: Collection[str]) -> Plan:
    """The dense model with some sites of a kind at the least that a table prices (`units_left`)."""
    kept = {s.name: range(s.units) for s in subject.sites}
    return Plan.of(subject.sites, kept | {name: range(units_left(kind)) for name in names})


def random_plan(
    subject: Subject,
    counts: Mapping[Kind, Sequence[int]],
    rng: np.random.Generator,
    partial: Mapping[str, tuple[str, ...]],
) -> Plan:
    """Random counts of those given for each kind at every site, random units.

    Args:
        partial: as `partial_sites` gives them; they keep `units_left` at least.
    """
    kept = {}
    for site in subject.sites:
        least = units_left(site.kind.value) if site.name in partial.get(site.kind, ()) else 0
        count = int(rng.choice([n for n in counts[site.kind] if n >= least]))
        kept[site.name] = rng.permutation(site.units)[:count].tolist()
    return Plan.of(subject.sites, kept)


def _fitting(
    given: LatencyTable,
    key: TableKey,
    subject: Subject,
    partial: Mapping[str, tuple[str, ...]],
    *,
    absent: bool,
) -> LatencyTable:
    if absent:  # version, device and clock are the board's
        key = replace(
            key, version=given.key.version, device=given.key.device, clock=given.key.clock
        )
    at_one = {name for names in partial.values() for name in names}
    if given.key != key or given.layers != subject.layers or set(given.shares) != at_one:
        raise UsageError(
            "The latency table belongs to another runtime, device, shape or workload.",
            got=_difference(given, key, subject.layers, at_one),
            allowed="a table whose key fits this run",
            next_step="measure one here with `rfx profile`, or run where the table was measured",
        )
    return given


def _difference(given: LatencyTable, key: TableKey, layers: int, at_one: set[str]) -> str:
    ours, theirs = asdict(key), asdict(given.key)
    rows = [f"{k}: table {theirs[k]!r}, here {ours[k]!r}" for k in ours if ours[k] != theirs[k]]
    if given.layers != layers:
        rows.append(f"layers: table {given.layers}, here {layers}")
    if set(given.shares) != at_one:
        theirs_named, ours_named = (", ".join(sorted(n)) or "none" for n in (given.shares, at_one))
        rows.append(f"sublayers at one position: table {theirs_named}, here {ours_named}")
    return "; ".join(rows)


def _measured(
    session: Session,
    recipe: Recipe,
    subject: Subject,
    dense: Baseline,
    outputs: tuple[str, ...],
    shape: BlockShape,
    partial: Mapping[str, tuple[str, ...]],
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
            session.store,
            session.target.here,
            workload,
            shape,
            subject.layers,
            dense=dense.engine,
            emptied=lambda: build(Plan.of(subject.sites, {s.name: () for s in subject.sites})),
            partial={
                kind: Partial(names, partial_of(build, without(subject, kind, names)))
                for kind, names in partial.items()
            },
            model_hash="/".join([subject.hash, recipe.exporter, made, *codes(recipe)]),
            inputs=subject.inputs,
            progress=session.progress,
            seed=recipe.seed,
            finish=lambda fresh: _with_additivity(
                session, recipe, subject, dense, outputs, fresh, partial
            ),
            limit=ADDITIVITY_LIMIT,
            quantizer=table_method(session.target.serves, workload.precision),
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
    partial: Mapping[str, tuple[str, ...]],
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
                plan = random_plan(subject, counts, rng, partial)
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
