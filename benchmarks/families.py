"""Which model families can be pruned, and how that is proved: found by the probe, masked, shrunk,
exported, run.

    python -m benchmarks.families --out benchmarks/results/families.json [--names bert deberta-v3]
        [--layers 4] [--hidden 384] [--tokens 128] [--seconds 2]

Every family of benchmarks/families_models.py is made with random weights: first small, for the
proofs (masked against shrunk, and against ONNX Runtime; whether OpenVINO reads the file and
TensorRT-RTX builds it), then of a real layer's size, for the time that half of its multiplications
in the sites take, dense and pruned in turns in one process, on one thread. Results of other
families in the file stay there. The table in docs/pages/explanation/sites.md is made of them by
`python docs/generate.py`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.families_models import ZOO, real, small
from benchmarks.results_file import place_of, read_results, write_results
from rfx.core.environment import environment
from rfx.core.errors import UserError, first_line
from rfx.core.inputs import InputSpec
from rfx.core.plan import Kind, Plan
from rfx.core.workload import SEQUENCE, Workload
from rfx.export.onnx import export_onnx
from rfx.measure.latency import ratio_interval
from rfx.models.families.find import Inspection, inspect_model
from rfx.models.shrink import shrink
from rfx.runtimes.base import EngineOptions
from rfx.runtimes.find import runtime
from rfx.runtimes.timing import interleave

NAMES = ("input_ids", "attention_mask")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.families",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--names", nargs="+", choices=list(ZOO), default=list(ZOO))
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing, at least")
    args = parser.parse_args(argv)
    done = read_results(args.out)["families"] if place_of(args.out).is_file() else {}
    for name in args.names:
        with tempfile.TemporaryDirectory(prefix="rfx-families-") as folder:
            row = {**_proofs(name, Path(folder)), **_timed(name, args, Path(folder))}
        done[name] = row
        print(name, row)
        ordered = {n: done[n] for n in ZOO if n in done}
        write_results(
            args.out,
            {"benchmark": "families", "environment": environment(), "families": ordered},
        )


def _half(seen: Inspection) -> Plan:
    """Every second unit of all sites."""
    return Plan.of(seen.sites, {s.name: range(0, s.units, 2) for s in seen.sites})


def _proofs(name: str, folder: Path) -> dict[str, Any]:
    """On a small model."""
    model = small(name)
    seen = inspect_model(model)
    kinds = [s.kind for s in seen.sites]
    within = sum(seen.macs.get(p, 0) for s in seen.sites for p in (*s.inputs, s.output))
    row: dict[str, Any] = {
        "class": type(model).__name__,
        "heads": kinds.count(Kind.MHA),
        "filters": kinds.count(Kind.FFN),
        "share": within / max(1, sum(seen.macs.values())),
        "error": seen.error,
        "rows": seen.rows,
        "refused": {r.path: r.reason for r in seen.refused},
    }
    half = shrink(model, seen.sites, _half(seen))
    fed = _inputs(tokens=11, batch=3, vocabulary=120)
    spec = InputSpec.of_text(NAMES, vocabulary=120, positions=64)
    try:
        file = export_onnx(half, folder / "small.onnx", inputs=spec, output_names=("logits",))
    except UserError as error:
        return row | {"export": first_line(error)}
    with torch.no_grad():
        wanted = half(**{k: torch.from_numpy(v) for k, v in fed.items()}).logits.numpy()
    for target in ("ort", "openvino"):
        try:
            engine = runtime(target, EngineOptions()).build(file, Workload(threads=1))
            given = engine.run({n: fed[n] for n in engine.input_names})["logits"]
            row[target] = float(np.abs(given - wanted).max() / np.abs(wanted).max())
        except UserError as error:
            row[target] = first_line(error)
    row["trt-rtx"] = _builds(file, folder)
    return row


def _builds(file: Path, folder: Path) -> bool | str:
    """Whether TensorRT-RTX builds the file, ahead of time for compute capability 8.9."""
    from rfx.pipeline.build import build

    try:
        sizes = {"batch": 1, "sequence": 16, "max_batch": 4, "max_sequence": 32}
        build(file, folder / "engine", target="trt-rtx", compute_capabilities=["8.9"], **sizes)
    except UserError as error:
        return first_line(error)
    return True


def _timed(name: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """On layers of a real size: half of the units against all, in ONNX Runtime."""
    model = real(name, layers=args.layers, hidden=args.hidden)
    started = time.perf_counter()
    seen = inspect_model(model)
    seconds = time.perf_counter() - started
    plan = _half(seen)
    spec = InputSpec.of_text(NAMES, vocabulary=120, positions=512)
    workload = Workload(threads=1, axes={SEQUENCE: args.tokens})
    engine = runtime("ort", EngineOptions())
    runs = {}
    try:
        for part, made in (("dense", model), ("half", shrink(model, seen.sites, plan))):
            file = export_onnx(made, folder / f"{part}.onnx", inputs=spec, output_names=("logits",))
            built = engine.build(file, workload)
            runs[part] = built.bind(spec.example(workload, names=built.input_names))
    except UserError:
        return {"real_rows": seen.rows, "probe_seconds": seconds}
    times = interleave(runs, min_seconds=args.seconds, min_rounds=20)
    ratio = float(np.median(times["half"]) / np.median(times["dense"]))
    return {
        "layers": args.layers,
        "hidden": args.hidden,
        "tokens": args.tokens,
        "real_rows": seen.rows,
        "probe_seconds": seconds,
        "ratio": ratio,
        "interval": list(ratio_interval(times["dense"], times["half"])),
    }


def _inputs(*, tokens: int, batch: int, vocabulary: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    ids = rng.integers(4, vocabulary, (batch, tokens))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


if __name__ == "__main__":
    main()
