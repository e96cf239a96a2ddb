"""What lies where a model should be, looked at before transformers is asked: other formats are
named, and a folder that brings Python code of its own is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfx.core.bounded import read_json
from rfx.core.errors import UnsupportedModelError, UsageError, first_line
from rfx.core.home import at_home
from rfx.core.recognised import MODEL, refuse_other

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
AGAIN = "save the model again with save_pretrained, or copy all of its files again"
NAMED = 5  # folders in a message
MOST_MB = 16  # of a configuration: the largest have some thousand label names
# Files that may name classes which a folder brings along, and the entry of each that matters.
_CODE = (
    "config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)
_PREPROCESSORS = (
    "AutoTokenizer",
    "AutoProcessor",
    "AutoImageProcessor",
    "AutoFeatureExtractor",
    "AutoVideoProcessor",
)
_CHECKPOINT = "a folder with config.json and model.safetensors"
# Other formats of weights: (pattern of their files, what they are, what to do).
_FORMATS = (
    (
        "*.gguf",
        "This is a GGUF model, a quantized format for llama.cpp.",
        "give the folder of the model that the GGUF file was made from",
    ),
    (
        "tf_model.h5",
        "The folder has weights of TensorFlow only.",
        "load it with from_pretrained(..., from_tf=True) in transformers 4 with TensorFlow "
        "installed, save it with save_pretrained and give that folder",
    ),
    (
        "flax_model.msgpack",
        "The folder has weights of Flax only.",
        "load it with from_pretrained(..., from_flax=True) in transformers 4 with Flax installed, "
        "save it with save_pretrained and give that folder",
    ),
    *(
        (
            pattern,
            "The folder has an exported ONNX graph only.",
            "give the checkpoint that the graph was exported from; rfx exports it again when it is "
            "pruned",
        )
        for pattern in ("*.onnx", "*/*.onnx")  # no deeper: it may be the root of a disk
    ),
    (
        "*openvino*.xml",
        "The folder has a model of OpenVINO only.",
        "give the checkpoint that it was converted from",
    ),
)


@dataclass(frozen=True)
class Place:
    """A local folder, or a name on the hub.

    Args:
        source: as the user wrote it.
        folder: the local folder, None for a name on the hub.
    """

    source: str
    folder: Path | None

    @classmethod
    def of(cls, source: str) -> Place:
        """A source that exists here is a local one.

        Raises:
            UsageError: it is no path at all.
        """
        try:
            if not source.strip() or "\0" in source:
                raise ValueError("it is empty, or holds a NUL character")
            folder = at_home(source)
            return cls(source, folder if folder.exists() else None)
        except (OSError, ValueError, RuntimeError) as error:  # too long, or of no user
            raise UsageError(
                "This is no name of a model.",
                got=f"{source[:80]}: {first_line(error)}",
                allowed=f"{_CHECKPOINT}, or a hub name",
                next_step="correct the path or the name",
            ) from None

    @property
    def name(self) -> str:
        """What transformers is asked for."""
        return str(self.folder) if self.folder else self.source

    def file(self, name: str) -> Path | None:
        """A file of the model, None where it has none. One of a hub's model is fetched, unless it
        is in the hub's cache.

        Raises:
            OSError: the hub has no such model, or cannot be asked.
        """
        if self.folder is not None:
            path = self.folder / name
            return path if path.is_file() else None
        from transformers.utils.hub import cached_file

        # Without a configuration there is no such model, which the hub's error says.
        found = cached_file(self.source, name, _raise_exceptions_for_missing_entries=name == CONFIG)
        return Path(found) if found else None

    def read(self, name: str) -> dict[str, Any]:
        """The object in a JSON file of the model, {} where there is no such file.

        Raises:
            UsageError: the file is damaged, too large, nested too deep or no object.
        """
        file = self.file(name)
        if file is None:
            return {}
        data = read_json(file, what="model's configuration", most_mb=MOST_MB)
        if not isinstance(data, dict):
            raise UsageError(
                f"{name} does not hold an object.",
                got=f"{file}: a {_json_kind(data)}",
                allowed="a JSON object, {...}, as save_pretrained writes it",
                next_step="save the model again with save_pretrained, or copy it again",
            )
        return data


def _json_kind(value: Any) -> str:
    kinds: dict[type, str] = {list: "list", str: "text", bool: "truth value", type(None): "null"}
    return kinds.get(type(value), "number")


def look_at(place: Place) -> None:
    """Refuse a local folder that holds no checkpoint of transformers, by what it holds instead.

    Raises:
        UsageError: a file, an adapter, another format, or nothing of a model.
    """
    folder = place.folder
    if folder is None:
        return
    refuse_other(folder, MODEL)
    if not folder.is_dir():
        raise no_checkpoint(folder)
    if (folder / "adapter_config.json").is_file():
        raise UsageError(
            "This is an adapter of PEFT, which is no model without the one that it was trained on.",
            got=str(folder / "adapter_config.json"),
            allowed=_CHECKPOINT,
            next_step="merge it first: PeftModel.from_pretrained(base, folder)"
            ".merge_and_unload().save_pretrained(merged), then give the merged folder",
        )
    has_config = (folder / CONFIG).is_file()
    if has_config and any((folder / n).is_file() for n in (*WEIGHTS, *PICKLES)):
        return
    for pattern, what, advice in _FORMATS:
        found = next(iter(sorted(folder.glob(pattern))), None)
        if found is not None:
            raise UsageError(what, got=str(found), allowed=_CHECKPOINT, next_step=advice)
    if not has_config:
        raise no_checkpoint(folder)
    if others := _other_weights(folder):
        raise UsageError(
            "The weights in this folder have a name that transformers does not look for.",
            got=f"{folder}: {', '.join(others[:NAMED])}",
            allowed=f"{', '.join((*WEIGHTS, *PICKLES))}",
            next_step="save the model with save_pretrained; or, if this is one whole file of the "
            f"model's tensors, rename it to {WEIGHTS[0]} (of safetensors) or {PICKLES[0]}",
        )


def no_checkpoint(folder: Path) -> UsageError:
    """The error of a place that is there and holds no model."""
    if folder.is_dir() and (folder / "modules.json").is_file():
        what = "This is a folder of sentence-transformers, whose model lies in a folder within."
        advice = "fine-tune the model with a head for your task, and give that"
    elif folder.is_dir():
        what = "This folder holds no Hugging Face checkpoint."
        advice = "save it with save_pretrained"
        if any((folder / name).is_file() for name in (*WEIGHTS, *PICKLES)):
            what = "This folder has weights and no config.json, which says what model they are of."
            advice = (
                "put the config.json of that model beside them, or save it with save_pretrained"
            )
        if found := checkpoints_in(folder):
            what = "This folder holds no Hugging Face checkpoint itself; a folder in it does."
            if len(found) > 1:
                what = "This folder holds no Hugging Face checkpoint itself; folders in it do."
            advice = f"give one of {', '.join(map(str, found[-NAMED:]))}"
            if len(found) == 1:
                advice = f"give {found[0]}"
    elif folder.suffix == ".gguf":
        _, what, advice = _FORMATS[0]
    else:
        what = "This is a file, where a model is a folder."
        advice = "name the model's folder; examples go to --train and --eval"
    return UsageError(what, got=str(folder), allowed=_CHECKPOINT, next_step=advice)


def _other_weights(folder: Path) -> list[str]:
    """Files that are most likely weights, by their names; what a trainer keeps of itself is not."""
    kinds = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
    own = ("training_args", "optimizer", "scheduler", "rng_state", "scaler", "update")
    return sorted(
        file.name
        for file in folder.iterdir()
        if file.suffix in kinds and not file.name.startswith(own) and file.is_file()
    )


def checkpoints_in(folder: Path) -> list[Path]:
    """The folders in a folder, or one deeper, that hold a checkpoint: a trainer writes one after
    the other (checkpoint-500, checkpoint-1000), which are in the order of their numbers."""
    files = [*folder.glob(f"*/{CONFIG}"), *folder.glob(f"*/*/{CONFIG}")][:1000]
    found = [
        file.parent
        for file in files
        if any((file.parent / name).is_file() for name in (*WEIGHTS, *PICKLES))
    ]
    return sorted(found, key=lambda f: (len(f.parts), [_number(p) for p in f.parts], f))


def _number(name: str) -> int:
    digits = re.search(r"(\d{1,12})$", name)
    return int(digits[1]) if digits else -1


def refuse_own_code(place: Place, config: Mapping[str, Any], auto_class: str) -> None:
    """Refuse a model that needs Python code that lies beside its weights. rfx never runs such code,
    and never asks whether it should.

    A folder that names classes which transformers has too is loaded with those of transformers.

    Raises:
        UnsupportedModelError: transformers has no such class.
    """
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    wanted = ("AutoConfig", "AutoModel", auto_class, *_PREPROCESSORS)
    foreign = {
        f"{file}: {auto} is {reference}"
        for file in _CODE
        for auto, reference in _own_classes(config if file == CONFIG else place.read(file))
        if auto in wanted
        and not hasattr(transformers, reference.rpartition("--")[2].rpartition(".")[2])
    }
    unknown = str(config.get("model_type")) not in CONFIG_MAPPING_NAMES
    if not foreign and unknown and config.get("auto_map"):
        foreign = {f"{CONFIG}: model_type is {config.get('model_type')!r}, and it has an auto_map"}
    if foreign:
        raise UnsupportedModelError(
            "This model brings Python code of its own, which rfx does not run: its classes are not "
            "part of transformers.",
            got="; ".join(sorted(foreign)),
            allowed="a model whose classes transformers has",
            next_step="fine-tune a model of a family that transformers has, and prune that",
        )


def _own_classes(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(Auto class, the class that the folder has for it) of an `auto_map`."""
    entries = data.get("auto_map")
    if isinstance(entries, list | tuple):  # how tokenizers wrote it once
        entries = {"AutoTokenizer": entries}
    if not isinstance(entries, dict):
        return []
    found = []
    for auto, given in entries.items():
        for reference in given if isinstance(given, list | tuple) else [given]:
            if isinstance(reference, str):
                found.append((str(auto), reference))
    return found
