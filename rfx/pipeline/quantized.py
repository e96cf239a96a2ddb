"""The quantized file beside the fp32 file that it is made of: the same weights, what it costs, and
whether it is any faster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rfx.core.artefact import Artefact
from rfx.core.plan import FULL, Plan
from rfx.evidence.records import Excluded, QuantizationPart
from rfx.export.quantizers.base import Quantizer
from rfx.measure.latency import measure_pair
from rfx.methods.scores.divergence import outputs_divergence
from rfx.models.subject import Subject
from rfx.pipeline.baseline import Outputs, evaluate, result_of
from rfx.pipeline.dense import modules_of, quantizes, workload_of
from rfx.pipeline.judge import FINAL_SECONDS
from rfx.pipeline.losses import by_site, sites_in_integers
from rfx.pipeline.quantizing import quantizer_of
from rfx.pipeline.session import Session
from rfx.pipeline.vocabulary import divergence
from rfx.recipe.spec import Recipe
from rfx.runtimes.base import Engine
from rfx.tasks.examples import Examples


@dataclass(frozen=True)
class Quantized:
    """What the evidence says of quantizing, and the outputs of the pruned model in fp32 on the
    evaluation set."""

    part: QuantizationPart
    between: Outputs


def quantization(
    session: Session,
    recipe: Recipe,
    subject: Subject,
    examples: Examples,
    plan: Plan,
    plain: tuple[Artefact, Engine],
    served: tuple[Artefact, Engine],
    before: Outputs,
    after: Outputs,
    method: str,
    *,
    excluded: Sequence[Excluded] = (),
    losses: bool | None = None,
) -> Quantized | None:
    """What the quantized file of a recipe is; None where the recipe asks for none.

    Args:
        recipe: it keeps the sites of `excluded` in fp32 too.
        plain: the pruned model in fp32, its file and its engine.
        served: the same, quantized.
        before: the dense engine's outputs on the evaluation set.
        after: those of the quantized engine.
        method: what quantized it, and how, in words.
        excluded: the sites that rfx kept in fp32 of itself.
        losses: measure what quantizing costs by site; None: as the recipe asks.
    """
    if not quantizes(recipe):
        return None
    names, kept = examples.task.output_names, recipe.quantization.keep_fp32
    with session.stage("quantized beside fp32"):
        between = evaluate(
            session, examples.served, plain[1], "evaluating the pruned model in fp32"
        )
        quantizer = quantizer_of(
            session.target.serves, recipe.workload.precision, modules_of(subject, kept)
        )
        products, mismatches = _compared(plain[0].files, served[0].files, quantizer)
        ratio = interval = None
        if not session.target.absent:
            pair = measure_pair(
                session.target.here,
                plain[1],
                served[1],
                workload_of(recipe, FULL),
                inputs=subject.as_served.inputs,
                seed=recipe.seed + 2,
                min_seconds=FINAL_SECONDS / 2,
            )
            ratio, interval = pair.ratio, pair.interval
    sites, own = sites_in_integers(plan, kept), [x.site for x in excluded]
    part = QuantizationPart(
        method=method,
        products=products,
        bytes=sum(file.stat().st_size for file in served[0].files),
        fp32_bytes=sum(file.stat().st_size for file in plain[0].files),
        pruning=divergence(examples, before, between),
        quantization=outputs_divergence(between, after, names),
        ratio=ratio,
        interval=interval,
        kept_fp32=[name for name in kept if name not in own],
        excluded=list(excluded),
        sites=sites,
        max_loss=recipe.limits.max_quantization_loss,
        fp32_metric=result_of(examples.served, between).value,
        by_site=by_site(session, recipe, subject, examples.served, sites, plain, served)
        if (recipe.quantization.by_site if losses is None else losses)
        else None,
        mismatches=mismatches,
    )
    return Quantized(part, between)


def _compared(
    plain: tuple[Path, ...], served: tuple[Path, ...], quantizer: Quantizer
) -> tuple[int, list[str]]:
    """How many products are in integers, and what is not as it should be, by the files alone."""
    import onnx

    count, wrong = 0, []
    for before, after in zip(plain, served, strict=True):
        products, said = quantizer.compare(onnx.load(str(before)), onnx.load(str(after)))
        count += products
        wrong += said
    return count, wrong
