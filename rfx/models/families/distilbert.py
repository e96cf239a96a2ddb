"""DistilBERT: the attention module holds its own output projection."""

from __future__ import annotations

from rfx.core.registry import register
from rfx.models.families.family import Family



def distilbert() -> Family:
    return Family(
        name="distilbert",
        model_types=("distilbert",),
        layers="transformer.layer",
        block="attention",
        qkv=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        attention_out="attention.out_lin",
        attention_norm="sa_layer_norm",
        fc1="ffn.lin1",
        fc2="ffn.lin2",
        ffn_block="ffn",
        ffn_norm="output_layer_norm",
    )
