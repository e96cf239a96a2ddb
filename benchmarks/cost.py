"""What pruning costs: time of scoring, search, compensation with its schedule, polish and guard,
against plain forward-and-backward passes; and memory.

    python -m benchmarks.cost --out benchmarks/results/cost.json [--shape minilm|bert-base]
    [--examples 2048] [--tokens 128]

The model has the named shape and random weights, and the examples are random, because the cost does
not depend on their values. The unit is one plain forward-and-backward pass over the same examples
in the same batches, with gradients of the inputs only. Everything runs on the GPU where there is
one (`device` and `solver` in the result), and each stage ends when the GPU is done with it. Wall
time and CPU time of the process are of the same run. Memory is the process's peak beyond what the
model and the plain pass took.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx.cli.terminal import Terminal
from rfx.core.device import model_device, on_best_device, solver_module
from rfx.core.environment import environment
from rfx.core.files import atomic_write_text
from rfx.core.inputs import Batch
from rfx.core.plan import Choice, Kind, Site
from rfx.core.progress import Progress
from rfx.cost.flops import FlopsCost
from rfx.methods.build import build
from rfx.methods.schedule.guard import guard
from rfx.methods.schedule.polish import polish
from rfx.methods.search.knapsack import knapsack
from rfx.methods.search.problem import Problem
from rfx.models.families.find import find_sites
from rfx.pipeline.session import peak_memory_mb
from rfx.recipe.presets import PRESETS

if TYPE_CHECKING:
    import torch
    import transformers

STAGES = ("score", "search", "tune", "polish", "guard")


def _shape(hidden: int, layers: int, heads: int, filters: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": filters,
    }


SHAPES = {
    "minilm": _shape(384, 6, 12, 1536),
    "bert-base": _shape(768, 12, 12, 3072),
    "tiny": _shape(32, 2, 4, 64),
}


class ClassTask:
    """The loss of a text classifier, which is all of a task that is needed here."""

    output_names = ("logits",)
    head_positions = "first"

    @staticmethod
    def losses(outputs: Any, targets: dict[str, torch.Tensor]) -> torch.Tensor:
        """Cross-entropy of each example, [batch]."""
        import torch

        return torch.nn.functional.cross_entropy(
            outputs.logits, targets["labels"], reduction="none"
        )


class Sample(list[Batch]):
    """Batches that are examples to the guard, which looks at every fifth of them."""

    @property
    def numbers(self) -> list[int]:
        """Of each example the number of its batch."""
        return [i for i, (inputs, _) in enumerate(self) for _ in inputs["input_ids"]]

    def only(self, wanted: Callable[[int], bool]) -> Sample:
        """The batches whose number is `wanted`."""
        return Sample(b for i, b in enumerate(self) if wanted(i))


def clock() -> tuple[float, float]:
    """Now, in seconds of wall time and of the process's CPU time, once the GPU is done."""
    settle()
    return time.perf_counter(), time.process_time()


def settle() -> None:
    """Wait until the GPU is done. Its work is queued, and would otherwise be counted to the stage
    that happens to wait for it first."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def since(start: tuple[float, float]) -> dict[str, float]:
    """Seconds since `clock` gave `start`, once the GPU is done."""
    settle()
    return {"wall_s": time.perf_counter() - start[0], "cpu_s": time.process_time() - start[1]}


def plain_pass(model: transformers.PreTrainedModel, batches: Iterable[Batch]) -> None:
    """Forward and backward with gradients of the inputs (the embeddings) only."""
    import torch

    embed = model.get_input_embeddings()
    for inputs, targets in batches:
        x = embed(inputs["input_ids"]).detach().requires_grad_(True)
        out = model(inputs_embeds=x, attention_mask=inputs["attention_mask"])
        torch.autograd.grad(ClassTask.losses(out, targets).sum(), x)


def device_name(device: torch.device) -> str:
    """The name of the GPU, or "cpu"."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def bert_large_search() -> dict[str, Any]:
    """Seconds of the search at BERT-large size: 48 sites, FFN counts on a grid of 16."""
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


def main(argv: list[str] | None = None) -> None:
    args = _arguments(argv)
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=30522, num_labels=2, **SHAPES[args.shape])
    model = transformers.BertForSequenceClassification(config).eval().requires_grad_(False)
    with Terminal() as progress, on_best_device(model):
        result = measure(args, model, progress)
    result["bert_large_search"] = bert_large_search()
    result["environment"] = environment()
    atomic_write_text(args.out, json.dumps(result, indent=1) + "\n")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
    # That one is for parity alone.
    parser.add_argument(
        "--method", choices=[p for p in PRESETS if p != "kwon-reference"], default="rfx"
    )
    parser.add_argument("--kept", type=float, default=0.6, help="share of the FLOPs kept")
    return parser.parse_args(argv)


def sample_of(args: argparse.Namespace, device: torch.device) -> Sample:
    """Random examples and labels in batches, on the device."""
    import torch

    ids = torch.randint(1000, 30000, (args.examples, args.tokens)).to(device)
    labels = torch.randint(0, 2, (args.examples,)).to(device)
    parts = [slice(i, i + args.batch) for i in range(0, args.examples, args.batch)]
    return Sample(
        (
            {"input_ids": ids[part], "attention_mask": torch.ones_like(ids[part])},
            {"labels": labels[part]},
        )
        for part in parts
    )


def measure(
    args: argparse.Namespace, model: transformers.PreTrainedModel, progress: Progress
) -> dict[str, Any]:
    """Time the plain pass and every stage of the pruning of `model`, on the device that it is
    on."""
    device, sites = model_device(model), find_sites(model)
    batches = sample_of(args, device)
    result: dict[str, Any] = {
        "benchmark": "cost",
        "arguments": {k: str(v) for k, v in vars(args).items()},
        "device": device_name(device),
        "solver": solver_module(device).name,
    }
    progress.note("plain forward and backward")
    plain_pass(model, batches[:2])  # warm-up
    before_mb = peak_memory_mb()
    start = clock()
    some = batches[: -(-(args.plain_examples or args.examples) // args.batch)]
    plain_pass(model, some)
    result["plain"] = {unit: t * len(batches) / len(some) for unit, t in since(start).items()}
    plain_mb = peak_memory_mb()

    progress.note("pruning")
    spec = PRESETS[args.method]
    method = build(spec, seed=0, labelled=True)
    cost = FlopsCost(model.config.hidden_size, float(args.tokens))
    searcher = method.searcher(cost)
    ground = method.ground(model, sites, batches, ClassTask, searcher, progress=progress)
    start = clock()
    scores = ground.score()
    result["score"] = since(start)
    start = clock()
    found = searcher(sites, scores, args.kept * cost.dense(sites))
    result["search"] = since(start)
    start = clock()
    outcome = method.schedule.run(ground, scores, found)
    result["tune"] = since(start)
    start = clock()
    if spec.polish:
        outcome = polish(ground, outcome).outcome
    result["polish"] = since(start)
    start = clock()
    if spec.guard:
        guard(ground, outcome)
    result["guard"] = since(start)
    result["peak_beyond_model_mb"] = peak_memory_mb() - before_mb
    result["peak_beyond_plain_pass_mb"] = peak_memory_mb() - plain_mb
    for unit in ("wall_s", "cpu_s"):
        pruning = sum(result[stage][unit] for stage in STAGES)
        result[f"ratio_to_plain_{unit}"] = pruning / result["plain"][unit]
    for key in ("plain", *STAGES):
        wall, cpu = result[key]["wall_s"], result[key]["cpu_s"]
        progress.note(f"{key:10s} {wall:8.1f} s wall {cpu:8.1f} s CPU")
    progress.note(f"ratio to one plain pass: {result['ratio_to_plain_wall_s']:.2f} (wall)")
    progress.note(f"peak beyond the model: {result['peak_beyond_model_mb']:.0f} MB")
    return result


if __name__ == "__main__":
    main()
