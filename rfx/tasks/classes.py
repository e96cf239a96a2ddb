"""The classes of a task's labels: which class a label of the data is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rfx.core.errors import UsageError
from rfx.core.values import short
from rfx.tasks.labels import whole

NAMED = 12  # classes in an error's message


class Classes:
    """What a label of the data means to a model.

    Args:
        num_labels: outputs of the model.
        id2label: what the model calls them.
        label_names: what the data call them, in the model's order.
        called: label as the data have it -> the model's index, of all that were met.
    """

    num_labels: int
    id2label: dict[int, str]
    label_names: list[str]
    called: dict[str, int]

    def class_index(self, value: Any, names: Sequence[str] | None = None) -> int | None:
        """The model's index of a class. Data name it by its index in their own `names`, by the name
        that the model or the user gives it (in any case, where no other has it too), or, where the
        number is no name, by the model's index; None where it is none of these."""
        exact = [str(n) for n in self.label_names]
        lowered = [n.lower() for n in exact]
        number = whole(value)
        if (
            names  # for numbers as text too: every value of a CSV is one
            and number is not None
            and 0 <= number < len(names)
            and str(names[number]).lower() in lowered
        ):
            # A dataset's class order need not be the model's.
            value, number = (
                str(names[number]),
                None,
            )
        text = str(value).strip()
        # 1 and 1.0 are the class "1" too, and true is "True", whatever index that has.
        for name in (text, *([] if number is None else [str(number)])):
            if exact.count(name) == 1:
                return exact.index(name)
            if lowered.count(name.lower()) == 1:
                return lowered.index(name.lower())
        return number if number is not None and 0 <= number < self.num_labels else None

    def label_index(self, value: Any, names: Sequence[str] | None = None) -> int | None:
        """As `class_index`, and remembered in `called`.

        Raises:
            UsageError: another file had the same label for another class, by names of its own.
        """
        index = self.class_index(value, names)
        if index is not None:
            number = None if isinstance(value, (str, bool)) else whole(value)
            called = str(value).strip() if number is None else str(number)
            before = self.called.setdefault(called, index)
            if before != index:
                raise UsageError(
                    "One label means two classes.",
                    got=f"{short(called, bare=True)} is {self.model_name(before)!r} in one "
                    f"file and {self.model_name(index)!r} in another, by the names that they have "
                    "for it",
                    allowed="one meaning of a label in all files",
                    next_step="write the names of the labels in place of their numbers, or count "
                    "them alike in both files",
                )
            self._refuse_collision(called, index)
        return index

    def _refuse_collision(self, called: str, index: int) -> None:
        """Raises UsageError where two numbers of the data mean one class: one of them is the name
        of the class, as with --labels 1,2, and another is its place, counted from 0."""
        number = whole(called)
        names = {whole(str(name)) for name in self.label_names} - {None}
        for other, taken in self.called.items():
            if taken != index or number is None or whole(other) in (None, number):
                continue
            if not names & {number, whole(other)}:  # data that name their own numbers
                continue
            raise UsageError(
                "Two numbers in the data mean one class.",
                got=f"{short(other, 40, bare=True)} and {short(called, 40, bare=True)} are both "
                f"{self.model_name(index)!r}: the one by its name, the other counted from 0",
                allowed="one way of counting in the training and in the evaluation data",
                next_step="count the labels alike in both files, or write their names",
            )

    @property
    def mapping(self) -> dict[str, str]:
        """The labels of the data -> what the model itself calls them."""
        return {value: self.model_name(index) for value, index in self.called.items()}

    def model_name(self, index: int) -> str:
        """What the model itself calls a class; its number where it has no name for it."""
        return self.id2label.get(index, str(index))

    def classes_allowed(self) -> str:
        """What `class_index` takes, for an error's message: the first names alone where there are
        many."""
        names = [str(n) for i, n in enumerate(self.label_names) if str(n) != str(i)]
        if names and all(name.isdigit() for name in names):  # a name comes before a number
            listed = ", ".join(map(str, self.label_names[:NAMED]))
            same = {str(n) for n in self.label_names} == {str(i) for i in range(self.num_labels)}
            return listed if same else f"the names {listed}, or 0..{self.num_labels - 1}"
        return ", ".join(
            [f"0..{self.num_labels - 1}", *names[:NAMED], *(["..."] if len(names) > NAMED else [])]
        )
