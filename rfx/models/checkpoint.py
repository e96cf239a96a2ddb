"""A heterogeneous checkpoint: safetensors and a config with per-layer sizes. No pickle.

`config.pruned_layers` has the sizes for people (`[{heads, filters}, ...]`), `config.rfx` the sites
for the loader.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfx.core import migrate
from rfx.core.bounded import as_path, read_json
from rfx.core.errors import UsageError, first_line, in_words, is_interrupt
from rfx.core.output import SENTENCE
from rfx.core.plan import Plan, Site, Update
from rfx.core.values import short
from rfx.models.configuration import check_values, unread
from rfx.models.misfit import refuse_sites
from rfx.models.place import CONFIG, MOST_MB, Place
from rfx.models.sizes import check_shapes, check_sizes, stored

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def readable(file: Path) -> None:
    """The mode that every new file gets: safetensors makes its own for their owner alone."""
    import os

    mask = os.umask(0)
    os.umask(mask)
    if file.is_file():
        file.chmod(0o666 & ~mask)


def save(
    model: PreTrainedModel,
    sites: Sequence[Site],
    plan: Plan,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> None:
    """Write config.json, model.safetensors and the tokenizer into `folder` (made if it is not
    there)."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.pruned_layers = plan.layers
    model.config.rfx = {
        "schema_version": migrate.CHECKPOINT,
        "plan": plan.hash,
        "sites": [{**site.to_json(), "count": plan[site.name].count} for site in sites],
    }
    model.config.architectures = [type(model).__name__]
    if hasattr(model, SENTENCE):
        from rfx.models.sentence_files import write_sentence

        write_sentence(model, folder)
        own = {k: v for k, v in model.state_dict().items() if not k.startswith(f"{SENTENCE}.")}
        model.save_pretrained(folder, state_dict=own)
    else:
        model.save_pretrained(folder)
    for file in folder.rglob("model.safetensors"):
        readable(file)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def load(path: str | Path) -> PreTrainedModel:
    """The pruned model in `path`: a stock transformers model with per-layer sizes, in eval mode.

    It computes attention as model.onnx does ("eager"), so both agree on every input. The faster
    "sdpa" of `model.set_attn_implementation("sdpa")` gives other numbers for a row of padding
    alone, of which no output means anything.

    It takes plain forwards, `.to()`, `.eval()`, `save_pretrained`; generation is not what it is
    for.

    Raises:
        UsageError: no such folder, not a checkpoint of rfx, or weights that do not fit its sizes,
            which are compared before memory goes into them.

    Examples:
        >>> model = rfx.load("build")
        >>> model.config.pruned_layers[0]
        {'heads': 11, 'filters': 1152}
    """
    folder = as_path(path, "checkpoint", "a folder with config.json and model.safetensors")
    if (folder / "model" / "config.json").is_file():  # the output folder of prune-export
        folder = folder / "model"
    file = folder / "config.json"
    if not file.is_file():
        raise UsageError(
            "There is no checkpoint here.",
            got=str(path),
            allowed="a folder with config.json and model.safetensors",
            next_step="check the path; it is the output folder of prune-export, or model/ in it",
        )
    config = read_json(file, what="model's configuration", most_mb=MOST_MB)
    try:
        entry = migrate.checkpoint(config["rfx"], str(file)) if config.get("rfx") else None
        sites = (
            [Site.from_json({k: v for k, v in s.items() if k != "count"}) for s in entry["sites"]]
            if entry
            else []
        )
        counts = {s["name"]: s["count"] for s in entry["sites"]} if entry else {}
        for site in sites:
            _require_counts(site, counts[site.name])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UsageError(
            f"{file} is damaged.",
            got=in_words(error),
            next_step="copy it again, or make the checkpoint again with rfx prune-export",
        ) from None
    if not entry:
        raise UsageError(
            "This checkpoint was not made by rfx.",
            got=str(file),
            allowed="a configuration with an `rfx` entry",
            next_step="load it with transformers",
        )
    place = Place(str(folder), folder)
    check_values(place, config)
    return _build(place, config, sites, counts)


def _require_counts(site: Site, count: object) -> None:
    """Raises ValueError where a site does not keep some of its units."""
    for name, value in (("units", site.units), ("width", site.width), ("count", count)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{name} of {short(site.name)} is {short(value)}")
    if isinstance(count, int) and count > site.units:
        raise ValueError(f"{short(site.name)} keeps {count} of {site.units} units")


def _class_of(place: Place, config: Mapping[str, Any]) -> Any:
    """The class of transformers that a checkpoint names.

    Raises:
        UsageError: it names none, or one that is no model's.
    """
    import transformers

    name = next(iter(config.get("architectures") or ()), "")
    try:
        found = getattr(transformers, name, None)
    except (ImportError, RuntimeError):  # the module of a class is imported when it is asked for
        found = None
    if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
        return found
    raise UsageError(
        f"transformers {transformers.__version__} has no class of models {short(name)}.",
        got=f"{place.source}: architectures {short(config.get('architectures'))} in {CONFIG}",
        allowed="the name of the model's class, as rfx prune-export wrote it",
        next_step="install the transformers version the checkpoint was made with, or make the "
        "checkpoint again with rfx prune-export",
    )


def _build(
    place: Place, raw: Mapping[str, Any], sites: list[Site], counts: dict[str, int]
) -> PreTrainedModel:
    from rfx.models.canonical import canonical
    from rfx.models.shrink import resize

    base = _class_of(place, raw)
    weights = stored(place)
    if weights is not None:
        check_sizes(place, raw, weights, max((s.channels for s in sites), default=0))

    def __init__(  # noqa: N807 - a method of the class made below
        self: PreTrainedModel, config: PretrainedConfig, *args: Any, **kwargs: Any
    ) -> None:
        base.__init__(self, config, *args, **kwargs)
        canonical(self)
        resize(self, sites, counts)

    # A subclass under the same name: from_pretrained builds it with the small shapes, then reads
    # the weights into it.
    small: Any = type(base.__name__, (base,), {"__init__": __init__, "__module__": base.__module__})
    try:
        config = base.config_class.from_pretrained(place.folder, trust_remote_code=False)
    except Exception as error:
        if is_interrupt(error) or isinstance(error, MemoryError):
            raise
        raise unread(place, error) from None
    refuse_sites(place, raw, sites)
    # What the small shapes ask for is known before memory goes into them.
    check_shapes(
        place, lambda c: small._from_config(c, attn_implementation="eager"), config, weights
    )
    try:
        model, info = small.from_pretrained(
            place.folder,
            trust_remote_code=False,
            attn_implementation="eager",
            output_loading_info=True,
        )
    except Exception as error:
        raise _not_loaded(place, error) from None
    if hasattr(config, SENTENCE):
        from rfx.models.sentence import without_pooler

        without_pooler(model, info)
    wrong = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
    if wrong:
        raise UsageError(
            f"The weights in {place.source} do not fit its configuration.",
            got=", ".join(map(str, wrong[:4])),
            next_step="make the checkpoint again with rfx prune-export",
        )
    loaded: PreTrainedModel = model.eval()
    if hasattr(loaded.config, SENTENCE):
        from rfx.models.sentence import as_sentence_encoder
        from rfx.models.sentence_files import sentence_spec

        return as_sentence_encoder(loaded, sentence_spec(place, None))
    return loaded


def _not_loaded(place: Place, error: Exception) -> Exception:
    """Damaged files and sites show as any exception of the code that meets them."""
    if is_interrupt(error) or isinstance(error, MemoryError):
        return error
    return UsageError(
        f"The checkpoint in {place.source} does not load.",
        got=first_line(error),
        next_step="make the checkpoint again with rfx prune-export, or copy all of its files again",
    )


def read_update(file: Path) -> Update:
    """The compensation beside an output's plan; none where there is no file.

    Raises:
        UsageError: the file is damaged.
    """
    if not file.is_file():
        return Update()
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return Update.from_arrays(load_file(file))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UsageError(
            "The compensation of this output does not load.",
            got=f"{file}: {first_line(error)}",
            next_step="copy the output again, or make it again with rfx prune-export",
        ) from None
