"""Evidence made up for the tests of gates and reports."""

from rfx.evidence.gates import accuracy_gate, latency_gate, same_gate, shrunk_gate
from rfx.evidence.records import (
    AccuracyPart,
    DataPart,
    Evidence,
    LatencyPart,
    Percentiles,
    Round,
    SearchPart,
    SiteTuning,
    Stage,
    TablePart,
)


def make_latency(ratio=0.68, half=0.005, target=0.7, **more):
    p = Percentiles(p50=10.0, p90=11.0, p95=11.5, p99=12.0, mean=10.1, samples=300)
    return LatencyPart(
        **{
            "dense_ms": 10.0,
            "pruned_ms": 10 * ratio,
            "ratio": ratio,
            "interval": (ratio - half, ratio + half),
            "target": target,
            "predicted_ratio": ratio,
            "dense": p,
            "pruned": p,
            "clock": "process CPU time",
            "workload": {
                "batch": 1,
                "axes": {"sequence": 128},
                "phase": "encode",
                "threads": 1,
                "precision": "fp32",
                "runtime": "ort",
                "version": "onnxruntime 1.31.1",
                "device": "a CPU",
            },
            **more,
        }
    )


def make_accuracy(drop=0.5, half=0.4, max_drop=1.0, **more):
    return AccuracyPart(
        **{
            "metric": "accuracy",
            "dense": 0.9,
            "pruned": 0.9 - drop / 100,
            "drop": drop,
            "interval": (drop - half, drop + half),
            "examples": 1000,
            "max_drop": max_drop,
            "agreement": 0.97,
            "predictions_hash": "aaaa",
            **more,
        }
    )


def make_evidence(latency=None, accuracy=None, mismatches=(), difference=1e-6, table=True, **more):
    latency, accuracy = latency or make_latency(), accuracy or make_accuracy()
    curves = {
        "mha": {n: 0.1 + 0.1 * n for n in range(5)},
        "ffn": {n: 0.1 + 0.01 * n for n in range(0, 129, 32)},
    }
    return Evidence(
        **{
            "tool": "rfx 0.1.0",
            "created": "2026-01-01T00:00:00+00:00",
            "recipe": {
                "name": "reviews",
                "task": "text-classification",
                "budget": {"latency": 0.7, "flops": None},
            },
            "model": {"source": "someone/bert-<reviews>", "hash": "m1", "layers": 2},
            "environment": {"python": "3.11"},
            "data": DataPart(
                calibration=512,
                evaluation=1000,
                calibration_hash="c",
                evaluation_hash="e",
                overlap=0,
            ),
            "plan": {"sites": []},
            "dense_layers": [{"heads": 4, "filters": 128}] * 2,
            "kept_layers": [{"heads": 3, "filters": 96}, {"heads": 0, "filters": 32}],
            "search": SearchPart(
                method="knapsack",
                budget=6.8,
                budget_unit="ms",
                value_kept=0.98,
                optimality_gap=1e-4,
                price=0.1,
                rounds=[
                    Round(budget_ms=6.8, predicted_ms=6.7, measured_ratio=0.68, note="on target")
                ],
            ),
            "table": TablePart(
                key={"runtime": "ort"},
                hash="t",
                costs_ms=curves,
                fixed_ms=0.5,
                additivity_error=0.02,
                additivity=[{"predicted_ms": 5.0, "measured_ms": 5.1, "error": -0.02}],
            )
            if table
            else None,
            "tuning": [
                SiteTuning(
                    site="layer.0.mha", accepted=True, held_out_before=0.2, held_out_after=0.1
                ),
                SiteTuning(
                    site="layer.1.mha",
                    accepted=False,
                    held_out_before=None,
                    held_out_after=None,
                    reason="empty",
                ),
            ],
            "gates": [
                shrunk_gate(list(mismatches)),
                same_gate({"shrunk-engine": difference}, 2e-4),
                accuracy_gate(accuracy, accuracy.max_drop),
                latency_gate(latency, target=latency.target, min_speedup=None),
            ],
            "latency": latency,
            "accuracy": accuracy,
            "flops_ratio": 0.6,
            "params_ratio": 0.7,
            "stages": [
                Stage(name="load", seconds=1.5, peak_mb=300.0),
                Stage(name="score", seconds=3.0, cached=True),
            ],
            "warnings": ["a <warning> | with marks"],
            **more,
        }
    )
