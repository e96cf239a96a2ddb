"""Sites, scores and cost curves made up for the tests of the searches."""

from dataclasses import dataclass

import numpy as np

from rfx.core.plan import Choice, Kind, Site
from rfx.cost.flops import LinearCost
from rfx.methods.scores.base import Scores


def make_sites(layers, heads, filters):
    sites = []
    for i in range(layers):
        sites.append(Site(f"layer.{i}.mha", i, Kind.MHA, heads, 8, (), "", "", "", ""))
        sites.append(Site(f"layer.{i}.ffn", i, Kind.FFN, filters, 1, (), "", "", "", ""))
    return sites


def make_scores(sites, seed=0):
    rng = np.random.default_rng(seed)
    return Scores(
        {s.name: rng.lognormal(0, 1.5, s.units) * (40 if s.kind is Kind.MHA else 1) for s in sites}
    )


def costs_like_a_runtime(sites, seed=0, grid=16):
    """One curve a kind: steps of a tile, noise of a clock, an even number of heads a little
    cheaper."""
    rng = np.random.default_rng(seed)
    curves = {}
    for kind in Kind:
        units = max(s.units for s in sites if s.kind is kind)
        if kind is Kind.MHA:
            curve = {
                n: 0.05 + 0.02 * n + 0.01 * (n % 2) + 0.004 * rng.random() for n in range(units + 1)
            }
        else:
            counts = range(0, units + 1, grid)
            curve = {
                n: 0.03 + 2e-4 * n + 0.01 * np.ceil(n / 128) + 0.003 * rng.random() for n in counts
            }
        curve[0] = 0.01
        curves[kind] = {n: float(c) for n, c in curve.items()}
    return {s.name: curves[s.kind] for s in sites}


def by_choice(curves):
    """Curves by site and count as a search takes them: by site and choice, at one precision."""
    return {name: {Choice(n): c for n, c in curve.items()} for name, curve in curves.items()}


@dataclass(frozen=True)
class Prices(LinearCost):
    """A price a unit of each kind, with what cannot be pruned."""

    head: float
    filter: float
    base: float = 0.0
    grid: int = 1

    unit = "ms"

    @property
    def fixed(self):
        return self.base

    def price(self, site):
        return self.head if site.kind is Kind.MHA else self.filter

    def step(self, site):
        return self.grid if site.kind is Kind.FFN else 1
