"""The outputs of a model, by name."""

from __future__ import annotations

from typing import Literal

# Of a sentence encoder: the entry of its configuration, and the path of what follows the encoder.
SENTENCE = "sentence"

Distribution = Literal["class", "labels", "value", "direction"]


class OutputName(str):
    """The name of a model's output that says what the output is a distribution of. A plain text
    says nothing of it: then the shape tells a class from a number.

    Args:
        over: "class", one of those that it has logits for; "labels", each of which is there or not,
            whatever the others are; "value", numbers; "direction", a vector whose length says
            nothing, as cosine similarity takes it.
    """

    over: Distribution

    def __new__(cls, name: str, over: Distribution) -> OutputName:
        made = super().__new__(cls, name)
        made.over = over
        return made

    def __getnewargs__(self) -> tuple[str, Distribution]:  # type: ignore[override]
        return str(self), self.over
