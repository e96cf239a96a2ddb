"""The entries of a vocabulary that stay, the tokenizer that is written with them, and the table."""

import copy

import numpy as np
import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from rfx.core.errors import UnsupportedModelError, UsageError
from rfx.models.vocabulary import (
    entries_to_keep,
    keep_embeddings,
    of_tokenizers,
    renumbered,
    require_word_pieces,
    smaller,
    with_table_of,
    word_table,
)

SPECIAL = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[unused1]", "[SEP]", "[MASK]"]
LETTERS = [chr(c) for c in range(ord("a"), ord("z") + 1)]
WORDS = ["film", "films", "##s", "##ing", "plot", "bad", "good", "unseen", "##een"]
ALL = [*SPECIAL, *WORDS, *LETTERS, *(f"##{c}" for c in LETTERS if c != "s")]


@pytest.fixture
def full(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(ALL), encoding="utf-8")
    return tf.BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"))


def ids_of(tokenizer, *texts):
    return {i for text in texts for i in tokenizer(text)["input_ids"]}


def made(tokenizer, *texts, rows=None):
    rows = len(tokenizer) if rows is None else rows
    kept = entries_to_keep(tokenizer, ids_of(tokenizer, *texts), rows)
    return smaller(tokenizer, kept, rows)


def test_what_is_used_special_or_a_single_character_stays(full):
    own = made(full, "the good films", "bad plot")
    tokens = own.tokenizer.get_vocab()
    gone = {"[unused0]", "[unused1]", "film", "##ing", "unseen", "##een"}
    assert set(ALL) - set(tokens) == gone
    assert [ALL[i] for i in own.kept] == sorted(tokens, key=tokens.get)  # in their order
    assert own.before == len(ALL) and own.after == len(ALL) - len(gone) == len(own.tokenizer)
    assert own.ids.dtype == np.int64 and list(own.back(np.array([[0, 1]]))[0]) == [0, 2]


def test_texts_whose_pieces_stay_are_encoded_as_before_and_others_are_spelled(full):
    own = made(full, "the good films", "bad plot")
    for text in ("bad films", "the plot the good", "good" * 3, "films\nplot [MASK]"):
        before, after = full(text)["input_ids"], own.tokenizer(text)["input_ids"]
        assert own.back(np.array(after)).tolist() == before
        assert own.tokenizer.decode(after) == full.decode(before)
    spelled = own.tokenizer.tokenize("unseen film")
    assert spelled == ["u", "##n", "##s", "##e", "##e", "##n", "f", "##i", "##l", "##m"]
    # A character that the full vocabulary does not have is as unknown as it was.
    assert own.tokenizer.tokenize("čaj") == full.tokenize("čaj")
    assert own.tokenizer.tokenize("電") == ["[UNK]"] == full.tokenize("電")
    pair = own.tokenizer("good", "bad", padding="max_length", max_length=8)
    assert own.back(np.array(pair["input_ids"])).tolist() == [
        ALL.index(t) for t in ("[CLS]", "good", "[SEP]", "bad", "[SEP]", "[PAD]", "[PAD]", "[PAD]")
    ]
    assert pair["token_type_ids"][:5] == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("texts", [(), ("電 漢",), ("",)])
def test_without_any_known_word_the_characters_and_the_special_tokens_stay(full, texts):
    own = made(full, *texts)
    letters = {t for t in ALL if len(t.removeprefix("##")) == 1}
    assert set(own.tokenizer.get_vocab()) == letters | {t for t in SPECIAL if "unused" not in t}
    assert own.tokenizer.tokenize("bad") == ["b", "##a", "##d"]


def test_the_choice_is_hashed_and_depends_on_nothing_but_the_texts(full):
    one, other = made(full, "good films", "bad"), made(full, "bad", "good", "films bad")
    assert (one.kept, one.hash) == (other.kept, other.hash)
    assert made(full, "good").hash != one.hash and len(one.hash) == 16


def test_a_written_tokenizer_is_found_to_be_a_part_of_the_full_one(full, tmp_path):
    own = made(full, "good films")
    own.tokenizer.save_pretrained(tmp_path / "own")
    again = of_tokenizers(full, tf.AutoTokenizer.from_pretrained(tmp_path / "own"), len(ALL))
    assert (again.kept, again.hash, again.before) == (own.kept, own.hash, own.before)
    with pytest.raises(UsageError, match="not a part of the dense model's"):
        of_tokenizers(own.tokenizer, full, len(ALL))


def test_added_tokens_stay_and_follow(full):
    full.add_tokens(["<e1>", "<e2>"])
    full.add_special_tokens({"additional_special_tokens": ["<url>"]})
    own = made(full, "good <e1> films")
    tokens = own.tokenizer.get_vocab()
    last = {tokens[t] for t in ("<e1>", "<e2>", "<url>")}
    assert last == set(range(own.after - 3, own.after)) and own.before == len(ALL) + 3
    text = "good <e2> films <url>"
    back = own.back(np.array(own.tokenizer(text)["input_ids"]))
    assert back.tolist() == full(text)["input_ids"]


def test_every_id_of_a_tokenizer_file_is_renumbered():
    written = {
        "model": {"type": "WordPiece", "vocab": {"a": 0, "b": 1, "c": 2, "d": 5}},
        "added_tokens": [{"id": 5, "content": "d"}],
        "padding": {"pad_id": 2},
        "post_processor": {
            "type": "Sequence",
            "processors": [
                {"type": "BertProcessing", "sep": ["c", 2], "cls": ["d", 5]},
                {"special_tokens": {"c": {"id": "c", "ids": [2, 5], "tokens": ["c", "d"]}}},
            ],
        },
    }
    before = copy.deepcopy(written)
    found = renumbered(written, {0: 0, 2: 1, 5: 2})
    assert written == before
    assert found["model"]["vocab"] == {"a": 0, "c": 1, "d": 2}
    assert found["added_tokens"] == [{"id": 2, "content": "d"}] and found["padding"]["pad_id"] == 1
    bert, template = found["post_processor"]["processors"]
    assert (bert["sep"], bert["cls"]) == (["c", 1], ["d", 2])
    assert template["special_tokens"]["c"]["ids"] == [1, 2]


def byte_pairs():
    """A fast tokenizer of RoBERTa's kind."""
    made = Tokenizer(models.BPE(vocab={"<pad>": 0, "a": 1, "b": 2, "ab": 3}, merges=[("a", "b")]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    made.post_processor = processors.ByteLevel()
    return tf.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>")


class Slow:
    is_fast = False


@pytest.mark.parametrize(
    ("tokenizer", "said"),
    [
        (byte_pairs(), "a tokenizer of the kind BPE"),
        (
            tf.PreTrainedTokenizerFast(
                tokenizer_object=Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0)),
                unk_token="<unk>",
            ),
            "a tokenizer of the kind Unigram",
        ),
        (Slow(), "Slow, which is no fast tokenizer"),
        (None, "NoneType, which is no fast tokenizer"),
    ],
    ids=["bpe", "unigram", "slow", "none"],
)
def test_other_tokenizers_are_refused(tokenizer, said):
    with pytest.raises(UnsupportedModelError) as refused:
        require_word_pieces(tokenizer, "a/model")
    text = str(refused.value)
    assert said in text and "a/model" in text and "WordPiece" in text
    assert "leave --prune-vocabulary out" in text


SIZES = {
    "vocab_size": len(ALL),
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 32,
}
MODELS = {
    "bert": tf.BertForSequenceClassification(tf.BertConfig(**SIZES)),
    "electra": tf.ElectraForSequenceClassification(tf.ElectraConfig(**SIZES, embedding_size=8)),
    "distilbert": tf.DistilBertForSequenceClassification(
        tf.DistilBertConfig(
            vocab_size=len(ALL), dim=16, n_layers=1, n_heads=2, hidden_dim=8, pad_token_id=0
        )
    ),
    "mobilebert": tf.MobileBertForSequenceClassification(
        tf.MobileBertConfig(**SIZES, embedding_size=8, intra_bottleneck_size=8)
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_smaller_table_gives_the_very_same_numbers(full, name):
    model = MODELS[name].eval()
    model.config.mask_token_id = ALL.index("[MASK]")
    model.config.decoder_start_token_id = ALL.index("[unused1]")
    before = model.state_dict()
    own, small = made(full, "good films", "bad plot"), copy.deepcopy(model)
    keep_embeddings(small, own)
    where, table = word_table(small)
    assert table.weight.shape[0] == own.after == table.num_embeddings == small.config.vocab_size
    assert table.padding_idx == 0 and where.endswith("word_embeddings")
    assert small.config.mask_token_id == own.tokenizer.mask_token_id
    assert small.config.decoder_start_token_id is None  # which does not stay
    texts = ["good films", "the plot is unseen čaj", "bad"]
    batch = own.tokenizer(texts, padding=True, return_tensors="pt")
    inputs = {n: t for n, t in batch.items() if n != "token_type_ids"}
    whole = inputs | {"input_ids": torch.from_numpy(own.back(batch["input_ids"].numpy()))}
    with torch.no_grad():
        a, b = model(**whole).logits, small(**inputs).logits
        c = with_table_of(small, model)(**whole).logits
    assert torch.equal(a, b) and torch.equal(a, c)
    # The model that it was made of is as it was.
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert model.config.vocab_size == len(ALL) and word_table(model)[1].num_embeddings == len(ALL)


def test_a_model_that_counts_positions_from_the_padding_is_refused_where_that_moves(full):
    sizes = SIZES | {"max_position_embeddings": 34}
    moved = tf.RobertaForSequenceClassification(tf.RobertaConfig(**sizes, pad_token_id=2))
    own = made(full, "good")  # [UNK], which is 2, becomes 1
    with pytest.raises(UnsupportedModelError, match="positions are counted"):
        keep_embeddings(moved, own)
    stays = tf.RobertaForSequenceClassification(tf.RobertaConfig(**sizes, pad_token_id=0))
    keep_embeddings(stays, own)
    assert stays.config.pad_token_id == 0


def test_a_table_that_is_read_elsewhere_too_is_refused():
    with pytest.raises(UnsupportedModelError, match="has the same weights"):
        word_table(tf.BertForMaskedLM(tf.BertConfig(**SIZES)))
    with pytest.raises(UnsupportedModelError, match="no table of embeddings of its tokens"):
        word_table(torch.nn.Linear(2, 2))
