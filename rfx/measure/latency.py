"""Fast: dense and pruned timed side by side in one process, with a bootstrap interval on the ratio
of their medians."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rfx.core.inputs import InputSpec
from rfx.core.workload import Workload
from rfx.evidence.records import LatencyPart, Percentiles, RivalLatency
from rfx.runtimes.base import BoundRun, Engine, Runtime
from rfx.runtimes.timing import interleave

RESAMPLES = 1000
WARMUP_MS, MIN_ROUNDS, TRANSFER_ROUNDS = 200.0, 10, 50
PRECISION = 0.004  # half-width of the ratio's interval at which a measurement is long enough
_CHUNK = 4 << 20  # resampled values held at once


def measure_pair(
    runtime: Runtime,
    dense: Engine,
    pruned: Engine,
    workload: Workload,
    *,
    inputs: InputSpec,
    seed: int,
    min_seconds: float,
    max_seconds: float | None = None,
    target: float | None = None,
    predicted_ratio: float | None = None,
) -> LatencyPart:
    """See `measure_with_rival`; there is none."""
    part, _ = measure_with_rival(
        runtime,
        dense,
        pruned,
        None,
        workload,
        inputs=inputs,
        seed=seed,
        min_seconds=min_seconds,
        max_seconds=max_seconds,
        target=target,
        predicted_ratio=predicted_ratio,
    )
    return part


def measure_with_rival(
    runtime: Runtime,
    dense: Engine,
    pruned: Engine,
    rival: Engine | None,
    workload: Workload,
    *,
    inputs: InputSpec,
    seed: int,
    min_seconds: float,
    max_seconds: float | None = None,
    target: float | None = None,
    predicted_ratio: float | None = None,
) -> tuple[LatencyPart, RivalLatency | None]:
    """Interleaved rounds of dense, pruned and rival on the same tokens, until the ratio of pruned
    to dense is known to +-0.004.

    When to stop depends on the interval's width alone, never on where it lies.

    Args:
        rival: the dense model quantized alone; None: there is none.
        min_seconds, max_seconds: wall-clock seconds of timing (at least 10 rounds; max: five times
            min).
        target, predicted_ratio: kept in the evidence beside what was measured.
    """
    runs = {
        "dense": dense.bind(inputs.example(workload, seed=seed, names=dense.input_names)),
        "pruned": pruned.bind(inputs.example(workload, seed=seed, names=pruned.input_names)),
    }
    if rival is not None:
        runs["rival"] = rival.bind(inputs.example(workload, seed=seed, names=rival.input_names))
    before = runtime.state()
    limit = 5 * min_seconds if max_seconds is None else max_seconds
    d = p = r = np.empty(0)
    spent = 0.0
    while True:
        times = interleave(
            runs,
            min_seconds=min_seconds,
            min_rounds=MIN_ROUNDS,
            warmup_ms=0.0 if spent else WARMUP_MS,
            seed=seed + len(d),
        )
        d, p = np.concatenate([d, times["dense"]]), np.concatenate([p, times["pruned"]])
        r = np.concatenate([r, times.get("rival", r[:0])])
        spent += min_seconds
        low, high = interval = ratio_interval(d, p, seed)
        if (high - low) / 2 <= PRECISION or spent + min_seconds > limit:
            break
    dense_ms, pruned_ms = float(np.median(d)), float(np.median(p))
    part = LatencyPart(
        dense_ms=dense_ms,
        pruned_ms=pruned_ms,
        ratio=pruned_ms / dense_ms,
        interval=interval,
        target=target,
        predicted_ratio=predicted_ratio,
        dense=percentiles(d),
        pruned=percentiles(p),
        clock=runtime.clock_for(workload),
        workload={
            **workload.to_json(),
            "runtime": runtime.name,
            "version": runtime.version(),
            "device": runtime.device(),
        },
        measurement={
            **runtime.measurement(workload),
            **run_facts(runs),
            "warmup_ms": WARMUP_MS,
            "min_seconds": min_seconds,
            "min_rounds": MIN_ROUNDS,
        },
        with_transfers=_with_transfers({n: run for n, run in runs.items() if n != "rival"}),
        state=None if before is None else {"before": before, "after": runtime.state()},
    )
    if rival is None:
        return part, None
    rival_ms = float(np.median(r))
    return part, RivalLatency(
        ms=rival_ms,
        ratio=rival_ms / dense_ms,
        interval=ratio_interval(d, r, seed),
        pruned_ratio=pruned_ms / rival_ms,
        pruned_interval=ratio_interval(r, p, seed),
    )


def run_facts(runs: Mapping[str, BoundRun]) -> dict[str, object]:
    """In what any of the runs was measured otherwise than its runtime says (without a CUDA graph,
    say)."""
    return {k: v for run in runs.values() for k, v in run.measurement().items()}


def _with_transfers(runs: Mapping[str, BoundRun]) -> dict[str, float] | None:
    """Medians in ms with the inputs copied to the device and the outputs back, in turns; None where
    nothing is copied."""
    if any(run.with_transfers_ms() is None for run in runs.values()):
        return None
    times: dict[str, list[float]] = {f"{name}_ms": [] for name in runs}
    for _ in range(TRANSFER_ROUNDS):
        for name, run in runs.items():
            times[f"{name}_ms"].append(float(run.with_transfers_ms() or 0.0))
    return {name: float(np.median(t)) for name, t in times.items()}


def ratio_interval(dense: np.ndarray, pruned: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of median(pruned) / median(dense), rounds resampled in pairs. float64
    [rounds] each."""
    rng = np.random.default_rng(seed)
    n = len(dense)
    ratios: list[np.ndarray] = []
    step = max(1, _CHUNK // n)
    for start in range(0, RESAMPLES, step):
        rows = rng.integers(0, n, (min(step, RESAMPLES - start), n))
        ratios.append(np.median(pruned[rows], axis=1) / np.median(dense[rows], axis=1))
    low, high = np.percentile(np.concatenate(ratios), (2.5, 97.5))
    return float(low), float(high)


def percentiles(times: np.ndarray) -> Percentiles:
    """Of milliseconds [rounds]."""
    p50, p90, p95, p99 = (float(x) for x in np.percentile(times, (50, 90, 95, 99)))
    return Percentiles(
        p50=p50, p90=p90, p95=p95, p99=p99, mean=float(times.mean()), samples=len(times)
    )
