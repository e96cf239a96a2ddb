"""Gates: from measured numbers to pass, fail or inconclusive.

A gate passes when the bound of its interval is inside the limit, fails when the other bound is
outside, and is inconclusive between. A latency that is not finite fails; a metric that cannot be
computed is inconclusive. Accuracy without a limit is not judged, unless the model is ruined.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rfx.core.errors import ExitCode
from rfx.evidence.records import (
    AccuracyPart,
    Evidence,
    Gate,
    LatencyPart,
    Outcome,
    QuantizationPart,
    SizePart,
    VocabularyPart,
)
from rfx.evidence.vocabulary import pieces_text
from rfx.evidence.words import ALIKE, BYTES, POINTS, points, score

# A loss of more than this share of what the dense model is above chance must be allowed by a limit.
RUIN = 0.2
LEAST_ALIKE = 0.95  # of the answers, that must stay where the vocabulary becomes smaller
# How the details of `same` and `shrunk` begin where another file than model.onnx is judged.
OTHER_FILE = "model.onnx: "
CORRELATIONS = ("spearman", "pearson")  # of regressions, whose predictions are numbers


def of_another_file(gates: Sequence[Gate]) -> bool:
    """Whether accuracy, latency and size are those of another file than model.onnx (`--onnx`)."""
    return any(g.name == "same" and g.detail.startswith(OTHER_FILE) for g in gates)


def judge(interval: tuple[float, float], limit: float) -> Outcome:
    """The outcome for a value that must be at most `limit`."""
    low, high = interval
    if not (math.isfinite(low) and math.isfinite(high)):
        return "fail"
    return "pass" if high <= limit else "fail" if low > limit else "inconclusive"


def shrunk_gate(mismatches: Sequence[str]) -> Gate:
    """The exported file's shapes against the plan; `mismatches` are sentences."""
    more = f" (and {len(mismatches) - 3} more)" if len(mismatches) > 3 else ""
    return Gate(
        name="shrunk",
        outcome="fail" if mismatches else "pass",
        value=len(mismatches),
        limit=0,
        unit="mismatches",
        detail="; ".join(mismatches[:3]) + more if mismatches else "every shape is the plan's",
    )


def same_gate(differences: Mapping[str, float], tolerances: Mapping[str, float] | float) -> Gate:
    """Largest difference of the outputs between the forms of the pruned model, as a share of the
    outputs' scale; each pair has a tolerance. The value and limit are those of the pair that comes
    nearest to its own."""
    if not isinstance(tolerances, Mapping):
        tolerances = dict.fromkeys(differences or ("outputs",), tolerances)
    finite = bool(differences) and all(math.isfinite(d) for d in differences.values())
    worst = (
        max(differences, key=lambda n: differences[n] / tolerances[n])
        if finite
        else next(iter(tolerances))
    )
    return Gate(
        name="same",
        outcome="pass" if finite and differences[worst] <= tolerances[worst] else "fail",
        value=differences[worst] if finite else None,
        limit=tolerances[worst],
        unit="of scale",
        detail="largest difference of the outputs, "
        + ", ".join(f"{n}: {d:.1e}" for n, d in differences.items()),
    )


def quantized_gate(part: QuantizationPart) -> Gate:
    """The quantized file against the fp32 file that it is made of: the same weights within half a
    step of their scale, in all of the products, faster, and within the limit of the divergence,
    where there is one."""
    said = part.mismatches[:3]
    if loses_too_much(part):
        loss = "not known" if part.quantization is None else f"{part.quantization:.2g}"
        said = [
            *said,
            f"its divergence from the fp32 file is {loss}, the limit is {part.max_loss:g} "
            "(--max-quantization-loss)",
        ]
    why = "; ".join(said)
    known = part.ratio is not None and part.interval is not None
    outcome: Outcome = "inconclusive"
    if why:
        outcome = "fail"
    elif part.interval is not None:
        outcome = judge(part.interval, 1.0)
    return Gate(
        name="quantized",
        outcome=outcome,
        value=part.ratio if known and math.isfinite(part.ratio or math.nan) else None,
        limit=1.0,
        interval=part.interval if known and all(map(math.isfinite, part.interval or ())) else None,
        unit="of fp32",
        detail=f"{part.products} quantized products ({part.method})"
        + (f"; {why}" if why else ", each weight within half a step of the fp32 file's")
        + ("" if known else "; its latency was not measured"),
    )


def loses_too_much(part: QuantizationPart) -> bool:
    """Whether quantizing costs more than its limit, or cannot be told where there is one."""
    loss = part.quantization
    return part.max_loss is not None and (loss is None or not loss <= part.max_loss)


def accuracy_gate(part: AccuracyPart, max_drop: float | None) -> Gate:
    """The drop of the metric against `max_drop`, in points. Without a limit it is not judged, but
    for a model that is ruined: it fell to chance, or lost more than `RUIN` of what the dense model
    is above chance. A metric that cannot be computed is inconclusive."""
    known = math.isfinite(part.dense) and math.isfinite(part.pruned)
    finite = known and all(math.isfinite(x) for x in (part.drop, *part.interval))
    limit, why = max_drop, ""
    outcome: Outcome
    if not finite:
        lost = math.isfinite(part.dense) and not math.isfinite(part.pruned)
        outcome = "fail" if lost else "inconclusive"
        model = "pruned" if lost else "dense"
        what = f"{part.metric} of the {model} model" if not known else "the interval of the drop"
        why = f"; {what} cannot be computed on this evaluation set"
    elif max_drop is not None:
        outcome = judge(part.interval, max_drop)
    elif ruined := _ruin(part):
        outcome, limit = "fail", 100 * RUIN * (part.dense - _chance(part))
        why = f"; {ruined}. Give --max-drop to allow this loss"
    else:
        outcome, why = "not-judged", "; no limit was given (--max-drop)"
    return Gate(
        name="accuracy",
        outcome=outcome,
        value=part.drop if finite else None,
        limit=limit,
        interval=part.interval if finite else None,
        unit=POINTS,
        detail=f"{part.metric} {score(part.dense)} -> {score(part.pruned)} on {part.examples} "
        f"examples{_likeness(part)}{why}{_weak(part)}",
    )


def _weak(part: AccuracyPart) -> str:
    """What is to be said of a dense model that is no better than a constant answer."""
    if not part.weak_baseline:
        return ""
    return "; the dense model itself is no better than a constant answer (--allow-weak-baseline)"


def _chance(part: AccuracyPart) -> float:
    """The metric by chance; 0, the least it can be, where earlier versions did not record it."""
    known = part.chance is not None and math.isfinite(part.chance)
    return float(part.chance or 0.0) if known else 0.0


def _ruin(part: AccuracyPart) -> str:
    """Why a loss is so large that it must be allowed by a limit; empty where it is not."""
    chance = _chance(part)
    above = part.dense - chance
    if above <= 0:  # the dense model is no better than chance: there is nothing to lose
        return ""
    if part.pruned <= chance:
        return f"the pruned model is no better than chance ({100 * chance:.2f})"
    if part.interval[0] > 100 * RUIN * above:
        return f"more than {RUIN:.0%} of what the dense model is above chance was lost"
    return ""


def agreement_gate(part: AccuracyPart, min_agreement: float | None = None) -> Gate:
    """How often the pruned model answers as the dense model does. The limit is `min_agreement`; by
    default it lies half way between agreement by chance and 1, which is a Cohen's kappa of 0.5.

    Two models that always give one answer agree by chance alone: without a limit that is
    inconclusive.

    Evidence of earlier versions has no agreement by chance. Without a limit it is then judged
    by 0.5 alone, the least that the default can be: below that it fails, above it is inconclusive.
    It must not pass: evidence could be made to look like theirs.
    """
    given = part.min_agreement if min_agreement is None else min_agreement
    chance, value = part.chance_agreement, part.agreement
    limit = given if given is not None else 0.5 if chance is None else (1 + chance) / 2
    interval = part.agreement_interval or _wilson(value, part.examples)
    unknown = value is None or interval is None or not all(map(math.isfinite, (value, *interval)))
    outcome: Outcome
    if value is None or interval is None or unknown:
        asked = given is not None or chance is not None
        return Gate(
            name="agreement",
            outcome="inconclusive",
            limit=limit if asked else None,
            unit=ALIKE,
            detail="the evidence does not say how often the two models answer alike; rfx verify "
            "measures it",
        )
    if given is None and one_answer(part):
        # As a metric that is not defined: a kappa is none here, and no number of examples helps.
        return Gate(
            name="agreement",
            outcome="inconclusive",
            unit=ALIKE,
            detail=f"both models give one and the same answer to all {part.examples} examples, so "
            "that whether they agree cannot be told apart from chance",
        )
    low, high = interval
    outcome = "pass" if low >= limit else "fail" if high < limit else "inconclusive"
    detail = _alike(part, value)
    if outcome == "inconclusive" and out_of_reach(limit):
        detail += "; no number of examples can show that all answers ever are alike, as the lower "
        detail += "end of the interval stays below 1: a limit such as 0.99 can be passed"
    if given is None and chance is not None:
        detail += f"; {chance:.1%} would be by chance, and the limit is half way from there to 1"
    default = given is None and chance is None and outcome != "fail"
    if default:
        outcome = "inconclusive"
        detail += "; agreement by chance was not recorded, so that there is no default limit: give "
        detail += "--min-agreement"
    return Gate(
        name="agreement",
        outcome=outcome,
        value=value,
        limit=None if default else limit,
        interval=interval,
        unit=ALIKE,
        detail=detail,
    )


def out_of_reach(limit: float | None) -> bool:
    """Whether no finite number of examples passes a least agreement: the lower end of an interval
    never comes to 1, even where all answers are alike."""
    return limit is not None and limit >= 1


def one_answer(part: AccuracyPart) -> bool:
    """Whether both models give one and the same answer to every example: agreement by chance is
    then 1, and there is nothing above it."""
    return part.chance_agreement is not None and part.chance_agreement >= 1 - 1e-9


def _wilson(share: float | None, count: int) -> tuple[float, float] | None:
    """Wilson's 95 % interval of a share of `count`, for evidence that recorded no exact one."""
    if share is None or count < 1 or not 0 <= share <= 1:
        return None
    z2 = 1.959964**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = math.sqrt(z2 * (share * (1 - share) / count + z2 / (4 * count**2))) / (1 + z2 / count)
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))


def _likeness(part: AccuracyPart) -> str:
    """How like the dense model's the outputs are, which is sharper than the metric and needs no
    labels."""
    said = [] if part.agreement is None else [_alike(part, part.agreement)]
    if part.divergence is not None:
        numbers = part.agreement is None or part.metric in CORRELATIONS
        kind = part.divergence_kind or ("squared difference" if numbers else "KL")
        said.append(f"{kind} {part.divergence:.2g}")
    return "".join(f", {s}" for s in said)


def _alike(part: AccuracyPart, agreement: float) -> str:
    if part.metric in CORRELATIONS:
        return f"predictions correlate by {agreement:.3f} with the dense model's"
    return f"{agreement:.1%} predicted as by the dense model"


def latency_gate(part: LatencyPart, *, target: float | None, min_speedup: float | None) -> Gate:
    """The ratio to dense against the target and the least speedup; never slower than dense."""
    limits = {"never slower than dense": 1.0}
    if target is not None:
        limits["target"] = target
    if min_speedup is not None:
        limits[f"speedup of {min_speedup:g}"] = 1 / min_speedup
    why, limit = min(limits.items(), key=lambda item: item[1])
    finite = math.isfinite(part.ratio)
    return Gate(
        name="latency",
        outcome=judge(part.interval, limit) if finite else "fail",
        value=part.ratio if finite else None,
        limit=limit,
        interval=part.interval if finite else None,
        unit="of dense",
        detail=f"{part.dense_ms:.3f} -> {part.pruned_ms:.3f} ms ({part.speedup:.2f}x); limit: "
        f"{why}"
        + (
            ""
            if min_speedup is None or why.startswith("speedup")
            else f"; that includes the speedup of {min_speedup:g}"
        ),
    )


def predicted_latency_gate(
    predicted: float | None, *, target: float | None, min_speedup: float | None, why: str
) -> Gate:
    """Where the target runtime is not at hand: what the table says, which proves nothing. Always
    inconclusive."""
    limit = min(
        x for x in (1.0, target, None if min_speedup is None else 1 / min_speedup) if x is not None
    )
    return Gate(
        name="latency",
        outcome="inconclusive",
        value=predicted,
        limit=limit,
        unit="of dense",
        detail=f"predicted from the table, not measured: {why}",
    )


def size_gate(part: SizePart) -> Gate | None:
    """The files that are served against the size that was asked for; None where none was. Bytes
    are exact: there is nothing between pass and fail."""
    if part.limit is None:
        return None
    return Gate(
        name="size",
        outcome="pass" if part.bytes <= part.limit else "fail",
        value=part.bytes,
        limit=part.limit,
        unit=BYTES,
        detail=f"{', '.join(part.files)}: {part.bytes} bytes of at most {part.limit}; the dense "
        f"model's has {part.dense_bytes}",
    )


def vocabulary_gate(part: VocabularyPart, min_agreement: float | None = None) -> Gate:
    """How often the finished model with its smaller vocabulary answers as the same pruned model
    does with the full one. The limit is `min_agreement`, by default `LEAST_ALIKE`."""
    given = part.min_agreement if min_agreement is None else min_agreement
    limit = LEAST_ALIKE if given is None else given
    value, interval = part.agreement, part.agreement_interval
    detail = (
        f"{part.after} of {part.before} entries; {pieces_text(part)}; {points(part.drop)} by the "
        f"vocabulary alone; given the same pieces the files differ by {part.difference:.1e}"
    )
    if not part.difference <= part.tolerance:  # rows that are no copies: nothing else counts
        return Gate(
            name="vocabulary",
            outcome="fail",
            limit=limit,
            unit=ALIKE,
            detail=f"{detail}, the tolerance is {part.tolerance:.1e}",
        )
    known = value is not None and interval is not None
    if not known or not all(map(math.isfinite, (value or 0.0, *(interval or ())))):
        return Gate(
            name="vocabulary", outcome="inconclusive", limit=limit, unit=ALIKE, detail=detail
        )
    low, high = interval or (math.nan, math.nan)
    return Gate(
        name="vocabulary",
        outcome="pass" if low >= limit else "fail" if high < limit else "inconclusive",
        value=value,
        limit=limit,
        interval=interval,
        unit=ALIKE,
        detail=detail,
    )


def other_rows(evidence: Evidence) -> bool:
    """Whether the table of a smaller vocabulary has other rows than the full one."""
    part = evidence.vocabulary
    return part is not None and not part.difference <= part.tolerance


def exit_code(evidence: Evidence, allow_inconclusive: bool = False) -> ExitCode:
    """The worst outcome as an exit code; rfx's own proofs (shrunk, same) before the user's
    limits."""
    failed = {g.name for g in evidence.gates if g.outcome == "fail"}
    part = evidence.quantization
    wrong = part is not None and bool(part.mismatches)
    if failed & {"shrunk", "same"} or wrong or other_rows(evidence):
        return ExitCode.INTERNAL_CHECK
    if failed:
        return ExitCode.GATE_FAILED
    if evidence.outcome == "inconclusive" and not allow_inconclusive:
        return ExitCode.INCONCLUSIVE
    return ExitCode.PASS
