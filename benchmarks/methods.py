"""Pruning methods beside one another on one model: metric, agreement and drop at several FLOPs
budgets.

    python -m benchmarks.methods --out benchmarks/results/methods.json [--methods kwon kwon-diagonal
        kwon-reference magnitude] [--flops 0.7 0.5] [--model FOLDER --task TASK --train FILE --eval
        FILE]

Without a model the quickstart's is used. FLOPs budgets give every method the same budget without a
clock.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from rfx.cli.terminal import Terminal
from rfx.core.files import atomic_write_text
from rfx.pipeline.prune_export import prune_export
from rfx.recipe.presets import PRESETS
from rfx.recipe.read import make_recipe, read_recipe

# Variants of one part, beside the presets.
VARIANTS = {
    "kwon-diagonal": {
        **PRESETS["kwon"].model_dump(),
        "name": "kwon-diagonal",
        "interactions": "none",
    }
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.methods",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--methods", nargs="+", default=["kwon", "kwon-diagonal", "kwon-reference", "magnitude"]
    )
    parser.add_argument("--flops", type=float, nargs="+", default=[0.7, 0.5])
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[0],
        help="of the calibration examples and random choices",
    )
    for option in ("--model", "--task", "--train", "--eval"):
        parser.add_argument(option)
    args = parser.parse_args(argv)
    rows = []
    with Terminal() as progress, tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            for flops in args.flops:
                for method in args.methods:
                    if args.model:
                        base = make_recipe(
                            {
                                "name": Path(args.model).name,
                                "model": args.model,
                                "task": args.task,
                                "data": {"train": args.train, "eval": args.eval},
                            }
                        )
                    else:
                        base = read_recipe("quickstart")
                    recipe = base.changed(
                        {
                            "budget": {"flops": flops},
                            "method": VARIANTS.get(method, method),
                            "target": "ort",
                            "seed": seed,
                            "calibration.seed": seed,
                        }
                    )
                    evidence = prune_export(recipe, Path(folder) / "out", progress=progress)
                    rows.append(
                        {
                            "method": method,
                            "flops": flops,
                            "seed": seed,
                            "flops_ratio": evidence.flops_ratio,
                            "accuracy": evidence.accuracy.model_dump(mode="json"),
                            "latency_ratio": evidence.latency.ratio,
                            "kept_layers": evidence.kept_layers,
                            "tuned_sites": sum(t.accepted for t in evidence.tuning),
                            "sites": len(evidence.tuning),
                            "seconds": {s.name: s.seconds for s in evidence.stages},
                            "environment": evidence.environment,
                        }
                    )
                    a = evidence.accuracy
                    progress.note(
                        f"{method:15s} seed {seed} FLOPs {flops}: {a.metric} {100 * a.pruned:.2f} "
                        f"(dense {100 * a.dense:.2f}), agreement {a.agreement or 0:.4f}"
                    )
                    atomic_write_text(
                        args.out,
                        json.dumps({"benchmark": "methods", "runs": rows}, indent=1) + "\n",
                    )


if __name__ == "__main__":
    main()
