"""Mask rearrangement (Kwon et al. 2022, section 4.2): which units go, given how many, with
interactions counted.

The damage of a removed set S of one site is (1-m)^T I (1-m) = || sum of g over S ||^2, I = G^T G
the site's Fisher block, G [samples, units] its gradient rows. Counts stay, so the cost stays; the
damage never rises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rfx.methods.scores.base import Scores

_SWEEPS = 100


# (Fisher block [units, units], removed units) -> removed units, as many
Swaps = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Rearranged:
    """Kept units by site, and each site's damage ||sum of removed g||^2 before and after."""

    kept: Mapping[str, tuple[int, ...]]
    before: Mapping[str, float]
    after: Mapping[str, float]


def rearrange(
    kept: Mapping[str, tuple[int, ...]],
    scores: Scores,
    *,
    swaps: Swaps | None = None,
    among: Mapping[str, Sequence[int]] | None = None,
) -> Rearranged:
    """Exchange kept and removed units site by site.

    Args:
        kept: kept units by site, as a search gives them.
        scores: with gradient rows; sites without rows, all kept or all removed are left as they
            are.
        swaps: gives the new removed units of a site; None: `best_swaps`.
        among: by site the units that may be kept; None: all.
    """
    new: dict[str, tuple[int, ...]] = {}
    before: dict[str, float] = {}
    after: dict[str, float] = {}
    for name, units in kept.items():
        new[name] = tuple(sorted(units))
        rows = scores.gradients.get(name)
        if rows is None:
            continue
        pool = (
            np.arange(rows.shape[1])
            if among is None
            else np.sort(np.asarray(among[name], dtype=np.int64))
        )
        rows = np.asarray(rows, dtype=np.float64)[:, pool]  # [samples, units of the pool]
        removed = np.flatnonzero(~np.isin(pool, np.asarray(units, dtype=np.int64)))
        before[name] = after[name] = damage(rows, removed)
        if not len(removed) or not len(units):
            continue
        block = rows.T @ rows  # [units, units]
        swapped = (swaps or best_swaps)(block, removed)
        value = damage(rows, swapped)
        if value < before[name]:  # rounding aside, never above
            after[name] = value
            new[name] = tuple(int(u) for u in np.delete(pool, swapped))
    return Rearranged(new, before, after)


def damage(rows: np.ndarray, removed: np.ndarray) -> float:
    """|| sum of the removed units' gradients ||^2; `rows` [samples, units]."""
    total = np.asarray(rows, dtype=np.float64)[:, removed].sum(axis=1)
    return float(total @ total)


def best_swaps(block: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """For each removed unit, highest Fisher first, the swap with a kept unit that lowers the damage
    most, if any; again until a whole sweep changes nothing.

    Swapping i in (kept from now on) and j out changes the damage by I_ii - 2 s_i + I_jj + 2 s_j - 2
    I_ij, s = I 1_S.
    """
    diagonal = np.diagonal(block).copy()
    gone = np.zeros(len(diagonal), dtype=bool)
    gone[removed] = True
    s = block[:, removed].sum(axis=1)  # [units]
    noise = 1e-12 * float(diagonal.sum())
    for _ in range(_SWEEPS):
        swaps = 0
        for i in removed[np.argsort(-diagonal[removed], kind="stable")]:
            change = diagonal + 2.0 * s - 2.0 * block[i]  # [units], all but the part of i
            change[gone] = np.inf
            j = int(np.argmin(change))
            if change[j] + diagonal[i] - 2.0 * s[i] < -noise:
                gone[i], gone[j] = False, True
                s += block[j] - block[i]
                swaps += 1
        removed = np.flatnonzero(gone)
        if not swaps:
            break
        s = block[:, removed].sum(axis=1)  # anew, so that rounding does not gather
    return removed


def one_pass(block: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """The reference's single pass: kept units by ascending Fisher join the removed set one at a
    time, and whichever unit of the set lowers the damage most by leaving it, leaves."""
    diagonal = np.diagonal(block).copy()
    members = removed[np.argsort(diagonal[removed], kind="stable")]
    kept = np.setdiff1d(np.arange(len(diagonal)), removed)
    s = block[:, members].sum(axis=1)  # [units]
    for u in kept[np.argsort(diagonal[kept], kind="stable")]:
        s += block[u]
        members = np.append(members, u)
        # || sum - g_i ||^2 = const - 2 s_i + I_ii
        leaver = int(np.argmin(diagonal[members] - 2.0 * s[members]))
        s -= block[members[leaver]]
        members = np.delete(members, leaver)
    return members
