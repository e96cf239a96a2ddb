"""The one place that calls modelopt: for `python -m rfx.quantize`, and for the quantizer that jobs
with `--target trt` take (`rfx.export.quantizers.modelopt`)."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfx.core.errors import EnvironmentMissingError, InternalCheckError, first_line, is_interrupt
from rfx.export.modelopt.files import PRODUCTS

if TYPE_CHECKING:
    import numpy as np
    import onnx

PRECISIONS = ("int8", "fp8")
METHODS = ("max", "entropy")
INSTALL = (
    'python -m venv modelopt && modelopt/bin/pip install "nvidia-modelopt[onnx]" && '
    "modelopt/bin/pip install --no-deps rfx-exporter"
)


def require(*packages: str) -> None:
    """Raises EnvironmentMissingError where a package that quantizing needs is not installed."""
    missing = [p for p in packages if importlib.util.find_spec(p) is None]
    if missing:
        raise no_modelopt(f"{', '.join(missing)} not installed for {sys.executable}")


def no_modelopt(got: str) -> EnvironmentMissingError:
    return EnvironmentMissingError(
        "Quantization needs nvidia-modelopt[onnx], in an environment of its own: it pins an older "
        "onnx and onnxruntime-gpu, "
        "which would replace those that rfx runs with.",
        got=got,
        next_step=f"{INSTALL}\n           then run modelopt/bin/python -m rfx.quantize with the "
        "same arguments",
    )


def name_products(model: onnx.ModelProto) -> None:
    """Give every product a name of its own, by which modelopt knows nodes. It would name them
    itself, and then they could be neither chosen nor left out."""
    taken: set[str] = set()
    for i, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{i}_rfx"
        taken.add(node.name)


def run_modelopt(
    model: onnx.ModelProto,
    inputs: Mapping[str, np.ndarray] | Sequence[Mapping[str, np.ndarray]],
    precision: str,
    *,
    leave_out: Collection[str] = (),
    only: Collection[str] | None = None,
    method: str = "max",
    chatter: Any = None,
) -> tuple[onnx.ModelProto, str]:
    """The model as modelopt quantizes it, and modelopt's version.

    Args:
        model: its products have names (`name_products`).
        inputs: arrays of all examples, whose first axis is theirs; or the inputs of each run, which
            may be of different lengths.
        leave_out: names of products that are not quantized.
        only: names of the products that are quantized, all of them; None: modelopt chooses, and
            leaves out what it expects to be slower quantized.

    Raises:
        EnvironmentMissingError: modelopt does not import.
        InternalCheckError: modelopt failed.
    """
    import onnx

    more: dict[str, Any] = {}
    if only is not None:
        leave_out = [n.name for n in model.graph.node if n.name not in only]
        more = {"nodes_to_quantize": _patterns(only), "enable_gemv_detection_for_trt": False}
    with _scratch() as folder, _quiet(chatter):
        try:
            import modelopt
            from modelopt.onnx.quantization import quantize as run
        except ImportError as error:
            raise no_modelopt(f"modelopt does not import: {first_line(error)}") from error
        if isinstance(inputs, Mapping):
            more["calibration_data"] = dict(inputs)
        else:
            more["calibration_data_reader"] = _reader(inputs)
        # A copy: modelopt 0.47 writes into the file it is given.
        before, after = folder / "model.onnx", folder / "quantized.onnx"
        onnx.save(model, before)
        try:
            run(
                str(before),
                quantize_mode=precision,
                calibration_method=method,
                calibration_eps=["cpu"],
                op_types_to_quantize=list(PRODUCTS),
                nodes_to_exclude=_patterns(leave_out),
                high_precision_dtype="fp32",
                # weights stored quantized: a Q before them only makes the file larger
                dq_only=True,
                output_path=str(after),
                log_level="WARNING",
                **more,
            )
            return onnx.load(str(after)), str(
                getattr(modelopt, "__version__", "of an unknown version")
            )
        except Exception as error:
            if is_interrupt(error):
                raise KeyboardInterrupt from None
            # modelopt raises many kinds; none may reach the user as a traceback.
            raise InternalCheckError(
                "modelopt could not quantize the model.",
                got=first_line(error),
                next_step="run again with --verbose for its messages; the unquantized file still "
                "serves",
            ) from error


def _patterns(names: Iterable[str]) -> list[str]:
    """Names as modelopt reads them: as patterns, of which it compares the beginning alone."""
    return [re.escape(name) + r"\Z" for name in names]


def _reader(feeds: Sequence[Mapping[str, np.ndarray]]) -> Any:
    """The inputs of one run after another, as modelopt asks for them."""
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            self.rewind()

        def rewind(self) -> None:
            self._left = iter(feeds)

        def get_next(self) -> dict[str, np.ndarray] | None:
            feed = next(self._left, None)
            return None if feed is None else dict(feed)

        def get_first(self) -> dict[str, np.ndarray]:
            return dict(feeds[0])

    return Reader()


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for all the files that modelopt makes on its way, those that it would forget in the
    system's among them."""
    folder, previous = Path(tempfile.mkdtemp(prefix="rfx-quantize-")), tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = previous
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _quiet(chatter: Any) -> Iterator[None]:
    """Standard output is for the one line of JSON: modelopt logs there, and shows a bar for every
    example."""
    stream = chatter or io.StringIO()
    with (
        contextlib.redirect_stdout(stream),
        contextlib.redirect_stderr(stream),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore" if chatter is None else "default")
        yield
