"""Evidence: all that was measured, and the verdict of each gate. The only source of every
report."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

Outcome = Literal["pass", "fail", "inconclusive"]
# The first four are of every evidence; the last two come from a comparison with a baseline.
GateName = Literal["shrunk", "same", "accuracy", "latency", "baseline-accuracy", "baseline-latency"]


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


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Gate(_Part):
    name: GateName
    outcome: Outcome
    value: float | None = None
    limit: float | None = None
    interval: tuple[Number, Number] | None = None  # 95 %
    unit: str = ""
    detail: str = ""


class Percentiles(_Part):
    p50: Number
    p90: Number
    p95: Number
    p99: Number
    mean: Number
    samples: int


class LatencyPart(_Part):
    dense_ms: Number  # median
    pruned_ms: Number  # median
    ratio: Number  # pruned / dense, of medians
    interval: tuple[Number, Number]  # bootstrap, 95 %
    target: float | None = None  # the ratio asked for; None for a FLOPs budget
    predicted_ratio: float | None = None  # from the table, before anything was built
    dense: Percentiles
    pruned: Percentiles
    clock: str
    workload: Facts  # batch, sequence, threads, precision; runtime, version, device
    measurement: Facts | None = (
        None  # warm-up, rounds, CUDA graph, transfers: what trtexec would state
    )
    with_transfers: dict[str, Number] | None = (
        None  # dense_ms, pruned_ms: the second number, copies included
    )
    state: Facts | None = None  # clocks, power, throttling before and after, where the device says

    @property
    def speedup(self) -> float:
        """Dense over pruned."""
        return 1 / self.ratio if self.ratio else math.inf


class AccuracyPart(_Part):
    metric: str
    dense: Number  # natural unit, 0..1
    pruned: Number
    drop: Number  # points: 100 * (dense - pruned)
    interval: tuple[Number, Number]  # of the drop, points, 95 %
    examples: int
    max_drop: float | None = None  # points
    agreement: float | None = None  # share of examples with the dense model's prediction
    divergence: Number | None = (
        # of the outputs from the dense ones', mean over the examples: KL; squared error of a
        # regression
        None
    )
    predictions_hash: str | None = (
        None  # of the pruned model's predictions: equal hashes, equal model in effect
    )


class TablePart(_Part):
    key: Facts
    key_hash: str = ""  # of the key alone: tables of one key are comparable
    hash: str
    costs_ms: dict[str, dict[int, Number]]
    fixed_ms: Number
    additivity: list[Facts]
    additivity_error: float | None
    from_cache: bool = False


class Round(_Part):
    """One turn of the closed loop."""

    budget_ms: Number
    predicted_ms: Number
    measured_ratio: Number
    note: str = ""


class SearchPart(_Part):
    method: str
    budget: Number
    budget_unit: Literal["ms", "flops"]
    value_kept: float | None = None  # share of the dense importance that stays
    optimality_gap: float | None = None  # relative, of the kept importance
    price: float | None = None  # importance one more unit of budget (ms) would buy
    rounds: list[Round] = Field(default_factory=list)


class SiteTuning(_Part):
    site: str
    accepted: bool
    held_out_before: Number
    held_out_after: Number
    reason: str = ""
    ridge: Number | None = None  # of a reconstruction, a share of the features' mean square


class CompensationPart(_Part):
    """Mean divergence of the output from the dense model's on every fifth calibration example,
    which chose the ridges: KL, or the squared error of a regression; with the mask alone and with
    what was fitted, which stays only if it is lower."""

    method: str
    schedule: str
    accepted: bool
    divergence_before: Number | None = None
    divergence_after: Number | None = None
    polish: Number | None = (
        # left-out error of the last step as a share of that without; 1: it did not help; None: not
        # tried
        None
    )


class DataPart(_Part):
    """Which examples were used; the hashes prove that the parts are disjoint."""

    calibration: int
    evaluation: int
    calibration_hash: str
    evaluation_hash: str
    training_hash: str | None = None
    overlap: int  # evaluation examples whose text also stands in calibration or training
    dropped_overlap: int = 0  # training examples left out because they stand in the evaluation set


class Stage(_Part):
    name: str
    seconds: Number
    peak_mb: float | None = None  # peak resident memory of the process so far
    cached: bool = False


class Evidence(_Part):
    schema_version: Literal[1] = 1
    tool: str  # "rfx 0.1.0"
    created: str  # ISO 8601, UTC
    recipe: Facts
    model: Facts  # source, family, layers, heads, filters, hidden
    environment: Facts
    data: DataPart
    plan: Facts  # Plan.to_json()
    dense_layers: list[dict[str, int]]  # [{heads, filters}] before
    kept_layers: list[dict[str, int]]  # after
    search: SearchPart
    table: TablePart | None = None
    tuning: list[SiteTuning] = Field(default_factory=list)
    compensation: CompensationPart | None = None
    gates: list[Gate]
    latency: LatencyPart | None = None
    accuracy: AccuracyPart | None = None
    parity: dict[str, Number] = Field(
        default_factory=dict
    )  # largest absolute differences of logits, by pair
    flops_ratio: Number
    params_ratio: Number
    stages: list[Stage] = Field(default_factory=list)
    files: dict[str, str] = Field(default_factory=dict)  # relative path -> sha256
    warnings: list[str] = Field(default_factory=list)

    @property
    def outcome(self) -> Outcome:
        """The verdict over all gates; evidence without any gate proves nothing."""
        outcomes = {g.outcome for g in self.gates} or {"inconclusive"}
        return (
            "fail"
            if "fail" in outcomes
            else "inconclusive"
            if "inconclusive" in outcomes
            else "pass"
        )
