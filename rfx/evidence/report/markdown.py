"""Markdown: the step summary of a CI run, and the model card."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from rfx.core.registry import register
from rfx.core.text import one_line
from rfx.evidence.precision import served_precision
from rfx.evidence.records import Evidence
from rfx.evidence.report.advice import next_step
from rfx.evidence.report.base import Report
from rfx.evidence.report.escape import markdown, sentence
from rfx.evidence.report.facts import (
    budget_text,
    gate_title,
    headline,
    hub_name,
    interval_text,
    layer_rows,
    limit_text,
    model_name,
    outcome_text,
    runtime_texts,
    unit_names,
    value_text,
    verdict,
    workload_text,
)
from rfx.evidence.report.rival import rival_texts
from rfx.evidence.vocabulary import vocabulary_texts

# What the hub calls a task, where that is another name.
PIPELINES = {"embeddings": "sentence-similarity", "reranking": "text-ranking"}
_MARKS = {
    "pass": "✅ pass",
    "fail": "❌ fail",
    "inconclusive": "⚠️ inconclusive",
    "not judged": "not judged",
}


@register("report", "markdown")
class Summary(Report):
    """A short page for a CI run's summary."""

    file = "summary.md"

    def render(self, evidence: Evidence) -> str:
        return _summary(evidence)


@register("report", "card")
class Card(Report):
    """The model card: front matter of the Hugging Face hub, use, evidence and limits."""

    file = "README.md"

    def render(self, evidence: Evidence) -> str:
        return _card(evidence)


def _summary(evidence: Evidence) -> str:
    said = outcome_text(evidence).partition(";")
    lines = [
        f"## rfx: {markdown(model_name(evidence))} — {_MARKS[said[0]]}"
        + markdown("".join(said[1:])),
        "",
        markdown(headline(evidence)) + ".",
        "",
        *_gates(evidence),
        "",
    ]
    lines += [
        f"- budget: {markdown(budget_text(evidence))}",
        f"- measured with {markdown(workload_text(evidence))}",
    ]
    beside = [*vocabulary_texts(evidence.vocabulary), *rival_texts(evidence)]
    lines += [f"- {markdown(text)}" for text in beside]
    lines += [f"- warning: {markdown(w)}" for w in evidence.warnings]
    lines += ["", sentence(next_step(evidence))]
    return "\n".join(lines) + "\n"


def _gates(evidence: Evidence) -> list[str]:
    rows = ["| gate | outcome | measured | 95 % interval | limit | |", "|---|---|---|---|---|---|"]
    for g in evidence.gates:
        cells = (
            ": ".join(x for x in (g.name, gate_title(g)) if x),
            _MARKS[verdict(g)],
            value_text(g),
            interval_text(g),
            limit_text(g),
            g.detail,
        )
        rows.append("| " + " | ".join(markdown(c) for c in cells) + " |")
    return rows


def _layers(evidence: Evidence) -> list[str]:
    """A table of what is kept of each layer: one column for each kind of unit."""
    units = unit_names(evidence)
    rows = [["layer", *map(markdown, units)], ["---:"] * (1 + len(units))]
    for i, row in layer_rows(evidence):
        kept = [f"{row[u][0]} / {row[u][1]}" if u in row else "" for u in units]
        rows.append([str(i), *kept])
    return [f"| {' | '.join(cells)} |" for cells in rows]


def _dataset(evidence: Evidence) -> str:
    """What the accuracy was judged on: the recipe's name, but where that is the model's the
    evaluation file or dataset."""
    name, model = evidence.recipe.get("name"), evidence.model.get("source")
    if name and name != Path(str(model)).name:
        return str(name)
    source = str((evidence.recipe.get("data") or {}).get("eval") or name or "evaluation set")
    return Path(source).name if Path(source).is_absolute() else source


def _rounded(value: float) -> float | None:
    """YAML has a NaN that JSON does not: what is no number has no value."""
    return round(value, 5) if math.isfinite(value) else None


def _file_text(evidence: Evidence) -> str:
    """What model.onnx is beside the checkpoint."""
    form = "dynamic batch and sequence, inputs by name."
    if evidence.quantization is None:
        return f"`model.onnx` is the same model for ONNX runtimes: {form}"
    batch = evidence.accuracy.batch if evidence.accuracy is not None else None
    texts = "one text" if batch == 1 else f"{batch} texts"
    return (
        "That is the model in fp32, and `model.fp32.onnx` is its file. `model.onnx` is what it was "
        f"quantized to, which is the one to serve and the one that all figures here are of: {form}"
        + (f" Accuracy was measured with {texts} at a time." if batch else "")
    )


def _card(evidence: Evidence) -> str:
    name, task = one_line(model_name(evidence)), one_line(str(evidence.recipe.get("task")))
    part, at = evidence.quantization, one_line(served_precision(evidence.recipe))
    how = "pruned" if part is None else f"pruned and quantized to {at.upper()}"
    front: dict[str, Any] = {
        "library_name": "rfx",
        "pipeline_tag": PIPELINES.get(task, task),
        "tags": ["rfx", "pruning", "onnx", "structured-pruning"]
        + (["quantization", at] if part is not None else []),
    }
    if hub_name(evidence):
        front = {"base_model": one_line(str(hub_name(evidence))), **front}
    if evidence.accuracy:
        a = evidence.accuracy
        metric = one_line(a.metric)
        front["metrics"] = [metric]
        front["model-index"] = [
            {
                "name": f"{name}-pruned",
                "results": [
                    {
                        "task": {"type": task},
                        "dataset": {"name": one_line(_dataset(evidence)), "type": "custom"},
                        "metrics": [{"type": metric, "value": _rounded(a.pruned), "name": metric}],
                    }
                ],
            }
        ]
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        f"# {markdown(name)}, {how}",
        "",
    ]
    lines += [
        f"{markdown(headline(evidence))}. {how[0].upper()}{how[1:]} without "
        f"retraining by {markdown(evidence.tool)}.",
        "",
        "## Use",
        "",
        "```python",
    ]
    lines += [
        "import rfx",
        "",
        'model = rfx.load(".")  # this folder: a torch model, as transformers would give it',
        "```",
        "",
    ]
    if evidence.recipe.get("task") == "embeddings":
        lines += [
            "`model.onnx` gives the vector of each text as `sentence_embedding`. "
            'sentence-transformers loads `model/` with `backend="onnx"`.',
            "",
        ]
    lines += [
        _file_text(evidence)
        + " The tokenizer is in `model/`. Layers differ in size, so plain `from_pretrained` does "
        "not load the checkpoint; `rfx.load` does. Outputs for a row that is padding alone "
        "mean nothing.",
        "",
    ]
    beside = [*vocabulary_texts(evidence.vocabulary), *rival_texts(evidence)]
    lines += [
        *(part for text in runtime_texts(evidence) for part in (sentence(text), "")),
        "## Evidence",
        "",
        f"All gates: {markdown(outcome_text(evidence))}.",
        "",
        *_gates(evidence),
        "",
        f"Measured with {markdown(workload_text(evidence))}.",
        "",
        *(part for text in beside for part in (markdown(text), "")),
    ]
    if evidence.accuracy:
        d = evidence.data
        among = f"{d.overlap} of which are" if d.overlap else "none of which is"
        lines += [
            f"Accuracy on {d.evaluation} evaluation examples that took part in no choice; "
            f"calibrated on {d.calibration} training examples, {among} among them.",
            "",
        ]
    lines += _layers(evidence)
    lines += [
        "",
        "## Limits",
        "",
        (
            "Latency was measured on the device named above and tells nothing of another. "
            if evidence.latency
            else "Latency was not measured: `rfx verify` on the device does. "
        )
        + "Accuracy was measured on data like the "
        "evaluation set; on other data the drop may be larger. The licence and the intended use "
        "are those of the dense model.",
    ]
    if evidence.warnings:
        lines += [
            "",
            "## Warnings of the run",
            "",
            *(f"- {markdown(w)}" for w in evidence.warnings),
        ]
    return "\n".join(lines) + "\n"
