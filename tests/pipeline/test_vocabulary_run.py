"""A smaller vocabulary, on a trained model and by the command line: the finished files have the
entries of the training texts alone, and everything that reads them afterwards knows of it."""

import json
import shutil

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import rfx
from rfx.core.errors import ExitCode
from rfx.core.plan import Plan
from rfx.evidence.read import read_curve, read_evidence
from rfx.evidence.report.write import render
from rfx.evidence.sound import contradictions
from rfx.models.checkpoint import read_update
from tests.commands import STANDARD, given, run
from tests.conftest import BAD, GOOD, PLAIN, made_once, write_jsonl

DONE = (0, 1, 7)  # a busy machine has a say in the latency
UNSEEN = {"camera", "stale", "fresh"}  # words that the training file does not have
LETTERS = [chr(c) for c in range(ord("a"), ord("z") + 1)]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *PLAIN]
ROWS = 5000  # of a table that is large enough to be quantized
OPTIONS = STANDARD | {"flops": 0.7}


def rows_of(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def spelled(trained, tmp_path_factory):
    """The trained model with characters and many unused entries in its vocabulary, and a training
    file without some of the words of the evaluation file."""

    def make(folder):
        tokens = [*WORDS, *LETTERS, *(f"##{c}" for c in LETTERS), "film", "##ed"]
        tokens = list(dict.fromkeys(tokens))
        tokens += [f"[unused{n}]" for n in range(ROWS - len(tokens))]
        (folder / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
        torch.manual_seed(0)
        model = tf.BertForSequenceClassification.from_pretrained(trained["model"])
        model.resize_token_embeddings(ROWS)
        model.save_pretrained(folder / "model")
        tf.BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder / "model")
        known = [r for r in rows_of(trained["train"]) if not UNSEEN & set(r["text"].split())]
        write_jsonl(folder / "train.jsonl", known)
        shutil.copy(trained["eval"], folder / "eval.jsonl")

    folder = made_once(tmp_path_factory, "spelled", make)
    return {
        "model": folder / "model",
        "train": folder / "train.jsonl",
        "eval": folder / "eval.jsonl",
    }


@pytest.fixture(scope="module")
def built(spelled, tmp_path_factory, short_measurements):
    """One run in fp32, shared: its output, and its store."""

    def make(folder):
        options = given(spelled, **OPTIONS, min_vocabulary_agreement=0.5, out=folder / "out")
        done = run(
            *("prune-export", *options, "--prune-vocabulary", "--json"),
            RFX_CACHE=str(folder / "store"),
        )
        assert done.exit_code in DONE, done.output

    return made_once(tmp_path_factory, "vocabulary-run", make)


@pytest.fixture
def stored(built, cache):
    shutil.copytree(built / "store", cache, dirs_exist_ok=True)
    return cache


def gate_of(evidence, name):
    return next(g for g in evidence.gates if g.name == name)


def tokenizers_of(spelled, out):
    return (tf.AutoTokenizer.from_pretrained(p) for p in (spelled["model"], out / "model"))


def test_the_finished_model_has_the_entries_of_its_training_texts(spelled, built):
    full, own = tokenizers_of(spelled, built / "out")
    seen = set(GOOD + BAD + PLAIN) - UNSEEN
    special = set(WORDS[:5])
    assert set(own.get_vocab()) == seen | special | set(LETTERS) | {f"##{c}" for c in LETTERS}
    part = read_evidence(built / "out").vocabulary
    assert (part.before, part.after) == (ROWS, len(own)) and len(full) == ROWS
    assert part.training <= len(rows_of(spelled["train"]))  # what the evaluation has is left out
    graph = onnx.load(str(built / "out" / "model.onnx")).graph
    (table,) = (i for i in graph.initializer if i.name.endswith("word_embeddings.weight"))
    assert list(table.dims) == [len(own), 64]
    config = json.loads((built / "out" / "model" / "config.json").read_text())
    assert (config["vocab_size"], config["pad_token_id"]) == (len(own), own.pad_token_id)


def test_it_is_judged_beside_the_same_model_with_the_full_vocabulary(spelled, built):
    evidence = read_evidence(built / "out")
    part, gate = evidence.vocabulary, gate_of(evidence, "vocabulary")
    texts = [r["text"] for r in rows_of(spelled["eval"])]
    assert part.texts == len(texts) == evidence.data.evaluation
    assert part.otherwise == sum(bool(UNSEEN & set(t.split())) for t in texts) > 0
    full, own = tokenizers_of(spelled, built / "out")
    for name, tokenizer in (("full_pieces", full), ("pieces", own)):
        encoded = tokenizer(texts, truncation=True, max_length=32)["input_ids"]
        assert getattr(part, name) == sum(map(len, encoded))
    assert part.unknown == part.full_unknown == 0
    assert part.difference == 0 and evidence.parity["full-sliced"] == 0
    assert part.metric == evidence.accuracy.pruned
    assert part.bytes == evidence.size.bytes == (built / "out" / "model.onnx").stat().st_size
    # The rows that are gone, but for what the file says of its vocabulary.
    assert part.saved == pytest.approx((ROWS - part.after) * 64 * 4, abs=64)
    assert 0.5 < part.agreement < 1 and gate.limit == part.min_agreement == 0.5
    assert gate.outcome == "pass" and gate.value == part.agreement
    names = [g.name for g in evidence.gates]
    assert names == ["shrunk", "same", "accuracy", "agreement", "vocabulary", "latency"]
    assert list(contradictions(evidence)) == []
    assert {g.name: g.outcome for g in evidence.gates}["same"] == "pass"


def test_every_report_says_what_it_saves_and_what_it_costs(built):
    evidence = read_evidence(built / "out")
    for name in ("markdown", "card", "html", "junit"):
        text = render(evidence, name)
        for said in (f"{evidence.vocabulary.after} of {ROWS} entries", "That saves 1.2"):
            assert said in text, (name, said)
        assert "By the vocabulary alone the metric went from" in text
        assert "in more pieces than by the dense model" in text


def test_the_file_computes_what_the_full_one_does_on_the_same_pieces(spelled, built):
    out = built / "out"
    full, own = tokenizers_of(spelled, out)
    known = full.get_vocab()
    kept = np.array([known[t] for t in sorted(own.get_vocab(), key=own.get_vocab().get)])
    subject = rfx.load_model(str(spelled["model"]), task="text-classification")
    plan = Plan.from_json(json.loads((out / "plan.json").read_text()))
    update = read_update(out / "update.safetensors")
    whole = rfx.shrink(subject.model, subject.sites, plan, update)
    small = rfx.load(out)
    assert small.config.vocab_size == len(kept)
    texts = ["the camera was fresh", "žluťoučký film 電車", "good", "qwerty " * 40, "", "a b c"]
    batch = own(texts, padding=True, truncation=True, max_length=32, return_tensors="np")
    ids = dict(batch)
    session = ort.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    (served,) = session.run(["logits"], {n: ids[n] for n in names})
    with torch.no_grad():
        tensors = {n: torch.from_numpy(ids[n]) for n in names}
        torch_small = small(**tensors).logits
        whole.set_attn_implementation("eager")
        tensors["input_ids"] = torch.from_numpy(kept[ids["input_ids"]])
        torch_whole = whole(**tensors).logits
    assert torch.equal(torch_small, torch_whole)
    assert np.abs(served - torch_whole.numpy()).max() < 1e-4
    assert "##e" in own.tokenize("fresh") and own.tokenize("電") == ["[UNK]"]


def test_it_is_judged_again_by_other_limits(built):
    assert run("gate", built / "out", "--files", built / "out").exit_code in DONE
    strict = run("gate", built / "out", "--min-vocabulary-agreement", 1, "--json")
    said = json.loads(strict.stdout)
    gate = next(g for g in said["gates"] if g["name"] == "vocabulary")
    assert gate["limit"] == 1 and gate["outcome"] == "fail" and strict.exit_code == 1
    refused = run("gate", built / "out", "--min-vocabulary-agreement", 2)
    assert refused.exit_code == ExitCode.USAGE and "a number from 0 to 1" in refused.output


def test_verify_measures_it_by_its_own_tokenizer(built, stored, tmp_path):
    done = run("verify", built / "out", "--out", tmp_path / "again", "--json")
    assert done.exit_code in DONE, done.output
    before, after = read_evidence(built / "out"), read_evidence(tmp_path / "again")
    assert after.vocabulary == before.vocabulary
    assert after.accuracy.predictions_hash == before.accuracy.predictions_hash
    assert gate_of(after, "same").outcome == "pass" and after.parity["full-sliced"] == 0
    assert list(contradictions(after)) == []
    # Another file of the same model, as a user may have made it, is fed the same pieces.
    shutil.copy(built / "out" / "model.onnx", tmp_path / "mine.onnx")
    done = run("verify", built / "out", "--onnx", tmp_path / "mine.onnx", "--json")
    assert done.exit_code in DONE, done.output
    assert json.loads(done.stdout)["vocabulary"] == before.vocabulary.model_dump(mode="json")


def test_evidence_that_says_nothing_of_it_is_not_that_of_the_files(built, tmp_path):
    out = shutil.copytree(built / "out", tmp_path / "out")
    data = json.loads((out / "evidence.json").read_text())
    data["vocabulary"], data["recipe"]["vocabulary"] = None, {"prune": False}
    data["recipe"]["limits"]["min_vocabulary_agreement"] = None
    del data["parity"]["full-sliced"]
    data["gates"] = [g for g in data["gates"] if g["name"] != "vocabulary"]
    (out / "evidence.json").write_text(json.dumps(data))
    assert run("gate", out).exit_code in DONE  # by itself it is sound
    refused = run("gate", out, "--files", out)
    assert refused.exit_code == ExitCode.USAGE
    assert "has another vocabulary" in refused.output, refused.output


def test_an_output_with_another_tokenizer_is_not_measured(spelled, built, stored, tmp_path):
    out = shutil.copytree(built / "out", tmp_path / "out")
    shutil.copy(spelled["model"] / "tokenizer.json", out / "model" / "tokenizer.json")
    done = run("verify", out)
    assert done.exit_code == ExitCode.USAGE and "another vocabulary" in done.output, done.output
    assert run("gate", out, "--files", out).exit_code == ExitCode.USAGE
    (out / "model" / "tokenizer.json").write_text("{")
    done = run("verify", out)
    assert done.exit_code == ExitCode.USAGE and "does not load" in done.output, done.output


def test_a_size_that_the_full_vocabulary_does_not_allow(spelled, stored, tmp_path):
    sized = {n: v for n, v in OPTIONS.items() if n != "flops"} | {"size": "300kB"}
    options = given(spelled, **sized)
    done = run("plan", *options)
    assert done.exit_code == ExitCode.UNSUPPORTED_MODEL and "--prune-vocabulary" in done.output
    planned = json.loads(run("plan", *options, "--prune-vocabulary", "--json").stdout)
    out = tmp_path / "out"
    done = run("prune-export", *options, "--prune-vocabulary", "--out", out, "--json")
    assert done.exit_code in DONE, done.output
    evidence = read_evidence(out)
    assert evidence.size.bytes == (out / "model.onnx").stat().st_size <= 300_000
    assert gate_of(evidence, "size").outcome == "pass"
    assert planned["predicted_bytes"] == pytest.approx(evidence.size.bytes, rel=0.01)
    assert evidence.size.predicted == pytest.approx(evidence.size.bytes, rel=0.01)
    assert list(contradictions(evidence)) == []
    refused = run("plan", *given(spelled, **sized | {"size": "20kB"}), "--prune-vocabulary")
    assert refused.exit_code == ExitCode.UNSUPPORTED_MODEL
    assert "--prune-vocabulary" not in refused.output


def test_in_int8_both_files_have_the_smaller_table(spelled, stored, tmp_path):
    out = tmp_path / "out"
    options = given(spelled, **OPTIONS | {"precision": "int8"}, out=out)
    done = run("prune-export", *options, "--prune-vocabulary", "--json")
    assert done.exit_code in DONE, done.output
    evidence = read_evidence(out)
    part = evidence.vocabulary
    for name in ("model.onnx", "model.fp32.onnx"):
        graph = onnx.load(str(out / name)).graph
        rows = [i.dims[0] for i in graph.initializer if "word_embeddings" in i.name]
        assert rows and set(rows) == {part.after}
    assert part.bytes == evidence.quantization.bytes == evidence.size.bytes
    # The full table was large enough for 8 bits, and the smaller one is not.
    assert 0 < part.difference <= part.tolerance
    assert evidence.quantization.mismatches == [] and list(contradictions(evidence)) == []
    assert evidence.parity["full-sliced"] == 0 and gate_of(evidence, "same").outcome == "pass"
    again = run("verify", out, "--json")
    assert again.exit_code in DONE, again.output
    found = json.loads(again.stdout)["vocabulary"]
    assert found == part.model_dump(mode="json")


def test_a_sweep_measures_points_with_the_smaller_vocabulary(spelled, stored, tmp_path):
    budget = {n: v for n, v in OPTIONS.items() if n != "flops"}
    options = given(spelled, **budget, max_drop=50)
    folder = tmp_path / "sweep"
    done = run("sweep", *options, "--flops", 0.7, "--prune-vocabulary", "--out", folder)
    assert done.exit_code == 0, done.output
    curve = read_curve(folder)
    (point,) = curve.points
    assert point.bytes < 400_000 < curve.dense_bytes and point.accuracy.pruned > 0.6
    assert any(f"of {ROWS} entries" in warning for warning in curve.warnings)
    assert "prune: true" in (folder / "recipe.yaml").read_text()
    done = run("sweep", *options, "--flops", 0.7, "--min-vocabulary-agreement", 0.9)
    assert done.exit_code == ExitCode.USAGE and "No such option" in done.output


def test_the_limit_without_the_request_is_refused(spelled, cache, tmp_path):
    options = given(spelled, **OPTIONS, min_vocabulary_agreement=0.9, out=tmp_path / "out")
    done = run("prune-export", *options)
    assert done.exit_code == ExitCode.USAGE and "add --prune-vocabulary" in done.output
    for command in ("profile", "shapes"):
        done = run(command, spelled["model"], "--prune-vocabulary")
        assert done.exit_code == ExitCode.USAGE and "--prune-vocabulary" in done.output


def test_a_tokenizer_of_byte_pairs_is_refused_before_any_work(trained, cache, tmp_path):
    pairs = Tokenizer(models.BPE())
    pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pairs.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    texts = [r["text"] for r in rows_of(trained["train"])]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    pairs.train_from_iterator(texts, trainer)
    tokenizer = tf.RobertaTokenizerFast(
        vocab=pairs.get_vocab(),
        merges=[tuple(m) for m in json.loads(pairs.to_str())["model"]["merges"]],
    )
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "max_position_embeddings": 66,
    }
    config = tf.RobertaConfig(vocab_size=len(tokenizer), **sizes)
    tf.RobertaForSequenceClassification(config).save_pretrained(tmp_path / "roberta")
    tokenizer.save_pretrained(tmp_path / "roberta")
    options = given({**trained, "model": tmp_path / "roberta"}, **OPTIONS)
    for command, more in (("prune-export", ("--out", tmp_path / "out")), ("plan", ())):
        done = run(command, *options, "--prune-vocabulary", *more)
        assert done.exit_code == ExitCode.UNSUPPORTED_MODEL, done.output
        assert "the kind BPE" in done.output and "WordPiece" in done.output
        assert "leave --prune-vocabulary out" in done.output
    assert not (tmp_path / "out").exists() and not (cache / "dense").exists()


def long_questions(count, words):
    """Contexts that are cut into spans: how many there are depends on the pieces of their words."""
    rows = []
    for n in range(count):
        text = " ".join([PLAIN[n % 9], *(words[(n + k) % len(words)] for k in range(24))])
        word = words[n % len(words)]
        answer = {"text": [word], "answer_start": [text.index(word)]}
        rows.append({"question": f"what is {PLAIN[n % 7]}", "context": text, "answers": answer})
    return rows


@pytest.mark.parametrize(
    "task",
    ["question-answering", pytest.param("token-classification", marks=pytest.mark.slow)],
)
def test_tasks_with_an_output_for_each_token(spelled, cache, tmp_path, task):
    """The two tokenizers give other numbers of tokens and spans: what is compared goes by the
    answers, and the divergence by those that both encode alike."""
    classes = {
        "question-answering": tf.BertForQuestionAnswering,
        "token-classification": tf.BertForTokenClassification,
    }
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = tf.BertConfig(
        vocab_size=ROWS, intermediate_size=16, max_position_embeddings=64, num_labels=2, **sizes
    )
    classes[task](config).save_pretrained(tmp_path / "model")
    tf.AutoTokenizer.from_pretrained(spelled["model"]).save_pretrained(tmp_path / "model")
    if task == "question-answering":
        train, judged = long_questions(30, GOOD[:7]), long_questions(24, [*GOOD[:7], "fresh"])
    else:
        train, judged = (
            [
                {"tokens": [w, *PLAIN[n % 9 : n % 9 + 3]], "tags": [1, 0, n % 2, 0]}
                for n, w in enumerate(words * 4)
            ]
            for words in (GOOD[:7], ["fresh", "stale", *BAD])
        )
    files = {
        "model": tmp_path / "model",
        "train": write_jsonl(tmp_path / "train.jsonl", train),
        "eval": write_jsonl(tmp_path / "eval.jsonl", judged),
    }
    options = given(files, **OPTIONS | {"task": task, "max_length": 32})
    out = tmp_path / "out"
    asked = ("--prune-vocabulary", "--allow-weak-baseline", "--out", out, "--json")
    done = run("prune-export", *options, *asked)
    assert done.exit_code in DONE, done.output
    evidence = read_evidence(out)
    part = evidence.vocabulary
    assert 0 < part.otherwise <= part.texts and part.pieces > part.full_pieces
    assert part.difference == 0 and evidence.parity["full-sliced"] == 0
    assert part.agreement is not None and list(contradictions(evidence)) == []
