"""What the accuracy benchmark runs: its recipes, the ablations, and all that the page shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.pairs import EVALUATED, Pair
from rfx.recipe.presets import PRESETS
from rfx.recipe.read import make_recipe
from rfx.recipe.spec import MethodSpec, Recipe

RECIPES = ("kwon-reference", "kwon", "kprune", "magnitude", "random", "rfx")
RFX = PRESETS["rfx"].model_dump()
REFERENCE = PRESETS["kwon-reference"].model_dump()
# The stages of the reference, and the default with one part exchanged.
ABLATIONS: dict[str, dict[str, Any]] = {
    "kwon-reference-search": {**REFERENCE, "refine": "none", "compensate": "none"},
    "kwon-reference-rearranged": {**REFERENCE, "compensate": "none"},
    "kwon+affine": {**PRESETS["kwon"].model_dump(), "compensate": "affine"},
    "rfx+polish": {**RFX, "polish": True},
    "rfx-none": {**RFX, "compensate": "none", "guard": False},
    "rfx-scales": {**RFX, "compensate": "scales"},
    "rfx-projection": {**RFX, "compensate": "projection"},
    "rfx-iterated": {**RFX, "schedule": "iterated", "rounds": 3},
    "rfx-sequential": {**RFX, "schedule": "sequential"},
    "rfx-temperature-1": {**RFX, "scorer_options": {"temperature": 1.0}},
    "rfx-measured": {**RFX, "scorer_options": {"points": 4}},
}
# What is run where an option does not say otherwise.
USUAL: dict[str, Any] = {
    "pairs": EVALUATED,
    "recipes": RECIPES,
    "seeds": [0, 1, 2],
    "flops": [0.7, 0.6, 0.5, 0.4, 0.3],
    "examples": None,
    "latency": [],
}
# All that the accuracy page shows: what each part has in place of the usual.
COMPLETE: tuple[dict[str, Any], ...] = (
    {},
    {
        "pairs": ["minilm-rotten-val"],
        "recipes": ["rfx", "kwon", *(a for a in ABLATIONS if not a.startswith("kwon-reference"))],
        "seeds": [0],
        "flops": [0.5, 0.3],
    },
    {"pairs": ["minilm-sst2-more"], "recipes": ["rfx", "kwon", "kprune"], "flops": [0.7, 0.6, 0.5]},
    {"pairs": ["minilm-squad-more"], "recipes": ["rfx", "kprune"], "flops": [0.4]},
    {
        "pairs": ["minilm-rotten"],
        "recipes": ["kwon-reference-search", "kwon-reference-rearranged"],
        "seeds": [0, 1],
    },
    *(
        {
            "pairs": ["minilm-rotten"],
            "recipes": ["rfx", "kwon"],
            "seeds": [0],
            "flops": [0.5],
            "examples": n,
        }
        for n in (128, 2048)
    ),
    {"pairs": ["minilm-rotten", "minilm-sst2"], "seeds": [], "latency": [0.7, 0.5, 0.4]},
)


def method_of(name: str) -> str | dict[str, Any]:
    """The method of a recipe here, as a recipe's `method` takes it."""
    return {**ABLATIONS[name], "name": name} if name in ABLATIONS else name


def resolved(name: str) -> dict[str, Any]:
    """All parts and options of the method: a cell that was made by others is made again."""
    if name in ABLATIONS:
        return MethodSpec.model_validate(ABLATIONS[name]).model_dump()
    return PRESETS[name].model_dump()


def recipe_of(
    pair: Pair, model: Path, data: Path, method: str | dict[str, Any], seed: int, examples: int
) -> Recipe:
    """The recipe of one pair, sample and method, at half of the FLOPs.

    Args:
        model: the folder of the fine-tuned checkpoint.
        data: the folder of the data sets.
        method: a preset's name, or its parts.
        seed: of the calibration examples and of random choices.
        examples: how many calibration examples are drawn.
    """
    return make_recipe(
        {
            "name": pair.name,
            "model": str(model),
            "task": pair.task,
            "metric": pair.metric,
            "max_length": pair.max_length,
            "data": {
                "train": str(data / pair.train),
                "eval": str(data / pair.eval),
                "limit_eval": pair.judged,
            },
            "budget": {"flops": 0.5},
            "calibration": {"examples": examples, "seed": seed},
            "seed": seed,
            "method": method,
        }
    )
