"""The console that everything is printed with. What others wrote is made safe to show here, at the
last moment, so that no message can forget it. Colours obey NO_COLOR."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from rfx.core.streams import messages, results
from rfx.core.text import printable


class SafeConsole(Console):
    """A console on which text is text: escape sequences are the console's own."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isspace():
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)


def on_stdout(**options: Any) -> SafeConsole:
    """For results."""
    return SafeConsole(file=results(), highlight=False, **options)  # type: ignore[arg-type]


def on_stderr() -> SafeConsole:
    """For messages and progress; each message is one line, however long."""
    return SafeConsole(file=messages(), highlight=False, soft_wrap=True)  # type: ignore[arg-type]
