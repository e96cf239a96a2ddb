"""The teacher of Kwon et al. 2022's reference code, which is not the dense model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rfx.core.plan import Plan, Site
from rfx.cost.flops import FlopsCost
from rfx.methods.scores.base import Scores
from rfx.methods.search.enumeration import enumeration
from rfx.methods.search.problem import Problem


def reference_teacher(
    sites: Sequence[Site], scores: Scores, cost: FlopsCost, plan: Plan
) -> dict[str, np.ndarray]:
    """Binary masks by site, float64 [units]: what the paper's search keeps at the square root of
    the share of FLOPs that `plan` keeps."""
    budget = math.sqrt(cost.share_of(plan)) * cost.dense(sites)
    kept = enumeration(Problem.of(sites, scores, cost), budget).kept
    return {s.name: np.isin(np.arange(s.units), kept[s.name]).astype(np.float64) for s in sites}
