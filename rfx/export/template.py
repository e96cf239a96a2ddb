"""The ONNX file of a model at other sizes, without exporting it again.

A latency table is measured on dozens of models that differ in one number of units. Their graphs
have the same nodes, and every size in them is a constant or grows by so much a unit. So two of them
say what all others look like: the one with all units, and one with fewer. Weights are cut from the
larger one: latency does not depend on their values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx


class Template:
    """Graphs of one pattern, each for a number of units.

    Args:
        full: the graph with all units. less: the same model with fewer.
        units, fewer: how many these are.

    Raises:
        ValueError: the two are not of one pattern; the message says where they differ.
    """

    def __init__(self, full: onnx.ModelProto, units: int, less: onnx.ModelProto, fewer: int):
        from onnx import numpy_helper

        if not 0 < fewer < units:
            raise ValueError(f"{fewer} of {units} units")
        if any(a.HasField("g") or a.graphs for n in full.graph.node for a in n.attribute):
            raise ValueError("a node holds a graph of its own")
        # The weights stay where they are: a table has many curves, and a model is large.
        self._weights = {t.name: t for t in full.graph.initializer if _is_weight(t)}
        self._order = [t.name for t in full.graph.initializer if _is_weight(t)]
        others = {t.name: t for t in less.graph.initializer if _is_weight(t)}
        full, less = _named_by_place(full), _named_by_place(less)
        _forget_unlike(full, less)
        self._full, self._units, self._fewer = full, units, fewer
        if _pattern(full) != _pattern(less):
            raise ValueError("their nodes differ")
        tensors = {**self._weights, **{t.name: t for t in full.graph.initializer}}
        others |= {t.name: t for t in less.graph.initializer}
        if set(tensors) != set(others):
            raise ValueError(f"weights: {', '.join(sorted(set(tensors) ^ set(others))[:3])}")
        # What a unit adds to each size, of the tensors that change at all.
        self._dims: dict[str, list[int]] = {}
        self._values: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for name, tensor in tensors.items():
            other = others[name]
            if len(tensor.dims) != len(other.dims) or tensor.data_type != other.data_type:
                raise ValueError(f"{name} is of another kind")
            each = [self._each(name, a, b) for a, b in zip(tensor.dims, other.dims, strict=True)]
            whole = tensor.data_type in _WHOLE
            a, b = (numpy_helper.to_array(t) if whole else np.empty(0) for t in (tensor, other))
            if any(each):
                self._dims[name] = each
                if whole and (a[tuple(slice(n) for n in b.shape)] != b).any():
                    raise ValueError(f"{name} grows with the units and changes its values")
            elif whole and (a != b).any():
                # A size that the runtime works out (-1) is so at every count.
                free = (a == -1) | (b == -1)
                steps = [
                    0 if f else self._each(name, int(x), int(y))
                    for f, x, y in zip(free.flat, a.flat, b.flat)
                ]
                grown = np.asarray(steps, a.dtype).reshape(a.shape)
                self._values[name] = (np.where(free, -1, a), grown)
        self._sizes = [
            [self._each(info.name, x, y) for x, y in zip(_sizes(info), _sizes(other))]
            for info, other in zip(_stated(full), _stated(less), strict=True)
        ]
        self._numbers = [
            [self._each(node.op_type, x, y) for x, y in zip(numbers, others, strict=True)]
            for (node, numbers), (_, others) in zip(
                _attributes(full), _attributes(less), strict=True
            )
        ]

    def _each(self, what: str, full: int, less: int) -> int:
        """What a unit adds to a size."""
        step, rest = divmod(full - less, self._units - self._fewer)
        if rest:
            raise ValueError(f"{what}: {full} with {self._units} units, {less} with {self._fewer}")
        return step

    def at(self, count: int) -> onnx.ModelProto:
        """The graph with `count` units, of at least one."""
        import onnx
        from onnx import numpy_helper

        if not 0 < count <= self._units:
            raise ValueError(f"{count} of {self._units} units")
        less = self._units - count
        made = onnx.ModelProto()
        made.CopyFrom(_without_weights(self._full))
        weights = [self._weights[name] for name in self._order]
        for tensor in (*weights, *self._full.graph.initializer):
            if tensor.name in self._dims:
                whole = numpy_helper.to_array(tensor)
                sizes = [d - less * e for d, e in zip(tensor.dims, self._dims[tensor.name])]
                part = np.ascontiguousarray(whole[tuple(slice(n) for n in sizes)])
                made.graph.initializer.append(numpy_helper.from_array(part, tensor.name))
            elif tensor.name in self._values:
                values, each = self._values[tensor.name]
                made.graph.initializer.append(
                    numpy_helper.from_array(values - less * each, tensor.name)
                )
            else:
                made.graph.initializer.append(tensor)
        for info, steps in zip(_stated(made), self._sizes):
            dims = info.type.tensor_type.shape.dim
            for dim, step in zip((d for d in dims if d.HasField("dim_value")), steps):
                dim.dim_value -= less * step
        for (node, numbers), steps in zip(_attributes(made), self._numbers):
            _set(node, [n - less * step for n, step in zip(numbers, steps)])
        return made


_WHOLE = (6, 7)  # ONNX element types of whole numbers that may be sizes: int32, int64


def _is_weight(tensor: onnx.TensorProto) -> bool:
    """Whether it has the name of a module's parameter, and is no constant of the exporter's."""
    return "." in tensor.name


def _named_by_place(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph without its weights, in which values are named by the node that gives them,
    and every reader of a constant has its own. The exporter shares constants of one value, and two
    that are equal at one number of units differ at another."""
    made = _without_weights(model)
    constants = {t.name: t for t in model.graph.initializer if not _is_weight(t)}
    names: dict[str, str] = {}
    kept = {v.name for v in (*model.graph.input, *model.graph.output)}
    for i, node in enumerate(made.graph.node):
        for j, name in enumerate(node.input):
            if name in constants:
                node.input[j] = f"constant_{i}_{j}"
                made.graph.initializer.add().CopyFrom(constants[name])
                made.graph.initializer[-1].name = node.input[j]
            else:
                node.input[j] = names.get(name, name)
        for j, name in enumerate(node.output):
            if name and name not in kept:
                names[name] = node.output[j] = f"value_{i}_{j}"
    stated = [info for info in made.graph.value_info if info.name in names]
    for info in stated:
        info.name = names[info.name]
    del made.graph.value_info[:]
    made.graph.value_info.extend(stated)
    return made


def _forget_unlike(full: onnx.ModelProto, less: onnx.ModelProto) -> None:
    """Remove the statements of sizes that the two do not make alike, such as "4*batch" with four
    heads. They are hints."""
    said = [{v.name: _free(v) for v in m.graph.value_info} for m in (full, less)]
    alike = {name for name, free in said[0].items() if said[1].get(name) == free}
    for model in (full, less):
        kept = [v for v in model.graph.value_info if v.name in alike]
        del model.graph.value_info[:]
        model.graph.value_info.extend(kept)


def _free(info: onnx.ValueInfoProto) -> tuple[str, ...]:
    """The names of free sizes, by axis."""
    return tuple(d.dim_param for d in info.type.tensor_type.shape.dim)


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without its initializers, which are most of it."""
    import onnx

    light = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name != "graph":
            _copy(light, field.name, value)
    for field, value in model.graph.ListFields():
        if field.name != "initializer":
            _copy(light.graph, field.name, value)
    return light


def _copy(target: object, name: str, value: object) -> None:
    if isinstance(value, (int, str, bytes)):
        setattr(target, name, value)
    elif hasattr(value, "MergeFrom") and hasattr(value, "ListFields"):
        getattr(target, name).CopyFrom(value)
    else:
        getattr(target, name).extend(value)


def _pattern(model: onnx.ModelProto) -> list[tuple[object, ...]]:
    """Nodes with what they read and give, and their attributes but for whole numbers."""
    return [
        (
            n.op_type,
            n.domain,
            tuple(n.input),
            tuple(n.output),
            tuple((a.name, a.type, a.f, a.s, len(a.ints), tuple(a.t.dims)) for a in n.attribute),
        )
        for n in model.graph.node
    ]


def _attributes(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, list[int]]]:
    """Whole numbers of all attributes of each node, in order; those of a tensor that a node states
    are among them."""
    for node in model.graph.node:
        numbers: list[int] = []
        for a in node.attribute:
            numbers += [a.i, *a.ints, *_constant(a)]
        yield node, numbers


def _constant(attribute: onnx.AttributeProto) -> list[int]:
    from onnx import numpy_helper

    if attribute.HasField("t") and attribute.t.data_type in _WHOLE:
        return [int(n) for n in numpy_helper.to_array(attribute.t).flat]
    return []


def _set(node: onnx.NodeProto, numbers: Sequence[int]) -> None:
    from onnx import numpy_helper

    left = list(numbers)
    for a in node.attribute:
        own, left = left[: 1 + len(a.ints)], left[1 + len(a.ints) :]
        if own[0] != a.i:
            a.i = own[0]
        a.ints[:] = own[1:]
        if constant := _constant(a):
            values, left = left[: len(constant)], left[len(constant) :]
            if values != constant:
                old = numpy_helper.to_array(a.t)
                new = np.asarray(values, old.dtype).reshape(old.shape)
                a.t.CopyFrom(numpy_helper.from_array(new, a.t.name))


def _stated(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The tensors whose sizes the graph states, by name."""
    graph = model.graph
    found: Mapping[str, onnx.ValueInfoProto] = {
        v.name: v for v in (*graph.value_info, *graph.output)
    }
    return [found[name] for name in sorted(found)]


def _sizes(info: onnx.ValueInfoProto) -> list[int]:
    return [d.dim_value for d in info.type.tensor_type.shape.dim if d.HasField("dim_value")]
