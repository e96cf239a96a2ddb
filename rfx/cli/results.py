"""The results of the commands, printed on stdout for a person. Each ends by saying what to do
next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from rfx.cli.console import on_stdout
from rfx.core.kind import Kind
from rfx.core.sizes import size_words

if TYPE_CHECKING:
    from rfx.cost.table import LatencyTable
    from rfx.evidence.curve import Curve
    from rfx.evidence.records import Evidence
    from rfx.pipeline.plan import Planned
    from rfx.pipeline.sites import Seen

# What `rfx env` says of INT8, by how the CPU sums products of 8 bits.
_INT8 = {
    "wide": "INT8 pays on this CPU: it sums products of 8 bits in 32 bits. Try --precision int8.",
    "saturating": "INT8 may pay on this CPU: it has neither VNNI nor AMX and sums products of 8 "
    "bits in 16 bits, so that --precision int8 keeps weights to 7 bits. Compare its latency with "
    "that of fp32.",
    "none": "INT8 is not known to pay on this CPU: no instructions for products of 8 bits were "
    "found. Compare the latency of --precision int8 with that of fp32.",
}


def say(text: str, style: str = "") -> None:
    """One line, however long it is."""
    on_stdout(soft_wrap=True).print(Text(text, style=style))


def print_lines(lines: Iterable[Table | Text]) -> None:
    """Tables within the terminal's width, texts in one line each, however long."""
    console = on_stdout()
    for line in lines:
        console.print(line, soft_wrap=not isinstance(line, Table))


def print_gates(evidence: Evidence, given: Path) -> None:
    """The gates, and what follows from them.

    Args:
        given: the file that was judged, or the folder of its evidence.json.
    """
    from rfx.evidence.report.terminal import gates

    print_lines(gates(evidence, given))


def print_sites(seen: Seen) -> None:
    """What can be pruned, the proof of it, and what is left alone."""
    found = seen.inspection
    table = Table(title=f"What can be pruned in {seen.model}", title_justify="left")
    table.add_column("site")
    table.add_column("units", justify="right")
    table.add_column("width", justify="right")
    table.add_column("share", justify="right")
    table.add_column("made by, and read by (within the layer)", overflow="fold")
    for s in found.sites:
        inside = [p.removeprefix(f"{s.layer_path}.") for p in (*s.inputs, s.output)]
        table.add_row(
            s.name,
            f"{s.units} {s.kind.plural}",
            str(s.width),
            f"{seen.site_share(s):.1%}",
            f"{', '.join(inside[:-1])}; {inside[-1]}",
        )
    print_lines([table])
    whole = sum(map(seen.site_share, found.sites))
    say(
        f"These {len(found.sites)} sites have {whole:.1%} of the multiplications of all dense "
        "modules; share is the part of each. Proved: with every second unit masked, and with it "
        f"removed, the outputs differ by at most {found.error:.1g} of their scale; so they do with "
        "whole sublayers."
    )
    for refused in found.refused:
        say(f"left alone: {refused.path} ({seen.share(refused.path):.1%}): {refused.reason}")
    say("Next: rfx prune-export with this model, your data and a target.")


def print_plan(planned: Planned) -> None:
    """The kept units of each layer, and what the search says of them."""
    from rfx.evidence.report.facts import search_sentences

    plan, ratio = planned.plan, planned.predicted_ratio
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
    if planned.predicted_bytes is not None:
        say(f"Its file will have about {size_words(planned.predicted_bytes)}.")
    for line in search_sentences(planned.search):
        say(line)
    if all(s.count == s.units for s in plan.sites):
        say(
            "Nothing is pruned: the whole model is within the budget. Ask for less if it is to be "
            "smaller or faster."
        )
        return
    say(
        "Next: run `rfx prune-export` with the same options. It first measures whether the dense "
        "model is accurate at all, which a plan does not; then the latency, makes up for what is "
        "removed, and writes the model."
    )


def print_table(measured: LatencyTable, out: Path | None) -> None:
    """A latency table with its additivity error."""
    key = measured.key
    say(f"{key.version} on {key.device}")
    say(
        f"batch {key.batch}, {key.sequence} tokens, {key.threads} thread(s), {key.precision}, "
        f"{key.clock}"
    )
    for name, curve in measured.costs_ms.items():
        kind, of = (
            Kind(name.partition("-")[0]),
            [s for s, c in measured.curves.items() if c == name],
        )
        title = f"{kind.label}: ms by kept {kind.plural}" + (f" ({', '.join(of)})" if of else "")
        table = Table(title=title, title_justify="left")
        for column in (kind.plural, "ms", "of full"):
            table.add_column(column, justify="right")
        full = curve[max(curve)]
        for count in sorted(curve):
            table.add_row(
                str(count), f"{curve[count]:.4f}", f"{curve[count] / full:.2f}" if full else "-"
            )
        print_lines([table])
    say(f"The rest of the model takes {measured.fixed_ms:.4f} ms; it has {measured.layers} layers.")
    if measured.shares:
        rows = ", ".join(f"{name} {share:.2f}" for name, share in measured.shares.items())
        say(
            "The model's head reads one position of its output, so that the last layer is computed "
            f"there alone. Of what is said above its units cost this part: {rows}."
        )
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

    machine = dict(facts["environment"])
    products = machine.pop("int8_products")
    show(machine)
    say(_INT8[products])
    say("runtimes:")
    for row in facts["runtimes"]:
        mark = "" if row["verified_on_hardware"] else " (unverified on hardware)"
        here = "runs here" if row["ok"] else f"cannot run here: {row['reason']}"
        say(f"  {row['name']}{mark}: {here}")
        if not row["ok"] and row["next_step"]:
            say(f"    next: {row['next_step']}")
    say("quantizers:")
    for row in facts["quantizers"]:
        what = f"{row['name']} ({', '.join(row['precisions'])} for {', '.join(row['targets'])})"
        here = "can be used here" if row["ok"] else f"cannot be used here: {row['reason']}"
        say(f"  {what}: {here}")
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
    asked = "--precision int8 --latency 0.2" if products == "wide" else "--latency 0.7"
    say(f"Next: paste this into an issue, or try rfx here: rfx prune-export {asked}")


def print_curve(curve: Curve, out: Path) -> None:
    """A sweep: one row for each target, the recommendation, what was written."""
    from rfx.evidence.curve import none_passes, recommend
    from rfx.evidence.report.curve import rows_table
    from rfx.evidence.report.rival import sweep_rival_text
    from rfx.evidence.words import target_text

    print_lines([rows_table(curve)])
    for p in curve.points:
        if p.accuracy is None:
            say(f"{curve.budget} {target_text(curve.budget, p.target)}, seed {p.seed}: {p.note}")
    if text := sweep_rival_text(curve):
        say(text)
    best, why = recommend(curve.rows, curve.max_drop)
    say(f"Recommended: {curve.budget} {best.name}, {why}" if best is not None else why)
    say(f"Written to {out}: sweep.html, sweep.csv, sweep.svg, sweep.json.")
    if best is not None:
        say(f"Next: make the recommended model: rfx prune-export {out / 'recipe.yaml'}")
    elif curve.max_drop is None and not none_passes(curve):
        say(
            "Next: say with --max-drop what may be lost, and run again for a recommendation. The "
            "points are kept in the cache, so that it takes no time."
        )
    else:
        larger = "larger sizes" if curve.by_size else "larger shares"
        example = "" if curve.by_size else f", e.g. --{curve.budget} 0.95,0.9,0.85"
        say(
            "Next: allow a larger --max-drop (or a lower --min-agreement, where it is that which "
            f"fails), or sweep over {larger}{example}."
        )
