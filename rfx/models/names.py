"""The names of the tensors in a file of weights, held against those of the model: a module of the
training code around the model, and the weights of another family, show in them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from itertools import islice
from typing import TYPE_CHECKING

from rfx.core.errors import UsageError
from rfx.models.place import CONFIG, PICKLES, WEIGHTS, Place

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

_WRAPPERS = {
    "module.": "DistributedDataParallel or DataParallel",
    "_orig_mod.": "torch.compile",
}
NAMED = 3  # keys that a message names
_MOST = 0.8  # of the names that do not fit, which have to fit once they are mended
# A name of a file may be of any length and full of dots: a prefix is looked for within these.
_LONGEST_PREFIX, _MOST_PREFIXES = 300, 16
_DOT = re.compile(r"\.")
_NUMBER = re.compile(r"(.*?\.)(\d{1,9})\.(.*)")


def some(names: list[str]) -> str:
    """The first of many names."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def refuse_names(
    place: Place,
    config: PretrainedConfig,
    model: torch.nn.Module,
    given: Collection[str],
) -> None:
    """Refuse a file whose names are not those of the model, where it can be told why.

    Args:
        model: of the configuration; its parameters need no memory.
        given: the names in the file.

    Raises:
        UsageError: they begin with what a module around the model put there, or with the name of
            another family.
    """
    base = str(getattr(model, "base_model_prefix", "")) + "."
    wanted = set(model.state_dict())
    strange = sorted(n for n in given if not {n, n.removeprefix(base), base + n} & wanted)
    prefix, wrappers = _wrapped(strange)
    if prefix:
        raise _prefixed(place, prefix, "", f"they were saved from within {wrappers}", strange)
    if 2 * (len(given) - len(strange)) > len(wanted):  # the model is there; the rest is said later
        return
    prefix, proper, count = _moved(strange, wanted, base)
    fits = count >= _MOST * len(strange)
    family = _family(strange, base)
    if family and not (fits and not proper):
        raise _other_family(place, config, family, base, strange)
    if fits and prefix:
        why = "the code of the training kept the model within a module of its own"
        raise _prefixed(place, prefix, proper, why, strange)


def count_layers(
    names: Iterable[str], base: str, like: Iterable[str] | None = None
) -> dict[str, int]:
    """How many layers there are under each list of layers: those whose numbers run from 0 on
    without a gap.

    Args:
        base: the prefix of the model within its head (`bert.`), which a file may do without.
        like: names of a model, in whose layers a tensor must be to make one; None: all do.
    """
    parts = None if like is None else {_parts(n, base)[::2] for n in like}
    found: dict[str, set[int]] = {}
    for name in names:
        where, number, part = _parts(name, base)
        if number >= 0 and (parts is None or (where, part) in parts):
            found.setdefault(where, set()).add(number)
    return {where: len(n) for where, n in found.items() if n == set(range(len(n)))}


def _parts(name: str, base: str) -> tuple[str, int, str]:
    """The list of layers that a tensor is in, the number of its layer (-1 for none) and what it is
    called there."""
    match = _NUMBER.match(name.removeprefix(base))
    return (match[1], int(match[2]), match[3]) if match else ("", -1, name)


def _wrapped(keys: Iterable[str]) -> tuple[str, str]:
    """The whole prefix that wrappers have put before a key, one within the other, and the names of
    the wrappers; empty where there is none."""
    for key in keys:
        prefix, wrappers, rest = "", [], key
        while name := next((p for p in _WRAPPERS if rest.startswith(p)), ""):
            prefix, rest = prefix + name, rest.removeprefix(name)
            wrappers.append(_WRAPPERS[name])
        if prefix:
            return prefix, " around ".join(dict.fromkeys(wrappers))
    return "", ""


def _moved(strange: list[str], wanted: Collection[str], base: str) -> tuple[str, str, int]:
    """The prefix that most of the strange names have, the one that the model's have in its place
    (none, or its own), and how many names fit then."""
    counts: Counter[tuple[str, str]] = Counter()
    for proper in ("", base):
        rests = {n.removeprefix(proper) for n in wanted if n.startswith(proper)}
        longest = max(map(len, rests), default=0) + _LONGEST_PREFIX
        for name in strange:
            if len(name) > longest:
                continue
            for dot in islice(_DOT.finditer(name), _MOST_PREFIXES):
                if name[dot.end() :] in rests:
                    counts[name[: dot.end()], proper] += 1
    # Of two that do the same, the one that takes more away: `net.bert.` would leave the model bare.
    (prefix, proper), count = max(
        counts.items(), key=lambda found: (found[1], not found[0][1]), default=(("", ""), 0)
    )
    return prefix, proper, count


def _family(strange: list[str], base: str) -> str:
    """The family of transformers by whose name most of the strange names begin; empty for none."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    first = Counter(n.partition(".")[0] for n in strange).most_common(1)
    if not first:
        return ""
    name, count = first[0]
    known = name.replace("_", "-") in CONFIG_MAPPING_NAMES or name in CONFIG_MAPPING_NAMES
    return name if known and f"{name}." != base and 2 * count > len(strange) else ""


def _other_family(
    place: Place, config: PretrainedConfig, family: str, base: str, strange: list[str]
) -> UsageError:
    import transformers

    prefix = f"{family}."
    # Families share names: XLM-RoBERTa's begin with `roberta.` too. The class says which it is.
    named = next(iter(config.architectures or []), "")
    try:
        cls = getattr(transformers, named, None)
    except (ImportError, RuntimeError):
        cls = None
    if getattr(cls, "base_model_prefix", None) == family:
        family = cls.config_class.model_type  # type: ignore[union-attr]
    return UsageError(
        f"The weights look like those of {family}, and {CONFIG} says {config.model_type}.",
        got=f"{place.source}: model_type {config.model_type} in {CONFIG}; in the weights "
        f"{some([n for n in strange if n.startswith(prefix)])}",
        allowed=f"weights whose names begin with {base!r}, or model_type {family}",
        next_step=f"set model_type in {CONFIG} to the family that was trained, {family} by its "
        "weights; or copy all files of the model again, from one folder",
    )


def _prefixed(place: Place, prefix: str, proper: str, why: str, keys: list[str]) -> UsageError:
    file = next((n for n in (*WEIGHTS, *PICKLES) if place.file(n) is not None), WEIGHTS[0])
    lines = {
        WEIGHTS[0]: (
            "from safetensors.torch import load_file, save_file",
            f'weights = load_file("{file}")',
            "{strip}",
            f'save_file(weights, "{file}", {{"format": "pt"}})',
        ),
        PICKLES[0]: (
            "import torch",
            f'weights = torch.load("{file}", weights_only=True, map_location="cpu")',
            "{strip}",
            f'torch.save(weights, "{file}")',
        ),
    }
    name = f'k.removeprefix("{prefix}")'
    if proper:
        name = f'"{proper}" + {name} if k.startswith("{prefix}") else k'
    strip = f"weights = {{{name}: v for k, v in weights.items()}}"
    inner = "model." + prefix
    if file in lines:
        code = [line.replace("{strip}", strip) for line in lines[file]]
        advice = (f"put {proper!r} in its place" if proper else "strip it") + ", in Python:\n"
        advice += "\n".join(" " * 13 + line for line in code)
    elif prefix.split(".")[0] + "." in _WRAPPERS:
        advice = (
            "save the model again, from within: model.module.save_pretrained(folder), or "
            "model._orig_mod.save_pretrained(folder)"
        )
    else:
        advice = f"save the model again, from within: {inner}save_pretrained(folder)"
    return UsageError(
        f"The weights' names begin with {prefix!r}"
        + (f" in place of {proper!r}" if proper else "")
        + f": {why}.",
        got=f"{place.source}: {some(keys)}",
        allowed="the names that save_pretrained gives",
        next_step=advice,
    )
