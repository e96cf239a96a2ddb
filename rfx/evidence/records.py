"""Evidence: all that was measured, and the verdict of each gate. The only source of every report.

The reference page of the schema is made from the descriptions of these fields. Earlier versions of
the document are read through `rfx.core.migrate`.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

Outcome = Literal["pass", "fail", "inconclusive"]


def _null_if_not_finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they are written as null, however deep they stand."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _null_if_not_finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_null_if_not_finite(v) for v in value]
    return value


def _nan_if_null(value: Any) -> Any:
    return math.nan if value is None else value


# A measured number. One that is not finite is null in JSON and NaN when it is read again: a gate
# over it fails.
Number = Annotated[
    float,
    BeforeValidator(_nan_if_null),
    PlainSerializer(_null_if_not_finite, return_type=Any, when_used="json"),
]
Facts = Annotated[
    dict[str, Any], PlainSerializer(_null_if_not_finite, return_type=Any, when_used="json")
]


class Part(BaseModel):
    """A part of the evidence. A key that it does not have is a mistake."""

    model_config = ConfigDict(extra="forbid")


class Gate(Part):
    """One limit, and whether what was measured keeps it."""

    name: str = Field(
        description="What is judged: `shrunk`, `same`, `accuracy` and `latency` in every evidence; "
        "`baseline-accuracy` and `baseline-latency` where it was compared with another."
    )
    outcome: Outcome = Field(
        description="`pass` where the whole interval is inside the limit, `fail` where it is "
        "outside or where a number is not finite, `inconclusive` between."
    )
    value: float | None = Field(
        default=None, description="What was measured; null: it is no number."
    )
    limit: float | None = Field(
        default=None, description="The most that passes; null: there is no limit."
    )
    interval: tuple[Number, Number] | None = Field(
        default=None, description="95 % interval of the value; null: the value is exact."
    )
    unit: str = Field(default="", description="Unit of value, limit and interval.")
    detail: str = Field(default="", description="What the verdict rests on, in words.")


class Percentiles(Part):
    """How the times of one model are distributed."""

    p50: Number = Field(description="Median, ms.")
    p90: Number = Field(description="90th percentile, ms.")
    p95: Number = Field(description="95th percentile, ms.")
    p99: Number = Field(description="99th percentile, ms.")
    mean: Number = Field(description="Mean, ms.")
    samples: int = Field(description="How many inferences were timed.")


class LatencyPart(Part):
    """Dense and pruned model, timed in turns in one process."""

    dense_ms: Number = Field(description="Median latency of the dense model, ms.")
    pruned_ms: Number = Field(description="Median latency of the pruned model, ms.")
    ratio: Number = Field(description="Median of pruned over median of dense.")
    interval: tuple[Number, Number] = Field(description="95 % bootstrap interval of the ratio.")
    target: float | None = Field(
        default=None, description="The ratio that was asked for; null under a FLOPs budget."
    )
    predicted_ratio: float | None = Field(
        default=None,
        description="The ratio that the latency table predicted before anything was built.",
    )
    dense: Percentiles = Field(description="Times of the dense model.")
    pruned: Percentiles = Field(description="Times of the pruned model.")
    clock: str = Field(description="The clock that timed, such as `process CPU time`.")
    workload: Facts = Field(
        description="What was timed (batch, axes, phase, threads, precision) and on what (runtime, "
        "version, device)."
    )
    measurement: Facts | None = Field(
        default=None,
        description="How it was timed: warm-up, rounds, CUDA graph, transfers, streams.",
    )
    with_transfers: dict[str, Number] | None = Field(
        default=None,
        description="Medians with inputs copied to the device and outputs copied back, ms; null "
        "where nothing is copied.",
    )
    state: Facts | None = Field(
        default=None,
        description="Clocks, power and throttling before and after, where the device tells them.",
    )

    @property
    def speedup(self) -> float:
        """Dense over pruned."""
        return 1 / self.ratio if self.ratio else math.inf


class AccuracyPart(Part):
    """The pruned engine against the dense one, on the whole evaluation set."""

    metric: str = Field(description="Name of the metric.")
    dense: Number = Field(description="The dense model's metric, 0 to 1.")
    pruned: Number = Field(description="The pruned model's metric, 0 to 1.")
    drop: Number = Field(
        description="Points that are lost, 100 times dense minus pruned; negative where the pruned "
        "model is better."
    )
    interval: tuple[Number, Number] = Field(
        description="95 % interval of the drop, points, from a paired bootstrap."
    )
    examples: int = Field(description="Examples of the evaluation set.")
    max_drop: float | None = Field(
        default=None, description="Points that may be lost; null: no limit."
    )
    agreement: float | None = Field(
        default=None, description="Share of the examples that are predicted as by the dense model."
    )
    divergence: Number | None = Field(
        default=None,
        description="Divergence of the outputs from the dense model's, mean over the examples: KL, "
        "or the squared difference of a regression.",
    )
    predictions_hash: str | None = Field(
        default=None,
        description="Hash of the pruned model's predictions: equal hashes mean models that are "
        "equal in effect.",
    )


class TablePart(Part):
    """The latency table that the search chose from."""

    key: Facts = Field(description="Where the table is valid: runtime, device, workload, sizes.")
    key_hash: str = Field(
        default="", description="Hash of the key: tables of one key are comparable."
    )
    hash: str = Field(description="Hash of the whole table.")
    costs_ms: dict[str, dict[int, Number]] = Field(
        description="Latency of one sublayer in ms, by kind of site and number of kept units."
    )
    fixed_ms: Number = Field(description="Latency of all that cannot be pruned, ms.")
    additivity: list[Facts] = Field(
        description="Whole models whose latency was predicted from the table and then measured."
    )
    additivity_error: float | None = Field(
        description="The largest error of those predictions, as a share; null: none was checked."
    )
    from_cache: bool = Field(
        default=False, description="Whether the table had been measured before."
    )


class Round(Part):
    """One turn of the closed loop: a budget, the plan it gave, and how fast that plan is."""

    budget_ms: Number = Field(description="The latency that the search was allowed, ms.")
    predicted_ms: Number = Field(description="The plan's latency by the table, ms.")
    measured_ratio: Number = Field(description="Its measured latency as a share of dense.")
    note: str = Field(default="", description="How that is beside the target.")


class SearchPart(Part):
    """How the numbers of units were chosen."""

    method: str = Field(description="Name of the search.")
    budget: Number = Field(description="What the search was allowed, in `budget_unit`.")
    budget_unit: str = Field(
        description="`ms` of latency, or `flops`: multiply-adds of the prunable sublayers."
    )
    value_kept: float | None = Field(
        default=None, description="Share of the dense model's importance that stays."
    )
    optimality_gap: float | None = Field(
        default=None,
        description="How far the kept importance is, at most, below the best that any choice "
        "within the budget keeps, as a share of that.",
    )
    price: float | None = Field(
        default=None, description="Importance that one more unit of the budget would buy."
    )
    importance_total: float | None = Field(
        default=None,
        description="Importance of the whole dense model, in the unit of `price`; null where it "
        "was not recorded.",
    )
    rounds: list[Round] = Field(default_factory=list, description="The turns of the closed loop.")


class SiteTuning(Part):
    """What compensation did at one site."""

    site: str = Field(description="Name of the site.")
    accepted: bool = Field(description="Whether the fitted values were taken.")
    held_out_before: Number = Field(description="Error on examples left out, with the mask alone.")
    held_out_after: Number = Field(description="The same with the fitted values.")
    reason: str = Field(default="", description="Why they were not taken.")
    ridge: Number | None = Field(
        default=None,
        description="Ridge of a reconstruction, as a share of the features' mean square.",
    )


class CompensationPart(Part):
    """The compensation as a whole, judged by the output's divergence from the dense model's on
    every fifth calibration example, which also chose the ridges."""

    method: str = Field(description="Name of the compensation.")
    schedule: str = Field(description="Name of the schedule.")
    accepted: bool = Field(description="Whether it stays: only if it lowers the divergence.")
    trained: bool = Field(
        default=False,
        description="Whether the schedule trained the weights. The masked model is then not kept, "
        "and `rfx verify` compares the small model with its engine alone.",
    )
    divergence_before: Number | None = Field(
        default=None,
        description="Divergence with the mask alone: KL, or squared error of a regression.",
    )
    divergence_after: Number | None = Field(
        default=None, description="Divergence with what was fitted."
    )
    polish: Number | None = Field(
        default=None,
        description="Error on left-out examples after the last step, as a share of that before it; "
        "1: it did not help; null: it was not tried.",
    )


class DataPart(Part):
    """Which examples were used; the hashes prove that the parts are disjoint."""

    calibration: int = Field(description="Number of calibration examples.")
    evaluation: int = Field(description="Number of evaluation examples.")
    calibration_hash: str = Field(description="Hash of the calibration examples.")
    evaluation_hash: str = Field(description="Hash of the evaluation examples.")
    training_hash: str | None = Field(default=None, description="Hash of the whole training file.")
    overlap: int = Field(
        description="Evaluation examples whose text also stands in calibration or training."
    )
    dropped_overlap: int = Field(
        default=0,
        description="Training examples left out because they stand in the evaluation set.",
    )


class Stage(Part):
    """One stage of the run."""

    name: str = Field(description="Name of the stage.")
    seconds: Number = Field(description="How long it took, s.")
    peak_mb: float | None = Field(
        default=None, description="Peak resident memory of the process so far, MB."
    )
    cached: bool = Field(default=False, description="Whether its result was taken from the cache.")


class Evidence(Part):
    """All that one run measured, and every verdict."""

    schema_version: Literal[2] = Field(default=2, description="Version of this schema.")
    tool: str = Field(description="Name and version of the software, such as `rfx 0.1.0`.")
    created: str = Field(description="When, ISO 8601 in UTC.")
    recipe: Facts = Field(
        description="What was asked for. `origin`, where it is there, says for each key where its "
        "value came from."
    )
    model: Facts = Field(description="The dense model: source, family, sizes, hash.")
    environment: Facts = Field(description="Machine, operating system and versions of packages.")
    data: DataPart = Field(description="The examples.")
    plan: Facts = Field(description="Which units stay at each site, as in plan.json.")
    dense_layers: list[dict[str, int]] = Field(
        description="For each layer how many units of each kind the dense model has, by the name "
        "of the unit (`heads`, `filters`)."
    )
    kept_layers: list[dict[str, int]] = Field(description="The same for the pruned model.")
    search: SearchPart = Field(description="What the search was allowed and what it found.")
    table: TablePart | None = Field(
        default=None, description="The latency table; null under a FLOPs budget."
    )
    tuning: list[SiteTuning] = Field(
        default_factory=list, description="What compensation did at each site."
    )
    compensation: CompensationPart | None = Field(
        default=None, description="The compensation as a whole; null: none was asked for."
    )
    gates: list[Gate] = Field(description="The verdicts.")
    latency: LatencyPart | None = Field(
        default=None, description="The latency; null where the target runtime was not at hand."
    )
    accuracy: AccuracyPart | None = Field(
        default=None, description="The accuracy; null where it was not measured."
    )
    parity: dict[str, Number] = Field(
        default_factory=dict,
        description="Largest difference of the outputs between two forms of the pruned model, as a "
        "share of the outputs' scale, by pair.",
    )
    flops_ratio: Number = Field(description="Multiply-adds of the layers, as a share of dense.")
    params_ratio: Number = Field(description="Parameters, as a share of dense.")
    stages: list[Stage] = Field(default_factory=list, description="The run, stage by stage.")
    files: dict[str, str] = Field(
        default_factory=dict, description="SHA-256 of every file that was written, by its path."
    )
    warnings: list[str] = Field(
        default_factory=list, description="What the run warned of, each a sentence."
    )

    @property
    def outcome(self) -> Outcome:
        """The verdict over all gates; evidence without any gate proves nothing."""
        outcomes = {g.outcome for g in self.gates} or {"inconclusive"}
        if "fail" in outcomes:
            return "fail"
        return "inconclusive" if "inconclusive" in outcomes else "pass"
