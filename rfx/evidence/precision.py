"""What quantization did, and the rival of every pruned model: the dense model quantized alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from rfx.evidence.part import Number, Part

# Precisions with scales, in integers or in FP8. Evidence of a model that is served in one of them
# says how it was quantized, and shows the rival.
QUANTIZED = frozenset({"int8", "fp8"})


def served_precision(recipe: Mapping[str, Any]) -> str:
    """The precision that a recorded recipe asks for; empty where it says none."""
    workload = recipe.get("workload")
    return str(workload.get("precision", "")) if isinstance(workload, Mapping) else ""


class RivalTimes(Part):
    """The rival's latency, timed in turns with the dense model."""

    ms: Number = Field(description="Median latency, ms.")
    ratio: Number = Field(description="Its median over the dense model's.")
    interval: tuple[Number, Number] = Field(description="95 % bootstrap interval of that ratio.")


class RivalLatency(RivalTimes):
    """The rival's latency, timed in the rounds in which dense and pruned model were timed."""

    pruned_ratio: Number = Field(description="The pruned model's median over the rival's.")
    pruned_interval: tuple[Number, Number] = Field(
        description="95 % bootstrap interval of that ratio: below 1 the pruned model is faster."
    )


class SweepRivalLatency(RivalTimes):
    """The rival's latency in a sweep: timed once, in turns with the dense model alone."""

    dense_ms: Number = Field(description="Median latency of the dense model in these rounds, ms.")


class RivalLosses(Part):
    """What the rival is, and what it loses."""

    precision: str = Field(description="Its precision, such as `int8`.")
    method: str = Field(description="What quantized it, and how.")
    metric: Number = Field(description="Its metric on the evaluation set, 0 to 1.")
    drop: Number = Field(description="Points that it loses to the dense model.")
    agreement: float | None = Field(
        default=None, description="Share of the examples that it predicts as the dense model does."
    )
    divergence: Number | None = Field(
        default=None,
        description="Divergence of its outputs from the dense model's, as of the pruned model's.",
    )
    bytes: int = Field(description="Size of its ONNX file, bytes.")


class RivalPart(RivalLosses):
    """The dense model, quantized and not pruned: what anybody has without pruning."""

    latency: RivalLatency | None = Field(
        default=None, description="Its latency; null where none was measured."
    )


class Considered(Part):
    """What `--precision auto` found at one precision."""

    precision: str = Field(description="The precision.")
    outcome: str | None = Field(
        default=None, description="The verdict over its gates; null where nothing was made."
    )
    ratio: Number | None = Field(default=None, description="Its latency as a share of dense.")
    divergence: Number | None = Field(
        default=None, description="Divergence of its outputs from the dense model's."
    )
    drop: Number | None = Field(default=None, description="Points that it loses.")
    note: str = Field(default="", description="Why nothing was made, in words.")


class SweepRival(RivalLosses):
    """The dense model, quantized and not pruned, beside all points of a sweep."""

    latency: SweepRivalLatency | None = Field(
        default=None, description="Its latency; null where none was measured."
    )


class SiteLoss(Part):
    """What quantizing one site costs."""

    site: str = Field(description="Name of the site.")
    divergence: Number = Field(
        description="Divergence of the model with this site alone quantized from the model in fp32."
    )


class BySite(Part):
    """What quantizing costs by site: each is quantized alone, and all others stay in fp32."""

    examples: int = Field(description="Calibration examples that it was measured on.")
    together: Number = Field(
        description="Divergence of the served file from the fp32 file on the same examples."
    )
    rest: Number = Field(
        description="Divergence by what belongs to no site, all of it at once: large embedding "
        "tables, the pooler, the head."
    )
    sites: list[SiteLoss] = Field(description="The sites that are quantized, in their order.")


class Excluded(Part):
    """A site that rfx kept in fp32 of itself, because a limit was not kept with it quantized."""

    site: str = Field(description="Name of the site.")
    why: list[str] = Field(
        description="What was not kept: `quantization`, `accuracy` or `agreement`."
    )
    divergence: Number = Field(description="What quantizing it alone cost, as in `by_site`.")
    saved_ms: Number = Field(description="Latency that quantizing it saved, ms.")


class QuantizationPart(Part):
    """How the file that is served was quantized, and what that costs beside what pruning costs."""

    method: str = Field(description="What quantized it, and how.")
    products: int = Field(description="Matrix products with a weight that are quantized.")
    bytes: int = Field(description="Size of the quantized ONNX file, bytes.")
    fp32_bytes: int = Field(description="Size of the same model's ONNX file in fp32, bytes.")
    pruning: Number | None = Field(
        default=None,
        description="Divergence of the pruned model in fp32 from the dense model: what pruning "
        "alone costs.",
    )
    quantization: Number | None = Field(
        default=None,
        description="Divergence of the quantized file from the pruned model in fp32: what "
        "quantizing it costs.",
    )
    ratio: Number | None = Field(
        default=None,
        description="Median latency of the quantized file over that of the same "
        "model in fp32; null where none was measured.",
    )
    interval: tuple[Number, Number] | None = Field(
        default=None, description="95 % bootstrap interval of that ratio."
    )
    kept_fp32: list[str] = Field(
        default_factory=list, description="Sites whose products were kept in fp32 on request."
    )
    excluded: list[Excluded] = Field(
        default_factory=list,
        description="Sites that rfx kept in fp32 of itself, in the order in which it took them "
        "out.",
    )
    sites: list[str] = Field(
        default_factory=list,
        description="Sites whose products are quantized: all that have units, without those of "
        "`kept_fp32` and `excluded`.",
    )
    max_loss: float | None = Field(
        default=None,
        description="Largest divergence by quantizing that passes; null: it was not judged.",
    )
    fp32_metric: Number | None = Field(
        default=None, description="The metric of the same model in fp32, 0 to 1."
    )
    by_site: BySite | None = Field(
        default=None,
        description="What quantizing costs by site; null where it was not asked for "
        "(`--quantization-by-site`) and no limit needed it.",
    )
    mismatches: list[str] = Field(
        default_factory=list,
        description="What in the quantized file is not the fp32 file's, each in words; none in a "
        "sound output.",
    )
