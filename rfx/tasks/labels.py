"""What the values of a label column mean: no label at all, a class by a name that the data have for
its number, or one of the usual mistakes."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from rfx.core.errors import UnsupportedModelError, UsageError
from rfx.core.values import short
from rfx.tasks.columns import missing, written_as
from rfx.tasks.rows import NAMES

NO_LABEL = ("", "-")  # as SNLI marks pairs on which its annotators did not agree
SAID = 12  # labels in a note
LISTED = 200  # labels in a next step
FEW = 0.01  # of the rows, which may be marked with -1 as those without a label
LARGEST = (2 - 2**-23) * 2.0**127  # of numbers that a model computes with, in 32 bits
Rows = Sequence[Mapping[str, Any]]


class NumberedError(UsageError):
    """Labels that are no numbers of the model's. Whoever knows the labels of the other file of
    examples says more of it.

    Args:
        column: of the labels.
        numbers: all whole numbers in it; none where there are other values too.
    """

    def __init__(
        self, what: str, *, column: str, numbers: Collection[int], got: str, allowed: str, step: str
    ) -> None:
        self.column, self.numbers = column, frozenset(numbers)
        super().__init__(what, got=got, allowed=allowed, next_step=step)

    def of_two(self, part: str, other: str, values: Iterable[Any]) -> UsageError | None:
        """The error where the two files count their labels differently, which no --labels mends:
        it holds for both. None where they do not.

        Args:
            part: whose labels these are: "training".
            other: "evaluation".
            values: the labels of the other part.
        """
        numbers, more = _numbers(values)
        mine, theirs = sorted(self.numbers), sorted(numbers)
        if more or min(len(mine), len(theirs)) < 2 or not _apart(mine, theirs):
            return None
        wrong = ((part, mine), (other, theirs))[mine[0] == 0]
        first = wrong[1][0]
        step = f"write 0 for each {first} in the labels of the {wrong[0]} examples"
        if not _signs(wrong[1]):
            by = f"subtract {first} from" if first > 0 else f"add {-first} to"
            step = f"{by} every label of the {wrong[0]} examples"
        return UsageError(
            f"The labels of the {part} examples are {_range(mine)}, and those of the {other} "
            f"examples {_range(theirs)}: the two files count them differently.",
            got=f"the {part} examples: {self.got}",
            allowed="labels that both files count alike: --labels holds for both",
            next_step=f"{step}, so that both count from 0",
        )


def _apart(mine: Sequence[int], theirs: Sequence[int]) -> bool:
    """Whether the same labels are counted from another number, or by signs in one place."""
    by = theirs[0] - mine[0]
    if by and by == theirs[-1] - mine[-1]:
        return True
    return {_signs(mine), _signs(theirs)} == {True, False} and [0, 1] in (mine, theirs)


def _signs(numbers: Sequence[int]) -> bool:
    return list(numbers) == [-1, 1]


def _range(numbers: Sequence[int]) -> str:
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return short(" and ".join((", ".join(map(str, numbers[:-1])), str(numbers[-1]))), 80, bare=True)


def whole(value: Any) -> int | None:
    """A whole number, also as text or float (1, True, "1", "1.0", 1.0); None for anything else."""
    try:
        number = float(value) if "_" not in str(value) else math.nan  # Python reads 1_0 as 10
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() else None


def no_label(value: Any, names: Sequence[str] = (), *, real: bool = False) -> bool:
    """Whether a value says that there is no label: nothing, "-", or -1, as test sets have it.

    Args:
        names: of the labels, which may be called so.
        real: labels are real numbers, of which -1 is one.
    """
    if isinstance(value, (list, tuple, dict)):
        return False
    if missing(value):
        return True
    text = str(value).strip()
    if text in names:
        return False
    return text in NO_LABEL or (not real and whole(value) == -1)


def real_number(value: Any, column: str, row: int, why: str) -> float:
    """A label that is a number.

    Args:
        why: what the labels of this column are, for the message.

    Raises:
        UsageError: it is none, or none that a model computes with.
    """
    try:
        real = float(value)
    except (TypeError, ValueError, OverflowError):
        real = math.nan
    if abs(real) <= LARGEST:  # NaN is not
        return real
    no = "too large a number" if math.isfinite(real) else "not a number"
    raise UsageError(
        f"The label of row {row} is {no}.",
        got=f"{column}: {short(value, 500, bare=True)}",
        allowed=f"finite numbers of 32 bits: {why}",
        next_step="correct the label, or give the data of this model",
    )


def names_in(rows: Rows, label: str | None, known: Sequence[str]) -> list[str] | None:
    """The names that the data have for the numbers in their label column: those of a `datasets`
    class label, or those in a column beside it (`label_text`, `label_name`). None where there are
    none, or where one of them is no label of the model: then numbers are the model's own.

    Args:
        known: names of the model's labels.
    """
    if label is None:
        return None
    declared = rows[0].get(NAMES)  # a user's own column may be called so too
    names = (declared.get(label) if isinstance(declared, dict) else None) or _beside(rows, label)
    if not isinstance(names, (list, tuple)):
        return None
    lowered = {str(n).lower() for n in known}
    if not names or not all(str(n).lower() in lowered for n in names if n is not None):
        return None
    return [str(n) for n in names]


def _beside(rows: Rows, label: str) -> list[str | None] | None:
    """By number the one name that stands in a column beside it."""
    there = [str(name) for name in rows[0]]
    usual = (f"{label}_text", f"{label}_name", f"{label}_names", "label_text", "label_name")
    for column in dict.fromkeys(written_as(there, name) or name for name in usual):
        found: dict[int, str] = {}
        for row in rows:
            number, name = row.get(label), row.get(column)
            number = None if isinstance(number, (list, tuple, dict)) else whole(number)
            if number is None or number < 0 or not isinstance(name, str) or not name.strip():
                continue
            if found.setdefault(number, name.strip()) != name.strip():
                break
        else:
            if found and len(set(found.values())) == len(found) and max(found) < 10_000:
                return [found.get(i) for i in range(max(found) + 1)]
    return None


def refuse_signs(
    values: Sequence[Any], names: Sequence[str], column: str, explained: bool = False
) -> None:
    """Raises UsageError where -1 is most likely a class and not the sign of no label: beside -1 and
    1 of two classes, or labels that count from -1, as -1, 0, 1 of three. Taken as they stand, the
    rows of the first class would be gone, and all the others one class off.

    Args:
        explained: the data have names for their numbers, of which -1 is none.
    """
    numbers = [None if isinstance(v, (list, tuple, dict)) else whole(v) for v in values]
    signs = numbers.count(-1)
    if explained or not signs or any(whole(name) == -1 for name in names):
        return
    found = {n for v, n in zip(values, numbers) if n == -1 or not no_label(v, names)}
    count, highest = len(names), max((n for n in found if n is not None), default=-1)
    # Names, a set without any label, or a mistake of another kind.
    if None in found or highest < 0 or any(n is not None and n < -1 for n in found):
        return
    whole_range = found == set(range(-1, count - 1))
    signs_alone = count == 2 and found == {-1, 1}
    many = signs > FEW * len(values)
    if not signs_alone and not whole_range and (highest > count - 2 or not many):
        return
    order = [-1, 1] if signs_alone else list(range(-1, count - 1))
    said = short_list([str(n) for n in order])
    first = numbers.index(-1) + 1
    seen = sorted(n for n in found if n is not None)
    raise NumberedError(
        f"The labels are {' and '.join(map(str, order))}, and the model counts from 0: row {first} "
        "and others have -1."
        if signs_alone
        else f"The labels most likely count from -1, and the model counts from 0: the label of row "
        f"{first} is -1.",
        got=f"{short(', '.join(map(str, seen)), 120, bare=True)}; -1 in "
        f"{signs} of {len(values)} rows",
        allowed=f"0..{count - 1}, or {short(', '.join(map(str, names)), 200, bare=True)}",
        column=column,
        numbers=seen,
        step=f"if -1 is {short(names[0], 40)} and {order[-1]} is {short(names[-1], 40)}, "
        f"add --labels={said}; if -1 says that a row has no label, leave those labels empty",
    )


def short_list(values: Sequence[str]) -> str:
    """Values as --labels takes them; the middle of very many is left out."""
    if len(values) <= LISTED:
        return ",".join(values)
    return f"{','.join(values[:3])},...,{values[-1]} (all {len(values)} of them)"


def naming(names: Sequence[str]) -> str:
    """What to do to have the labels called so: --labels, or where a name holds what would not
    survive there (a comma, a blank at its border), the recipe's key."""
    if any("," in n or n != n.strip() or not n.isprintable() for n in names):
        return f"set labels under data in a recipe: {json.dumps(list(names), ensure_ascii=False)}"
    joined = shlex.quote(",".join(names))
    return f"add --labels={joined}" if names[0].startswith("-") else f"add --labels {joined}"


def refuse_several(value: Any, column: str, number: int) -> None:
    """Raises an error for a label that is a list or a table: a text with several labels, or one
    label as a list of zeros and a one.

    Raises:
        UnsupportedModelError: several labels.
        UsageError: one label, written otherwise.
    """
    if not isinstance(value, (list, tuple, dict)):
        return
    numbers = [whole(v) for v in value] if isinstance(value, (list, tuple)) else []
    if len(numbers) > 1 and sorted(n == 1 for n in numbers) == [False] * (len(numbers) - 1) + [
        True
    ]:
        hint = f"write the label of row {number} as {numbers.index(1)}, and the others alike"
    else:
        hint = "give one label for each text"
    if isinstance(value, dict) or len(numbers) < 2:
        raise UsageError(
            f"The label of row {number} is not one value.",
            got=f"{column}: {short(value, 500, bare=True)}",
            allowed="the number or the name of one label",
            next_step=hint,
        )
    raise UnsupportedModelError(
        f"The label of row {number} is a list, as for a text with several labels (multi-label "
        "classification), and the model gives one label to each text.",
        got=f"{column}: {short(value, 500, bare=True)}",
        allowed="the number or the name of one label, or a model whose config.json says "
        '"problem_type": "multi_label_classification"',
        next_step=hint,
    )


def columns_of_labels(rows: Rows, text: str) -> list[str]:
    """Columns that are 0 or 1 in every row: several labels of a text, one in each column."""
    some = rows[:200]
    names = [n for n in dict.fromkeys(n for row in some for n in row) if n not in (text, "id")]
    return [n for n in names if {whole(row.get(n)) for row in some} == {0, 1}]


def unknown_label(
    value: Any, column: str, number: int, values: Iterable[Any], count: int, allowed: str
) -> UsageError:
    """What is wrong with a label that the model does not have, with the likely reason.

    Args:
        values: all values of the column.
        count: how many labels the model has.
    """
    what = f"The label of row {number} is not one of the model's."
    step = "correct it, or name the labels in the model's order with --labels"
    numbers, others = _numbers(v for v in values if not no_label(v))
    if not others and _from_one(numbers, count):
        what = f"The labels {_counting(numbers, count)}: the label of row {number} is not one of "
        what += "the model's."
        names = short_list([str(i) for i in range(1, count + 1)])
        step = f"if they are in the model's order, add --labels {names}, or subtract 1 from each"
    elif others and (named := _names_of(values, count)):
        step = "if these are the model's labels under other names, name them in the model's order, "
        step += f"which the data do not tell: {naming(named).removeprefix('add ')} if "
        step += f"{short(named[0], 40)} is the model's first label"
    elif not others and len(numbers) > count:
        step = f"the data have {len(numbers)} labels and the model {count}: give data of this model"
    return _unknown(value, column, () if others else numbers, what, allowed, step)


def _unknown(
    value: Any, column: str, numbers: Collection[int], what: str, allowed: str, step: str
) -> NumberedError:
    return NumberedError(
        what,
        column=column,
        numbers=numbers,
        got=f"{column}: {short(value, 500, bare=True)}",
        allowed=allowed,
        step=step,
    )


def _names_of(values: Iterable[Any], count: int) -> list[str]:
    """The names in a column of labels, where there are as many as the model has labels."""
    found = {str(v).strip() for v in values if isinstance(v, str) and not no_label(v)}
    return sorted(found) if len(found) == count <= LISTED else []


def unknown_tag(
    value: Any, column: str, number: int, values: Iterable[Any], count: int, allowed: str
) -> UsageError:
    """As `unknown_label`, for a tag of a word. Numbers that are counted otherwise are to be mended
    in the data: by other names (--labels) f1 would not know the entities any more.

    Args:
        values: all tags of all rows.
    """
    what = f"A tag of row {number} is not one of the model's."
    step = "correct it, or name the tags in the model's order with --labels"
    numbers, others = _numbers(values)
    if -100 in numbers:
        step = (
            "-100 marks pieces of words that have no tag: give whole words, and one tag for each "
            "of them"
        )
    elif not others and _from_one(numbers, count):
        what = f"The tags {_counting(numbers, count)}: a tag of row {number} is not one of the "
        what += "model's."
        step = "if they are in the model's order, subtract 1 from every tag"
    elif not others and len(numbers) > 1 and min(numbers) == -1 and max(numbers) <= count - 2:
        what = (
            f"The tags most likely count from -1, and the model counts from 0 to {count - 1}: a "
            f"tag of row {number} is not one of the model's."
        )
        step = (
            "if they are in the model's order, add 1 to every tag; if -1 marks words without a "
            "tag, give them the tag that the training gave them, or leave these rows out"
        )
    return _unknown(value, column, () if others else numbers, what, allowed, step)


def _numbers(values: Iterable[Any]) -> tuple[set[int], bool]:
    """The whole numbers among values, and whether there is anything else."""
    found = {None if isinstance(v, (list, tuple, dict)) else whole(v) for v in values}
    return {n for n in found if n is not None}, None in found


def _from_one(numbers: Collection[int], count: int) -> bool:
    """Whether numbers that are no labels of a model are most likely counted from 1."""
    return len(numbers) > 1 and min(numbers) >= 1 and max(numbers) == count


def _counting(numbers: Collection[int], count: int) -> str:
    sure = "" if min(numbers) == 1 else "most likely "
    return f"{sure}count from 1 to {count}, and the model counts from 0 to {count - 1}"


def mapping_said(mapping: Mapping[str, str]) -> str:
    """The mapping of labels in a sentence; empty where there are none."""
    if not mapping:
        return ""
    if all(value.lower() == name.lower() for value, name in mapping.items()):
        names = list(mapping)[:SAID]
        return f"labels are found by the model's names: {', '.join(names)}" + (
            ", ..." if len(mapping) > SAID else ""
        )
    said = [f"{value} is {name!r}" for value, name in sorted(mapping.items())[:SAID]]
    return f"labels in the data: {', '.join(said)}" + (", ..." if len(mapping) > SAID else "")
