"""What stands beside the latencies: the roofline, the time that pruning takes, and torch with CUDA
graphs as the floor.

All of it needs torch with a CUDA GPU; without one each says so, and is tried again by the next run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

LEAST_SECONDS = 20.0  # left of the budget, to begin with one


def extras(done: dict[str, Any], deadline: float, save: Callable[[], None]) -> None:
    """Fill `done` with what is not there yet, saving after each."""
    for name, measure in (
        ("roofline", roofline),
        ("pruning_time", pruning_time),
        ("torch_floor", torch_floor),
    ):
        if not wanted(done.get(name)) or time.monotonic() > deadline - LEAST_SECONDS:
            continue
        try:
            import torch

            done[name] = (
                measure(deadline)
                if torch.cuda.is_available()
                else "skipped: torch sees no CUDA GPU"
            )
        except Exception as error:  # one that fails is recorded, and the others go on
            done[name] = f"failed: {type(error).__name__}: {error}"
        save()


def wanted(value: Any) -> bool:
    """Not measured yet, or failed, skipped or cut short by an earlier run."""
    if isinstance(value, str):
        return value.startswith(("failed", "skipped"))
    return not value or "out_of_time" in value


def roofline(deadline: float) -> dict[str, float]:
    """Measured copy bandwidth (GB/s, read and write) and matrix rates (TFLOP/s) of this GPU."""
    import torch

    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    result = {"copy_gb_s": 2 * source.numel() / _seconds(lambda: target.copy_(source)) / 1e9}
    n = 8192
    torch.backends.cuda.matmul.allow_tf32 = True
    for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16), ("tf32", torch.float32)):
        a, b = (
            torch.randn(n, n, dtype=dtype, device="cuda"),
            torch.randn(n, n, dtype=dtype, device="cuda"),
        )
        out = torch.empty_like(a)
        result[f"{name}_tflop_s"] = (
            2 * n**3 / _seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out)) / 1e12
        )
    torch.cuda.empty_cache()
    return result


def _seconds(call: Callable[[], object], repeats: int = 20) -> float:
    """Median GPU time of a call, queued behind another so that its launch is no part of it."""
    import torch

    for _ in range(5):
        call()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        call()
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return float(np.median(times))


def floor_name(shape: str, precision: str, part: str, batch: int, sequence: int) -> str:
    """The name of one figure of `torch_floor`."""
    return f"{shape} {precision} {part} {batch}x{sequence} ms"


def torch_floor(deadline: float) -> dict[str, Any]:
    """BERT in torch under a CUDA graph (sdpa; fp32 as TF32): milliseconds, dense and at half of
    heads and filters. What the budget has no time for is left out and said to be."""
    import torch
    import transformers

    from benchmarks.cost import SHAPES
    from rfx.core.plan import Plan
    from rfx.models.families.find import find_sites
    from rfx.models.shrink import shrink

    torch.backends.cuda.matmul.allow_tf32 = True
    result: dict[str, Any] = {}
    for precision, shape in (
        ("fp16", "bert-base"),
        ("fp16", "minilm"),
        ("fp32", "bert-base"),
        ("fp32", "minilm"),
    ):
        torch.manual_seed(0)
        model = transformers.BertForSequenceClassification(
            transformers.BertConfig(num_labels=2, **SHAPES[shape])
        ).eval()
        sites = find_sites(model)
        half = shrink(model, sites, Plan.of(sites, {s.name: range(s.units // 2) for s in sites}))
        for part, m in (("dense", model), ("half", half)):
            m = m.cuda().half() if precision == "fp16" else m.cuda()
            for batch in (1, 8, 32, 128):
                if time.monotonic() > deadline - LEAST_SECONDS:
                    return result | {"out_of_time": "the rest is left to the next run"}
                # As the engines are timed.
                sequence = 384 if batch == 32 and shape == "bert-base" else 128
                result[floor_name(shape, precision, part, batch, sequence)] = 1e3 * _graph_seconds(
                    m, batch, sequence
                )
        del model, half, m
        torch.cuda.empty_cache()
    return result


def _graph_seconds(model: torch.nn.Module, batch: int, sequence: int) -> float:
    import torch

    ids = torch.randint(1000, 30000, (batch, sequence), device="cuda")
    mask = torch.ones_like(ids)
    with torch.inference_mode():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                model(input_ids=ids, attention_mask=mask)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            model(input_ids=ids, attention_mask=mask)
        return _seconds(graph.replay)


def pruning_time(deadline: float) -> dict[str, Any]:
    """Scoring, search, rearrangement and tuning of BERT-base on 2,048 samples of 128 tokens,
    seconds of wall time."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "cost.json"
        subprocess.run(
            [
                sys.executable,
                "-m",
                "benchmarks.cost",
                "--shape",
                "bert-base",
                "--plain-examples",
                "256",
                "--out",
                str(out),
            ],
            check=True,
            capture_output=True,
            timeout=max(1.0, min(300.0, deadline - time.monotonic())),
        )
        cost = json.loads(out.read_text(encoding="utf-8"))
    stages = {f"{name}_s": cost[name]["wall_s"] for name in ("score", "search", "tune", "guard")}
    return {
        **stages,
        "total_s": sum(stages.values()),
        "device": cost["device"],
        "solver": cost["solver"],
        "peak_host_mb": cost["peak_beyond_model_mb"],
    }
