"""The sizes that a configuration asks for, held against those that the weights' files say they
have, before a model is made or a tensor is read."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfx.core.bounded import read_json
from rfx.core.errors import UnsupportedModelError, UsageError, first_line, in_words, is_interrupt
from rfx.core.signs import head_of, refuse_signed, sign_of
from rfx.models.configuration import FILTERS, HEADS, LAYERS, SIZES, WIDTHS
from rfx.models.misfit import other_shape, refuse_layers
from rfx.models.names import count_layers, refuse_names
from rfx.models.place import AGAIN, CONFIG, MOST_MB, PICKLES, WEIGHTS, Place

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# A model may have parameters that its file does not, tied and unused ones; not many times as many.
_SLACK, _SPARE = 4, 16 << 20
# More labels than any model has: a name is made for each, which takes minutes for millions.
MOST_LABELS = 1_000_000
_FLOATS = ("F64", "F32", "F16", "BF16")
_PICKLED = ("pickle", "torch", "zip")  # the forms in which PyTorch writes weights


@dataclass(frozen=True)
class Stored:
    """What the files of weights hold, as far as it can be known without reading a tensor.

    Args:
        shapes, types: of each tensor, by its name; empty for pickles. Types as safetensors calls
            them: F32, I8.
        tensors: how many there are. elements: at most how many numbers they have together.
        longest: no axis of any tensor is longer.
        description: for messages.
    """

    tensors: int
    elements: int
    longest: int
    description: str
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)


def stored(place: Place) -> Stored | None:
    """What the weights' files hold; None where there are none, which transformers says in its own
    words.

    Raises:
        UsageError: a file of weights, or the index of several, is damaged.
    """
    for name, pickled in (*((n, False) for n in WEIGHTS), *((n, True) for n in PICKLES)):
        file = place.file(name)
        if file is None:
            continue
        files = [file] if not name.endswith(".json") else _parts(place, file)
        return _of_pickles(files) if pickled else _of_safetensors(files)
    return None


def _parts(place: Place, index: Path) -> list[Path]:
    data = read_json(index, what="index of the weights' files", most_mb=MOST_MB)
    table = data.get("weight_map") if isinstance(data, dict) else None
    names = sorted(set(table.values())) if isinstance(table, dict) and table else []
    if not names or not all(isinstance(n, str) and Path(n).name == n for n in names):
        raise UsageError(
            "The index of the weights' files is damaged.",
            got=f"{index}: no weight_map of tensors and names of files beside it",
            next_step=AGAIN,
        )
    found = {name: place.file(name) for name in names}
    if missing := [name for name, file in found.items() if file is None]:
        raise UsageError(
            "Some of the weights' files are missing.",
            got=f"{place.source} lacks {', '.join(missing[:3])}"
            + (f" and {len(missing) - 3} more" if len(missing) > 3 else ""),
            allowed=f"all {len(found)} files that {index.name} names",
            next_step=AGAIN,
        )
    return [file for file in found.values() if file is not None]


def _of_safetensors(files: list[Path]) -> Stored:
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    types: dict[str, str] = {}
    for file in files:
        try:
            with safe_open(file, framework="numpy") as opened:
                for name in opened.keys():  # noqa: SIM118 - the file is no mapping
                    part = opened.get_slice(name)
                    shapes[name], types[name] = tuple(part.get_shape()), part.get_dtype()
        except (SafetensorError, OSError, ValueError) as error:
            refuse_signed(file, "a whole file of safetensors", but=("safetensors",))
            raise UsageError(
                "The checkpoint does not load.",
                got=f"{file}: {first_line(error)}",
                allowed="a whole file of safetensors",
                next_step=AGAIN,
            ) from None
    return Stored(
        len(shapes),
        sum(math.prod(s) for s in shapes.values()),
        max((n for s in shapes.values() for n in s), default=0),
        f"{len(shapes)} tensors of {sum(math.prod(s) for s in shapes.values()):,} numbers",
        shapes,
        types,
    )


def _of_pickles(files: list[Path]) -> Stored:
    """A pickle's shapes are known only to whoever unpickles it; its bytes bound them."""
    size = sum(file.stat().st_size for file in files)
    tensors = 0
    for file in files:
        refuse_signed(file, "pickled weights of PyTorch", but=_PICKLED)
        try:
            with zipfile.ZipFile(file) as archive:
                tensors += sum("/data/" in name for name in archive.namelist())
        except (zipfile.BadZipFile, OSError, ValueError):  # PyTorch's format before 1.6, or damaged
            if sign_of(head_of(file)) is None:
                raise UsageError(
                    "The file of weights is empty."
                    if not file.stat().st_size
                    else "The file of weights is not one that PyTorch writes.",
                    got=str(file),
                    allowed="pickled weights of PyTorch",
                    next_step=AGAIN,
                ) from None
            tensors += file.stat().st_size // 1024 + 1
    return Stored(tensors, size, max(size, 10**6), f"pickled weights of {size:,} bytes")


def check_sizes(place: Place, config: Mapping[str, Any], weights: Stored, widest: int = 0) -> None:
    """Refuse a configuration, as it stands in its file, that asks for more than the weights can
    have: making such a model could take all memory, or hours.

    Args:
        widest: of a pruned model, the most channels that a sublayer of the dense one had. The
            configuration is still the dense one's, the weights are smaller.

    Raises:
        UsageError: with both sizes.
    """
    for name in (*SIZES, *HEADS, *LAYERS):
        value = config.get(name)
        if not isinstance(value, int):
            continue
        most = _most(name, config, weights)
        if name in FILTERS:
            most = max(most, widest)
        if value > most:
            has = f", no more than {most:,} of these"
            if name in LAYERS:
                layers = max(count_layers(weights.shapes, "").values(), default=0)
                has = f", {layers} layers" if layers else ""
            raise UsageError(
                f"The configuration asks for more than the weights have: {name} is {value:,}.",
                got=f"{place.source}: {weights.description}{has}",
                allowed=f"the {CONFIG} that was saved with these weights",
                next_step=AGAIN,
            )


def _most(name: str, config: Mapping[str, Any], weights: Stored) -> int:
    """The most that a configuration may ask for under a name."""
    if name in LAYERS:
        return weights.tensors
    if (
        name == "max_position_embeddings"
    ):  # those that are computed have no table: they cost nothing
        return max(weights.longest, 10**6)
    if name != "num_labels":
        return weights.longest
    most = weights.longest
    if not weights.shapes:  # of a pickle the bytes are known: two at least for each number
        width = next((config[n] for n in WIDTHS if isinstance(config.get(n), int)), 1)
        most = weights.elements // (2 * max(width, 1))
    return min(most, MOST_LABELS)


def check_shapes(
    place: Place,
    make: Callable[[PretrainedConfig], PreTrainedModel],
    config: PretrainedConfig,
    weights: Stored | None,
) -> PreTrainedModel:
    """The model that the configuration asks for, without memory for its weights; every tensor of
    the file that it has must have its shape.

    Args:
        make: makes the model of a configuration.

    Raises:
        UsageError: no model can be made from the configuration, or it differs from the weights.
        UnsupportedModelError: weights that are no floating-point numbers.
    """
    import torch

    try:
        with torch.device("meta"):
            model = make(config)
    except Exception as error:
        # What is wrong in a configuration shows as any exception of the model's own code.
        if is_interrupt(error) or isinstance(error, MemoryError):
            raise
        raise UsageError(
            "transformers cannot make a model from this configuration.",
            got=f"{place.source}: {in_words(error)}",
            allowed=f"a {CONFIG} as save_pretrained writes it",
            next_step=f"correct {CONFIG}, or save the model again with save_pretrained",
        ) from None
    if weights is None:
        return model
    if weights.shapes:  # before its size is judged: a file of another family has another one
        refuse_names(place, config, model, weights.shapes)
        refuse_layers(place, config, model, weights.shapes)
    wanted = {name: tuple(p.shape) for name, p in model.named_parameters()}
    elements = sum(math.prod(s) for s in wanted.values())
    if elements > _SLACK * weights.elements + _SPARE:
        raise UsageError(
            "The configuration asks for a far larger model than the weights are.",
            got=f"{place.source}: a model of {elements:,} parameters, {weights.description}",
            allowed=f"the {CONFIG} that was saved with these weights",
            next_step=AGAIN,
        )
    prefix = model.base_model_prefix + "."
    for name, shape in wanted.items():
        names = (name, name.removeprefix(prefix), prefix + name)
        in_file = next((n for n in names if n in weights.shapes), None)
        if in_file is None:
            continue  # said once it is loaded: transformers knows older names of tensors
        if weights.types[in_file] not in _FLOATS:
            raise UnsupportedModelError(
                "The weights are not of a type that rfx can prune: this model is quantized.",
                got=f"{place.source}: {in_file} of type {weights.types[in_file]}",
                allowed=", ".join(_FLOATS),
                next_step="give the model that it was quantized from",
            )
        if weights.shapes[in_file] != shape:
            has = weights.shapes[in_file]
            raise other_shape(place, make, config, name, shape, has, prefix)
    return model
