"""Judge evidence by new limits, from its numbers alone."""

from __future__ import annotations

from pathlib import Path

from rfx.evidence.gates import check
from rfx.evidence.read import read_evidence
from rfx.evidence.records import Evidence


def gate(
    evidence: Evidence | str | Path,
    *,
    max_drop: float | None = None,
    min_speedup: float | None = None,
    baseline: Evidence | str | Path | None = None,
    max_regression: float = 0.5,
) -> Evidence:
    """The same evidence with its gates judged again.

    Args:
        evidence: the evidence, evidence.json, or the folder that holds it.
        max_drop: points of the metric that may be lost; None keeps the recorded limit.
        min_speedup: least speedup over the dense model; None keeps the recorded limit.
        baseline: evidence that this one must not be worse than, measured under the same workload.
        max_regression: points that it may lose against the baseline.

    Raises:
        UsageError: no such file, evidence without measurements, or a baseline that cannot be
            compared with.

    Examples:
        >>> rfx.gate("build", max_drop=1.0, min_speedup=1.3).outcome
        'pass'
    """

    def read(given: Evidence | str | Path) -> Evidence:
        return given if isinstance(given, Evidence) else read_evidence(given)

    found = read(evidence)
    gates = check(
        found,
        max_drop=max_drop,
        min_speedup=min_speedup,
        max_regression=max_regression,
        baseline=None if baseline is None else read(baseline),
    )
    return found.model_copy(update={"gates": gates})
