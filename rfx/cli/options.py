"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

Source = Annotated[
    Optional[str],
    typer.Argument(
        help="A recipe (YAML file or the name of a bundled one), or a model (folder or hub name). "
        "Default: the quickstart."
    ),
]
ModelName = Annotated[
    Optional[str],
    typer.Option(
        "--model", help="Model folder or hub name, for a recipe that names none or another."
    ),
]
Task = Annotated[
    Optional[str],
    typer.Option("--task", help="text-classification, question-answering or token-classification."),
]
Train = Annotated[
    Optional[str],
    typer.Option(
        "--train",
        help="Examples to calibrate on, labels optional: JSONL, CSV, TSV, Parquet, SQuAD JSON, a "
        "text a line (.txt), or a datasets name such as glue/sst2.",
    ),
]
Eval = Annotated[
    Optional[str],
    typer.Option("--eval", help="Labelled examples to evaluate on; they take part in no choice."),
]
Target = Annotated[
    Optional[str],
    typer.Option(
        "--target",
        help="Runtime that will serve the model: trt, trt-rtx, cuda, ort, openvino, or auto (the "
        "best one here).",
    ),
]
Latency = Annotated[
    Optional[float],
    typer.Option("--latency", help="Latency budget as a share of the dense model's, e.g. 0.7."),
]
Flops = Annotated[
    Optional[float],
    typer.Option(
        "--flops", help="FLOPs budget as a share of the dense model's, in place of --latency."
    ),
]
MaxDrop = Annotated[
    Optional[float],
    typer.Option(
        "--max-drop", help="Largest drop of the metric, in points (1.0 = one of a hundred)."
    ),
]
MinSpeedup = Annotated[
    Optional[float], typer.Option("--min-speedup", help="Least speedup over dense, e.g. 1.3.")
]
Metric = Annotated[
    Optional[str], typer.Option("--metric", help="Metric of the task; default: its usual one.")
]
MethodName = Annotated[
    Optional[str],
    typer.Option(
        "--method", help="rfx (default), kprune, kwon, kwon-reference, magnitude or random."
    ),
]
Batch = Annotated[
    Optional[int], typer.Option("--batch", help="Batch size of the latency measurement (1).")
]
Sequence = Annotated[
    Optional[int], typer.Option("--sequence", help="Tokens of the latency measurement (128).")
]
Threads = Annotated[
    Optional[int], typer.Option("--threads", help="CPU threads of the runtime (1).")
]
Precision = Annotated[
    Optional[str],
    typer.Option(
        "--precision",
        help="fp32, fp16 or bf16, put into the ONNX file; as the runtime and device have them.",
    ),
]
MaxLength = Annotated[
    Optional[int], typer.Option("--max-length", help="Longest input in tokens (128).")
]
Examples = Annotated[Optional[int], typer.Option("--examples", help="Calibration examples (2048).")]
Seed = Annotated[Optional[int], typer.Option("--seed", help="Seed of every random choice (0).")]
Column = Annotated[
    Optional[list[str]],
    typer.Option(
        "--column", help="Where a column has another name: ROLE=NAME, e.g. text=review. Repeatable."
    ),
]
Labels = Annotated[
    Optional[str],
    typer.Option("--labels", help="Label names in the model's order, comma separated."),
]
TableFile = Annotated[
    Optional[Path],
    typer.Option(
        "--table",
        help="A latency table of `rfx profile` or of a board. With one, a --target that cannot "
        "run here is searched for all the same.",
    ),
]
MaxBatch = Annotated[
    Optional[int],
    typer.Option(
        "--max-batch", min=1, help="Largest batch an engine takes (TensorRT; default: --batch)."
    ),
]
MaxSequence = Annotated[
    Optional[int],
    typer.Option(
        "--max-sequence",
        min=1,
        help="Longest sequence an engine takes (TensorRT; default: --sequence or --max-length).",
    ),
]
Capability = Annotated[
    Optional[list[str]],
    typer.Option(
        "--compute-capability",
        help="Build ahead of time with TensorRT-RTX, e.g. 8.9. Repeatable; needs no GPU.",
    ),
]
Out = Annotated[
    Path, typer.Option("--out", "-o", help="Output folder; it appears whole or not at all.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no log; errors only.")]
AllowInconclusive = Annotated[
    bool,
    typer.Option(
        "--allow-inconclusive", help="Exit 0 where a gate is inconclusive and none failed."
    ),
]
