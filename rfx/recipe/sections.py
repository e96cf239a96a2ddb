"""The sections of a recipe. Each key is defined once, with its description, limits, unit and name
on the command line (see `rfx.recipe.fields`): adding an option is adding a field here, or to
`Recipe` itself."""

from __future__ import annotations

from pydantic import model_validator

from rfx.recipe.fields import FrozenDict, Table, option
from rfx.recipe.section import Section


class DataSpec(Section):
    """Where the labelled examples are."""

    train: str | None = option(
        None,
        """Examples to calibrate on. Labels are optional; some methods use them. A file (JSONL,
        JSON, CSV, TSV, Parquet, SQuAD JSON, or .txt with one text a line) or a datasets name such
        as glue/sst2.""",
        cli="--train",
        metavar="FILE",
    )
    eval: str | None = option(
        None,
        "Labelled examples to evaluate on. They take part in no choice.",
        cli="--eval",
        metavar="FILE",
    )
    train_split: str = option(
        "train", "The split to calibrate on, for a datasets name.", cli="--train-split"
    )
    eval_split: str = option(
        "validation", "The split to evaluate on, for a datasets name.", cli="--eval-split"
    )
    columns: Table[str, str] = option(
        FrozenDict,
        """Where a column has another name than its role: text, text_pair, label, tokens, tags,
        question, context or answers. On the command line once for each column, e.g.
        --column text=review.""",
        cli="--column",
        form="pairs",
        metavar="ROLE=NAME",
    )
    labels: tuple[str, ...] | None = option(
        None,
        """Names of the labels in the order of the model, where the model does not say them. Values
        in the data may be the name of a label or its number, counted from 0. A name wins: a label
        that is called 1 is found before the label of number 1.""",
        cli="--labels",
        form="list",
        metavar="NAME,NAME,...",
    )
    limit_train: int | None = option(
        None,
        "How many examples are read from the calibration data.",
        cli="--limit-train",
        unit="examples",
        unset="all",
        ge=1,
    )
    limit_eval: int | None = option(
        None,
        "How many examples are read from the evaluation data.",
        cli="--limit-eval",
        unit="examples",
        unset="all",
        ge=1,
    )


class WorkloadSpec(Section):
    """What is timed. Latency is measured without padding: give the sizes that you serve."""

    batch: int = option(1, "Examples that run at once.", cli="--batch", unit="examples", ge=1)
    sequence: int = option(
        128, "Length of each timed example.", cli="--sequence", unit="tokens", ge=1
    )
    threads: int = option(1, "CPU threads of the runtime.", cli="--threads", unit="threads", ge=1)
    precision: str = option(
        "fp32",
        """Number format of the matrix products in the ONNX file. Not every runtime and device has
        each of them.""",
        cli="--precision",
        names="precision",
    )


class EngineSpec(Section):
    """How TensorRT compiles its engine. Other runtimes have no use for these keys.

    The optimisation profile runs from 1 x 1 over the workload, where it is fastest, to
    `max_batch` x `max_sequence`.
    """

    max_batch: int | None = option(
        None,
        "Largest batch that the engine takes.",
        cli="--max-batch",
        unit="examples",
        unset="the batch of the workload",
        ge=1,
    )
    max_sequence: int | None = option(
        None,
        "Longest sequence that the engine takes.",
        cli="--max-sequence",
        unit="tokens",
        unset="the longer of the workload's sequence and max_length",
        ge=1,
    )
    workspace_mb: int | None = option(
        None,
        "Memory that kernels may use while they run.",
        cli="--workspace-mb",
        unit="MB",
        unset="as much as TensorRT chooses",
        ge=1,
    )
    builder_level: int | None = option(
        None,
        "Optimisation level of the build. A higher one builds longer.",
        cli="--builder-level",
        unset="TensorRT's own, which is 3",
        ge=0,
        le=5,
    )
    version_compatible: bool = option(
        False,
        """Build an engine that runs under later minor versions of TensorRT too. It is larger, and
        may not use some kernels.""",
        cli="--version-compatible",
    )
    hardware_compatible: bool = option(
        False,
        """Build an engine that runs on every GPU from Ampere on. It is slower than one for a single
        GPU.""",
        cli="--hardware-compatible",
    )
    compute_capabilities: tuple[str, ...] = option(
        (),
        """Build ahead of time with TensorRT-RTX for GPUs of this compute capability, e.g. 8.9. It
        needs no GPU, and may be given several times.""",
        cli="--compute-capability",
        form="repeated",
        metavar="X.Y",
    )


class CalibrationSpec(Section):
    """The examples by which units are scored and weights are fitted."""

    examples: int = option(
        2048, "How many examples are drawn.", cli="--examples", unit="examples", ge=8
    )
    batch: int = option(
        32,
        "Examples in each pass over them.",
        cli="--calibration-batch",
        unit="examples",
        ge=1,
    )
    seed: int = option(0, "Seed of the drawing. The option --seed sets it too.", ge=0)


class Budget(Section):
    """How much the pruned model may cost. Give exactly one of the keys.

    Latency is measured on the target. Every other key is the name of a cost that is computed
    (registry kind "cost").
    """

    latency: float | None = option(
        None,
        "Latency budget, as a share of the measured latency of the dense model, e.g. 0.7.",
        cli="--latency",
        gt=0,
        lt=1,
    )
    flops: float | None = option(
        None,
        "FLOPs budget, as a share of the FLOPs of the dense model, in place of a latency budget.",
        cli="--flops",
        gt=0,
        lt=1,
    )

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if len(self._given()) > 1:
            raise ValueError("give latency or flops, not both")
        return self

    def _given(self) -> list[str]:
        return [key for key in type(self).model_fields if getattr(self, key) is not None]

    @property
    def unit(self) -> str | None:
        """The key that is given, None where none is."""
        return next(iter(self._given()), None)

    @property
    def share(self) -> float:
        """The value of the key that is given, a share of the dense model's cost.

        Raises:
            ValueError: none is given.
        """
        if self.unit is None:
            raise ValueError("there is no budget")
        return float(getattr(self, self.unit))


class Limits(Section):
    """What the result is judged by. Without a limit the value is measured and not judged."""

    max_drop: float | None = option(
        None,
        "Largest drop of the metric that passes. One point is one hundredth of the metric.",
        cli="--max-drop",
        unit="points of the metric",
        unset="not judged",
        ge=0,
        allow_inf_nan=False,
    )
    min_speedup: float | None = option(
        None,
        "Smallest speedup over the dense model that passes, e.g. 1.3.",
        cli="--min-speedup",
        unit="times",
        unset="not judged",
        gt=0,
        allow_inf_nan=False,
    )
