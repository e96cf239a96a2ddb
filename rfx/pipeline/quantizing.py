"""What quantizes the files of a job, and the inputs that it chooses its scales by.

Which quantizer it is, the runtime says that the result is for. One that computes its scales while
the model runs is shown nothing. Others are shown calibration examples, never those of the
evaluation, each alone and unpadded. A file that is only timed is made with the random inputs that
it is timed with, since its latency does not depend on the scales.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rfx.core.errors import UsageError
from rfx.core.registry import code_of
from rfx.export.find import default_quantizer, quantizer_class
from rfx.export.precision.convert import is_quantized
from rfx.export.quantizers.base import Feed, Quantizer
from rfx.models.subject import Subject
from rfx.pipeline.dense import PLAIN, workload_of
from rfx.pipeline.session import Session
from rfx.recipe.spec import Recipe
from rfx.runtimes.base import Runtime
from rfx.tasks.calibration import features_hash
from rfx.tasks.examples import Examples

TIMED = 2  # random inputs of a file that is only timed


@dataclass(frozen=True)
class Quantizing:
    """What makes files of one quantized precision.

    Args:
        name: of the quantizer.
        method: in words, with its version and options.
        feeds: the inputs that its scales are chosen by; none where it needs none.
        hash: of those inputs.
    """

    name: str
    method: str
    feeds: tuple[Feed, ...] = ()
    hash: str = ""

    @property
    def key(self) -> str:
        """What the key of a stored file says of it."""
        return ", ".join(filter(None, (self.method, self.hash, code_of("quantizer", self.name))))

    def asked(self, precision: str) -> dict[str, Any]:
        """What an exporter has to be told of it: nothing of the quantizer that it takes anyway."""
        asked: dict[str, Any] = {}
        if self.name != default_quantizer(precision):
            asked["quantizer"] = self.name
        if self.feeds:
            asked["calibration"] = self.feeds
        return asked


def quantizer_of(
    runtime: Runtime, precision: str, keep_fp32: tuple[str, ...] = (), *, portable: bool = False
) -> Quantizer:
    """What makes files of a quantized precision for a runtime.

    Args:
        portable: with weights of 7 bits on every CPU. What is only timed need not be: it takes the
            same time.

    Raises:
        UsageError: nothing does.
    """
    name = runtime.capabilities.quantizer
    if name is None:
        raise UsageError(
            "rfx cannot quantize for this runtime.",
            got=f"{precision} for {runtime.name}",
            allowed="a runtime that names its quantizer",
            next_step="give another --target or another --precision",
        )
    made = quantizer_class(name)
    if portable and not made.seven_bits:
        if made.portable is None:
            raise UsageError(
                "The quantizer of this runtime has no weights of 7 bits to offer.",
                got=f"--cpu-portable for {runtime.name}",
                allowed="--cpu-portable for a runtime on a CPU",
                next_step="leave --cpu-portable out, or give another --target",
            )
        name, made = made.portable, quantizer_class(made.portable)
    quantizer = made(precision, keep_fp32)
    quantizer.name = name
    return quantizer


def made_by(runtime: Runtime, precision: str) -> str:
    """What makes a file of this precision for a runtime, with its version and options: part of keys
    of the store."""
    return quantizer_of(runtime, precision).method() if is_quantized(precision) else PLAIN


def table_method(runtime: Runtime, precision: str) -> str:
    """What the key of a latency table says of it (see `Quantizer.table_method`)."""
    return quantizer_of(runtime, precision).table_method() if is_quantized(precision) else ""


def for_serving(
    session: Session, recipe: Recipe, subject: Subject, examples: Examples, precision: str
) -> Quantizing | None:
    """What makes the file of a precision that is served or judged; None where it is not a quantized
    one.

    Raises:
        UsageError: too few calibration examples for this quantizer.
    """
    if not is_quantized(precision):
        return None
    made = quantizer_of(session.target.serves, precision, portable=recipe.quantization.cpu_portable)
    if not made.least_examples:
        return _of(made)
    masks = [i.name for i in subject.inputs.inputs if i.fill == "ones"]
    features, feeds = [], []
    for feature in examples.calibration_features:
        feed = examples.task.collate([feature])
        if all(feed[name].any() for name in masks if name in feed):  # else it is padding alone
            features.append(feature)
            feeds.append(feed)
        if len(feeds) == recipe.quantization.examples:
            break
    if len(feeds) < made.least_examples:
        raise UsageError(
            "There are too few calibration examples to choose the scales of activations by.",
            got=f"{len(feeds)} that are more than padding, of "
            f"{len(examples.calibration_features)} that were drawn from the training set",
            allowed=f"{made.least_examples} or more",
            next_step="give more training examples (--train, --examples), or use --precision fp32",
        )
    return _of(made, tuple(feeds), features_hash(features))


def for_timing(session: Session, recipe: Recipe, subject: Subject) -> Quantizing | None:
    """What makes a file of the recipe's precision that is only timed; None where that is not a
    quantized one."""
    workload = workload_of(recipe)
    if not is_quantized(workload.precision):
        return None
    made = quantizer_of(session.target.serves, workload.precision)
    if not made.least_examples:
        return _of(made)
    feeds = tuple(subject.inputs.example(workload, seed=recipe.seed + n) for n in range(TIMED))
    return _of(made, feeds, f"{TIMED} random inputs of {recipe.seed}")


def _of(made: Quantizer, feeds: tuple[Feed, ...] = (), digest: str = "") -> Quantizing:
    method = made.method() + (f", {len(feeds)} examples" if feeds else "")
    return Quantizing(made.name, method, feeds, digest)
