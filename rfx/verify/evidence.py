"""Evidence: all that was measured, and the verdict of each gate. The only source of every report."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Outcome = Literal["pass", "fail", "inconclusive"]
GateName = Literal["shrunk", "same", "accuracy", "latency"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Gate(_Part):
    name: GateName
    outcome: Outcome
    value: float | None = None
    limit: float | None = None
    interval: tuple[float, float] | None = None  # 95 %
    unit: str = ""
    detail: str = ""


class Percentiles(_Part):
    p50: float
    p90: float
    p95: float
    p99: float
    mean: float
    samples: int


class LatencyPart(_Part):
    dense_ms: float  # median
    pruned_ms: float  # median
    ratio: float  # pruned / dense, of medians
    interval: tuple[float, float]  # bootstrap, 95 %
    target: float | None = None  # the ratio asked for; None for a FLOPs budget
    predicted_ratio: float | None = None  # from the table, before anything was built
    dense: Percentiles
    pruned: Percentiles
    clock: str
    conditions: dict[str, Any]


class AccuracyPart(_Part):
    metric: str
    dense: float  # natural unit, 0..1
    pruned: float
    drop: float  # points: 100 * (dense - pruned)
    interval: tuple[float, float]  # of the drop, points, 95 %
    examples: int
    max_drop: float | None = None  # points
    agreement: float | None = None  # share of examples with the dense model's prediction


class TablePart(_Part):
    key: dict[str, Any]
    hash: str
    costs_ms: dict[str, dict[int, float]]
    fixed_ms: float
    additivity: list[dict[str, Any]]
    additivity_error: float | None
    from_cache: bool = False


class Round(_Part):
    """One turn of the closed loop."""

    budget_ms: float
    predicted_ms: float
    measured_ratio: float
    note: str = ""


class SearchPart(_Part):
    method: str
    budget: float
    budget_unit: Literal["ms", "flops"]
    value_kept: float | None = None  # share of the dense importance that stays
    optimality_gap: float | None = None  # relative, of the kept importance
    price: float | None = None  # importance one more unit of budget (ms) would buy
    rounds: list[Round] = Field(default_factory=list)


class SiteTuning(_Part):
    site: str
    accepted: bool
    held_out_before: float
    held_out_after: float
    reason: str = ""


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
    seconds: float
    peak_mb: float | None = None  # peak resident memory of the process so far
    cached: bool = False


class Evidence(_Part):
    schema_version: Literal[1] = 1
    tool: str  # "rfx 0.1.0"
    created: str  # ISO 8601, UTC
    recipe: dict[str, Any]
    model: dict[str, Any]  # source, family, layers, heads, filters, hidden
    environment: dict[str, Any]
    data: DataPart
    plan: dict[str, Any]  # Plan.to_json()
    dense_layers: list[dict[str, int]]  # [{heads, filters}] before
    kept_layers: list[dict[str, int]]  # after
    search: SearchPart
    table: TablePart | None = None
    tuning: list[SiteTuning] = Field(default_factory=list)
    gates: list[Gate]
    latency: LatencyPart | None = None
    accuracy: AccuracyPart | None = None
    parity: dict[str, float] = Field(default_factory=dict)  # largest absolute differences of logits, by pair
    flops_ratio: float
    params_ratio: float
    stages: list[Stage] = Field(default_factory=list)
    files: dict[str, str] = Field(default_factory=dict)  # relative path -> sha256
    warnings: list[str] = Field(default_factory=list)

    @property
    def outcome(self) -> Outcome:
        outcomes = {g.outcome for g in self.gates}
        return "fail" if "fail" in outcomes else "inconclusive" if "inconclusive" in outcomes else "pass"
