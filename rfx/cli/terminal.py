"""What a person sees while a job runs: progress on stderr. Colours obey NO_COLOR."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from rfx.cli.console import on_stderr

# The thread that draws takes from the clock and the cores that latencies are measured with.
REFRESHES_A_SECOND = 2
UNKNOWN = "time left: not known yet"


def time_left(done: float, total: float | None, seconds: float) -> str:
    """How long the rest of a step takes, if it goes on as it went; that it is not known, where
    nothing is done yet or nobody knows how much there is to do.

    Args:
        done: steps that are done, of `total`.
        seconds: since the first step began.
    """
    if not total or done <= 0:
        return UNKNOWN
    left = max(round(seconds / done * (total - done)), 0)
    if left < 60:
        return f"time left: about {left} s"
    minutes, seconds_left = divmod(left, 60)
    if minutes < 10:
        return f"time left: about {minutes} min {seconds_left} s"
    hours, minutes = divmod(minutes, 60)
    return f"time left: about {f'{hours} h ' if hours else ''}{minutes} min"


class _TimeLeft(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(time_left(task.completed, task.total, task.elapsed or 0.0))


class _RichBar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, steps: int = 1) -> None:
        self._progress.advance(self._task, steps)


class _PlainBar:
    """Off a TTY: a line now and then, so that slow can be told from hung."""

    EVERY_S = 20.0

    def __init__(self, title: str, total: int | None, say: Callable[[str], None]) -> None:
        self._title, self._total, self._say = title, total, say
        self._done = 0
        self._started = self._last = time.monotonic()

    def advance(self, steps: int = 1) -> None:
        self._done += steps
        now = time.monotonic()
        if now - self._last >= self.EVERY_S:
            self._last = now
            of = f" of {self._total} ({self._done / self._total:.0%})" if self._total else ""
            left = time_left(self._done, self._total, now - self._started)
            self._say(f"{self._title}: {self._done}{of}; {left}")


class Terminal:
    """The CLI's progress. Off a TTY it draws no bars, and says each stage and step once."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.warned: list[str] = []
        self.console = on_stderr()
        self._stage = ""
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            _TimeLeft(),
            console=self.console,
            transient=True,
            refresh_per_second=REFRESHES_A_SECOND,
            disable=quiet or not self.console.is_terminal,
        )

    def __enter__(self) -> Terminal:
        self._bars.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the bars away, before a result is printed."""
        self._bars.stop()

    def stage(self, title: str, number: int, total: int | None = None) -> None:
        """Say which stage begins, of how many."""
        self._stage = f"{number} of {total}" if total else f"{number}"
        self.note(f"Stage {self._stage}: {title}")

    @contextmanager
    def bar(self, title: str, total: int | None = None) -> Iterator[_RichBar | _PlainBar]:
        """Count the work of one step."""
        if not self.quiet and not self.console.is_terminal:
            self.note(f"  {title}")
            yield _PlainBar(f"  {title}", total, self.note)
            return
        said = f"[{self._stage}] {title}" if self._stage else title
        task = self._bars.add_task(said, total=total)
        try:
            yield _RichBar(self._bars, task)
        finally:
            self._bars.remove_task(task)

    def note(self, text: str) -> None:
        if not self.quiet:
            self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        self.warned.append(text)
        if not self.quiet:
            self.console.print(f"warning: {text}", markup=False, style="yellow")

    def error(self, text: str) -> None:
        self.console.print(f"error: {text}", markup=False, style="red")
