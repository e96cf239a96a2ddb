"""Score and search: how much each unit matters, and which counts fit the budget."""

from __future__ import annotations

from rfx.calibration import Batches, features_hash
from rfx.cost.flops import unit_costs
from rfx.cost.table import LatencyTable
from rfx.device import on_best_device
from rfx.plan import Counts, Plan, Site
from rfx.recipe import Recipe
from rfx.scores import scorer
from rfx.scores.base import Scores
from rfx.search import Problem, SearchResult, joint_values, rearrange, search
from rfx.stages.load import Model, Workload
from rfx.stages.run import Run

FLOPS_GRID = 8  # filters
VERSION = 1  # of the scoring: scores of another are not taken from the store


def batches(run: Run, workload: Workload) -> Batches:
    """The calibration examples as batches of (inputs, targets) tensors, dynamic padding, in a fixed order."""
    return Batches(workload.task, workload.calibration_features, run.recipe.calibration.batch)


def score(run: Run, loaded: Model, workload: Workload) -> Scores:
    """Scores of every unit, from the store where the same model, examples and scorer have been scored before."""
    method = run.recipe.method
    key = run.store.key(
        VERSION, "scores", loaded.hash, features_hash(workload.calibration_features), method.scorer, method.gradients,
        run.recipe.calibration.batch, run.recipe.seed, workload.task.name,
    )  # fmt: skip
    with run.stage("score") as clock:
        stored = run.store.get_arrays("scores", key)
        if stored is not None:
            clock.cached = True
            parts: dict[str, dict] = {"importance": {}, "gradients": {}}
            for name, array in stored.items():
                part, site = name.split("/", 1)
                parts[part][site] = array
            return Scores(**parts)
        with on_best_device(loaded.model):
            scores = scorer(method.scorer)(per=method.gradients, seed=run.recipe.seed).score(
                loaded.model, loaded.sites, batches(run, workload), workload.task, progress=run.progress
            )
        arrays = {f"importance/{k}": v for k, v in scores.importance.items()}
        run.store.put_arrays("scores", key, arrays | {f"gradients/{k}": v for k, v in scores.gradients.items()})
        return scores


def _values(recipe: Recipe, sites: list[Site], scores: Scores):
    """What each count is worth with interactions; None where the search goes by single units."""
    method = recipe.method
    return joint_values(sites, scores) if method.interactions == "block" and method.search == "knapsack" and scores.gradients else None


def search_latency(recipe: Recipe, sites: list[Site], scores: Scores, table: LatencyTable, budget_ms: float) -> SearchResult:
    """The plan of greatest kept importance whose predicted latency is within `budget_ms`."""
    problem = Problem.from_table(sites, scores, table, values=_values(recipe, sites, scores))
    return search(recipe.method.search)(problem, budget_ms)


def search_flops(recipe: Recipe, sites: list[Site], scores: Scores, hidden: int, sequence: float) -> SearchResult:
    """The same for a share of the FLOPs of the prunable sublayers.

    With every unit on its own, one price a kind makes Algorithm 1 of Kwon et al. exact, whatever search is named. With
    interactions it is a knapsack, over filter counts in steps of 8.
    """
    costs = unit_costs(sites, sequence, hidden)
    budget = recipe.budget.flops * sum(costs[s.name] * s.units for s in sites)
    values = _values(recipe, sites, scores)
    if values is None:
        return search("enumeration")(Problem.from_unit_costs(sites, scores, costs), budget)
    return search("knapsack")(Problem.from_unit_costs(sites, scores, costs, filter_grid=FLOPS_GRID, values=values), budget)


def refine(run: Run, loaded: Model, scores: Scores, result: SearchResult) -> Plan:
    """Which units stay, the counts given."""
    kept = dict(result.kept)
    mode = run.recipe.method.refine
    with run.stage("rearrange"):
        if mode != "none" and scores.gradients:
            kept = rearrange(kept, scores, mode=mode).kept
    return Plan.of(loaded.sites, kept, search=result.method, predicted=result.cost, budget=result.budget)


def dense_counts(sites: list[Site]) -> Counts:
    return {s.name: s.units for s in sites}
