"""Queries with their documents, as a file has them, and what is judged of them: the place of the
documents that answer a query."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rfx.core.errors import UsageError
from rfx.core.values import short
from rfx.tasks.columns import column, missing, must_have, text_of
from rfx.tasks.columns import field as value_of
from rfx.tasks.gaps import Gaps
from rfx.tasks.labels import real_number
from rfx.tasks.retrieval import bootstrap_queries, of_queries, ranks_of

QUERY, DOCUMENT = "query", "document"
Found = tuple[int, ...]  # the best document, then the rank of each document that answers the query


@dataclass(frozen=True)
class Query:
    """A query and its documents with their grades: how well each of them answers it, 0 for not at
    all."""

    text: str
    row: int
    grades: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Queries:
    """What a file of queries holds.

    Args:
        alone: documents of rows without a query, which answer none.
        taken: the columns by role.
        gaps: the rows that lack something.
    """

    queries: list[Query]
    alone: list[str]
    taken: dict[str, str | None]
    gaps: Gaps


def read_queries(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, strict: bool
) -> Queries:
    """The rows of one query are one. A row's label is the grade of its document, 1 where there is
    none.

    Raises:
        UsageError: no columns of these roles, a grade that is none, no query, or a query that no
            document answers.
    """
    query, document = (must_have(rows, role, columns) for role in (QUERY, DOCUMENT))
    label = column(rows, "label", columns, required="label" in columns, exclude=[query, document])
    gaps = Gaps(len(rows), judged=True, strict=strict)
    found: dict[str, Query] = {}
    alone: list[str] = []
    for number, row in enumerate(rows, 1):
        asked, answer = text_of(row, query, number), text_of(row, document, number)
        if answer is None:
            gaps.add(number, repr(document))
            continue
        if asked is None:
            alone.append(answer)
            continue
        grade, value = 1.0, value_of(row, label)
        if not missing(value):
            grade = real_number(value, str(label), number, "they are grades of documents")
        if grade < 0:
            raise UsageError(
                f"The grade of row {number} is below 0.",
                got=f"{label}: {short(value)}",
                allowed="0 for a document that does not answer the query, or more",
                next_step="correct the grade",
            )
        grades = found.setdefault(asked, Query(asked, number)).grades
        grades[answer] = max(grade, grades.get(answer, 0.0))
    if not found:
        if gaps.rows:
            gaps.settle()
        raise UsageError(
            "There is no query among the evaluation examples.",
            got=f"{len(rows)} rows without a text in {query!r}",
            allowed="queries with documents that answer them",
            next_step="name the column of the queries with --column query=NAME",
        )
    for one in found.values():
        if not any(one.grades.values()):
            raise UsageError(
                f"No document answers the query of row {one.row}.",
                got=f"{short(one.text, 80)}: all of its documents have the grade 0",
                allowed="a document with a grade above 0 for each query",
                next_step="leave the query out, or correct its grades",
            )
    taken = {QUERY: query, DOCUMENT: document, "label": label}
    return Queries(list(found.values()), alone, taken, gaps)


def found_at(scores: np.ndarray, own: Sequence[int], grades: Sequence[float]) -> Found:
    """What one query finds.

    Args:
        scores: of all documents, [documents].
        own: the documents that the query has grades of, by their place in `scores`.
    """
    relevant = [d for d, grade in zip(own, grades, strict=True) if grade > 0]
    return (int(scores.argmax()), *ranks_of(scores, relevant))


def perfect(grades: Sequence[float]) -> Found:
    """The documents of one query in the order of their grades."""
    relevant = [g for g in grades if g > 0]
    order = np.argsort([-g for g in relevant], kind="stable")
    return (0, *(int(r) for r in np.argsort(order) + 1))


def by_query(metric: str, found: Sequence[Found], grades: Sequence[Sequence[float]]) -> np.ndarray:
    """The metric of each query, float64 [queries]."""
    own = [[g for g in of if g > 0] for of in grades]
    return of_queries(metric, [f[1:] for f in found], own)


def mean_of(metric: str, found: Sequence[Found], grades: Sequence[Sequence[float]]) -> float:
    """The mean over the queries; NaN without any."""
    values = by_query(metric, found, grades)
    return float(values.mean()) if len(values) else math.nan


def bootstrap(
    metric: str,
    first: Sequence[Found],
    second: Sequence[Found],
    grades: Sequence[Sequence[float]],
    resamples: int,
    seed: int,
) -> np.ndarray:
    """Paired bootstrap of mean(first) - mean(second): float64 [resamples]."""
    one, other = (by_query(metric, found, grades) for found in (first, second))
    return bootstrap_queries(one, other, resamples, seed)
