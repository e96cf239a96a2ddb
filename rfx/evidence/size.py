"""How large the file that is served is, beside the dense model's."""

from __future__ import annotations

from pydantic import Field

from rfx.core.sizes import size_words
from rfx.evidence.part import Number, Part

# What a round of the loop means, by the note that it leaves in the evidence.
_ROUNDS = {
    "within the size": "That is within the size.",
    "too large": "That is larger than the size.",
    "room is left": "That is within the size, and more fits into it.",
    "nothing has to be pruned": "The whole model is within the size, so that nothing is pruned.",
}


class SizeRound(Part):
    """One turn of the loop on a size: what the search was allowed, and how large its plan is."""

    budget: Number = Field(description="What the search was allowed, bytes.")
    predicted: Number = Field(description="Size of its plan as it was computed, bytes.")
    bytes: int = Field(description="Size of its file as it was written, bytes.")
    note: str = Field(default="", description="How that is beside the size that was asked for.")


class SizePart(Part):
    """Size of the ONNX files that are served, and of the dense model's."""

    files: dict[str, int] = Field(description="Bytes of each file, by its name.")
    bytes: int = Field(description="Bytes of all of them.")
    dense_bytes: int = Field(
        description="Bytes of the dense model's files, by the same export; in fp32 where those "
        "that are served are quantized."
    )
    limit: int | None = Field(
        default=None, description="The most that was asked for, bytes; null: no size was."
    )
    predicted: Number | None = Field(
        default=None,
        description="Bytes that were computed for the plan before anything was written; null "
        "under another budget.",
    )
    rounds: list[SizeRound] = Field(
        default_factory=list, description="The turns of the loop; none under another budget."
    )

    @property
    def ratio(self) -> float:
        """Bytes as a share of the dense model's."""
        return self.bytes / self.dense_bytes


def size_text(part: SizePart | None) -> str:
    """Size before and after, in words; empty where it is not known."""
    if part is None:
        return ""
    return f"{size_words(part.bytes)} in place of {size_words(part.dense_bytes)}"


def size_round_text(number: int, r: SizeRound) -> str:
    """One turn of the loop on a size, in words; `number` counts from 1."""
    return (
        f"Round {number} asked for a file of at most {size_words(r.budget)} and wrote one of "
        f"{r.bytes} bytes. {_ROUNDS.get(r.note, r.note)}"
    )
