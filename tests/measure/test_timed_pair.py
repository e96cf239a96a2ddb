"""Two engines timed side by side, with the clock replaced by a formula; real clocks are in
tests/pipeline/test_prune_export.py."""

from types import SimpleNamespace

import numpy as np
import pytest

from rfx.core.inputs import InputSpec
from rfx.core.workload import Workload
from rfx.measure import latency
from rfx.runtimes.base import BoundRun

INPUTS = InputSpec.of_text(("input_ids",), vocabulary=50)


class Clock(BoundRun):
    def __init__(self, ms, noise, seed, copies=None):
        self.ms, self.noise, self.copies = ms, noise, copies
        self.rng = np.random.default_rng(seed)
        self.calls = 0

    def time_ms(self):
        self.calls += 1
        return self.ms * (1 + self.noise * self.rng.standard_normal())

    def with_transfers_ms(self):
        return None if self.copies is None else self.ms + self.copies


RUNTIME = SimpleNamespace(
    name="clock",
    state=lambda: None,
    clock_for=lambda workload: "a formula",
    version=lambda: "clock 1",
    device=lambda: "paper",
    measurement=lambda workload: {"streams": 1},
)


def pair(dense, pruned, **more):
    engines = [
        SimpleNamespace(bind=lambda fed, run=run: run, input_names=("input_ids",))
        for run in (dense, pruned)
    ]
    given = {"inputs": INPUTS, "seed": 0, "min_seconds": 0.0, "max_seconds": 0.05, **more}
    return latency.measure_pair(RUNTIME, *engines, Workload(), **given)


@pytest.fixture(autouse=True)
def strict(monkeypatch):
    monkeypatch.setattr(latency, "PRECISION", 0.004)
    monkeypatch.setattr(latency, "WARMUP_MS", 0.0)


def test_the_ratio_is_that_of_the_medians_with_its_interval():
    part = pair(Clock(2.0, 0.01, 1), Clock(1.4, 0.01, 2), target=0.75, predicted_ratio=0.69)
    assert part.ratio == part.pruned_ms / part.dense_ms == pytest.approx(0.7, abs=0.02)
    low, high = part.interval
    assert low <= part.ratio <= high and high - low < 0.05
    assert (part.target, part.predicted_ratio) == (0.75, 0.69)
    assert part.workload["runtime"] == "clock" and part.workload["device"] == "paper"
    assert part.measurement["streams"] == 1 and part.with_transfers is None


def test_a_measurement_ends_when_the_ratio_is_known_and_not_before():
    steady, noisy = Clock(2.0, 0.0, 1), Clock(2.0, 0.3, 1)
    assert pair(steady, Clock(1.0, 0.0, 2)).dense.samples == latency.MIN_ROUNDS
    long = pair(noisy, Clock(1.0, 0.3, 2), min_seconds=0.01, max_seconds=0.05)
    assert long.dense.samples > 3 * latency.MIN_ROUNDS


def test_copies_to_a_device_are_told_apart():
    part = pair(Clock(2.0, 0.0, 1, copies=0.5), Clock(1.0, 0.0, 2, copies=0.25))
    assert part.with_transfers == {"dense_ms": 2.5, "pruned_ms": 1.25}
