"""How a model family is described: as data. One file a family, registered by `model_type`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rfx.core.plan import Kind, Site

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Family:
    """Module paths of one Transformer layer, relative to the layer; `layers` is the end of the path
    of the ModuleList.

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
        for i, layer in enumerate(model.get_submodule(path)):
            at = f"{path}.{i}"
            width = int(getattr(layer.get_submodule(self.block), self.head_dim))
            out, fc2 = layer.get_submodule(self.attention_out), layer.get_submodule(self.fc2)
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
