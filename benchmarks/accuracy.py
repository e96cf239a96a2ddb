"""Quality at equal cost: every recipe on real (model, task) pairs, at several shares of the FLOPs,
over seeds.

    python -m benchmarks.accuracy --data DATA [--models MODELS] --cache DIR --out
        benchmarks/results/accuracy.json [--pairs ...] [--recipes ...] [--seeds 0 1 2] [--flops 0.3
        0.4 0.5 0.6 0.7] [--examples N] [--latency 0.7 0.5 0.4]

Each cell of the result holds the metric on the evaluation split, KL to the dense model (squared
error for a regression), agreement with the dense model, the seconds of each stage, and peak memory.
Scores are shared between the budgets of one recipe and seed.

Without any of the options in brackets after the folders, everything that the accuracy page of the
documentation shows is run, which takes 16 hours of one thread. With one of them, only what they
name is run: `--recipes` takes the names of the ablations too, and `--latency` prunes to equal
measured latency on ONNX Runtime.

A run that was interrupted goes on: cells that the JSON holds are not run again, unless the recipe
has changed since, the model's weights are others, or, with `--again`, the code of rfx has changed.
A file whose name ends in .gz is compressed, and `accuracy.json` means `accuracy.json.gz` where only
that exists.

The predictions of each cell are kept in the cache. Where those of all seeds are there for `rfx` and
for another recipe, the JSON gets the interval of the metric's difference over the judged examples
(`intervals`). `python -m benchmarks.accuracy_report` makes tables and a plot from the JSON.
"""

from __future__ import annotations

import argparse
import functools
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.accuracy_bench import Bench
from benchmarks.accuracy_cells import code, fresh_parts, intervals, keep_predictions, stale
from benchmarks.accuracy_recipes import (
    ABLATIONS,
    COMPLETE,
    RECIPES,
    USUAL,
    method_of,
    recipe_of,
)
from benchmarks.pairs import EVALUATED, PAIRS, Pair, checkpoint, with_evaluation
from benchmarks.results_file import place_of, read_results, write_results
from rfx.cli.terminal import Terminal
from rfx.core.environment import environment
from rfx.core.files import file_hash
from rfx.core.progress import Progress
from rfx.core.store import Store
from rfx.evidence.curve import Point
from rfx.pipeline.sweep import sweep
from rfx.recipe.presets import PRESETS

LATENCY_TARGET = "ort"  # the runtime of the cells at equal measured latency


def main(argv: list[str] | None = None) -> None:
    args = _arguments(argv)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    (args.cache / "models").mkdir(parents=True, exist_ok=True)
    # With --again, scores that other code made are not taken either.
    store = Store(args.cache / (f"store-{code()}" if args.again else "store"))
    if place_of(args.out).is_file():
        results = read_results(args.out)
    else:
        results = {"schema_version": 1, "cells": {}, "dense": {}}
    results["environment"] = environment()
    named = {name: getattr(args, name) for name in USUAL if getattr(args, name) is not None}
    with Terminal(quiet=True) as progress:
        for options in [named] if named else COMPLETE:
            part = argparse.Namespace(**{**vars(args), **USUAL, **options})
            run_part(part, store, progress, results)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def folder(name: str, help_: str, required: bool = True) -> None:
        parser.add_argument(name, type=Path, required=required, help=help_)

    def several(name: str, help_: str, **more: Any) -> None:
        parser.add_argument(name, nargs="+", help=help_, **more)

    folder("--data", "folder of the data sets (see python -m benchmarks.pairs --help)")
    folder("--models", "folder of ready checkpoints, by a pair's name", required=False)
    folder("--cache", "where fine-tuned models and scores are kept")
    folder("--out", "JSON of the results; what it holds is not run again")
    several("--pairs", "default: " + " ".join(EVALUATED), choices=list(PAIRS))
    several("--recipes", "default: " + " ".join(RECIPES), choices=[*PRESETS, *ABLATIONS])
    several("--seeds", "default: 0 1 2", type=int)
    several("--flops", "shares kept; default: 0.7 0.6 0.5 0.4 0.3", type=float)
    parser.add_argument(
        "--examples", type=int, help="calibration examples; default: as many as the pair says"
    )
    several(
        "--latency",
        "then these targets of measured latency, at seed 0; default: none",
        type=float,
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help="also run again the cells that other code of rfx made, or unknown code",
    )
    return parser.parse_args(argv)


def run_part(
    args: argparse.Namespace, store: Store, progress: Progress, results: dict[str, Any]
) -> None:
    """Every pair, seed, recipe and share that `args` names and `results` does not hold."""
    for name in args.pairs:
        pair = PAIRS[name]
        model = checkpoint(pair, args.data, args.models, args.cache, progress)
        pair = with_evaluation(pair, model, args.data, args.cache)
        weights = file_hash(model / "model.safetensors")[:16]
        for seed in args.seeds:
            for method in args.recipes:
                at_flops(pair, model, weights, args, method, seed, store, progress, results)
        if args.seeds:
            _fill_intervals(pair, model, args, store, progress, results)
        for method in args.recipes if args.latency else ():
            at_latency(pair, model, weights, args, method, store, progress, results)


def at_flops(
    pair: Pair,
    model: Path,
    weights: str,
    args: argparse.Namespace,
    method: str,
    seed: int,
    store: Store,
    progress: Progress,
    results: dict[str, Any],
) -> None:
    """The cells of one pair, recipe and seed, saved after each."""
    import torch

    examples, cells = args.examples or pair.examples, results["cells"]
    keys = {share: f"{pair.name}|{method}|{seed}|{share}|{examples}" for share in args.flops}
    fresh = fresh_parts(method, again=args.again)
    todo = [share for share in args.flops if stale(cells.get(keys[share]), fresh, weights)]
    if not todo:
        return
    bench = Bench(pair, model, args.data, method_of(method), seed, examples, store, progress)
    if pair.name not in results["dense"]:
        results["dense"][pair.name] = {
            **bench.judge(bench.subject.model)[0],
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
            "dense": bench.metric(bench.dense[1]),
            "threads": torch.get_num_threads(),
        }
        cells[keys[share]] = cell
        keep_predictions(args.cache, keys[share], cell, predictions)
        write_results(args.out, results)
        print(
            f"{keys[share]:42s} metric {cell['metric']:.4f}  KL {cell['divergence']:.4f}  "
            f"agreement {cell['agreement'] or float('nan'):.4f}  {cell['seconds']:.1f} s",
            flush=True,
        )


def _fill_intervals(
    pair: Pair,
    model: Path,
    args: argparse.Namespace,
    store: Store,
    progress: Progress,
    results: dict[str, Any],
) -> None:
    """The intervals of a pair's cells at the shares and number of examples of `args`, in place of
    those that `results` has of them."""
    examples = args.examples or pair.examples
    make_bench = functools.cache(
        functools.partial(
            Bench, pair, model, args.data, "rfx", args.seeds[0], examples, store, progress
        )
    )
    for suffix in (f"{share}|{examples}" for share in args.flops):
        others = {
            k: v
            for k, v in results.get("intervals", {}).items()
            if not (k.startswith(f"{pair.name}|") and k.endswith(f"|{suffix}"))
        }
        found = intervals(make_bench, pair.name, suffix, args.cache, results)
        results["intervals"] = {**others, **found}
    write_results(args.out, results)


def at_latency(
    pair: Pair,
    model: Path,
    weights: str,
    args: argparse.Namespace,
    method: str,
    store: Store,
    progress: Progress,
    results: dict[str, Any],
) -> None:
    """The same at equal measured latency, by a whole sweep (`rfx sweep --latency`)."""
    examples = args.examples or pair.examples
    keys = {t: f"{pair.name}|{method}|0|latency {t}|{examples}" for t in args.latency}
    fresh = fresh_parts(method, again=args.again)
    todo = [t for t, key in keys.items() if stale(results["cells"].get(key), fresh, weights)]
    if not todo:
        return
    recipe = recipe_of(pair, model, args.data, method_of(method), 0, examples)
    recipe = recipe.changed({"target": LATENCY_TARGET})
    with tempfile.TemporaryDirectory() as folder:
        curve = sweep(recipe, todo, Path(folder) / "sweep", store=store, progress=progress)
    fresh |= {"code": code(), "weights": weights}
    for point in curve.points:
        facts = _latency_facts(point)
        results["cells"][keys[point.target]] = {**facts, **fresh}
        print(keys[point.target], {k: v for k, v in facts.items() if k != "layers"}, flush=True)
    write_results(args.out, results)


def _latency_facts(point: Point) -> dict[str, Any]:
    """What a cell says of a point of a sweep; the reason alone where it is out of reach."""
    if point.accuracy is None or point.latency is None:
        return {"note": point.note}
    return {
        "metric": point.accuracy.pruned,
        "dense": point.accuracy.dense,
        "agreement": point.accuracy.agreement,
        "divergence": point.accuracy.divergence,
        "ratio": point.latency.ratio,
        "interval": point.latency.interval,
        "flops_kept": point.flops_ratio,
        "layers": point.kept_layers,
        "warnings": point.warnings,
    }


if __name__ == "__main__":
    main()
