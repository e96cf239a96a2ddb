"""What a smaller vocabulary saves and costs: one model at several sizes, with the full vocabulary
and with the entries of its training set alone.

    python -m benchmarks.vocabulary --model DIR --train FILE --eval FILE
    --out benchmarks/results/vocabulary.json [--name NAME]

Each row is one `rfx prune-export`: what was asked for, and what its evidence says of the file, the
accuracy, the agreement with the dense model, the latency and the vocabulary. Rows that the file has
already are not made again.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.results_file import place_of, read_results, write_results
from rfx.cli.terminal import Terminal
from rfx.core.environment import environment, versions
from rfx.evidence.records import Evidence
from rfx.pipeline.prune_export import prune_export
from rfx.recipe.spec import Recipe

# What is asked for: precision, size, and whether the vocabulary is pruned.
ROWS = (
    ("fp32", "70MB", False),
    ("int8", "18MB", False),
    ("int8", "18MB", True),
    ("int8", "12MB", True),
)


def main(argv: list[str] | None = None) -> None:
    args = _arguments(argv)
    results = read_results(args.out) if place_of(args.out).exists() else {"rows": []}
    results["model"] = args.name or args.model.name
    results["environment"] = {
        "day": datetime.now(UTC).date().isoformat(),
        **{key: environment()[key] for key in ("system", "cpu", "cpu_features", "python")},
        "versions": versions(),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with Terminal(quiet=True) as progress:
        for precision, size, prune in ROWS:
            asked = {"precision": precision, "size": size, "prune_vocabulary": prune}
            if any(row["asked"] == asked for row in results["rows"]):
                continue
            folder = Path(tempfile.mkdtemp(prefix="rfx-vocabulary-"))
            try:
                recipe = Recipe(
                    model=str(args.model),
                    task="text-classification",
                    target="ort",
                    data={"train": str(args.train), "eval": str(args.eval)},
                    workload={"precision": precision},
                    budget={"size": size},
                    vocabulary={"prune": prune},
                )
                made = prune_export(recipe, folder / "out", progress=progress)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            results["rows"].append({"asked": asked, **_row(made)})
            write_results(args.out, results)


def _row(made: Evidence) -> dict[str, Any]:
    """What the evidence says."""
    assert made.accuracy is not None and made.size is not None and made.latency is not None
    a = made.accuracy
    return {
        "outcome": made.outcome,
        "bytes": made.size.bytes,
        "dense_bytes": made.size.dense_bytes,
        "rival_bytes": None if made.rival is None else made.rival.bytes,
        "examples": a.examples,
        "dense": a.dense,
        "metric": a.pruned,
        "drop": a.drop,
        "drop_interval": a.interval,
        "agreement": a.agreement,
        "agreement_interval": a.agreement_interval,
        "divergence": a.divergence,
        "latency_ratio": made.latency.ratio,
        "kept_layers": made.kept_layers,
        "parity": made.parity,
        "vocabulary": None
        if made.vocabulary is None
        else made.vocabulary.model_dump(mode="json") | {"saved": made.vocabulary.saved},
        "gates": {gate.name: gate.outcome for gate in made.gates},
    }


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="a dense checkpoint")
    parser.add_argument("--train", type=Path, required=True, help="training examples")
    parser.add_argument("--eval", type=Path, required=True, help="evaluation examples")
    parser.add_argument("--out", type=Path, required=True, help="the JSON of the results")
    parser.add_argument("--name", help="what the model is called in them")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
