"""How a model family is described: as data, or as anything else that finds the sites of its models.

A family is a function without arguments that gives a `Finder`, registered with
`@register("family", "name")` (rfx/core/registry.py). The sites of all other models are found by
what they compute (`rfx.models.families.probe`). What either of them finds is proved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rfx.core.plan import Kind, Site
from rfx.models.modules import linear_at

if TYPE_CHECKING:
    import torch


class Finder(Protocol):
    """Finds the sites of the models of a family. `model_types` are those of transformers'
    configurations that it is for."""

    @property
    def name(self) -> str: ...

    @property
    def model_types(self) -> tuple[str, ...]: ...

    def sites(self, model: torch.nn.Module) -> list[Site]:
        """The sites of `model` in execution order; [] where its layers are not as expected."""


@dataclass(frozen=True)
class Family:
    """An encoder whose layers are attention and a feed-forward network of two linears: the module
    paths of one layer, relative to the layer; `layers` is the end of the path of the ModuleList.

    `block` is the attention module, `head_dim` the name of its head-size attribute, `returns` what
    its forward gives (see `Site.returns`).
    """

    name: str
    model_types: tuple[str, ...]
    layers: str
    block: str
    qkv: tuple[str, str, str]
    attention_out: str
    attention_norm: str
    fc1: str
    fc2: str
    ffn_block: str
    ffn_norm: str
    head_dim: str = "attention_head_size"
    returns: int = 2

    def sites(self, model: torch.nn.Module) -> list[Site]:
        """The sites of `model` in execution order, attention before FFN; [] where the layers are
        not found."""
        path = next(
            (
                n
                for n, _ in model.named_modules()
                if n == self.layers or n.endswith("." + self.layers)
            ),
            None,
        )
        if path is None:
            return []
        found = []
        for i, layer in enumerate(model.get_submodule(path).children()):
            at = f"{path}.{i}"
            width = int(getattr(layer.get_submodule(self.block), self.head_dim))
            out, fc2 = linear_at(layer, self.attention_out), linear_at(layer, self.fc2)
            found.append(
                Site(
                    f"layer.{i}.mha",
                    i,
                    Kind.MHA,
                    out.in_features // width,
                    width,
                    tuple(f"{at}.{p}" for p in self.qkv),
                    f"{at}.{self.attention_out}",
                    f"{at}.{self.block}",
                    at,
                    f"{at}.{self.attention_norm}",
                    self.returns,
                )
            )
            found.append(
                Site(
                    f"layer.{i}.ffn",
                    i,
                    Kind.FFN,
                    fc2.in_features,
                    1,
                    (f"{at}.{self.fc1}",),
                    f"{at}.{self.fc2}",
                    f"{at}.{self.ffn_block}",
                    at,
                    f"{at}.{self.ffn_norm}",
                    0,
                )
            )
        return found
