"""Measure: the dense baseline on the target, and the latency table with its additivity error."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rfx.core.environment import versions
from rfx.core.errors import UsageError
from rfx.core.plan import Kind, Plan
from rfx.cost.latency import check_additivity, load_or_measure, table_key
from rfx.cost.table import LatencyTable
from rfx.export.blocks import BlockShape
from rfx.export.onnx import export_onnx, plan_metadata
from rfx.models.families.find import layout, position_limit
from rfx.models.shrink import shrink
from rfx.pipeline.examples import Subject
from rfx.pipeline.session import Session
from rfx.recipe.spec import Recipe
from rfx.runtimes.base import Engine
from rfx.runtimes.find import runtime_class

EXPORTERS = ("torch", "transformers", "onnx", "onnxscript")  # dense and pruned are the same export
DENSE_VERSION = 3  # of the dense baseline's file: those of another are not taken from the store
ADDITIVITY_LIMIT = 0.05
ADDITIVITY_PLANS = 3


@dataclass
class Baseline:
    """The dense model through the same export and runtime as the pruned one."""

    onnx: Path
    engine: Engine


def export_model(
    session: Session,
    subject: Subject,
    model,
    path: Path,
    outputs: tuple[str, ...],
    plan: Plan,
    **metadata: object,
) -> Path:
    """The ONNX file of a model at the recipe's precision, with what a later build has to know in
    its metadata."""
    workload = session.workload
    return export_onnx(
        model,
        path,
        inputs=subject.inputs,
        output_names=outputs,
        precision=workload.precision,
        metadata=plan_metadata(
            plan,
            source=subject.source,
            precision=workload.precision,
            batch=workload.batch,
            sequence=workload.sequence,
            max_length=session.recipe.max_length,
            positions=position_limit(model) or "unlimited",
            **metadata,
        ),
    )


def baseline(session: Session, subject: Subject, outputs: tuple[str, ...]) -> Baseline:
    """Export and build the dense model once; the file is kept in the store."""
    workload = session.workload
    key = session.store.key(  # all that stands in its metadata
        DENSE_VERSION,
        "dense",
        {n: v for n, v in versions().items() if n in EXPORTERS},
        subject.hash,
        subject.source,
        outputs,
        subject.inputs.to_json(),
        workload.precision,
        workload.batch,
        workload.sequence,
        session.recipe.max_length,
    )
    with session.stage("dense baseline") as clock:
        folder = session.store.get_folder("dense", key)
        if folder is None:
            plan = Plan.dense(subject.sites)

            def fill(target: Path) -> None:
                export_model(
                    session,
                    subject,
                    subject.model,
                    target / "model.onnx",
                    outputs,
                    plan,
                    role="dense baseline",
                )

            folder = session.store.put_folder("dense", key, fill)
        else:
            clock.cached = True
        return Baseline(folder / "model.onnx", session.build(folder / "model.onnx"))


def require_fit(recipe: Recipe, table: LatencyTable) -> None:
    """What can be said of a table before any work: its runtime and its conditions.

    Raises:
        UsageError: they are not the recipe's.
    """
    key, wanted = table.key, recipe.workload
    rows = (
        []
        if recipe.target in ("auto", key.runtime)
        else [f"runtime: table {key.runtime!r}, asked for {recipe.target!r}"]
    )
    for name in ("batch", "sequence", "precision", "threads"):
        there, asked = getattr(key, name), getattr(wanted, name)
        if there != asked and not (
            name == "threads" and not runtime_class(key.runtime).capabilities.uses_threads
        ):
            # A sequence that was not asked for gives way to what the model takes, which is not
            # known yet.
            if name == "sequence" and not recipe.given("workload.sequence"):
                continue
            rows.append(f"{name}: table {there!r}, asked for {asked!r}")
    if rows:
        raise UsageError(
            "The latency table belongs to another runtime or condition.",
            got="; ".join(rows),
            allowed="a table whose key fits this run",
            next_step="give the table's own --target, --batch, --sequence and --precision, or "
            "measure another",
        )


def block_shape(subject: Subject) -> BlockShape:
    first = {kind: next(s for s in subject.sites if s.kind is kind) for kind in Kind}
    mha = first[Kind.MHA]
    config = subject.model.config
    activation = getattr(config, "hidden_act", None) or getattr(config, "activation", "gelu")
    return BlockShape(
        hidden=subject.hidden,
        heads_total=mha.units,
        head_dim=mha.width,
        filters_total=first[Kind.FFN].units,
        layout=layout(subject.sites),
        activation=str(activation),
    )


def latency_table(
    session: Session,
    subject: Subject,
    dense: Baseline,
    outputs: tuple[str, ...],
    given: LatencyTable | None = None,
) -> tuple[LatencyTable, bool]:
    """The table of this model on this runtime under these conditions, measured or from the store.

    `given` is a table the user brought; it is taken if its key fits, and refused if not.

    Returns:
        The table and whether it was measured before.
    """
    shape = block_shape(subject)
    key = table_key(session.served_by, session.workload, shape)
    if given is not None:
        if session.offline:  # version, device and clock are the board's
            key = replace(
                key, version=given.key.version, device=given.key.device, clock=given.key.clock
            )
        if given.key != key or given.layers != subject.layers:
            raise UsageError(
                "The latency table belongs to another runtime, device, shape or condition.",
                got=_difference(given, key, subject.layers),
                allowed="a table whose key fits this run",
                next_step="measure one here with `rfx profile`, or run where the table was "
                "measured",
            )
        return given, True
    if session.table is not None and session.table[0].key == key:
        return session.table

    def emptied() -> Engine:
        plan = Plan.of(subject.sites, {s.name: () for s in subject.sites})
        folder = session.store.scratch("emptied")
        try:
            file = export_model(
                session,
                subject,
                shrink(subject.model, subject.sites, plan),
                folder / "model.onnx",
                outputs,
                plan,
            )
            return session.build(file)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    with session.stage("latency table") as clock:
        # The fixed part belongs to this model (vocabulary, head), hence the hash.
        table, cached = load_or_measure(  # a table that fails its check is measured a second time
            session.store,
            session.runtime,
            session.workload,
            shape,
            subject.layers,
            dense=dense.engine,
            emptied=emptied,
            model_hash=subject.hash,
            inputs=subject.inputs,
            progress=session.progress,
            seed=session.recipe.seed,
            finish=lambda fresh: _with_additivity(session, subject, dense, outputs, fresh),
            limit=ADDITIVITY_LIMIT,
        )
        clock.cached = cached
    error = table.additivity_error
    if error is not None and error > ADDITIVITY_LIMIT:
        session.warn(
            f"The latency table predicts whole models only to {error:.1%} (limit "
            f"{ADDITIVITY_LIMIT:.0%}), measured twice; it "
            "is not kept. The closed loop corrects for it. A quieter machine gives a better table."
        )
    session.table = table, cached
    return session.table


def _with_additivity(
    session: Session,
    subject: Subject,
    dense: Baseline,
    outputs: tuple[str, ...],
    table: LatencyTable,
) -> LatencyTable:
    """Predicted against measured latency of random plans of the whole model."""
    rng = np.random.default_rng(session.recipe.seed)
    folder = session.store.scratch("additivity")
    try:
        engines: list[tuple[Plan, Engine]] = []
        with session.progress.bar("checking the table on whole models", ADDITIVITY_PLANS) as bar:
            for i in range(ADDITIVITY_PLANS):
                plan = random_plan(subject, table, rng)
                file = export_model(
                    session,
                    subject,
                    shrink(subject.model, subject.sites, plan),
                    folder / f"{i}.onnx",
                    outputs,
                    plan,
                )
                engines.append((plan, session.build(file)))
                bar.advance()
        return check_additivity(
            table,
            subject.sites,
            engines,
            dense.engine,
            session.workload,
            inputs=subject.inputs,
            progress=session.progress,
            seed=session.recipe.seed,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def random_plan(subject: Subject, table: LatencyTable, rng: np.random.Generator) -> Plan:
    """Random measured counts at every site, random units."""
    kept = {}
    for site in subject.sites:
        count = int(rng.choice(sorted(table.curve(site.kind))))
        kept[site.name] = rng.permutation(site.units)[:count].tolist()
    return Plan.of(subject.sites, kept)


def _difference(given: LatencyTable, key, layers: int) -> str:
    from dataclasses import asdict

    ours, theirs = asdict(key), asdict(given.key)
    rows = [f"{k}: table {theirs[k]!r}, here {ours[k]!r}" for k in ours if ours[k] != theirs[k]]
    if given.layers != layers:
        rows.append(f"layers: table {given.layers}, here {layers}")
    return "; ".join(rows)
