"""Finish: compensate, bake, shrink, export. Everything lands in a folder beside the output, renamed
at the end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rfx.compensate import compensator
from rfx.cost.flops import unit_costs
from rfx.device import on_best_device
from rfx.errors import UserError
from rfx.plan import Plan, Update
from rfx.runtimes.base import Engine
from rfx.schedule import Ground, schedule
from rfx.schedule.base import Outcome, Searcher
from rfx.schedule.guard import Guarded, guard
from rfx.schedule.polish import Polished, polish
from rfx.scores.base import Scores
from rfx.search import Problem, SearchResult, search
from rfx.stages.decide import batches, flops_searcher, make_scorer
from rfx.stages.load import Model, Workload
from rfx.stages.measure import export_model
from rfx.stages.run import Run
from rfx.surgery.checkpoint import readable, save
from rfx.surgery.shrink import shrink
from rfx.verify.evidence import CompensationPart, SiteTuning, TablePart

AHEAD_FILE = "model.rtx.plan"  # built ahead of time by TensorRT-RTX
SERVED_BATCH = 32  # of an ONNX file under Triton, whose batch is free


@dataclass
class Finished:
    model: Any  # the small torch model
    plan: Plan
    update: Update
    onnx: Path


def decide_and_compensate(
    run: Run,
    loaded: Model,
    workload: Workload,
    scores: Scores,
    result: SearchResult,
    searcher: Searcher,
) -> tuple[Outcome, CompensationPart, list[SiteTuning]]:
    """From searched counts to the plan and its update, in the order of the recipe's schedule. An
    update stays only if it brings the output nearer to the dense model's on every fifth example."""
    method = run.recipe.method
    ground = Ground(
        model=loaded.model,
        sites=loaded.sites,
        batches=batches(run, workload),
        task=workload.task,
        scorer=make_scorer(run.recipe, workload.labelled),
        searcher=searcher,
        compensator=compensator(method.compensate)(tuning=method.tuning),
        refine=method.refine,
        teacher_masks=lambda plan: _teacher(run, loaded, workload, plan, scores),
        progress=run.progress,
    )
    name = compensator(method.compensate).verb or "rearrange"
    with run.stage(name), on_best_device(loaded.model):
        outcome = schedule(method.schedule)(rounds=method.rounds).run(ground, scores, result)
    polished = Polished(outcome)
    if method.polish:
        with run.stage("polish"), on_best_device(loaded.model):
            polished = polish(ground, outcome)
            outcome = polished.outcome
    guarded = Guarded(outcome)
    if method.guard:
        with run.stage("guard"), on_best_device(loaded.model):
            guarded = guard(ground, outcome)
    dropped = guarded.outcome is not outcome
    if dropped:
        parts = [
            n
            for n, there in (
                (method.compensate, method.compensate != "none"),
                ("the polish", polished.ratio not in (None, 1.0)),
            )
            if there
        ]
        run.warn(
            f"What {' and '.join(parts)} fitted was dropped: on every fifth calibration example "
            "it takes the output further from the dense "
            f"model's ({guarded.divergence_before:.4g} without it, {guarded.divergence_after:.4g} "
            "with it)."
        )
    part = CompensationPart(
        method=method.compensate,
        schedule=method.schedule,
        accepted=not dropped,
        divergence_before=guarded.divergence_before,
        divergence_after=guarded.divergence_after,
        polish=1.0 if dropped and polished.ratio is not None else polished.ratio,
    )
    rows = [
        SiteTuning(
            site=r.site,
            accepted=r.accepted and not dropped,
            held_out_before=r.held_out_before,
            held_out_after=r.held_out_after,
            ridge=r.ridge,
            reason="dropped: the output is no nearer" if r.accepted and dropped else r.reason,
        )
        for r in outcome.sites
    ]
    return guarded.outcome, part, rows


def _teacher(
    run: Run, loaded: Model, workload: Workload, plan: Plan, scores: Scores
) -> dict[str, np.ndarray]:
    """The reference's teacher: the binary mask that the search gives at the square root of the kept
    share of FLOPs."""
    by_flops = flops_searcher(run, loaded, workload)
    share = by_flops.share(plan.sites, plan.counts)
    costs = unit_costs(loaded.sites, by_flops.sequence, loaded.hidden)
    budget = float(np.sqrt(share)) * by_flops.dense(loaded.sites)
    result = search("enumeration")(Problem.from_unit_costs(loaded.sites, scores, costs), budget)
    return {
        s.name: np.isin(np.arange(s.units), result.kept[s.name]).astype(np.float64)
        for s in loaded.sites
    }


def export(
    run: Run,
    loaded: Model,
    workload: Workload,
    plan: Plan,
    update: Update,
    file: Path,
    **metadata: object,
) -> tuple[Any, Path]:
    """The small torch model, without gradients, and its ONNX `file`."""
    small = shrink(loaded.model, loaded.sites, plan, update)
    for parameter in small.parameters():
        parameter.requires_grad_(False)
    return small, export_model(
        run, loaded, small, file, workload.task.output_names, plan, **metadata
    )


def build(
    run: Run,
    loaded: Model,
    workload: Workload,
    plan: Plan,
    update: Update,
    folder: Path,
    table: TablePart | None = None,
) -> Finished:
    """Bake and shrink, save the checkpoint, export the ONNX file, write the plan, all into
    `folder`."""
    with run.stage("bake, shrink, export"):
        small, file = export(
            run,
            loaded,
            workload,
            plan,
            update,
            folder / "model.onnx",
            table=table.hash if table else "none",
            table_key=table.key_hash if table else "none",
            recipe=run.recipe.method.name,
        )
        save(small, loaded.sites, plan, folder / "model", loaded.tokenizer)
        (folder / "plan.json").write_text(
            json.dumps(plan.to_json(), indent=1) + "\n", encoding="utf-8"
        )
        if update.scales or update.weights or update.biases:
            from safetensors.numpy import save_file

            save_file(update.to_arrays(), folder / "update.safetensors")
            readable(folder / "update.safetensors")
    return Finished(small, plan, update, file)


def engine(run: Run, done: Finished, folder: Path) -> Engine:
    """The engine of the finished model, kept in the output where its runtime compiles one; and
    ahead of time, for other machines' GPUs, where the recipe names their compute capabilities."""
    with run.stage("build the engine"):
        built = run.build(done.onnx)
        kept = built.save(folder / run.runtime.engine_file) if run.runtime.engine_file else None
        capabilities = tuple(run.recipe.engine.compute_capabilities)
        if capabilities:
            from rfx.runtimes.engine_file import build_ahead, write_engine_file

            try:  # the model is finished: an engine that fails must not take it along
                ahead, facts = build_ahead(
                    done.onnx, run.conditions, run.served_by.options, capabilities
                )
                write_engine_file(ahead.plan, facts, folder / AHEAD_FILE)
            except UserError as error:
                run.warn(
                    f"No engine was built ahead of time for {', '.join(capabilities)}: "
                    f"{error.what} {error.got or ''} "
                    "The rest is finished; `rfx build model.onnx` tries again."
                )
    serve(run, done, folder, kept)
    return built


def serve(run: Run, done: Finished, folder: Path, plan: Path | None) -> None:
    """The Triton model repository of the output: the compiled engine where there is one, else the
    ONNX file."""
    from rfx.export.triton import specs_of, triton_name, write_triton
    from rfx.runtimes.tensorrt_build import module_name

    conditions, options = run.conditions, run.served_by.options
    inputs, outputs = specs_of(done.onnx)
    # Triton's backend is TensorRT's: an engine of TensorRT-RTX it does not read.
    tensorrt = plan is not None and run.runtime.name == "trt" and module_name("trt") == "tensorrt"
    write_triton(
        folder / "triton",
        name=triton_name(run.recipe.name),
        model_file=plan if tensorrt else done.onnx,
        backend="tensorrt" if tensorrt else "onnxruntime",
        inputs=inputs,
        outputs=outputs,
        max_batch=options.largest(conditions)[0]
        if tensorrt
        else max(SERVED_BATCH, conditions.batch),
        warmup=(conditions.batch, conditions.sequence),
        on_gpu=run.served_by.name in ("trt", "trt-rtx", "cuda"),
        threads=conditions.threads,
    )
