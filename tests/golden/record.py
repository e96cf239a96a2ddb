"""Rewrites the kept files from what rfx does now: `python -m tests.golden.record [options] [plans]
[evidence_shape] [help]`.

Without names all but `help`, which is kept as it was. `schema1/` is output of an earlier version
and is never rewritten."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from tests.golden.lab import (
    EXPORTED,
    HERE,
    METHODS,
    MODELS,
    Lab,
    at,
    decided,
    help_text,
    kept,
    options,
    shape,
)


def plans(lab: Lab) -> dict:
    return {
        "plan": {m: {k: decided(lab.plan(m, k)["plan"]) for k in METHODS} for m in MODELS},
        "prune-export": {
            m: {k: decided(lab.evidence(m, k)["plan"]) for k in EXPORTED} for m in MODELS
        },
    }


def evidence_shape(lab: Lab) -> dict:
    """The places under `either` and `exact` are those of the file; types and values are new."""
    old, evidence = kept("evidence_shape.json"), lab.evidence("bert", "rfx")
    return {
        "either": old["either"],
        "shape": {p: t for p, t in shape(evidence).items() if p not in old["either"]},
        "exact": {p: at(evidence, p) for p in old["exact"]},
    }


def write(name: str, data: dict) -> None:
    text = json.dumps(data, indent=1)
    text = re.sub(
        r"\[[^\[\]{}]*\]",
        lambda m: re.sub(r"\s*\n\s*", " ", m[0]).replace("[ ", "[").replace(" ]", "]"),
        text,
    )
    (HERE / name).write_text(text + "\n", encoding="utf-8")


def main(names: list[str]) -> None:
    names = names or ["options", "plans", "evidence_shape"]
    with tempfile.TemporaryDirectory() as folder:
        if "options" in names:
            write("options.json", options())
        if "help" in names:
            (HERE / "help").mkdir(exist_ok=True)
            for command in options():
                (HERE / "help" / f"{command or 'rfx'}.txt").write_text(
                    help_text(command), encoding="utf-8"
                )
        if "plans" in names:
            write("plans.json", plans(Lab(Path(folder))))
        if "evidence_shape" in names:
            write("evidence_shape.json", evidence_shape(Lab(Path(folder))))


if __name__ == "__main__":
    main(sys.argv[1:])
