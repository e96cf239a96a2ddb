"""BERT and the families that share its layer: MiniLM is BERT; RoBERTa, XLM-R, CamemBERT and ELECTRA
copy it."""

from rfx.models.families.family import Family

_LAYER = dict(
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

BERT = Family(name="bert", model_types=("bert",), **_LAYER)
ROBERTA = Family(name="roberta", model_types=("roberta", "xlm-roberta", "camembert"), **_LAYER)
ELECTRA = Family(name="electra", model_types=("electra",), **_LAYER)
