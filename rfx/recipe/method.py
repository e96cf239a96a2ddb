"""The part of a recipe that names a pruning method: its five parts, and their options."""

from __future__ import annotations

from typing import Literal

from rfx.recipe.fields import FrozenDict, Table, option
from rfx.recipe.section import Section


class MethodSpec(Section):
    """The five parts of a pruning method (scorer, search, refine, compensate, schedule) and the
    options of some of them.

    `rfx.recipe.presets.PRESETS` holds the known combinations. Where `name` is one of these, the
    keys that are not given are as in that combination; any other name is a label.
    """

    name: str = option(
        "custom", "The name of a known method to start from, or a label of your own."
    )
    scorer: str = option(
        "output-metric",
        "It estimates how much the output suffers when a unit is removed.",
        cli="--scorer",
        names="scorer",
    )
    scorer_options: Table[str, int | float | str] = option(
        FrozenDict,
        """Options of the scorer. output-metric: temperature, points, examples. kprune: lambda_pred,
        lambda_rep, temperature. fisher: loss, which is label, or predictive (it needs no labels,
        and is taken where there are none).""",
        cli="--scorer-option",
        form="values",
        metavar="KEY=VALUE",
    )
    gradients: Literal["example", "batch"] = option(
        "example",
        """Whether the Fisher information is of single examples, or of the means of batches, as in
        the published code. Used by the scorer fisher only.""",
    )
    search: str = option(
        "knapsack",
        "It decides how many units each site keeps within the budget.",
        cli="--search",
        names="search",
    )
    interactions: Literal["block", "none"] = option(
        "block",
        """Whether the search counts how removed units of a site interact (the block of the Fisher
        information), or takes each unit on its own. Used by the scorer fisher only.""",
    )
    refine: str = option(
        "none",
        """It exchanges kept and removed units of a site after the search, the counts staying as
        they are. Used by the scorer fisher only.""",
        cli="--refine",
        names="refiner",
    )
    compensate: str = option(
        "affine",
        "It fits the remaining weights so that they make up for what was removed.",
        cli="--compensate",
        names="compensation",
    )
    tuning: Literal["kwon", "kwon-reference"] = option(
        "kwon",
        """Whether scales are fitted as the paper has it, or as its code does it. For the
        compensation scales.""",
    )
    schedule: str = option(
        "oneshot",
        "The order in which units are scored, removed and compensated.",
        cli="--schedule",
        names="schedule",
    )
    rounds: int = option(2, "Rounds of the schedule iterated.", unit="rounds", ge=1, le=8)
    polish: bool = option(
        False, "At the end, fit the scales of all units at once to the output of the dense model."
    )
    guard: bool = option(
        True, "Drop a compensation that takes the output further from the dense model's."
    )
    replacement: bool = option(
        False, "Draw the calibration examples with replacement, as the code of Kwon et al. does."
    )
