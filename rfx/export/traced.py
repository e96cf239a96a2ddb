"""The graph of a model whose structure has been exported before, with the new model's weights.

Tracing a model costs seconds, and for a large one a minute, while the graph depends on the model's
structure alone: a pruned encoder has the nodes of the dense one, with smaller matrices. So a graph
that was traced is kept in this process without its weights, and a model of the same structure gets
it back with its own. What comes out is proved before it is used: on an example it has to compute
what the model computes, and every shape that it states is one that was seen. Where that does not
hold, None is given, and the model is traced.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx.core.errors import is_interrupt
from rfx.core.inputs import BATCH, InputSpec
from rfx.core.workload import Workload

if TYPE_CHECKING:
    import onnx
    import torch
    from torch import nn

KEPT = 8  # graphs that are kept at once, without their weights
TOLERANCE = 1e-4  # of the outputs' scale: two runtimes that compute one function in fp32
# What a configuration says without changing what is computed.
_NAMES = frozenset(
    {"_name_or_path", "architectures", "id2label", "label2id", "pruned_layers", "rfx"}
    | {"transformers_version", "dtype", "torch_dtype", "finetuning_task", "_attn_implementation"}
)
_SIZED = ("Linear", "Embedding", "ConstantBias")  # modules whose sizes are those of their weights


@dataclass(frozen=True)
class _Weight:
    """Where an initializer of the graph comes from: the tensor of the model, and whether it is
    stored as it is, transposed, or in another shape."""

    tensor: str
    form: str  # "as it is", "transposed", "reshaped"


@dataclass(frozen=True)
class _Graph:
    """A traced graph without its weights, and where each of them is to be had."""

    proto: onnx.ModelProto
    weights: Mapping[str, _Weight]


_graphs: dict[str, _Graph] = {}


def forget() -> None:
    """Forget every graph that was kept."""
    _graphs.clear()


def structure(model: nn.Module, inputs: InputSpec, outputs: Sequence[str], version: object) -> str:
    """What the graph of a model depends on, as text: its modules, its configuration and what goes
    in and out, without the sizes of its weights.

    Args:
        version: of the exporter.
    """
    modules = [
        (name, f"{type(m).__module__}.{type(m).__qualname__}", _said(m))
        for name, m in model.named_modules()
    ]
    config = {k: v for k, v in model.config.to_dict().items() if k not in _NAMES}  # type: ignore[operator, union-attr]
    return json.dumps(
        [version, inputs.to_json(), list(outputs), modules, config], sort_keys=True, default=str
    )


def _said(module: nn.Module) -> str:
    """What a module says of itself, where that is more than its size."""
    return "" if type(module).__name__ in _SIZED else module.extra_repr()


def keep(key: str, proto: onnx.ModelProto, model: nn.Module) -> None:
    """Keep a graph that was just traced from `model`, if all of its weights are known to be
    tensors of the model; else there is nothing to give another model."""
    weights = _origins(proto, model)
    _graphs.pop(key, None)
    if weights is None:
        return
    import onnx

    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    for initializer in bare.graph.initializer:
        if initializer.name in weights:
            initializer.ClearField("raw_data")
    _graphs[key] = _Graph(bare, weights)
    while len(_graphs) > KEPT:
        _graphs.pop(next(iter(_graphs)))


def with_weights(
    key: str, model: nn.Module, inputs: InputSpec, outputs: Sequence[str]
) -> onnx.ModelProto | None:
    """The kept graph with the weights of `model`, proved; None where there is none, or where it is
    not this model's function."""
    graph = _graphs.get(key)
    if graph is None:
        return None
    try:
        proto = _filled(graph, _tensors(model))
        if proto is None:
            return None
        example = _example(inputs)
        seen = _run(proto, example)
        if not _same(model, example, [seen[o.name] for o in proto.graph.output], outputs):
            return None
        _restate(proto, seen)
    except Exception as error:
        # Whatever is wrong with it, the model can be traced.
        if is_interrupt(error):
            raise
        return None
    return proto


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name, shared ones by each of their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _origins(proto: onnx.ModelProto, model: nn.Module) -> dict[str, _Weight] | None:
    """Where each initializer comes from; None where one may depend on the weights in a way that is
    not known. Whole numbers and single values are taken for constants of the structure."""
    from onnx import TensorProto, numpy_helper

    tensors = _tensors(model)
    by_size: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        by_size.setdefault(tensor.numel(), []).append(name)
    weights = {}
    for initializer in proto.graph.initializer:
        name = initializer.name
        if name in tensors and _equal(initializer, tensors[name]):
            weights[name] = _Weight(name, "as it is")
        elif name.endswith(".T") and name[:-2] in tensors:
            if not _equal(initializer, tensors[name[:-2]].T):
                return None
            weights[name] = _Weight(name[:-2], "transposed")
        elif initializer.data_type == TensorProto.FLOAT and np.prod(initializer.dims) > 1:
            array = numpy_helper.to_array(initializer).ravel()
            alike = [
                n
                for n in by_size.get(array.size, [])
                if np.array_equal(tensors[n].detach().cpu().numpy().ravel(), array)
            ]
            if len(alike) != 1:
                return None
            weights[name] = _Weight(alike[0], "reshaped")
    return weights


def _equal(initializer: onnx.TensorProto, tensor: torch.Tensor) -> bool:
    from onnx import numpy_helper

    if list(initializer.dims) != list(tensor.shape):
        return False
    return np.array_equal(numpy_helper.to_array(initializer), tensor.detach().cpu().numpy())


def _filled(graph: _Graph, tensors: Mapping[str, torch.Tensor]) -> onnx.ModelProto | None:
    """A copy of the graph with these weights; None where one is missing or of another rank."""
    import onnx

    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    for initializer in proto.graph.initializer:
        origin = graph.weights.get(initializer.name)
        if origin is None:
            continue
        tensor = tensors.get(origin.tensor)
        if tensor is None:
            return None
        array = tensor.detach().cpu().numpy()
        if origin.form == "transposed":
            array = array.T
        elif origin.form == "reshaped":
            if array.size != np.prod(initializer.dims):
                return None
            array = array.reshape(tuple(initializer.dims))
        if array.ndim != len(
            initializer.dims
        ) or array.dtype != onnx.helper.tensor_dtype_to_np_dtype(initializer.data_type):
            return None
        del initializer.dims[:]
        initializer.dims.extend(array.shape)
        initializer.raw_data = np.ascontiguousarray(array).tobytes()
    return proto


def _example(inputs: InputSpec) -> dict[str, np.ndarray]:
    """Two inputs of eight steps, the second of them padded where there is a mask: no two axes of
    what is computed should be of one size by chance."""
    axes = {axis: 2 if axis == BATCH else 7 for axis in inputs.dynamic_axes}
    example = inputs.example(Workload(batch=2, axes={a: n for a, n in axes.items() if a != BATCH}))
    for tensor in inputs.inputs:
        if tensor.fill == "ones" and example[tensor.name].ndim > 1:
            example[tensor.name][-1, -2:] = 0
    return example


def _run(proto: onnx.ModelProto, example: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Every value of the graph, computed by ONNX's own reference in NumPy."""
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    class GatherElements(OpRun):
        """The reference's own takes more than 64 rows for a mistake."""

        op_domain = ""

        def _run(self, data: np.ndarray, indices: np.ndarray, axis: int = 0) -> tuple[np.ndarray]:
            return (np.take_along_axis(data, indices, axis),)

    session = ReferenceEvaluator(proto, new_ops=[GatherElements])
    values = session.run(None, dict(example), intermediate=True)
    assert isinstance(values, dict)  # as it is where intermediate values are asked for
    return values


def _same(
    model: nn.Module,
    example: Mapping[str, np.ndarray],
    got: Sequence[np.ndarray],
    outputs: Sequence[str],
) -> bool:
    """Whether the model computes on the example what the graph has computed."""
    import torch

    with torch.inference_mode():
        out = model(**{k: torch.from_numpy(v) for k, v in example.items()})
    for name, array in zip(outputs, got, strict=True):
        wanted = getattr(out, name).cpu().numpy()
        if wanted.shape != array.shape or not np.isfinite(array).all():
            return False
        if np.abs(wanted - array).max() > TOLERANCE * max(1.0, float(np.abs(wanted).max())):
            return False
    return True


def _restate(proto: onnx.ModelProto, seen: Mapping[str, Any]) -> None:
    """The shapes that the graph states become those that were seen; axes with a name keep it.
    Runtimes fuse by what is stated."""
    for value in (*proto.graph.value_info, *proto.graph.output):
        if value.name not in seen:
            continue
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, np.shape(seen[value.name]), strict=True):
            if dim.HasField("dim_value"):
                dim.dim_value = size
