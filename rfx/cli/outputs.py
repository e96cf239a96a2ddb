"""The commands that take what is there already: build, verify, gate, env."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rfx.cli.options import AllowInconclusive, Asked, Json, Quiet, Shown, Sign, with_options
from rfx.cli.paths import given_path
from rfx.cli.session import close, end, print_json, publish, session
from rfx.core.errors import UsageError
from rfx.recipe.spec import Recipe

BUILD = Shown(
    frozenset({"engine"}), also=frozenset({"target", "workload.batch", "workload.sequence"})
)
GATE = Shown(frozenset({"limits"}))


def add_outputs(app: typer.Typer, model: type[Recipe]) -> None:
    """Add the commands, with options for the fields of `model`."""
    app.command("build")(with_options(build_command, model, BUILD, source=False))
    app.command("verify")(verify_command)
    app.command("gate")(with_options(gate_command, model, GATE, source=False))
    app.command("env")(env_command)


def build_command(
    asked: Asked,
    onnx: Annotated[
        Path,
        typer.Argument(help="An ONNX file, e.g. model.onnx of prune-export.", parser=given_path),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The engine file. Default: beside the ONNX file.", parser=given_path
        ),
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Build a TensorRT engine: for this machine's GPU, or ahead of time for others' (no GPU
    needed)."""
    with session(json_, quiet, "build") as progress:
        from rfx.pipeline.build import build
        from rfx.recipe.read import make_recipe

        # The sizes of the workload are checked against the model's, by the job.
        engine = {
            k.partition(".")[2]: v for k, v in asked.values.items() if k.startswith("engine.")
        }
        spec = make_recipe({"engine": engine}, "the command line").engine
        target = asked["target"]
        path, facts = build(
            onnx,
            out,
            target=None if target == "auto" else target,
            batch=asked["workload.batch"],
            sequence=asked["workload.sequence"],
            progress=progress,
            **spec.model_dump(),
        )
        progress.stop()
        if json_:
            print_json({"written": str(path), **facts})
        else:
            from rfx.cli.results import print_engine

            print_engine(path, facts)


def verify_command(
    folder: Annotated[
        Path, typer.Argument(help="An output folder of prune-export.", parser=given_path)
    ],
    onnx: Annotated[
        Path | None,
        typer.Option(
            "--onnx",
            help="Judge accuracy and latency of this file of the same model (a quantized one).",
            parser=given_path,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Write the new evidence and its reports here.", parser=given_path
        ),
    ] = None,
    sign: Sign = None,
    json_: Json = False,
    quiet: Quiet = False,
    allow_inconclusive: AllowInconclusive = False,
) -> None:
    """Measure an existing output again, here: shapes, parity, accuracy and latency."""
    with session(json_, quiet, "verify") as progress:
        from rfx.pipeline.verify import verify

        evidence = verify(folder, onnx=onnx, reports=out, sign=sign, progress=progress)
        progress.stop()
        close(evidence, json_, quiet, allow_inconclusive, out)


def gate_command(
    asked: Asked,
    evidence: Annotated[
        Path, typer.Argument(help="evidence.json, or the folder that holds it.", parser=given_path)
    ],
    max_regression: Annotated[
        float | None,
        typer.Option(
            "--max-regression",
            help="Points that may be lost against --baseline. Default: 0.5.",
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline",
            help="Another evidence.json that this one must not be worse than.",
            parser=given_path,
        ),
    ] = None,
    files: Annotated[
        Path | None,
        typer.Option(
            "--files",
            help="An output folder: each file that the evidence lists must be there with its hash, "
            "and no other file beside them.",
            parser=given_path,
        ),
    ] = None,
    verify_key: Annotated[
        Path | None,
        typer.Option(
            "--verify-key",
            metavar="KEY.pub",
            help="The public Ed25519 key that the evidence must be signed for, by "
            "evidence.json.sig beside it, and that of --baseline too.",
            parser=given_path,
        ),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option(
            "--junit",
            help="Write JUnit XML here; only JUnit XML of rfx is replaced.",
            parser=given_path,
        ),
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
    allow_inconclusive: AllowInconclusive = False,
) -> None:
    """Judge evidence by new limits, from its numbers alone. For CI.

    Evidence that contradicts itself is refused with exit code 2."""
    with session(json_, quiet, "gate"):
        from rfx.cli.results import print_gates
        from rfx.core.files import atomic_write_text
        from rfx.evidence.gates import exit_code
        from rfx.evidence.report.junit import require_own
        from rfx.evidence.report.terminal import verdict_line
        from rfx.evidence.report.write import render
        from rfx.pipeline.gate import gate

        # What is no limit at all is said by the gate itself.
        if max_regression is not None and max_regression >= 0 and baseline is None:
            raise UsageError(
                "--max-regression needs a baseline, which there is none of.",
                got=f"--max-regression {max_regression:g} without --baseline",
                allowed="--max-regression together with --baseline",
                next_step="name the other evidence with --baseline, or leave --max-regression out",
            )
        if junit:
            require_own(junit)
        judged = gate(
            evidence,
            max_drop=asked["limits.max_drop"],
            min_speedup=asked["limits.min_speedup"],
            min_agreement=asked["limits.min_agreement"],
            max_quantization_loss=asked["limits.max_quantization_loss"],
            min_vocabulary_agreement=asked["limits.min_vocabulary_agreement"],
            max_regression=0.5 if max_regression is None else max_regression,
            baseline=baseline,
            files=files,
            verify_key=verify_key,
        )
        if junit:
            atomic_write_text(junit, render(judged, "junit"))
        publish(judged)
        if json_:
            print_json(
                {
                    "outcome": judged.outcome,
                    "not_judged": [g.name for g in judged.gates if g.outcome == "not-judged"],
                    "gates": [g.model_dump(mode="json") for g in judged.gates],
                }
            )
        elif not quiet:
            print_gates(judged, evidence)
        end(exit_code(judged, allow_inconclusive), verdict_line(judged), json_, quiet)


def env_command(json_: Json = False) -> None:
    """What is installed, which runtimes can run here, and why the others cannot."""
    with session(json_, True, "env"):
        from rfx.cli.results import print_environment
        from rfx.pipeline.environment import environment

        facts = environment()
        if json_:
            print_json(facts)
        else:
            print_environment(facts)
