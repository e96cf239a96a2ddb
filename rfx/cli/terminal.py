"""What a person sees: progress on stderr (drawn only on a TTY), results on stdout. Colours obey
NO_COLOR."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from rfx.core.registry import Plugin
    from rfx.runtimes.find import RuntimeStatus

REFRESHES_A_SECOND = (
    2  # the thread that draws takes from the clock and the cores that latencies are measured with
)


class _RichBar:
    def __init__(self, progress: Progress, task) -> None:
        self._progress, self._task = progress, task

    def advance(self, steps: int = 1) -> None:
        self._progress.advance(self._task, steps)


class _PlainBar:
    """Off a TTY: a line now and then, so that slow can be told from hung."""

    EVERY_S = 20.0

    def __init__(self, title: str, total: int | None, say) -> None:
        self._title, self._total, self._say = title, total, say
        self._done, self._last = 0, time.monotonic()

    def advance(self, steps: int = 1) -> None:
        self._done += steps
        if time.monotonic() - self._last >= self.EVERY_S:
            self._last = time.monotonic()
            share = f" ({self._done / self._total:.0%})" if self._total else ""
            self._say(f"{self._title}: {self._done}{share}")


class Terminal:
    """The CLI's progress. Off a TTY it draws no bars and says each stage once."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            refresh_per_second=REFRESHES_A_SECOND,
            disable=quiet or not self.console.is_terminal,
        )

    def __enter__(self) -> Terminal:
        self._bars.start()
        return self

    def __exit__(self, *exc) -> None:
        self.stop()

    def stop(self) -> None:
        self._bars.stop()

    @contextmanager
    def bar(self, title: str, total: int | None = None) -> Iterator[_RichBar | _PlainBar]:
        if not self.quiet and not self.console.is_terminal:
            self.note(title)
            yield _PlainBar(title, total, self.note)
            return
        task = self._bars.add_task(title, total=total)
        try:
            yield _RichBar(self._bars, task)
        finally:
            self._bars.remove_task(task)

    def stage(self, title: str, number: int, total: int | None = None) -> None:
        self.note(f"{number}{f' of {total}' if total else ''}: {title}")

    def note(self, text: str) -> None:
        if not self.quiet:
            self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        if not self.quiet:
            self.console.print(f"warning: {text}", markup=False, style="yellow")

    def error(self, text: str) -> None:
        self.console.print(f"error: {text}", markup=False, style="red")


def _out() -> Console:
    return Console(highlight=False, soft_wrap=True)


def print_lines(lines) -> None:
    """Tables within the terminal's width, texts in one line each, however long."""
    console = Console(highlight=False)
    for line in lines:
        console.print(line, soft_wrap=not isinstance(line, Table))


def print_plan(plan, found, ratio: float | None) -> None:
    """Kept heads and filters of each layer, and what the search says of them."""
    console = _out()
    table = Table(title="Plan (nothing written)", title_justify="left")
    for column in ("layer", "heads", "filters"):
        table.add_column(column, justify="right")
    by_layer: dict[int, dict[str, str]] = {}
    for s in plan.sites:
        by_layer.setdefault(s.layer, {})[s.kind.value] = f"{s.count} / {s.units}"
    for layer, row in sorted(by_layer.items()):
        table.add_row(str(layer), row.get("mha", "-"), row.get("ffn", "-"))
    console.print(table)
    if ratio is not None:
        console.print(f"predicted latency: {ratio:.3f} of dense, from the table")
    if found.value_kept is not None:
        console.print(f"importance kept: {found.value_kept:.2%}   search: {found.method}")
    if found.optimality_gap is not None:
        console.print(f"optimality gap: at most {found.optimality_gap:.2e} of the kept importance")
    if found.price is not None:
        unit = "millisecond" if found.budget_unit == "ms" else "MAC"
        console.print(f"price of a {unit}: {found.price:.4g} of importance")


def print_table(measured, out) -> None:
    """A latency table with its additivity error."""
    console = _out()
    key = measured.key
    console.print(f"{key.version} on {key.device}")
    console.print(
        f"batch {key.batch}, {key.sequence} tokens, {key.threads} thread(s), {key.precision}, "
        f"{key.clock}"
    )
    for kind, unit in (("mha", "heads"), ("ffn", "filters")):
        curve = measured.curve(kind)
        table = Table(title=f"{kind.upper()}: ms by kept {unit}", title_justify="left")
        table.add_column(unit, justify="right")
        table.add_column("ms", justify="right")
        table.add_column("of full", justify="right")
        full = curve[max(curve)]
        for count in sorted(curve):
            table.add_row(
                str(count), f"{curve[count]:.4f}", f"{curve[count] / full:.2f}" if full else "-"
            )
        console.print(table)
    console.print(f"fixed part: {measured.fixed_ms:.4f} ms; {measured.layers} layers")
    if measured.additivity_error is not None:
        rows = ", ".join(f"{float(r['error']):+.1%}" for r in measured.additivity)
        console.print(
            f"additivity error on {len(measured.additivity)} whole models: {rows} (limit 5%)"
        )
    if out:
        console.print(f"written to {out}")


def print_engine(path, facts: dict) -> None:
    """What was built, and for which machines."""
    console = _out()
    low, best, high = (" x ".join(map(str, facts["profile"][k])) for k in ("min", "opt", "max"))
    where = (
        f"compute capability {', '.join(facts['compute_capabilities'])}"
        if facts["compute_capabilities"]
        else facts["device"]
    )
    weights = (
        f", weights {facts['weights_bytes'] / 2**20:.1f} MiB" if facts.get("weights_bytes") else ""
    )
    console.print(
        f"written to {path}: {facts['engine_bytes'] / 2**20:.1f} MiB{weights}; "
        f"{len(facts['layers'])} layers",
        markup=False,
    )
    console.print(
        f"built in {facts['seconds']:.1f} s by {facts['library']} for {where}; "
        f"{facts['precision']}",
        markup=False,
    )
    console.print(f"batch x sequence: {low} to {high}, best at {best}", markup=False)
    if facts["compute_capabilities"]:
        console.print(
            "not run here: check it on the device with `rfx verify` (unverified on hardware)"
        )


def print_environment(
    here: dict, runtimes: Sequence[RuntimeStatus], plugins: Sequence[Plugin]
) -> None:
    """What pastes into an issue."""
    console = _out()
    from rfx.core.version import __version__

    console.print(f"rfx: {__version__}")

    def show(data: dict, indent: int = 0) -> None:
        for name, value in data.items():
            if isinstance(value, dict):
                console.print(" " * indent + f"{name}:")
                show(value, indent + 2)
            else:
                console.print(" " * indent + f"{name}: {value}", markup=False)

    show(here)
    console.print("runtimes:")
    for name, ok, reason, next_step, verified in runtimes:
        mark = "" if verified else " (unverified on hardware)"
        console.print(
            f"  {name}{mark}: {'runs here' if ok else 'cannot run here: ' + reason}", markup=False
        )
        if not ok and next_step:
            console.print(f"    next: {next_step}", markup=False)
    console.print("plug-ins:")
    for plugin in plugins:
        console.print(f"  {plugin.distribution} {plugin.version}", markup=False)
        if plugin.problem:
            console.print(f"    cannot be read: {plugin.problem}", markup=False)
        for kind, names in plugin.names().items():
            console.print(f"    {kind}: {', '.join(names)}", markup=False)


def print_curve(curve, out) -> None:
    """A sweep on stdout: one row a target, the recommendation, what was written."""
    from rfx.evidence.curve import recommend
    from rfx.evidence.report.curve import rows_table

    console = Console(highlight=False)
    console.print(rows_table(curve))
    best, why = recommend(curve.rows, curve.max_drop)
    if best is None:
        console.print(why, soft_wrap=True)
    else:
        console.print(f"recommended: {curve.budget} {best.target:g}, {why}", soft_wrap=True)
        console.print(f"make it: rfx prune-export {out}/recipe.yaml", soft_wrap=True)
    for p in curve.points:
        if p.accuracy is None:
            console.print(f"{curve.budget} {p.target:g}, seed {p.seed}: {p.note}", soft_wrap=True)
    console.print(f"written to {out}: sweep.html, sweep.csv, sweep.svg, sweep.json", soft_wrap=True)
