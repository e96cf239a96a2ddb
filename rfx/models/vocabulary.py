"""The part of a WordPiece vocabulary that a finished model keeps, with the tokenizer and the table
of embeddings that belong to it.

Every single character stays, at the beginning of a word and within one, so that each word can still
be spelled: one whose pieces are gone is encoded in more and shorter pieces. WordPiece takes the
longest piece that it knows, so that a text all of whose pieces stay is encoded as before.
"""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx.core.errors import UnsupportedModelError, UsageError, first_line, is_interrupt
from rfx.models.modules import token_embeddings

if TYPE_CHECKING:
    from torch import nn

WORD_PIECE = "WordPiece"
ALLOWED = "a fast WordPiece tokenizer (BERT, DistilBERT, ELECTRA, MiniLM, MobileBERT)"
STEP = "leave --prune-vocabulary out; --precision int8 takes a quarter of the table's bytes"
FILE, LIST = "tokenizer.json", "vocab.txt"


@dataclass(frozen=True)
class Vocabulary:
    """The entries of a tokenizer that stay.

    Args:
        kept: their ids before, in their order; the place of one is its id afterwards.
        before: rows that the table of embeddings had.
        tokenizer: with these entries alone.
        hash: of the entries and their ids before.
    """

    kept: tuple[int, ...]
    before: int
    tokenizer: Any
    hash: str

    @property
    def after(self) -> int:
        """How many entries stay."""
        return len(self.kept)

    @cached_property
    def ids(self) -> np.ndarray:
        """The ids before, by the id afterwards. int64 [after]"""
        return np.asarray(self.kept, dtype=np.int64)

    def back(self, ids: np.ndarray) -> np.ndarray:
        """Ids of the smaller vocabulary as those of the full one, in the same shape."""
        return self.ids[ids]


def require_word_pieces(tokenizer: Any, source: str) -> None:
    """Raises UnsupportedModelError for any other tokenizer than a fast one of WordPiece."""
    kind = _kind(tokenizer)
    if kind != WORD_PIECE:
        raise UnsupportedModelError(
            "rfx cannot prune the vocabulary of this tokenizer.",
            got=f"{source}: {kind}",
            allowed=ALLOWED,
            next_step=STEP,
        )


def _kind(tokenizer: Any) -> str:
    """What a tokenizer cuts texts by, in words."""
    if not getattr(tokenizer, "is_fast", False):
        return f"{type(tokenizer).__name__}, which is no fast tokenizer"
    kind = str(_written(tokenizer)["model"].get("type") or "no known kind")
    return kind if kind == WORD_PIECE else f"a tokenizer of the kind {kind}"


def _written(tokenizer: Any) -> dict[str, Any]:
    """A fast tokenizer as tokenizer.json has it."""
    found: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return found


def word_table(model: Any) -> tuple[str, nn.Embedding]:
    """The module that holds the embeddings of the tokens, and its path.

    Raises:
        UnsupportedModelError: there is none, or its weights are read elsewhere too.
    """
    from torch import nn

    table = token_embeddings(model)
    name = next((n for n, m in model.named_modules() if m is table), "")
    why = ""
    if not isinstance(table, nn.Embedding) or not name:
        why = "no table of embeddings of its tokens"
    else:
        own = {f"{name}.weight"}
        weights = model.named_parameters(remove_duplicate=False)
        shared = [n for n, p in weights if p is table.weight and n not in own]
        why = f"{shared[0]} has the same weights" if shared else ""
    if why or not isinstance(table, nn.Embedding):
        raise UnsupportedModelError(
            "The vocabulary of this model cannot be pruned.",
            got=why,
            allowed="a table of embeddings that nothing else reads",
            next_step=STEP,
        )
    return name, table


def entries_to_keep(tokenizer: Any, used: Iterable[int], rows: int) -> tuple[int, ...]:
    """The ids of the entries that stay: those that are used, all special and added tokens, and
    every single character.

    Args:
        used: ids that the tokenizer gave for the training texts.
        rows: of the table of embeddings.
    """
    model = _written(tokenizer)["model"]
    prefix = str(model.get("continuing_subword_prefix") or "")
    known: Mapping[str, int] = tokenizer.get_vocab()
    kept = {int(i) for i in used} | {int(i) for i in tokenizer.all_special_ids}
    kept |= {int(i) for i in tokenizer.added_tokens_decoder}
    kept |= {i for token, i in known.items() if len(token.removeprefix(prefix)) == 1}
    if (unknown := known.get(str(model.get("unk_token")))) is not None:
        kept.add(unknown)
    return tuple(sorted(i for i in kept if 0 <= i < rows))


def smaller(tokenizer: Any, kept: Sequence[int], rows: int) -> Vocabulary:
    """The vocabulary with these entries alone, and its tokenizer.

    Args:
        kept: ids in their order.
        rows: of the table of embeddings.

    Raises:
        UnsupportedModelError: the tokenizer cannot be written with other ids.
    """
    new = {old: at for at, old in enumerate(kept)}
    tokens = {i: token for token, i in tokenizer.get_vocab().items() if i in new}
    with tempfile.TemporaryDirectory(prefix="rfx-tokenizer-") as name:
        folder = Path(name)
        tokenizer.save_pretrained(folder)
        file = folder / FILE
        written = renumbered(json.loads(file.read_text(encoding="utf-8")), new)
        file.write_text(json.dumps(written, ensure_ascii=False), encoding="utf-8")
        if (folder / LIST).is_file():
            own = sorted(written["model"]["vocab"].items(), key=lambda item: item[1])
            text = "".join(f"{token}\n" for token, _ in own)
            (folder / LIST).write_text(text, encoding="utf-8")
        made = load_tokenizer(folder)
    wanted = {token: new[i] for i, token in tokens.items()}
    if made.get_vocab() != wanted or _kind(made) != WORD_PIECE:
        raise UnsupportedModelError(
            "The tokenizer cannot be written with a smaller vocabulary.",
            got=f"{len(made.get_vocab())} entries where {len(wanted)} were written",
            allowed=f"{ALLOWED} whose added tokens follow all others",
            next_step=STEP,
        )
    return Vocabulary(tuple(kept), rows, made, _hash(tokens))


def of_tokenizers(full: Any, small: Any, rows: int) -> Vocabulary:
    """The vocabulary of a tokenizer that was made smaller before.

    Args:
        full: the tokenizer that it was made of.
        rows: of the full table of embeddings.

    Raises:
        UsageError: it is not made of that.
    """
    known, own = full.get_vocab(), small.get_vocab()
    strange = sorted(token for token in own if token not in known)
    ids = [known[token] for token in sorted(own, key=lambda t: own[t]) if token in known]
    if strange or sorted(own.values()) != list(range(len(own))) or ids != sorted(set(ids)):
        raise UsageError(
            "The tokenizer of this output is not a part of the dense model's.",
            got=f"the token {strange[0]!r}" if strange else "ids in another order",
            allowed="the tokenizer that rfx prune-export wrote, and the dense model's own",
            next_step="copy the whole output again, or run rfx prune-export again",
        )
    return Vocabulary(tuple(ids), rows, small, _hash({known[t]: t for t in own}))


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a checkpoint of rfx.

    Raises:
        UsageError: it does not load.
    """
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # what is wrong with a tokenizer comes in many kinds
        if is_interrupt(error) or isinstance(error, MemoryError):
            raise
        raise UsageError(
            "The tokenizer of this output does not load.",
            got=f"{folder}: {first_line(error)}",
            allowed="the tokenizer as rfx prune-export wrote it",
            next_step="copy the whole output again, or run rfx prune-export again",
        ) from None


def _hash(tokens: Mapping[int, str]) -> str:
    text = json.dumps(sorted(tokens.items()), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def renumbered(written: Mapping[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    """A tokenizer.json with some of its entries, under new ids.

    Args:
        new: the id afterwards, by the id before.
    """
    made = copy.deepcopy(dict(written))
    made["model"]["vocab"] = {
        token: new[i] for token, i in written["model"]["vocab"].items() if i in new
    }
    made["added_tokens"] = [
        {**token, "id": new[token["id"]]} for token in written.get("added_tokens") or ()
    ]
    if made.get("padding"):
        made["padding"]["pad_id"] = new[written["padding"]["pad_id"]]
    steps = made.get("post_processor") or {}
    for step in (steps, *(steps.get("processors") or ())):
        for token in (step.get("special_tokens") or {}).values():
            token["ids"] = [new[i] for i in token["ids"]]
        for name in ("sep", "cls"):
            if name in step:
                step[name] = [step[name][0], new[step[name][1]]]
    return made


def keep_embeddings(model: Any, vocabulary: Vocabulary) -> None:
    """Leave the rows of these entries alone in the model's table, in place, and let its
    configuration say so. The rows that stay are copies: what is computed of them is the same.

    Raises:
        UnsupportedModelError: the model needs the id of padding where it was.
    """
    import torch
    from torch import nn

    name, old = word_table(model)
    new = {before: after for after, before in enumerate(vocabulary.kept)}
    padding = None if old.padding_idx is None else new.get(old.padding_idx)
    for module in model.modules():  # positions that are counted from the padding's id on
        place = getattr(module, "padding_idx", None)
        if (
            isinstance(place, int)
            and not isinstance(module, nn.Embedding)
            and new.get(place) != place
        ):
            raise UnsupportedModelError(
                "The vocabulary of this model cannot be pruned: its positions are counted from the "
                "id of the padding on.",
                got=f"the padding has id {place}, and would get {new.get(place)}",
                allowed="a model whose padding keeps its id",
                next_step=STEP,
            )
    rows = torch.as_tensor(vocabulary.ids, device=old.weight.device)
    table = copy.copy(old)
    table._parameters = dict(old._parameters)
    table.weight = nn.Parameter(old.weight.detach()[rows].clone(), requires_grad=False)
    table.num_embeddings, table.padding_idx = vocabulary.after, padding
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, table)
    config = model.config
    config.vocab_size = vocabulary.after
    for key, value in config.to_dict().items():
        if key.endswith("_token_id") and isinstance(value, int) and not isinstance(value, bool):
            setattr(config, key, new.get(value))


def with_table_of(small: nn.Module, model: Any) -> nn.Module:
    """A copy of a model with the whole table of embeddings of the model that it was made of."""
    name, table = word_table(model)
    made = copy.deepcopy(small)
    parent, _, last = name.rpartition(".")
    setattr(made.get_submodule(parent), last, table)
    return made
