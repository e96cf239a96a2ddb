"""Rows that lack a text or a label: left out and counted, as long as they are few."""

from __future__ import annotations

from rfx.core.errors import UsageError

MOST = 0.01  # of the evaluation rows
NAMED = 5  # rows in a message


class Gaps:
    """The rows of one set of examples that lack something.

    Args:
        total: rows of the set.
        judged: whether it is the evaluation set. Of calibration examples any number may lack
            something, because a smaller sample is as good.
        strict: an evaluation row that lacks something is refused.
    """

    def __init__(self, total: int, *, judged: bool, strict: bool) -> None:
        self.total, self.judged, self.strict = total, judged, strict
        self.rows: dict[int, str] = {}  # row -> what it lacks

    def add(self, number: int, what: str) -> None:
        """Row `number`, counted from 1, lacks `what`."""
        self.rows.setdefault(number, what)

    def settle(self) -> int:
        """How many rows are left out.

        Raises:
            UsageError: they are too many.
        """
        allowed = self.total - 1
        if self.judged:
            allowed = 0 if self.strict else int(MOST * self.total)
        if len(self.rows) <= allowed:
            return len(self.rows)
        numbers = list(self.rows)
        if len(numbers) == 1:
            said = f"Row {numbers[0]} has no {self._what()}."
        else:
            said = f"{len(numbers)} of {self.total} rows have no {self._what()}: rows "
            said += f"{self._named()}."
        limit = "none with --strict" if self.strict else f"1 in 100, here {allowed}"
        raise UsageError(
            said,
            got=f"{len(numbers)} of {self.total} rows",
            allowed=f"{limit} of the evaluation rows" if self.judged else "rows that have it",
            next_step="remove these rows or fill them in"
            if self.judged
            else "name the right column with --column, or fill the rows in",
        )

    def said(self) -> str:
        """Which rows these are and what they lack; empty where there are none."""
        if not self.rows:
            return ""
        some = f"rows {self._named()} have" if len(self.rows) > 1 else f"row {self._named()} has"
        return f"{some} no {self._what()}"

    def _what(self) -> str:
        return " or no ".join(dict.fromkeys(self.rows.values()))

    def _named(self) -> str:
        numbers = list(self.rows)
        return ", ".join(map(str, numbers[:NAMED])) + (", ..." if numbers[NAMED:] else "")
