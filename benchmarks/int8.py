"""INT8 beside what it has to beat: the dense model in fp32 and in INT8, pruned models in fp32 and
in INT8, and fp32 plans that are quantized afterwards.

    python -m benchmarks.int8 --out benchmarks/results/int8.json [--model FOLDER --train FILE
        --eval FILE] [--conditions 1x128 8x32] [--latencies 0.7 0.5] [--shares 0.6 0.5]
        [--examples 256] [--runtime openvino]

Without a model the quickstart's is used. A condition is batch x tokens. `--latencies` are budgets
of pruned fp32 models, shares of the dense fp32 latency; `--shares` are budgets of pruned INT8
models, shares of the measured latency of the dense INT8 model, the rival. Each INT8 model is found
by a latency table of INT8 models, and compared with a plan of the same measured latency that was
searched on the fp32 table and quantized afterwards; with `--tries 0` it is what the command makes,
which on a CPU goes by the fp32 table. Results of other models and conditions in the file stay
there. Ratios are measured in
turns in one process; run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.int8_bench import Condition
from benchmarks.results_file import place_of, read_results, write_results
from rfx.cli.terminal import Terminal
from rfx.core.environment import environment
from rfx.core.store import Store
from rfx.recipe.read import make_recipe, read_recipe
from rfx.recipe.spec import Recipe


def main(argv: list[str] | None = None) -> None:
    args = _arguments(argv)
    base = _recipe(args)
    name = args.name or base.name or Path(str(base.model)).name
    if args.runtime != "ort":  # beside the results of ONNX Runtime, not in their place
        name += f" ({args.runtime})"
    store = Store(args.cache) if args.cache else Store()
    with Terminal() as progress, tempfile.TemporaryDirectory(prefix="rfx-int8-") as folder:
        for batch, tokens in args.conditions:
            condition = Condition(base, batch, tokens, Path(folder), progress, store)
            found = condition.measure(args.latencies, args.shares, args.tries)
            _keep(args.out, name, f"{batch}x{tokens}", found, args)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.int8",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True)
    for option in ("--model", "--train", "--eval"):
        parser.add_argument(option)
    parser.add_argument("--task", default="text-classification")
    parser.add_argument(
        "--runtime", choices=["ort", "openvino"], default="ort", help="that all models run on"
    )
    parser.add_argument("--name", help="of the model in the results; default: that of its folder")
    parser.add_argument("--conditions", type=_condition, nargs="+", default=[(1, 128)])
    parser.add_argument("--latencies", type=float, nargs="*", default=[0.7, 0.5])
    parser.add_argument("--shares", type=float, nargs="*", default=[0.6, 0.5])
    parser.add_argument("--examples", type=int, default=256, help="to calibrate on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--tries",
        type=int,
        default=4,
        help="plans of the fp32 table, at most, until one has the latency of the INT8 plan; 0: no "
        "table of INT8 models and no comparison",
    )
    parser.add_argument("--cache", type=Path, help="default: that of rfx")
    args = parser.parse_args(argv)
    if args.model and not (args.train and args.eval):
        parser.error("--model needs --train and --eval: the examples of that model")
    return args


def _condition(text: str) -> tuple[int, int]:
    batch, x, tokens = text.partition("x")
    if not (x and batch.isdigit() and tokens.isdigit() and int(batch) and int(tokens)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no condition. Give the batch and the tokens of an example, such as 8x32"
        )
    return int(batch), int(tokens)


def _recipe(args: argparse.Namespace) -> Recipe:
    """What all runs have in common."""
    shared: dict[str, Any] = {
        "target": args.runtime,
        "seed": args.seed,
        "calibration.seed": args.seed,
        "calibration.examples": args.examples,
    }
    if not args.model:
        return read_recipe("quickstart").changed(shared)
    recipe = make_recipe(
        {
            "name": args.name or Path(args.model).name,
            "model": args.model,
            "task": args.task,
            "data": {"train": args.train, "eval": args.eval},
        }
    )
    return recipe.changed(shared)


def _keep(
    file: Path, model: str, condition: str, found: dict[str, Any], args: argparse.Namespace
) -> None:
    """Add what was found to the file."""
    results = read_results(file) if place_of(file).exists() else {"models": {}}
    of_model = results["models"].setdefault(model, {})
    of_model[condition] = {
        **found,
        "examples": args.examples,
        "seed": args.seed,
        "environment": environment(),
    }
    write_results(file, {"benchmark": "int8", "models": results["models"]})


if __name__ == "__main__":
    main()
