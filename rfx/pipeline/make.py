"""Make: bake, shrink, export, build. Everything lands in a folder beside the output, which is
renamed at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rfx.core.artefact import MODEL, Artefact
from rfx.core.errors import UserError
from rfx.core.plan import Plan, Update
from rfx.evidence.records import TablePart
from rfx.export.triton import ONNX_BACKEND, READ_ENGINES, specs_of, triton_name, write_triton
from rfx.models.checkpoint import readable, save
from rfx.models.shrink import shrink
from rfx.models.subject import Subject
from rfx.pipeline.dense import export_model, workload_of
from rfx.pipeline.session import Session
from rfx.recipe.presets import label
from rfx.recipe.spec import Recipe
from rfx.runtimes.base import Engine
from rfx.runtimes.find import builder_elsewhere

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SERVED_BATCH = 32  # of an ONNX file under Triton, whose batch is free


@dataclass(frozen=True)
class Pruned:
    """The small model in its forms: torch, ONNX, engine."""

    model: PreTrainedModel
    plan: Plan
    update: Update
    artefact: Artefact
    engine: Engine


def export(
    recipe: Recipe,
    subject: Subject,
    outputs: tuple[str, ...],
    plan: Plan,
    update: Update,
    folder: Path,
    metadata: Mapping[str, object] | None = None,
) -> tuple[PreTrainedModel, Artefact]:
    """The small torch model, without gradients, and its ONNX file in `folder`."""
    small = shrink(subject.model, subject.sites, plan, update)
    for parameter in small.parameters():
        parameter.requires_grad_(False)
    return cast("PreTrainedModel", small), export_model(
        recipe, subject, small, folder, outputs, plan, metadata=metadata
    )


def make(
    session: Session,
    recipe: Recipe,
    subject: Subject,
    outputs: tuple[str, ...],
    plan: Plan,
    update: Update,
    folder: Path,
    table: TablePart | None = None,
) -> Pruned:
    """Bake and shrink, save the checkpoint, export the ONNX file, write the plan, build the engine
    and the Triton repository, all into `folder`."""
    with session.stage("bake, shrink, export"):
        small, artefact = export(
            recipe,
            subject,
            outputs,
            plan,
            update,
            folder,
            {
                "table": table.hash if table else "none",
                "table_key": table.key_hash if table else "none",
                "recipe": label(recipe.method),
            },
        )
        if artefact.roles != (MODEL,):  # of one graph its name says all
            artefact.save(folder)
        save(small, subject.sites, plan, folder / "model", subject.preprocessor)
        text = json.dumps(plan.to_json(), indent=1) + "\n"
        (folder / "plan.json").write_text(text, encoding="utf-8")
        if update.scales or update.weights or update.biases:
            from safetensors.numpy import save_file

            save_file(update.to_arrays(), folder / "update.safetensors")
            readable(folder / "update.safetensors")
    with session.stage("build the engine"):
        engine = session.build(artefact, workload_of(recipe))
        name = session.target.here.capabilities.engine_file
        file = engine.save(folder / name) if name else None
        _build_ahead(session, recipe, artefact, folder)
    _serve(session, recipe, artefact, folder, file)
    return Pruned(small, plan, update, artefact, engine)


def _build_ahead(session: Session, recipe: Recipe, artefact: Artefact, folder: Path) -> None:
    """An engine for other machines' GPUs, where the recipe names their compute capabilities."""
    wanted = tuple(recipe.engine.compute_capabilities)
    if not wanted:
        return
    builder = builder_elsewhere(session.target.serves.options)
    try:  # the model is finished: an engine that fails must not take it along
        for graph in artefact.graphs.values():
            file = folder / f"{graph.file.stem}{builder.capabilities.engine_suffix}"
            builder.build_elsewhere(graph.file, workload_of(recipe), wanted, file)
    except UserError as error:
        session.warn(
            f"No engine was built ahead of time for {', '.join(wanted)}: {error.what} "
            f"{error.got or ''} The rest is finished; `rfx build model.onnx` tries again."
        )


def _serve(
    session: Session, recipe: Recipe, artefact: Artefact, folder: Path, engine_file: Path | None
) -> None:
    """The Triton model repository of the output, a model for each graph: the engine file where
    there is one that Triton reads, else the ONNX file."""
    workload, serves = workload_of(recipe), session.target.serves
    backend = session.target.here.serving_platform() if engine_file is not None else None
    one = artefact.roles == (MODEL,)  # an engine file of several graphs is no model of Triton's
    compiled = engine_file if one and backend in READ_ENGINES else None
    for role, graph in artefact.graphs.items():
        inputs, outputs = specs_of(graph.file)
        write_triton(
            folder / "triton",
            name=triton_name(recipe.name if role == MODEL else f"{recipe.name}-{role}"),
            model_file=compiled or graph.file,
            backend=backend if compiled and backend else ONNX_BACKEND,
            inputs=inputs,
            outputs=outputs,
            max_batch=serves.options.largest(workload)[0]
            if compiled
            else max(SERVED_BATCH, workload.batch),
            warmup=(workload.batch, workload.sequence),
            on_gpu=serves.capabilities.device == "gpu",
            threads=workload.threads,
        )
