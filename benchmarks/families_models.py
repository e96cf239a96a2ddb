"""Small random models of the families that are deployed, as transformers computes each of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers as tf

from rfx.models.configuration import set_switches

SMALL: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 66,
    "pad_token_id": 1,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
XLM = {
    "vocab_size": 120,
    "emb_dim": 32,
    "n_layers": 3,
    "n_heads": 4,
    "max_position_embeddings": 66,
    "pad_token_id": 1,
}
RELATIVE = {
    **SMALL,
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "max_relative_positions": 16,
}
# By name: what the classes are called, sizes, and how many sites there are with heads (or groups of
# them) and with filters.
ZOO: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "bert": ("Bert", SMALL, 3, 3),
    "roberta": ("Roberta", SMALL, 3, 3),
    "xlm-roberta": ("XLMRoberta", SMALL, 3, 3),
    "camembert": ("Camembert", SMALL, 3, 3),
    "electra": ("Electra", {**SMALL, "embedding_size": 16}, 3, 3),
    "distilbert": (
        "DistilBert",
        {"vocab_size": 120, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48}
        | {"max_position_embeddings": 66, "pad_token_id": 1},
        3,
        3,
    ),
    # Four feed-forward networks in every layer.
    "mobilebert": (
        "MobileBert",
        {**SMALL, "embedding_size": 16, "intra_bottleneck_size": 16}
        | {"num_feedforward_networks": 3, "num_hidden_layers": 2},
        2,
        6,
    ),
    "roformer": ("RoFormer", SMALL, 3, 3),
    # One linear of query, key and value, one of gate and input; attention to a window.
    "modernbert": ("ModernBert", {**SMALL, "local_attention": 8}, 3, 3),
    "eurobert": ("EuroBert", GROUPED, 3, 3),
    "llama": ("Llama", GROUPED, 3, 3),
    "mistral": ("Mistral", GROUPED, 3, 3),
    "qwen3": ("Qwen3", {**GROUPED, "head_dim": 8}, 3, 3),
    "gemma2": ("Gemma2", {**GROUPED, "head_dim": 8}, 3, 3),
    # One linear of query, key and value, head by head; positions are projected too.
    "deberta": ("Deberta", RELATIVE, 3, 3),
    "deberta-v2": ("DebertaV2", RELATIVE, 3, 3),
    "deberta-v3": (
        "DebertaV2",
        {**RELATIVE, "share_att_key": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm"},
        3,
        3,
    ),
    # A bias a head that all layers read.
    "mpnet": ("MPNet", SMALL, 0, 3),
    # All layers share their weights.
    "albert": ("Albert", {**SMALL, "embedding_size": 16}, 1, 1),
    "xlm": ("XLM", XLM, 3, 3),
    "flaubert": ("Flaubert", XLM, 3, 3),
    "longformer": (
        "Longformer",
        {**SMALL, "max_position_embeddings": 130, "attention_window": [8, 8, 8]},
        0,
        3,
    ),
    "bigbird": ("BigBird", {**SMALL, "attention_type": "original_full"}, 3, 3),
    "funnel": (
        "Funnel",
        {"vocab_size": 120, "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 48}
        | {"block_sizes": [2, 1], "pad_token_id": 1},
        3,
        3,
    ),
    "nomic-bert": ("NomicBert", SMALL, 3, 3),
    "gpt2": (
        "GPT2",
        {"vocab_size": 120, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 66}
        | {"pad_token_id": 1},
        3,
        3,
    ),
    "gpt-neox": ("GPTNeoX", SMALL, 3, 3),
    "opt": (
        "OPT",
        {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
        | {"ffn_dim": 48, "max_position_embeddings": 66, "word_embed_proj_dim": 32}
        | {"pad_token_id": 1},
        # Its feed-forward networks get all tokens of all texts in one row.
        3,
        0,
    ),
    # One linear of all queries, then of the keys and values that they share; one of gate and input.
    "phi3": ("Phi3", GROUPED, 3, 3),
    "esm": ("Esm", {**SMALL, "mask_token_id": 4}, 3, 3),
    "layoutlm": ("LayoutLM", SMALL, 3, 3),
    "ernie": ("Ernie", SMALL, 3, 3),
    "megatron-bert": ("MegatronBert", SMALL, 3, 3),
    "rembert": ("RemBert", {**SMALL, "input_embedding_size": 16}, 3, 3),
    # Convolutions mix the channels of its heads.
    "convbert": ("ConvBert", {**SMALL, "embedding_size": 16}, 0, 3),
    "nystromformer": ("Nystromformer", SMALL, 0, 3),
}


def small(name: str, **more: object) -> tf.PreTrainedModel:
    """A small classifier of a family, of random weights that are large enough to show."""
    model = _made(name, more)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.normal_(0, 1.2 / p.shape[-1] ** 0.5)
            else:
                p.add_(0.1 * torch.randn_like(p))
    return model


def real(name: str, *, layers: int, hidden: int) -> tf.PreTrainedModel:
    """The same with layers of a real size: heads of 32 channels, four times as many filters as
    channels."""
    heads = hidden // 32
    sizes: dict[str, object] = {}
    sizes |= dict.fromkeys(("hidden_size", "dim", "emb_dim", "n_embd", "d_model"), hidden)
    sizes |= dict.fromkeys(("num_hidden_layers", "n_layers", "n_layer"), layers)
    sizes |= dict.fromkeys(("num_attention_heads", "n_heads", "n_head"), heads)
    sizes |= dict.fromkeys(("intermediate_size", "hidden_dim", "ffn_dim", "d_inner"), 4 * hidden)
    sizes |= dict.fromkeys(("head_dim", "d_head"), 32)
    sizes |= dict.fromkeys(("max_position_embeddings", "n_positions"), 514)
    sizes |= {
        "num_key_value_heads": heads // 3,
        "word_embed_proj_dim": hidden,
        "intra_bottleneck_size": hidden // 2,
        "embedding_size": hidden // 2,
        "input_embedding_size": hidden // 2,
        "attention_window": [64] * layers,
        "block_sizes": [layers - layers // 2, layers // 2],
        "local_attention": 128,
        "max_relative_positions": 512,
        "position_buckets": 256,
    }
    return _made(name, {k: v for k, v in sizes.items() if k in ZOO[name][1]})


def _made(name: str, more: Mapping[str, object]) -> tf.PreTrainedModel:
    prefix, sizes, _, _ = ZOO[name]
    config = getattr(tf, prefix + "Config")(**{**sizes, **more})
    torch.manual_seed(0)
    made = getattr(tf, prefix + "ForSequenceClassification")
    model: tf.PreTrainedModel = made._from_config(config, attn_implementation="eager").eval()
    set_switches(model.config)
    for p in model.parameters():
        p.requires_grad_(False)
    return model
