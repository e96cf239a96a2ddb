"""What the user asks for: one frozen document, read from YAML or made from the command line.

Each key is defined once, with its description, limits, unit and name on the command line (see
`rfx.recipe.fields`). Adding an option is adding a field here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, model_validator
from typing_extensions import Self

from rfx.recipe.fields import FrozenDict, Table, keys_set, leaves, option, put
from rfx.recipe.method import MethodSpec
from rfx.recipe.mistakes import validated
from rfx.recipe.presets import PRESETS
from rfx.recipe.section import Section

DEFAULT = "default"  # the origin of a value that nobody has set
GIVEN = "given"  # of one that was set, by somebody who did not say who it is


class DataSpec(Section):
    """Where the labelled examples are."""

    train: str | None = option(
        None,
        """Examples to calibrate on. Labels help some methods, and may be missing. A file (JSONL,
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
        """Names of the labels in the order of the model, where the model does not say them. A value
        in the data that is one of these names means that label (1 and true too, where a label has
        this name). Any other value is an index into the labels of the model.""",
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
    precision: Literal["fp32", "fp16", "bf16"] = option(
        "fp32",
        """Number format of the matrix products in the ONNX file. Not every runtime and device has
        each of them.""",
        cli="--precision",
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
    """How much the pruned model may cost. Give exactly one of the two."""

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
        if self.latency is not None and self.flops is not None:
            raise ValueError("give latency or flops, not both")
        return self


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


class Recipe(Section):
    """The whole request. It is frozen: `changed` makes another one.

    `origin` maps each key (with dots) to the place where its value comes from: "default", "the
    preset kwon", "the file my.yaml", "the command line (--batch)". Two recipes that ask for the
    same are equal wherever their values come from.
    """

    schema_version: Literal[2] = option(2, "The version of this document's form.", internal=True)
    name: str = option("custom", "A name for reports.", group="run")
    model: str | None = option(
        None,
        "A local folder, or a name on the Hugging Face hub.",
        cli="--model",
        group="model",
        metavar="MODEL",
    )
    task: str | None = option(
        None,
        "What the model does.",
        cli="--task",
        group="model",
        names="task",
        unset="read from the model, where it says it",
    )
    metric: str | None = option(
        None,
        """What accuracy is measured by. text-classification: accuracy, f1, f1_macro, matthews; with
        one output spearman, pearson. question-answering: f1, exact_match. token-classification: f1
        (of entities), accuracy.""",
        cli="--metric",
        group="task",
        unset="the first of the task's",
    )
    max_length: int = option(
        128,
        "Longest input. Longer examples are cut, and no model takes more than its positions.",
        cli="--max-length",
        group="task",
        unit="tokens",
        ge=2,
    )
    task_options: Table[str, Any] = option(
        FrozenDict,
        """Options of the task. question-answering: doc_stride, n_best, max_answer_tokens,
        version_2, null_threshold.""",
        cli="--task-option",
        group="task",
        form="values",
        metavar="KEY=VALUE",
    )
    data: DataSpec = option(DataSpec, "Where the labelled examples are.", group="data")
    quickstart: bool = option(
        False, "Take the model and the data that come with rfx to try it.", group="run"
    )
    target: str = option(
        "auto",
        "The runtime that will serve the model; auto is the best one of this machine.",
        cli="--target",
        group="target",
        names="runtime",
    )
    budget: Budget = option(
        Budget, "How much the pruned model may cost.", group="budget", alternatives=True
    )
    limits: Limits = option(Limits, "What the result is judged by.", group="limits")
    workload: WorkloadSpec = option(WorkloadSpec, "What is timed.", group="workload")
    engine: EngineSpec = option(EngineSpec, "How TensorRT compiles its engine.", group="engine")
    calibration: CalibrationSpec = option(
        CalibrationSpec, "The examples by which units are scored.", group="calibration"
    )
    method: MethodSpec = option(
        lambda: PRESETS["rfx"],
        f"""The pruning method by its name: {", ".join(PRESETS)}. A recipe may give its parts
        instead.""",
        cli="--method",
        group="method",
        metavar="NAME",
    )
    seed: int = option(
        0,
        """Seed of every random choice. On the command line it is the seed of the calibration
        examples too.""",
        cli="--seed",
        group="run",
        also=("calibration.seed",),
        ge=0,
    )
    origin: Table[str, str] = option(
        FrozenDict, "Where each value comes from. Filled by rfx.", internal=True
    )

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any) -> Any:
        """The parts of a method that is named, and the origin of every value."""
        if not isinstance(data, Mapping):
            return data
        whole, preset = dict(data), None
        method = whole.get("method")
        if isinstance(method, str):
            if method not in PRESETS:
                raise ValueError(
                    f"method: {method!r} is not a known method; known: {', '.join(PRESETS)}"
                )
            preset, method = PRESETS[method], {}
        elif isinstance(method, Mapping) and isinstance(method.get("name"), str):
            preset = PRESETS.get(method["name"])
        origin = dict.fromkeys(leaves(cls), DEFAULT)
        if preset is not None or "method" not in whole:
            name = preset.name if preset is not None else PRESETS["rfx"].name
            origin |= {f"method.{key}": f"the preset {name}" for key in MethodSpec.model_fields}
        said = whole.get("origin", {})
        set_here = {**whole, "method": method} if "method" in whole else whole
        origin |= {key: GIVEN for key in keys_set(set_here) if key in origin}
        if preset is not None and isinstance(method, Mapping):
            whole["method"] = {**preset.model_dump(), **method}
        whole["origin"] = {**origin, **said} if isinstance(said, Mapping) else said
        return whole

    def changed(
        self,
        values: Mapping[str, Any],
        origin: str | Mapping[str, str] = GIVEN,
        where: str = "the changed recipe",
    ) -> Self:
        """Another recipe, validated, with some values changed.

        Args:
            values: by key with dots, e.g. `{"workload.sequence": 64}`; a whole section is given as
                a mapping, e.g. `{"budget": {"flops": 0.5}}`, and replaces the section.
            origin: where the values come from: one text, or one for each key of `values`.
            where: the recipe in words, for error messages.

        Raises:
            UsageError: a key that does not exist, or a value that is not allowed.
        """
        data = self.model_dump(exclude={"origin"})
        said = dict(self.origin)
        for key, value in values.items():
            if isinstance(value, BaseModel):
                value = value.model_dump()
            put(data, key, value)
            source = origin if isinstance(origin, str) else origin.get(key, GIVEN)
            keys = leaves(type(self))
            at = next((k for k in keys if key == k or key.startswith(f"{k}.")), None)
            if at is not None:  # also one entry of a table, e.g. data.columns.text
                said[at] = source
                continue
            inside = [k for k in said if k.startswith(f"{key}.")]
            if key == "method" and isinstance(value, str):  # its preset says the rest
                said = {k: v for k, v in said.items() if k not in inside}
                said["method.name"] = source
            elif isinstance(value, Mapping):
                said = {k: v for k, v in said.items() if k not in inside}
                said |= {f"{key}.{k}": source for k in value}
        return validated(type(self), {**data, "origin": said}, where)

    def given(self, key: str) -> bool:
        """Whether somebody has set the value of a key (with dots), whatever it is."""
        return self.origin.get(key, DEFAULT) != DEFAULT

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Recipe) or type(self) is not type(other):
            return NotImplemented
        return self.model_dump(exclude={"origin"}) == other.model_dump(exclude={"origin"})

    __hash__ = None  # type: ignore[assignment]
