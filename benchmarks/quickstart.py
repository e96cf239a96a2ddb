"""The quickstart at several latency targets: does the finished engine land where it was asked to?

    python -m benchmarks.quickstart --out benchmarks/results/quickstart.json [--targets 0.7 0.5]
    [--runtime ort]

Writes one JSON with the numbers of each run's evidence. Ratios within one run are what counts:
absolute times on a shared machine mean nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from rfx.cli.terminal import Terminal
from rfx.core.files import atomic_write_text
from rfx.pipeline.prune_export import prune_export
from rfx.recipe.read import read_recipe


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quickstart",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--targets", type=float, nargs="+", default=[0.7, 0.5])
    parser.add_argument("--runtime", default="ort")
    parser.add_argument("--max-drop", type=float, default=2.0)
    args = parser.parse_args(argv)
    rows = []
    with Terminal() as progress, tempfile.TemporaryDirectory() as folder:
        for target in args.targets:
            recipe = read_recipe("quickstart").changed(
                {
                    "budget": {"latency": target},
                    "limits.max_drop": args.max_drop,
                    "target": args.runtime,
                }
            )
            evidence = prune_export(recipe, Path(folder) / f"{target}", progress=progress)
            rows.append(
                {
                    "target": target,
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
            atomic_write_text(
                args.out, json.dumps({"benchmark": "quickstart", "runs": rows}, indent=1) + "\n"
            )


if __name__ == "__main__":
    main()
