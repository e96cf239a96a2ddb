"""An embedding model, pruned: what it loses on pairs and in search, and how far its vectors are
from the dense model's.

    python -m benchmarks.embeddings --model FOLDER --train texts.jsonl --eval pairs.jsonl
        --out benchmarks/results/embeddings.json [--flops 0.7 0.5] [--latencies 0.6]
        [--int8 0.2] [--examples 4096]

The model is a folder of sentence-transformers. `--train` has texts to calibrate on, `--eval` pairs
of texts with a score from 0 to 5 (STS-B, for one). For the search, the first texts of pairs with a
score of 4 or more are queries, their second texts the documents that answer them, and all second
texts of the file are searched. `--int8` are budgets of models that are pruned and quantized, shares
of the dense model's latency in fp32. Ratios are measured in turns in one process; run it on a
machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.results_file import write_results
from rfx.cli.terminal import Terminal
from rfx.core.environment import environment
from rfx.core.store import Store
from rfx.evidence.records import Evidence
from rfx.pipeline.prune_export import prune_export
from rfx.pipeline.verify import verify
from rfx.recipe.read import make_recipe
from rfx.recipe.spec import Recipe
from rfx.runtimes.find import runtime
from rfx.tasks.data import load_examples

ANSWERS = 4.0  # the score from which on the second text answers the first one
METRIC = "ndcg@10"


def main(argv: list[str] | None = None) -> None:
    args = _arguments(argv)
    store = Store(args.cache) if args.cache else Store()
    here = runtime("ort")
    with Terminal() as progress, tempfile.TemporaryDirectory(prefix="rfx-embeddings-") as folder:
        search = _as_search(args.eval, Path(folder) / "queries.jsonl")
        rows = []
        for kind, budget, precision in _budgets(args):
            recipe = _recipe(args, kind, budget, precision)
            out = Path(folder) / f"{kind}-{budget}-{precision}"
            evidence = prune_export(recipe, out, store=store, progress=progress)
            found = _searched(recipe, out, search, store, progress)
            rows.append(_row(kind, budget, precision, evidence, found))
            print(json.dumps(rows[-1]), flush=True)
            write_results(
                args.out,
                {
                    "benchmark": "embeddings",
                    "model": _name(Path(args.model)),
                    "examples": args.examples,
                    "runtime": here.version(),
                    "device": here.device(),
                    "environment": environment(),
                    "rows": rows,
                },
            )


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.embeddings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for option in ("--model", "--train", "--eval"):
        parser.add_argument(option, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--flops", type=float, nargs="*", default=[0.7, 0.5])
    parser.add_argument("--latencies", type=float, nargs="*", default=[0.6])
    parser.add_argument("--int8", type=float, nargs="*", default=[0.2])
    parser.add_argument("--examples", type=int, default=4096, help="texts to calibrate on")
    parser.add_argument("--cache", type=Path, help="default: that of rfx")
    return parser.parse_args(argv)


def _name(folder: Path) -> str:
    """Of the folder; a package has its model in a folder of that name."""
    return folder.parent.name if folder.name == "model" else folder.name


def _budgets(args: argparse.Namespace) -> list[tuple[str, float, str]]:
    return [
        *(("flops", b, "fp32") for b in args.flops),
        *(("latency", b, "fp32") for b in args.latencies),
        *(("latency", b, "int8") for b in args.int8),
    ]


def _recipe(args: argparse.Namespace, kind: str, budget: float, precision: str) -> Recipe:
    return make_recipe(
        {
            "name": "embeddings",
            "model": args.model,
            "data": {"train": args.train, "eval": args.eval},
            "target": "ort",
            "budget": {kind: budget},
            "workload": {"precision": precision},
            "calibration": {"examples": args.examples},
        }
    )


def _as_search(pairs: str, file: Path) -> str:
    """The pairs as queries and documents, in `file`."""
    rows: list[dict[str, str]] = []
    for pair in load_examples(pairs):
        answers = float(pair["label"]) >= ANSWERS
        query = str(pair["sentence1"]) if answers else ""
        rows.append({"query": query, "document": str(pair["sentence2"])})
    file.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return str(file)


def _searched(recipe: Recipe, out: Path, search: str, store: Store, progress: Any) -> Evidence:
    """The same output judged by search: its evidence with other examples."""
    evidence = out / "evidence.json"
    before = evidence.read_text(encoding="utf-8")
    try:
        data = json.loads(before)
        data["recipe"] |= {"metric": METRIC}
        data["recipe"]["data"] |= {"eval": search}
        evidence.write_text(json.dumps(data), encoding="utf-8")
        return verify(out, store=store, progress=progress)
    finally:
        evidence.write_text(before, encoding="utf-8")


def _row(
    kind: str, budget: float, precision: str, evidence: Evidence, found: Evidence
) -> dict[str, Any]:
    accuracy, latency, rival = evidence.accuracy, evidence.latency, evidence.rival
    assert accuracy is not None and latency is not None and found.accuracy is not None
    row = {
        "kind": kind,
        "budget": budget,
        "precision": precision,
        "ratio": latency.ratio,
        "ratio_interval": latency.interval,
        "flops": evidence.flops_ratio,
        "spearman": accuracy.pruned,
        "dense_spearman": accuracy.dense,
        "drop": accuracy.drop,
        "drop_interval": accuracy.interval,
        "cosine_distance": accuracy.divergence,
        "ndcg": found.accuracy.pruned,
        "dense_ndcg": found.accuracy.dense,
        "ndcg_drop": found.accuracy.drop,
        "ndcg_interval": found.accuracy.interval,
        "queries": found.accuracy.examples,
        "bytes": evidence.size.bytes if evidence.size else None,
    }
    if rival is not None and rival.latency is not None:
        row["rival"] = {
            "ratio": rival.latency.ratio,
            "drop": rival.drop,
            "cosine_distance": rival.divergence,
        }
    return row


if __name__ == "__main__":
    main()
