"""What the user asks for: one frozen document, read from YAML or made from the command line.

Each key is defined once, with its description, limits, unit and name on the command line (see
`rfx.recipe.fields`). Adding an option is adding a field here, or to one of `rfx.recipe.sections`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ValidationError, model_validator
from typing_extensions import Self

from rfx.core.values import short
from rfx.recipe.fields import FrozenDict, Table, keys_set, leaves, option, put, settings
from rfx.recipe.method import MethodSpec
from rfx.recipe.mistakes import named, validated, where_made
from rfx.recipe.presets import PRESETS
from rfx.recipe.section import Section
from rfx.recipe.sections import (
    MOST_SEED,
    MOST_TOKENS,
    Budget,
    CalibrationSpec,
    DataSpec,
    EngineSpec,
    Limits,
    QuantizationSpec,
    WorkloadSpec,
)
from rfx.recipe.sites import SitesSpec
from rfx.recipe.vocabulary import VocabularySpec

Pooling = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
DEFAULT = "default"  # the origin of a value that nobody has set
GIVEN = "given"  # of one that was set, by somebody who did not say who it is


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
        one output spearman, pearson; with several labels a text f1_micro, f1_macro, map.
        embeddings: spearman, pearson (of pairs), ndcg@10, recall@10, mrr@10 (of queries).
        reranking: ndcg@10, mrr@10.
        question-answering: f1, exact_match. token-classification: f1 (of entities), accuracy.""",
        cli="--metric",
        group="task",
        unset="the first of the task's",
    )
    pooling: Pooling | None = option(
        None,
        """How the vectors of a text's tokens become one, for the task embeddings. Models of
        sentence-transformers say it themselves.""",
        cli="--pooling",
        group="task",
        unset="as the model says",
    )
    max_length: int = option(
        128,
        "Longest input. Longer examples are cut, and no model takes more than its positions.",
        cli="--max-length",
        group="task",
        unit="tokens",
        ge=2,
        le=MOST_TOKENS,
    )
    task_options: Table[str, Any] = option(
        FrozenDict,
        """Options of the task. question-answering: doc_stride, n_best, max_answer_tokens,
        version_2, null_threshold. multi-label: threshold. embeddings: prompt, query_prompt,
        document_prompt, lower_case.""",
        cli="--task-option",
        group="task",
        form="values",
        metavar="KEY=VALUE",
    )
    data: DataSpec = option(DataSpec, "Where the labelled examples are.", group="data")
    exporter: str = option(
        "onnx", "What writes the model for the runtime.", group="target", names="exporter"
    )
    opset: int = option(
        20,
        "Version of the operators in the ONNX file. Older runtimes read lower ones alone.",
        cli="--opset",
        group="target",
        ge=18,
        le=20,
    )
    ir_version: int = option(
        10,
        """Version of the ONNX file's format. Older runtimes read lower ones alone: 10 needs ONNX
        Runtime 1.18. Opsets 19 and 20 need at least 9.""",
        cli="--ir-version",
        group="target",
        ge=8,
        le=10,
    )
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
    sites: SitesSpec = option(SitesSpec, "What the search may not choose.", group="budget")
    vocabulary: VocabularySpec = option(
        VocabularySpec, "What becomes of the vocabulary.", group="budget"
    )
    limits: Limits = option(Limits, "What the result is judged by.", group="limits")
    workload: WorkloadSpec = option(WorkloadSpec, "What is timed.", group="workload")
    quantization: QuantizationSpec = option(
        QuantizationSpec, "How a quantized file is made.", group="workload"
    )
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
        le=MOST_SEED,
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
                    f"method: {short(method)} is not a known method; known: {', '.join(PRESETS)}"
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

    @model_validator(mode="after")
    def _versions(self) -> Self:
        least = 9 if self.opset > 18 else 8
        if self.ir_version < least:
            raise ValueError(
                f"opset {self.opset} needs an ir_version of at least {least}, not {self.ir_version}"
            )
        return self

    if not TYPE_CHECKING:  # type checkers read the arguments off the fields

        def __init__(self, **values: Any) -> None:
            """Raises UsageError, naming every mistake with its place."""
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise named(error, type(self), where_made()) from None

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


def keys_by_option() -> dict[str, str]:
    """The key of each option of the command line: `rfx.core.errors` says it to who works in
    Python."""
    return {s.option: s.key for s in settings(Recipe) if s.option}
