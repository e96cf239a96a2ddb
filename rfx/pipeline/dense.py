"""Export a model as the recipe asks, and the dense baseline that everything is compared with."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rfx.core.artefact import Artefact
from rfx.core.environment import versions
from rfx.core.errors import UnsupportedModelError, UsageError
from rfx.core.plan import FULL, Plan
from rfx.core.registry import find
from rfx.core.values import short
from rfx.core.workload import SEQUENCE, Workload
from rfx.export.onnx import plan_metadata
from rfx.export.precision.convert import is_quantized
from rfx.models.subject import Subject
from rfx.pipeline import require
from rfx.pipeline.score import codes
from rfx.pipeline.session import Session
from rfx.recipe.spec import Recipe
from rfx.runtimes.base import Engine

if TYPE_CHECKING:
    from torch import nn

    from rfx.pipeline.quantizing import Quantizing

# Dense and pruned are the same export by the same versions.
EXPORTERS = ("torch", "transformers", "onnx", "onnxscript")
DENSE = {"role": "dense baseline"}
PLAIN = "rfx"  # what makes files that are not quantized
VERSION = 8  # of the dense baseline's file: those of another are not taken from the store


@dataclass(frozen=True)
class Baseline:
    """The dense model through the same export and runtime as the pruned one."""

    artefact: Artefact
    engine: Engine
    quantizing: Quantizing | None = None

    @property
    def made_by(self) -> str:
        """What made its file, for keys of the store."""
        return _made_by(self.quantizing)


def workload_of(recipe: Recipe, precision: str | None = None) -> Workload:
    """What the recipe times, at its own precision or at another one."""
    w = recipe.workload
    return Workload.of_text(
        batch=w.batch,
        sequence=w.sequence,
        threads=w.threads,
        precision=precision or w.precision,
    )


def quantizes(recipe: Recipe) -> bool:
    """Whether the file that is served has its products in integers.

    Raises:
        UsageError: the precision is still to be chosen.
    """
    require.chosen_precision(recipe)
    return is_quantized(recipe.workload.precision)


def compared_at(recipe: Recipe) -> str:
    """The precision of the dense model that everything is compared with: that of the served file,
    but fp32 where that is quantized."""
    return FULL if quantizes(recipe) else recipe.workload.precision


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
    precision: str | None = None,
    keep_fp32: Collection[str] = (),
    quantizing: Quantizing | None = None,
) -> Artefact:
    """A model at the recipe's precision, with what a later build has to know in its metadata.

    Args:
        precision: another than the recipe's.
        keep_fp32: names of sites whose products stay in fp32 where it is a quantized one.
        quantizing: what makes the file where it is a quantized one.
        model: `subject`'s own, or what is left of it after shrinking.
        outputs: names of the model's outputs.
        metadata: further facts.

    Raises:
        UnsupportedModelError: the plan has sites of another precision than the whole engine.
    """
    workload = workload_of(recipe, precision)
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
            source=subject.name,
            precision=workload.precision,
            batch=workload.batch,
            sequence=workload.sequence,
            max_length=recipe.max_length,
            positions=subject.inputs.limits.get(SEQUENCE) or "unlimited",
            **(metadata or {}),
        ),
        **_asked(
            recipe,
            modules_of(subject, keep_fp32),
            {} if quantizing is None else quantizing.asked(workload.precision),
        ),
    )


def modules_of(subject: Subject, names: Collection[str]) -> tuple[str, ...]:
    """The modules of sites, by the names of the sites.

    Raises:
        UsageError: there is no such site.
    """
    sites = {s.name: s for s in subject.sites}
    if unknown := [name for name in names if name not in sites]:
        raise UsageError(
            "There is no such site to keep in fp32.",
            got=", ".join(map(short, unknown)),
            allowed=", ".join(sites),
            next_step="correct --keep-fp32",
        )
    return tuple(m for name in names for m in (*sites[name].inputs, sites[name].output))


def _made_by(quantizing: Quantizing | None) -> str:
    return PLAIN if quantizing is None else quantizing.key


def _asked(
    recipe: Recipe, keep_fp32: tuple[str, ...], quantizer: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """What is not the default one: versions of ONNX, modules to keep in fp32, the quantizer and its
    calibration inputs. An exporter of another package need not know of them.

    Raises:
        UsageError: they were asked of an exporter that does not take them.
    """
    asked: dict[str, Any] = {
        key: value
        for key, value in (("opset", recipe.opset), ("ir_version", recipe.ir_version))
        if value != type(recipe).model_fields[key].default
    }
    if keep_fp32:
        asked["keep_fp32"] = keep_fp32
    asked |= quantizer
    takes = inspect.signature(find("exporter", recipe.exporter).export).parameters
    if strange := [key for key in asked if key not in takes]:
        raise UsageError(
            f"The exporter {recipe.exporter!r} does not take these settings.",
            got=", ".join(
                f"{key} {len(asked[key])} inputs"
                if key == "calibration"
                else f"{key} {short(asked[key])}"
                for key in strange
            ),
            allowed="the default",
            next_step=f"leave {' and '.join(strange)} out, or use the exporter onnx",
        )
    return asked


def dense_baseline(
    session: Session, recipe: Recipe, subject: Subject, outputs: tuple[str, ...]
) -> Baseline:
    """Export and build the dense model that everything is compared with, once; the file is kept in
    the store."""
    return dense_at(session, recipe, subject, outputs, compared_at(recipe), "dense baseline")


def dense_at(
    session: Session,
    recipe: Recipe,
    subject: Subject,
    outputs: tuple[str, ...],
    precision: str,
    stage: str,
    quantizing: Quantizing | None = None,
) -> Baseline:
    """The dense model at a precision, as a stage of this name.

    Args:
        quantizing: what makes the file where it is a quantized one.
    """
    workload = workload_of(recipe, precision)
    key = session.store.key(  # all that stands in its metadata
        VERSION,
        "dense",
        recipe.exporter,
        recipe.opset,
        recipe.ir_version,
        codes(recipe),
        {n: v for n, v in versions().items() if n in EXPORTERS},
        subject.hash,
        subject.name,
        outputs,
        subject.inputs.to_json(),
        workload.precision,
        _made_by(quantizing),
        workload.batch,
        workload.sequence,
        recipe.max_length,
    )
    with session.stage(stage) as clock:
        folder = session.store.get_folder("dense", key)
        clock.cached = folder is not None
        if folder is None:
            plan = Plan.dense(subject.sites)

            def fill(target: Path) -> None:
                made = export_model(
                    recipe,
                    subject,
                    subject.model,
                    target,
                    outputs,
                    plan,
                    metadata=DENSE,
                    precision=precision,
                    quantizing=quantizing,
                )
                made.save(target)

            folder = session.store.put_folder("dense", key, fill)
        artefact = Artefact.load(folder)
        return Baseline(artefact, session.build(artefact, workload), quantizing)
