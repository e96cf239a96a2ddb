"""What becomes of the vocabulary: the part of a recipe that says it."""

from __future__ import annotations

from rfx.recipe.fields import option
from rfx.recipe.section import Section


class VocabularySpec(Section):
    """What becomes of the vocabulary. Without a request it stays as it is."""

    prune: bool = option(
        False,
        """Leave the entries of the vocabulary out of the finished model that no training text has:
        its table of embeddings and its tokenizer keep those that occur in the whole --train file,
        all special and added tokens, and every single character. Only for fast WordPiece
        tokenizers, such as BERT's.""",
        cli="--prune-vocabulary",
    )
