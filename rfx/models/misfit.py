"""Weights that do not fit their configuration: which of its keys says something else than the
file, and what it has to say."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rfx.core.errors import UsageError, is_interrupt
from rfx.core.plan import Site
from rfx.models.configuration import LAYERS, SIZES
from rfx.models.names import count_layers
from rfx.models.place import AGAIN, CONFIG, Place

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

Shape = tuple[int, ...]


def refuse_layers(
    place: Place, config: PretrainedConfig, model: torch.nn.Module, given: Iterable[str]
) -> None:
    """Refuse weights of another number of layers than the configuration asks for.

    Args:
        model: of the configuration; its parameters need no memory.
        given: the names of the tensors in the file.

    Raises:
        UsageError: naming the key, and both numbers.
    """
    base = str(getattr(model, "base_model_prefix", "")) + "."
    wanted = list(model.state_dict())
    has = count_layers(given, base, like=wanted)
    for where, asked in count_layers(wanted, base).items():
        key = next((k for k in LAYERS if config.to_dict().get(k) == asked), None)
        if key is not None and has.get(where, asked) != asked:
            raise other_layers(place, key, asked, has[where], where)


def refuse_sites(place: Place, config: Mapping[str, Any], sites: Sequence[Site]) -> None:
    """Refuse a pruned model whose sites are in layers that its configuration, as it stands in its
    file, does not ask for.

    Raises:
        UsageError: naming the key, and both numbers.
    """
    key = next((k for k in LAYERS if isinstance(config.get(k), int)), None)
    places = [re.fullmatch(r"(.*?)(\d+)", site.layer_path) for site in sites]
    layers = [(int(found[2]), found[1]) for found in places if found is not None]
    if key is not None and layers and config[key] <= max(layers)[0]:
        raise other_layers(place, key, config[key], max(layers)[0] + 1, max(layers)[1])


def other_layers(place: Place, key: str, asked: int, has: int, where: str) -> UsageError:
    """An error that says how many layers config.json asks for and the weights have."""
    some = f"the first {asked} alone" if asked < has else f"a model of {asked} layers"
    return UsageError(
        f"{key} in {CONFIG} is {asked}, and the weights have {has} layers.",
        got=f"{place.source}: {key} {asked} in {CONFIG}, {where}0 to {where}{has - 1} in the "
        "weights",
        allowed=f"{key} {has}, as the weights have it",
        next_step=f"set {key} in {CONFIG} to {has}, the size of the model that was trained; if it "
        f"shall be {some}, load it so with transformers, fine-tune it and save it with "
        "save_pretrained",
    )


def other_shape(
    place: Place,
    make: Callable[[PretrainedConfig], PreTrainedModel],
    config: PretrainedConfig,
    name: str,
    wanted: Shape,
    has: Shape,
    base: str,
) -> UsageError:
    """An error for a tensor of another shape than the configuration asks for.

    Args:
        make: makes the model of a configuration.
        base: what the names of all tensors but the head's begin with.
        wanted, has: its shape by the configuration, and in the weights.
    """
    said = f"{name} {list(has)} in the weights, {list(wanted)} by {CONFIG}"
    labels = getattr(config, "num_labels", None)
    keys = _keys(make, config, name, wanted, has)
    # Another size may be the number of labels by chance: a table of types has two rows as well.
    if (
        not set(keys) - {"num_labels"}
        and not name.startswith(base)
        and wanted[1:] == has[1:]
        and wanted[:1] == (labels,)
    ):
        return _other_head(place, has[0], wanted[0], said)
    if not keys:
        return UsageError(
            "The weights do not fit the configuration.",
            got=f"{place.source}: {said}",
            allowed=f"the {CONFIG} that was saved with these weights",
            next_step=AGAIN,
        )
    asked = " and ".join(f"{key} in {CONFIG} is {getattr(config, key)}" for key in keys)
    mended = " and ".join(f"{key} in {CONFIG} to {size}" for key, size in keys.items())
    return UsageError(
        f"{asked}, and the weights have {' and '.join(map(str, keys.values()))}.",
        got=f"{place.source}: {said}",
        allowed=", ".join(f"{key} {size}" for key, size in keys.items()),
        next_step=f"set {mended}, the size of the model that was trained; or {AGAIN}",
    )


def _other_head(place: Place, outputs: int, labels: int, said: str) -> UsageError:
    """An error for a head of another number of outputs than the configuration has labels."""
    names = "the name of its one label" if outputs == 1 else f"the names of all {outputs} labels"
    return UsageError(
        f"The head has {outputs} {'output' if outputs == 1 else 'outputs'}, and the configuration "
        f"has {labels} {'label' if labels == 1 else 'labels'}.",
        got=f"{place.source}: {said}",
        allowed=f"{outputs} {'name' if outputs == 1 else 'names'} in id2label",
        next_step=f"write {names} into id2label and label2id of {CONFIG}"
        + ("" if outputs == 1 else ", in the order of the training"),
    )


def _keys(
    make: Callable[[PretrainedConfig], PreTrainedModel],
    config: PretrainedConfig,
    name: str,
    wanted: Shape,
    has: Shape,
) -> dict[str, int]:
    """The keys of the configuration that give a tensor its wrong shape, with the sizes that give it
    that of the file. Empty where it cannot be told: a key counts where the model made with the
    other size has the file's."""
    if len(wanted) != len(has):
        return {}
    found: dict[str, int] = {}
    for axis in (a for a in range(len(wanted)) if wanted[a] != has[a]):
        same = [k for k in SIZES if config.to_dict().get(k) == wanted[axis]]
        for key in same:
            other = copy.deepcopy(config)
            setattr(other, key, has[axis])
            shape = _shape(make, other, name)
            if (len(same) == 1) if shape is None else (shape[axis] == has[axis]):
                found[key] = has[axis]
                break
        else:
            return {}
    return found


def _shape(
    make: Callable[[PretrainedConfig], PreTrainedModel], config: PretrainedConfig, name: str
) -> Shape | None:
    """The shape of a parameter of the model that is made; None where none can be made."""
    import torch

    try:
        with torch.device("meta"):
            return tuple(make(config).get_parameter(name).shape)
    except Exception as error:
        # What is wrong in a configuration shows as any exception of the model's own code.
        if is_interrupt(error):
            raise
        return None
