"""What pruning costs: scoring, search, compensation with its schedule, polish and guard against
plain forward-and-backward passes; memory.

    python -m benchmarks.cost --out benchmarks/results/cost.json [--shape minilm|bert-base]
    [--examples 2048] [--tokens 128]

A random model of the named shape and random examples: the cost does not depend on what the weights
say. The unit is one plain forward-and-backward pass over the same examples in the same batches,
with gradients of the inputs only. All of it on the GPU where there is one (`device`, `solver` in
the result), waited for at the end of each stage. Process CPU time and wall time of the same run;
memory is the process's peak beyond what the model and the plain pass took.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from rfx.cli.terminal import Terminal
from rfx.core.device import model_device, on_best_device, solver_module
from rfx.core.environment import environment
from rfx.core.files import atomic_write_text
from rfx.core.plan import Choice, Kind, Site
from rfx.cost.flops import FlopsCost
from rfx.methods.build import build
from rfx.methods.schedule.guard import guard
from rfx.methods.schedule.polish import polish
from rfx.methods.search.knapsack import knapsack
from rfx.methods.search.problem import Problem
from rfx.models.families.find import find_sites
from rfx.pipeline.session import peak_memory_mb
from rfx.recipe.presets import PRESETS

STAGES = ("score", "search", "tune", "polish", "guard")
SHAPES = {
    "minilm": dict(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    ),
    "bert-base": dict(
        hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072
    ),
}


class ClassTask:
    """Just the loss of a text classifier."""

    output_names = ("logits",)
    head_positions = "first"

    @staticmethod
    def losses(outputs, targets):
        import torch

        return torch.nn.functional.cross_entropy(
            outputs.logits, targets["labels"], reduction="none"
        )


class Sample(list):
    """Batches whose guard looks at a fifth of them."""

    @property
    def numbers(self):
        return [i for i, (inputs, _) in enumerate(self) for _ in inputs["input_ids"]]

    def only(self, wanted):
        return Sample(b for i, b in enumerate(self) if wanted(i))


def clock():
    settle()
    return time.perf_counter(), time.process_time()


def settle() -> None:
    """Until the GPU is done: its work is queued, and would else be counted to whoever waits for it
    first."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def since(start):
    settle()
    return {"wall_s": time.perf_counter() - start[0], "cpu_s": time.process_time() - start[1]}


def plain_pass(model, batches) -> None:
    """Forward and backward with gradients of the inputs (the embeddings) only."""
    import torch

    embed = model.get_input_embeddings()
    for inputs, targets in batches:
        x = embed(inputs["input_ids"]).detach().requires_grad_(True)
        out = model(inputs_embeds=x, attention_mask=inputs["attention_mask"])
        torch.autograd.grad(ClassTask.losses(out, targets).sum(), x)


def device_name(device) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def bert_large_search() -> dict:
    """Search at BERT-large size: 48 sites, FFN counts on a grid of 16."""
    rng = np.random.default_rng(0)
    sites, importance, curves = [], {}, {}
    for layer in range(24):
        for kind, units, width in ((Kind.MHA, 16, 64), (Kind.FFN, 4096, 1)):
            site = Site(
                f"layer.{layer}.{kind.value}", layer, kind, units, width, (), "", "", "", ""
            )
            sites.append(site)
            importance[site.name] = rng.pareto(1.5, units)
            step = 1 if kind is Kind.MHA else 16
            unit_ms = 0.08 if kind is Kind.MHA else 0.0006
            curves[site.name] = {Choice(n): 0.02 + unit_ms * n for n in range(0, units + 1, step)}
    problem = Problem(tuple(sites), importance, curves, fixed=1.0)
    seconds = []
    for share in (0.7, 0.5, 0.3):
        start = time.perf_counter()
        knapsack(problem, share * problem.dense_cost)
        seconds.append(time.perf_counter() - start)
    return {"sites": 48, "ffn_grid": 16, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shape", choices=SHAPES, default="minilm")
    parser.add_argument("--examples", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument(
        "--plain-examples",
        type=int,
        help="of the plain pass, whose time is scaled to all; default: all",
    )
    parser.add_argument(
        "--method", choices=[p for p in PRESETS if p != "kwon-reference"], default="rfx"
    )  # that one is for parity alone
    parser.add_argument("--kept", type=float, default=0.6, help="share of the FLOPs kept")
    args = parser.parse_args()
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=30522, num_labels=2, **SHAPES[args.shape])
    model = transformers.BertForSequenceClassification(config).eval().requires_grad_(False)
    sites = find_sites(model)
    ids = torch.randint(1000, 30000, (args.examples, args.tokens))
    labels = torch.randint(0, 2, (args.examples,))
    batches = [
        (
            {
                "input_ids": ids[i : i + args.batch],
                "attention_mask": torch.ones_like(ids[i : i + args.batch]),
            },
            {"labels": labels[i : i + args.batch]},
        )
        for i in range(0, args.examples, args.batch)
    ]
    result: dict = {"benchmark": "cost", "arguments": {k: str(v) for k, v in vars(args).items()}}
    with Terminal() as progress, on_best_device(model):
        device = model_device(model)
        batches = [
            tuple({k: v.to(device) for k, v in part.items()} for part in batch) for batch in batches
        ]
        result["device"], result["solver"] = device_name(device), solver_module(device).name
        progress.note("plain forward and backward")
        plain_pass(model, batches[:2])  # warm-up
        before_mb = peak_memory_mb()
        start = clock()
        some = batches[: -(-(args.plain_examples or args.examples) // args.batch)]
        plain_pass(model, some)
        result["plain"] = {unit: t * len(batches) / len(some) for unit, t in since(start).items()}
        plain_mb = peak_memory_mb()

        progress.note("pruning")
        method = PRESETS[args.method]
        built = build(method, seed=0, labelled=True)
        cost = FlopsCost(config.hidden_size, float(args.tokens))
        ground = built.ground(
            model, sites, Sample(batches), ClassTask, built.searcher(cost), progress=progress
        )
        start = clock()
        scores = ground.score()
        result["score"] = since(start)
        start = clock()
        found = ground.searcher(sites, scores, args.kept * cost.dense(sites))
        result["search"] = since(start)
        start = clock()
        outcome = built.schedule.run(ground, scores, found)
        result["tune"] = since(start)
        start = clock()
        if method.polish:
            outcome = polish(ground, outcome).outcome
        result["polish"] = since(start)
        start = clock()
        if method.guard:
            guard(ground, outcome)
        result["guard"] = since(start)
        result["peak_beyond_model_mb"] = peak_memory_mb() - before_mb
        result["peak_beyond_plain_pass_mb"] = peak_memory_mb() - plain_mb
        stages = [result[k] for k in STAGES]
        for unit in ("wall_s", "cpu_s"):
            result[f"ratio_to_plain_{unit}"] = sum(s[unit] for s in stages) / result["plain"][unit]
        result["bert_large_search"] = bert_large_search()
        result["environment"] = environment()
        atomic_write_text(args.out, json.dumps(result, indent=1) + "\n")
        for key in ("plain", *STAGES):
            progress.note(
                f"{key:10s} {result[key]['wall_s']:8.1f} s wall {result[key]['cpu_s']:8.1f} s CPU"
            )
        progress.note(f"ratio to one plain pass: {result['ratio_to_plain_wall_s']:.2f} (wall)")
        progress.note(f"peak beyond the model: {result['peak_beyond_model_mb']:.0f} MB")


if __name__ == "__main__":
    main()
