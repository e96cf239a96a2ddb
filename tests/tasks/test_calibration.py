"""Calibration examples: the same batches every time, drawn by seed, disjoint from those judged;
raw outputs in the order given, whatever the order they ran in."""

import numpy as np
import pytest
import torch

from rfx.tasks.base import Example, Feature
from rfx.tasks.calibration import (
    Batches,
    choose,
    drop_overlap,
    features_hash,
    overlap,
    run_features,
    set_hash,
)


class PlainTask:
    """Pads ids with 0; its targets are the features' labels."""

    output_names = ("logits",)
    token_outputs = False
    max_length = 16

    def length(self, feature):
        return len(feature.ids["input_ids"])

    def collate(self, features, pad_to=None):
        width = pad_to or max(len(f.ids["input_ids"]) for f in features)
        return {
            name: np.stack([np.pad(f.ids[name], (0, width - len(f.ids[name]))) for f in features])
            for name in ("input_ids", "attention_mask")
        }

    def targets(self, features):
        return {"labels": np.stack([f.targets["labels"] for f in features])}


class TokenTask(PlainTask):
    token_outputs = True


def feature(example, tokens):
    ids = np.arange(1, tokens + 1) + 100 * example
    return Feature(
        example,
        {"input_ids": ids, "attention_mask": np.ones(tokens, dtype=np.int64)},
        {"labels": np.asarray(example)},
    )


FEATURES = [feature(i // 2, n) for i, n in enumerate((5, 9, 2, 13, 4, 7, 3))]  # two an example


def test_batches_keep_the_order_and_pad_to_their_longest():
    batches = Batches(PlainTask(), FEATURES, 3)
    for _ in range(2):  # they can be gone through again
        seen = list(batches)
        assert len(seen) == len(batches) == 3
        assert [tuple(i["input_ids"].shape) for i, _ in seen] == [(3, 9), (3, 13), (1, 3)]
        lengths = torch.cat([i["attention_mask"].sum(1) for i, _ in seen]).tolist()
        assert lengths == [5, 9, 2, 13, 4, 7, 3]
        assert torch.cat([t["labels"] for _, t in seen]).tolist() == [0, 0, 1, 1, 2, 2, 3]


def test_the_features_of_an_example_stay_together():
    batches = Batches(PlainTask(), FEATURES, 3)
    assert batches.numbers == [0, 0, 1, 1, 2, 2, 3]
    some = batches.only(lambda number: number % 2 == 1)
    assert some.numbers == [1, 1, 3] and len(some) == 1
    rest = batches.only(lambda number: number % 2 == 0)
    assert len(some.features) + len(rest.features) == len(FEATURES)
    assert not set(some.numbers) & set(rest.numbers)
    assert len(batches.only(lambda number: False)) == 0


def test_a_seed_draws_the_same_examples_and_another_draws_others():
    examples = [Example({"text": str(i)}) for i in range(40)]
    drawn = choose(examples, 10, 3)
    assert len(set(drawn.tolist())) == 10
    np.testing.assert_array_equal(drawn, choose(examples, 10, 3))
    assert set(drawn.tolist()) != set(choose(examples, 10, 4).tolist())
    np.testing.assert_array_equal(choose(examples, 20, 3)[:10], drawn)  # more are more of the same
    assert sorted(choose(examples, 99, 3)) == list(range(40))


def test_with_replacement_the_reference_is_followed():
    examples = [Example({"text": str(i)}) for i in range(40)]
    np.random.seed(5)
    theirs = np.random.choice(40, 100)
    np.testing.assert_array_equal(choose(examples, 100, 5, replacement=True), theirs)


def test_what_is_judged_on_is_dropped_whatever_its_label():
    train = [Example({"text": t}, 0) for t in "abcd"]
    judged = [Example({"text": t}, 1) for t in "bdx"]
    kept, dropped = drop_overlap(train, judged)
    assert [e.inputs["text"] for e in kept] == ["a", "c"] and dropped == 2
    assert overlap(train, judged) == 2 and overlap(kept, judged) == 0


def test_a_set_has_one_hash_in_any_order_and_features_do_not():
    examples = [Example({"text": t}, 0) for t in "abc"]
    assert set_hash(examples) == set_hash(examples[::-1]) == set_hash([*examples, examples[0]])
    assert set_hash(examples) != set_hash(examples[:2])
    assert features_hash(FEATURES) == features_hash(list(FEATURES))
    assert features_hash(FEATURES) != features_hash(FEATURES[::-1])
    other = Feature(0, FEATURES[0].ids, {"labels": np.asarray(9)})
    assert features_hash(FEATURES) != features_hash([other, *FEATURES[1:]])
    longer = Feature(0, {k: v.astype(np.int32) for k, v in FEATURES[0].ids.items()})
    assert features_hash([FEATURES[0]]) != features_hash([longer])


@pytest.mark.parametrize("batch", [1, 3, 50])
def test_outputs_come_back_in_the_order_given(batch):
    sizes, done = [], []

    def run(inputs):
        sizes.append(inputs["input_ids"].shape)
        return {"logits": inputs["input_ids"][:, :1] * [1, -1]}  # [B, 2], of the first token

    out = run_features(run, PlainTask(), FEATURES, batch, advance=done.append)
    np.testing.assert_array_equal(
        np.stack(out["logits"]), [[f.ids["input_ids"][0], -f.ids["input_ids"][0]] for f in FEATURES]
    )
    assert sum(done) == len(FEATURES) and max(done) <= batch
    # Padded to a multiple of 8, but to no more than the task's inputs have; one alone not at all.
    lengths = {len(f.ids["input_ids"]) for f in FEATURES}
    assert {tokens for _, tokens in sizes} <= (lengths if batch == 1 else {8, 16})
    assert [t for _, t in sizes] == sorted(t for _, t in sizes)  # short ones run together


def test_outputs_of_tokens_are_cut_to_the_features_own():
    def run(inputs):
        return {"logits": inputs["input_ids"].astype(float)}  # [B, T]

    out = run_features(run, TokenTask(), FEATURES, 3)
    for given, f in zip(out["logits"], FEATURES, strict=True):
        np.testing.assert_array_equal(given, f.ids["input_ids"])
