"""The command line: parse, call, print. It decides nothing.

stdout is the result (`--json`: one object), stderr is log and progress. Exit codes are those of
`rfx.core.errors.ExitCode`.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn, Optional

import typer

from rfx.cli.options import (
    AllowInconclusive,
    Batch,
    Capability,
    Column,
    Eval,
    Examples,
    Flops,
    Json,
    Labels,
    Latency,
    MaxBatch,
    MaxDrop,
    MaxLength,
    MaxSequence,
    MethodName,
    Metric,
    MinSpeedup,
    ModelName,
    Out,
    Precision,
    Quiet,
    Seed,
    Sequence,
    Source,
    TableFile,
    Target,
    Task,
    Threads,
    Train,
)
from rfx.cli.session import (
    print_error,
    print_json,
    publish,
    recipe_of,
    session,
    shares_of,
    table_of,
    task_of,
)
from rfx.core.errors import ExitCode, is_interrupt

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Retraining-free exporter: prune a fine-tuned Transformer to a latency target on the "
    "runtime that serves it.",
    epilog="Exit codes: 0 pass, 1 a gate failed, 2 usage, 3 target infeasible, 4 environment "
    "missing, 5 unsupported "
    "model, 6 internal check failed, 7 inconclusive, 130 interrupted.",
)


def _close(
    evidence, as_json: bool, quiet: bool, allow_inconclusive: bool, out: Path | None
) -> None:
    from rfx.cli.terminal import print_lines
    from rfx.evidence.gates import exit_code
    from rfx.evidence.report.terminal import summary

    if as_json:
        print_json(evidence.model_dump(mode="json"))
    elif not quiet:
        print_lines(summary(evidence, out))
    publish(evidence)
    raise typer.Exit(int(exit_code(evidence, allow_inconclusive)))


@app.command("prune-export")
def prune_export_command(
    source: Source = None,
    model: ModelName = None,
    task: Task = None,
    train: Train = None,
    eval_: Eval = None,
    target: Target = None,
    latency: Latency = None,
    flops: Flops = None,
    max_drop: MaxDrop = None,
    min_speedup: MinSpeedup = None,
    metric: Metric = None,
    method: MethodName = None,
    batch: Batch = None,
    sequence: Sequence = None,
    threads: Threads = None,
    precision: Precision = None,
    max_length: MaxLength = None,
    examples: Examples = None,
    seed: Seed = None,
    column: Column = None,
    labels: Labels = None,
    table: TableFile = None,
    max_batch: MaxBatch = None,
    max_sequence: MaxSequence = None,
    capability: Capability = None,
    out: Out = Path("rfx-out"),
    json_: Json = False,
    quiet: Quiet = False,
    allow_inconclusive: AllowInconclusive = False,
) -> None:
    """Prune a fine-tuned model to a budget, export it, and prove the result."""
    with session(json_, quiet) as progress:
        recipe = recipe_of(
            source,
            model=model,
            task=task,
            train=train,
            eval_=eval_,
            target=target,
            latency=latency,
            flops=flops,
            max_drop=max_drop,
            min_speedup=min_speedup,
            metric=metric,
            method=method,
            batch=batch,
            sequence=sequence,
            threads=threads,
            precision=precision,
            max_length=max_length,
            examples=examples,
            seed=seed,
            column=column,
            labels=labels,
            max_batch=max_batch,
            max_sequence=max_sequence,
            capability=capability,
        )
        from rfx.pipeline.prune_export import prune_export

        evidence = prune_export(recipe, out, progress=progress, table=table_of(table))
        progress.stop()
        _close(evidence, json_, quiet, allow_inconclusive, out)


@app.command("plan")
def plan_command(
    source: Source = None,
    model: ModelName = None,
    task: Task = None,
    train: Train = None,
    eval_: Eval = None,
    target: Target = None,
    latency: Latency = None,
    flops: Flops = None,
    metric: Metric = None,
    method: MethodName = None,
    batch: Batch = None,
    sequence: Sequence = None,
    threads: Threads = None,
    precision: Precision = None,
    max_length: MaxLength = None,
    examples: Examples = None,
    seed: Seed = None,
    column: Column = None,
    labels: Labels = None,
    table: TableFile = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score and search only: the plan and its predicted latency. No model is written."""
    with session(json_, quiet) as progress:
        recipe = recipe_of(
            source,
            model=model,
            task=task,
            train=train,
            eval_=eval_,
            target=target,
            latency=latency,
            flops=flops,
            metric=metric,
            method=method,
            batch=batch,
            sequence=sequence,
            threads=threads,
            precision=precision,
            max_length=max_length,
            examples=examples,
            seed=seed,
            column=column,
            labels=labels,
        )
        from rfx.cli.terminal import print_plan
        from rfx.pipeline.plan import plan

        chosen, found, ratio = plan(recipe, progress=progress, table=table_of(table))
        progress.stop()
        if json_:
            print_json(
                {
                    "plan": chosen.to_json(),
                    "search": found.model_dump(mode="json"),
                    "predicted_ratio": ratio,
                }
            )
        else:
            print_plan(chosen, found, ratio)


@app.command("sweep")
def sweep_command(
    source: Source = None,
    model: ModelName = None,
    task: Task = None,
    train: Train = None,
    eval_: Eval = None,
    target: Target = None,
    latency: Annotated[
        Optional[str],
        typer.Option("--latency", help="Latency targets, shares of the dense model's."),
    ] = None,
    flops: Annotated[
        Optional[str], typer.Option("--flops", help="FLOPs targets in place of latency targets.")
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds", min=1, help="Samples of calibration examples to repeat every target with."
        ),
    ] = 1,
    max_drop: MaxDrop = None,
    metric: Metric = None,
    method: MethodName = None,
    batch: Batch = None,
    sequence: Sequence = None,
    threads: Threads = None,
    precision: Precision = None,
    max_length: MaxLength = None,
    examples: Examples = None,
    seed: Seed = None,
    column: Column = None,
    labels: Labels = None,
    table: TableFile = None,
    out: Out = Path("rfx-sweep"),
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Accuracy and measured latency at many targets: the curve, and which point to take for a
    --max-drop.

    Exits with 1 where no point keeps the --max-drop, with 3 where no target can be reached. An
    earlier sweep in --out is replaced; its points are kept in the cache.
    """
    with session(json_, quiet) as progress:
        recipe = recipe_of(
            source,
            model=model,
            task=task,
            train=train,
            eval_=eval_,
            target=target,
            max_drop=max_drop,
            metric=metric,
            method=method,
            batch=batch,
            sequence=sequence,
            threads=threads,
            precision=precision,
            max_length=max_length,
            examples=examples,
            seed=seed,
            column=column,
            labels=labels,
        )
        by, targets = shares_of(latency, flops)
        from rfx.cli.terminal import print_curve
        from rfx.evidence.curve import max_drop_missed
        from rfx.pipeline.sweep import sweep

        curve = sweep(
            recipe, targets, out, by=by, seeds=seeds, progress=progress, table=table_of(table)
        )
        progress.stop()
        if json_:
            print_json(curve.model_dump(mode="json"))
        elif not quiet:
            print_curve(curve, out)
        if max_drop_missed(curve):
            raise typer.Exit(int(ExitCode.GATE_FAILED))


@app.command("profile")
def profile_command(
    source: Source = None,
    model: ModelName = None,
    task: Task = None,
    target: Target = None,
    batch: Batch = None,
    sequence: Sequence = None,
    threads: Threads = None,
    precision: Precision = None,
    seed: Seed = None,
    out: Annotated[
        Optional[Path], typer.Option("--out", "-o", help="Write the table to this JSON file.")
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure the latency table of a model's sublayers on a runtime; cached, and shareable as one
    JSON file."""
    with session(json_, quiet) as progress:
        recipe = recipe_of(
            source,
            model=model,
            task=task or task_of(model or source),
            target=target,
            batch=batch,
            sequence=sequence,
            threads=threads,
            precision=precision,
            seed=seed,
        )
        from rfx.cli.terminal import print_table
        from rfx.cost.table_file import write_table
        from rfx.pipeline.profile import profile

        measured = profile(recipe, progress=progress)
        progress.stop()
        if out:
            write_table(measured, out)
        if json_:
            print_json(measured.to_json())
        else:
            print_table(measured, out)


@app.command("shapes")
def shapes_command(
    source: Source = None,
    model: ModelName = None,
    task: Task = None,
    target: Target = None,
    batch: Batch = None,
    sequence: Sequence = None,
    precision: Precision = None,
    max_length: MaxLength = None,
    seed: Seed = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The file to carry to the board.")
    ] = Path("shapes.json"),
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pack a model's shapes for a board, which measures its latency table with NumPy and its
    runtime alone."""
    with session(json_, quiet) as progress:
        recipe = recipe_of(
            source,
            model=model,
            task=task or task_of(model or source),
            target=target,
            batch=batch,
            sequence=sequence,
            precision=precision,
            max_length=max_length,
            seed=seed,
        )
        from rfx.pipeline.shapes import shapes

        count = shapes(recipe, out, progress=progress)
        progress.stop()
        command = f"python -m rfx.board profile {out.name} --out table.json"
        if json_:
            print_json(
                {"written": str(out), "graphs": count, "bytes": out.stat().st_size, "next": command}
            )
        else:
            typer.echo(
                f"written to {out}: {count} graphs, {out.stat().st_size / 1024:.0f} KiB\non the "
                f"board: {command}"
            )


@app.command("build")
def build_command(
    onnx: Annotated[Path, typer.Argument(help="An ONNX file, e.g. model.onnx of prune-export.")],
    capability: Capability = None,
    target: Target = None,
    batch: Batch = None,
    sequence: Sequence = None,
    max_batch: MaxBatch = None,
    max_sequence: MaxSequence = None,
    workspace_mb: Annotated[
        Optional[int],
        typer.Option("--workspace-mb", min=1, help="Memory that kernels may use while they run."),
    ] = None,
    builder_level: Annotated[
        Optional[int],
        typer.Option(
            "--builder-level",
            min=0,
            max=5,
            help="Optimisation level 0..5 (3): higher builds longer.",
        ),
    ] = None,
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible",
            help="Runs under later minor versions of TensorRT; larger, some kernels are forbidden.",
        ),
    ] = False,
    hardware_compatible: Annotated[
        bool,
        typer.Option(
            "--hardware-compatible",
            help="Runs on every GPU from Ampere on; slower than an engine for one.",
        ),
    ] = False,
    out: Annotated[
        Optional[Path],
        typer.Option("--out", "-o", help="The engine file; default: beside the ONNX file."),
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Build a TensorRT engine: for this machine's GPU, or ahead of time for others' (no GPU
    needed)."""
    with session(json_, quiet) as progress:
        from rfx.pipeline.build import build

        path, facts = build(
            onnx,
            out,
            target=None if target == "auto" else target,
            compute_capabilities=capability or (),
            batch=batch,
            sequence=sequence,
            max_batch=max_batch,
            max_sequence=max_sequence,
            workspace_mb=workspace_mb,
            builder_level=builder_level,
            version_compatible=version_compatible,
            hardware_compatible=hardware_compatible,
            progress=progress,
        )
        progress.stop()
        if json_:
            print_json({"written": str(path), **facts})
        else:
            from rfx.cli.terminal import print_engine

            print_engine(path, facts)


@app.command("verify")
def verify_command(
    folder: Annotated[Path, typer.Argument(help="An output folder of prune-export.")],
    onnx: Annotated[
        Optional[Path],
        typer.Option(
            "--onnx",
            help="Judge accuracy and latency of this file of the same model (a quantized one).",
        ),
    ] = None,
    out: Annotated[
        Optional[Path],
        typer.Option("--out", "-o", help="Write the new evidence and its reports here."),
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
    allow_inconclusive: AllowInconclusive = False,
) -> None:
    """Measure an existing output again, here: shapes, parity, accuracy and latency."""
    with session(json_, quiet) as progress:
        from rfx.pipeline.verify import verify

        evidence = verify(folder, onnx=onnx, reports=out, progress=progress)
        progress.stop()
        _close(evidence, json_, quiet, allow_inconclusive, out)


@app.command("gate")
def gate_command(
    evidence: Annotated[Path, typer.Argument(help="evidence.json, or the folder that holds it.")],
    max_drop: MaxDrop = None,
    min_speedup: MinSpeedup = None,
    max_regression: Annotated[
        float, typer.Option("--max-regression", help="Points that may be lost against --baseline.")
    ] = 0.5,
    baseline: Annotated[
        Optional[Path],
        typer.Option(
            "--baseline", help="Another evidence.json that this one must not be worse than."
        ),
    ] = None,
    junit: Annotated[Optional[Path], typer.Option("--junit", help="Write JUnit XML here.")] = None,
    json_: Json = False,
    quiet: Quiet = False,
    allow_inconclusive: AllowInconclusive = False,
) -> None:
    """Judge evidence by new limits, from its numbers alone. For CI."""
    with session(json_, quiet):
        from rfx.cli.terminal import print_lines
        from rfx.core.store import atomic_write_text
        from rfx.evidence.gates import check, exit_code
        from rfx.evidence.read import read_evidence
        from rfx.evidence.report.terminal import gates as gates_lines
        from rfx.evidence.report.write import render

        found = read_evidence(evidence)
        gates = check(
            found,
            max_drop=max_drop,
            min_speedup=min_speedup,
            max_regression=max_regression,
            baseline=read_evidence(baseline) if baseline else None,
        )
        judged = found.model_copy(update={"gates": gates})
        if junit:
            atomic_write_text(junit, render(judged, "junit"))
        if json_:
            print_json(
                {"outcome": judged.outcome, "gates": [g.model_dump(mode="json") for g in gates]}
            )
        elif not quiet:
            print_lines(gates_lines(judged))
        publish(judged)
        raise typer.Exit(int(exit_code(judged, allow_inconclusive)))


@app.command("env")
def env_command(json_: Json = False) -> None:
    """What is installed, which runtimes can run here, and why the others cannot."""
    with session(json_, True):
        from rfx.cli.terminal import print_environment
        from rfx.core.environment import environment
        from rfx.core.registry import plugins
        from rfx.runtimes.find import runtimes_report

        here, runtimes = environment(), runtimes_report()
        if json_:
            rows = [
                dict(zip(("name", "ok", "reason", "next_step", "verified_on_hardware"), row))
                for row in runtimes
            ]
            parts = [plugin.to_json() for plugin in plugins()]
            print_json({"environment": here, "runtimes": rows, "plugins": parts})
        else:
            print_environment(here, runtimes, plugins())


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from rfx.core.version import __version__

        typer.echo(f"rfx {__version__}")
        raise typer.Exit()


def main() -> None:
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # a cancelled CI job cleans up like an interrupted one
    as_json = "--json" in sys.argv[1:]
    try:
        code = app(
            standalone_mode=not as_json
        )  # with --json typer's own refusals come back too, to be one JSON object
        sys.exit(code if isinstance(code, int) else 0)
    except KeyboardInterrupt:
        sys.exit(int(ExitCode.INTERRUPT))
    except (
        Exception
    ) as error:  # a bug of rfx: said in full, and never with the exit code of a failed gate
        if is_interrupt(error):
            sys.exit(int(ExitCode.INTERRUPT))
        if hasattr(
            error, "format_message"
        ):  # typer's: an option that is not there, a value of another type
            _end_json(error.format_message(), ExitCode.USAGE)
        import traceback

        traceback.print_exc()
        what = "this is a bug of rfx. Please report it with the output of `rfx env`."
        if as_json:
            _end_json(what, ExitCode.INTERNAL_CHECK)
        sys.stderr.write(f"error: {what}\n")
        sys.exit(int(ExitCode.INTERNAL_CHECK))


def _end_json(what: str, code: ExitCode) -> NoReturn:
    print_error(what, code)
    sys.stderr.write(f"error: {what}\n")
    sys.exit(int(code))


if __name__ == "__main__":
    main()
