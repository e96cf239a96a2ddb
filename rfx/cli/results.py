"""The results of the commands, printed on stdout for a person. Each ends by saying what to do next.
Colours obey NO_COLOR."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rfx.core.kind import Kind

if TYPE_CHECKING:
    from rfx.core.plan import Plan
    from rfx.cost.table import LatencyTable
    from rfx.evidence.curve import Curve
    from rfx.evidence.records import Evidence, SearchPart


def say(text: str, style: str = "") -> None:
    """One line, however long it is."""
    Console(highlight=False, soft_wrap=True).print(Text(text, style=style))


def print_lines(lines: Iterable[Table | Text]) -> None:
    """Tables within the terminal's width, texts in one line each, however long."""
    console = Console(highlight=False)
    for line in lines:
        console.print(line, soft_wrap=not isinstance(line, Table))


def print_gates(evidence: Evidence) -> None:
    """The gates, and what follows from them."""
    from rfx.evidence.report.terminal import gates

    print_lines(gates(evidence))


def print_plan(plan: Plan, found: SearchPart, ratio: float | None) -> None:
    """The kept units of each layer, and what the search says of them."""
    from rfx.evidence.report.facts import search_sentences

    kinds = list(dict.fromkeys(s.kind for s in plan.sites))
    table = Table(title="Plan (nothing is written)", title_justify="left")
    for column in ("layer", *(k.plural for k in kinds)):
        table.add_column(column, justify="right")
    by_layer: dict[int, dict[Kind, str]] = {}
    for s in plan.sites:
        by_layer.setdefault(s.layer, {})[s.kind] = f"{s.count} / {s.units}"
    for layer, row in sorted(by_layer.items()):
        table.add_row(str(layer), *(row.get(k, "-") for k in kinds))
    print_lines([table])
    if ratio is not None:
        say(f"By the latency table this model takes {ratio:.3f} of the dense model's time.")
    for line in search_sentences(found):
        say(line)
    say(
        "Next: run `rfx prune-export` with the same options. It measures the latency, makes up for "
        "what is removed, and writes the model."
    )


def print_table(measured: LatencyTable, out: Path | None) -> None:
    """A latency table with its additivity error."""
    key = measured.key
    say(f"{key.version} on {key.device}")
    say(
        f"batch {key.batch}, {key.sequence} tokens, {key.threads} thread(s), {key.precision}, "
        f"{key.clock}"
    )
    for kind in (k for k in Kind if k.value in measured.costs_ms):
        curve = measured.curve(kind)
        table = Table(title=f"{kind.label}: ms by kept {kind.plural}", title_justify="left")
        for column in (kind.plural, "ms", "of full"):
            table.add_column(column, justify="right")
        full = curve[max(curve)]
        for count in sorted(curve):
            table.add_row(
                str(count), f"{curve[count]:.4f}", f"{curve[count] / full:.2f}" if full else "-"
            )
        print_lines([table])
    say(f"The rest of the model takes {measured.fixed_ms:.4f} ms; it has {measured.layers} layers.")
    if measured.additivity_error is not None:
        rows = ", ".join(f"{float(str(r['error'])):+.1%}" for r in measured.additivity)
        say(
            f"On {len(measured.additivity)} whole models the table is off by {rows} "
            "(at most 5% is allowed)."
        )
    if out:
        say(f"Written to {out}.")
        say(f"Next: search by this table, here or elsewhere: rfx prune-export ... --table {out}")
    else:
        say(
            "Next: `rfx prune-export` with the same model and workload finds this table in the "
            "cache. Add --out table.json to take it to another machine."
        )


def print_engine(path: Path, facts: Mapping[str, Any]) -> None:
    """What was built, and for which machines."""
    ahead = facts.get("compute_capabilities")
    size = facts.get("engine_bytes") or path.stat().st_size
    parts = [f"{size / 2**20:.1f} MiB"]
    if facts.get("weights_bytes"):
        parts.append(f"weights {facts['weights_bytes'] / 2**20:.1f} MiB")
    layers = f"; {len(facts['layers'])} layers" if "layers" in facts else ""
    say(f"Written to {path}: {', '.join(parts)}{layers}.")
    if {"seconds", "library", "precision"} <= set(facts):  # another package's runtime may not say
        where = f"compute capability {', '.join(ahead)}" if ahead else facts.get("device", "here")
        say(
            f"Built in {facts['seconds']:.1f} s by {facts['library']} for {where}; "
            f"{facts['precision']}."
        )
    if "profile" in facts:
        low, best, high = (" x ".join(map(str, facts["profile"][k])) for k in ("min", "opt", "max"))
        say(f"Batch x sequence: {low} to {high}, best at {best}.")
    if ahead:
        say(
            "Next: it has not run here (unverified on hardware). Copy it to the device, and check "
            "it there with `rfx verify`."
        )
    else:
        say("Next: serve it, or check it with `rfx verify` in the folder of its model.")


def print_environment(facts: Mapping[str, Any]) -> None:
    """What pastes into an issue.

    Args:
        facts: what `rfx.environment()` gives.
    """
    say(f"rfx: {facts['rfx']}")

    def show(data: Mapping[str, Any], indent: int = 0) -> None:
        for name, value in data.items():
            if isinstance(value, Mapping):
                say(" " * indent + f"{name}:")
                show(value, indent + 2)
            else:
                text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
                say(" " * indent + f"{name}: {text}")

    show(facts["environment"])
    say("runtimes:")
    for row in facts["runtimes"]:
        mark = "" if row["verified_on_hardware"] else " (unverified on hardware)"
        here = "runs here" if row["ok"] else f"cannot run here: {row['reason']}"
        say(f"  {row['name']}{mark}: {here}")
        if not row["ok"] and row["next_step"]:
            say(f"    next: {row['next_step']}")
    say("plug-ins:")
    for plugin in facts["plugins"]:
        say(f"  {plugin['distribution']} {plugin['version']}")
        if plugin["problem"]:
            say(f"    cannot be read: {plugin['problem']}")
        for kind in dict.fromkeys(part["kind"] for part in plugin["offers"]):
            names = (p["name"] for p in plugin["offers"] if p["kind"] == kind)
            say(f"    {kind}: {', '.join(names)}")
    say("Next: paste this into an issue, or try rfx here: rfx prune-export --latency 0.7")


def print_curve(curve: Curve, out: Path) -> None:
    """A sweep: one row for each target, the recommendation, what was written."""
    from rfx.evidence.curve import recommend
    from rfx.evidence.report.curve import rows_table

    print_lines([rows_table(curve)])
    for p in curve.points:
        if p.accuracy is None:
            say(f"{curve.budget} {p.target:g}, seed {p.seed}: {p.note}")
    best, why = recommend(curve.rows, curve.max_drop)
    say(f"Recommended: {curve.budget} {best.target:g}, {why}" if best is not None else why)
    say(f"Written to {out}: sweep.html, sweep.csv, sweep.svg, sweep.json.")
    if best is not None:
        say(f"Next: make the recommended model: rfx prune-export {out / 'recipe.yaml'}")
    elif curve.max_drop is None:
        say(
            "Next: say with --max-drop what may be lost, and run again for a recommendation. The "
            "points are kept in the cache, so that it takes no time."
        )
    else:
        say(
            f"Next: allow a larger --max-drop, or sweep over larger shares, e.g. --{curve.budget} "
            "0.95,0.9,0.85."
        )
