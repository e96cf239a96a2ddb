"""The dense model with what rfx knows of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from rfx.core.inputs import InputSpec
from rfx.core.plan import Kind, Site
from rfx.models.families.find import Inspection, family_name
from rfx.models.place import Place
from rfx.models.vocabulary import Vocabulary

if TYPE_CHECKING:
    import transformers
    from torch import nn


@dataclass(frozen=True)
class Subject:
    """A dense model whose sites were found and proved.

    Args:
        model: the model in float32 and eval mode, without gradients of its parameters.
        preprocessor: what turns raw examples into inputs: the tokenizer.
        sites: the prunable sublayers in execution order.
        inputs: what the exported graph is fed.
        source: the folder or hub name that the model came from.
        hash: of weights and configuration.
        vocabulary: the entries that finished models keep; None: all of them. The model itself has
            all, and everything that is searched and compared with goes by them.
        inspection: how the sites were found, and what is left alone.
    """

    model: transformers.PreTrainedModel
    preprocessor: Any
    sites: tuple[Site, ...]
    inputs: InputSpec
    source: str
    hash: str
    vocabulary: Vocabulary | None = None
    inspection: Inspection | None = None

    @property
    def as_served(self) -> Subject:
        """What finished models are fed: the same subject, with the inputs and the tokenizer of the
        vocabulary that they keep."""
        if self.vocabulary is None:
            return self
        own = [
            i if i.vocabulary is None else replace(i, vocabulary=self.vocabulary.after)
            for i in self.inputs.inputs
        ]
        inputs = InputSpec(tuple(own), self.inputs.limits)
        return replace(self, inputs=inputs, preprocessor=self.vocabulary.tokenizer)

    @property
    def name(self) -> str:
        """What the model is called where others read it: its name on the hub, or the last part of
        its folder. Where the folder lies is nobody's business."""
        folder = Place.of(self.source).folder
        return folder.resolve().name if folder else self.source

    @property
    def hidden(self) -> int:
        """Channels of the residual stream."""
        return int(self.model.get_submodule(self.sites[0].output).out_features)  # type: ignore[arg-type]

    @property
    def layers(self) -> int:
        return 1 + max(s.layer for s in self.sites)

    def trained(self, model: nn.Module | None) -> Subject:
        """The same subject with the weights that a schedule trained; itself where `model` is None.
        Its hash stays that of the model that was given."""
        if model is None:
            return self
        return replace(self, model=cast("transformers.PreTrainedModel", model.eval()))

    def first(self, kind: Kind) -> Site | None:
        """The first site of a kind, None where the model has none."""
        return next((s for s in self.sites if s.kind is kind), None)

    def describe(self) -> dict[str, Any]:
        """JSON-ready facts for the evidence."""
        heads, filters = self.first(Kind.MHA), self.first(Kind.FFN)
        return {
            "source": self.name,
            "local": Place.of(self.source).folder is not None,
            "family": family_name(self.model),
            "class": type(self.model).__name__,
            "layers": self.layers,
            "hidden": self.hidden,
            "heads": heads.units if heads else 0,
            "head_dim": heads.width if heads else 0,
            "filters": filters.units if filters else 0,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "hash": self.hash,
        }
