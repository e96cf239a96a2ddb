"""Evidence: all that was measured, and the verdict of each gate. The only source of every report.

The reference page of the schema is made from the descriptions of these fields. Earlier versions of
the document are read through `rfx.core.migrate`.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from rfx.evidence.found import CompensationPart as CompensationPart
from rfx.evidence.found import Round as Round
from rfx.evidence.found import SearchPart as SearchPart
from rfx.evidence.found import SiteTuning as SiteTuning
from rfx.evidence.found import TablePart as TablePart
from rfx.evidence.part import Facts as Facts
from rfx.evidence.part import Number as Number
from rfx.evidence.part import Part as Part
from rfx.evidence.precision import BySite as BySite
from rfx.evidence.precision import Considered as Considered
from rfx.evidence.precision import Excluded as Excluded
from rfx.evidence.precision import QuantizationPart as QuantizationPart
from rfx.evidence.precision import RivalLatency as RivalLatency
from rfx.evidence.precision import RivalPart as RivalPart
from rfx.evidence.precision import SiteLoss as SiteLoss
from rfx.evidence.size import SizePart as SizePart
from rfx.evidence.size import SizeRound as SizeRound
from rfx.evidence.vocabulary import VocabularyPart as VocabularyPart

Outcome = Literal["pass", "fail", "inconclusive", "not-judged"]


class Gate(Part):
    """One limit, and whether what was measured keeps it."""

    name: str = Field(
        description="What is judged: `shrunk`, `same`, `accuracy`, `agreement` and `latency` in "
        "every evidence; `quantized` where the served file is; `vocabulary` where it was pruned; "
        "`size` where one was asked for; "
        "`baseline-accuracy` and "
        "`baseline-latency` where it was compared with another."
    )
    outcome: Outcome = Field(
        description="`pass` where the whole interval is inside the limit, `fail` where it is "
        "outside, `inconclusive` between or where it cannot be computed, `not-judged` where no "
        "limit was given."
    )
    value: float | None = Field(
        default=None, description="What was measured; null: it is no number."
    )
    limit: float | None = Field(
        default=None,
        description="The most that passes, of `agreement` and `vocabulary` the least; null: there "
        "is no limit.",
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
        default=None, description="The ratio that was asked for; null under another budget."
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
    agreement_interval: tuple[Number, Number] | None = Field(
        default=None,
        description="95 % interval of the agreement, exact binomial; null where there is none.",
    )
    chance_agreement: float | None = Field(
        default=None,
        description="Agreement that two models with these shares of predictions have by chance; "
        "null where it was not computed.",
    )
    min_agreement: float | None = Field(
        default=None,
        description="Least agreement that passes, as it was given; null: the default, half way "
        "between agreement by chance and 1.",
    )
    chance: Number | None = Field(
        default=None,
        description="The metric of the best constant answer on this evaluation set; 0 for a "
        "correlation; null where it was not computed.",
    )
    weak_baseline: bool = Field(
        default=False,
        description="Whether the run went on with a dense model that is no better than chance "
        "(`--allow-weak-baseline`).",
    )
    distinct: int | None = Field(
        default=None,
        description="Examples of the evaluation set without repeated ones; null where they were "
        "not counted.",
    )
    divergence: Number | None = Field(
        default=None,
        description="Divergence of the outputs from the dense model's, mean over the examples: KL, "
        "the squared difference of a regression, or one minus the cosine of embeddings.",
    )
    divergence_kind: Literal["KL", "squared difference", "cosine distance"] | None = Field(
        default=None,
        description="What the divergence is; null in evidence of earlier versions, where the "
        "metric tells it.",
    )
    batch: int | None = Field(
        default=None,
        description="Examples that the pruned model was given at once; a quantized one is "
        "evaluated at the batch that it is served with.",
    )
    predictions_hash: str | None = Field(
        default=None,
        description="Hash of the pruned model's predictions: equal hashes mean models that are "
        "equal in effect.",
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
    label_mapping: dict[str, str] = Field(
        default_factory=dict,
        description="Name of the model's label for each value that the data have.",
    )
    duplicates: int = Field(
        default=0, description="Evaluation examples that repeat another one and count once."
    )
    near_copies: int = Field(
        default=0,
        description="Training examples left out because they differ from one of the evaluation set "
        "in case, blanks or punctuation alone.",
    )
    repeated_calibration: int = Field(
        default=0, description="Calibration examples that repeat another one."
    )
    skipped: int = Field(
        default=0,
        description="Examples left out because their text is empty or they have no label.",
    )
    contradictory: int = Field(
        default=0,
        description="Evaluation examples left out because the same text stands there with another "
        "label too.",
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
    exported: Facts = Field(
        default_factory=dict,
        description="The exported file: `ir_version`, `opset`, and `positions`, the longest input "
        "that the model takes; empty in evidence of earlier versions.",
    )
    plan: Facts = Field(description="Which units stay at each site, as in plan.json.")
    dense_layers: list[dict[str, int]] = Field(
        description="For each layer how many units of each kind the dense model has, by the name "
        "of the unit (`heads`, `filters`)."
    )
    kept_layers: list[dict[str, int]] = Field(description="The same for the pruned model.")
    search: SearchPart = Field(description="What the search was allowed and what it found.")
    table: TablePart | None = Field(
        default=None, description="The latency table; null under another budget."
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
    rival: RivalPart | None = Field(
        default=None,
        description="The dense model quantized alone, which costs no pruning; null where rfx "
        "cannot quantize for the target.",
    )
    quantization: QuantizationPart | None = Field(
        default=None, description="How the served file was quantized; null: it was not."
    )
    size: SizePart | None = Field(
        default=None,
        description="Size of the served files and of the dense model's; null in evidence of "
        "earlier versions.",
    )
    vocabulary: VocabularyPart | None = Field(
        default=None,
        description="What the smaller vocabulary costs and saves; null: all of it stays.",
    )
    considered: list[Considered] = Field(
        default_factory=list,
        description="What `--precision auto` has compared, this result among it; empty where the "
        "precision was given.",
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
        """The verdict over all gates that were judged; evidence without any proves nothing."""
        outcomes = {g.outcome for g in self.gates} - {"not-judged"} or {"inconclusive"}
        if "fail" in outcomes:
            return "fail"
        return "inconclusive" if "inconclusive" in outcomes else "pass"
