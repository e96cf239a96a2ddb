"""The kinds of units, apart from the plan, so that a gate can name them without NumPy."""

from __future__ import annotations

from enum import Enum


class Kind(str, Enum):
    """A kind of site. `unit` and `plural` are the names of what it is made of, `label` that of the
    sublayer; how a kind is sliced is said in `rfx.models.shrink`, what it costs in `rfx.cost`."""

    unit: str
    plural: str
    label: str

    def __new__(cls, value: str, unit: str = "", label: str = "") -> Kind:
        kind = str.__new__(cls, value)
        kind._value_ = value
        kind.unit, kind.plural, kind.label = unit, f"{unit}s", label
        return kind

    MHA = "mha", "head", "attention"
    FFN = "ffn", "filter", "feed-forward"
