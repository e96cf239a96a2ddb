"""From numbers to outcomes and exit codes."""

import json
import math

import numpy as np
import pytest

from rfx.core.errors import ExitCode, UsageError
from rfx.evidence.check import check
from rfx.evidence.gates import (
    accuracy_gate,
    exit_code,
    judge,
    latency_gate,
    same_gate,
    shrunk_gate,
)
from rfx.evidence.read import read_evidence
from rfx.evidence.records import Evidence
from rfx.measure.latency import percentiles, ratio_interval
from tests.evidences import make_accuracy, make_evidence, make_latency


@pytest.mark.parametrize(
    ("interval", "outcome"),
    [
        ((0.1, 0.5), "pass"),
        ((0.1, 1.0), "pass"),
        ((0.9, 1.1), "inconclusive"),
        ((1.0, 1.1), "inconclusive"),
        ((1.01, 1.2), "fail"),
        ((math.nan, 0.1), "fail"),
        ((0.1, math.inf), "fail"),
    ],
)
def test_an_interval_is_inside_outside_or_between(interval, outcome):
    assert judge(interval, 1.0) == outcome


def test_the_strictest_latency_limit_holds():
    part = make_latency(0.68, target=0.7)
    assert latency_gate(part, target=0.7, min_speedup=None).limit == 0.7
    assert latency_gate(part, target=0.7, min_speedup=2.0).outcome == "fail"
    assert latency_gate(part, target=0.7, min_speedup=2.0).limit == 0.5
    assert latency_gate(part, target=None, min_speedup=None).outcome == "pass"
    slower = make_latency(1.05, target=None)
    assert latency_gate(slower, target=None, min_speedup=None).outcome == "fail"
    # Never slower than dense.
    assert latency_gate(slower, target=None, min_speedup=0.5).outcome == "fail"
    assert latency_gate(make_latency(math.nan), target=0.7, min_speedup=None).outcome == "fail"


def test_the_accuracy_gate_says_how_like_the_dense_model_it_is():
    assert accuracy_gate(make_accuracy(0.5, 0.4, divergence=0.0161), 1.0).detail.endswith(
        "97.0% predicted as by the dense model, KL 0.016"
    )
    regression = make_accuracy(0.5, 0.4, agreement=None, divergence=0.0157)
    assert accuracy_gate(regression, 1.0).detail.endswith("examples, squared difference 0.016")
    # Of an earlier rfx.
    assert accuracy_gate(make_accuracy(0.5, 0.4, agreement=None), 1.0).detail.endswith("examples")


def test_accuracy_is_judged_in_points():
    assert accuracy_gate(make_accuracy(0.5, 0.4), 1.0).outcome == "pass"
    assert accuracy_gate(make_accuracy(0.5, 0.6), 1.0).outcome == "inconclusive"
    assert accuracy_gate(make_accuracy(2.0, 0.6), 1.0).outcome == "fail"


def test_proofs_fail_on_any_mismatch_and_on_numbers_that_are_not():
    assert shrunk_gate([]).outcome == "pass"
    gate = shrunk_gate([f"layer {i} has 128 filters, the plan keeps 64" for i in range(5)])
    assert gate.outcome == "fail" and gate.value == 5 and "2 more" in gate.detail
    assert same_gate({"a": 1e-6, "b": 1e-5}, 1e-4).outcome == "pass"
    assert same_gate({"a": 1e-6, "b": 1e-3}, 1e-4).outcome == "fail"
    assert (
        same_gate({"a": math.nan}, 1e-4).outcome == "fail" and same_gate({}, 1e-4).outcome == "fail"
    )


def test_exit_codes():
    assert exit_code(make_evidence()) == ExitCode.PASS
    assert exit_code(make_evidence(latency=make_latency(0.8))) == ExitCode.GATE_FAILED
    assert (
        exit_code(make_evidence(latency=make_latency(0.8), mismatches=["x"]))
        == ExitCode.INTERNAL_CHECK
    )
    assert exit_code(make_evidence(difference=0.1)) == ExitCode.INTERNAL_CHECK
    between = make_evidence(latency=make_latency(0.699, half=0.01))
    assert (
        exit_code(between) == ExitCode.INCONCLUSIVE
        and exit_code(between, allow_inconclusive=True) == ExitCode.PASS
    )
    assert exit_code(make_evidence(gates=[])) == ExitCode.INCONCLUSIVE


def test_new_limits_judge_old_numbers():
    outcome = {g.name: g.outcome for g in check(make_evidence(), max_drop=0.6, min_speedup=1.6)}
    assert outcome == {
        "shrunk": "pass",
        "same": "pass",
        "accuracy": "inconclusive",
        "agreement": "pass",
        "latency": "fail",
    }
    assert {g.outcome for g in check(make_evidence())} == {"pass"}
    with pytest.raises(UsageError, match="no measurements"):
        check(make_evidence().model_copy(update={"accuracy": None}))


def test_a_baseline_must_not_be_better():
    def gates(ours, theirs, **limits):
        return {
            g.name: g.outcome
            for g in check(ours, baseline=theirs, **limits)
            if g.name.startswith("baseline")
        }

    same = make_evidence()
    assert gates(same, same) == {"baseline-accuracy": "pass", "baseline-latency": "pass"}
    slower = make_evidence(
        latency=make_latency(0.75), accuracy=make_accuracy(3.0, predictions_hash="bbbb")
    )
    assert gates(slower, same) == {"baseline-accuracy": "fail", "baseline-latency": "fail"}
    assert gates(slower, same, max_regression=4.0)["baseline-accuracy"] == "pass"
    near = make_evidence(accuracy=make_accuracy(0.6, predictions_hash="bbbb"))
    assert gates(near, same)["baseline-accuracy"] == "inconclusive"


@pytest.mark.parametrize(
    ("ours", "theirs", "outcome"),
    [
        ((math.nan, math.nan), (math.nan, math.nan), "inconclusive"),
        ((math.nan, 0.9), (math.nan, 0.8), "inconclusive"),
        ((0.9, math.nan), (0.9, math.nan), "inconclusive"),
        ((0.9, math.nan), (0.9, 0.89), "fail"),  # this model alone gives no metric
        ((0.9, 0.89), (0.9, math.nan), "inconclusive"),
    ],
)
@pytest.mark.parametrize("same", [True, False])
def test_metrics_that_are_no_numbers_are_no_verdict_against_a_baseline(ours, theirs, outcome, same):
    def evidence(dense, pruned, name):
        drop = 100 * (dense - pruned)
        interval = (drop - 0.1, drop + 0.1)
        return make_evidence(
            accuracy=make_accuracy(
                dense=dense, pruned=pruned, drop=drop, interval=interval, predictions_hash=name
            )
        )

    one, other = evidence(*ours, "aaaa"), evidence(*theirs, "aaaa" if same else "bbbb")
    (found,) = (g for g in check(one, baseline=other) if g.name == "baseline-accuracy")
    assert found.outcome == outcome and found.value is None and found.interval is None
    assert "cannot be computed" in found.detail


@pytest.mark.parametrize(
    ("ours", "theirs", "outcome"),
    [
        (math.nan, 0.68, "fail"),
        (math.nan, math.nan, "fail"),
        (0.68, math.nan, "inconclusive"),
        (0.68, 0.0, "inconclusive"),
    ],
)
def test_latencies_that_are_no_numbers_are_no_pass_against_a_baseline(ours, theirs, outcome):
    one, other = (make_evidence(latency=make_latency(ratio)) for ratio in (ours, theirs))
    (found,) = (g for g in check(one, baseline=other) if g.name == "baseline-latency")
    assert found.outcome == outcome and found.value is None


@pytest.mark.parametrize(
    "change",
    [
        {"latency": make_latency(workload={**make_latency().workload, "device": "another CPU"})},
        {"latency": make_latency(workload={**make_latency().workload, "batch": 8})},
        {"latency": make_latency(clock="wall clock")},
        {"accuracy": make_accuracy(metric="f1")},
        {"model": {"hash": "m2"}},
    ],
)
def test_what_was_measured_otherwise_is_not_compared(change):
    with pytest.raises(UsageError, match="cannot be compared"):
        check(make_evidence(), baseline=make_evidence(**change))


def test_evidence_survives_its_file_even_with_numbers_that_are_not(tmp_path):
    evidence = make_evidence(latency=make_latency(math.nan), flops_ratio=math.inf)
    (tmp_path / "evidence.json").write_text(evidence.model_dump_json())
    json.loads(
        (tmp_path / "evidence.json").read_text(),
        parse_constant=lambda c: pytest.fail(f"{c} is not JSON"),
    )
    again = read_evidence(tmp_path)
    assert isinstance(again, Evidence) and math.isnan(again.latency.ratio)
    assert exit_code(again) == ExitCode.GATE_FAILED
    assert read_evidence(tmp_path / "evidence.json").kept_layers == evidence.kept_layers


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "[1]",
        "{",
        '{"schema_version": 3}',
        '{"schema_version": 2}',
        '{"schema_version": 1, "tool": 3}',
    ],
)
def test_what_is_no_evidence_is_named(tmp_path, text):
    file = tmp_path / "evidence.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError, match=r"evidence\.json"):
        read_evidence(tmp_path)


def test_the_ratio_interval_covers_the_truth_and_pairs_the_rounds():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(60):
        d = 10 + rng.exponential(1, 80)
        covered += (
            np.prod([x - 0.7 for x in ratio_interval(d, 0.7 * (10 + rng.exponential(1, 80)), seed)])
            < 0
        )
    assert covered >= 50
    drift = np.linspace(5, 20, 100)  # a machine that slows down: the ratio does not care
    low, high = ratio_interval(drift, 0.7 * drift)
    assert low == pytest.approx(0.7) and high == pytest.approx(0.7)


def test_percentiles_are_those_of_numpy():
    times = np.random.default_rng(0).exponential(1, 1000)
    p = percentiles(times)
    assert (
        p.p50 == pytest.approx(np.median(times))
        and p.p99 == pytest.approx(np.quantile(times, 0.99))
        and p.samples == 1000
    )
