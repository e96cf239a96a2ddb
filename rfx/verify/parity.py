"""Numerical parity through Polygraphy: the same numbers on ONNX Runtime and on another runtime, or
from two files?

First only the outputs are compared, as the `same` gate compares them. Where they differ, every
tensor is made an output on both sides, and the first in topological order that differs is named,
with the `polygraphy run` that repeats it. Polygraphy also times what it runs; those times are never
used: latency has its own clock.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rfx.core.errors import EnvironmentMissingError, UsageError, first_line
from rfx.core.files import atomic_write_text
from rfx.core.workload import Workload
from rfx.export.precision.known import HALVES
from rfx.runtimes.base import Arrays
from rfx.runtimes.find import locators, runtime_class
from rfx.runtimes.tensorrt.build import is_rtx, library
from rfx.runtimes.tensorrt.log import complaints, logger

REFERENCE = "ort"  # what every other runtime is held against
INPUTS, OUTPUTS, SCRIPT = "parity.inputs.json", "parity.outputs.json", "parity.sh"
# What lies below on both sides is masked attention (-65504 in fp16, -3.4e38 in fp32): no
# difference, and no scale.
MASKED = -3e4
_HALF = re.compile(
    rf"\.({'|'.join(HALVES)})$"
)  # `x.fp16` is the half form of `x` (see export.precision)
_WEIGHT = re.compile(r"(.+?)\.(?:weight\.T|weight|bias)")


@dataclass(frozen=True)
class Difference:
    """The first tensor that differs. Shares are largest differences over the scale, inf where one
    is not finite. Of
    what comes in pairs the first is the reference: the model on ONNX Runtime."""

    tensor: str
    operator: str
    node: str
    module: str  # of the nearest weight upstream; "" where there is none
    share: float  # of this tensor
    outputs_share: float  # of the outputs, over all inputs: what the gate sees
    tolerance: float
    files: tuple[str, str]
    runtimes: tuple[str, str]
    dtypes: tuple[str, str]
    ranges: tuple[tuple[float, float], tuple[float, float]]  # of the finite numbers
    not_finite: tuple[int, int]
    compared: int
    skipped: int  # tensors that only one side has, or that have other shapes there
    note: str
    commands: tuple[tuple[str, ...], ...]  # the words of each
    inputs: Arrays = field(compare=False, repr=False)  # that show it

    @property
    def command(self) -> str:
        """The shell command line that repeats it and fails while they differ, run where
        `save_repro` put the inputs."""
        return _lines(self.commands, " && ")

    def to_json(self) -> dict[str, Any]:
        facts = {k: v for k, v in self.__dict__.items() if k not in ("inputs", "commands")} | {
            "command": self.command
        }
        return {k: None if v == math.inf else v for k, v in facts.items()}  # JSON has no inf

    def __str__(self) -> str:
        what = " ".join(
            x for x in (self.operator, self.node, self.module and f"of {self.module}") if x
        )
        shares = (self.share, self.outputs_share)
        its, their = (
            f"by {x:.1e} of the scale" if x < math.inf else "in numbers that are not finite"
            for x in shares
        )
        pairs = zip(self.dtypes, self.ranges, self.not_finite, self.files, self.runtimes)
        sides = [
            f"{dtype} {low:.4g} to {high:.4g}{f' and {n} not finite' if n else ''} in {file} on "
            f"{runtime}"
            for dtype, (low, high), n, file, runtime in pairs
        ]
        skipped = self.skipped and f"{self.skipped} more could not be compared"
        return (
            f"Of {self.compared} tensors {self.tensor}{what and f' ({what})'} is the first that "
            f"differs, {its} "
            f"(tolerance {self.tolerance:.1e}): {'; '.join(sides)}. "
            f"The outputs differ {'; '.join(x for x in (their, skipped, self.note) if x)}."
        )


def compare_runtimes(
    model: Path,
    inputs: Sequence[Arrays],
    *,
    against: Path | None = None,
    runtime: str = REFERENCE,
    tolerance: float,
) -> Difference | None:
    """`model` on ONNX Runtime (CPU) against `against` (None: the same file) on `runtime`: the first
    tensor that differs, or None where the outputs agree.

    Args:
        inputs: a mapping of named arrays [batch, sequence] for each batch.
        runtime: "ort", "trt" (TensorRT, else TensorRT-RTX, as everywhere in rfx) or "trt-rtx".
        tolerance: the largest difference as a share of the scale, as in the `same` gate.

    Raises:
        UsageError: no such runtime; no ONNX file; inputs that are missing or do not fit; no common
            output.
        EnvironmentMissingError: no Polygraphy; no GPU or TensorRT for this runtime; one side cannot
            run the file.
    """
    _require(runtime)
    left, right = sides = Side(Path(model), REFERENCE), Side(Path(against or model), runtime)
    wanted = left.inputs | right.inputs
    wrong = [
        f for f in inputs if any(n not in f or f[n].ndim != rank for n, rank in wanted.items())
    ]
    if wrong or not inputs:
        got = ", ".join(f"{n} {list(x.shape)}" for n, x in wrong[0].items()) if wrong else "none"
        allowed = ", ".join(f"{n} with {rank} dimensions" for n, rank in wanted.items())
        raise UsageError("The model needs inputs that were not given.", got=got, allowed=allowed)
    names = {n: n for n in left.outputs if n in right.outputs}
    if not names:
        raise UsageError(
            "The two files have no output in common.", got=", ".join(left.outputs + right.outputs)
        )
    feeds = [{n: np.ascontiguousarray(feed[n]) for n in wanted} for feed in inputs]
    with silent_polygraphy(runtime):
        found = _run([s.runner(feeds) for s in sides], feeds, names, outputs=True)
        measured = [
            (m, feed, n) for feed, measures in zip(feeds, found) for n, m in measures.items()
        ]
        scale = max(m.scale for m, *_ in measured)
        worst, feed, output = max(measured, key=lambda x: x[0].difference)
        if worst.difference / scale <= tolerance:
            return None
        at = Found(output, output, worst, feed, len(names), 0, scale, inside=False)
        try:
            inside = _locate(left, right, _example(feed, worst.row), tolerance)
            at, note = (
                inside or at,
                "" if inside else "it is gone once every tensor is an output: fusions make it",
            )
        except Exception as error:  # the outputs differ, whatever fails on the way to the reason
            note = f"the tensors inside could not be compared ({first_line(error)})"
    scales = {"": at.largest_scale, **dict.fromkeys(names, scale), at.name: at.measure.scale}
    share = (
        at.measure.difference / at.measure.scale
    )  # within the tolerance where NaN was named that both sides have
    return Difference(
        at.name,
        *left.origin(at.name),
        share if share > tolerance else math.inf,
        worst.difference / scale,
        tolerance,
        tuple(str(s.path) for s in sides),
        (REFERENCE, runtime),
        *zip(*at.measure.values),
        at.compared,
        at.skipped,
        note,
        repro_commands(left, right, at, {n: tolerance * s for n, s in scales.items()}),
        at.feed,
    )


@dataclass(frozen=True)
class Measure:
    """Of two arrays the largest difference (inf where one is not finite), and the scale."""

    difference: float
    scale: float
    values: tuple[
        tuple, tuple
    ]  # of each: dtype, range of the finite numbers, how many are not finite
    row: int | None = None  # that has the difference, in the batch
    nan: bool = False  # on both sides
    output1_name = (
        None  # Polygraphy then takes no statistics of the pair, which cost more than all the rest
    )


def measure(left, right, outputs: bool = False) -> Measure | None:
    """Compare two arrays (or torch tensors) as float32. `outputs` as the gate does it: what is not
    finite or of another shape differs. Inside a model NaN and inf may be on both sides, what is
    masked is left out, and tensors of other shapes cannot be compared (None).
    """
    (a, of_a), (b, of_b) = _read(left), _read(right)
    if a.shape != b.shape:
        return Measure(math.inf, 1.0, (of_a, of_b)) if outputs else None
    with np.errstate(all="ignore"):
        nan = np.isnan(a) & np.isnan(b)
        same = np.zeros_like(nan) if outputs else (a == b) | nan | ((a <= MASKED) & (b <= MASKED))
        gaps = np.where(same, 0.0, np.nan_to_num(np.abs(a - b), nan=np.inf, posinf=np.inf))
        counted = np.abs(a[np.isfinite(a) & (outputs | (a > MASKED))])
    row = int(gaps.argmax()) // (gaps.size // len(gaps)) if gaps.ndim and gaps.size else None
    largest, scale = float(gaps.max(initial=0.0)), max(1.0, float(counted.max(initial=0.0)))
    return Measure(largest, scale, (of_a, of_b), row, bool(nan.any()))


def _read(x) -> tuple[np.ndarray, tuple]:
    dtype = str(x.dtype).removeprefix("torch.")
    if hasattr(x, "detach"):  # torch, which has bfloat16 and NumPy has not
        x = (x.float() if x.is_floating_point() else x).detach().cpu().numpy()
    x = np.asarray(x, dtype=np.float64 if x.dtype.kind in "iub" else np.float32)
    finite = x[np.isfinite(x)]
    ends = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return x, (dtype, ends, x.size - finite.size)


def _run(
    runners: Sequence, feeds: Sequence[Arrays], pairs: Mapping[str, str], outputs: bool = False
) -> list[dict]:
    """For each of `feeds` the `Measure` of each of the pairs {left name: right name}, in their
    order."""
    from polygraphy.comparator import Comparator

    found: list[dict[str, Measure]] = []

    def compare(left, right) -> dict[str, Measure]:
        measures = (
            (n, measure(left[n], right[p], outputs))
            for n, p in pairs.items()
            if n in left and p in right
        )
        found.append({n: m for n, m in measures if m is not None})
        return found[-1]

    Comparator.compare_accuracy(
        Comparator.run(list(runners), data_loader=list(feeds)), compare_func=compare
    )
    return found


@dataclass(frozen=True)
class Found:
    name: str
    other: str  # what the right side calls it
    measure: Measure
    feed: Arrays
    compared: int
    skipped: int
    largest_scale: float
    inside: bool = True  # with every tensor an output


def _example(feed: Arrays, row: int | None) -> list[Arrays]:
    """The worst example alone, then its batch: all tensors of a large batch may not fit into
    memory."""
    lengths = {len(x) if x.ndim else 0 for x in feed.values()}
    alone = row is not None and len(lengths) == 1 and row < max(lengths) > 1
    return [{n: np.ascontiguousarray(x[row : row + 1]) for n, x in feed.items()}] * alone + [feed]


def _locate(left: Side, right: Side, feeds: Sequence[Arrays], tolerance: float) -> Found | None:
    """With every tensor an output on both sides, the first that differs on the first of `feeds`
    that shows one."""
    import torch

    pairs = {n: p for n in left.tensors if (p := _partner(n, right.tensors)) is not None}
    alone = sum(
        n not in pairs.values() and _HALF.sub("", n) not in left.tensors for n in right.tensors
    )
    runners = [s.runner(feeds, inside=True) for s in (left, right)]
    for feed in feeds:
        as_torch = (
            right.bf16 and right.runtime != REFERENCE
        )  # TensorRT's runner then answers in torch, which has bfloat16
        fed = {n: torch.from_numpy(x) for n, x in feed.items()} if as_torch else feed
        measures = _run(runners, [fed], pairs)[0]
        # NaN on both sides is no difference; but where there is none it is what is wrong.
        over = [n for n, m in measures.items() if m.difference > tolerance * m.scale]
        if over := over or [n for n, m in measures.items() if m.nan]:
            scale = max(
                [1.0, *(m.scale for m in measures.values() if m.values[0][0].startswith("float"))]
            )
            skipped = len(left.tensors) - len(measures) + alone
            return Found(
                over[0], pairs[over[0]], measures[over[0]], feed, len(measures), skipped, scale
            )
    return None


def _partner(name: str, others: Mapping[str, Any]) -> str | None:
    """The tensor of this name, or its other form: `x.fp16` for `x`, `x` for `x.fp16`."""
    return next(
        (x for x in (name, *(f"{name}.{h}" for h in HALVES), _HALF.sub("", name)) if x in others),
        None,
    )


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
                "The ONNX file cannot be read.", got=f"{path}: {first_line(error)}"
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

    def runner(self, feeds: Sequence[Arrays], inside: bool = False):
        """A runner of Polygraphy's for inputs shaped like `feeds`; with `inside` every tensor is an
        output."""
        from polygraphy import constants
        from polygraphy.backend.onnx import ModifyOutputs, OnnxFromPath
        from polygraphy.backend.onnxrt import OnnxrtRunner

        if self.runtime != REFERENCE:
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
        return OnnxrtRunner(
            runtime_class(REFERENCE)().build_model(model, Workload.of_text(threads=threads)).session
        )

    def loaders(self, feeds: Sequence[Arrays], inside: bool, **target):
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


def _require(runtime: str) -> None:
    if runtime not in (known := (REFERENCE, *locators())):
        raise UsageError(
            "Polygraphy compares no such runtime.", got=runtime, allowed=", ".join(known)
        )
    if importlib.util.find_spec("polygraphy") is None:
        what, next_step = (
            "Polygraphy, which compares runtimes, is not installed.",
            "pip install 'rfx-exporter[rtx]'",
        )
        raise EnvironmentMissingError(
            what, next_step=f"{next_step}, or pip install 'polygraphy>=0.53'"
        )
    if not (here := runtime_class(runtime).availability()).ok:
        what = f"The runtime {runtime!r} cannot run here to be compared."
        raise EnvironmentMissingError(what, got=here.reason, next_step=here.next_step)


@contextmanager
def silent_polygraphy(runtime: str) -> Iterator[None]:
    """Polygraphy silent, on the TensorRT that serves `runtime`, its errors in rfx's words;
    afterwards as it was."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state
    from polygraphy import config
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    trt = None if runtime == REFERENCE else library(runtime)
    held: list[tuple[Any, str, Any]] = [(config, "USE_TENSORRT_RTX", config.USE_TENSORRT_RTX)]
    try:
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1):
            if trt is not None:
                config.USE_TENSORRT_RTX = is_rtx(trt)
                import polygraphy.backend.tensorrt_rtx  # noqa: F401 - now, so that no later import chooses otherwise
                from polygraphy.backend.trt import util
                from polygraphy.mod.trt_importer import lazy_import_trt

                # Its modules hold the library that was chosen when they were imported: perhaps the
                # other of the two.
                for module in [
                    m for name, m in sys.modules.items() if name.startswith("polygraphy.")
                ]:
                    if type(vars(module).get("trt")).__name__ == "LazyModule":
                        held.append((module, "trt", module.trt))
                        module.trt = lazy_import_trt()
                held.append((util, "TRT_LOGGER", util.TRT_LOGGER))
                util.TRT_LOGGER = logger(
                    trt
                )  # one a process: the first that TensorRT sees wins, and rfx reads its own
                util.TRT_LOGGER.clear()
            yield
    except (
        PolygraphyException,
        state.InvalidArgument,
        state.Fail,
        state.RuntimeException,
        OSError,
    ) as error:
        if trt is None:
            raise UsageError(
                "The model cannot be run on these inputs.", got=first_line(error)
            ) from error
        got = complaints(trt) or first_line(error)
        next_step = (
            "rfx build says what TensorRT refuses; libcudart.so has to be on "
            "LD_LIBRARY_PATH for Polygraphy"
        )
        raise EnvironmentMissingError(
            "TensorRT cannot run the model.", got=got, next_step=next_step
        ) from error
    finally:
        for owner, name, value in held:
            setattr(owner, name, value)


def repro_commands(
    left: Side, right: Side, at: Found, limits: Mapping[str, float]
) -> tuple[tuple[str, ...], ...]:
    """The words of the `polygraphy run`s that fail where a tensor differs by more than `limits`
    ({name or "": x})."""
    marks: list[list[str]] = [[], []]
    if at.inside and left.tensors.keys() == right.tensors.keys() and not left.bf16 | right.bf16:
        marks = [["*"], ["*"]]
    elif (
        at.inside
    ):  # a tensor without a partner would be held against another, and bfloat16 cannot be saved
        pair = (
            ([at.name], [at.other])
            if not {at.name, at.other} & (left.bf16 | right.bf16)
            else ([], [])
        )
        marks = [list(dict.fromkeys(s.outputs + p)) for s, p in zip((left, right), pair)]
    onnxrt = [["--onnxrt", *(["--onnx-outputs", *m] if m else [])] for m in marks]
    runs = [
        ["polygraphy", "run", os.path.abspath(s.path), "--load-inputs", INPUTS]
        for s in (left, right)
    ]
    judge = ["--check-error-stat", "max", "--infinities-compare-equal", "--rtol", "0", "--atol"]
    judge += [f"{name}:{limit:.9g}" for name, limit in limits.items()]
    second, setting = onnxrt[1], []
    if right.runtime != REFERENCE:
        setting = ["POLYGRAPHY_USE_TENSORRT_RTX=1"] if is_rtx(library(right.runtime)) else []
        second = [
            "--trt",
            "--strongly-typed",
            "--tf32",
            *(["--trt-outputs", *marks[1]] if marks[1] else []),
        ]
        for i, end in enumerate(("min", "opt", "max")):
            shapes = right.profile([at.feed]).items()
            second += [
                f"--trt-{end}-shapes",
                *(f"{n}:[{','.join(map(str, s[i]))}]" for n, s in shapes),
            ]
        if left.path == right.path:  # one run has both
            return ((*setting, *runs[0], *onnxrt[0], *second, *judge),)
    # The reference last: Polygraphy looks for partners of what ran last, and TensorRT has tensors
    # of its own.
    kept = (*runs[0], *onnxrt[0], "--load-outputs", OUTPUTS, *judge)
    return (*setting, *runs[1], *second, "--save-outputs", OUTPUTS), kept


def _lines(commands: Sequence[Sequence[str]], separator: str) -> str:
    return separator.join(" ".join(shlex.quote(word) for word in words) for words in commands)


def save_repro(folder: Path, difference: Difference) -> Path:
    """Write the inputs that show a difference (Polygraphy's JSON) and `parity.sh`, which repeats
    it; return that. It can be started from anywhere and fails while the two differ. A model in
    `folder` may move with it.

    Raises:
        UsageError: the folder cannot be written.
    """
    from polygraphy.json import to_json

    folder, home = Path(folder), os.path.abspath(folder) + os.sep
    commands = _lines(
        [[word.removeprefix(home) for word in words] for words in difference.commands], "\n"
    )
    head = (
        f"#!/usr/bin/env bash\n# {' '.join(str(difference).split())}\nset -euo pipefail\ncd "
        '"$(dirname "$0")"\n'
    )
    atomic_write_text(folder / INPUTS, to_json([dict(difference.inputs)]))
    atomic_write_text(folder / SCRIPT, f"{head}{commands}\n")
    return folder / SCRIPT
