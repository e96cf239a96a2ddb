"""A sweep's evidence: accuracy and measured latency at many targets, and which of them to take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from rfx.evidence.records import AccuracyPart, DataPart, Facts, LatencyPart


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Point(_Part):
    """One pruned model, measured and thrown away. Without a latency the target cannot be timed
    here."""

    target: float
    seed: int
    note: str = ""  # why there is no model: the target is out of reach
    latency: LatencyPart | None = None
    accuracy: AccuracyPart | None = None
    predicted_ratio: float | None = None
    flops_ratio: float | None = None
    params_ratio: float | None = None
    kept_layers: list[dict[str, int]] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)

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


class Row(_Part):
    """One target over all seeds. Costs are shares of dense, drops points of the metric."""

    target: float
    seeds: int  # that reached the target
    asked: int = 1  # seeds of the sweep
    cost: float
    drop: float  # mean
    lowest: float  # drop over the seeds
    highest: float
    bound: float  # the largest upper bound of the drop's 95 % interval
    dominated: bool = False  # another target costs less and drops less


class Curve(_Part):
    schema_version: Literal[1] = 1
    tool: str
    created: str
    recipe: Facts
    model: Facts
    environment: Facts
    data: DataPart
    budget: Literal["latency", "flops"]
    table: Facts | None = None  # key and additivity error
    max_drop: float | None = None
    points: list[Point]
    warnings: list[str] = Field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        """One row a target that was reached, in the order of the targets."""
        rows, asked = [], len({p.seed for p in self.points})
        for target in sorted({p.target for p in self.points}, reverse=True):
            some = [
                p
                for p in self.points
                if p.target == target and p.accuracy is not None and p.cost is not None
            ]
            if not some:
                continue
            drops = [p.accuracy.drop for p in some]
            rows.append(
                Row(
                    target=target,
                    seeds=len(some),
                    asked=asked,
                    cost=sum(p.cost for p in some) / len(some),
                    drop=sum(drops) / len(drops),
                    lowest=min(drops),
                    highest=max(drops),
                    bound=max(p.accuracy.interval[1] for p in some),
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
