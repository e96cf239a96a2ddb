"""The sites of a model from what the probe found, each proved by itself where not all hold
together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rfx.core.plan import Kind, Site
from rfx.core.site import ROWS, Constant, Slice
from rfx.models.families.anatomy import block_of, chain, norms_after, watch
from rfx.models.families.probe import Findings, Found, Refused, probe
from rfx.models.families.taint import weights

if TYPE_CHECKING:
    import torch
    from torch import nn

FEW = "it is computed at so few positions that nothing would be gained"
OUTSIDE = "it is outside of the layers"
TURNED = "the axes of its input are not examples, tokens and channels"
SHARED = "a table that it reads, {}, is read by other layers too"
# Which numbers of modules are told how many units are left: those that are called by heads and are
# a multiple of the units; none; those too that are the channels; those too that are the outputs of
# a producer; those that are called by heads in a module's configuration, of which it then has its
# own. The first that the proof holds with is taken.
IN_CONFIG = 4
LEVELS = (1, 0, 2, 3, IN_CONFIG)
_NO_COUNT = ("dim", "size", "group", "width", "d_head")
_NO_UNITS = ("dim", "layer")  # the number of a layer is none of units


@contextmanager
def as_formula(model: Any) -> Iterator[None]:
    """While open, attention is computed as a formula, and nothing is kept for a next token."""
    config = model.config
    before = getattr(config, "_attn_implementation", None)
    cached = getattr(config, "use_cache", None)
    try:
        if before not in (None, "eager"):
            model.set_attn_implementation("eager")
        if cached:
            config.use_cache = False
        yield
    finally:
        if before not in (None, "eager"):
            model.set_attn_implementation(before)
        if cached:
            config.use_cache = cached


def found_sites(
    model: nn.Module, inputs: Mapping[str, torch.Tensor]
) -> tuple[list[Site], list[Refused], Findings]:
    """The sites that the probe finds, not proved yet, and without the numbers that modules have to
    be told (`constants`).

    Args:
        model: in eval mode, its attention computed as a formula (`as_formula`).
        inputs: one example, without padding.
    """
    findings = probe(model, inputs)
    seen = watch(model, inputs)
    refused = list(findings.refused)
    most = max(findings.positions.values(), default=0)
    kept = []
    shared = _shared_tables(findings.sites)
    for found in findings.sites:
        if 4 * findings.positions[found.output] < most:
            refused.append(Refused(found.output, FEW))
        elif seen.fed[found.output][0].dim() != 3 or not findings.examples_first[found.output]:
            refused.append(Refused(found.output, TURNED))
        elif found.output in shared:
            refused.append(Refused(found.output, SHARED.format(shared[found.output])))
        else:
            kept.append(found)
    layers = chain(model, seen, [f.output for f in kept])
    if layers:
        outside = [f for f in kept if not any(f.output.startswith(p + ".") for p in layers)]
        refused += [Refused(f.output, OUTSIDE) for f in outside]
        kept = [f for f in kept if f not in outside]
    norms = norms_after(model, seen, inputs, [f.output for f in kept])
    sites: list[Site] = []
    layer = 0
    for found in kept:
        kind = Kind.MHA if found.width > 1 else Kind.FFN
        if any(s.layer == layer and (s.kind is kind or kind is Kind.MHA) for s in sites):
            layer += 1
        block = block_of(
            model, seen, found.output, [p.path for p in found.producers], list(findings.macs)
        )
        sites.append(
            Site(
                f"layer.{layer}.{kind.value}",
                layer,
                kind,
                found.units,
                found.width,
                tuple(p.path for p in found.producers),
                found.output,
                block,
                next((p for p in layers if found.output.startswith(p + ".")), ""),
                norms[found.output],
                seen.returns.get(block, 0),
                _slices(found),
                (),
                _weights(model, found),
            )
        )
    return sites, refused, findings


def _shared_tables(sites: Sequence[Found]) -> dict[str, str]:
    """By projection, a table of it that others have too."""
    readers: dict[tuple[str, str], list[str]] = {}
    for site in sites:
        for table in site.tables:
            readers.setdefault((table.path, table.parameter), []).append(site.output)
    return {
        output: f"{path}.{parameter}"
        for (path, parameter), outputs in readers.items()
        if len(outputs) > 1
        for output in outputs
    }


def _slices(found: Found) -> tuple[Slice, ...]:
    usual = ((0, found.units, found.width),)
    rows = (Slice.of(p.path, ROWS, 0, p.unit_of) for p in found.producers)
    tables = (Slice.of(t.path, t.parameter, t.dim, t.unit_of) for t in found.tables)
    return (*(s for s in rows if s.runs != usual), *tables)


def _weights(model: nn.Module, found: Found) -> int:
    """Of a unit, in its dense modules."""
    total = sum(weights(model.get_submodule(p.path)) for p in found.producers)
    return (total + weights(model.get_submodule(found.output))) // found.units


def constants(model: nn.Module, site: Site, level: int) -> tuple[Constant, ...]:
    """The numbers that modules around a site keep of its size, by their values.

    Args:
        level: which of them are told, see `LEVELS`.
    """
    if level == 0 or (site.width == 1 and level not in (2, 3)):
        return ()
    wanted = {}
    if level in (2, 3):
        wanted[site.channels] = site.width
    if level == 3:
        wanted |= {r.size(site.units): r.size(1) - r.size(0) for r in map(site.rows, site.inputs)}
    parts = [p.split(".") for p in (*site.inputs, site.output)]
    common = parts[0][:-1]
    for other in parts[1:]:
        same = [a == b for a, b in zip(common, other, strict=False)]
        common = common[: same.index(False) if False in same else len(same)]
    top, found = ".".join(common), []
    for name, module in model.get_submodule(top).named_modules():
        path = ".".join(x for x in (top, name) if x)
        around = not name or any(p.startswith(path + ".") for p in site.inputs)
        if not around or "norm" in type(module).__name__.lower():
            continue
        values = dict(vars(module))
        if level == IN_CONFIG and hasattr(values.get("config"), "to_dict"):
            values |= {f"config.{k}": v for k, v in values["config"].to_dict().items()}
        for attribute, value in values.items():
            if type(value) is not int or value <= 1:
                continue
            counts = "head" in attribute and not any(w in attribute for w in _NO_COUNT)
            if counts and value % site.units == 0:
                found.append(Constant(path, attribute, value // site.units))
            elif value == site.units and not any(w in attribute for w in _NO_UNITS):
                found.append(Constant(path, attribute, 1))
            elif value in wanted:
                found.append(Constant(path, attribute, wanted[value]))
    return tuple(found)
