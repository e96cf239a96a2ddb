"""Layers written down by hand, as an oracle for what the probe finds: BERT and the families that
copy its layer, and DistilBERT, whose attention holds its own output projection."""

from __future__ import annotations

from dataclasses import replace

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


DESCRIBED = {t: f for f in (bert(), roberta(), electra(), distilbert()) for t in f.model_types}
