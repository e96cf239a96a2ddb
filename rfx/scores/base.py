"""What a scorer gives: how much each unit matters, and the gradients that a site's interactions are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping

import numpy as np


@dataclass(frozen=True)
class Scores:
    """`importance[site]` float64 [units], >= 0, additive damage if the unit is removed.

    `gradients[site]` float32 [samples, units], the rows g of the site's Fisher block sum_b g gT (absent for scorers
    that have no interactions).
    """

    importance: Mapping[str, np.ndarray]
    gradients: Mapping[str, np.ndarray] = field(default_factory=dict)
