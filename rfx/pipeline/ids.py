"""Whether every id of the examples has a row in the model's embedding tables. One past the end
stops a model with an error that names neither the text nor the table."""

from __future__ import annotations

from collections.abc import Sequence

from rfx.core.errors import UsageError
from rfx.core.text import one_line
from rfx.models.modules import token_embeddings
from rfx.models.subject import Subject
from rfx.tasks.base import Example, Feature
from rfx.tasks.examples import Examples

REMEDY = {
    "input_ids": "take the tokenizer that the model was trained with, or make room for its tokens: "
    "model.resize_token_embeddings(len(tokenizer))",
    "token_type_ids": "take a tokenizer that gives none: set model_input_names to "
    '["input_ids", "attention_mask"] in tokenizer_config.json',
}


def check_ids(subject: Subject, examples: Examples) -> None:
    """Raises UsageError for an id past its table, naming row, token and sizes."""
    for part, features, of in (
        ("training", examples.calibration_features, examples.calibration),
        ("evaluation", examples.evaluation_features, examples.evaluation),
    ):
        check_features(subject, part, features, of)


def table_sizes(subject: Subject) -> dict[str, int]:
    """By the name of the input how many rows its embedding table has; only of the tables that the
    model has."""
    tables = {
        "input_ids": token_embeddings(subject.model),
        "token_type_ids": next(
            (
                module
                for name, module in subject.model.named_modules()
                if name.rpartition(".")[2] in ("token_type_embeddings", "token_type_embedding")
            ),
            None,
        ),
    }
    found = {name: getattr(table, "num_embeddings", None) for name, table in tables.items()}
    return {name: int(size) for name, size in found.items() if size is not None}


def check_features(
    subject: Subject, part: str, features: Sequence[Feature], examples: Sequence[Example]
) -> None:
    """Raises UsageError for an id of these features past its table.

    Args:
        part: whose examples they are, in words.
    """
    sizes = table_sizes(subject)
    for feature in features:
        for name, size in sizes.items():
            ids = feature.ids.get(name)
            if ids is None or not len(ids) or (int(ids.max()) < size and int(ids.min()) >= 0):
                continue
            at = int(ids.argmax()) if int(ids.max()) >= size else int(ids.argmin())
            example = examples[feature.example]
            row = f"row {example.row}" if example.row else f"example {feature.example + 1}"
            text = subject.preprocessor.convert_ids_to_tokens([int(feature.ids["input_ids"][at])])
            raise UsageError(
                f"The {part} examples: the tokenizer gives {name} that the model has no embedding "
                f"for ({row}, token {at + 1}).",
                got=f"{name} {int(ids[at])} at the token {one_line(str(text[0]), 40)!r}",
                allowed=f"0 to {size - 1}: the model's table has {size} row{'s' * (size != 1)}",
                next_step=REMEDY[name],
            )
