"""Small random models of every family and task: unequal layers, emptied sublayers."""

from __future__ import annotations

import pytest
import torch
import transformers as tf

from benchmarks.families_models import SMALL
from rfx.core.inputs import InputSpec

DISTIL = {
    "vocab_size": 120,
    "dim": 32,
    "n_layers": 3,
    "n_heads": 4,
    "hidden_dim": 48,
    "max_position_embeddings": 66,
    "pad_token_id": 1,
}

FAMILIES = {
    "bert": (tf.BertConfig, "Bert", SMALL),
    "roberta": (tf.RobertaConfig, "Roberta", SMALL),
    "xlm-roberta": (tf.XLMRobertaConfig, "XLMRoberta", SMALL),
    "camembert": (tf.CamembertConfig, "Camembert", SMALL),
    "electra": (tf.ElectraConfig, "Electra", {**SMALL, "embedding_size": 32}),
    "distilbert": (tf.DistilBertConfig, "DistilBert", DISTIL),
    "ernie": (tf.ErnieConfig, "Ernie", SMALL),  # found by the generic anatomy
    "esm": (tf.EsmConfig, "Esm", SMALL),  # pre-LN, found by the generic anatomy
}
HEADS = {
    "text-classification": ("ForSequenceClassification", ("logits",)),
    "token-classification": ("ForTokenClassification", ("logits",)),
    "question-answering": ("ForQuestionAnswering", ("start_logits", "end_logits")),
}


# The rest is found by the generic anatomy, or has RoBERTa's very graph.
NAMED = (
    "bert",
    "roberta",
    "electra",
    "distilbert",
)


def with_slow(cases, family=lambda case: case, named=NAMED):
    """The cases for `parametrize`, those of other families than `named` marked slow."""

    def param(case):
        return pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            marks=() if family(case) in named else pytest.mark.slow,
        )

    return [param(case) for case in cases]


def make(family: str, task: str = "text-classification", seed: int = 0, **config):
    cls, prefix, sizes = FAMILIES[family]
    torch.manual_seed(seed)
    if task == "regression":
        task, config = "text-classification", {"num_labels": 1, **config}
    model = getattr(tf, prefix + HEADS[task][0])(cls(**{**sizes, **config})).eval()
    with torch.no_grad():
        # LayerNorms and biases away from their trivial start, so that no error hides behind them.
        for p in model.parameters():
            p.add_(torch.randn_like(p) * (0.2 if p.dim() > 1 else 0.1))
    return model


def text_inputs(names=("input_ids", "attention_mask")) -> InputSpec:
    return InputSpec.of_text(names, vocabulary=120, positions=64)


def batch(n: int = 3, tokens: int = 11, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 120, (n, tokens), generator=g)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    ids[1, 7:] = 1
    return {"input_ids": ids, "attention_mask": mask}
