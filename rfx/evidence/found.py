"""The parts of the evidence that say how the pruned model was found: table, search, fits."""

from __future__ import annotations

from pydantic import Field

from rfx.evidence.part import Facts, Number, Part


class TablePart(Part):
    """The latency table that the search chose from."""

    key: Facts = Field(description="Where the table is valid: runtime, device, workload, sizes.")
    key_hash: str = Field(
        default="", description="Hash of the key: tables of one key are comparable."
    )
    hash: str = Field(description="Hash of the whole table.")
    costs_ms: dict[str, dict[int, Number]] = Field(
        description="Latency of one sublayer in ms, by curve and number of kept units. Sublayers "
        "that cost alike have one curve, named as their kind; further ones of a kind have a number."
    )
    curves: dict[str, str] = Field(
        default_factory=dict,
        description="The curve of each site that is not on the first one of its kind.",
    )
    fixed_ms: Number = Field(description="Latency of all that cannot be pruned, ms.")
    shares: dict[str, Number] = Field(
        default_factory=dict,
        description="Of sites that are computed at one position alone, as the last layer of a "
        "classifier is: what their units cost as a share of what those of other sites cost.",
    )
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
        description="`ms` of latency, `flops` (multiply-adds of the prunable sublayers) or `bytes` "
        "of the file."
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
    stability: float | None = Field(
        default=None,
        description="Share of the units that stay or go alike, on average, where the search is "
        "repeated under tables that differ from the measured one by its noise.",
    )
    value_kept_within_noise: tuple[float, float] | None = Field(
        default=None, description="The least and the greatest `value_kept` of those searches."
    )


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
