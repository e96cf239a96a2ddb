"""The rival: the dense model quantized alone. It costs no pruning and is the first thing that
anybody tries, so every result is shown beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rfx.core.environment import tool
from rfx.core.errors import EnvironmentMissingError, UserError, is_interrupt
from rfx.core.text import one_line
from rfx.evidence.precision import SweepRival, SweepRivalLatency
from rfx.evidence.records import RivalLatency, RivalPart
from rfx.export.find import quantizer_class
from rfx.export.precision.convert import is_quantized
from rfx.measure.latency import measure_pair
from rfx.methods.scores.divergence import outputs_divergence
from rfx.models.subject import Subject
from rfx.pipeline import require
from rfx.pipeline.baseline import Outputs, dense_outputs, result_of
from rfx.pipeline.dense import (
    Baseline,
    dense_at,
    modules_of,
    quantizes,
    workload_of,
)
from rfx.pipeline.judge import FINAL_SECONDS
from rfx.pipeline.quantizing import for_serving
from rfx.pipeline.score import codes
from rfx.pipeline.session import Session
from rfx.recipe.spec import Recipe
from rfx.tasks.calibration import features_hash
from rfx.tasks.examples import Examples

VERSION = 2  # of what a sweep keeps of the rival
_LONGEST = 300  # characters of a failure that are shown


@dataclass(frozen=True)
class Rival:
    """The dense model at a quantized precision."""

    precision: str
    baseline: Baseline

    @property
    def method(self) -> str:
        """What quantized it, and how, in words."""
        made = self.baseline.quantizing
        return self.baseline.made_by if made is None else made.method


def precision_of(session: Session) -> str | None:
    """The quantized precision that rfx can write for the target and run here; None: there is none,
    or what would write it is not installed."""
    if session.target.absent:
        return None
    able = session.target.serves.capabilities
    precision = next((name for name in able.precisions if is_quantized(name)), None)
    if precision is None or able.quantizer is None:
        return precision
    try:
        quantizer_class(able.quantizer).require()
    except EnvironmentMissingError:
        return None
    return precision


def stages_of_rival(session: Session, recipe: Recipe) -> int:
    """How many stages it takes to make and to judge the rival."""
    return 2 * (quantizes(recipe) or precision_of(session) is not None)


def make_rival(
    session: Session, recipe: Recipe, subject: Subject, examples: Examples
) -> Rival | None:
    """The rival on the recipe's target; None where rfx cannot quantize for it.

    Raises:
        UserError: the recipe asks for a quantized model itself, and it cannot be made, or names
            sites that there are not.
    """
    kept = recipe.quantization.keep_fp32
    modules_of(subject, kept)
    if quantizes(recipe):
        require.something_quantized([s.name for s in subject.sites], kept, "sites of the model")
    precision = recipe.workload.precision if quantizes(recipe) else precision_of(session)
    if precision is None:
        return None
    with _optional(session, recipe, "could not be quantized", stages_of_rival(session, recipe)):
        made = dense_at(
            session,
            recipe,
            subject,
            examples.task.graph_outputs(),
            precision,
            f"dense model at {precision}",
            for_serving(session, recipe, subject, examples, precision),
        )
        engine = made.engine  # what is built may still not run, and it is timed beside the others
        workload = workload_of(recipe, precision)
        engine.run(subject.inputs.example(workload, seed=recipe.seed, names=engine.input_names))
        return Rival(precision, made)
    return None


@contextmanager
def _optional(session: Session, recipe: Recipe, why: str, stages: int) -> Iterator[None]:
    """Where the rival fails, whatever of, that is said and the job goes on without it. A recipe
    that asks for a quantized model itself needs it.

    Args:
        why: in words, what could not be done with the dense model.
        stages: of the job, that there will not be.
    """
    done = len(session.stages)
    try:
        yield
    except Exception as error:  # exporters, runtimes and tasks of others raise any kind
        if quantizes(recipe) or is_interrupt(error):
            raise
        said = f"{error.what} {error.got or ''}" if isinstance(error, UserError) else str(error)
        session.expect(len(session.stages) - done - stages)
        session.warn(
            f"The dense model {why} ({one_line(said.strip() or type(error).__name__, _LONGEST)}), "
            "so that this result is not compared with it."
        )


def judged(
    session: Session,
    recipe: Recipe,
    subject: Subject,
    examples: Examples,
    rival: Rival | None,
    before: Outputs,
    latency: RivalLatency | None,
    *,
    fresh: bool = False,
) -> RivalPart | None:
    """What the rival loses, and how fast it is.

    Args:
        before: the dense engine's outputs on the evaluation set.
        latency: as it was measured beside the pruned model.
        fresh: evaluate it again, even where the store knows its outputs.
    """
    if rival is None:
        return None
    with _optional(session, recipe, f"could not be evaluated at {rival.precision}", 1):
        losses = _losses(session, recipe, subject, examples, rival, before, fresh=fresh)
        return RivalPart(**losses, latency=latency)
    return None


def of_a_sweep(
    session: Session,
    recipe: Recipe,
    subject: Subject,
    examples: Examples,
    rival: Rival | None,
    before: Outputs,
    dense: Baseline,
) -> SweepRival | None:
    """What the rival loses, and how fast it is beside the dense model alone: every point of a sweep
    is timed beside that too. Taken from the store where it is there.

    Args:
        before: the dense engine's outputs on the evaluation set.
    """
    if rival is None:
        return None
    serves, task = session.target.serves, examples.task
    key = session.store.key(
        VERSION,
        tool(),
        "sweep-rival",
        subject.hash,
        features_hash(examples.evaluation_features),
        [[e.hash, e.label] for e in examples.evaluation],
        recipe.data.labels,
        recipe.metric,
        recipe.task_options,
        recipe.exporter,
        workload_of(recipe).to_json(),
        rival.precision,
        rival.baseline.made_by,
        recipe.opset,
        recipe.ir_version,
        recipe.seed,
        serves.name,
        serves.version(),
        serves.device(),
        session.target.here.name,
        *codes(recipe, task=task.name, runtime=serves.name, precision=rival.precision),
    )
    kept = session.store.get_json("sweep-rival", key)
    if kept is not None:
        return SweepRival.model_validate(kept)
    with _optional(session, recipe, f"could not be measured at {rival.precision}", 0):
        made = SweepRival(
            **_losses(session, recipe, subject, examples, rival, before),
            latency=_beside_dense(session, recipe, subject, rival, dense),
        )
        session.store.put_json("sweep-rival", key, made.model_dump(mode="json"))
        return made
    return None


def _beside_dense(
    session: Session, recipe: Recipe, subject: Subject, rival: Rival, dense: Baseline
) -> SweepRivalLatency | None:
    """The rival timed in turns with the dense model; None where the target is absent."""
    if session.target.absent:
        return None
    with session.stage(f"latency of the dense model at {rival.precision}"):
        pair = measure_pair(
            session.target.here,
            dense.engine,
            rival.baseline.engine,
            workload_of(recipe),
            inputs=subject.inputs,
            seed=recipe.seed + 1,
            min_seconds=FINAL_SECONDS,
        )
    return SweepRivalLatency(
        ms=pair.pruned_ms, dense_ms=pair.dense_ms, ratio=pair.ratio, interval=pair.interval
    )


def _losses(
    session: Session,
    recipe: Recipe,
    subject: Subject,
    examples: Examples,
    rival: Rival,
    before: Outputs,
    *,
    fresh: bool = False,
) -> dict[str, Any]:
    """What `RivalLosses` has: the rival evaluated, or its outputs taken from the store."""
    with session.stage(f"accuracy of the dense model at {rival.precision}") as clock:
        outputs, clock.cached = dense_outputs(
            session,
            recipe,
            subject,
            examples,
            rival.baseline,
            fresh=fresh,
            precision=rival.precision,
            title="evaluating the quantized dense model",
        )
    task = examples.task
    dense, own = result_of(examples, before), result_of(examples, outputs)
    return {
        "precision": rival.precision,
        "method": rival.method,
        "metric": own.value,
        "drop": 100 * (dense.value - own.value),
        "agreement": task.agreement(dense.predictions, own.predictions).share,
        "divergence": outputs_divergence(before, outputs, task.output_names),
        "bytes": sum(file.stat().st_size for file in rival.baseline.artefact.files),
    }
