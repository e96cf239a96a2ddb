"""Evidence made up for the tests of gates and reports."""

from rfx.core.kind import Kind
from rfx.core.plan import Plan, SitePlan
from rfx.evidence.gates import (
    accuracy_gate,
    agreement_gate,
    latency_gate,
    quantized_gate,
    same_gate,
    shrunk_gate,
)
from rfx.evidence.records import (
    AccuracyPart,
    BySite,
    DataPart,
    Evidence,
    Excluded,
    LatencyPart,
    Percentiles,
    QuantizationPart,
    RivalLatency,
    RivalPart,
    Round,
    SearchPart,
    SiteLoss,
    SiteTuning,
    Stage,
    TablePart,
)


def make_latency(ratio=0.68, half=0.005, target=0.7, **more):
    def times(p50):
        return Percentiles(
            p50=p50, p90=1.1 * p50, p95=1.15 * p50, p99=1.2 * p50, mean=1.01 * p50, samples=300
        )

    return LatencyPart(
        **{
            "dense_ms": 10.0,
            "pruned_ms": 10 * ratio,
            "ratio": ratio,
            "interval": (ratio - half, ratio + half),
            "target": target,
            "predicted_ratio": ratio,
            "dense": times(10.0),
            "pruned": times(10 * ratio),
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
            "agreement_interval": (0.957, 0.98),
            "chance_agreement": 0.5,
            "chance": 0.5,
            "distinct": 1000,
            "predictions_hash": "aaaa",
            **more,
        }
    )


def make_rival(ratio=0.4, pruned=0.68, drop=0.3, timed=True, **more):
    """The dense model in int8, beside a pruned model of this share of the dense latency."""
    beside = pruned / ratio
    return RivalPart(
        **{
            "precision": "int8",
            "method": "a library, 8 bits",
            "metric": 0.9 - drop / 100,
            "drop": drop,
            "agreement": 0.99,
            "divergence": 0.002,
            "bytes": 24_000_000,
            "latency": RivalLatency(
                ms=10 * ratio,
                ratio=ratio,
                interval=(ratio - 0.005, ratio + 0.005),
                pruned_ratio=beside,
                pruned_interval=(beside - 0.01, beside + 0.01),
            )
            if timed
            else None,
            **more,
        }
    )


def make_quantization(ratio=0.45, **more):
    return QuantizationPart(
        **{
            "method": "a library, 8 bits",
            "products": 14,
            "bytes": 20_000_000,
            "fp32_bytes": 60_000_000,
            "pruning": 0.01,
            "quantization": 0.002,
            "ratio": ratio,
            "interval": (ratio - 0.01, ratio + 0.01),
            "sites": ["layer.0.mha", "layer.0.ffn", "layer.1.ffn"],  # those of KEPT with units
            **more,
        }
    )


def make_excluding(**more):
    """How a file was quantized of which rfx kept a site in fp32, another being kept on request."""
    rows = [SiteLoss(site="layer.0.mha", divergence=0.0015)]
    return make_quantization(
        **{
            "sites": ["layer.0.mha"],
            "kept_fp32": ["layer.1.ffn"],
            "excluded": [
                Excluded(site="layer.0.ffn", why=["quantization"], divergence=0.004, saved_ms=0.25)
            ],
            "max_loss": 0.0025,
            "by_site": BySite(examples=100, together=0.0019, rest=0.0001, sites=rows),
            **more,
        }
    )


def make_quantized(pruned=0.2, quantization=None, rival=None, **more):
    """Evidence of a model that is pruned and served in int8."""
    part = quantization or make_quantization()
    latency = make_latency(pruned, target=0.25)
    latency = latency.model_copy(update={"workload": {**latency.workload, "precision": "int8"}})
    made = make_evidence(
        latency=latency,
        rival=rival or make_rival(pruned=pruned),
        quantization=part,
        recipe={
            "name": "reviews",
            "task": "text-classification",
            "budget": {"latency": 0.25, "flops": None},
            "workload": {"precision": "int8"},
        },
        table=TablePart(
            key={"runtime": "ort", "precision": "int8"},
            hash="t",
            costs_ms={},
            fixed_ms=0.5,
            additivity=[],
            additivity_error=None,
        ),
        files=more.pop("files", {"model.onnx": "0" * 64, "model.fp32.onnx": "1" * 64}),
        **more,
    )
    gates = [*made.gates[:2], quantized_gate(part), *made.gates[2:]]
    return made.model_copy(update={"gates": gates})


DENSE = [{"heads": 4, "filters": 128}] * 2
KEPT = [{"heads": 3, "filters": 96}, {"heads": 0, "filters": 32}]


def make_plan(dense, kept):
    """A plan that keeps the first units of each layer."""
    kinds = {k.plural: k for k in Kind}
    return Plan(
        tuple(
            SitePlan(
                f"layer.{i}.{kinds[name].value}", i, kinds[name], units, 1, tuple(range(left[name]))
            )
            for i, (full, left) in enumerate(zip(dense, kept, strict=True))
            for name, units in full.items()
            if name in kinds
        )
    ).to_json()


def make_evidence(latency=None, accuracy=None, mismatches=(), difference=1e-6, table=True, **more):
    latency, accuracy = latency or make_latency(), accuracy or make_accuracy()
    dense, kept = more.get("dense_layers", DENSE), more.get("kept_layers", KEPT)
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
            "plan": make_plan(dense, kept),
            "dense_layers": dense,
            "kept_layers": kept,
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
            "table": table
            if isinstance(table, TablePart)
            else TablePart(
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
                agreement_gate(accuracy),
                latency_gate(latency, target=latency.target, min_speedup=None),
            ],
            "latency": latency,
            "accuracy": accuracy,
            "flops_ratio": 0.6,
            "params_ratio": 0.7,
            "parity": {"shrunk-engine": difference},
            "files": {"model.onnx": "0" * 64},
            "stages": [
                Stage(name="load", seconds=1.5, peak_mb=300.0),
                Stage(name="score", seconds=3.0, cached=True),
            ],
            "warnings": ["a <warning> | with marks"],
            **more,
        }
    )
