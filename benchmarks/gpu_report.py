"""gpu.json as Markdown: one row a configuration, one a target."""

from __future__ import annotations


def markdown(result: dict) -> str:
    lines = ["# GPU benchmark", ""]
    environment = result.get("environment", {})
    gpus = ", ".join(environment.get("gpus") or []) or "no GPU"
    versions = environment.get("versions", {})
    named = ", ".join(f"{k} {v}" for k, v in versions.items() if k.startswith(("torch", "tensorrt", "onnxruntime", "cupy")))
    lines += [f"{gpus}; driver {environment.get('driver', 'none')}; {named}.", ""]
    lines += ["Ratios are of medians, dense and pruned timed in turns in one process. A target has landed in [target - 0.04, target].", ""]
    lines += ["| runtime | shape | batch x tokens | precision | dense ms | table s | additivity | speedup at 0.5 FLOPs |",
              "|---|---|---|---|---:|---:|---:|---:|"]  # fmt: skip
    for row in result["rows"]:
        c = row["config"]
        if "dense_ms" not in row:
            continue
        half = row.get("flops_half")
        speedup = f"{half['speedup']:.2f}x ({half['flops']:.2f})" if half else ""
        error = row.get("additivity_error")
        lines.append(
            f"| {c['runtime']} | {c['shape']} | {c['batch']} x {c['sequence']} | {c['precision']} | {row['dense_ms']:.3f} | "
            f"{row.get('table_seconds') or 0:.0f} | {'' if error is None else f'{error:.1%}'} | {speedup} |"
        )
    lines += ["", "| runtime | shape | batch x tokens | precision | target | measured | 95 % | landed | speedup | FLOPs kept | emptied |",
              "|---|---|---|---|---:|---:|---|---|---:|---:|---:|"]  # fmt: skip
    for row in result["rows"]:
        c = row["config"]
        for t in row.get("targets", []):
            head = f"| {c['runtime']} | {c['shape']} | {c['batch']} x {c['sequence']} | {c['precision']} | {t['target']:g} |"
            if "ratio" not in t:
                lines.append(f"{head} not reachable | | no | | | |")
                continue
            low, high = t["interval"]
            lines.append(f"{head} {t['ratio']:.3f} | {low:.3f} to {high:.3f} | {'yes' if t['landed'] else 'no'} | {t['speedup']:.2f}x | "
                         f"{t['flops']:.2f} | {len(t['emptied_sublayers'])} |")  # fmt: skip
    extras = result.get("extras", {})
    if extras:
        lines += ["", "| measured beside | |", "|---|---|"]
        lines += [f"| {name} | {_short(value)} |" for name, value in extras.items()]
    errors = [(r["config"], r["error"]) for r in result["rows"] if r.get("error")]
    if errors:
        lines += ["", "Could not run:", *(f"- {c['runtime']} {c['shape']} {c['batch']} {c['precision']}: {' '.join(e.split())}" for c, e in errors)]
    if result.get("skipped"):
        lines += ["", "Skipped:", *(f"- {name}: {why if isinstance(why, str) else f'{len(why)} configurations'}"
                                    for name, why in result["skipped"].items())]  # fmt: skip
    return "\n".join(lines) + "\n"


def _short(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items())
    return str(value)
