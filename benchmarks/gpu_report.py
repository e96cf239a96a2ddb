"""gpu.json as Markdown: one row a configuration, one a target; what was dropped, and what a width
is worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.gpu_extras import floor_name
from benchmarks.gpu_runtimes import on_gpu


def markdown(result: Mapping[str, Any]) -> str:
    """The report of what gpu.json holds."""
    lines = ["# GPU benchmark", ""]
    environment = result.get("environment", {})
    gpus = ", ".join(environment.get("gpus") or []) or "no GPU"
    versions = environment.get("versions", {})
    named = ", ".join(
        f"{k} {v}"
        for k, v in versions.items()
        if k.startswith(("torch", "tensorrt", "onnxruntime", "cupy"))
    )
    lines += [f"{gpus}; driver {environment.get('driver', 'none')}; {named}.", ""]
    lines += [
        "Ratios are of medians, dense and pruned timed in turns in one process, in a measurement "
        "of the finished engine that did not",
        "choose it. A target has landed in [target - 0.04, target]. Roofline: the dense encoder's "
        "operations at the measured matrix rate, or",
        "its weights and residual stream at the measured copy bandwidth, whichever takes longer. "
        "Torch: BERT with embeddings, CUDA graph.",
        "",
    ]
    lines += [
        "| runtime | shape | batch x tokens | precision | dense ms | roofline ms | torch ms | "
        "table s | additivity | speedup at 0.5 FLOPs |",
        "|---|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    extras = result.get("extras", {})
    for row in result["rows"]:
        if "dense_ms" not in row:
            continue
        half = row.get("flops_half")
        speedup = f"{half['speedup']:.2f}x ({half['flops']:.2f})" if half else ""
        error, seconds = row.get("additivity_error"), row.get("table_seconds")
        lines.append(
            f"{_head(row)} {row['dense_ms']:.3f} | {_number(roofline_ms(row, extras))} | "
            f"{_number(_torch_ms(row, extras))} | "
            f"{'' if seconds is None else f'{seconds:.0f}'} | "
            f"{'' if error is None else f'{error:.1%}'} | {speedup} |"
        )
    lines += [
        "",
        "| runtime | shape | batch x tokens | precision | target | measured | 95 % | landed | "
        "speedup | FLOPs kept | emptied |",
        "|---|---|---|---|---:|---:|---|---|---:|---:|---:|",
    ]
    for row in result["rows"]:
        for t in row.get("targets", []):
            head = f"{_head(row)} {t['target']:g} |"
            if "ratio" not in t:
                lines.append(f"{head} not reachable | | no | | | |")
                continue
            low, high = t["interval"]
            lines.append(
                f"{head} {t['ratio']:.3f} | {low:.3f} to {high:.3f} | "
                f"{'yes' if t['landed'] else 'no'} | {t['speedup']:.2f}x | "
                f"{t['flops']:.2f} | {len(t['emptied_sublayers'])} |"
            )
    lines += _beside(result["rows"]) + _widths(result["rows"]) + _dropped(result["rows"])
    if extras:
        lines += ["", "| measured beside | |", "|---|---|"]
        lines += [f"| {name} | {_short(value)} |" for name, value in extras.items()]
    errors = [(r["config"], r["error"]) for r in result["rows"] if r.get("error")]
    if errors:
        lines += [
            "",
            "Failed, and tried again by the next run:",
            *(
                f"- {c['runtime']} {c['shape']} {c['batch']} {c['precision']}: "
                f"{' '.join(e.split())}"
                for c, e in errors
            ),
        ]
    if result.get("skipped"):
        lines += [
            "",
            "Skipped:",
            *(
                f"- {name}: {why if isinstance(why, str) else f'{len(why)} configurations'}"
                for name, why in result["skipped"].items()
            ),
        ]
    return "\n".join(lines) + "\n"


def _head(row: Mapping[str, Any]) -> str:
    c = row["config"]
    return f"| {c['runtime']} | {c['shape']} | {c['batch']} x {c['sequence']} | {c['precision']} |"


def roofline_ms(row: Mapping[str, Any], extras: Mapping[str, Any]) -> float | None:
    """The least time of the dense encoder on this GPU; None where the roofline was not measured."""
    roof, work = extras.get("roofline"), row.get("work")
    if not isinstance(roof, Mapping) or not work or not on_gpu(row["config"]["runtime"]):
        return None
    precision = row["config"]["precision"]
    # Matrix products of fp32 run as TF32 on a GPU.
    rate = roof.get(f"{'tf32' if precision == 'fp32' else precision}_tflop_s", 0.0) * 1e12
    if not rate:  # that of products of 8 bits is not measured
        return None
    return 1e3 * max(work["flop"] / rate, work["bytes"] / (roof["copy_gb_s"] * 1e9))


def _torch_ms(row: Mapping[str, Any], extras: Mapping[str, Any]) -> float | None:
    floor, c = extras.get("torch_floor"), row["config"]
    name = floor_name(c["shape"], c["precision"], "dense", c["batch"], c["sequence"])
    return floor.get(name) if isinstance(floor, Mapping) else None


def half_width(curve: Mapping[str, float]) -> dict[str, float]:
    """Of a table's curve: the cost at the count nearest to half, and of the empty sublayer, as
    shares of the full one; and the share of what emptying saves that half the width saves (0.5:
    linear; 0: the curve is flat between)."""
    costs = {int(n): ms for n, ms in curve.items()}
    most = max(costs)
    middle = min(costs, key=lambda n: abs(n - most / 2))
    full, half, empty = costs[most], costs[middle], costs[min(costs)]
    return {
        "count": middle,
        "half": half / full if full else 0.0,
        "empty": empty / full if full else 0.0,
        "saved": (full - half) / (full - empty) if full > empty else 0.0,
    }


def _beside(rows: list[dict[str, Any]]) -> list[str]:
    """What quantizing alone gains."""
    found = [
        f"{_head(row)} {other} | {a['ratio']:.3f} | {a['interval'][0]:.3f} to "
        f"{a['interval'][1]:.3f} |"
        for row in rows
        for other, a in row.get("against", {}).items()
    ]
    if not found:
        return []
    return [
        "",
        "The dense model, quantized and not pruned, as a share of itself at another precision:",
        "",
        "| runtime | shape | batch x tokens | precision | beside | measured | 95 % |",
        "|---|---|---|---|---|---:|---|",
        *found,
    ]


def _widths(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "",
        "What width is worth: a sublayer's cost by the table, at half of its units and emptied, "
        "as a share of the full one's; and how",
        "much of what emptying saves half of the units saves (50 %: linear; near 0: flat, only "
        "dropping the sublayer helps).",
        "",
        "| runtime | shape | batch x tokens | precision | heads: half | emptied | saved by half | "
        "filters: half | emptied | saved by half |",
        "|---|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        if "table" in row:
            parts = [half_width(row["table"]["costs_ms"][kind]) for kind in ("mha", "ffn")]
            lines.append(
                f"{_head(row)} "
                + " | ".join(
                    f"{p['half']:.2f} | {p['empty']:.2f} | {p['saved']:.0%}" for p in parts
                )
                + " |"
            )
    return lines


def _dropped(rows: list[dict[str, Any]]) -> list[str]:
    """At batch 1: which sublayers were dropped, and why width did not help."""
    lines = []
    for row in rows:
        if row["config"]["batch"] != 1 or "table" not in row or not row.get("targets"):
            continue
        c = row["config"]
        heads, filters = (half_width(row["table"]["costs_ms"][kind]) for kind in ("mha", "ffn"))
        lines.append(
            f"- {c['runtime']} {c['shape']} {c['precision']}: half of the heads saves "
            f"{heads['saved']:.0%} of what dropping the attention "
            f"saves, half of the filters {filters['saved']:.0%} of what dropping the FFN saves."
        )
        for t in row["targets"]:
            if "emptied_sublayers" in t:
                lines.append(
                    f"  - {t['target']:g}: dropped {', '.join(t['emptied_sublayers']) or 'none'}"
                )
    return (
        ["", "Dropped at batch 1, and what half of the units would have saved instead:", "", *lines]
        if lines
        else []
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _short(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items()
        )
    return str(value)
