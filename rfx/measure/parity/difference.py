"""The first tensor that differs, in words and with the command line that repeats it."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rfx.core.files import atomic_write_text
from rfx.runtimes.base import Arrays

INPUTS, OUTPUTS, SCRIPT = "parity.inputs.json", "parity.outputs.json", "parity.sh"


@dataclass(frozen=True)
class Difference:
    """The first tensor that differs. Shares are largest differences over the scale, inf where one
    is not finite. Of
    what comes in pairs the first is the reference: the model on ONNX Runtime."""

    tensor: str
    operator: str
    node: str
    module: str  # of the nearest weight upstream; "" where there is none
    share: float  # of this tensor
    outputs_share: float  # of the outputs, over all inputs: what the gate sees
    tolerance: float
    files: tuple[str, str]
    runtimes: tuple[str, str]
    dtypes: tuple[str, str]
    ranges: tuple[tuple[float, float], tuple[float, float]]  # of the finite numbers
    not_finite: tuple[int, int]
    compared: int
    skipped: int  # tensors that only one side has, or that have other shapes there
    note: str
    commands: tuple[tuple[str, ...], ...]  # the words of each
    inputs: Arrays = field(compare=False, repr=False)  # that show it

    @property
    def command(self) -> str:
        """The shell command line that repeats it and fails while they differ, run where
        `save_repro` put the inputs."""
        return _lines(self.commands, " && ")

    def to_json(self) -> dict[str, Any]:
        facts = {k: v for k, v in self.__dict__.items() if k not in ("inputs", "commands")} | {
            "command": self.command
        }
        return {k: None if v == math.inf else v for k, v in facts.items()}  # JSON has no inf

    def __str__(self) -> str:
        what = " ".join(
            x for x in (self.operator, self.node, self.module and f"of {self.module}") if x
        )
        shares = (self.share, self.outputs_share)
        its, their = (
            f"by {x:.1e} of the scale" if x < math.inf else "in numbers that are not finite"
            for x in shares
        )
        pairs = zip(self.dtypes, self.ranges, self.not_finite, self.files, self.runtimes)
        sides = [
            f"{dtype} {low:.4g} to {high:.4g}{f' and {n} not finite' if n else ''} in {file} on "
            f"{runtime}"
            for dtype, (low, high), n, file, runtime in pairs
        ]
        skipped = self.skipped and f"{self.skipped} more could not be compared"
        return (
            f"Of {self.compared} tensors {self.tensor}{what and f' ({what})'} is the first that "
            f"differs, {its} "
            f"(tolerance {self.tolerance:.1e}): {'; '.join(sides)}. "
            f"The outputs differ {'; '.join(x for x in (their, skipped, self.note) if x)}."
        )


def _lines(commands: Sequence[Sequence[str]], separator: str) -> str:
    return separator.join(" ".join(shlex.quote(word) for word in words) for words in commands)


def save_repro(folder: Path, difference: Difference) -> Path:
    """Write the inputs that show a difference (Polygraphy's JSON) and `parity.sh`, which repeats
    it; return that. It can be started from anywhere and fails while the two differ. A model in
    `folder` may move with it.

    Raises:
        UsageError: the folder cannot be written.
    """
    from polygraphy.json import to_json

    folder = Path(folder)
    home = os.path.abspath(folder) + os.sep  # noqa: PTH100 - a link keeps its name
    commands = _lines(
        [[word.removeprefix(home) for word in words] for words in difference.commands], "\n"
    )
    head = (
        f"#!/usr/bin/env bash\n# {' '.join(str(difference).split())}\nset -euo pipefail\ncd "
        '"$(dirname "$0")"\n'
    )
    atomic_write_text(folder / INPUTS, to_json([dict(difference.inputs)]))
    atomic_write_text(folder / SCRIPT, f"{head}{commands}\n")
    return folder / SCRIPT
