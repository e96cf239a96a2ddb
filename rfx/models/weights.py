"""The weights that were read, held against the model that they were read into: a tensor that was
left out, or one that was made up, makes another model than the one that was trained."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rfx.core.errors import UsageError
from rfx.models.misfit import other_shape, refuse_layers
from rfx.models.modules import token_embeddings
from rfx.models.names import NAMED, refuse_names, some
from rfx.models.place import Place

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

# Under which names trainers save the tensors of a model, the likeliest first.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights")
HEADLESS = (
    "This checkpoint has no {task} head: its weights {missing} are missing and would be random."
)
# Tensors of a file that a model with another head has no use for. Nothing that it computes hangs
# on them:
UNUSED = (
    r"(.*\.)?pooler\.(dense\.)?(weight|bias)",  # of the base model, where the head reads no pooler
    r"(.*\.)?(position_ids|token_type_ids)",  # buffers that were saved once
    r"cls\.(predictions|seq_relationship)\..*",  # BERT's heads of pre-training
    r"(lm_head|vocab_(transform|layer_norm|projector))\..*",  # RoBERTa's and DistilBERT's
    r"(generator_(predictions|lm_head)|discriminator_predictions)\..*",  # ELECTRA's
    r"(.*\.)?attn?\.(masked_)?bias",  # constant masks of attention
    r"(.*\.)?rotary_emb(eddings)?\.inv_freq",  # computed from the configuration
    r"(.*\.)?num_batches_tracked",
)


def check_loaded(
    place: Place,
    task: str,
    make: Callable[[PretrainedConfig], PreTrainedModel],
    model: PreTrainedModel,
    info: Mapping[str, Any],
) -> None:
    """Refuse a model unless the file's tensors are what it computes with.

    Args:
        make: makes a model of the configuration.
        info: what transformers says of the loading: missing, unexpected and mismatched keys.

    Raises:
        UsageError: tensors of the file were left out or do not fit, or the model lacks some.
    """
    unexpected = sorted(
        key
        for key in info["unexpected_keys"]
        if not any(re.fullmatch(pattern, key) for pattern in UNUSED)
    )
    missing = sorted(info["missing_keys"])
    config, base = model.config, model.base_model_prefix + "."
    _refuse_wrapped(place, sorted(info["unexpected_keys"]), model, missing)
    given = (set(model.state_dict()) - set(missing)) | set(info["unexpected_keys"])
    refuse_names(place, config, model, given)
    if mismatched := info["mismatched_keys"]:
        name, has, wanted = min(mismatched, key=str)
        raise other_shape(place, make, config, name, tuple(wanted), tuple(has), base)
    refuse_layers(place, config, model, given)
    if lacking := [k for k in missing if k.startswith(base) and "pooler" not in k]:
        raise UsageError(
            f"The weights lack {len(lacking)} tensors that the configuration asks for; they would "
            "be random.",
            got=f"{place.source}: no {some(lacking)}",
            allowed="weights and config.json of one model",
            next_step="save the model again with save_pretrained, or copy all of its files again",
        )
    if missing:
        raise UsageError(
            HEADLESS.format(task=task, missing=", ".join(missing[:NAMED])),
            got=f"{place.source} ({', '.join(config.architectures or ['no architecture named'])}"
            + (", a model of sentence-transformers" if place.file("modules.json") else "")
            + ")",
            allowed="a model fine-tuned for the task",
            next_step="fine-tune it first, or give the --task it was fine-tuned for",
        )
    if unexpected:
        raise UsageError(
            "transformers leaves out weights of this checkpoint, so it would compute another "
            "function than the model that was trained.",
            got=f"{place.source}: {len(unexpected)} left out: {some(unexpected)}"
            f" ({_what_they_are(unexpected)})",
            allowed=f"weights that {next(iter(config.architectures or []), 'the model')} has",
            next_step="save the model again with the class and the version of transformers that it "
            "was trained with; weights that belong to nothing can be deleted from the file",
        )


def _refuse_wrapped(
    place: Place, there: list[str], model: PreTrainedModel, missing: list[str]
) -> None:
    """Refuse weights that lie under a name within their file, beside the state of a training.

    Raises:
        UsageError: they do.
    """
    if not there or any("." in name for name in there) or len(missing) < len(model.state_dict()):
        return
    name = next((n for n in _WRAPPERS if n in there), there[0])
    raise UsageError(
        "The tensors are not at the top of the weights' file, so that none of them is found: they "
        f"most likely lie under {name!r} in it.",
        got=f"{place.source}: {some(there)}",
        allowed="each tensor by its own name, as save_pretrained writes it",
        next_step="load it where it was trained, model.load_state_dict(torch.load(FILE, "
        f"weights_only=True)[{name!r}]), and save the model with save_pretrained",
    )


def check_positions(place: Place, config: PretrainedConfig, model: torch.nn.Module) -> None:
    """Refuse relative positions that the configuration asks for and the model does not have:
    transformers 5 computes such BERTs without them.

    Raises:
        UsageError: they would be left out.
    """
    kind = str(getattr(config, "position_embedding_type", None) or "")
    if not kind.startswith("relative_key") or any(
        "distance_embedding" in name for name, _ in model.named_modules()
    ):
        return
    import transformers

    raise UsageError(
        f"This model has relative positions ({kind}), which transformers "
        f"{transformers.__version__} leaves out of this family: it would compute another function.",
        got=f"{place.source}: position_embedding_type {kind}",
        allowed="absolute positions",
        next_step="fine-tune a model with absolute positions, and prune that",
    )


def _what_they_are(keys: Iterable[str]) -> str:
    """A guess, for a message."""
    text = " ".join(keys)
    for mark, guess in (
        ("distance_embedding", "tables of relative positions"),
        ("lora_", "an adapter that was not merged"),
        ("adapter", "adapters inside of the layers"),
        ("crossattention", "attention of a decoder to an encoder"),
        ("classifier", "a head of another shape or task"),
        ("qa_outputs", "a head for question answering"),
        ("SCB", "scales of a quantized model"),
        ("scale", "scales of a quantized model"),
    ):
        if mark in text:
            return f"probably {guess}"
    return "parts that the model's class does not have"


def require_finite_weights(model: torch.nn.Module, source: str) -> None:
    """Raises UsageError where a weight is no finite number, naming its tensor."""
    import torch

    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            wrong = int((~torch.isfinite(tensor)).sum())
            raise UsageError(
                f"The weights of {name} are not all finite numbers.",
                got=f"{source}: {wrong} of {tensor.numel()} are NaN or infinite",
                allowed="finite numbers",
                next_step="take a checkpoint from before the training diverged",
            )


def check_tokenizer(tokenizer: Any, model: Any, source: str) -> None:
    """Raises UsageError where the tokenizer gives ids for which the model has no embedding."""
    rows = getattr(token_embeddings(model), "num_embeddings", None)
    vocabulary = getattr(tokenizer, "get_vocab", None)
    if rows is None:  # a model that is not fed tokens
        return
    words = vocabulary() if vocabulary is not None else {}
    beyond = sorted((i, word) for word, i in words.items() if i >= rows)
    if beyond:
        raise UsageError(
            "The tokenizer has more tokens than the model has embeddings.",
            got=f"{source}: {rows} embeddings; {len(beyond)} tokens beyond them, the first "
            f"{beyond[0][1]!r} with id {beyond[0][0]}",
            allowed=f"ids from 0 to {rows - 1}",
            next_step="save the tokenizer that the model was trained with into its folder, or call "
            "model.resize_token_embeddings(len(tokenizer)) and fine-tune it",
        )
    _check_padding(tokenizer, model, source)


def _check_padding(tokenizer: Any, model: Any, source: str) -> None:
    """Raises UsageError for a model that reads the last token which is no padding, where it does
    not know padding from text as the tokenizer writes it: it would read padding without a word."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL,
    )
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED,
    )

    config = model.config
    if config.model_type not in CAUSAL or config.model_type in MASKED:
        return
    ours, theirs = config.pad_token_id, getattr(tokenizer, "pad_token_id", None)
    if ours is None or ours != theirs:
        raise UsageError(
            "The model and its tokenizer do not have the same token of padding, and the model's "
            "answer is read at the last token that is none.",
            got=f"{source}: pad_token_id {ours} in config.json, {theirs} of the tokenizer",
            allowed="one id in both",
            next_step="set both to what it was fine-tuned with, often the token of the end of a "
            "text: model.config.pad_token_id = tokenizer.pad_token_id, and save both again",
        )
