"""A checkpoint from a folder or the hub becomes a subject: its sites are found, and proved."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from rfx.core.errors import UnsupportedModelError, UsageError, first_line
from rfx.core.inputs import InputSpec
from rfx.models.families.find import REFUSED, find_sites, position_limit
from rfx.models.prove import prove
from rfx.models.subject import Subject

if TYPE_CHECKING:
    import transformers

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
TOKENIZER_ADVICE = "save the tokenizer into the same folder"


def architecture_of(source: str | None) -> str | None:
    """The first architecture that a local checkpoint names, "" where it names none; None where
    there is no checkpoint to read."""
    config = Path(source or "").expanduser() / "config.json"
    if source is None or not config.is_file():
        return None
    try:
        data = json.loads(config.read_text(encoding="utf-8"))
        return str((data.get("architectures") or [""])[0])
    except (ValueError, AttributeError, OSError):
        return None


def load_subject(
    source: str,
    *,
    task: str,
    auto_class: str,
    load_preprocessor: Callable[[str], Any] = lambda source: None,
    input_spec: Callable[[Any, Any], InputSpec | None] = lambda model, preprocessor: None,
) -> Subject:
    """A checkpoint from a local folder or the hub, in float32 and eval mode, its sites proved.

    Args:
        source: a folder, or a name on the hub.
        task: the task's name, for messages.
        auto_class: the Auto class of transformers that loads a model with the task's head.
        load_preprocessor, input_spec: the task's own (see `rfx.tasks.base.Task`); where they give
            None, the model is one of text.

    Raises:
        UsageError: there is no such model, or it has no head for the task.
        UnsupportedModelError: rfx cannot prune models of this family.
    """
    import transformers
    from safetensors import SafetensorError

    auto = getattr(transformers, auto_class)
    folder = Path(source).expanduser()
    local = folder.exists()
    if local and not (folder / "config.json").is_file():
        raise no_checkpoint(folder)
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
            f"transformers has no {task} head for {config.model_type}.", got=first_line(error)
        ) from None
    preprocessor = load_preprocessor(name)
    if preprocessor is None:
        preprocessor = _tokenizer(source, name, folder, local)
    if info["missing_keys"]:
        raise UsageError(
            HEADLESS.format(task=task, missing=", ".join(sorted(info["missing_keys"])[:3])),
            got=f"{source} ({', '.join(config.architectures or ['no architecture named'])})",
            allowed="a model fine-tuned for the task",
            next_step="fine-tune it first, or give the --task it was fine-tuned for",
        )
    return as_subject(model, preprocessor, source, input_spec(model, preprocessor))


def as_subject(
    model: transformers.PreTrainedModel,
    preprocessor: Any,
    source: str,
    inputs: InputSpec | None = None,
) -> Subject:
    """A model that is in memory already, with its tokenizer or another preprocessor, as a subject.

    The model is put into float32 and eval mode and its parameters lose their gradients, in place.

    Raises:
        UnsupportedModelError: rfx cannot prune models of this family.
    """
    model = model.float().eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    sites = find_sites(model)
    prove(model, sites, inputs)
    inputs = inputs or text_inputs(model, preprocessor)
    return Subject(model, preprocessor, tuple(sites), inputs, source, model_hash(model))


def text_inputs(model: transformers.PreTrainedModel, tokenizer: Any) -> InputSpec:
    """Inputs of the exported file: those that the tokenizer gives and the model takes."""
    accepted = inspect.signature(type(model).forward).parameters
    names = [n for n in tokenizer.model_input_names if n in accepted]
    return InputSpec.of_text(
        tuple(dict.fromkeys(["input_ids", "attention_mask", *names])),
        vocabulary=int(model.config.vocab_size),
        positions=position_limit(model),
    )


def model_hash(model: transformers.PreTrainedModel) -> str:
    """Hash of weights and configuration. Where a checkpoint lies and which transformers reads it
    say nothing of what it is, so they do not count."""
    config = model.config.to_dict().items()
    facts = {k: v for k, v in config if not k.startswith("_") and k != "transformers_version"}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _tokenizer(source: str, name: str, folder: Path, local: bool) -> Any:
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    except Exception as error:
        # What is wrong with a tokenizer comes in many kinds.
        raise UsageError(
            "The model's tokenizer does not load.",
            got=f"{source}: {first_line(error)}",
            allowed="a checkpoint with tokenizer.json",
            next_step=TOKENIZER_ADVICE,
        ) from None
    # transformers makes one without a single word where files are missing.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
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
            next_step=TOKENIZER_ADVICE,
        )
    return tokenizer


def _refuse_early(config: Any) -> None:
    """Families known not to work are refused before their weights are read."""
    if config.model_type in REFUSED or getattr(config, "pruned_layers", None):
        find_sites(SimpleNamespace(config=config))  # type: ignore[arg-type]


def no_checkpoint(folder: Path) -> UsageError:
    """The error of a place that is there and holds no model."""
    if folder.is_dir():
        what, advice = (
            "This folder holds no Hugging Face checkpoint.",
            "save it with save_pretrained",
        )
    else:
        what = "This is a file, where a model is a folder."
        advice = "name the model's folder; examples go to --train and --eval"
    return UsageError(
        what,
        got=str(folder),
        allowed="a folder with config.json and model.safetensors",
        next_step=advice,
    )


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
        "There is no such model: it is not a folder here, and the hub does not have it either.",
        got=f"{source}: {first}",
        allowed="a local folder with config.json and model.safetensors, or a hub name",
        next_step="check the path; offline, download the model first and give its folder",
    )


@contextmanager
def _silent() -> Iterator[None]:
    """Without transformers' own warnings and progress bars: progress is drawn by whoever called us,
    or by nobody."""
    import transformers

    logging = transformers.utils.logging
    before, drawn = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if drawn:
            logging.enable_progress_bar()
