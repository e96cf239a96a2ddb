"""BERT and the families that share its layer: MiniLM is BERT; RoBERTa, XLM-R, CamemBERT and ELECTRA
copy it."""

from __future__ import annotations

from dataclasses import replace

from rfx.core.registry import register
from rfx.models.families.family import Family



def bert() -> Family:
    return Family(
        name="bert",
        model_types=("bert",),
        layers="encoder.layer",
        block="attention.self",
        qkv=("attention.self.query", "attention.self.key", "attention.self.value"),
        attention_out="attention.output.dense",
        attention_norm="attention.output.LayerNorm",
        fc1="intermediate.dense",
        fc2="output.dense",
        ffn_block="output",
        ffn_norm="output.LayerNorm",
    )



def roberta() -> Family:
    return replace(bert(), name="roberta", model_types=("roberta", "xlm-roberta", "camembert"))



def electra() -> Family:
    return replace(bert(), name="electra", model_types=("electra",))
