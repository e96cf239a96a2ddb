"""A checkpoint from a folder or the hub becomes a subject: its sites are found, and proved."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from rfx.core.errors import UnsupportedModelError, UsageError, first_line, in_words, is_interrupt
from rfx.core.inputs import InputSpec
from rfx.core.output import SENTENCE
from rfx.core.signs import refuse_saved
from rfx.core.values import short
from rfx.models.canonical import canonical
from rfx.models.configuration import check_values, make_configuration, set_switches
from rfx.models.families.find import inspect_model, position_limit
from rfx.models.place import CONFIG, Place, look_at, refuse_own_code
from rfx.models.sizes import check_shapes, check_sizes, stored
from rfx.models.subject import Subject
from rfx.models.weights import (
    check_loaded,
    check_positions,
    check_tokenizer,
    require_finite_weights,
)

if TYPE_CHECKING:
    import transformers

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
    there is no checkpoint to read.

    Raises:
        UsageError: its configuration is damaged, too large or no object.
    """
    place = Place.of(source) if source is not None else None
    if place is None or place.folder is None or place.file(CONFIG) is None:
        return None
    named = place.read(CONFIG).get("architectures")
    return str(named[0]) if isinstance(named, list) and named else ""


def gives_vectors(source: str) -> bool:
    """Whether a local model is one of sentence-transformers that gives one vector a text.

    Raises:
        UsageError: its modules.json is damaged.
    """
    from rfx.models.sentence_files import is_sentence_folder

    return is_sentence_folder(Place.of(source))


def own_length(config: transformers.PretrainedConfig) -> int | None:
    """The tokens that a sentence encoder cuts its texts at; None where it does not say it."""
    length = (getattr(config, SENTENCE, None) or {}).get("max_length")
    return None if length is None else int(length)


def load_subject(
    source: str,
    *,
    task: str,
    auto_class: str,
    load_preprocessor: Callable[[str], Any] = lambda source: None,
    input_spec: Callable[[Any, Any], InputSpec | None] = lambda model, preprocessor: None,
    sentence: bool = False,
    pooling: str | None = None,
) -> Subject:
    """A checkpoint from a local folder or the hub, in float32 and eval mode, its sites proved.

    Args:
        source: a folder, or a name on the hub.
        task: the task's name, for messages.
        auto_class: the Auto class of transformers that loads a model with the task's head.
        load_preprocessor, input_spec: the task's own (see `rfx.tasks.base.Task`); where they give
            None, the model is one of text.
        sentence: whether the task takes the encoder with what makes one vector of its tokens'.
        pooling: how, where the model does not say it (see `rfx.models.sentence.POOLINGS`).

    Raises:
        UsageError: there is no such model, or it has no head for the task.
        UnsupportedModelError: rfx cannot prune models of this family.
    """
    import torch
    import transformers

    auto = getattr(transformers, auto_class)
    place = Place.of(source)
    spec = None
    if sentence:
        from rfx.models.sentence_files import encoder_of, sentence_spec

        with _named(place):
            spec = sentence_spec(place, pooling)
        place = encoder_of(place, spec)
    look_at(place)
    with _named(place):
        raw = place.read(CONFIG)
    refuse_own_code(place, raw, auto_class)
    check_values(place, raw)
    with _named(place):
        weights = stored(place)
    if weights is not None:
        check_sizes(place, raw, weights)
    config = make_configuration(place)
    if type(config) not in auto._model_mapping:
        raise UnsupportedModelError(
            f"transformers has no {task} head for {config.model_type}.",
            got=source,
            allowed="a model of a family that has one",
            next_step="give the --task that it was fine-tuned for",
        )

    def make(asked: transformers.PretrainedConfig) -> transformers.PreTrainedModel:
        made: transformers.PreTrainedModel = auto.from_config(asked, trust_remote_code=False)
        return made

    empty = check_shapes(place, make, config, weights)
    check_positions(place, config, empty)
    try:
        with _silent():  # what is missing is said below, in words that say what to do
            model, info = auto.from_pretrained(
                place.name,
                config=config,
                dtype=torch.float32,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
            )
    except UnpicklingError:
        raise _unsafe(place) from None
    except Exception as error:
        # Damaged files show as any exception of the libraries that read them.
        if is_interrupt(error) or isinstance(error, MemoryError):
            raise
        raise _not_loaded(place, error) from None
    if spec is not None:
        from rfx.models.sentence import as_sentence_encoder, with_length_of, without_pooler

        without_pooler(model, info)
    check_loaded(place, task, make, model, info)
    preprocessor = load_preprocessor(place.name)
    if preprocessor is None:
        preprocessor = _tokenizer(place)
        check_tokenizer(preprocessor, model, source)
    if spec is not None:
        model = as_sentence_encoder(model, with_length_of(spec, preprocessor))
    return as_subject(model, preprocessor, source, input_spec(model, preprocessor))


def as_subject(
    model: transformers.PreTrainedModel,
    preprocessor: Any,
    source: str,
    inputs: InputSpec | None = None,
) -> Subject:
    """A model that is in memory already, with its tokenizer or another preprocessor, as a subject.

    The model is put into float32 and eval mode, its parameters lose their gradients and its
    configuration gets plain outputs, in place.

    Raises:
        UsageError: a weight is no finite number.
        UnsupportedModelError: rfx cannot prune models of this family.
    """
    model = model.float().eval()
    canonical(model)
    require_finite_weights(model, source)
    set_switches(model.config)
    for module in model.modules():  # layers keep it for themselves
        if getattr(module, "chunk_size_feed_forward", 0):
            module.chunk_size_feed_forward = 0  # type: ignore[assignment]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    seen = inspect_model(model, inputs)
    inputs = inputs or text_inputs(model, preprocessor)
    return Subject(
        model, preprocessor, seen.sites, inputs, source, model_hash(model), inspection=seen
    )


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


def _tokenizer(place: Place) -> Any:
    import transformers

    source, folder = place.source, place.folder
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(place.name, trust_remote_code=False)
    except Exception as error:
        # What is wrong with a tokenizer comes in many kinds.
        if folder is not None:
            for name in (*TOKENIZER_FILES, "tokenizer_config.json"):
                refuse_saved(folder / name, what="a file of the tokenizer")
        raise UsageError(
            "The model's tokenizer does not load.",
            got=f"{source}: {in_words(error)}",
            allowed="a checkpoint with tokenizer.json",
            next_step=TOKENIZER_ADVICE,
        ) from None
    names = tokenizer.model_input_names
    if not (
        isinstance(names, (list, tuple))
        and all(isinstance(name, str) for name in names)
        and "input_ids" in names
    ):
        raise UsageError(
            "The model's tokenizer does not give the ids of a text.",
            got=f"{source}: model_input_names {short(names)} in tokenizer_config.json",
            allowed="a list of names with input_ids among them",
            next_step="take model_input_names out of tokenizer_config.json: the usual ones are "
            "taken then",
        )
    # transformers makes one without a single word where files are missing.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        none = folder is not None and not any((folder / n).is_file() for n in TOKENIZER_FILES)
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


@contextmanager
def _named(place: Place) -> Iterator[None]:
    """A hub that cannot be asked, or that has no such model, is an error of the user's."""
    try:
        yield
    except OSError as error:
        raise _not_loaded(place, error) from None


def _unsafe(place: Place) -> UsageError:
    return UsageError(
        "The weights are a pickle that holds more than tensors. Reading it could run code that "
        "somebody put there, so rfx does not read it.",
        got=f"{place.source}: pytorch_model.bin",
        allowed="model.safetensors, or a pickle of tensors alone",
        next_step="ask whoever made it for model.safetensors, or save it with save_pretrained "
        "where it was trained",
    )


def _not_loaded(place: Place, error: Exception) -> UsageError:
    first = first_line(error)
    if place.folder is not None:
        return UsageError(
            "The checkpoint does not load.",
            got=f"{place.source}: {first}",
            allowed="what transformers' from_pretrained reads",
            next_step="save it again with save_pretrained, or copy it again",
        )
    return UsageError(
        "There is no such model: it is not a folder here, and the hub does not have it either.",
        got=f"{place.source}: {first}",
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
