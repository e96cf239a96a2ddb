"""What the user asks for: one plain document, read from YAML or built from the command line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rfx.core.errors import UsageError

TaskName = Literal["text-classification", "question-answering", "token-classification"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DataSpec(_Part):
    """Where the labelled examples are. A file (JSONL, JSON, CSV, TSV, Parquet, SQuAD JSON) or a
    `datasets` name such as `glue/sst2`."""

    train: str | None = None
    eval: str | None = None
    train_split: str = "train"  # for `datasets` names
    eval_split: str = "validation"
    columns: dict[str, str] = Field(
        default_factory=dict
    )  # role -> column: text, text_pair, label, tokens, tags, ...
    labels: list[str] | None = (
        None  # label names in the model's order, where the model does not say
    )
    limit_train: int | None = Field(None, ge=1)
    limit_eval: int | None = Field(None, ge=1)


class WorkloadSpec(_Part):
    """The serving conditions under which latency is measured."""

    batch: int = Field(1, ge=1)
    sequence: int = Field(128, ge=1)
    threads: int = Field(1, ge=1)
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"


class EngineSpec(_Part):
    """How engines are compiled (TensorRT); the other runtimes take no notice.

    The optimisation profile runs from 1 x 1 over the conditions (its optimum) to `max_batch` x
    `max_sequence`; by default the conditions' batch, and the longer of their sequence and
    `max_length`.
    """

    max_batch: int | None = Field(None, ge=1)
    max_sequence: int | None = Field(None, ge=1)
    workspace_mb: int | None = Field(None, ge=1)
    builder_level: int | None = Field(None, ge=0, le=5)
    version_compatible: bool = False  # runs under later minor versions; some kernels are forbidden
    hardware_compatible: bool = False  # runs on every GPU from Ampere on; slower
    compute_capabilities: list[str] = Field(
        default_factory=list
    )  # ahead of time, TensorRT-RTX: "8.9", "12.0"


class CalibrationSpec(_Part):
    examples: int = Field(2048, ge=8)
    batch: int = Field(32, ge=1)
    seed: int = Field(0, ge=0)


class Budget(_Part):
    """Exactly one: a share of the dense model's measured latency, or of its FLOPs."""

    latency: float | None = Field(None, gt=0, lt=1)
    flops: float | None = Field(None, gt=0, lt=1)

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if self.latency is not None and self.flops is not None:
            raise ValueError("give latency or flops, not both")
        return self


class Method(_Part):
    """The five parts of a pruning method (and the options of two of them). `PRESETS` names the
    known combinations; one of these names with other keys beside it starts from that combination,
    any other name is a label."""

    name: str = "custom"
    scorer: str = "output-metric"
    scorer_options: dict[str, int | float | str] = Field(default_factory=dict)
    gradients: Literal["example", "batch"] = "example"
    search: str = "knapsack"
    interactions: Literal["block", "none"] = (
        "block"  # of removed units in the search: the Fisher block or its diagonal
    )
    refine: Literal["best", "reference", "none"] = "none"
    compensate: str = "affine"
    tuning: Literal["kwon", "kwon-reference"] = "kwon"  # of `scales`
    schedule: str = "oneshot"
    rounds: int = Field(2, ge=1, le=8)  # of the iterated schedule
    polish: bool = False  # at the end a step over all units' scales at once, on the output itself
    guard: bool = True  # drop a compensation that takes the output further from the dense model's
    replacement: bool = (
        False  # draw the calibration examples with replacement, as the reference does
    )


PRESETS: dict[str, Method] = {
    # Chosen on validation data of one task, compared with the others on five (docs/accuracy.md).
    "rfx": Method(name="rfx"),
    # Kwon et al. 2022 as their code does it, for parity alone.
    "kwon-reference": Method(
        name="kwon-reference",
        scorer="fisher",
        gradients="batch",
        interactions="none",
        refine="reference",
        compensate="scales",
        tuning="kwon-reference",
        guard=False,
        replacement=True,
    ),
    # The paper repaired: dense teacher, every site, per-site acceptance.
    "kwon": Method(name="kwon", scorer="fisher", refine="best", compensate="scales"),
    # Park, Choi and Kang 2024, repaired: per-example gradients, scores at the first sublayer, a
    # ridge, the bias kept.
    "kprune": Method(
        name="kprune",
        scorer="kprune",
        interactions="none",
        refine="none",
        compensate="projection",
        schedule="sequential",
    ),
    # Controls.
    "magnitude": Method(
        name="magnitude", scorer="magnitude", interactions="none", refine="none", compensate="none"
    ),
    "random": Method(
        name="random", scorer="random", interactions="none", refine="none", compensate="none"
    ),
}


class Recipe(_Part):
    """The whole request. See recipes/ for ready ones."""

    schema_version: Literal[1] = 1
    name: str = "custom"
    model: str | None = None  # local folder or hub name; None with `quickstart` data
    task: TaskName | None = None
    metric: str | None = None  # default: the task's first
    max_length: int = Field(128, ge=2)
    task_options: dict[str, Any] = Field(default_factory=dict)  # doc_stride, n_best, ...
    data: DataSpec = Field(default_factory=DataSpec)
    quickstart: bool = False  # the embedded model and data
    target: str = "auto"  # a runtime's name, or the best one of this machine
    budget: Budget = Field(default_factory=Budget)
    max_drop: float | None = Field(
        None, ge=0, allow_inf_nan=False
    )  # points of the metric, 1.0 = one of a hundred
    min_speedup: float | None = Field(None, gt=0, allow_inf_nan=False)
    workload: WorkloadSpec = Field(default_factory=WorkloadSpec)
    engine: EngineSpec = Field(default_factory=EngineSpec)
    calibration: CalibrationSpec = Field(default_factory=CalibrationSpec)
    method: Method = Field(default_factory=lambda: PRESETS["rfx"].model_copy())
    seed: int = Field(0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("method"), str):
            name = data["method"]
            if name not in PRESETS:
                raise ValueError(
                    f"method: {name!r} is not a known method; known: {', '.join(PRESETS)}"
                )
            data = {**data, "method": PRESETS[name].model_copy()}
        elif isinstance(data, Mapping) and isinstance(data.get("method"), Mapping):
            start = (
                PRESETS.get(data["method"].get("name"))
                if isinstance(data["method"].get("name"), str)
                else None
            )
            if start is not None:
                data = {**data, "method": {**start.model_dump(), **data["method"]}}
        return data


def bundled_recipes() -> dict[str, Path]:
    """The ready recipes that come with rfx, by name."""
    here = Path(__file__).parent.parent
    folder = next((f for f in (here / "_recipes", here.parent / "recipes") if f.is_dir()), None)
    return {p.stem: p for p in sorted(folder.glob("*.yaml"))} if folder else {}


# Where a value may have come from the command line.
OPTIONS = {
    "budget.latency": "--latency",
    "budget.flops": "--flops",
    "budget": "--latency, --flops",
    "max_drop": "--max-drop",
    "min_speedup": "--min-speedup",
    "task": "--task",
    "max_length": "--max-length",
    "workload.batch": "--batch",
    "workload.sequence": "--sequence",
    "workload.threads": "--threads",
    "workload.precision": "--precision",
    "calibration.examples": "--examples",
}


_EXPECTED = {  # what pydantic's errors of kind ask for
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "string_type": "a text",
    "list_type": "a list",
    "dict_type": "a mapping of keys",
    "model_type": "a mapping of keys",
    "model_attributes_type": "a mapping of keys",
}


def _section(path: tuple) -> type[BaseModel]:
    """The part of a recipe at a place in it, e.g. ("method",)."""
    found: type[BaseModel] = Recipe
    for name in path:
        field = found.model_fields.get(str(name))
        if field is None or not (
            isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        ):
            break
        found = field.annotation
    return found


def make_recipe(data: Mapping[str, Any], where: str = "the recipe") -> Recipe:
    """Validate; every mistake is named with its place, what was got and what is allowed.

    Raises:
        UsageError: unknown keys, wrong types, values out of range.
    """
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        problems, values, allowed = [], [], []
        for e in error.errors():
            place = ".".join(str(p) for p in e["loc"]) or "the document"
            option = OPTIONS.get(place)
            message = e["msg"].removeprefix("Value error, ")
            given = e["input"]
            if e["type"] == "extra_forbidden":
                keys = list(_section(e["loc"][:-1]).model_fields)
                near = difflib.get_close_matches(str(e["loc"][-1]), keys, 1)
                message = "there is no such key" + (f"; did you mean {near[0]}?" if near else "")
                allowed.append("the keys " + ", ".join(keys))
            elif e["type"] in _EXPECTED:
                message, expected = "it is of the wrong kind", _EXPECTED[e["type"]]
                allowed.append(f"{place}: {expected}")
            elif message.startswith("method: ") and isinstance(given, Mapping):
                place, given, message = (
                    "method",
                    given.get("method"),
                    "there is no method of this name",
                )
                allowed.append(f"method: {', '.join(PRESETS)}, or a mapping of its parts")
            problems.append(f"{place}{f' ({option})' if option else ''}: {message}")
            values.append(f"{place} = {given!r:.80}")
        raise UsageError(
            f"{where} is not valid: " + "; ".join(problems),
            got="; ".join(values),
            allowed="; ".join(dict.fromkeys(allowed)) or None,
            next_step="correct it; docs/recipes.md has every key",
        ) from None


def read_recipe(path: str | Path) -> Recipe:
    """Read a YAML recipe; a bare name means one of the bundled ones.

    Raises:
        UsageError: no such file, not YAML, or not a valid recipe.
    """
    import yaml

    bundled = bundled_recipes()
    file = bundled[str(path)] if str(path) in bundled else Path(path)
    if not file.is_file():
        raise UsageError(
            "The recipe file does not exist.",
            got=str(path),
            allowed="a YAML file, or one of " + ", ".join(bundled),
            next_step="correct the path",
        )
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{file} is not readable as YAML.",
            got=str(error).replace("\n", " "),
            next_step="correct the file",
        ) from None
    if not isinstance(data, Mapping):
        raise UsageError(
            f"{file} does not hold a recipe.",
            got=type(data).__name__,
            allowed="a mapping of keys",
            next_step="correct the file; docs/recipes.md has every key",
        )
    recipe = make_recipe(data, str(file))
    return _relative_to(recipe, file.parent)


def _relative_to(recipe: Recipe, folder: Path) -> Recipe:
    """Files named in a recipe are looked for beside it first."""

    def resolve(value: str | None) -> str | None:
        if value and not Path(value).is_absolute() and (folder / value).exists():
            return str(folder / value)
        return value

    data = recipe.data.model_copy(
        update={"train": resolve(recipe.data.train), "eval": resolve(recipe.data.eval)}
    )
    return recipe.model_copy(update={"data": data, "model": resolve(recipe.model)})
