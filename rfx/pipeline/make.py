"""Finish: compensate, bake, shrink, export. Everything lands in a folder beside the output, renamed
at the end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfx.core.device import on_best_device
from rfx.core.errors import UserError
from rfx.core.plan import Plan, Update
from rfx.evidence.records import CompensationPart, SiteTuning, TablePart
from rfx.methods.schedule.base import Outcome
from rfx.methods.schedule.guard import Guarded, guard
from rfx.methods.schedule.polish import Polished, polish
from rfx.methods.scores.base import Scores
from rfx.methods.search.problem import SearchResult
from rfx.methods.search.reference import reference_teacher
from rfx.methods.search.searcher import Searcher
from rfx.models.checkpoint import readable, save
from rfx.models.shrink import shrink
from rfx.pipeline.dense import export_model
from rfx.pipeline.examples import Examples, Subject
from rfx.pipeline.score import batches, flops_cost, method_of
from rfx.pipeline.session import Session
from rfx.runtimes.base import Engine
from rfx.runtimes.find import builder_elsewhere

SERVED_BATCH = 32  # of an ONNX file under Triton, whose batch is free


@dataclass
class Finished:
    model: Any  # the small torch model
    plan: Plan
    update: Update
    onnx: Path


def decide_and_compensate(
    session: Session,
    subject: Subject,
    examples: Examples,
    scores: Scores,
    result: SearchResult,
    searcher: Searcher,
) -> tuple[Outcome, CompensationPart, list[SiteTuning]]:
    """From searched counts to the plan and its update, in the order of the recipe's schedule. An
    update stays only if it brings the output nearer to the dense model's on every fifth example."""
    spec, method = session.recipe.method, method_of(session.recipe, examples)
    ground = method.ground(
        subject.model,
        subject.sites,
        batches(session, examples),
        examples.task,
        searcher,
        teacher_masks=lambda plan: reference_teacher(
            subject.sites, scores, flops_cost(subject, examples), plan
        ),
        progress=session.progress,
    )
    name = method.compensation.verb or "rearrange"
    with session.stage(name), on_best_device(subject.model):
        outcome = method.schedule.run(ground, scores, result)
    polished = Polished(outcome)
    if spec.polish:
        with session.stage("polish"), on_best_device(subject.model):
            polished = polish(ground, outcome)
            outcome = polished.outcome
    guarded = Guarded(outcome)
    if spec.guard:
        with session.stage("guard"), on_best_device(subject.model):
            guarded = guard(ground, outcome)
    dropped = guarded.outcome is not outcome
    if dropped:
        parts = [
            n
            for n, there in (
                (spec.compensate, bool(method.compensation.verb)),
                ("the polish", polished.ratio not in (None, 1.0)),
            )
            if there
        ]
        session.warn(
            f"What {' and '.join(parts)} fitted was dropped: on every fifth calibration example "
            "it takes the output further from the dense "
            f"model's ({guarded.divergence_before:.4g} without it, {guarded.divergence_after:.4g} "
            "with it)."
        )
    part = CompensationPart(
        method=spec.compensate,
        schedule=spec.schedule,
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


def export(
    session: Session,
    subject: Subject,
    examples: Examples,
    plan: Plan,
    update: Update,
    file: Path,
    **metadata: object,
) -> tuple[Any, Path]:
    """The small torch model, without gradients, and its ONNX `file`."""
    small = shrink(subject.model, subject.sites, plan, update)
    for parameter in small.parameters():
        parameter.requires_grad_(False)
    return small, export_model(
        session, subject, small, file, examples.task.output_names, plan, **metadata
    )


def build(
    session: Session,
    subject: Subject,
    examples: Examples,
    plan: Plan,
    update: Update,
    folder: Path,
    table: TablePart | None = None,
) -> Finished:
    """Bake and shrink, save the checkpoint, export the ONNX file, write the plan, all into
    `folder`."""
    with session.stage("bake, shrink, export"):
        small, file = export(
            session,
            subject,
            examples,
            plan,
            update,
            folder / "model.onnx",
            table=table.hash if table else "none",
            table_key=table.key_hash if table else "none",
            recipe=session.recipe.method.name,
        )
        save(small, subject.sites, plan, folder / "model", subject.tokenizer)
        (folder / "plan.json").write_text(
            json.dumps(plan.to_json(), indent=1) + "\n", encoding="utf-8"
        )
        if update.scales or update.weights or update.biases:
            from safetensors.numpy import save_file

            save_file(update.to_arrays(), folder / "update.safetensors")
            readable(folder / "update.safetensors")
    return Finished(small, plan, update, file)


def engine(session: Session, done: Finished, folder: Path) -> Engine:
    """The engine of the finished model, kept in the output where its runtime compiles one; and
    ahead of time, for other machines' GPUs, where the recipe names their compute capabilities."""
    with session.stage("build the engine"):
        built = session.build(done.onnx)
        kept = (
            built.save(folder / session.runtime.capabilities.engine_file)
            if session.runtime.capabilities.engine_file
            else None
        )
        capabilities = tuple(session.recipe.engine.compute_capabilities)
        if capabilities:
            builder = builder_elsewhere(session.served_by.options)
            out = folder / str(builder.capabilities.engine_file)
            try:  # the model is finished: an engine that fails must not take it along
                builder.build_elsewhere(done.onnx, session.workload, capabilities, out)
            except UserError as error:
                session.warn(
                    f"No engine was built ahead of time for {', '.join(capabilities)}: "
                    f"{error.what} {error.got or ''} "
                    "The rest is finished; `rfx build model.onnx` tries again."
                )
    serve(session, done, folder, kept)
    return built


def serve(session: Session, done: Finished, folder: Path, plan: Path | None) -> None:
    """The Triton model repository of the output: the compiled engine where there is one, else the
    ONNX file."""
    from rfx.export.triton import specs_of, triton_name, write_triton

    workload, options = session.workload, session.served_by.options
    inputs, outputs = specs_of(done.onnx)
    tensorrt = plan is not None and session.runtime.serving_platform() == "tensorrt"
    write_triton(
        folder / "triton",
        name=triton_name(session.recipe.name),
        model_file=plan if tensorrt else done.onnx,
        backend="tensorrt" if tensorrt else "onnxruntime",
        inputs=inputs,
        outputs=outputs,
        max_batch=options.largest(workload)[0] if tensorrt else max(SERVED_BATCH, workload.batch),
        warmup=(workload.batch, workload.sequence),
        on_gpu=session.served_by.capabilities.device == "gpu",
        threads=workload.threads,
    )
