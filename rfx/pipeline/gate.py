"""Judge evidence by new limits, from its numbers alone, once it is seen to be sound."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rfx.core.errors import UsageError
from rfx.evidence.check import LIMITS, check, recorded_limit
from rfx.evidence.files import require_files
from rfx.evidence.read import evidence_bytes, evidence_file, parse_evidence, read_evidence
from rfx.evidence.records import Evidence
from rfx.evidence.signature import public_key, require_signature
from rfx.evidence.sound import require_sound


def gate(
    evidence: Evidence | str | Path,
    *,
    max_drop: float | None = None,
    min_speedup: float | None = None,
    min_agreement: float | None = None,
    max_quantization_loss: float | None = None,
    min_vocabulary_agreement: float | None = None,
    baseline: Evidence | str | Path | None = None,
    max_regression: float = 0.5,
    files: str | Path | None = None,
    verify_key: str | Path | None = None,
) -> Evidence:
    """The same evidence with its gates judged again.

    Args:
        evidence: the evidence, evidence.json, or the folder that holds it.
        max_drop: points of the metric that may be lost; None keeps the recorded limit.
        min_speedup: least speedup over the dense model; None keeps the recorded limit.
        min_agreement: least share of the predictions that are the dense model's; None keeps the
            recorded limit.
        max_quantization_loss: most divergence of the quantized file from the same model in fp32;
            None keeps the recorded limit.
        min_vocabulary_agreement: least share of the answers that are those of the same pruned model
            with its full vocabulary; None keeps the recorded limit.
        baseline: evidence that this one must not be worse than, measured under the same workload.
        max_regression: points that it may lose against the baseline.
        files: an output folder whose files must be those that the evidence lists, each with its
            hash, and no others.
        verify_key: the public Ed25519 key that evidence.json must be signed for, and that of the
            baseline.

    Raises:
        UsageError: no such file, evidence without measurements or that contradicts itself, files
            that are not those it lists, a signature that is missing or of another key, a limit
            that is none, or a baseline that cannot be compared with.
        EnvironmentMissingError: a signature is to be checked and `cryptography` is not installed.

    Examples:
        >>> rfx.gate("build", max_drop=1.0, min_speedup=1.3).outcome
        'pass'
    """

    found = _read(evidence, verify_key)
    require_sound(found)
    if files is not None:
        require_files(found, files)
    against = None
    if baseline is not None:
        # What it is judged by is to be as sure as what is judged.
        against = _read(baseline, verify_key)
        require_sound(against, "baseline")
    given = {
        "max_drop": max_drop,
        "min_speedup": min_speedup,
        "min_agreement": min_agreement,
        "max_quantization_loss": max_quantization_loss,
        "min_vocabulary_agreement": min_vocabulary_agreement,
    }
    gates = check(found, **given, max_regression=max_regression, baseline=against)
    return _with_limits(found.model_copy(update={"gates": gates}), given)


def _with_limits(judged: Evidence, given: Mapping[str, float | None]) -> Evidence:
    """The evidence with the limits that it was judged by: its gates and they go together."""
    limits = {name: value for name, value in given.items() if value is not None}
    if not limits:
        return judged
    before = {name: recorded_limit(judged, name) for name in LIMITS}
    recorded = judged.recipe.get("limits")
    part, quantized = judged.accuracy, judged.quantization
    if part is not None:
        own = {n: x for n, x in limits.items() if n in ("max_drop", "min_agreement")}
        before |= {"max_drop": part.max_drop, "min_agreement": part.min_agreement}
        part = part.model_copy(update=own)
    if quantized is not None:
        before |= {"max_quantization_loss": quantized.max_loss}
        loss = limits.get("max_quantization_loss", quantized.max_loss)
        quantized = quantized.model_copy(update={"max_loss": loss})
    vocabulary = judged.vocabulary
    if vocabulary is not None:
        before |= {"min_vocabulary_agreement": vocabulary.min_agreement}
        least = limits.get("min_vocabulary_agreement", vocabulary.min_agreement)
        vocabulary = vocabulary.model_copy(update={"min_agreement": least})
    new = {**(recorded if isinstance(recorded, Mapping) else {}), **before, **limits}
    return judged.model_copy(
        update={
            "accuracy": part,
            "quantization": quantized,
            "vocabulary": vocabulary,
            "recipe": {**judged.recipe, "limits": new},
        }
    )


def _read(given: Evidence | str | Path, verify_key: str | Path | None) -> Evidence:
    """The evidence, from the very bytes whose signature was checked."""
    if verify_key is None:
        return given if isinstance(given, Evidence) else read_evidence(given)
    if isinstance(given, Evidence):
        raise UsageError(
            "A signature is of a file.",
            got="evidence in memory",
            allowed="the path of evidence.json, or of its folder",
            next_step="give the path, or leave verify_key out",
        )
    key, file, data = public_key(verify_key), evidence_file(given), evidence_bytes(given)
    require_signature(data, file, key)
    return parse_evidence(data, str(file))
