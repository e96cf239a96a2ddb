"""What to do now: the last line of a report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rfx.evidence.gates import loses_too_much, one_answer, other_rows, out_of_reach
from rfx.evidence.records import Evidence, Gate
from rfx.evidence.words import CHANGED


def next_step(evidence: Evidence, out: Path | None = None, given: Path | None = None) -> str:
    """What to do now, in one sentence.

    Args:
        out: the folder that the evidence lies in, whose files decide what can be served; None: the
            report does not know where it will lie.
        given: the evidence as it was named, which need not be called evidence.json.
    """
    again = "`rfx verify .` in the folder of evidence.json" if out is None else f"rfx verify {out}"
    states = {g.name: g.outcome for g in evidence.gates}
    said = _failed(evidence, [g for g in evidence.gates if g.outcome == "fail"])
    if said:
        return said
    if evidence.latency is None:
        return f"Next: measure the latency on the device that will serve it: {again}"
    if states.get("quantized") == "inconclusive":
        return (
            "Next: whether the quantized file is faster than the same model in fp32 cannot be "
            f"told. Measure it again: {again}"
        )
    if states.get("latency") == "inconclusive":
        return f"Next: the latency is too near to its limit to tell. Measure it again: {again}"
    if states.get("accuracy") == "inconclusive" and _unknown(evidence):
        return (
            "Next: the metric cannot be computed on this evaluation set. Give examples of every "
            "label with --eval, or another --metric."
        )
    if states.get("accuracy") == "inconclusive":
        return (
            "Next: the evaluation set is too small to tell whether the drop keeps its limit. Give "
            "prune-export more examples with --eval, or ask for less: a larger share with "
            "--latency or --flops, or a larger --size."
        )
    if states.get("agreement") == "inconclusive" and _out_of_reach(evidence):
        return (
            "Next: no number of examples can show an agreement of 1, because the lower end of its "
            "interval stays below 1. Set a limit that can be passed, such as --min-agreement 0.99."
        )
    part = evidence.accuracy
    if states.get("agreement") == "inconclusive" and part is not None and one_answer(part):
        return (
            "Next: both models give one and the same answer to every example. Give examples with "
            "--eval that the dense model answers differently, or say with --min-agreement what "
            "share is enough."
        )
    if states.get("agreement") == "inconclusive":
        return (
            "Next: the evaluation set is too small to tell whether the pruned model still answers "
            "as the dense model does. Give prune-export more examples with --eval, or set "
            "--min-agreement."
        )
    if states.get("vocabulary") == "inconclusive":
        return (
            "Next: the evaluation set is too small to tell whether the smaller vocabulary keeps "
            "the answers. Give prune-export more examples with --eval, or set "
            "--min-vocabulary-agreement."
        )
    if not states:
        return f"Next: nothing was judged. Measure it: {again}"
    return _serve(evidence, out, given)


def _out_of_reach(evidence: Evidence) -> bool:
    return any(g.name == "agreement" and out_of_reach(g.limit) for g in evidence.gates)


def _unknown(evidence: Evidence) -> bool:
    gate = next(g for g in evidence.gates if g.name == "accuracy")
    return gate.value is None


def _failed(evidence: Evidence, gates: list[Gate]) -> str:
    """What to do about the worst gate that failed; empty where none did."""
    failed = {g.name: g for g in gates}
    if not failed:
        return ""
    if any(w.startswith(CHANGED) for w in evidence.warnings):
        return (
            "Next: files of this output are not those that rfx wrote (see the warning). Copy the "
            "output again, or measure another file with `rfx verify --onnx`."
        )
    part = evidence.quantization
    wrong = part is not None and bool(part.mismatches)
    if "shrunk" in failed or "same" in failed or wrong or other_rows(evidence):
        return (
            "Next: do not use this model. A proof of rfx failed; please report it with "
            "evidence.json and the output of `rfx env`."
        )
    if "quantized" in failed and part is not None and loses_too_much(part):
        return (
            "Next: quantizing costs more than its limit. Keep sites in fp32 with --keep-fp32, "
            f"raise {_target_option(evidence)}, or allow more with --max-quantization-loss."
        )
    if "quantized" in failed:
        return (
            "Next: the quantized file is not faster than the same model in fp32. Use --precision "
            "fp32 on this machine, or measure on another one."
        )
    if "latency" in failed:
        return (
            "Next: the model is too slow for its limit. Ask for a lower --latency, or allow more "
            "with a higher limit."
        )
    if "size" in failed:
        return (
            "Next: the file is larger than its limit. Make it again with a lower --size, or allow "
            "more with a higher one."
        )
    if "accuracy" in failed:
        return (
            "Next: the model loses too much. Raise the target (a higher --latency, --flops or "
            "--size), "
            "let `rfx sweep` look for the lowest target that keeps --max-drop, or allow the loss "
            "with --max-drop."
        )
    if "agreement" in failed:
        return (
            "Next: the pruned model no longer answers as the dense model does. Raise the target (a "
            "higher --latency, --flops or --size), check the labels of --eval, or allow it with "
            "--min-agreement."
        )
    if "vocabulary" in failed:
        return (
            "Next: too many answers are others with the smaller vocabulary. Give more training "
            "texts with --train, leave --prune-vocabulary out, or allow it with "
            "--min-vocabulary-agreement."
        )
    return "Next: a gate failed; its line says why."


def _target_option(evidence: Evidence) -> str:
    """The option of the budget that the result was made to."""
    budget = evidence.recipe.get("budget")
    known = budget if isinstance(budget, Mapping) else {}
    given = [k for k in ("latency", "flops", "size") if known.get(k) is not None]
    return f"--{given[0]}" if given else "the target"


def _serve(evidence: Evidence, out: Path | None, given: Path | None) -> str:
    """All gates passed: what can be served."""
    written = [name for name in evidence.files if name.endswith(".onnx") and "/" not in name]
    if evidence.quantization is not None:  # model.fp32.onnx is what it was made of
        written = [name for name in written if not name.endswith(".fp32.onnx")]
    graphs = written or ["model.onnx"]
    if out is None:
        return (
            "Next: serve model.onnx. On the machine that will serve it, `rfx verify .` in the "
            "folder of evidence.json measures it again."
        )
    if not any((out / name).exists() for name in graphs):
        # The reports of a measurement alone.
        place = out if given is None or given.name == "evidence.json" else given
        return f"Next: `rfx gate {place}` judges these numbers by other limits, in CI for example."
    served = " and ".join(str(out / name) for name in graphs)
    if (out / "triton").is_dir():
        return (
            f"Next: serve {out / 'triton'} with Triton, or load {served}; "
            f"`rfx verify {out}` measures it again on another machine."
        )
    return (
        f"Next: serve {served}; `rfx verify {out}` measures it again on the machine that will "
        "serve it."
    )
