"""Sentence encoders: a text encoder, and what makes one vector of those of its tokens (Reimers and
Gurevych 2019, "Sentence-BERT"). Its files are in `rfx.models.sentence_files`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from transformers.utils import ModelOutput

from rfx.core.errors import UsageError
from rfx.core.output import SENTENCE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Older models say of each whether they use it; of several the results stand in this order then.
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU")  # classes of torch.nn
MOST_TOKENS = 1 << 20  # what transformers writes for no limit is far above
MASK = "attention_mask"


@dataclass(frozen=True)
class Step:
    """One module after the encoder.

    Args:
        kind: "pooling", "dense" or "normalize".
        poolings: names of `POOLINGS`; of several the results stand one after the other.
        inputs, outputs: channels of a dense layer.
        bias, activation: of a dense layer; the activation is a class of torch.nn.
    """

    kind: str
    poolings: tuple[str, ...] = ()
    inputs: int = 0
    outputs: int = 0
    bias: bool = True
    activation: str = "Identity"

    def to_json(self) -> dict[str, Any]:
        if self.kind == "pooling":
            return {"kind": self.kind, "poolings": list(self.poolings)}
        if self.kind == "normalize":
            return {"kind": self.kind}
        rest = {"inputs": self.inputs, "outputs": self.outputs, "bias": self.bias}
        return {"kind": self.kind, **rest, "activation": self.activation}


@dataclass(frozen=True)
class SentenceSpec:
    """What follows the encoder, and how its texts are written.

    Args:
        steps: the modules in their order, a pooling first.
        prompts: by name, what is written before a text, such as "query: ".
        default_prompt: the name of the one that every text gets; None: none.
        max_length: tokens that a text is cut at; None: not said.
        lower_case: whether texts are written in lower case.
        weights: of the dense layers, by the path within the steps.
        encoder: the folder of the encoder within that of the model.
        of_files: whether the model's own files say all this.
    """

    steps: tuple[Step, ...]
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    max_length: int | None = None
    lower_case: bool = False
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict, compare=False)
    encoder: str = ""
    of_files: bool = False

    def to_json(self) -> dict[str, Any]:
        """What the model's configuration holds of it; the weights are those of the model."""
        return {
            "steps": [step.to_json() for step in self.steps],
            "prompts": dict(self.prompts),
            "default_prompt": self.default_prompt,
            "max_length": self.max_length,
            "lower_case": self.lower_case,
        }


@dataclass
class SentenceOutput(ModelOutput):
    """What a sentence encoder gives: a vector for each token [B, T, d], and one for the text
    [B, e]."""

    last_hidden_state: torch.Tensor | None = None
    sentence_embedding: torch.Tensor | None = None


class Pooling(nn.Module):
    """The vectors of a text's tokens [B, T, d] become one [B, d], or d for each way of pooling."""

    def __init__(self, poolings: Sequence[str]) -> None:
        super().__init__()
        self.poolings = tuple(poolings)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.cat([self._one(name, tokens, mask) for name in self.poolings], dim=-1)

    def _one(self, name: str, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if name == "cls":
            return tokens[:, 0]
        real = mask.to(tokens.dtype).unsqueeze(-1)  # [B, T, 1]
        if name == "max":
            return tokens.masked_fill(real == 0, -1e9).max(dim=1).values
        place = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        if name == "lasttoken":
            last = (mask * place).max(dim=1, keepdim=True).values  # [B, 1]
            return (tokens * (place == last).to(tokens.dtype).unsqueeze(-1)).sum(1)
        if name == "weightedmean":
            real = real * place.to(tokens.dtype).unsqueeze(-1)
        total = real.sum(1).clamp(min=1e-9)  # [B, 1]
        return (tokens * real).sum(1) / (total.sqrt() if name == "mean_sqrt_len_tokens" else total)

    def extra_repr(self) -> str:
        return ", ".join(self.poolings)


class Normalize(nn.Module):
    """A vector [B, d] at length 1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(x, dim=-1)


class Dense(nn.Module):
    """A linear layer and its activation."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.linear = nn.Linear(step.inputs, step.outputs, bias=step.bias)
        self.activation = getattr(nn, step.activation)()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast("torch.Tensor", self.activation(self.linear(x)))


class SentenceHead(nn.Module):
    """Everything after the encoder: [B, T, d] -> [B, e]."""

    def __init__(self, steps: Sequence[Step]) -> None:
        super().__init__()
        made = {"normalize": lambda step: Normalize(), "dense": Dense}
        self.pooling = Pooling(steps[0].poolings)
        self.steps = nn.ModuleList(made[step.kind](step) for step in steps[1:])

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.pooling(tokens, mask)
        for step in self.steps:
            x = step(x)
        return x


def without_pooler(model: PreTrainedModel, info: dict[str, Any]) -> None:
    """Take an encoder's own pooler away where the file has no weights of it: nothing reads it, and
    random ones would make another model of every loading.

    Args:
        info: what transformers says of the loading; the pooler is no longer missing there.
    """
    missing = set(info["missing_keys"])
    ours = {key for key in missing if key.startswith("pooler.")}
    if ours and getattr(model, "pooler", None) is not None:
        model.pooler = None  # type: ignore[assignment]
        info["missing_keys"] = missing - ours


def with_length_of(spec: SentenceSpec, tokenizer: Any) -> SentenceSpec:
    """With the length that newer versions of sentence-transformers write into the tokenizer."""
    longest = getattr(tokenizer, "model_max_length", None)
    said = spec.max_length is not None or not spec.of_files
    if said or not isinstance(longest, int) or not 2 <= longest <= MOST_TOKENS:
        return spec
    return replace(spec, max_length=longest)


def as_sentence_encoder(model: PreTrainedModel, spec: SentenceSpec) -> PreTrainedModel:
    """The same encoder, in place, with what follows it: its outputs are those of
    `SentenceOutput`."""
    base: Any = type(model)

    place = list(inspect.signature(base.forward).parameters).index(MASK) - 1  # without self

    @functools.wraps(base.forward)  # its parameters say which inputs the model takes
    def forward(self: Any, *args: Any, **kwargs: Any) -> SentenceOutput:
        tokens = base.forward(self, *args, **kwargs)[0]
        mask = args[place] if len(args) > place else kwargs.get(MASK)
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.int64, device=tokens.device)
        return SentenceOutput(
            last_hidden_state=tokens, sentence_embedding=self.sentence(tokens, mask)
        )

    # Under the class's own name, which is what a configuration calls it.
    made = type(base.__name__, (base,), {"forward": forward, "__module__": base.__module__})
    model.__class__ = made
    width = int(model.config.hidden_size) * len(spec.steps[0].poolings)
    for step in spec.steps:
        if step.kind == "dense" and step.inputs != width:
            raise UsageError(
                "A dense layer after the encoder does not fit what comes before it.",
                got=f"{step.inputs} inputs, and {width} channels come before it",
                allowed="the layers that the model was trained with",
                next_step="copy all of the model's files again",
            )
        width = step.outputs if step.kind == "dense" else width
    head = SentenceHead(spec.steps)
    head.load_state_dict(dict(spec.weights))
    model.add_module(SENTENCE, head.to(model.device).eval())
    setattr(model.config, SENTENCE, spec.to_json())
    return model
