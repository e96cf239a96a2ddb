"""A sweep's evidence: accuracy and measured latency at many targets, and which of them to take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from rfx.evidence.gates import agreement_gate
from rfx.evidence.precision import SweepRival
from rfx.evidence.records import AccuracyPart, DataPart, Facts, LatencyPart, Outcome, Part
from rfx.evidence.words import SIZE, target_text

# The verdicts on agreement, the worst first.
_WORST: tuple[Outcome, ...] = ("fail", "inconclusive", "not-judged", "pass")


class Point(Part):
    """One pruned model, measured and thrown away."""

    target: float = Field(
        description="What was asked for: a share of the dense model's cost, or bytes of the file."
    )
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
    bytes: int | None = Field(
        default=None, description="Size of its ONNX file; null in sweeps of earlier versions."
    )
    kept_layers: list[dict[str, int]] = Field(
        default_factory=list, description="Units that stay in each layer, by their name."
    )
    warnings: list[str] = Field(default_factory=list, description="What this run warned of.")

    @property
    def cost(self) -> float | None:
        """Where the point stands on the cost axis, but for a sweep over sizes: the measured
        latency, else the predicted one, else the FLOPs."""
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
    name: str = Field(default="", description="The same in words.")
    seeds: int = Field(description="Seeds that reached the target.")
    asked: int = Field(default=1, description="Seeds of the sweep.")
    cost: float = Field(description="Mean cost over the seeds.")
    drop: float = Field(description="Mean drop over the seeds, points.")
    lowest: float = Field(description="Smallest drop over the seeds, points.")
    highest: float = Field(description="Largest drop over the seeds, points.")
    bound: float = Field(
        description="Largest upper bound of a seed's 95 % interval of the drop, points."
    )
    agreement: float | None = Field(
        default=None,
        description="Smallest agreement with the dense model over the seeds; null: not known.",
    )
    alike: Outcome = Field(
        default="not-judged",
        description="The worst verdict of the gate agreement over the seeds.",
    )
    divergence: float | None = Field(
        default=None,
        description="Mean divergence from the dense model over the seeds; null: not known.",
    )
    dominated_by: str = Field(
        default="",
        description="What costs no more and loses no more: the precision of the dense model that "
        "is quantized alone, or another target; empty: nothing does.",
    )

    @property
    def dominated(self) -> bool:
        """Whether another target or the rival costs no more and loses no more."""
        return bool(self.dominated_by)


class Curve(Part):
    """All that one sweep measured."""

    schema_version: Literal[2] = Field(default=2, description="Version of this schema.")
    tool: str = Field(description="Name and version of the software.")
    created: str = Field(description="When, ISO 8601 in UTC.")
    recipe: Facts = Field(description="What was asked for, without the target.")
    model: Facts = Field(description="The dense model.")
    environment: Facts = Field(description="Machine, operating system and versions of packages.")
    data: DataPart = Field(description="The examples.")
    budget: str = Field(
        description="What the targets are shares of, latency or flops; or size, whose targets are "
        "bytes."
    )
    dense_bytes: int | None = Field(
        default=None,
        description="Size of the dense model's ONNX file; null in sweeps of earlier versions.",
    )
    table: Facts | None = Field(
        default=None, description="Key and error of the latency table; null under another budget."
    )
    max_drop: float | None = Field(
        default=None, description="Points that may be lost; null: no limit."
    )
    rival: SweepRival | None = Field(
        default=None,
        description="The dense model quantized alone, which costs no pruning; null where rfx "
        "cannot quantize for the target.",
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
                if p.target == target
                and p.accuracy is not None
                and (cost := self.cost_of(p)) is not None
            ]
            if not some:
                continue
            drops = [accuracy.drop for _, accuracy in some]
            shares = [a.agreement for _, a in some if a.agreement is not None]
            diverge = [a.divergence for _, a in some if a.divergence is not None]
            judged = {agreement_gate(accuracy).outcome for _, accuracy in some}
            rows.append(
                Row(
                    target=target,
                    name=target_text(self.budget, target),
                    seeds=len(some),
                    asked=asked,
                    cost=sum(cost for cost, _ in some) / len(some),
                    drop=sum(drops) / len(drops),
                    lowest=min(drops),
                    highest=max(drops),
                    bound=max(accuracy.interval[1] for _, accuracy in some),
                    agreement=min(shares) if len(shares) == len(some) else None,
                    alike=next(outcome for outcome in _WORST if outcome in judged),
                    divergence=sum(diverge) / len(diverge) if len(diverge) == len(some) else None,
                )
            )
        return [r.model_copy(update={"dominated_by": self._dominating(r, rows)}) for r in rows]

    @property
    def by_size(self) -> bool:
        """Whether the cost axis is the size of the file."""
        return self.budget == SIZE and self.dense_bytes is not None and self.dense_bytes > 0

    def cost_of(self, point: Point) -> float | None:
        """Where a point stands on the cost axis, as a share of dense; None where it was not
        reached."""
        if point.accuracy is None or not self.by_size or self.dense_bytes is None:
            return point.cost
        return None if point.bytes is None else point.bytes / self.dense_bytes

    @property
    def rival_cost(self) -> float | None:
        """Where the rival stands on the cost axis; None where its latency is no cost of these
        points, or there is no rival."""
        if self.by_size and self.rival is not None and self.dense_bytes is not None:
            return self.rival.bytes / self.dense_bytes
        reached = [p for p in self.points if p.accuracy is not None]
        if self.rival is None or self.rival.latency is None or any(not p.latency for p in reached):
            return None
        return self.rival.latency.ratio

    @property
    def by_divergence(self) -> bool:
        """Whether losses are compared by the divergence from the dense model, which tells more than
        the metric; False where a point or the rival does not know it."""
        parts = [p.accuracy for p in self.points if p.accuracy is not None]
        known = [a.divergence for a in parts]
        if self.rival is not None and self.rival_cost is not None:
            known.append(self.rival.divergence)
        return all(d is not None and math.isfinite(d) for d in known)

    @property
    def front(self) -> list[tuple[float, float]]:
        """Cost and drop of the rival and of all targets that nothing dominates."""
        rows = self.rows
        found = [(r.cost, r.drop) for r in rows if not r.dominated]
        own = self._rival_place()
        if own is not None and self.rival is not None:
            better = [r for r in rows if r.alike != "fail" and _dominates(self._place(r), own)]
            found += [] if better else [(own[0], self.rival.drop)]
        return sorted(found)

    def _dominating(self, row: Row, rows: Sequence[Row]) -> str:
        """What dominates a target: the rival before all others, since it needs no pruning, else
        the cheapest target that does."""
        place, rival = self._place(row), self._rival_place()
        behind = rival is not None and (rival == place or _dominates(rival, place))
        if self.rival is not None and behind:
            return self.rival.precision
        # A model that no longer answers as the dense one does is no better than any other.
        better = [o for o in rows if o.alike != "fail" and _dominates(self._place(o), place)]
        return min(better, key=lambda o: o.cost).name if better else ""

    def _place(self, row: Row) -> tuple[float, float]:
        """Cost and loss of a target."""
        if self.by_divergence and row.divergence is not None:
            return row.cost, row.divergence
        return row.cost, row.drop

    def _rival_place(self) -> tuple[float, float] | None:
        cost = self.rival_cost
        if self.rival is None or cost is None:
            return None
        if self.by_divergence and self.rival.divergence is not None:
            return cost, self.rival.divergence
        return cost, self.rival.drop


def _dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether one costs no more and loses no more than the other, and is not the same."""
    return one != other and one[0] <= other[0] and one[1] <= other[1]


def recommend(rows: Sequence[Row], max_drop: float | None) -> tuple[Row | None, str]:
    """The cheapest target within `max_drop` points, and in a sentence how sure that is.

    First those whose interval's upper bound is within the limit for every seed, and whose
    agreement with the dense model is not in doubt; where there are none, those whose mean is.
    Targets that a seed did not reach are none of them, nor are those that fail the gate agreement
    with a seed: a metric can stay, or rise, while the answers change.
    """
    if max_drop is None and _all_otherwise(rows):
        return None, (
            "No point still answers as the dense model does: ask for a higher target, or start "
            "from a better model."
        )
    if max_drop is None:
        return None, "No --max-drop was given, so no point is recommended."
    whole = [r for r in rows if math.isfinite(r.drop) and r.seeds >= r.asked]
    rows = [r for r in whole if r.alike != "fail"]
    likely = [r for r in rows if r.drop <= max_drop]
    sure = [r for r in rows if r.bound <= max_drop and r.alike != "inconclusive"]
    if sure:
        best = min(sure, key=lambda r: r.cost)
        return best, (
            f"the cheapest point whose drop is within {max_drop:g} points by its whole 95 % "
            f"interval{_left_out(whole, best, max_drop)} (picked among {len(rows)} on this "
            "evaluation set: where much hangs on it, confirm it on another)"
        )
    if likely:
        best = min(likely, key=lambda r: r.cost)
        doubt = (
            f"its interval reaches {best.bound:.2f}"
            if best.bound > max_drop
            else "whether it still answers as the dense model does is inconclusive"
        )
        return best, (
            f"the cheapest point whose measured drop is within {max_drop:g} points"
            f"{_left_out(whole, best, max_drop)}; {doubt}, so that "
            "a larger evaluation set may say otherwise"
        )
    unlike = any(r.drop <= max_drop for r in whole)
    return (
        None,
        f"No point keeps the drop within {max_drop:g} points"
        + (" and still answers as the dense model does" if unlike else "")
        + ": ask for a higher target, or start from a better model.",
    )


def _left_out(rows: Sequence[Row], best: Row, max_drop: float) -> str:
    """The cheaper targets that keep the drop and no longer answer as the dense model does."""
    names = [
        r.name or f"{r.target:g}"
        for r in rows
        if r.alike == "fail" and r.drop <= max_drop and r.cost < best.cost
    ]
    if not names:
        return ""
    return f", without {', '.join(names)}, where the model no longer answers as the dense one does"


def none_passes(curve: Curve) -> bool:
    """Whether no point is of any use: none keeps the --max-drop that was given, or, without one,
    none still answers as the dense model does."""
    if curve.max_drop is None:
        return _all_otherwise(curve.rows)
    return recommend(curve.rows, curve.max_drop)[0] is None


def _all_otherwise(rows: Sequence[Row]) -> bool:
    return bool(rows) and all(row.alike == "fail" for row in rows)
