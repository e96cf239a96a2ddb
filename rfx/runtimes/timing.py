"""Timing several engines side by side: shuffled interleaved rounds, so that drift of the machine
hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from rfx.runtimes.base import BoundRun


def interleave(
    runs: Mapping[str, BoundRun],
    *,
    rounds: int | None = None,
    min_seconds: float = 3.0,
    min_rounds: int = 10,
    max_seconds: float | None = None,
    warmup_ms: float = 200.0,
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Time all `runs` in rounds, one sample a run and round, in a fresh random order each round;
    every second round is the reverse of the one before it (A B / B A), so that within a pair each
    run stands as often before another as after it.

    Args:
        rounds: how many rounds; None: until `min_seconds` and `min_rounds` are both reached.
        min_seconds, max_seconds: wall-clock seconds of the timed part. `max_seconds` ends a
            measurement early, but never before two rounds (with given `rounds` too).
        warmup_ms: each run is warmed up for this long on its own clock, at least once (0: exactly
            once).
        advance: called with 1 after each round.

    Returns:
        Milliseconds per run, float64 [rounds]; entry i of every array is from round i.
    """
    if not runs:
        return {}
    rng = np.random.default_rng(seed)
    names = list(runs)
    for name in names:
        spent, stop_at = runs[name].time_ms(), time.monotonic() + 10 * warmup_ms / 1000
        while spent < warmup_ms and time.monotonic() < stop_at:
            spent += max(runs[name].time_ms(), 1e-6)

    samples: dict[str, list[float]] = {name: [] for name in names}
    start, done, order = time.monotonic(), 0, names
    while True:
        order = [names[i] for i in rng.permutation(len(names))] if done % 2 == 0 else order[::-1]
        for name in order:
            samples[name].append(runs[name].time_ms())
        done += 1
        if advance is not None:
            advance(1)
        elapsed = time.monotonic() - start
        if rounds is not None and done >= rounds:
            break
        if rounds is None and done >= min_rounds and elapsed >= min_seconds:
            break
        if max_seconds is not None and done >= 2 and elapsed >= max_seconds:
            break
    return {name: np.asarray(values, dtype=np.float64) for name, values in samples.items()}


def without_drift(times: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same times without what all runs of a round have in common: a machine that is slower for
    a while is so for every run. Each round is divided by its level, the median over the runs of
    their times as shares of their own medians.

    Args:
        times: as `interleave` gives them, each [rounds].
    """
    if len(times) < 3:  # of two it could not be said which one the round was slow for
        return dict(times)
    all_times = np.stack(list(times.values()))  # [runs, rounds]
    level = np.median(all_times / np.median(all_times, axis=1, keepdims=True), axis=0)  # [rounds]
    return dict(zip(times, all_times / level, strict=True))
