"""What keeping k units of a site is worth when removed units interact: the site's Fisher block, not
its diagonal alone.

Removing a set S of one site costs || sum of g over S ||^2, g the units' gradient rows: the block
that Kwon et al. 2022 rearrange with (section 4.2). The diagonal, sum of ||g_u||^2, is blind to
gradients that point the same way: the last FFN of a classifier, whose filters each matter little,
may matter more than all others once they are gone together. Units leave in the order of their
diagonal, so the curve is one cumulative sum over the rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rfx.core.plan import Site
from rfx.methods.scores.base import Scores

_SAMPLES = 256  # rows summed at once


def joint_values(sites: Sequence[Site], scores: Scores) -> dict[str, np.ndarray]:
    """Value kept at each count by site: float64 [units + 1], from 0, never falling.

    The damage of removing the k units of least diagonal is the larger of the block's and the
    diagonal's: gradients that cancel within the sample need not cancel outside it. It is made never
    to fall as more units go.

    Raises:
        KeyError: a site without gradient rows.
    """
    values = {}
    for site in sites:
        rows = scores.gradients[site.name]  # [samples, units]
        importance = np.asarray(scores.importance[site.name], dtype=np.float64)
        # Least important first, as Problem.top keeps the others.
        leaving = np.argsort(-importance, kind="stable")[::-1]
        joint = np.zeros(site.units)
        for start in range(0, len(rows), _SAMPLES):
            # [samples, units]
            part = np.cumsum(rows[start : start + _SAMPLES, leaving], axis=1, dtype=np.float64)
            joint += np.einsum("bu,bu->u", part, part)
        damage = np.maximum(np.maximum.accumulate(joint), np.cumsum(importance[leaving]))
        damage = np.concatenate([[0.0], damage])  # [units + 1], by removed units
        values[site.name] = damage[-1] - damage[::-1]
    return values
