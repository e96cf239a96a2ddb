"""Load: the checkpoint, its sites (proved), its task, and its examples."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rfx.core.errors import UnsupportedModelError, UsageError, first_line
from rfx.core.inputs import InputSpec
from rfx.core.plan import Kind, Site
from rfx.core.registry import find
from rfx.evidence.records import DataPart
from rfx.models.families.find import family_name, find_sites, position_limit
from rfx.models.prove import prove
from rfx.pipeline.require import require_size
from rfx.pipeline.session import Session
from rfx.recipe.read import bundled_recipes
from rfx.recipe.spec import Recipe
from rfx.tasks.base import Example, Feature, Task
from rfx.tasks.calibration import choose, drop_overlap, overlap, set_hash
from rfx.tasks.data import load_examples
from rfx.tasks.find import task_class, task_names

HEADLESS = (
    "This checkpoint has no {task} head: its weights {missing} are missing and would be random."
)
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
)


@dataclass
class Subject:
    """A dense model with what rfx knows of it."""

    model: Any  # transformers.PreTrainedModel, eval mode
    tokenizer: Any
    sites: list[Site]
    source: str
    hash: str  # of weights and configuration

    @property
    def inputs(self) -> InputSpec:
        """Inputs of the exported file: those the tokenizer gives and the model takes."""
        accepted = inspect.signature(type(self.model).forward).parameters
        names = [n for n in self.tokenizer.model_input_names if n in accepted]
        return InputSpec.of_text(
            tuple(dict.fromkeys(["input_ids", "attention_mask", *names])),
            vocabulary=int(self.model.config.vocab_size),
            positions=position_limit(self.model),
        )

    @property
    def hidden(self) -> int:
        return int(self.model.get_submodule(self.sites[0].output).out_features)

    @property
    def layers(self) -> int:
        return 1 + max(s.layer for s in self.sites)

    def describe(self) -> dict[str, Any]:
        first = {kind: next(s for s in self.sites if s.kind is kind) for kind in Kind}
        return {
            "source": self.source,
            "family": family_name(self.model),
            "class": type(self.model).__name__,
            "layers": self.layers,
            "hidden": self.hidden,
            "heads": first[Kind.MHA].units,
            "head_dim": first[Kind.MHA].width,
            "filters": first[Kind.FFN].units,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "hash": self.hash,
        }


@dataclass
class Examples:
    """The examples of a session, disjoint: calibration is drawn from the training set, evaluation takes
    part in no choice."""

    task: Task
    calibration: list[Example]
    evaluation: list[Example]
    data: DataPart
    calibration_features: list[Feature] = field(default_factory=list)
    evaluation_features: list[Feature] = field(default_factory=list)

    @property
    def labelled(self) -> bool:
        """Whether every calibration example has a label."""
        return all(e.label is not None for e in self.calibration)


def load_model(session: Session, source: str, task_name: str | None) -> Subject:
    """A checkpoint from a local folder or the hub, in float32 and eval mode, with its sites proved.

    Raises:
        UsageError: no such model, no head for the task.
        UnsupportedModelError: a family rfx cannot prune.
    """
    import transformers
    from safetensors import SafetensorError


    if task_name is None:
        there = Path(source).expanduser().exists()
        raise UsageError(
            "The task is not known."
            if there
            else "The task is not known, and no recipe or folder here has this name.",
            got=source,
            allowed=f"--task {', '.join(task_names())}"
            + ("" if there else f"; recipes: {', '.join(bundled_recipes())}"),
            next_step="add --task"
            if there
            else "check the name; for a model of the hub add --task",
        )
    # progress is drawn by whoever called us, or by nobody
    transformers.utils.logging.disable_progress_bar()
    auto = getattr(transformers, task_class(task_name).auto_class)
    folder = Path(source).expanduser()
    local = folder.exists()
    if local and not (folder / "config.json").is_file():
        raise UsageError(
            "This folder holds no Hugging Face checkpoint."
            if folder.is_dir()
            else "This is a file, where a model is a folder.",
            got=str(folder),
            allowed="a folder with config.json and model.safetensors",
            next_step="save it with save_pretrained"
            if folder.is_dir()
            else "name the model's folder; examples go to --train and --eval",
        )
    name = str(folder) if local else source
    try:
        config = transformers.AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise _not_loaded(source, local, error) from None
    _refuse_early(config)
    try:
        with _silent():  # what is missing is said below, in words that say what to do
            model, info = auto.from_pretrained(name, config=config, output_loading_info=True)
    except (OSError, RuntimeError, ImportError, SafetensorError) as error:
        raise _not_loaded(source, local, error) from None
    except ValueError as error:
        raise UnsupportedModelError(
            f"transformers has no {task_name} head for {config.model_type}.", got=first_line(error)
        ) from None
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    except Exception as error:
        raise UsageError(
            "The model's tokenizer does not load.",
            got=f"{source}: {first_line(error)}",
            allowed="a checkpoint with tokenizer.json",
            next_step="save the tokenizer into the same folder",
        ) from None
    if len(tokenizer) <= len(
        tokenizer.all_special_ids
    ):  # transformers makes one without a single word where files are missing
        none = local and not any((folder / n).is_file() for n in TOKENIZER_FILES)
        raise UsageError(
            "The checkpoint has no tokenizer." if none else "The model's tokenizer knows no words.",
            got=f"{source}: "
            + (
                f"none of {', '.join(TOKENIZER_FILES)}"
                if none
                else f"{len(tokenizer)} tokens, all special"
            ),
            allowed="a checkpoint with tokenizer.json",
            next_step="save the tokenizer into the same folder",
        )
    _fit_lengths(session, position_limit(model))
    if info["missing_keys"]:
        raise UsageError(
            HEADLESS.format(task=task_name, missing=", ".join(sorted(info["missing_keys"])[:3])),
            got=f"{source} ({', '.join(config.architectures or ['no architecture named'])})",
            allowed="a model fine-tuned for the task",
            next_step="fine-tune it first, or give the --task it was fine-tuned for",
        )
    model = model.float().eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    sites = find_sites(model)
    prove(model, sites)
    return Subject(model, tokenizer, sites, source, _model_hash(model))


def _refuse_early(config) -> None:
    """Families known not to work are refused before their weights are read."""
    from types import SimpleNamespace

    from rfx.models.families.find import REFUSED

    if config.model_type in REFUSED or getattr(config, "pruned_layers", None):
        find_sites(SimpleNamespace(config=config))


def _not_loaded(source: str, local: bool, error: Exception) -> UsageError:
    first = first_line(error)
    if local:
        return UsageError(
            "The checkpoint does not load.",
            got=f"{source}: {first}",
            allowed="what transformers' from_pretrained reads",
            next_step="save it again with save_pretrained, or copy it again",
        )
    return UsageError(
        "There is no such model: not a folder here, and not to be had from the hub.",
        got=f"{source}: {first}",
        allowed="a local folder with config.json and model.safetensors, or a hub name",
        next_step="check the path; offline, download the model first and give its folder",
    )


def _model_hash(model) -> str:
    # Where a checkpoint lies and which transformers reads it say nothing of what it is.
    facts = {
        k: v
        for k, v in model.config.to_dict().items()
        if not k.startswith("_") and k != "transformers_version"
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def load_examples_and_features(session: Session, subject: Subject) -> Examples:
    """Examples and features of the recipe, calibration and evaluation proved disjoint.

    Raises:
        UsageError: whatever is wrong with a file, a column or a label; too few examples.
    """
    recipe = session.recipe
    _fit_engine(session, position_limit(subject.model))
    config = subject.model.config
    cls = task_class(recipe.task)
    _check_options(cls, recipe.task_options)
    task = cls(
        subject.tokenizer,
        num_labels=int(config.num_labels),
        id2label=dict(config.id2label),
        max_length=recipe.max_length,
        metric=recipe.metric,
        columns=recipe.data.columns,
        label_names=recipe.data.labels,
        **recipe.task_options,
    )
    if not recipe.data.train or not recipe.data.eval:
        missing = "--train" if not recipe.data.train else "--eval"
        raise UsageError(
            f"There are no {'training' if missing == '--train' else 'evaluation'} examples.",
            got="nothing",
            allowed="a file, or a datasets name such as glue/sst2",
            next_step=f"add {missing}",
        )
    rows = load_examples(
        recipe.data.train, split=recipe.data.train_split, limit=recipe.data.limit_train
    )
    with _part("training", "correct the --train file; without any labels it is taken too"):
        train = task.examples(rows, need_labels=False)
    rows = load_examples(
        recipe.data.eval, split=recipe.data.eval_split, limit=recipe.data.limit_eval
    )
    with _part("evaluation", "correct the --eval file; only --train may go without labels"):
        evaluation = task.examples(rows)
    train, dropped = drop_overlap(train, evaluation)
    if dropped:
        session.warn(
            f"{dropped} training examples stand in the evaluation set too; they are left out of "
            "calibration."
        )
    if len(train) < 8:
        raise UsageError(
            "There are too few training examples to calibrate on.",
            got=f"{len(train)}"
            + (f" after leaving out {dropped} that are in the evaluation set" if dropped else ""),
            allowed="at least 8, better 512 to 2048",
            next_step="give a --train file other than the --eval file"
            if dropped
            else "give a --train file with more of them",
        )
    wanted = recipe.calibration.examples
    rows = choose(train, wanted, recipe.calibration.seed, replacement=recipe.method.replacement)
    if len(rows) < wanted:
        session.progress.note(f"calibrating on all {len(rows)} training examples ({wanted} asked)")
    calibration = [train[i] for i in rows]
    data = DataPart(
        calibration=len(calibration),
        evaluation=len(evaluation),
        calibration_hash=set_hash(calibration),
        evaluation_hash=set_hash(evaluation),
        training_hash=set_hash(train),
        overlap=overlap(calibration, evaluation),
        dropped_overlap=dropped,
    )
    examples = Examples(task, calibration, evaluation, data)
    if not examples.labelled:
        fisher = "the Fisher information is that of what the model itself predicts"
        session.progress.note(
            f"the calibration examples have no labels: "
            f"{fisher if find('scorer', recipe.method.scorer).uses_labels else 'the scorer needs none'}"
        )
    examples.calibration_features = _encode(session, task, calibration, "calibration")
    examples.evaluation_features = _encode(session, task, evaluation, "evaluation")
    return examples


@contextmanager
def _part(name: str, next_step: str) -> Iterator[None]:
    """What is wrong with examples is said with whose they are."""
    try:
        yield
    except UsageError as error:
        raise UsageError(
            f"The {name} examples: {error.what}",
            got=error.got,
            allowed=error.allowed,
            next_step=error.next_step or next_step,
        ) from None


@contextmanager
def _silent() -> Iterator[None]:
    """Without transformers' own warnings."""
    import transformers

    before = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(before)


def _encode(session: Session, task: Task, examples: list[Example], part: str) -> list[Feature]:
    features = task.encode(examples)
    if task.truncated:
        session.progress.note(
            f"{task.truncated} of {len(examples)} {part} texts are longer than {task.max_length} "
            "tokens and are cut (--max-length)"
        )
    return features


def check_lengths(recipe: Recipe, limit: int) -> None:
    """Raises UsageError for lengths that were asked for and are not within what the model takes."""
    workload = recipe.workload
    for what, option, value, asked in (
        (
            "Inputs may be longer than the model takes.",
            "--max-length",
            recipe.max_length,
            recipe.given("max_length"),
        ),
        (
            "The sequence length to be timed is longer than the model takes.",
            "--sequence",
            workload.sequence,
            recipe.given("workload.sequence"),
        ),
    ):
        if value > limit and asked:
            raise UsageError(
                what,
                got=f"{option} {value}",
                allowed=f"at most {limit} tokens",
                next_step=f"use {option} {limit} or less",
            )


def _fit_lengths(session: Session, limit: int | None) -> None:
    """Lengths that were asked for must be within what the model takes; the defaults give way to
    it."""
    if limit is None:
        return
    recipe, workload = session.recipe, session.recipe.workload
    check_lengths(recipe, limit)
    session.recipe = recipe.model_copy(
        update={
            "max_length": min(recipe.max_length, limit),
            "workload": workload.model_copy(update={"sequence": min(workload.sequence, limit)}),
        }
    )


def _fit_engine(session: Session, limit: int | None) -> None:
    """An engine takes no more than it was built for: it must hold all that it will be run on, and
    the model must hold it."""
    if not session.served_by.capabilities.profiled:
        return
    recipe, engine = session.recipe, session.recipe.engine
    require_size(
        "--max-batch", engine.max_batch, recipe.workload.batch, "what is timed", lower="--batch"
    )
    longest = max(recipe.workload.sequence, recipe.max_length)
    require_size(
        "--max-sequence",
        engine.max_sequence,
        longest,
        "what is timed and the task's --max-length",
        lower="--sequence and --max-length",
        positions=limit,
    )


def _check_options(cls: type[Task], options: dict[str, Any]) -> None:
    """Raises UsageError for task options the task does not have, or of another type."""
    common = set(inspect.signature(Task.__init__).parameters) | {"more"}
    known = {n: p for n, p in inspect.signature(cls.__init__).parameters.items() if n not in common}
    for name, value in options.items():
        number = isinstance(value, (int, float)) or value is None
        if name not in known or not number:
            raise UsageError(
                f"{cls.name} does not take this option.",
                got=f"task_options: {name}: {value!r}",
                allowed=", ".join(f"{n} (default {p.default})" for n, p in known.items()) or "none",
            )


def require_no_data(recipe) -> None:
    """Raises UsageError for data of the user's own, which the quickstart's model was not trained
    for."""
    if recipe.data.train or recipe.data.eval:
        raise UsageError(
            "The quickstart has a model and data of its own.",
            got=f"--train {recipe.data.train}, --eval {recipe.data.eval}",
            allowed="the quickstart without data, or a model of yours with your data",
            next_step="name the model too: rfx prune-export MODEL --task ... --train ... --eval "
            "...",
        )


def quickstart_recipe(recipe, prepared: dict[str, Path]):
    """The recipe with the embedded model and its data."""
    data = recipe.data.model_copy(
        update={"train": str(prepared["train_path"]), "eval": str(prepared["eval_path"])}
    )
    return recipe.model_copy(update={"data": data, "model": str(prepared["model_dir"])})


def absolute(recipe):
    """The recipe with local paths made absolute, so that evidence is good from any folder."""

    def whole(value: str | None) -> str | None:
        return (
            str(Path(value).expanduser().absolute())
            if value and Path(value).expanduser().exists()
            else value
        )

    data = recipe.data.model_copy(
        update={"train": whole(recipe.data.train), "eval": whole(recipe.data.eval)}
    )
    return recipe.model_copy(update={"data": data, "model": whole(recipe.model)})
