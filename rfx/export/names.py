"""The names in an exported graph.

PyTorch's exporter folds the transposes of Linear weights into anonymous constants; they get their
module's name back (`<module>.weight.T`). The values between the nodes it numbers by what it has
seen before, so that two exports of one model can differ; they are numbered by their place.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def name_weights(proto: onnx.ModelProto) -> None:
    """Rename folded weights after their module: the scope of the MatMul or Gemm that reads one says
    which."""
    initializers = {i.name: i for i in proto.graph.initializer}
    renames: dict[str, str] = {}
    for node in proto.graph.node:
        if node.op_type not in ("MatMul", "Gemm") or len(node.input) < 2:
            continue
        weight = node.input[1]
        if (
            weight not in initializers
            or weight in renames
            or not re.fullmatch(r"val_\d+|t_?\d*|.*_t", weight)
        ):
            continue
        scope = _scope(node)
        if scope:
            renames[weight] = f"{scope}.weight.T"
    owners: dict[str, str] = {}  # layers that share a module have its weight once for each of them
    for old, new in renames.items():
        owner = owners.setdefault(new, old)
        if owner == old:
            initializers[old].name = new
        elif initializers[old].raw_data == initializers[owner].raw_data:
            proto.graph.initializer.remove(initializers[old])
        else:  # two weights of one module: the second keeps its number
            renames[old] = old
    for node in proto.graph.node:
        for i, name in enumerate(node.input):
            if name in renames:
                node.input[i] = renames[name]
    # What was renamed has lost the wrapper's name already; a model may have a `model` of its own.
    done = set(renames.values())
    strip = {
        i.name: i.name.removeprefix("model.")
        for i in proto.graph.initializer
        if i.name.startswith("model.") and i.name not in done
    }
    for initializer in proto.graph.initializer:
        initializer.name = strip.get(initializer.name, initializer.name)
    for node in proto.graph.node:
        for i, name in enumerate(node.input):
            if name in strip:
                node.input[i] = strip[name]
    # Recorded shapes of the exporter speak of the old names; shape inference makes its own.
    kept = [v for v in proto.graph.value_info if v.name not in renames and v.name not in strip]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(kept)


def _scope(node: onnx.NodeProto) -> str:
    """Path of the module a node came from, e.g. `bert.encoder.layer.0.attention.self.query`; ""
    where not known."""
    import ast

    for prop in node.metadata_props:
        if prop.key == "pkg.torch.onnx.name_scopes":
            try:
                scopes = [s for s in ast.literal_eval(prop.value) if s.startswith("model.")]
            except (ValueError, SyntaxError):
                return ""
            return scopes[-1].removeprefix("model.") if scopes else ""
    return ""


def name_values(proto: onnx.ModelProto) -> None:
    """Number the values between the nodes, anonymous constants and the nodes themselves in the
    order in which the graph has them: `add`, `add_1`, `add_2`."""
    graph = proto.graph
    if any(a.HasField("g") or a.graphs for node in graph.node for a in node.attribute):
        return  # a branch reads the values around it by their names
    fixed = {v.name for v in (*graph.input, *graph.output)}
    fixed |= {i.name for i in graph.initializer if not re.fullmatch(r"[a-z_]+_\d+", i.name)}
    seen: Counter[str] = Counter()
    renames: dict[str, str] = {}

    def rename(name: str) -> None:
        word = re.sub(r"_\d+$", "", name)
        while True:
            seen[word] += 1
            new = word if seen[word] == 1 else f"{word}_{seen[word] - 1}"
            if new not in fixed:
                break
        renames[name] = new

    for name in (i.name for i in graph.initializer):
        if name not in fixed:
            rename(name)
    for node in graph.node:
        for name in node.output:
            if name and name not in fixed:
                rename(name)
    for node in graph.node:
        node.input[:] = [renames.get(n, n) for n in node.input]
        node.output[:] = [renames.get(n, n) for n in node.output]
        node.name = f"node_{node.output[0]}" if node.output else node.name
    for named in (*graph.initializer, *graph.value_info):
        named.name = renames.get(named.name, named.name)
