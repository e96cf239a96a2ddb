"""Quality at equal cost: every recipe on real (model, task) pairs, at several shares of the FLOPs,
over seeds.

    python -m benchmarks.accuracy --data DATA [--models MODELS] --cache DIR --out
        benchmarks/results/accuracy.json [--pairs ...] [--recipes ...] [--seeds 0 1 2] [--flops 0.3
        0.4 0.5 0.6 0.7] [--examples N] [--latency 0.7 0.5 0.4]

For each: the metric on the evaluation split, KL to the dense model (squared error for a
regression), agreement with the dense model, seconds of each stage, peak memory. Scores are shared
between the budgets of one recipe and seed. Without any of the options in brackets after the folders
all of COMPLETE is run, which is what docs/pages/explanation/accuracy.md shows (16 hours of one thread); with one of
them only what they name, `--recipes` with the names of ABLATIONS too, `--latency` at equal measured
latency on ONNX Runtime. Resumes: what the JSON holds is not run again, unless the recipe says
something else now, or the model's weights are others, or with `--again` the code of rfx is. The
predictions of what is made are kept in the cache; where all seeds of `rfx` and of another recipe
have theirs, the JSON gets the interval of the metric's difference over the judged examples
(`intervals`). `python -m benchmarks.accuracy_report` makes the tables and plots of it.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.pairs import EVALUATED, PAIRS, Pair, checkpoint, with_evaluation
from rfx.cli.terminal import Terminal
from rfx.core.environment import environment, tool
from rfx.core.files import atomic_write_text, file_hash
from rfx.core.store import Store
from rfx.methods.scores.divergence import collect_outputs, divergence
from rfx.models.shrink import shrink
from rfx.pipeline import examples as load
from rfx.pipeline import make as finish
from rfx.pipeline import score as decide
from rfx.pipeline.session import Session, peak_memory_mb
from rfx.pipeline.sweep import sweep
from rfx.recipe.presets import PRESETS
from rfx.recipe.read import make_recipe
from rfx.recipe.spec import MethodSpec
from rfx.runtimes.find import runtime
from rfx.tasks.calibration import Batches

EVAL_BATCH = 64
RESAMPLES = 1000  # of the judged examples
RECIPES = ("kwon-reference", "kwon", "kprune", "magnitude", "random", "rfx")
RFX = PRESETS["rfx"].model_dump()
DENSE: dict[
    str, tuple
] = {}  # outputs and predictions of a pair's dense model on the evaluation split
REFERENCE = PRESETS["kwon-reference"].model_dump()
ABLATIONS = {  # the reference's stages, and the default with one part exchanged
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
USUAL = {
    "pairs": EVALUATED,
    "recipes": RECIPES,
    "seeds": [0, 1, 2],
    "flops": [0.7, 0.6, 0.5, 0.4, 0.3],
    "examples": None,
    "latency": [],
}
COMPLETE = (  # all that docs/pages/explanation/accuracy.md shows: what each part has in place of the usual
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


def method_of(name: str):
    return {**ABLATIONS[name], "name": name} if name in ABLATIONS else name


def recipe_of(pair: Pair, model: Path, data: Path, method, seed: int, share: float, examples: int):
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
            "budget": {"flops": share},
            "calibration": {"examples": examples, "seed": seed},
            "seed": seed,
            "method": method,
        }
    )


class Bench:
    """One pair and one sample of calibration examples."""

    def __init__(
        self,
        pair: Pair,
        model: Path,
        data: Path,
        method: str,
        seed: int,
        examples: int,
        store: Store,
        progress,
    ):
        self.pair, self.seed, self.examples = pair, seed, examples
        self.args = (pair, model, data)
        self.run = Session(
            recipe_of(*self.args, method, seed, 0.5, examples), store, runtime("ort"), progress
        )
        self.loaded = load.load_model(self.run, str(model), pair.task)
        self.examples = load.load_examples_and_features(self.run, self.loaded)
        self.task = self.examples.task
        # Sorted by length, so that little is padded; `order` brings the outputs back into the order
        # of the features.
        self.features = self.examples.evaluation_features
        self.order = sorted(range(len(self.features)), key=lambda i: self.features[i].tokens)
        self.evaluation = Batches(self.task, [self.features[i] for i in self.order], EVAL_BATCH)

    @property
    def dense(self) -> tuple:
        """Outputs and predictions of the dense model, the same for every recipe and seed."""
        if self.pair.name not in DENSE:
            outputs = collect_outputs(self.loaded.model, self.evaluation, self.task)
            DENSE[self.pair.name] = outputs, self.predict(outputs)
        return DENSE[self.pair.name]

    def predict(self, outputs):
        logits = {name: [None] * len(self.features) for name in self.task.output_names}
        for name, arrays in logits.items():
            rows = (row for part in outputs for row in part[name])
            for i, row in zip(self.order, rows, strict=True):
                feature = self.features[i]
                arrays[i] = (
                    row.numpy()[: len(feature.ids["input_ids"])]
                    if self.task.token_outputs
                    else row.numpy()
                )
        return self.task.predict(logits, self.features, self.examples.evaluation)

    def judge(self, model) -> tuple[dict, list]:
        """Metric, divergence and agreement of a model on the evaluation split; and its
        predictions."""
        outputs = collect_outputs(model, self.evaluation, self.task)
        predictions = self.predict(outputs)
        apart = [
            divergence(d, s, inputs, self.task.output_names)
            for d, s, (inputs, _) in zip(self.dense[0], outputs, self.evaluation)
        ]
        import torch

        same = None
        if not getattr(self.task, "regression", False):
            same = float(np.mean([a == b for a, b in zip(predictions, self.dense[1])]))
        return {
            "metric": self.task.metric(predictions, self.examples.evaluation),
            "agreement": same,
            "divergence": float(torch.cat(apart).mean()),
        }, predictions

    def prune(self, method, share: float):
        """The pruned model (shrunk) and the seconds of every stage."""
        run = self.run
        run.recipe = recipe_of(*self.args, method, self.seed, share, self.examples)
        run.stages, run.warnings = [], []
        resident = forget_peak()
        started = time.perf_counter()
        scores = decide.score(run, self.loaded, self.examples)
        cost = decide.flops_cost(self.loaded, self.examples)
        searcher = decide.method_of(run.recipe, self.examples).searcher(cost)
        with run.stage("search"):
            result = searcher(self.loaded.sites, scores, share * cost.dense(self.loaded.sites))
        outcome, part, rows = finish.decide_and_compensate(
            run, self.loaded, self.examples, scores, result, searcher
        )
        small = shrink(self.loaded.model, self.loaded.sites, outcome.plan, outcome.update)
        facts = {
            "flops_kept": cost.share(outcome.plan.sites, outcome.plan.counts),
            "seconds": time.perf_counter() - started,
            "layers": outcome.plan.layers,
            "stages": {s.name: [round(s.seconds, 3), s.cached] for s in run.stages},
            "beyond_mb": peak_mb() - resident,
            "fitted_sites": sum(r.accepted for r in rows),
            "held_out_divergence": part.divergence_after,
            "warnings": list(run.warnings),
        }
        return small, facts


def resolved(name: str) -> dict:
    """All that a recipe's method says: a cell of another is made again."""
    return (
        MethodSpec.model_validate(ABLATIONS[name]).model_dump()
        if name in ABLATIONS
        else PRESETS[name].model_dump()
    )


def stale(cell: dict | None, fresh: dict, weights: str) -> bool:
    """Whether a cell is to be made (again). Cells of before 2026-11-22 do not say of which weights
    they are."""
    return (
        cell is None
        or any(cell.get(part) != value for part, value in fresh.items())
        or cell.get("weights", weights) != weights
    )


def keep_predictions(cache: Path, key: str, cell: dict, predictions: list) -> None:
    """What a cell predicts, in the cache; its divergence tells later whether it is still the cell
    of that name."""
    (cache / "predictions").mkdir(exist_ok=True)
    plain = [p.item() if hasattr(p, "item") else p for p in predictions]
    atomic_write_text(
        prediction_file(cache, key),
        json.dumps({"divergence": cell["divergence"], "predictions": plain}),
    )


def prediction_file(cache: Path, key: str) -> Path:
    return cache / "predictions" / (key.replace("|", "_") + ".json")


def kept_predictions(cache: Path, key: str, cell: dict) -> list | None:
    file = prediction_file(cache, key)
    known = json.loads(file.read_text()) if file.is_file() else {}
    return known.get("predictions") if known.get("divergence") == cell["divergence"] else None


def intervals(
    make_bench: Callable[[], Bench], prefix: str, suffix: str, cache: Path, results: dict
) -> dict:
    """Of all cells of one pair (`prefix`), share and number of examples (`suffix`): the metric of
    `rfx` less each other recipe's, points: mean over the seeds, and the 95 % interval of that mean
    over the judged examples, drawn anew (the same ones for both recipes and all seeds; the seeds
    stay as they are). What `results` holds of the same cells is taken."""
    cells, out = results["cells"], {}

    def by_seed(recipe: str) -> dict[int, str]:
        return {
            int(k.split("|")[2]): k
            for k in cells
            if k.startswith(f"{prefix}|{recipe}|") and k.endswith(f"|{suffix}")
        }

    ours = by_seed("rfx")
    for recipe in (r for r in RECIPES if r != "rfx"):
        key, theirs = f"{prefix}|{recipe}|{suffix}", by_seed(recipe)
        couples = [(ours[s], theirs[s]) for s in sorted(ours.keys() & theirs.keys())]
        of = [[cells[k]["divergence"] for k in couple] for couple in couples]
        known = results.get("intervals", {}).get(key)
        if known is not None and known["of"] == of:
            out[key] = known
            continue
        predictions = [[kept_predictions(cache, k, cells[k]) for k in couple] for couple in couples]
        if not couples or any(
            p is None for couple in predictions for p in couple
        ):  # a mean over some would say something else than the tables
            continue
        bench = make_bench()
        examples = bench.examples.evaluation
        drawn = np.mean(
            [bench.task.bootstrap(*p, examples, resamples=RESAMPLES, seed=0) for p in predictions],
            axis=0,
        )
        low, high = np.percentile(100 * drawn, (2.5, 97.5))
        apart = [
            100 * (bench.task.metric(a, examples) - bench.task.metric(b, examples))
            for a, b in predictions
        ]
        out[key] = {
            "difference": float(np.mean(apart)),
            "interval": [float(low), float(high)],
            "by_seed": apart,
            "judged": len(examples),
            "of": of,
        }
    return out


def code() -> str:
    """Digest of rfx's sources: of which state of them a cell is."""
    import rfx

    files = sorted(Path(rfx.__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:16]


def forget_peak() -> float:
    """Start the process's peak memory anew (Linux), freed memory given back; what is resident then,
    MB."""
    import ctypes

    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        pass
    return peak_mb()


def peak_mb() -> float:
    """Largest resident memory since `forget_peak`, MB; of the whole process where there is no such
    thing."""
    try:
        rows = Path("/proc/self/status").read_text().splitlines()
        return int(next(r for r in rows if r.startswith("VmHWM")).split()[1]) / 1024
    except (OSError, StopIteration):
        return peak_memory_mb()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder of the data sets (see python -m benchmarks.pairs --help)",
    )
    parser.add_argument("--models", type=Path, help="folder of ready checkpoints, by a pair's name")
    parser.add_argument(
        "--cache", type=Path, required=True, help="where fine-tuned models and scores are kept"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="JSON of the results; what it holds is not run again",
    )
    parser.add_argument(
        "--pairs", nargs="+", choices=list(PAIRS), help="default: " + " ".join(EVALUATED)
    )
    parser.add_argument(
        "--recipes", nargs="+", choices=[*PRESETS, *ABLATIONS], help="default: " + " ".join(RECIPES)
    )
    parser.add_argument("--seeds", nargs="+", type=int, help="default: 0 1 2")
    parser.add_argument(
        "--flops", nargs="+", type=float, help="shares kept; default: 0.7 0.6 0.5 0.4 0.3"
    )
    parser.add_argument("--examples", type=int, help="of calibration; default: the pair's")
    parser.add_argument(
        "--latency",
        nargs="+",
        type=float,
        help="then these targets of measured latency, seed 0; default: none",
    )
    parser.add_argument(
        "--again", action="store_true", help="also what other code of rfx made, or an unknown one"
    )
    args = parser.parse_args(argv)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    (args.cache / "models").mkdir(parents=True, exist_ok=True)
    store = Store(
        args.cache / (f"store-{code()}" if args.again else "store")
    )  # scores that other code made are not taken either
    results = (
        json.loads(args.out.read_text())
        if args.out.is_file()
        else {"schema_version": 1, "cells": {}, "dense": {}}
    )
    results["environment"] = environment()
    named = {name: getattr(args, name) for name in USUAL if getattr(args, name) is not None}
    with Terminal(quiet=True) as progress:
        for options in [named] if named else COMPLETE:
            run_part(
                argparse.Namespace(**{**vars(args), **USUAL, **options}), store, progress, results
            )


def run_part(args: argparse.Namespace, store: Store, progress, results: dict) -> None:
    """Every pair, seed, recipe and share that `args` names and `results` does not hold."""
    import torch

    for name in args.pairs:
        pair = PAIRS[name]
        model = checkpoint(pair, args.data, args.models, args.cache, progress)
        pair = with_evaluation(pair, model, args.data, args.cache)
        weights = file_hash(model / "model.safetensors")[:16]
        for seed in args.seeds:
            for method in args.recipes:
                examples = args.examples or pair.examples
                keys = {share: f"{name}|{method}|{seed}|{share}|{examples}" for share in args.flops}
                fresh = fresh_parts(method, args)
                todo = [
                    share
                    for share in args.flops
                    if stale(results["cells"].get(keys[share]), fresh, weights)
                ]
                if not todo:
                    continue
                bench = Bench(
                    pair, model, args.data, method_of(method), seed, examples, store, progress
                )
                if name not in results["dense"]:
                    results["dense"][name] = {
                        **bench.judge(bench.loaded.model)[0],
                        "name": bench.task.metric_name,
                        "judged": len(bench.examples.evaluation),
                    }
                for share in todo:
                    small, facts = bench.prune(method_of(method), share)
                    judged, predictions = bench.judge(small)
                    cell = {
                        **judged,
                        **facts,
                        **fresh,
                        "code": code(),
                        "weights": weights,
                        "dense": bench.task.metric(bench.dense[1], bench.examples.evaluation),
                        "threads": torch.get_num_threads(),
                    }
                    results["cells"][keys[share]] = cell
                    keep_predictions(args.cache, keys[share], cell, predictions)
                    atomic_write_text(args.out, json.dumps(results, indent=1) + "\n")
                    print(
                        f"{keys[share]:42s} metric {cell['metric']:.4f}  KL "
                        f"{cell['divergence']:.4f}  agreement "
                        f"{cell['agreement'] or float('nan'):.4f}  {cell['seconds']:.1f} s",
                        flush=True,
                    )
        if args.seeds:
            examples = args.examples or pair.examples
            make_bench = functools.cache(
                functools.partial(
                    Bench, pair, model, args.data, "rfx", args.seeds[0], examples, store, progress
                )
            )
            for suffix in (f"{share}|{examples}" for share in args.flops):
                there = {
                    k: v
                    for k, v in results.get("intervals", {}).items()
                    if not (k.startswith(f"{name}|") and k.endswith(f"|{suffix}"))
                }
                results["intervals"] = {
                    **there,
                    **intervals(make_bench, name, suffix, args.cache, results),
                }
            atomic_write_text(args.out, json.dumps(results, indent=1) + "\n")
        for method in args.recipes if args.latency else ():
            at_latency(pair, model, weights, args, method, store, progress, results)


def fresh_parts(method: str, args: argparse.Namespace) -> dict:
    """What a cell must say to be taken as it is."""
    return {"method": resolved(method), "tool": tool(), **({"code": code()} if args.again else {})}


def at_latency(
    pair: Pair, model: Path, weights: str, args, method: str, store: Store, progress, results: dict
) -> None:
    """The same at equal measured latency: what `rfx sweep --latency` does."""
    examples = args.examples or pair.examples
    keys = {t: f"{pair.name}|{method}|0|latency {t}|{examples}" for t in args.latency}
    fresh = fresh_parts(method, args)
    todo = [t for t, key in keys.items() if stale(results["cells"].get(key), fresh, weights)]
    if not todo:
        return
    recipe = recipe_of(pair, model, args.data, method_of(method), 0, 0.5, examples).model_copy(
        update={"target": "ort"}
    )
    with tempfile.TemporaryDirectory() as folder:
        curve = sweep(recipe, todo, Path(folder) / "sweep", store=store, progress=progress)
    fresh |= {"code": code(), "weights": weights}
    for p in curve.points:
        cell = (
            {"note": p.note, **fresh}
            if p.accuracy is None
            else {
                "metric": p.accuracy.pruned,
                "dense": p.accuracy.dense,
                "agreement": p.accuracy.agreement,
                "divergence": p.accuracy.divergence,
                "ratio": p.latency.ratio,
                "interval": p.latency.interval,
                "flops_kept": p.flops_ratio,
                "layers": p.kept_layers,
                "warnings": p.warnings,
                **fresh,
            }
        )
        results["cells"][keys[p.target]] = cell
        print(
            keys[p.target],
            {k: v for k, v in cell.items() if k not in ("layers", *fresh)},
            flush=True,
        )
    atomic_write_text(args.out, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
