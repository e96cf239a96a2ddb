"""Sentence encoders as sentence-transformers writes them down: modules.json, with a folder for each
module after the encoder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast

from rfx.core.bounded import read_json
from rfx.core.errors import UnsupportedModelError, UsageError, in_words
from rfx.core.output import SENTENCE
from rfx.core.values import short
from rfx.models.place import CONFIG, MOST_MB, Place
from rfx.models.sentence import ACTIVATIONS, POOLINGS, SentenceHead, SentenceSpec, Step

if TYPE_CHECKING:
    import torch
    from torch import nn

MODULES = "modules.json"
TYPES = "sentence_transformers.models"  # where every version finds its modules
PROMPTS, LENGTHS = "config_sentence_transformers.json", "sentence_bert_config.json"
KEYS = {  # of a pooling's configuration
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
_NEXT = (
    "give a model of sentence-transformers with a Transformer, a Pooling, and after them no "
    "modules but Dense and Normalize"
)


def is_sentence_folder(place: Place) -> bool:
    """Whether a model is one of sentence-transformers that gives one vector a text.

    Raises:
        UsageError: its modules.json is damaged.
    """
    if place.folder is None or place.file(MODULES) is None:
        return False
    return any(kind == "Pooling" for kind, _ in _modules(place))


def sentence_spec(place: Place, pooling: str | None) -> SentenceSpec:
    """What follows the encoder of a model: what its modules.json says, or a pooling alone that is
    asked for.

    Args:
        pooling: one of `POOLINGS`; None: the model's own.

    Raises:
        UsageError: nothing says how vectors of tokens become one, or a file is damaged.
        UnsupportedModelError: modules that rfx does not know, or similarities that are no cosine.
    """
    if place.file(MODULES) is None:
        if pooling is None:
            raise UsageError(
                "Nothing says how the vectors of a text's tokens become one.",
                got=f"{place.source} without {MODULES}, and no --pooling",
                allowed="a model of sentence-transformers, or --pooling " + ", ".join(POOLINGS),
                next_step="add --pooling as the model was trained; mean is the usual one",
            )
        return SentenceSpec((Step("pooling", (pooling,)),))
    modules = _modules(place)
    kinds = [kind for kind, _ in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or not set(kinds[2:]) <= {"Dense", "Normalize"}:
        raise UnsupportedModelError(
            "rfx does not know how this model makes one vector of a text.",
            got=f"{place.source}: {MODULES} with {short(', '.join(kinds), 200, bare=True)}",
            allowed="Transformer, Pooling, then any of Dense and Normalize",
            next_step=_NEXT,
        )
    steps: list[Step] = [_pooling(place, modules[1][1])]
    weights: dict[str, torch.Tensor] = {}
    for number, (kind, path) in enumerate(modules[2:]):
        if kind == "Normalize":
            steps.append(Step("normalize"))
            continue
        step, tensors = _dense(place, path)
        steps.append(step)
        weights |= {f"steps.{number}.{name}": tensor for name, tensor in tensors.items()}
    if pooling is not None and steps[0].poolings != (pooling,):
        raise UsageError(
            "The model pools in another way than --pooling asks for.",
            got=f"{place.source}: {', '.join(steps[0].poolings)}; --pooling {pooling}",
            allowed="the pooling that the model was trained with",
            next_step="leave --pooling out",
        )
    return _with_texts(
        place, SentenceSpec(tuple(steps), weights=weights, encoder=modules[0][1], of_files=True)
    )


def encoder_of(place: Place, spec: SentenceSpec) -> Place:
    """Where the encoder itself lies: older models have it in a folder of its own.

    Raises:
        UnsupportedModelError: it lies in a folder of a model on the hub.
    """
    if not spec.encoder:
        return place
    if place.folder is None:
        raise UnsupportedModelError(
            "The encoder of this model lies in a folder of its own, which rfx reads from local "
            "models only.",
            got=f"{place.source}: {spec.encoder}",
            allowed="a local folder",
            next_step="download the model first, and give its folder",
        )
    return Place(place.source, place.folder / spec.encoder)


def _modules(place: Place) -> list[tuple[str, str]]:
    """The modules of a model: (the last name of their class, their folder)."""
    file = place.file(MODULES)
    assert file is not None
    listed = read_json(file, what="list of modules", most_mb=MOST_MB)
    try:
        found = [(str(m["type"]).rpartition(".")[2], str(m["path"])) for m in listed]
        if not found:
            raise ValueError("it is empty")
        for _, path in found:
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise ValueError(f"the path {short(path)} leads out of the folder")
    except (TypeError, KeyError, ValueError) as error:
        raise _damaged(place, MODULES, error) from None
    return found


def _within(path: str, name: str) -> str:
    """A file in the folder of a module, which may be that of the model."""
    return str(PurePosixPath(path) / name)


def _pooling(place: Place, path: str) -> Step:
    name = _within(path, CONFIG)
    said = place.read(name)
    if not said:
        raise _damaged(place, name, ValueError("it is missing or empty"))
    mode = said.get("pooling_mode")  # as newer versions have it
    asked = list(mode) if isinstance(mode, list) else [] if mode is None else [mode]
    chosen = asked or [n for n in POOLINGS if said.get(KEYS[n])]
    if not chosen or not all(isinstance(n, str) and n in POOLINGS for n in chosen):
        raise UnsupportedModelError(
            "rfx does not know this pooling.",
            got=f"{place.source}: {short(said, 300)} in {name}",
            allowed=", ".join(POOLINGS),
            next_step=_NEXT,
        )
    if said.get("include_prompt") is False:
        raise UnsupportedModelError(
            "This model leaves its prompts out of the pooling, and an exported file is not told "
            "where a prompt ends.",
            got=f"{place.source}: include_prompt false in {name}",
            allowed="a pooling of all tokens",
            next_step=_NEXT,
        )
    return Step("pooling", tuple(chosen))


def _dense(place: Place, path: str) -> tuple[Step, dict[str, torch.Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    name = _within(path, CONFIG)
    said, file = place.read(name), place.file(_within(path, "model.safetensors"))
    activation = str(said.get("activation_function", "Tanh")).rpartition(".")[2]
    if activation not in ACTIVATIONS:
        raise UnsupportedModelError(
            "rfx does not know the activation of this model's dense layer.",
            got=f"{place.source}: {short(said.get('activation_function'))} in {name}",
            allowed=", ".join(ACTIVATIONS),
            next_step=_NEXT,
        )
    if file is None:
        raise UsageError(
            "The dense layer after the encoder has no weights that rfx reads.",
            got=f"{place.source}: no model.safetensors in {path}",
            allowed="weights as safetensors",
            next_step="save the model again with sentence-transformers 3 or newer",
        )
    try:
        tensors = {n: t.float() for n, t in load_file(file).items()}
        weight = tensors["linear.weight"]
        bias = tensors.get("linear.bias", weight[:, 0])
        if weight.dim() != 2 or tuple(bias.shape) != (weight.shape[0],):
            raise ValueError(f"weights of the shapes {tuple(weight.shape)} and {tuple(bias.shape)}")
        step = Step(
            "dense",
            inputs=int(weight.shape[1]),
            outputs=int(weight.shape[0]),
            bias="linear.bias" in tensors,
            activation=activation,
        )
        if said.get("in_features", step.inputs) != step.inputs or set(tensors) - {
            "linear.weight",
            "linear.bias",
        }:
            raise ValueError(f"weights {short(', '.join(tensors))} do not fit {name}")
    except (OSError, SafetensorError, KeyError, ValueError, IndexError) as error:
        raise _damaged(place, f"{path}/model.safetensors", error) from None
    return step, tensors


def _with_texts(place: Place, spec: SentenceSpec) -> SentenceSpec:
    """With what the model says of how its texts are written."""
    said = place.read(PROMPTS)
    lengths = place.read(f"{spec.encoder}/{LENGTHS}".lstrip("/")) or place.read(LENGTHS)
    similarity = said.get("similarity_fn_name") or "cosine"
    normalized = spec.steps[-1].kind == "normalize"
    if similarity != "cosine" and not (similarity == "dot" and normalized):
        raise UnsupportedModelError(
            "This model compares texts otherwise than by the cosine of their vectors, which is "
            "what rfx keeps.",
            got=f"{place.source}: similarity_fn_name {short(similarity)} in {PROMPTS}",
            allowed="cosine, or dot with vectors of length 1",
            next_step="prune a model that was trained for cosine similarity",
        )
    prompts = said.get("prompts") or {}
    default, longest = said.get("default_prompt_name"), lengths.get("max_seq_length")
    if not isinstance(prompts, dict) or not all(isinstance(p, str) for p in prompts.values()):
        raise _damaged(place, PROMPTS, ValueError("prompts are no texts by name"))
    if default is not None and not (isinstance(default, str) and default in prompts):
        raise _damaged(place, PROMPTS, ValueError(f"there is no prompt {short(default)}"))
    if longest is not None and (not isinstance(longest, int) or longest < 2):
        raise _damaged(place, LENGTHS, ValueError(f"max_seq_length is {short(longest)}"))
    return replace(
        spec,
        prompts=prompts,
        default_prompt=default,
        max_length=longest,
        lower_case=bool(lengths.get("do_lower_case")),
    )


def write_sentence(model: nn.Module, folder: Path) -> None:
    """Write what follows the encoder into its folder, as sentence-transformers reads it."""
    said = getattr(model.config, SENTENCE)
    head = cast("SentenceHead", model.get_submodule(SENTENCE))
    listed = [{"idx": 0, "name": "0", "path": "", "type": f"{TYPES}.Transformer"}]
    width = int(cast("Any", model.config).hidden_size)
    for number, step in enumerate(said["steps"], 1):
        kind = str(step["kind"]).capitalize()
        path = f"{number}_{kind}"
        listed.append(
            {
                "idx": number,
                "name": str(number),
                "path": path,
                "type": f"{TYPES}.{kind}",
            }
        )
        (folder / path).mkdir(exist_ok=True)
        if kind == "Pooling":
            chosen: dict[str, Any] = {KEYS[n]: n in step["poolings"] for n in POOLINGS}
            if sorted(step["poolings"], key=POOLINGS.index) != list(step["poolings"]):
                chosen = {"pooling_mode": step["poolings"]}  # which newer versions alone can read
            _write(
                folder / path / CONFIG,
                {"word_embedding_dimension": width, **chosen, "include_prompt": True},
            )
        elif kind == "Dense":
            from safetensors.torch import save_file

            _write(
                folder / path / CONFIG,
                {
                    "in_features": step["inputs"],
                    "out_features": step["outputs"],
                    "bias": step["bias"],
                    "activation_function": "torch.nn.modules."
                    + f"{'linear' if step['activation'] == 'Identity' else 'activation'}."
                    + step["activation"],
                },
            )
            tensors = head.steps[number - 2].state_dict()
            save_file(dict(tensors), folder / path / "model.safetensors")
    _write(folder / MODULES, listed)
    _write(
        folder / PROMPTS,
        {
            "prompts": said["prompts"],
            "default_prompt_name": said["default_prompt"],
            "similarity_fn_name": "cosine",
        },
    )
    lengths = {} if said["max_length"] is None else {"max_seq_length": said["max_length"]}
    _write(folder / LENGTHS, {**lengths, "do_lower_case": said["lower_case"]})


def _write(file: Path, data: object) -> None:
    file.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def _damaged(place: Place, name: str, error: Exception) -> UsageError:
    return UsageError(
        f"{name} of this model of sentence-transformers is damaged.",
        got=f"{place.source}: {in_words(error)}",
        allowed="what sentence-transformers writes",
        next_step="save the model again with sentence-transformers, or copy all of its files again",
    )
