"""Multiply-accumulates of a unit (Kwon et al. 2022, section 4; the embeddings, norms and the task's
head are left out)."""

from __future__ import annotations

from collections.abc import Sequence

from rfx.core.plan import Counts, Kind, Site


def unit_costs(sites: Sequence[Site], sequence: float, hidden: int) -> dict[str, float]:
    """MACs of one unit of each site, for one example of `sequence` tokens (a mean length need not
    be whole).

    A head has its q, k and v projections, scores and context, and its part of the output
    projection: 3 n D d + 2 n^2 d + n d D. A filter has its row of the first linear and its column
    of the second: 2 n D.
    """
    return {
        s.name: (4 * sequence * hidden + 2 * sequence**2) * s.width
        if s.kind is Kind.MHA
        else 2 * sequence * hidden
        for s in sites
    }


def flops(sites: Sequence[Site], counts: Counts, sequence: float, hidden: int) -> float:
    """MACs of all sublayers with `counts` units kept."""
    costs = unit_costs(sites, sequence, hidden)
    return float(sum(costs[s.name] * counts[s.name] for s in sites))
