"""One pair of the accuracy benchmark at work: prune by a method to a share of the FLOPs, and judge
the model that is left."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.accuracy_recipes import recipe_of
from benchmarks.memory import forget_peak, peak_mb
from benchmarks.pairs import Pair
from rfx.core.progress import Progress
from rfx.core.store import Store
from rfx.methods.scores.divergence import collect_outputs, divergence
from rfx.models.shrink import shrink
from rfx.pipeline.compensate import compensate
from rfx.pipeline.resolve import open_session, resolve
from rfx.pipeline.score import flops_cost, method_of, score
from rfx.tasks.calibration import Batches

if TYPE_CHECKING:
    import torch

Outputs = list[dict[str, "torch.Tensor"]]  # one entry a batch

EVAL_BATCH = 64
# Outputs and predictions of a pair's dense model on the evaluation split, by the pair's name.
DENSE: dict[str, tuple[Outputs, list[Any]]] = {}


class Bench:
    """One pair and one sample of calibration examples.

    Args:
        model: the folder of the fine-tuned checkpoint.
        data: the folder of the data sets.
        method: a preset's name or its parts. It says how the calibration examples are drawn.
        seed: of the calibration examples and of random choices.
        examples: how many calibration examples are drawn.
        store: where scores are kept.
    """

    def __init__(
        self,
        pair: Pair,
        model: Path,
        data: Path,
        method: str | dict[str, Any],
        seed: int,
        examples: int,
        store: Store,
        progress: Progress,
    ) -> None:
        self.pair = pair
        asked = recipe_of(pair, model, data, method, seed, examples)
        # Nothing is built or timed: any runtime that is installed will do.
        self.session = open_session(asked, store=store, progress=progress)
        found = resolve(self.session, asked)
        self.recipe, self.subject, self.examples = found.recipe, found.subject, found.examples
        self.task = self.examples.task
        # Sorted by length, so that little is padded; `order` brings the outputs back into the order
        # of the features.
        self.features = self.examples.evaluation_features
        self.order = sorted(range(len(self.features)), key=lambda i: self.features[i].tokens)
        self.evaluation = Batches(self.task, [self.features[i] for i in self.order], EVAL_BATCH)

    @property
    def dense(self) -> tuple[Outputs, list[Any]]:
        """Outputs and predictions of the dense model, the same for every recipe and seed."""
        if self.pair.name not in DENSE:
            outputs = collect_outputs(self.subject.model, self.evaluation, self.task)
            DENSE[self.pair.name] = outputs, self.predict(outputs)
        return DENSE[self.pair.name]

    def metric(self, predictions: list[Any]) -> float:
        """The task's metric of some predictions on the evaluation split."""
        return float(self.task.metric(predictions, self.examples.evaluation))

    def predict(self, outputs: Outputs) -> list[Any]:
        """What a model predicts, one entry an evaluation example, from its outputs by batch."""
        logits: dict[str, list[Any]] = {
            name: [None] * len(self.features) for name in self.task.output_names
        }
        for name, arrays in logits.items():
            rows = (row for part in outputs for row in part[name])
            for i, row in zip(self.order, rows, strict=True):
                array = row.numpy()
                if self.task.token_outputs:
                    array = array[: len(self.features[i].ids["input_ids"])]
                arrays[i] = array
        return list(self.task.predict(logits, self.features, self.examples.evaluation))

    def judge(self, model: torch.nn.Module) -> tuple[dict[str, Any], list[Any]]:
        """Metric, divergence and agreement of a model on the evaluation split; and its
        predictions."""
        import torch

        outputs = collect_outputs(model, self.evaluation, self.task)
        predictions = self.predict(outputs)
        apart = [
            divergence(d, s, inputs, self.task.output_names)
            for d, s, (inputs, _) in zip(self.dense[0], outputs, self.evaluation)
        ]
        same = None
        if not getattr(self.task, "regression", False):
            same = float(np.mean([a == b for a, b in zip(predictions, self.dense[1])]))
        return {
            "metric": self.metric(predictions),
            "agreement": same,
            "divergence": float(torch.cat(apart).mean()),
        }, predictions

    def prune(
        self, method: str | dict[str, Any], share: float
    ) -> tuple[torch.nn.Module, dict[str, Any]]:
        """Prune to a share of the FLOPs.

        Returns:
            The shrunk model, and the facts of a cell: what it keeps, the seconds of every stage,
            memory, warnings.
        """
        session, subject, examples = self.session, self.subject, self.examples
        recipe = self.recipe.changed({"method": method, "budget": {"flops": share}})
        done, said = len(session.stages), len(session.warnings)
        resident = forget_peak()
        started = time.perf_counter()
        scores = score(session, recipe, subject, examples)
        cost = flops_cost(subject, examples)
        searcher = method_of(recipe, examples).searcher(cost)
        with session.stage("search"):
            found = searcher(subject.sites, scores, share * cost.dense(subject.sites))
        outcome, part, rows = compensate(
            session, recipe, subject, examples, scores, found, searcher
        )
        small = shrink(subject.model, subject.sites, outcome.plan, outcome.update)
        return small, {
            "flops_kept": cost.share_of(outcome.plan),
            "seconds": time.perf_counter() - started,
            "layers": outcome.plan.layers,
            "stages": {s.name: [round(s.seconds, 3), s.cached] for s in session.stages[done:]},
            "beyond_mb": peak_mb() - resident,
            "fitted_sites": sum(r.accepted for r in rows),
            "held_out_divergence": part.divergence_after,
            "warnings": session.warnings[said:],
        }
