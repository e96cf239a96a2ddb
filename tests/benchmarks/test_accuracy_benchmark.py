"""The accuracy benchmark, run for real on a tiny trained model: what it judges, what it runs again,
what all of it is."""

import json
import shutil
from pathlib import Path

import pytest

import benchmarks.accuracy as accuracy
import benchmarks.accuracy_bench as accuracy_bench
from benchmarks.pairs import PAIRS, Pair, with_evaluation
from benchmarks.results_file import read_results
from rfx.cli.terminal import Terminal
from rfx.core.store import Store


@pytest.fixture
def place(trained, tmp_path, monkeypatch):
    """(folder of data and models, options) of a pair called tiny."""
    shutil.copytree(trained["model"], tmp_path / "models" / "tiny")
    pair = Pair(
        "tiny",
        "none",
        "text-classification",
        str(trained["train"]),
        str(trained["eval"]),
        max_length=32,
        examples=96,
    )
    monkeypatch.setitem(PAIRS, "tiny", pair)
    monkeypatch.setattr(accuracy_bench, "DENSE", {})
    return tmp_path, [
        "--data",
        str(tmp_path),
        "--models",
        str(tmp_path / "models"),
        "--cache",
        str(tmp_path / "cache"),
        "--out",
        str(tmp_path / "r.json"),
        "--pairs",
        "tiny",
        "--seeds",
        "0",
    ]


def cells(folder):
    return json.loads((folder / "r.json").read_text())["cells"]


def test_it_judges_resumes_and_runs_again_what_is_another_recipe_other_code_or_another_model(
    place, monkeypatch, capsys
):
    folder, options = place
    run = [*options, "--recipes", "rfx", "random", "--flops", "0.4"]
    accuracy.main(run)
    result = json.loads((folder / "r.json").read_text())
    assert set(result["cells"]) == {"tiny|rfx|0|0.4|96", "tiny|random|0|0.4|96"}
    dense, rfx, random = (
        result["dense"]["tiny"],
        *(result["cells"][f"tiny|{r}|0|0.4|96"] for r in ("rfx", "random")),
    )
    assert dense["judged"] == 400 and dense["agreement"] == 1 and dense["divergence"] == 0
    assert random["divergence"] > 2 * rfx["divergence"] > 0 and random["metric"] < dense["metric"]
    assert (
        0.35 < rfx["flops_kept"] <= 0.4
        and rfx["fitted_sites"] > 0
        and rfx["stages"]["score"][1] is False
    )
    assert (
        rfx["method"]["compensate"] == "affine"
        and rfx["code"] == accuracy.code()
        and rfx["dense"] == dense["metric"]
    )

    prune = accuracy.Bench.prune
    pruned = []
    monkeypatch.setattr(
        accuracy.Bench,
        "prune",
        lambda self, method, share: pruned.append(method) or prune(self, method, share),
    )
    accuracy.main(run)
    assert not pruned  # all is there
    result["cells"]["tiny|random|0|0.4|96"]["method"]["guard"] = "otherwise"
    result["cells"]["tiny|rfx|0|0.4|96"]["code"] = "0"
    (folder / "r.json").write_text(json.dumps(result))
    accuracy.main(run)
    assert pruned == ["random"] and cells(folder)["tiny|rfx|0|0.4|96"]["code"] == "0"
    accuracy.main([*run, "--again"])
    assert (
        pruned == ["random", "rfx"]
        and cells(folder)["tiny|rfx|0|0.4|96"]["code"] == accuracy.code()
    )
    # Other code's scores are not taken.
    assert cells(folder)["tiny|rfx|0|0.4|96"]["stages"]["score"][1] is False

    result = json.loads((folder / "r.json").read_text())
    result["cells"]["tiny|rfx|0|0.4|96"]["weights"] = "of another fine-tuning"
    del result["cells"]["tiny|random|0|0.4|96"]["weights"]  # an old cell, which does not say
    (folder / "r.json").write_text(json.dumps(result))
    accuracy.main(run)
    assert pruned == ["random", "rfx", "rfx"]


def test_the_metrics_difference_has_an_interval_where_all_predictions_are_kept(place, monkeypatch):
    folder, options = place
    run = [*options[:-1], "0", "1", "--recipes", "rfx", "random", "--flops", "0.4"]
    accuracy.main(run)
    result = json.loads((folder / "r.json").read_text())
    apart = [
        100
        * (
            result["cells"][f"tiny|rfx|{s}|0.4|96"]["metric"]
            - result["cells"][f"tiny|random|{s}|0.4|96"]["metric"]
        )
        for s in (0, 1)
    ]
    assert set(result["intervals"]) == {"tiny|random|0.4|96"}
    known = result["intervals"]["tiny|random|0.4|96"]
    low, high = known["interval"]
    assert (
        known["by_seed"] == pytest.approx(apart)
        and known["difference"] == pytest.approx(sum(apart) / 2)
        and known["judged"] == 400
    )
    # Random keeps nothing: the difference is no chance.
    assert low < known["difference"] < high < 2 * known["difference"]

    def again(**changed):
        (folder / "r.json").write_text(json.dumps({**result, **changed}))
        accuracy.main(run)
        return json.loads((folder / "r.json").read_text())["intervals"]

    assert again(intervals={}) == result["intervals"]  # made though no cell was
    said = {"tiny|random|0.4|96": {**known, "difference": 5.0}}
    assert again(intervals=said) == said  # of these cells: taken as it is
    said["tiny|random|0.4|96"]["of"] = [[1.0, 1.0], [1.0, 1.0]]
    assert again(intervals=said) == result["intervals"]  # of other cells: made anew
    cells = {k: dict(c) for k, c in result["cells"].items()}
    cells["tiny|rfx|1|0.4|96"]["divergence"] = 0.5
    assert again(cells=cells) == {}  # the kept predictions are another cell's
    for file in (folder / "cache" / "predictions").iterdir():
        file.unlink()
    # With somebody else's results and an empty cache.
    assert again() == result["intervals"] and again(intervals={}) == {}


def test_outputs_are_judged_in_the_order_of_the_examples(place, trained):
    import torch
    import transformers

    folder, _ = place
    model = transformers.AutoModelForSequenceClassification.from_pretrained(trained["model"]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained["model"])
    rows = [json.loads(line) for line in trained["eval"].read_text().splitlines()]
    with torch.no_grad():
        wanted = [
            int(model(**tokenizer(r["text"], return_tensors="pt")).logits.argmax()) for r in rows
        ]
    with Terminal(quiet=True) as progress:
        bench = accuracy.Bench(
            PAIRS["tiny"], trained["model"], folder, "rfx", 0, 96, Store(folder / "store"), progress
        )
    assert bench.order != sorted(bench.order)  # batches are by length
    assert [int(p) for p in bench.dense[1]] == wanted
    assert bench.judge(bench.subject.model)[0]["metric"] == sum(
        p == r["label"] for p, r in zip(wanted, rows)
    ) / len(rows)
    small, _ = bench.prune("random", 0.2)
    judged, predictions = bench.judge(small)
    with torch.no_grad():
        pruned = [
            int(small(**tokenizer(r["text"], return_tensors="pt")).logits.argmax()) for r in rows
        ]
    assert [int(p) for p in predictions] == pruned
    assert judged["agreement"] == sum(a == b for a, b in zip(pruned, wanted)) / len(rows) < 1
    assert judged["metric"] == sum(p == r["label"] for p, r in zip(pruned, rows)) / len(rows)


@pytest.mark.slow
def test_equal_latency_is_measured(place):
    folder, options = place
    accuracy.main([*options, "--recipes", "rfx", "--flops", "0.9", "--latency", "0.9"])
    cell = cells(folder)["tiny|rfx|0|latency 0.9|96"]
    assert "note" in cell or (
        cell["interval"][0] <= cell["ratio"] <= cell["interval"][1] and cell["divergence"] > 0
    )
    assert cell["code"] == accuracy.code()


def test_without_options_all_is_run_that_the_page_shows(monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(accuracy, "run_part", lambda args, *_: ran.append(args))
    folders = [
        "--data",
        str(tmp_path),
        "--cache",
        str(tmp_path / "cache"),
        "--out",
        str(tmp_path / "r.json"),
    ]
    accuracy.main(folders)
    keys = set()
    for args in ran:
        for pair in args.pairs:
            n = args.examples or PAIRS[pair].examples
            keys |= {
                f"{pair}|{r}|{seed}|{share}|{n}"
                for r in args.recipes
                for seed in args.seeds
                for share in args.flops
            }
            keys |= {f"{pair}|{r}|0|latency {t}|{n}" for r in args.recipes for t in args.latency}
    shown = read_results(Path(accuracy.__file__).parent / "results" / "accuracy.json")["cells"]
    assert shown and not set(shown) - keys
    ran.clear()
    accuracy.main([*folders, "--examples", "64"])
    assert (
        len(ran) == 1
        and ran[0].examples == 64
        and ran[0].pairs == accuracy.EVALUATED
        and not ran[0].latency
    )


def test_unseen_examples_are_those_that_fine_tuning_left(tmp_path):
    import random

    rows = [{"text": f"t{i % 90}", "label": i % 2} for i in range(100)]  # ten of them twice
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    pair = Pair(
        "tiny-more",
        "none",
        "text-classification",
        "train.jsonl",
        "train.jsonl",
        judged=50,
        unseen=True,
        checkpoint="tiny",
    )
    with pytest.raises(SystemExit, match="does not say"):
        with_evaluation(pair, tmp_path, tmp_path, tmp_path)
    (tmp_path / "training.json").write_text(json.dumps({"seed": 3, "rows": 30}))
    found = with_evaluation(pair, tmp_path, tmp_path, tmp_path)
    shuffled = list(rows)
    random.Random(3).shuffle(shuffled)  # as fine_tune does
    seen = {r["text"] for r in shuffled[:30]}
    left = [json.loads(line)["text"] for line in Path(found.eval).read_text().splitlines()]
    assert len(left) == len(set(left)) == 50 and not seen & set(left)
