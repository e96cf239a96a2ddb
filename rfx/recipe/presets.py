"""The known combinations of a method's parts, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from rfx.recipe.method import MethodSpec

PRESETS: Mapping[str, MethodSpec] = MappingProxyType(
    {
        # Chosen on validation data of one task, compared with the others on five
        # (docs/pages/explanation/accuracy.md).
        "rfx": MethodSpec(name="rfx"),
        # Kwon et al. 2022 as their code does it, for parity alone.
        "kwon-reference": MethodSpec(
            name="kwon-reference",
            scorer="fisher",
            gradients="batch",
            interactions="none",
            refine="reference",
            compensate="scales",
            tuning="kwon-reference",
            guard=False,
            replacement=True,
        ),
        # The paper repaired: dense teacher, every site, per-site acceptance.
        "kwon": MethodSpec(name="kwon", scorer="fisher", refine="best", compensate="scales"),
        # Park, Choi and Kang 2024, repaired: per-example gradients, scores at the first sublayer, a
        # ridge, the bias kept.
        "kprune": MethodSpec(
            name="kprune",
            scorer="kprune",
            interactions="none",
            refine="none",
            compensate="projection",
            schedule="sequential",
        ),
        # Controls.
        "magnitude": MethodSpec(
            name="magnitude",
            scorer="magnitude",
            interactions="none",
            refine="none",
            compensate="none",
        ),
        "random": MethodSpec(
            name="random", scorer="random", interactions="none", refine="none", compensate="none"
        ),
    }
)


def label(spec: MethodSpec) -> str:
    """A method in words: the name of its preset, and which parts of it were changed."""
    preset = PRESETS.get(spec.name)
    if preset is None or preset == spec:
        return spec.name
    changed = [k for k, v in spec.model_dump().items() if v != preset.model_dump()[k]]
    return f"{spec.name} with another {', '.join(changed)}"
