"""What the smaller vocabulary of a finished model costs and saves, beside the same pruned model
with its full vocabulary."""

from __future__ import annotations

from pydantic import Field

from rfx.core.sizes import size_words
from rfx.evidence.part import Number, Part
from rfx.evidence.words import point_range, points, score


class VocabularyPart(Part):
    """The vocabulary of the finished model, and how it answers beside the same pruned model with
    the full one, at the same precision, on the evaluation set."""

    before: int = Field(description="Entries of the full vocabulary: rows of its table.")
    after: int = Field(description="Entries that stay.")
    hash: str = Field(description="Hash of the entries that stay, with the ids that they had.")
    training: int = Field(
        description="Training examples whose pieces stay: the whole file, without what stands in "
        "the evaluation set."
    )
    bytes: int = Field(description="Bytes of the ONNX files with the smaller vocabulary.")
    full_bytes: int = Field(description="Bytes of the same files with the full vocabulary.")
    texts: int = Field(description="Examples of the evaluation set.")
    otherwise: int = Field(description="Those of them that are encoded in other pieces.")
    pieces: int = Field(description="Pieces of all of them with the smaller vocabulary.")
    full_pieces: int = Field(description="Their pieces with the full vocabulary.")
    unknown: int = Field(description="Pieces among them that are the unknown token.")
    full_unknown: int = Field(description="The same with the full vocabulary.")
    difference: Number = Field(
        description="Largest difference of the outputs between the files with either vocabulary, "
        "given the same pieces of calibration examples, as a share of the outputs' scale."
    )
    tolerance: Number = Field(description="The most of that which passes.")
    metric: Number = Field(description="The metric with the smaller vocabulary, 0 to 1.")
    full_metric: Number = Field(description="The metric with the full vocabulary, 0 to 1.")
    drop: Number = Field(
        description="Points that are lost by the vocabulary alone; negative where it is better."
    )
    interval: tuple[Number, Number] = Field(description="95 % interval of the drop, points.")
    agreement: Number | None = Field(
        default=None,
        description="Share of the answers that are those with the full vocabulary; of a regression "
        "the correlation.",
    )
    agreement_interval: tuple[Number, Number] | None = Field(
        default=None, description="95 % interval of the agreement, exact binomial."
    )
    min_agreement: float | None = Field(
        default=None, description="Least agreement that passes, as it was given; null: 0.95."
    )

    @property
    def saved(self) -> int:
        """Bytes that the files have less for it."""
        return self.full_bytes - self.bytes


def pieces_text(part: VocabularyPart) -> str:
    """How much of the evaluation set is encoded otherwise, in words."""
    more = part.pieces - part.full_pieces
    text = (
        f"{part.otherwise} of {part.texts} evaluation examples are encoded in other pieces, in all "
        f"{more} pieces more of {part.full_pieces}"
    )
    unknown = part.unknown - part.full_unknown
    return text + (f", {unknown} of them unknown" if unknown > 0 else "")


def vocabulary_texts(part: VocabularyPart | None) -> list[str]:
    """What it saves and what it loses, each text a sentence or two; none where all of the
    vocabulary stays."""
    if part is None:
        return []
    said = [
        f"The vocabulary has {part.after} of {part.before} entries: those of {part.training} "
        "training examples, all special tokens and every single character. That saves "
        f"{size_words(part.saved)}: with the full vocabulary the file has "
        f"{size_words(part.full_bytes)}, and with this one {size_words(part.bytes)}.",
    ]
    lost = (
        f"By the vocabulary alone the metric went from {score(part.full_metric)} to "
        f"{score(part.metric)}: {points(part.drop)} (95 % interval: {point_range(*part.interval)})"
    )
    said.append(f"{lost}; {pieces_text(part)}.")
    said.append(
        "Texts in other words or languages than those of the training set are encoded in more "
        "pieces than by the dense model's tokenizer, so that they may be answered worse, take "
        "longer and be cut sooner. The model takes its own tokenizer alone: the ids of another one "
        "mean other words."
    )
    return said
