"""Rows that lack a text or a label: left out and counted, as long as they are few."""

from __future__ import annotations

from rfx.core.errors import UsageError

MOST = 0.01  # of the rows
FEW = 3  # rows of a training set, however small it is: nothing is judged by it
NAMED = 5  # rows in a message


class Gaps:
    """The rows of one set of examples that lack something.

    Args:
        total: rows of the set.
        judged: whether it is the evaluation set. Of calibration examples any number may lack a
            label, which is optional there.
        strict: a row that lacks something that is needed is refused.
    """

    def __init__(self, total: int, *, judged: bool, strict: bool) -> None:
        self.total, self.judged, self.strict = total, judged, strict
        self.rows: dict[int, str] = {}  # row -> what it lacks
        self._labels: set[int] = set()  # those of them that lack nothing but a label

    def add(self, number: int, what: str, *, label: bool = False) -> None:
        """Row `number`, counted from 1, lacks `what`; `label` says that it is its label."""
        if self.rows.setdefault(number, what) == what and label:
            self._labels.add(number)

    def settle(self) -> int:
        """How many rows are left out.

        Raises:
            UsageError: they are too many.
        """
        least = 0 if self.judged else FEW
        allowed = 0 if self.strict else max(least, int(MOST * self.total))
        needed = [n for n in self.rows if self.judged or n not in self._labels]
        if len(needed) <= allowed and len(self.rows) < self.total:
            return len(self.rows)
        self.rows = {n: self.rows[n] for n in needed} if len(needed) > allowed else self.rows
        numbers, few = list(self.rows), len(needed) > allowed
        if len(numbers) == 1:
            said = f"Row {numbers[0]} has no {self._what()}."
        else:
            said = f"{len(numbers)} of {self.total} rows have no {self._what()}: rows "
            said += f"{self._named()}."
        share = "1 in 100" + f" or {FEW}" * bool(least)
        limit = "none with --strict" if self.strict else f"{share}, here {allowed}"
        part = "evaluation" if self.judged else "training"
        raise UsageError(
            said,
            got=f"{len(numbers)} of {self.total} rows",
            allowed=f"{limit} of the {part} rows" if few else "rows that have it",
            next_step="remove these rows or fill them in"
            if few and len(numbers) < self.total
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
