"""Make: bake, shrink, export, build. Everything lands in a folder beside the output, which is
renamed at the end."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rfx.core.artefact import MODEL, Artefact
from rfx.core.errors import EnvironmentMissingError, UserError
from rfx.core.plan import FULL, Plan, Update
from rfx.core.workload import SEQUENCE
from rfx.evidence.records import TablePart
from rfx.export.facts import format_facts
from rfx.export.triton import (
    ONNX_BACKEND,
    READ_ENGINES,
    READ_ONNX,
    specs_of,
    triton_name,
    write_triton,
)
from rfx.models.checkpoint import readable, save
from rfx.models.shrink import shrink
from rfx.models.subject import Subject
from rfx.models.vocabulary import Vocabulary, keep_embeddings
from rfx.pipeline.dense import export_model, quantizes, workload_of
from rfx.pipeline.quantizing import Quantizing
from rfx.pipeline.session import Session
from rfx.recipe.presets import label
from rfx.recipe.spec import Recipe
from rfx.runtimes.base import Engine
from rfx.runtimes.find import builder_elsewhere

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PLAIN = "model.fp32.onnx"  # beside a quantized model.onnx: the file that it was made of
SERVED_BATCH = 32  # of an ONNX file under Triton, whose batch is free


@dataclass(frozen=True)
class Pruned:
    """The small model in its forms: torch, ONNX, engine. What is quantized is proved in fp32:
    `proved` and `proved_engine` are the same model before it, and else the same as the others."""

    model: PreTrainedModel
    plan: Plan
    update: Update
    artefact: Artefact
    engine: Engine
    proved: Artefact
    proved_engine: Engine


def export(
    recipe: Recipe,
    subject: Subject,
    outputs: tuple[str, ...],
    plan: Plan,
    update: Update,
    folder: Path,
    metadata: Mapping[str, object] | None = None,
    quantizing: Quantizing | None = None,
) -> tuple[PreTrainedModel, Artefact]:
    """The small torch model, without gradients, and its ONNX file in `folder`.

    Args:
        quantizing: what makes the file at a quantized precision.
    """
    small = shrunk_model(subject, plan, update)
    if subject.vocabulary is not None:
        keep_embeddings(small, subject.vocabulary)
    return small, export_model(
        recipe,
        subject.as_served,
        small,
        folder,
        outputs,
        plan,
        metadata=metadata,
        keep_fp32=recipe.quantization.keep_fp32,
        quantizing=quantizing,
    )


def shrunk_model(subject: Subject, plan: Plan, update: Update) -> PreTrainedModel:
    """The small torch model with all of its vocabulary, without gradients."""
    small = shrink(subject.model, subject.sites, plan, update)
    for parameter in small.parameters():
        parameter.requires_grad_(False)
    return cast("PreTrainedModel", small)


def for_sentence_transformers(artefact: Artefact, folder: Path) -> None:
    """Put the served file of a sentence encoder where sentence-transformers looks for it, beside
    the rest of the model: model/onnx/model.onnx. It is the same file under another name, or a copy
    where the disk has no second names."""
    place = folder / "model" / "onnx"
    if not (folder / "model" / "modules.json").is_file() or artefact.roles != (MODEL,):
        return
    place.mkdir(exist_ok=True)
    for file in artefact.files:
        other = place / file.name
        other.unlink(missing_ok=True)
        try:
            os.link(file, other)
        except OSError:
            shutil.copyfile(file, other)


def own_metadata(
    recipe: Recipe, table: TablePart | None, vocabulary: Vocabulary | None = None
) -> dict[str, str]:
    """What the file of a pruned model says of how it was found, and of which ids it takes where its
    vocabulary is smaller."""
    kept = {} if vocabulary is None else {"vocabulary": vocabulary.hash}
    return {
        **kept,
        "table": table.hash if table else "none",
        "table_key": table.key_hash if table else "none",
        "recipe": label(recipe.method),
    }


def make(
    session: Session,
    recipe: Recipe,
    subject: Subject,
    outputs: tuple[str, ...],
    plan: Plan,
    update: Update,
    folder: Path,
    table: TablePart | None = None,
    quantizing: Quantizing | None = None,
) -> Pruned:
    """Bake and shrink, save the checkpoint, export the ONNX file, write the plan, build the engine
    and the Triton repository, all into `folder`.

    Args:
        quantizing: what makes the served file at a quantized precision.
    """
    with session.stage("bake, shrink, export"):
        metadata = own_metadata(recipe, table, subject.vocabulary)
        small, artefact = export(
            recipe, subject, outputs, plan, update, folder, metadata, quantizing
        )
        proved = artefact
        if quantizes(recipe):
            proved = export_model(
                recipe,
                subject.as_served,
                small,
                folder,
                outputs,
                plan,
                name=PLAIN,
                metadata=metadata,
                precision=FULL,
            )
        if artefact.roles != (MODEL,):  # of one graph its name says all
            artefact.save(folder)
        save(small, subject.sites, plan, folder / "model", subject.as_served.preprocessor)
        text = json.dumps(plan.to_json(), indent=1) + "\n"
        (folder / "plan.json").write_text(text, encoding="utf-8")
        if update.scales or update.weights or update.biases:
            from safetensors.numpy import save_file

            save_file(update.to_arrays(), folder / "update.safetensors")
            readable(folder / "update.safetensors")
    _require_written([*artefact.files, folder / "plan.json"])
    with session.stage("build the engine"):
        engine = proved_engine = session.build(artefact, workload_of(recipe))
        if proved is not artefact:
            proved_engine = session.build(proved, workload_of(recipe, FULL))
        name = session.target.here.capabilities.engine_file
        file = engine.save(folder / name) if name else None
        _build_ahead(session, recipe, artefact, folder)
    _serve(session, recipe, artefact, folder, file)
    return Pruned(small, plan, update, artefact, engine, proved, proved_engine)


def exported(artefact: Artefact, subject: Subject) -> dict[str, Any]:
    """What the exported file asks of a runtime, and the longest input that it takes."""
    longest = subject.inputs.limits.get(SEQUENCE)
    known = {} if longest is None else {"positions": longest}
    return {**format_facts(artefact.files), **known}


def _require_written(files: Iterable[Path]) -> None:
    """Raises EnvironmentMissingError where a file that was just written is gone: a runtime would
    say it in words of its own."""
    if gone := [file.name for file in files if not file.is_file()]:
        raise EnvironmentMissingError(
            "Files of the output were removed by something else while it was made.",
            got=", ".join(gone),
            allowed="a place that nothing clears while a job runs",
            next_step="find out what clears it, or give another --out, then run the same command "
            "again",
        )


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
    able = serves.capabilities.serving
    onnx_backend = able if able in READ_ONNX else ONNX_BACKEND
    one = artefact.roles == (MODEL,)  # an engine file of several graphs is no model of Triton's
    compiled = engine_file if one and backend in READ_ENGINES else None
    for role, graph in artefact.graphs.items():
        inputs, outputs = specs_of(graph.file)
        write_triton(
            folder / "triton",
            name=triton_name(recipe.name if role == MODEL else f"{recipe.name}-{role}"),
            model_file=compiled or graph.file,
            backend=backend if compiled and backend else onnx_backend,
            inputs=inputs,
            outputs=outputs,
            max_batch=serves.options.largest(workload)[0]
            if compiled
            else max(SERVED_BATCH, workload.batch),
            warmup=(workload.batch, workload.sequence),
            on_gpu=serves.capabilities.device == "gpu",
            threads=workload.threads,
        )
