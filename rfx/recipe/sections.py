"""The sections of a recipe. Each key is defined once, with its description, limits, unit and name
on the command line (see `rfx.recipe.fields`): adding an option is adding a field here, or to
`Recipe` itself."""

from __future__ import annotations

from pydantic import field_validator, model_validator

from rfx.core.limits import MOST_FILE_MB
from rfx.core.sizes import ALLOWED, exact_size, parse_size
from rfx.recipe.fields import FrozenDict, Table, option
from rfx.recipe.section import Section

# Far above what anybody runs, and below what makes arithmetic or memory fail without a word.
MOST_BATCH, MOST_TOKENS, MOST_ROWS, MOST_SEED = 65_536, 1_048_576, 1_000_000_000, 2**63 - 1


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
        question, context, answers, query or document. A name holds for both files, the examples to
        calibrate on and those to evaluate on. On the command line once for each column, e.g.
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
        le=MOST_ROWS,
    )
    limit_eval: int | None = option(
        None,
        "How many examples are read from the evaluation data.",
        cli="--limit-eval",
        unit="examples",
        unset="all",
        ge=1,
        le=MOST_ROWS,
    )
    strict: bool = option(
        False,
        """Refuse examples in which any text is missing, and evaluation data in which any label is
        missing or a text stands there with different labels. Otherwise up to one row in a hundred
        may lack one, and such rows and the texts with different labels are left out and
        counted.""",
        cli="--strict",
    )
    max_mb: float = option(
        1024,
        "Largest file of examples that is read. Of a compressed one, what it unpacks to counts.",
        cli="--max-data-mb",
        unit="MB",
        gt=0,
        le=MOST_FILE_MB,
        allow_inf_nan=False,
    )


class WorkloadSpec(Section):
    """What is timed. Latency is measured without padding: give the sizes that you serve."""

    batch: int = option(
        1,
        "Examples that run at once.",
        cli="--batch",
        unit="examples",
        ge=1,
        le=MOST_BATCH,
    )
    sequence: int = option(
        128,
        "Length of each timed example.",
        cli="--sequence",
        unit="tokens",
        ge=1,
        le=MOST_TOKENS,
    )
    threads: int = option(
        1,
        "CPU threads of the runtime.",
        cli="--threads",
        unit="threads",
        ge=1,
        le=1024,
    )
    precision: str = option(
        "fp32",
        """Number format of the matrix products in the ONNX file; int8 and fp8 prune and quantize in
        one, and their latency budget is a share of the dense fp32 latency. Not every runtime and
        device has each of them. With auto, prune-export tries fp32 and what can be quantized to,
        and takes what stays nearest to the dense model.""",
        cli="--precision",
        names="precision",
    )


class QuantizationSpec(Section):
    """How a file of a quantized precision is made. The others have no use for these keys."""

    keep_fp32: tuple[str, ...] = option(
        (),
        """A site whose products stay in fp32, such as layer.0.ffn; it may be given several times.
        The plan lists the names of the sites.""",
        cli="--keep-fp32",
        form="repeated",
        metavar="SITE",
        group="workload",
    )
    cpu_portable: bool = option(
        False,
        """Let quantized weights keep to 7 bits whatever this CPU has, so that the file gives the
        same labels on x86 CPUs without VNNI. Without it rfx takes 8 bits where this CPU sums
        products in 32 bits.""",
        cli="--cpu-portable",
        group="workload",
    )
    by_site: bool = option(
        False,
        """Measure what quantizing costs at each site: every site alone, on calibration examples.
        It takes some seconds, and is done without being asked for where a limit needs it.""",
        cli="--quantization-by-site",
        group="workload",
    )
    examples: int = option(
        128,
        """How many calibration examples the scales of activations are chosen by, where the
        quantizer of the runtime chooses them beforehand. For ort they are computed while the model
        runs, and this key says nothing.""",
        cli="--quantization-examples",
        unit="examples",
        ge=32,
        le=300,
        group="workload",
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
        le=MOST_BATCH,
    )
    max_sequence: int | None = option(
        None,
        "Longest sequence that the engine takes.",
        cli="--max-sequence",
        unit="tokens",
        unset="the longer of the workload's sequence and max_length",
        ge=1,
        le=MOST_TOKENS,
    )
    workspace_mb: int | None = option(
        None,
        "Memory that kernels may use while they run.",
        cli="--workspace-mb",
        unit="MB",
        unset="as much as TensorRT chooses",
        ge=1,
        le=1_000_000,
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
        2048, "How many examples are drawn.", cli="--examples", unit="examples", ge=8, le=MOST_ROWS
    )
    batch: int = option(
        32,
        "Examples in each pass over them.",
        cli="--calibration-batch",
        unit="examples",
        ge=1,
        le=MOST_BATCH,
    )
    seed: int = option(0, "Seed of the drawing. The option --seed sets it too.", ge=0, le=MOST_SEED)


class Budget(Section):
    """How much the pruned model may cost. Give exactly one of the keys.

    Latency is measured on the target, and the size is that of the finished file. Every key but
    `latency` is the name of a cost that is computed (registry kind "cost").
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
    size: str | None = option(
        None,
        """Size budget: the most that model.onnx may take, e.g. 25MB, in place of a latency budget.
        It holds for the file at the precision that is asked for.""",
        cli="--size",
        metavar="SIZE",
        takes=ALLOWED,
    )

    @field_validator("size", mode="before")
    @classmethod
    def _exact(cls, value: object) -> object:
        """In one way of writing, so that equal sizes are equal budgets."""
        return None if value is None else exact_size(parse_size(value))

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if len(self._given()) > 1:
            *names, last = type(self).model_fields
            raise ValueError(f"give only one of {', '.join(names)} and {last}")
        return self

    def _given(self) -> list[str]:
        return [key for key in type(self).model_fields if getattr(self, key) is not None]

    @property
    def unit(self) -> str | None:
        """The key that is given, None where none is."""
        return next(iter(self._given()), None)

    @property
    def size_bytes(self) -> int | None:
        """The size that is given, in bytes; None under another budget."""
        return None if self.size is None else parse_size(self.size)

    def within(self, dense: float) -> float:
        """What may be spent, in the unit of the cost that is budgeted.

        Args:
            dense: the dense model's cost, which all budgets but a size are shares of.

        Raises:
            ValueError: none is given.
        """
        if self.size is not None:
            return float(parse_size(self.size))
        if self.unit is None:
            raise ValueError("there is no budget")
        return float(getattr(self, self.unit)) * dense


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
    min_agreement: float | None = option(
        None,
        """Smallest share of the predictions that must be those of the dense model. Of a regression
        it is the correlation of the two models' predictions.""",
        cli="--min-agreement",
        unit="share",
        unset="halfway between agreement by chance and 1",
        ge=0,
        le=1,
        allow_inf_nan=False,
    )
    allow_weak_baseline: bool = option(
        False,
        """Go on where the dense model is no better than a constant answer, or where its labels seem
        to be in another order than those of the data. It is recorded in the evidence.""",
        cli="--allow-weak-baseline",
        group="data",
    )
    max_quantization_loss: float | None = option(
        None,
        """Largest divergence of the quantized file from the same pruned model in fp32 that passes.
        Where it is larger, the sites whose quantizing costs most for what it saves are kept in
        fp32, one after the other.""",
        cli="--max-quantization-loss",
        unit="nats of KL",
        unset="not judged",
        ge=0,
        allow_inf_nan=False,
    )
    min_vocabulary_agreement: float | None = option(
        None,
        """Smallest share of the answers that must be those of the same pruned model with its full
        vocabulary, where --prune-vocabulary makes that smaller. Of a regression it is the
        correlation of their predictions.""",
        cli="--min-vocabulary-agreement",
        unit="share",
        unset="0.95",
        ge=0,
        le=1,
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
