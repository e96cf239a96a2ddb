"""How far outputs are from the dense model's."""

import math

import numpy as np
import pytest
import torch

from rfx.methods.scores.divergence import collect_outputs, mean_divergence, outputs_divergence
from rfx.pipeline.baseline import torch_call
from rfx.tasks.base import Feature
from rfx.tasks.calibration import run_features
from tests.families import HEADS, make


class Padded:
    """Random features of unequal length, as a task and as batches."""

    max_length = 32

    def length(self, feature):
        return len(feature.ids["input_ids"])

    def __init__(self, names, token_outputs):
        self.output_names, self.token_outputs = names, token_outputs
        rng = np.random.default_rng(0)
        self.features = [
            Feature(
                i,
                {"input_ids": rng.integers(4, 120, n), "attention_mask": np.ones(n, np.int64)},
                {},
            )
            for i, n in enumerate((5, 17, 9, 17, 3, 12, 8))
        ]

    def collate(self, features, pad_to=0):
        width = max([len(f.ids["input_ids"]) for f in features] + [pad_to])
        return {
            n: np.stack(
                [
                    np.pad(f.ids[n], (0, width - len(f.ids[n])), constant_values=n == "input_ids")
                    for f in features
                ]
            )
            for n in ("input_ids", "attention_mask")
        }

    def __iter__(self):
        for start in range(0, len(self.features), 4):
            yield (
                {
                    k: torch.from_numpy(v)
                    for k, v in self.collate(self.features[start : start + 4]).items()
                },
                {},
            )


@pytest.mark.parametrize(
    ("task", "classes"),
    [
        ("text-classification", 3),
        ("text-classification", 1),
        ("token-classification", 3),
        ("question-answering", 2),
    ],
)
def test_raw_outputs_of_unequal_lengths_are_as_far_apart_as_the_padded_ones(task, classes):
    names = HEADS[task][1]
    data = Padded(names, token_outputs=task != "text-classification")
    dense, other = (make("bert", task, seed=seed, num_labels=classes) for seed in (0, 1))
    first, second = (
        run_features(torch_call(m, names), data, data.features, 3) for m in (dense, other)
    )
    found = outputs_divergence(first, second, names)
    assert found == pytest.approx(
        mean_divergence(other, data, collect_outputs(dense, data, data), data), rel=1e-4
    )
    assert found > 0 and outputs_divergence(first, first, names) == pytest.approx(0, abs=1e-9)


def test_it_is_the_kl_divergence_that_it_says():
    p, q = torch.tensor([0.25, 0.75]), torch.tensor([0.5, 0.5])
    found = outputs_divergence(
        {"logits": [p.log().numpy()] * 2},
        {"logits": [q.log().numpy(), p.log().numpy()]},
        ("logits",),
    )
    assert found == pytest.approx((0.25 * math.log(0.5) + 0.75 * math.log(1.5)) / 2)
    assert (
        outputs_divergence(
            {"logits": [torch.tensor([1.0]).numpy()]},
            {"logits": [torch.tensor([3.0]).numpy()]},
            ("logits",),
        )
        == 4
    )
