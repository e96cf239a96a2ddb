"""Tasks whose calibration takes inputs alone: there are no classes, and no loss of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rfx.core.errors import UsageError
from rfx.tasks.base import Feature, Task
from rfx.tasks.columns import listed


class Unlabelled(Task):
    """What such tasks have in common."""

    def __init__(
        self, tokenizer: Any, *, label_names: Sequence[str] | None = None, **more: Any
    ) -> None:
        """Raises UsageError for names of labels."""
        if label_names:
            raise UsageError(
                f"The task {self.name} has no classes.",
                got=f"labels {listed(label_names)}",
                allowed="no --labels",
                next_step="leave --labels (recipe: data.labels) out",
            )
        super().__init__(tokenizer, **{**more, "id2label": {}})

    def targets(self, features: Sequence[Feature]) -> dict[str, np.ndarray]:
        """None: calibration takes inputs alone."""
        return {}

    def losses(self, outputs: Any, targets: Mapping[str, Any]) -> Any:
        raise UsageError(
            f"The task {self.name} is scored by what the model itself gives, and has no loss of "
            "labels.",
            got="a method that needs labels",
            allowed="a scorer that takes examples without labels",
            next_step="use --method rfx, or another scorer",
        )
