"""A heterogeneous checkpoint: safetensors and a config with per-layer sizes. No pickle.

`config.pruned_layers` has the sizes for people (`[{heads, filters}, ...]`), `config.rfx` the sites
for the loader.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfx.core import migrate
from rfx.core.errors import UsageError, first_line
from rfx.core.plan import Plan, Site, Update

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
    model.save_pretrained(folder)
    readable(folder / "model.safetensors")
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def load(path: str | Path) -> PreTrainedModel:
    """The pruned model in `path`: a stock transformers model with per-layer sizes, in eval mode.

    It takes plain forwards, `.to()`, `.eval()`, `save_pretrained`; generation is not what it is
    for.

    Raises:
        UsageError: no such folder, not a checkpoint of rfx, or weights that do not fit its sizes.

    Examples:
        >>> model = rfx.load("build")
        >>> model.config.pruned_layers[0]
        {'heads': 11, 'filters': 1152}
    """
    folder = Path(path)
    if (folder / "model" / "config.json").is_file():  # the output folder of prune-export
        folder = folder / "model"
    file = folder / "config.json"
    if not file.is_file():
        raise UsageError(
            "There is no checkpoint here.",
            got=str(path),
            allowed="a folder with config.json and model.safetensors",
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        entry = migrate.checkpoint(config["rfx"], str(file)) if config.get("rfx") else None
        sites = (
            [Site.from_json({k: v for k, v in s.items() if k != "count"}) for s in entry["sites"]]
            if entry
            else []
        )
        counts = {s["name"]: int(s["count"]) for s in entry["sites"]} if entry else {}
        architecture = str(config["architectures"][0]) if entry else ""
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UsageError(f"{file} is damaged.", got=f"{type(error).__name__}: {error}") from None
    if not entry:
        raise UsageError(
            "This checkpoint was not made by rfx.",
            got=str(file),
            allowed="a configuration with an `rfx` entry",
            next_step="load it with transformers",
        )
    return _build(folder, architecture, sites, counts)


def _build(
    folder: Path, architecture: str, sites: list[Site], counts: dict[str, int]
) -> PreTrainedModel:
    import transformers
    from safetensors import SafetensorError

    from rfx.models.shrink import resize

    base = getattr(transformers, architecture, None)
    if base is None:
        raise UsageError(
            f"transformers {transformers.__version__} has no class {architecture}.",
            next_step="install the transformers version the checkpoint was made with",
        )

    def __init__(  # noqa: N807 - a method of the class made below
        self: PreTrainedModel, config: PretrainedConfig, *args: Any, **kwargs: Any
    ) -> None:
        base.__init__(self, config, *args, **kwargs)
        resize(self, sites, counts)

    # A subclass under the same name: from_pretrained builds it with the small shapes, then reads
    # the weights into it.
    small: Any = type(architecture, (base,), {"__init__": __init__, "__module__": base.__module__})
    try:
        model, info = small.from_pretrained(folder, output_loading_info=True)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise UsageError(
            f"The checkpoint in {folder} does not load.", got=first_line(error)
        ) from None
    wrong = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
    if wrong:
        raise UsageError(
            f"The weights in {folder} do not fit its configuration.",
            got=", ".join(map(str, wrong[:4])),
            next_step="make the checkpoint again with rfx prune-export",
        )
    return model.eval()


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
            "The compensation of this output does not load.", got=f"{file}: {first_line(error)}"
        ) from None
