"""One model as different exporters write it: how fast is each file in a default session of ONNX
Runtime?

    python -m benchmarks.exports --model DIR --out benchmarks/results/exports.json
    [--conditions 1x128 1x32 8x32] [--rounds 200] [--name NAME]

DIR holds a dense checkpoint for text classification. Timed are rfx's file, the same with the last
layer computed at every position, that with `Add` in place of `Sum` before normalisations, the
TorchScript exporter's file, that file after the optimizer of ONNX Runtime, and the first four
quantized to INT8; then the same of a pruned model, which has a
random half of the units of every site and cannot go through the optimizer. A condition is batch x
tokens. All files of a condition are timed in one process, one thread, in turns and in random order,
by the CPU time of the process.

The logits of every file are held against those of rfx's file: the fp32 ones have to agree. Results
of other models in the file stay there. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.exports_files import FORMS, INT8, OUTPUT, operators, write_files
from benchmarks.results_file import place_of, read_results, write_results
from rfx.cli.terminal import Terminal
from rfx.core.environment import environment
from rfx.core.errors import UserError
from rfx.core.inputs import InputSpec
from rfx.core.plan import Plan
from rfx.core.workload import SEQUENCE, Workload
from rfx.export.quantizers.onnxruntime import reduced_range
from rfx.measure.latency import ratio_interval
from rfx.models.shrink import shrink
from rfx.models.subject import Subject
from rfx.pipeline.steps import load_model
from rfx.runtimes.base import Engine
from rfx.runtimes.find import runtime
from rfx.runtimes.timing import interleave

TASK = "text-classification"
RUNTIME = "ort"
DENSE, PRUNED = "dense", "pruned"
REFERENCE = "rfx"  # the form that others are held against
TOLERANCE = 1e-4  # of two fp32 files of one model, as a share of the largest logit
# Latencies that are divided by one another: numerator, denominator, within each model.
COMPARED = (
    ("rfx", "rfx-add"),
    ("rfx", "rfx-all"),
    ("rfx-all", "rfx-add"),
    ("rfx", "torchscript"),
    ("rfx", "optimized"),
    ("rfx", "optimized-unskipped"),
    ("rfx-int8", "rfx"),
    ("rfx-int8", "rfx-add-int8"),
    ("rfx-int8", "rfx-all-int8"),
    ("rfx-all-int8", "rfx-all"),
    ("rfx-all-int8", "torchscript-int8"),
    ("rfx-int8", "torchscript-int8"),
)
ACROSS = ("rfx", "rfx-int8")  # pruned by dense


def main(argv: list[str] | None = None) -> None:
    args = _arguments(argv)
    try:
        with Terminal() as progress, tempfile.TemporaryDirectory(prefix="rfx-exports-") as folder:
            results = measure(args, Path(folder), progress)
    except UserError as error:
        raise SystemExit(f"{error}") from None
    print(report(results))


def measure(args: argparse.Namespace, folder: Path, progress: Terminal) -> dict[str, Any]:
    """Write all files, compare what they compute, time them. After each condition the results are
    written.

    Raises:
        SystemExit: the model cannot take a condition, or two fp32 files compute something else.
    """
    subject = load_model(args.model, task=TASK)
    most = subject.inputs.limits.get(SEQUENCE)
    for batch, tokens in args.conditions:
        if most is not None and tokens > most:
            raise SystemExit(f"--conditions {batch}x{tokens}: the model takes {most} tokens.")
    engines, files = _engines(subject, folder, args.seed, progress)
    results = {
        "model": {
            "name": args.name or subject.name,
            "hash": subject.hash,
            "layers": subject.layers,
            "hidden": subject.hidden,
        },
        "threads": 1,
        "clock": "process CPU time",
        "rounds": args.rounds,
        "seed": args.seed,
        "int8_bits": 7 if reduced_range() else 8,
        "files": files,
        "environment": environment(),
        "conditions": {},
    }
    try:
        for batch, tokens in args.conditions:
            condition = f"{batch}x{tokens}"
            with progress.bar(condition, args.rounds) as bar:
                workload = Workload.of_text(batch=batch, sequence=tokens)
                runs = {
                    name: engine.bind(
                        subject.inputs.example(workload, seed=args.seed, names=engine.input_names)
                    )
                    for name, engine in engines.items()
                }
                times = interleave(runs, rounds=args.rounds, seed=args.seed, advance=bar.advance)
            results["conditions"][condition] = _timed(times, args.seed)
            _keep(args.out, results)
    finally:
        for engine in engines.values():
            engine.close()
    return results


def _engines(
    subject: Subject, folder: Path, seed: int, progress: Terminal
) -> tuple[dict[str, Engine], dict[str, dict[str, Any]]]:
    """The engines of all files by `model/form`, and what is known of each file."""
    rng = np.random.default_rng(seed)
    half = {s.name: rng.permutation(s.units)[: s.units // 2].tolist() for s in subject.sites}
    plan = Plan.of(subject.sites, half)
    models = {
        DENSE: subject.model,
        PRUNED: shrink(subject.model, subject.sites, plan),
    }
    ort = runtime(RUNTIME)
    engines: dict[str, Engine] = {}
    facts: dict[str, dict[str, Any]] = {}
    for which, model in models.items():
        place = folder / which
        place.mkdir()
        progress.note(f"writing the files of the {which} model")
        made = write_files(model, subject.inputs, place, dense=which == DENSE)
        expected: list[np.ndarray] = []
        for form, file in made.written.items():
            name, quantized = f"{which}/{form}", form.endswith(INT8)
            precision = "int8" if quantized else "fp32"
            engine = engines[name] = ort.build(file, Workload.of_text(precision=precision))
            logits = [engine.run(probe)[OUTPUT] for probe in _probes(subject.inputs, seed)]
            expected = expected or logits  # the first is rfx's
            compared = _difference(expected, logits)
            if not quantized and not compared["difference"] <= TOLERANCE * compared["scale"]:
                raise SystemExit(
                    f"{name} computes something else than {which}/{REFERENCE}: the logits differ "
                    f"by {compared['difference']:.3g}, and at most {TOLERANCE:g} of "
                    f"{compared['scale']:.3g} was expected."
                )
            facts[name] = {**compared, "bytes": file.stat().st_size, "fused": operators(file)}
        for form, why in made.failed.items():
            progress.note(f"{which}/{form} could not be written: {why}")
            facts[f"{which}/{form}"] = {"failed": why}
    return engines, facts


def _probes(inputs: InputSpec, seed: int) -> list[dict[str, np.ndarray]]:
    """Inputs to compare files on: a batch of which one example is padded, and a single text."""
    longest = min(16, inputs.limits.get(SEQUENCE, 16))
    batch = inputs.example(Workload.of_text(batch=3, sequence=longest), seed=seed)
    batch["attention_mask"][-1, longest // 2 :] = 0
    return [batch, inputs.example(Workload.of_text(sequence=longest // 2), seed=seed + 1)]


def _difference(expected: list[np.ndarray], found: list[np.ndarray]) -> dict[str, float]:
    """The largest difference of two lists of logits, and the largest logit that was expected."""
    return {
        "difference": max(float(np.abs(a - b).max()) for a, b in zip(expected, found, strict=True)),
        "scale": max(float(np.abs(a).max()) for a in expected),
    }


def _timed(times: Mapping[str, np.ndarray], seed: int) -> dict[str, Any]:
    """Medians, and ratios with their intervals: of each file to rfx's dense one, and of those that
    are to be compared."""

    def ratio(top: str, bottom: str) -> dict[str, Any]:
        a, b = times[top], times[bottom]
        return {
            "ratio": float(np.median(a) / np.median(b)),
            "interval": list(ratio_interval(b, a, seed)),
        }

    pairs = [(f"{w}/{a}", f"{w}/{b}") for w in (DENSE, PRUNED) for a, b in COMPARED]
    pairs += [(f"{PRUNED}/{form}", f"{DENSE}/{form}") for form in ACROSS]
    return {
        "rows": {
            name: {"ms": float(np.median(t)), **ratio(name, f"{DENSE}/{REFERENCE}")}
            for name, t in times.items()
        },
        "compared": [
            {"of": top, "to": bottom, **ratio(top, bottom)}
            for top, bottom in pairs
            if top in times and bottom in times
        ],
        "rounds": len(next(iter(times.values()))),
    }


def _keep(file: Path, results: Mapping[str, Any]) -> None:
    """Add the results of a model to the file."""
    kept = read_results(file) if place_of(file).exists() else {"models": {}}
    kept["models"][results["model"]["name"]] = results
    write_results(file, {"benchmark": "exports", "forms": FORMS, "models": kept["models"]})


def report(results: Mapping[str, Any]) -> str:
    """Two tables in Markdown: every file at every condition, and the ratios that are compared."""
    conditions = results["conditions"]
    head = [f"{name}: ms, ratio to {DENSE}/{REFERENCE}" for name in conditions]
    lines = _table_head(["file", "largest difference of logits", *head])
    for name, facts in results["files"].items():
        if "failed" in facts:
            lines.append(f"| {name} | {' | '.join(['not written'] * (1 + len(head)))} |")
            continue
        rows = (c["rows"][name] for c in conditions.values())
        cells = [f"{row['ms']:.2f}, {_interval(row)}" for row in rows]
        lines.append(f"| {name} | {facts['difference']:.2g} | {' | '.join(cells)} |")
    lines += ["", *_table_head(["ratio of latencies", *conditions])]
    columns = [c["compared"] for c in conditions.values()]
    for same in zip(*columns, strict=True):
        cells = [_interval(row) for row in same]
        lines.append(f"| {same[0]['of']} to {same[0]['to']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _table_head(columns: list[str]) -> list[str]:
    return [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]


def _interval(row: Mapping[str, Any]) -> str:
    low, high = row["interval"]
    return f"{row['ratio']:.3f} ({low:.3f} to {high:.3f})"


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.exports",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, help="folder of a dense checkpoint")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", help="of the model in the results; default: that of its folder")
    parser.add_argument(
        "--conditions", type=_condition, nargs="+", default=[(1, 128), (1, 32), (8, 32)]
    )
    parser.add_argument("--rounds", type=_rounds, default=200)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def _condition(text: str) -> tuple[int, int]:
    batch, x, tokens = text.partition("x")
    if not (x and batch.isdigit() and tokens.isdigit() and int(batch) and int(tokens)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no condition. Give the batch and the tokens of an example, such as 8x32"
        )
    return int(batch), int(tokens)


def _rounds(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rounds. Give 1 or more")
    return int(text)


if __name__ == "__main__":
    main()
