"""Random examples of unequal length in padded batches, and tasks with a loss an example."""

import torch
from torch.nn import functional as F  # noqa: N812 - as torch's own documentation has it


class ClassTask:
    name = "text-classification"
    output_names = ("logits",)

    @staticmethod
    def losses(outputs, targets):
        return F.cross_entropy(outputs.logits, targets["labels"], reduction="none")


class RegressionTask:
    name = "regression"
    output_names = ("logits",)

    @staticmethod
    def losses(outputs, targets):
        return (outputs.logits[:, 0] - targets["labels"]).square()


class TokenTask:
    name = "token-classification"
    output_names = ("logits",)

    @staticmethod
    def losses(outputs, targets):
        labels = targets["labels"][:, : outputs.logits.shape[1]]
        losses = F.cross_entropy(outputs.logits.transpose(1, 2), labels, reduction="none")
        return losses.sum(1) / (labels >= 0).sum(1)


class SpanTask:
    name = "question-answering"
    output_names = ("start_logits", "end_logits")

    @staticmethod
    def losses(outputs, targets):
        # Padding is no position: without this the loss itself would depend on how a batch is
        # padded.
        start, end = (
            x.masked_fill(~targets["real"], -1e4)
            for x in (outputs.start_logits, outputs.end_logits)
        )
        losses = F.cross_entropy(start, targets["start_positions"], reduction="none")
        return losses + F.cross_entropy(end, targets["end_positions"], reduction="none")


TASKS = {t.name: t for t in (ClassTask, RegressionTask, TokenTask, SpanTask)}


def examples(n, seed=0, vocabulary=120, longest=12):
    """[(ids [tokens], targets)]: labels for a sequence, its tokens or a span."""
    g = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(n):
        tokens = int(torch.randint(4, longest + 1, (1,), generator=g))
        ids = torch.randint(3, vocabulary, (tokens,), generator=g)
        rows.append(
            (
                ids,
                int(torch.randint(0, 2, (1,), generator=g)),
                torch.randint(0, 2, (tokens,), generator=g),
            )
        )
    return rows


def batches(rows, size, task="text-classification", pad_to=None):
    """Batches of (inputs, targets), padded to the longest of the batch or to `pad_to`."""
    out = []
    for i in range(0, len(rows), size):
        part = rows[i : i + size]
        longest = pad_to or max(len(ids) for ids, _, _ in part)
        ids = torch.ones(len(part), longest, dtype=torch.int64)
        mask, tags = torch.zeros_like(ids), torch.full_like(ids, -100)
        for j, (row, _, row_tags) in enumerate(part):
            ids[j, : len(row)], mask[j, : len(row)], tags[j, : len(row)] = row, 1, row_tags
        labels = torch.tensor([label for _, label, _ in part])
        targets = {
            "text-classification": {"labels": labels},
            "regression": {"labels": labels.float()},
            "token-classification": {"labels": tags},
            "question-answering": {
                "start_positions": labels,
                "end_positions": labels + 1,
                "real": mask.bool(),
            },
        }[task]
        out.append(({"input_ids": ids, "attention_mask": mask}, targets))
    return out
