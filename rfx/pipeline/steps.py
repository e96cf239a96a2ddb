"""The steps of the story one by one, for those who try out methods: load, score, search,
compensate.

Each takes and gives plain values; nothing is written, timed or kept. `rfx.find_sites`, `rfx.shrink`
and `rfx.export_onnx` belong to the same row.

Examples:
    >>> subject = rfx.load_model("model/")
    >>> examples = rfx.load_examples(subject, train="train.jsonl", eval="dev.jsonl")
    >>> scores = rfx.score(subject, examples, method="kwon")
    >>> found = rfx.search(subject, examples, scores, flops=0.5, method="kwon")
    >>> plan, update, model = rfx.compensate(subject, examples, scores, found, method="kwon")
    >>> small = rfx.shrink(model, subject.sites, plan, update)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rfx.core.device import on_best_device
from rfx.core.errors import UsageError
from rfx.core.output import SENTENCE
from rfx.core.plan import Plan, Update
from rfx.core.progress import Progress, Silent
from rfx.cost.base import Cost
from rfx.cost.flops import FlopsCost
from rfx.cost.latency_cost import LatencyCost
from rfx.cost.table import LatencyTable
from rfx.methods.build import Method, build
from rfx.methods.schedule.guard import guard
from rfx.methods.schedule.polish import polish
from rfx.methods.scores.base import Scores
from rfx.methods.search.problem import SearchResult
from rfx.methods.search.reference import reference_teacher
from rfx.models.load import load_subject, own_length
from rfx.models.place import Place, look_at
from rfx.models.subject import Subject
from rfx.pipeline.examples import make_task
from rfx.pipeline.ids import check_ids
from rfx.pipeline.resolve import task_of_model
from rfx.recipe.read import make_recipe
from rfx.recipe.spec import MethodSpec
from rfx.tasks.examples import Examples, Source, read_examples
from rfx.tasks.find import sentence_task, task_class, task_names

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH = 32  # calibration examples of one pass


class Compensated(NamedTuple):
    """Which units stay, the tensors that make up for the others, and the model that both belong
    to: the one that was given, or the one that a schedule trained."""

    plan: Plan
    update: Update
    model: PreTrainedModel


def load_model(
    source: str | Path, *, task: str | None = None, pooling: str | None = None
) -> Subject:
    """A fine-tuned checkpoint with its sites found and proved.

    Args:
        source: a folder, or a name on the hub.
        task: a registered task; None: read off the checkpoint's architecture.
        pooling: of an encoder that is to give one vector a text and does not say it itself.

    Raises:
        UsageError: no such model, or its task is not known.
        UnsupportedModelError: rfx cannot prune models of this family.

    Examples:
        >>> subject = rfx.load_model("model/")
        >>> len(subject.sites)
        12
    """
    name = task or task_of_model(str(source), pooling)
    if name is None:
        look_at(Place.of(str(source)))  # a folder without a checkpoint is said as such
        raise UsageError(
            "The task is not known, and there is no folder of this name here.",
            got=str(source),
            allowed=f"task= with one of {', '.join(task_names())}",
            next_step="check the path; for a model of the hub give task=",
        )
    cls = task_class(name)
    return load_subject(
        str(source),
        task=name,
        auto_class=cls.auto_class,
        load_preprocessor=cls.load_preprocessor,
        input_spec=cls.input_spec,
        sentence=cls.sentence,
        pooling=pooling,
    )


def load_examples(
    subject: Subject,
    *,
    train: str | Path,
    eval: str | Path,  # noqa: A002 - as in a recipe's data
    task: str | None = None,
    columns: Mapping[str, str] | None = None,
    max_length: int | None = None,
    metric: str | None = None,
    count: int = 2048,
    seed: int = 0,
) -> Examples:
    """Calibration and evaluation examples, disjoint, as model inputs.

    Args:
        train: examples to calibrate on, labels optional: a file or a `datasets` name.
        eval: labelled examples to judge on.
        columns: role -> column, where a column has another name: `{"text": "review"}`.
        max_length: longest input in tokens; None: 128, or what a sentence encoder says.
        metric: what accuracy is measured by; None: the first of the task's.
        count: calibration examples that are drawn.

    Raises:
        UsageError: whatever is wrong with a file, a column or a label; too few examples.

    Examples:
        >>> examples = rfx.load_examples(subject, train="train.jsonl", eval="dev.jsonl")
        >>> examples.labelled
        True
    """
    vectors = hasattr(subject.model, SENTENCE)
    own = own_length(subject.model.config) if vectors else None
    known = sentence_task() if vectors else task_of_model(subject.source, None)
    recipe = make_recipe(
        {
            "task": task or known,
            "max_length": max_length or own or 128,
            "metric": metric,
            "data": {"columns": dict(columns or {})},
        },
        "the arguments of load_examples",
    )
    examples = read_examples(
        make_task(recipe, subject),
        train=Source(str(train)),
        evaluation=Source(str(eval), "validation"),
        count=count,
        seed=seed,
    )
    check_ids(subject, examples)
    return examples


def score(
    subject: Subject,
    examples: Examples,
    *,
    method: str | Mapping[str, Any] | MethodSpec = "rfx",
    seed: int = 0,
    progress: Progress | None = None,
) -> Scores:
    """How much each unit matters: float64 [units] by site, additive damage where it is removed.

    Args:
        method: a preset's name, or a mapping of the parts of a method as in a recipe.

    Raises:
        UsageError: a method that is not known, or that needs labels which are not there.

    Examples:
        >>> scores = rfx.score(subject, examples, method="kwon")
        >>> scores.importance["layer.0.mha"].shape
        (12,)
    """
    parts = _method(method, examples, seed)
    with on_best_device(subject.model):
        return parts.scorer.score(
            subject.model,
            subject.sites,
            examples.batches(BATCH),
            examples.task,
            progress=progress or Silent(),
        )


def search(
    subject: Subject,
    examples: Examples,
    scores: Scores,
    *,
    flops: float | None = None,
    latency: float | None = None,
    table: LatencyTable | None = None,
    share: float | None = None,
    cost: Cost | None = None,
    method: str | Mapping[str, Any] | MethodSpec = "rfx",
) -> SearchResult:
    """How many units each site keeps, and which, under a budget.

    Args:
        flops: a share of the FLOPs of the prunable sublayers, between 0 and 1.
        latency: a share of the dense model's latency as `table` predicts it, in place of `flops`.
        share: a share of the dense model's `cost`, which may be any other, in place of both.

    Raises:
        UsageError: not exactly one budget, a latency without a table, or a share without a cost.
        InfeasibleError: no plan meets the budget; the message has the fastest reachable point.

    Examples:
        >>> found = rfx.search(subject, examples, scores, flops=0.5)
        >>> found.counts["layer.0.mha"]
        11
    """
    given = [x for x in (flops, latency, share) if x is not None]
    alone = (latency is not None and table is None) or (share is not None and cost is None)
    if len(given) != 1 or alone:
        raise UsageError(
            "A search needs one budget.",
            got=f"flops={flops}, latency={latency}, table={'given' if table else None}, "
            f"share={share}, cost={'given' if cost else None}",
            allowed="flops=0.5, or latency=0.7 with table=, or share=0.5 with cost=",
            next_step="give one of them; rfx.profile measures a table",
        )
    if share is None or cost is None:
        cost = _cost(subject, examples, table if latency is not None else None)
    searcher = _method(method, examples, 0).searcher(cost)
    budget = given[0] * cost.dense(subject.sites)
    return searcher(subject.sites, scores, budget)


def compensate(
    subject: Subject,
    examples: Examples,
    scores: Scores,
    found: SearchResult,
    *,
    method: str | Mapping[str, Any] | MethodSpec = "rfx",
    table: LatencyTable | None = None,
    cost: Cost | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Compensated:
    """The plan of searched counts and what makes up for the units that go, in the order of the
    method's schedule.

    Args:
        found: what `search` gave.
        table: the table that it searched by, for schedules that search again; None: FLOPs.
        cost: the other cost that it searched by.

    Raises:
        UsageError: parts that do not go together.

    Examples:
        >>> plan, update, model = rfx.compensate(subject, examples, scores, found)
        >>> small = rfx.shrink(model, subject.sites, plan, update)
    """
    parts = _method(method, examples, seed)
    flops = FlopsCost(subject.hidden, examples.mean_tokens)
    ground = parts.ground(
        subject.model,
        subject.sites,
        examples.batches(BATCH),
        examples.task,
        parts.searcher(cost or _cost(subject, examples, table)),
        teacher_masks=lambda plan: reference_teacher(subject.sites, scores, flops, plan),
        progress=progress or Silent(),
    )
    with on_best_device(subject.model):
        outcome = parts.schedule.run(ground, scores, found)
        if parts.spec.polish:
            outcome = polish(ground, outcome).outcome
        if parts.spec.guard:
            outcome = guard(ground, outcome).outcome
    return Compensated(outcome.plan, outcome.update, subject.trained(outcome.model).model)


def _cost(subject: Subject, examples: Examples, table: LatencyTable | None) -> Cost:
    if table is not None:
        return LatencyCost(table)
    return FlopsCost(subject.hidden, examples.mean_tokens)


def _spec(method: str | Mapping[str, Any] | MethodSpec) -> MethodSpec:
    if isinstance(method, MethodSpec):
        return method
    given = method if isinstance(method, str) else dict(method)
    return make_recipe({"method": given}, "the method").method


def _method(method: str | Mapping[str, Any] | MethodSpec, examples: Examples, seed: int) -> Method:
    return build(_spec(method), seed=seed, labelled=examples.labelled)
