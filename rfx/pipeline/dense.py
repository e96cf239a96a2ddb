"""Export a model as the recipe asks, and the dense baseline that everything is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rfx.core.artefact import Artefact
from rfx.core.environment import versions
from rfx.core.errors import UnsupportedModelError
from rfx.core.plan import Plan
from rfx.core.registry import find
from rfx.core.workload import SEQUENCE, Workload
from rfx.export.onnx import plan_metadata
from rfx.models.subject import Subject
from rfx.pipeline.score import codes
from rfx.pipeline.session import Session
from rfx.recipe.spec import Recipe
from rfx.runtimes.base import Engine

if TYPE_CHECKING:
    from torch import nn

# Dense and pruned are the same export by the same versions.
EXPORTERS = ("torch", "transformers", "onnx", "onnxscript")
DENSE = {"role": "dense baseline"}
VERSION = 5  # of the dense baseline's file: those of another are not taken from the store


@dataclass(frozen=True)
class Baseline:
    """The dense model through the same export and runtime as the pruned one."""

    artefact: Artefact
    engine: Engine


def workload_of(recipe: Recipe) -> Workload:
    """What the recipe times."""
    w = recipe.workload
    return Workload.of_text(
        batch=w.batch, sequence=w.sequence, threads=w.threads, precision=w.precision
    )


def export_model(
    recipe: Recipe,
    subject: Subject,
    model: nn.Module,
    folder: Path,
    outputs: tuple[str, ...],
    plan: Plan,
    *,
    name: str = "model.onnx",
    metadata: Mapping[str, object] | None = None,
) -> Artefact:
    """A model at the recipe's precision, with what a later build has to know in its metadata.

    Args:
        model: `subject`'s own, or what is left of it after shrinking.
        outputs: names of the model's outputs.
        metadata: further facts.

    Raises:
        UnsupportedModelError: the plan has sites of another precision than the whole engine.
    """
    workload = workload_of(recipe)
    own = {s.precision for s in plan.sites} - {None, workload.precision}
    if own:
        raise UnsupportedModelError(
            "The exporter writes all sites at one precision.",
            got=f"a plan with {', '.join(sorted(str(p) for p in own))} at some of them",
            allowed=workload.precision,
            next_step="search with a cost of one precision",
        )
    return find("exporter", recipe.exporter)().export(
        model,
        folder,
        inputs=subject.inputs,
        outputs=outputs,
        name=name,
        precision=workload.precision,
        metadata=plan_metadata(
            plan,
            source=subject.source,
            precision=workload.precision,
            batch=workload.batch,
            sequence=workload.sequence,
            max_length=recipe.max_length,
            positions=subject.inputs.limits.get(SEQUENCE) or "unlimited",
            **(metadata or {}),
        ),
    )


def dense_baseline(
    session: Session, recipe: Recipe, subject: Subject, outputs: tuple[str, ...]
) -> Baseline:
    """Export and build the dense model once; the file is kept in the store."""
    workload = workload_of(recipe)
    key = session.store.key(  # all that stands in its metadata
        VERSION,
        "dense",
        recipe.exporter,
        codes(recipe),
        {n: v for n, v in versions().items() if n in EXPORTERS},
        subject.hash,
        subject.source,
        outputs,
        subject.inputs.to_json(),
        workload.precision,
        workload.batch,
        workload.sequence,
        recipe.max_length,
    )
    with session.stage("dense baseline") as clock:
        folder = session.store.get_folder("dense", key)
        clock.cached = folder is not None
        if folder is None:
            plan = Plan.dense(subject.sites)

            def fill(target: Path) -> None:
                made = export_model(
                    recipe, subject, subject.model, target, outputs, plan, metadata=DENSE
                )
                made.save(target)

            folder = session.store.put_folder("dense", key, fill)
        artefact = Artefact.load(folder)
        return Baseline(artefact, session.build(artefact, workload))
