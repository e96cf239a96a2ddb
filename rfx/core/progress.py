"""The one interface through which the library tells how far it is. The CLI draws it; the default
says nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Bar(Protocol):
    def advance(self, steps: int = 1) -> None: ...


class Progress(Protocol):
    def bar(self, title: str, total: int | None = None): ...  # context manager that yields a Bar
    def note(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...


class _NoBar:
    def advance(self, steps: int = 1) -> None:
        return None


class Silent:
    """Keeps warnings (a test or an embedding program may read them), draws nothing."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    @contextmanager
    def bar(self, title: str, total: int | None = None) -> Iterator[Bar]:
        yield _NoBar()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)
