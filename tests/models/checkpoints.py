"""Small checkpoints on disk, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rfx.core.errors import UserError
from rfx.models.load import load_subject
from rfx.models.subject import Subject
from tests.conftest import tokenizer
from tests.families import make


def checkpoint(folder: Path, family: str = "bert", **config: Any) -> Path:
    """A random model of `tests.families` with a tokenizer, in `folder`."""
    folder.mkdir()
    words = tokenizer(folder)
    make(family, **config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def edit(folder: Path, name: str = "config.json", **changes: Any) -> Path:
    """Change keys of a JSON file of the checkpoint."""
    file = folder / name
    data = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**data, **changes}), encoding="utf-8")
    return folder


def load(folder: Path) -> Subject:
    return load_subject(
        str(folder),
        task="text-classification",
        auto_class="AutoModelForSequenceClassification",
    )


def refusal(folder: Path) -> UserError:
    """The error with which rfx refuses the checkpoint; anything else is raised."""
    try:
        load(folder)
    except UserError as error:
        return error
    raise AssertionError("the checkpoint was loaded")
