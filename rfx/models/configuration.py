"""The configuration of a checkpoint: what it asks for is checked before a model is made, and its
switches are set to what rfx needs where that leaves the model's function as it is."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rfx.core.errors import UnsupportedModelError, UsageError, is_interrupt
from rfx.models.families.find import refuse_family
from rfx.models.place import CONFIG, Place

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Whole numbers that configurations have, under the names that the families give them.
SIZES = (
    "hidden_size",
    "dim",
    "d_model",
    "n_embd",
    "embedding_size",
    "intermediate_size",
    "hidden_dim",
    "d_inner",
    "vocab_size",
    "type_vocab_size",
    "max_position_embeddings",
    "num_labels",
)
HEADS = ("num_attention_heads", "n_heads", "n_head")
LAYERS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")
FILTERS = ("intermediate_size", "hidden_dim", "d_inner")  # of the FFN
WIDTHS = ("hidden_size", "dim", "d_model", "n_embd")
_ACTIVATIONS = ("hidden_act", "activation", "activation_function", "hidden_activation")
# Switches that change what a forward pass returns or how it is cut, and not what it computes.
_SWITCHES: dict[str, Any] = {
    "return_dict": True,
    "output_hidden_states": False,
    "output_attentions": False,
    "torchscript": False,
    "use_cache": False,
    "chunk_size_feed_forward": 0,
    "gradient_checkpointing": False,
}
_DECODER = ("is_decoder", "add_cross_attention", "is_encoder_decoder")
# What transformers calls the types of values, in the words of JSON.
_KINDS = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "str": "a text",
    "list": "a list",
    "tuple": "a list",
    "dict": "an object",
    "NoneType": "null",
}
_AGAIN = "correct config.json, or save the model again with save_pretrained"


def check_values(place: Place, config: Mapping[str, Any]) -> None:
    """Refuse a configuration, as it stands in its file, that no model can be made from or whose
    model would be another than the one that was trained.

    Raises:
        UsageError: a value of another type or out of range, or one that transformers ignores.
        UnsupportedModelError: a quantized model, or a decoder.
    """
    _refuse_quantized(place, config)
    if not isinstance(config.get("model_type", ""), str):
        raise _wrong(place, "model_type", config["model_type"], "a text, bert for example")
    for name, value in config.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise _wrong(place, name, value, "a finite number")
    named = config.get("architectures")
    if named is not None and not (
        isinstance(named, list) and all(isinstance(name, str) for name in named)
    ):
        raise _wrong(place, "architectures", named, 'a list of names, ["BertModel"] for example')
    for name in (*SIZES, *HEADS, *LAYERS):
        value = config.get(name)
        if value is None or (name == "max_position_embeddings" and value == -1):
            continue  # XLNet says so that nothing limits its positions
        least = 0 if name in ("type_vocab_size", "num_labels") else 1
        if not _is_whole(value) or value < least:
            raise _wrong(place, name, value, f"a whole number of at least {least}")
    width = next((config[n] for n in WIDTHS if config.get(n)), None)
    for name in HEADS:
        heads = config.get(name)
        if heads and width and width % heads and not config.get("head_dim"):
            raise _wrong(
                place, name, heads, f"a number of heads that divides the {width} channels evenly"
            )
    for name in _ACTIVATIONS:
        if name in config:
            _check_activation(place, name, config[name])
    if config.get("pruned_heads"):
        raise UsageError(
            "Heads of this model were removed with prune_heads, which transformers 5 does not "
            "read any more: it would load another model.",
            got=f"{place.source}: pruned_heads {config['pruned_heads']} in {CONFIG}",
            allowed="a model with all its heads",
            next_step="give the model that it was made from",
        )
    _check_labels(place, config)


def _refuse_quantized(place: Place, config: Mapping[str, Any]) -> None:
    given = config.get("quantization_config")
    if not given:
        return
    method = given.get("quant_method") if isinstance(given, dict) else None
    if method is None and isinstance(given, dict):
        method = "bitsandbytes" if any("load_in_" in k for k in given) else None
    raise UnsupportedModelError(
        "This model is quantized already; pruning starts from full weights.",
        got=f"{place.source}: quantization_config of {method or 'an unnamed method'} in {CONFIG}",
        allowed="weights in float32, float16 or bfloat16",
        next_step="give the model that it was quantized from, or load it in its own library, call "
        "model.dequantize() and save that",
    )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_activation(place: Place, name: str, value: Any) -> None:
    from transformers.activations import ACT2FN

    if not isinstance(value, str) or value not in ACT2FN:
        raise _wrong(place, name, value, ", ".join(sorted(ACT2FN)))


def _check_labels(place: Place, config: Mapping[str, Any]) -> None:
    """The names of the labels: one each, by the numbers from 0."""
    names = config.get("id2label")
    if names is None:
        return
    if not isinstance(names, dict):
        raise _wrong(place, "id2label", names, "an object, number of the label -> name")
    numbers = sorted(int(k) for k in names if str(k).isdecimal())
    if numbers != list(range(len(names))):
        raise _wrong(
            place, "id2label", ", ".join(map(str, names)), "the numbers from 0 on, without a gap"
        )
    if any(isinstance(v, list | dict) for v in names.values()):
        raise _wrong(place, "id2label", names, "a text for each label")
    given = [str(v) for v in names.values()]
    if twice := sorted({n for n in given if given.count(n) > 1}):
        raise _wrong(
            place,
            "id2label",
            f"{', '.join(given)}; {', '.join(twice)} more than once",
            "a name of its own for each label",
            "give each label its own name in id2label and label2id of config.json",
        )


def _wrong(
    place: Place, name: str, value: Any, allowed: str, next_step: str = _AGAIN
) -> UsageError:
    shown = "null" if value is None else repr(value)
    return UsageError(
        f"{name} in the model's configuration is wrong.",
        got=f"{place.source}: {shown if len(shown) <= 200 else shown[:200] + '...'}",
        allowed=allowed,
        next_step=next_step,
    )


def unread(place: Place, error: Exception) -> UsageError:
    """An error for a configuration that transformers' class does not take."""
    said = " ".join(str(error).split())
    named = re.match(r"Validation error for field '(\w+)'", said)
    kinds = dict.fromkeys(_KINDS.get(k, k) for k in re.findall(r"\bexpected (\w+), got", said))
    if _KINDS["float"] in kinds:  # a whole number is one as well
        kinds.pop(_KINDS["int"], None)
    if named and kinds:  # what is said there are Python's names of types
        value = place.read(CONFIG).get(named[1])
        return _wrong(place, named[1], value, " or ".join(kinds))
    return UsageError(
        "transformers cannot read the model's configuration.",
        got=f"{place.source}: {said[:300]}",
        allowed="a config.json of a model that transformers knows",
        next_step=_AGAIN,
    )


def make_configuration(place: Place) -> PretrainedConfig:
    """The configuration as transformers reads it, its switches set.

    Raises:
        UsageError: transformers cannot read it.
        UnsupportedModelError: a family that is known not to work, or a decoder.
    """
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(place.name, trust_remote_code=False)
    except Exception as error:
        # A configuration may hold anything, and transformers' classes raise what they meet.
        if is_interrupt(error) or isinstance(error, MemoryError):
            raise
        raise unread(place, error) from None
    refuse_family(config)
    for name in _DECODER:
        if getattr(config, name, False):
            raise UnsupportedModelError(
                f"The configuration makes this model a decoder: {name} is set. "
                "rfx prunes encoders.",
                got=f"{place.source}: {name} {getattr(config, name)} in {CONFIG}",
                allowed=f"{name} false, where the model was trained so",
                next_step="give a model that was trained as an encoder",
            )
    set_switches(config)
    return config


def set_switches(config: PretrainedConfig) -> None:
    """Set what rfx needs of a configuration, in place; the model's function stays as it is."""
    if getattr(config, "_attn_implementation", None) not in (None, "eager", "sdpa"):
        config._attn_implementation = None  # transformers chooses; the function is the same
    for name, value in _SWITCHES.items():
        if getattr(config, name, value) != value:
            setattr(config, name, value)
