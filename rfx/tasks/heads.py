"""Which heads of a classifier rfx can judge: one label for each text, any number of them, or real
numbers; and whether it is clear which output is which label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rfx.core.errors import UnsupportedModelError, UsageError
from rfx.core.values import short
from rfx.tasks.labels import whole


def check_head(config: Any) -> None:
    """Raises UnsupportedModelError for a head whose one output is the yes or no of a sigmoid
    without saying so: taken for a number it would be judged wrongly, without a word."""
    kind, outputs = getattr(config, "problem_type", None), int(config.num_labels or 0)
    as_number = (
        'if its order is all that counts, set "problem_type": "regression" in config.json: it is '
        "then judged by a rank correlation"
    )
    if outputs == 1:
        if kind not in (None, "regression", "multi_label_classification"):
            raise UnsupportedModelError(
                "This model has one output, which is no choice among classes.",
                got=f"problem_type {kind!r} with one output",
                allowed="two outputs for yes and no, multi_label_classification, or a regression",
                next_step='correct "problem_type" in config.json, as the model was trained',
            )
        if kind is None and _sigmoid(config):
            raise UnsupportedModelError(
                "This cross-encoder puts its one output through a sigmoid, and rfx would take it "
                "for a regression.",
                got="sentence_transformers: activation_fn Sigmoid, no problem_type",
                allowed="two outputs for yes and no, or a regression",
                next_step="give --task reranking where it puts passages in order; "
                + as_number
                + '; or "multi_label_classification": it is then judged as a '
                "yes or no",
            )
        return


def check_names(config: Any) -> None:
    """Raises UsageError where two classes of id2label have one name, or id2label and label2id have
    other numbers for one. A name that one of them lacks is no contradiction: many models were given
    id2label alone."""
    numbers = getattr(config, "label2id", None)
    names = getattr(config, "id2label", None)
    if not isinstance(names, Mapping):
        return
    counts = Counter(map(str, names.values()))
    if twice := [name for name, count in counts.items() if count > 1]:
        which = [str(number) for number, name in names.items() if str(name) == twice[0]]
        raise UsageError(
            "Two classes in config.json have one name, so that it is not clear which output of the "
            "model is which label.",
            got=f"{short(twice[0], 40)} is the name of {', '.join(which[:5])} in id2label",
            allowed="a name of its own for each class",
            next_step="correct id2label and label2id in config.json, as the model was trained; or "
            "give the labels in the model's order with --labels",
        )
    if not isinstance(numbers, Mapping):
        return
    by_name = {str(name): whole(number) for number, name in names.items()}
    wrong = [
        f"{short(name, 40)} is {by_name[str(name)]} in id2label and {short(number, 40)} in label2id"
        for name, number in numbers.items()
        if str(name) in by_name and whole(number) != by_name[str(name)]
    ]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UsageError(
            "id2label and label2id in config.json contradict each other, so that it is not clear "
            "which output of the model is which label.",
            got=", ".join(wrong[:3]) + more,
            allowed="one number for each name",
            next_step="correct the wrong one in config.json, as the model was trained; or give the "
            "labels in the model's order with --labels",
        )


def _sigmoid(config: Any) -> bool:
    """Whether sentence-transformers recorded a sigmoid behind the head."""
    said = getattr(config, "sentence_transformers", None)
    name = said.get("activation_fn") if isinstance(said, dict) else None
    name = name or getattr(config, "sbert_ce_default_activation_function", None)
    return str(name or "").endswith("Sigmoid")
