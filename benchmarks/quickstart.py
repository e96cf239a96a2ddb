"""The quickstart at several latency targets: does the finished engine land where it was asked to?

    python -m benchmarks.quickstart --out benchmarks/results/quickstart.json [--targets 0.7 0.5]
        [--runtime ort]
    python -m benchmarks.quickstart --precision int8 --targets 0.2
        --evidence benchmarks/results/quickstart-evidence.json

Writes one JSON with the numbers of each run's evidence, or the whole evidence of one run, which is
the one whose output README and the tutorial show. Ratios within one run are what counts: absolute
times on a shared machine mean nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from rfx.cli.terminal import Terminal
from rfx.core.files import atomic_write_text
from rfx.evidence.records import Evidence
from rfx.pipeline.prune_export import prune_export
from rfx.recipe.read import read_recipe


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quickstart",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, help="the numbers of every run")
    parser.add_argument("--evidence", type=Path, help="the whole evidence of the last run")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--targets", type=float, nargs="+", default=[0.7, 0.5])
    parser.add_argument("--runtime", default="ort")
    parser.add_argument("--max-drop", type=float, default=2.0)
    args = parser.parse_args(argv)
    if args.out is None and args.evidence is None:
        parser.error("give --out or --evidence: the file to write")
    rows = []
    with Terminal() as progress, tempfile.TemporaryDirectory() as folder:
        for target in args.targets:
            recipe = read_recipe("quickstart").changed(
                {
                    "budget": {"latency": target},
                    "limits.max_drop": args.max_drop,
                    "target": args.runtime,
                    "workload.precision": args.precision,
                }
            )
            evidence = prune_export(recipe, Path(folder) / f"{target}", progress=progress)
            rows.append(
                {
                    "target": target,
                    "precision": args.precision,
                    "latency": evidence.latency.model_dump(mode="json"),
                    "accuracy": evidence.accuracy.model_dump(mode="json"),
                    "rival": evidence.rival and evidence.rival.model_dump(mode="json"),
                    "gates": [g.model_dump(mode="json") for g in evidence.gates],
                    "rounds": [r.model_dump(mode="json") for r in evidence.search.rounds],
                    "additivity_error": evidence.table.additivity_error,
                    "flops_ratio": evidence.flops_ratio,
                    "params_ratio": evidence.params_ratio,
                    "kept_layers": evidence.kept_layers,
                    "stages": [s.model_dump(mode="json") for s in evidence.stages],
                    "environment": evidence.environment,
                    "warnings": evidence.warnings,
                }
            )
            progress.note(
                f"target {target}: ratio {evidence.latency.ratio:.3f}, drop "
                f"{evidence.accuracy.drop:+.2f} points"
            )
            if args.out is not None:
                atomic_write_text(
                    args.out, json.dumps({"benchmark": "quickstart", "runs": rows}, indent=1) + "\n"
                )
            if args.evidence is not None:
                atomic_write_text(args.evidence, _portable(evidence))


def _portable(evidence: Evidence) -> str:
    """The document, without the place that the quickstart has on the disk of this machine."""
    text = evidence.model_dump_json(indent=1)
    place = json.dumps(str(Path(evidence.recipe["model"]).parents[2]))[1:-1]
    return text.replace(place + "/", "/cache/") + "\n"


if __name__ == "__main__":
    main()
