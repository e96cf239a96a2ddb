"""What stands beside the latencies: the roofline, the time that pruning takes, and torch with CUDA graphs as the floor.

All of it needs torch with a CUDA GPU; without one each says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np


def extras(done: dict, deadline: float, save: Callable[[], None]) -> None:
    """Fill `done` with what is not there yet, saving after each."""
    for name, measure in (("roofline", roofline), ("torch_floor", torch_floor), ("pruning_time", pruning_time)):
        if name in done or time.monotonic() > deadline:
            continue
        try:
            import torch

            done[name] = measure() if torch.cuda.is_available() else "skipped: torch sees no CUDA GPU"
        except Exception as error:  # noqa: BLE001 - one that fails is recorded, the others go on
            done[name] = f"failed: {type(error).__name__}: {error}"
        save()


def roofline() -> dict[str, float]:
    """Measured copy bandwidth (GB/s, read and write) and matrix rates (TFLOP/s) of this GPU."""
    import torch

    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    result = {"copy_gb_s": 2 * source.numel() / _seconds(lambda: target.copy_(source)) / 1e9}
    n = 8192
    torch.backends.cuda.matmul.allow_tf32 = True
    for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16), ("tf32", torch.float32)):
        a, b = torch.randn(n, n, dtype=dtype, device="cuda"), torch.randn(n, n, dtype=dtype, device="cuda")
        out = torch.empty_like(a)
        result[f"{name}_tflop_s"] = 2 * n**3 / _seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out)) / 1e12
    return result


def _seconds(call, repeats: int = 20) -> float:
    """Median GPU time of a call."""
    import torch

    for _ in range(5):
        call()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return float(np.median(times))


def torch_floor() -> dict[str, float]:
    """BERT-base in torch under a CUDA graph (sdpa, fp16): milliseconds by batch, dense and at half of heads and filters."""
    import torch
    import transformers

    from rfx.anatomy import find_sites
    from rfx.plan import Plan
    from rfx.surgery.shrink import shrink

    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(num_labels=2)).eval()
    sites = find_sites(model)
    half = shrink(model, sites, Plan.of(sites, {s.name: range(s.units // 2) for s in sites}))
    result = {}
    for name, m in (("dense", model), ("half", half)):
        m = m.cuda().half()
        for batch in (1, 8, 32, 128):
            ids = torch.randint(1000, 30000, (batch, 128), device="cuda")
            mask = torch.ones_like(ids)
            with torch.inference_mode():
                side = torch.cuda.Stream()
                side.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(side):
                    for _ in range(3):
                        m(input_ids=ids, attention_mask=mask)
                torch.cuda.current_stream().wait_stream(side)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    m(input_ids=ids, attention_mask=mask)
                result[f"{name}_batch{batch}_ms"] = 1e3 * _seconds(graph.replay)
    return result


def pruning_time() -> dict[str, float]:
    """Scoring, search, rearrangement and tuning of BERT-base on 2,048 samples of 128 tokens, seconds of wall time."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "cost.json"
        subprocess.run(
            [sys.executable, "-m", "benchmarks.cost", "--shape", "bert-base", "--plain-examples", "256", "--out", str(out)],
            check=True, capture_output=True, timeout=300,
        )  # fmt: skip
        cost = json.loads(out.read_text(encoding="utf-8"))
    stages = {f"{name}_s": cost[name]["wall_s"] for name in ("score", "search", "rearrange", "tune")}
    return {**stages, "total_s": sum(stages.values()), "peak_host_mb": cost["peak_beyond_model_mb"]}
