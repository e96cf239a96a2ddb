"""`--precision auto`: the model is finished in fp32 and in the quantized precision of the target,
to the same latency, and the one that stays nearer to the dense model is kept."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

from rfx.core.errors import InfeasibleError, UsageError
from rfx.core.plan import FULL
from rfx.core.store import Store
from rfx.evidence.records import Considered, Evidence
from rfx.export.precision.convert import is_quantized
from rfx.pipeline import require
from rfx.recipe.spec import Recipe
from rfx.runtimes.base import Runtime


def candidates(recipe: Recipe, runtime: Runtime) -> tuple[str, ...]:
    """The precisions that are tried on a runtime: fp32, and the quantized ones that its GPU has.

    Raises:
        EnvironmentMissingError: what quantizes for it is not installed.
    """
    found = [FULL]
    for name in filter(is_quantized, runtime.capabilities.precisions):
        at = at_precision(recipe, name)
        try:
            require.compute(at, runtime, None)
        except UsageError:
            continue
        require.quantizer(at, runtime)
        found.append(name)
    return tuple(found)


def at_precision(recipe: Recipe, precision: str, origin: str = "--precision auto") -> Recipe:
    """The recipe at one of the precisions. What it asks of quantized models says nothing of the
    others."""
    changes: dict[str, object] = {"workload.precision": precision}
    if not is_quantized(precision):
        changes |= {"quantization": {}, "limits.max_quantization_loss": None}
    return recipe.changed(changes, origin=origin)


def best(
    recipe: Recipe,
    precisions: tuple[str, ...],
    store: Store,
    make: Callable[[Recipe, Path], Evidence],
    note: Callable[[str], None],
) -> tuple[Evidence, Path]:
    """Make the output at each precision, and give the best one with the folder that it lies in,
    which is the caller's to remove.

    A latency is what the search aims at, so that all of them are as fast. Those whose gates fail
    are taken only where all fail, and a quantized one that was not measured faster than itself in
    fp32 only where nothing else is left; of the others the one of the smallest divergence is.

    Args:
        make: makes the output of a recipe in a folder.
        note: told what was found.

    Raises:
        InfeasibleError: no precision reaches the budget.
    """
    found: list[tuple[Evidence, Path]] = []
    tried: list[Considered] = []
    refused: InfeasibleError | None = None
    folder = store.scratch("auto")
    try:
        for precision in precisions:
            at = at_precision(recipe, precision)
            try:
                evidence = make(at, folder / precision)
            except InfeasibleError as error:
                refused = refused or error
                note(f"{precision} cannot reach the budget")
                tried.append(
                    Considered(precision=precision, note=f"{error.what} {error.got or ''}".strip())
                )
                continue
            found.append((evidence, folder / precision))
            tried.append(_considered(precision, evidence))
        if not found:
            assert refused is not None
            raise refused
        evidence, place = min(found, key=lambda item: _loss(item[0]))
        kept = folder.with_name(f"{folder.name}-kept")
        place.rename(kept)
        return evidence.model_copy(update={"considered": tried}), kept
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _considered(precision: str, evidence: Evidence) -> Considered:
    part = evidence.accuracy
    return Considered(
        precision=precision,
        outcome=evidence.outcome,
        ratio=None if evidence.latency is None else evidence.latency.ratio,
        divergence=None if part is None else part.divergence,
        drop=None if part is None else part.drop,
    )


def _loss(evidence: Evidence) -> tuple[bool, bool, float]:
    """By what outputs are compared: failed or not, quantized for nothing or not, and the
    divergence, or the drop without one."""
    part = evidence.accuracy
    loss = math.inf
    if part is not None:
        loss = part.drop if part.divergence is None else part.divergence
    finite = loss if math.isfinite(loss) else math.inf
    return evidence.outcome == "fail", _no_faster(evidence), finite


def _no_faster(evidence: Evidence) -> bool:
    """Whether nothing was gained by quantizing that could be measured."""
    part = evidence.quantization
    return part is not None and (part.interval is None or not part.interval[1] < 1)
