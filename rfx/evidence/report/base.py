"""What a report writer is: it makes one file from an `Evidence` alone.

A writer registers itself under the name that `render` takes:

    @register("report", "csv")
    class Csv(Report):
        file = "report.csv"

        def render(self, evidence: Evidence) -> str: ...
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from typing import ClassVar

from rfx.evidence.records import Evidence


class Report(ABC):
    """A form of the evidence for a reader: a person, a CI service, the Hugging Face hub.

    `file` is its name in an output folder. `needs` are the packages that it imports and that a
    plain installation does not have, and `install` the command that brings them.
    """

    file: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    install: ClassVar[str] = ""

    @abstractmethod
    def render(self, evidence: Evidence) -> str:
        """The text of the file."""

    @classmethod
    def missing(cls) -> tuple[str, ...]:
        """The packages among `needs` that are not installed."""
        return tuple(n for n in cls.needs if importlib.util.find_spec(n) is None)
