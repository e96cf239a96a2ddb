"""A file and what runs it in Polygraphy."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rfx.core.errors import UsageError, first_line
from rfx.core.workload import Workload
from rfx.runtimes.base import Arrays
from rfx.runtimes.find import runtime_class

if TYPE_CHECKING:
    from polygraphy.backend.base import BaseRunner

    from rfx.runtimes.onnxruntime.runtime import OnnxRuntimeCpu

REFERENCE = "ort"  # what every other runtime is held against
_WEIGHT = re.compile(r"(.+?)\.(?:weight\.T|weight|bias)")


class Side:
    """A file and what runs it. `tensors` are those that nodes make, in order: {name: (operator,
    node name, inputs)}."""

    def __init__(self, path: Path, runtime: str):
        import onnx
        from google.protobuf.message import DecodeError

        self.path, self.runtime = path, runtime
        try:
            graph = onnx.load(str(path), format="protobuf", load_external_data=False).graph
        except (OSError, DecodeError) as error:
            raise UsageError(
                "The ONNX file cannot be read.",
                got=f"{path}: {first_line(error)}",
                next_step="check the path, or export it again",
            ) from error
        self.weights = {i.name for i in graph.initializer}
        self.inputs = {
            i.name: len(i.type.tensor_type.shape.dim)
            for i in graph.input
            if i.name not in self.weights
        }
        self.outputs = [o.name for o in graph.output]
        made = ((x, n) for n in graph.node if n.op_type != "Constant" for x in n.output if x)
        self.tensors = {x: (n.op_type, n.name, list(n.input)) for x, n in made}
        recorded = {
            v.name
            for v in graph.value_info
            if v.type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16
        }
        self.bf16 = {x for x in self.tensors if x in recorded or x.endswith(".bf16")}

    @property
    def compiled(self) -> bool:
        """Whether Polygraphy compiles the file for TensorRT; the reference runs it as it is."""
        return runtime_class(self.runtime).capabilities.locates_differences

    def runner(self, feeds: Sequence[Arrays], inside: bool = False) -> BaseRunner:
        """A runner of Polygraphy's for inputs shaped like `feeds`; with `inside` every tensor is an
        output."""
        from polygraphy import constants
        from polygraphy.backend.onnx import ModifyOutputs, OnnxFromPath
        from polygraphy.backend.onnxrt import OnnxrtRunner

        if self.compiled:
            from polygraphy.backend.trt import EngineFromNetwork, TrtRunner

            return TrtRunner(EngineFromNetwork(*self.loaders(feeds, inside))())
        model: Path | bytes = self.path
        if inside:  # but bfloat16, which ONNX Runtime cannot give to NumPy
            outputs = {"outputs": constants.MARK_ALL, "exclude_outputs": sorted(self.bf16)}
            model = ModifyOutputs(OnnxFromPath(str(self.path)), **outputs)().SerializeToString()
        # rfx's session logs nothing, and says in rfx's words what is wrong with a file.
        threads = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
        reference = cast("OnnxRuntimeCpu", runtime_class(REFERENCE)())
        engine = reference.build_model(model, Workload.of_text(threads=threads))
        return OnnxrtRunner(engine.session)

    def loaders(self, feeds: Sequence[Arrays], inside: bool, **target: Any) -> tuple[Any, Any]:
        """Polygraphy's loaders of the strongly typed network and of the configuration, with TF32 as
        rfx builds. `target` is what TensorRT-RTX compiles for (see CreateConfigRTX); without it,
        the GPU of this machine."""
        from polygraphy import config, constants
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX
        from polygraphy.backend.trt import (
            CreateConfig,
            ModifyNetworkOutputs,
            NetworkFromOnnxPath,
            Profile,
        )

        network = NetworkFromOnnxPath(str(self.path), strongly_typed=True)
        # marked here and not in the file: TensorRT's parser refuses the untyped outputs of
        # ModifyOutputs
        if inside:
            network = ModifyNetworkOutputs(network, outputs=constants.MARK_ALL)
        profile = Profile()
        for name, shapes in self.profile(feeds).items():
            profile.add(name, *shapes)
        if config.USE_TENSORRT_RTX:
            return network, CreateConfigRTX(profiles=[profile], **(target or {"use_gpu": True}))
        return network, CreateConfig(profiles=[profile], tf32=True)

    def profile(self, feeds: Sequence[Arrays]) -> dict[str, tuple[tuple[int, ...], ...]]:
        """Least, usual (here the largest) and largest shape of each input."""
        shapes = {n: list(zip(*(f[n].shape for f in feeds))) for n in self.inputs}
        return {
            n: (tuple(map(min, s)), tuple(map(max, s)), tuple(map(max, s)))
            for n, s in shapes.items()
        }

    def origin(self, tensor: str) -> tuple[str, str, str]:
        """Operator, node name and module of a tensor: the module of the nearest weight upstream."""
        operator, node, _ = self.tensors.get(tensor, ("", "", []))
        queue = [tensor]
        for name in queue:  # breadth first: it grows
            for read in self.tensors.get(name, ("", "", []))[2]:
                if read in self.weights and (weight := _WEIGHT.fullmatch(read)):
                    return operator, node, weight[1]
                queue += [read] * (read not in queue)
        return operator, node, ""
