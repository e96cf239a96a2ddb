"""A sweep's evidence: accuracy and measured latency at many targets, and which of them to take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from rfx.evidence.records import AccuracyPart, DataPart, Facts, LatencyPart, Part


class Point(Part):
    """One pruned model, measured and thrown away."""

    target: float = Field(description="What was asked for: a share of the dense model's cost.")
    seed: int = Field(description="Seed of the calibration examples and of every random choice.")
    note: str = Field(default="", description="Why there is no model: the target is out of reach.")
    latency: LatencyPart | None = Field(
        default=None, description="The latency; null where the target runtime cannot be timed here."
    )
    accuracy: AccuracyPart | None = Field(default=None, description="The accuracy.")
    predicted_ratio: float | None = Field(
        default=None, description="Latency as a share of dense, by the table."
    )
    flops_ratio: float | None = Field(
        default=None, description="Multiply-adds, as a share of dense."
    )
    params_ratio: float | None = Field(default=None, description="Parameters, as a share of dense.")
    kept_layers: list[dict[str, int]] = Field(
        default_factory=list, description="Units that stay in each layer, by their name."
    )
    warnings: list[str] = Field(default_factory=list, description="What this run warned of.")

    @property
    def cost(self) -> float | None:
        """Where the point stands on the cost axis: the measured latency, else the predicted one,
        else the FLOPs."""
        if self.accuracy is None:
            return None
        return (
            self.latency.ratio
            if self.latency
            else self.predicted_ratio
            if self.predicted_ratio is not None
            else self.flops_ratio
        )


class Row(Part):
    """One target over all seeds. Costs are shares of dense, drops points of the metric."""

    target: float = Field(description="What was asked for.")
    seeds: int = Field(description="Seeds that reached the target.")
    asked: int = Field(default=1, description="Seeds of the sweep.")
    cost: float = Field(description="Mean cost over the seeds.")
    drop: float = Field(description="Mean drop over the seeds, points.")
    lowest: float = Field(description="Smallest drop over the seeds, points.")
    highest: float = Field(description="Largest drop over the seeds, points.")
    bound: float = Field(
        description="Largest upper bound of a seed's 95 % interval of the drop, points."
    )
    dominated: bool = Field(
        default=False, description="Whether another target costs less and loses less."
    )


class Curve(Part):
    """All that one sweep measured."""

    schema_version: Literal[2] = Field(default=2, description="Version of this schema.")
    tool: str = Field(description="Name and version of the software.")
    created: str = Field(description="When, ISO 8601 in UTC.")
    recipe: Facts = Field(description="What was asked for, without the target.")
    model: Facts = Field(description="The dense model.")
    environment: Facts = Field(description="Machine, operating system and versions of packages.")
    data: DataPart = Field(description="The examples.")
    budget: str = Field(description="What the targets are shares of: latency, flops.")
    table: Facts | None = Field(
        default=None, description="Key and error of the latency table; null under a FLOPs budget."
    )
    max_drop: float | None = Field(
        default=None, description="Points that may be lost; null: no limit."
    )
    points: list[Point] = Field(description="One entry for each target and seed.")
    warnings: list[str] = Field(default_factory=list, description="What the sweep warned of.")

    @property
    def rows(self) -> list[Row]:
        """One row a target that was reached, in the order of the targets."""
        rows, asked = [], len({p.seed for p in self.points})
        for target in sorted({p.target for p in self.points}, reverse=True):
            some = [
                (cost, p.accuracy)
                for p in self.points
                if p.target == target and p.accuracy is not None and (cost := p.cost) is not None
            ]
            if not some:
                continue
            drops = [accuracy.drop for _, accuracy in some]
            rows.append(
                Row(
                    target=target,
                    seeds=len(some),
                    asked=asked,
                    cost=sum(cost for cost, _ in some) / len(some),
                    drop=sum(drops) / len(drops),
                    lowest=min(drops),
                    highest=max(drops),
                    bound=max(accuracy.interval[1] for _, accuracy in some),
                )
            )
        return [
            r.model_copy(
                update={"dominated": any(o.cost < r.cost and o.drop < r.drop for o in rows)}
            )
            for r in rows
        ]


def recommend(rows: Sequence[Row], max_drop: float | None) -> tuple[Row | None, str]:
    """The cheapest target within `max_drop` points, and in a sentence how sure that is.

    First those whose interval's upper bound is within the limit for every seed; where there are
    none, those whose mean is. Targets that a seed did not reach are none of them.
    """
    if max_drop is None:
        return None, "No --max-drop was given, so no point is recommended."
    rows = [r for r in rows if math.isfinite(r.drop) and r.seeds >= r.asked]
    sure = [r for r in rows if r.bound <= max_drop]
    if sure:
        best = min(sure, key=lambda r: r.cost)
        return best, (
            f"the cheapest point whose drop is within {max_drop:g} points by its whole 95 % "
            f"interval (picked among {len(rows)} on this "
            "evaluation set: where much hangs on it, confirm it on another)"
        )
    likely = [r for r in rows if r.drop <= max_drop]
    if likely:
        best = min(likely, key=lambda r: r.cost)
        return best, (
            f"the cheapest point whose measured drop is within {max_drop:g} points; its interval "
            f"reaches {best.bound:.2f}, so that "
            "a larger evaluation set may say otherwise"
        )
    return (
        None,
        f"No point keeps the drop within {max_drop:g} points: ask for a higher target, or start "
        "from a better model.",
    )


def max_drop_missed(curve: Curve) -> bool:
    """Whether a limit was given and no point keeps it."""
    return curve.max_drop is not None and recommend(curve.rows, curve.max_drop)[0] is None
