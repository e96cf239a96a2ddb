"""What every part of the evidence is made of: numbers that may not be finite, facts, and a form
that allows no other keys."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer


def _null_if_not_finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they are written as null, however deep they stand."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _null_if_not_finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_null_if_not_finite(v) for v in value]
    return value


def _nan_if_null(value: Any) -> Any:
    return math.nan if value is None else value


# A measured number. One that is not finite is null in JSON and NaN when it is read again: a gate
# over it fails.
Number = Annotated[
    float,
    BeforeValidator(_nan_if_null),
    PlainSerializer(_null_if_not_finite, return_type=Any, when_used="json"),
]
Facts = Annotated[
    dict[str, Any], PlainSerializer(_null_if_not_finite, return_type=Any, when_used="json")
]


class Part(BaseModel):
    """A part of the evidence. A key that it does not have is a mistake."""

    model_config = ConfigDict(extra="forbid")
