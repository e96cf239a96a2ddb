"""Sites of a model that no family file describes, read off one forward pass.

In each Transformer layer the Linear modules are seen in the order they run: three that read one
tensor are q, k and v, the next that reads as many channels as v gives is the output projection, and
the pair hidden -> N -> hidden after it is the FFN. What is found here is only a guess:
`rfx.models.prove` masks, slices and compares before it is believed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rfx.core.errors import is_interrupt
from rfx.core.plan import Kind, Site

if TYPE_CHECKING:
    import torch

Seen = tuple[str, Any, Any]  # path of a module, the module, its input

_HEAD_DIMS = ("attention_head_size", "head_dim", "head_size")


def probe_inputs(
    model: torch.nn.Module, batch: int = 2, tokens: int = 8
) -> dict[str, torch.Tensor]:
    """Random token ids [batch, tokens], the last tokens of the second row padded. Seeded, global
    RNG untouched."""
    import torch

    vocabulary = int(getattr(model.config, "vocab_size", 32))
    generator = torch.Generator().manual_seed(0)
    # Ids from 3 up: the low ones are padding and special tokens in most vocabularies (RoBERTa
    # counts positions by them).
    ids = torch.randint(min(3, vocabulary - 1), vocabulary, (batch, tokens), generator=generator)
    mask = torch.ones_like(ids)
    if batch > 1 and tokens > 4:
        mask[1, -3:] = 0
    device = next(model.parameters()).device
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def generic_sites(model: torch.nn.Module) -> list[Site]:
    """Sites found by watching one forward pass, in execution order; [] where the pattern does not
    fit."""
    import torch

    calls: list[Seen] = []  # Linear modules, and what may be a norm, as they ran
    returns: dict[str, int] = {}
    names = {m: n for n, m in model.named_modules()}

    def watch(module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, torch.nn.Linear) or _may_normalise(module, args, output):
            calls.append((names[module], module, args[0] if args else None))
        returns[names[module]] = len(output) if isinstance(output, tuple) else 0

    handles = [m.register_forward_hook(watch) for m in model.modules()]
    try:
        with torch.no_grad():
            model(**probe_inputs(model))
    except Exception as error:
        if is_interrupt(error):
            raise
        # Whatever it was, this model cannot be read; the caller refuses it with a reason.
        return []
    finally:
        for handle in handles:
            handle.remove()

    calls = [c for c in calls if isinstance(c[1], torch.nn.Linear) or normalises(*c[1:])]
    layers = [n for n, m in model.named_modules() if _is_layer(n, model)]
    found: list[Site] = []
    for i, at in enumerate(layers):
        inside = [
            c for c in calls if c[0].startswith(at + ".") and isinstance(c[1], torch.nn.Linear)
        ]
        pair = _layer_sites(model, i, at, inside, calls, returns)
        if pair is None:
            return []
        found += pair
    return found


def reads_ahead(model: torch.nn.Module, layer_path: str) -> bool:
    """Whether the first token's hidden state after a layer depends on the last token: false of
    decoders."""
    import torch

    inputs = {k: v[:1] for k, v in probe_inputs(model).items()}
    other = {**inputs, "input_ids": inputs["input_ids"].clone()}
    other["input_ids"][0, -1] = inputs["input_ids"][0, 0]
    seen: list[torch.Tensor] = []

    def watch(_module: torch.nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output  # [1, T, d]
        seen.append(hidden[0, 0].clone())

    handle = model.get_submodule(layer_path).register_forward_hook(watch)
    try:
        with torch.no_grad():
            for some in (inputs, other):
                model(**some)
    finally:
        handle.remove()
    return not torch.equal(*seen)


def _may_normalise(module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> bool:
    """Whether a module looks like a norm by its form: one tensor in, one of the same shape out, and
    nothing within. A sum of a projection and its residual is none, whatever its class is called."""
    import torch

    return (
        len(args) == 1
        and isinstance(args[0], torch.Tensor)
        and isinstance(output, torch.Tensor)
        and output.shape == args[0].shape
        and args[0].is_floating_point()
        and next(module.children(), None) is None
    )


def normalises(module: torch.nn.Module, x: torch.Tensor) -> bool:
    """Whether a module's output stays as it is where its input, of the shape of `x`, is scaled."""
    import torch

    generator = torch.Generator().manual_seed(0)
    some = torch.randn(x.shape, generator=generator).to(x)
    with torch.no_grad():
        once, twice = module(some), module(2 * some)
    scale = once.std()
    # A norm's epsilon makes a small difference, a constant output is no norm.
    return bool(scale > 0) and bool((once - twice).abs().max() <= 1e-3 * scale)


def _is_layer(name: str, model: torch.nn.Module) -> bool:
    """Whether `name` is an entry of the ModuleList of Transformer layers: its length is the
    config's layer count."""
    import torch

    parent, _, index = name.rpartition(".")
    if not index.isdigit() or not parent:
        return False
    siblings = model.get_submodule(parent)
    depth = getattr(model.config, "num_hidden_layers", None)
    return isinstance(siblings, torch.nn.ModuleList) and len(siblings) == depth


def _layer_sites(
    model: torch.nn.Module,
    i: int,
    at: str,
    linears: Sequence[Seen],
    calls: Sequence[Seen],
    returns: Mapping[str, int],
) -> list[Site] | None:
    import torch

    if len(linears) != 6:
        # q, k, v, out, fc1, fc2: gates, adapters and experts are not understood here.
        return None
    (q, qm, qx), (k, km, kx), (v, vm, vx), (o, om, _), (f1, f1m, _), (f2, f2m, _) = linears
    if not (qx is kx and kx is vx):
        return None
    if not (om.in_features == vm.out_features == qm.out_features == km.out_features):
        return None
    if (
        f2m.in_features != f1m.out_features
        or om.out_features != f1m.in_features != f2m.out_features
    ):
        return None
    block = q.rpartition(".")[0]
    attention = model.get_submodule(block)
    heads = getattr(model.config, "num_attention_heads", 0)
    width = next((int(getattr(attention, a)) for a in _HEAD_DIMS if hasattr(attention, a)), 0) or (
        om.in_features // heads if heads else 0
    )
    if not width or om.in_features % width:
        return None

    def norm_after(path: str) -> str:
        order = [c[0] for c in calls]
        later = calls[order.index(path) + 1 :]
        return next((n for n, m, _ in later if not isinstance(m, torch.nn.Linear)), "")

    return [
        Site(
            f"layer.{i}.mha",
            i,
            Kind.MHA,
            om.in_features // width,
            width,
            (q, k, v),
            o,
            block,
            at,
            norm_after(o),
            returns.get(block, 0),
        ),
        Site(
            f"layer.{i}.ffn",
            i,
            Kind.FFN,
            f2m.in_features,
            1,
            (f1,),
            f2,
            f2.rpartition(".")[0],
            at,
            norm_after(f2),
            0,
        ),
    ]
