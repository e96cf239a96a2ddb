"""The one interface through which the library tells how far it is. The CLI draws it; the default
says nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Bar(Protocol):
    """The work of one step that is done and left."""

    def advance(self, steps: int = 1) -> None: ...


class Progress(Protocol):
    """What a job tells while it runs.

    `stage` says which stage begins; `total` is None where the number of stages is not known. `bar`
    is a context in which the work of a step is counted; `total` is None where it is not known.
    """

    def stage(self, title: str, number: int, total: int | None = None) -> None: ...
    def bar(self, title: str, total: int | None = None) -> AbstractContextManager[Bar]: ...
    def note(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...


class _NoBar:
    def advance(self, steps: int = 1) -> None:
        return None


class Silent:
    """Keeps what is said (a test or an embedding program may read it), and draws nothing."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def stage(self, title: str, number: int, total: int | None = None) -> None:
        self.stages.append(title)

    @contextmanager
    def bar(self, title: str, total: int | None = None) -> Iterator[Bar]:
        yield _NoBar()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)
