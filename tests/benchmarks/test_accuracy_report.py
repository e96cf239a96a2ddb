"""The accuracy benchmark's tables say what its JSON holds."""

import json
from pathlib import Path

import benchmarks.accuracy_report as report
from benchmarks.accuracy_recipes import ABLATIONS
from benchmarks.accuracy_sections import PARTS
from benchmarks.results_file import read_results, write_results


def results(tmp_path):
    def cell(metric, divergence, agreement=0.9):
        return {
            "metric": metric,
            "divergence": divergence,
            "agreement": agreement,
            "beyond_mb": 1000 * metric,
            "stages": {"score": [2.0 * metric, False]},
        }

    cells = {
        f"a|{r}|{seed}|0.5|64": cell(0.8 + 0.02 * seed, d)
        for r, d in (("rfx", 0.01), ("kwon", 0.08))
        for seed in (0, 1)
    }
    cells |= {"b|rfx|0|0.5|64": cell(0.7, 0.02, None), "b|kwon|0|0.5|64": cell(0.6, 0.04, None)}
    cells |= {
        "a|rfx|0|latency 0.7|64": {
            "metric": 0.81,
            "ratio": 0.69,
            "interval": [0.68, 0.7],
            "divergence": 0.02,
        },
        "a|kwon|0|latency 0.7|64": {"note": "out of reach"},
    }
    dense = {
        "a": {"name": "accuracy", "metric": 0.85, "agreement": 1.0},
        "b": {"name": "spearman", "metric": 0.9, "agreement": None},
    }
    file = tmp_path / "r.json"
    file.write_text(json.dumps({"cells": cells, "dense": dense}))
    return file


def test_cells_are_means_over_seeds_and_ratios_geometric_means_over_pairs(tmp_path):
    text = report.tables(results(tmp_path))
    assert (
        "| `rfx` | 2 | 0.8100±0.0141 · 0.0100 · 0.900 |" in text
        and "| `rfx` | 1 | 0.7000 · 0.0200 |" in text
    )
    assert "| `kwon` | 1/5.0 (3) |" in text  # of 8, 8 and 2
    assert (
        "| a | 0.7 | `rfx` | 0.690, 0.680 to 0.700 | 0.8100 | 0.0200 |  |" in text
        and "out of reach" in text
    )


def test_the_metric_is_compared_over_the_seeds_that_both_have_and_the_worst_pair_is_named(tmp_path):
    assert "| `kwon` | +0.00±0.00 (a) |" in report.tables(results(tmp_path))  # b: 0.7 against 0.6


def test_intervals_stand_beside_the_difference(tmp_path):
    file = results(tmp_path)
    assert "leave open" not in report.tables(file)
    found = json.loads(file.read_text())
    known = {
        "difference": -0.26,
        "interval": [-0.61, 0.105],
        "by_seed": [-0.36, -0.16],
        "judged": 100,
    }
    found["intervals"] = {
        "a|kwon|0.5|64": known,
        "b|kwon|0.4|64": {**known, "by_seed": [-0.26]},
        "a|kwon|0.5|8": {**known, "difference": 7.0},
        "c-val|kwon|0.5|64": {**known, "difference": 8.0},
    }
    found["cells"]["c-val|rfx|0|0.5|64"], found["dense"]["c-val"] = (
        found["cells"]["a|rfx|0|0.5|64"],
        found["dense"]["a"],
    )
    file.write_text(json.dumps(found))
    text = report.tables(file)
    assert (
        "| a | `kwon` | -0.26±0.14 (-0.61 to +0.10) |  |" in text
        and "| b | `kwon` |  | -0.26 (one seed) (-0.61 to +0.10) |" in text
    )
    # Other numbers of calibration examples, and data that choices were made on.
    assert "+7.00" not in text and "+8.00" not in text


def test_numbers_of_examples_stand_beside_one_another(tmp_path):
    file = results(tmp_path)
    found = json.loads(file.read_text())
    found["cells"]["a|rfx|0|0.5|8"] = {**found["cells"]["a|rfx|0|0.5|64"], "divergence": 0.03}
    file.write_text(json.dumps(found))
    # Of 0.08 the most take 0.07 off, the fewest 0.05.
    assert "| a | `rfx` | 0.5 | 8: 0.0300 (1) · 64: 0.0100 (2) | 71% |" in report.tables(file)
    assert "Fewer calibration" not in report.tables(results(tmp_path))


def test_seconds_are_those_of_the_cells_that_computed_a_stage_and_memory_of_those_that_computed_all(
    tmp_path,
):
    file = results(tmp_path)
    assert "| a | `rfx` | score 1.6 | 800 to 820 |" in report.tables(file)
    found = json.loads(file.read_text())
    found["cells"]["a|rfx|0|0.4|64"] = {
        **found["cells"]["a|rfx|0|0.5|64"],
        "beyond_mb": 10.0,
        "stages": {"score": [0.1, True], "search": [3.0, False]},
    }
    file.write_text(json.dumps(found))
    assert "| a | `rfx` | score 1.6, search 3.0 | 800 to 820 |" in report.tables(file)


def test_the_reference_stands_beside_its_authors_figures(tmp_path):
    file = tmp_path / "r.json"
    cell = {"metric": 0.82, "divergence": 0.15, "agreement": 0.9, "stages": {}}
    cells = {
        f"minilm-rotten|{name}|0|0.5|1024": cell
        for name in ("kwon-reference", "kwon-reference-search")
    }
    dense = {"name": "accuracy", "metric": 0.82806, "agreement": 1.0, "judged": 2530}
    file.write_text(json.dumps({"cells": cells, "dense": {"minilm-rotten": dense}}))
    text = report.tables(file)
    assert (
        "| 0.5 | 0 | 0.820 / 0.813 |  | 0.820 / 0.821 | 0.1500 / 0.1564 |" in text
        and "0.8281 on 2,530 examples" in text
    )
    file.write_text(
        json.dumps({"cells": cells, "dense": {"minilm-rotten": {**dense, "metric": 0.81}}})
    )
    assert "authors" not in report.tables(file)  # of another checkpoint
    assert "authors" not in report.tables(results(tmp_path))


def test_the_plot_has_a_panel_a_pair(tmp_path):
    svg = report.plot(results(tmp_path))
    assert svg.startswith("<svg") and ">a<" in svg and ">b<" in svg


def test_parts_of_the_default_have_a_table_of_their_own_and_no_part_in_the_ratios(tmp_path):
    file = results(tmp_path)
    found = json.loads(file.read_text())
    for recipe, divergence in (("rfx", 0.01), ("rfx-none", 0.2), ("kwon", 0.9)):
        found["cells"][f"a-val|{recipe}|0|0.5|64"] = {
            **found["cells"]["a|rfx|0|0.5|64"],
            "divergence": divergence,
        }
    found["dense"]["a-val"] = found["dense"]["a"]
    file.write_text(json.dumps(found))
    text = report.tables(file)
    assert (
        "| `rfx-none` | no reconstruction | 0.2000 · 0.900 · 0.8000 |" in text
        and "### a-val" not in text
    )
    assert "| `kwon` | 1/5.0 (3) |" in text
    assert ">a-val<" not in report.plot(file)


def test_every_ablation_is_explained():
    assert not {n for n in ABLATIONS if n not in PARTS and not n.startswith("kwon-reference")}


def test_the_page_of_tables_is_what_the_committed_results_give():
    root = Path(report.__file__).parents[1]
    (page,) = (root / "docs").rglob("accuracy-tables.md")
    head, _, body = page.read_text(encoding="utf-8").partition("\n\n")
    assert head == "<!-- made by python -m benchmarks.accuracy_report from accuracy.json -->"
    assert body == report.tables(root / "benchmarks" / "results" / "accuracy.json.gz")


def test_the_command_writes_both_files_and_says_what_they_are_made_from(tmp_path):
    compressed = tmp_path / "r.json.gz"
    write_results(compressed, read_results(results(tmp_path)))
    (tmp_path / "r.json").unlink()
    tables, plot = tmp_path / "t.md", tmp_path / "p.svg"
    report.main([str(tmp_path / "r.json"), "--tables", str(tables), "--plot", str(plot)])
    head, _, body = tables.read_text().partition("\n\n")
    assert head == "<!-- made by python -m benchmarks.accuracy_report from r.json -->"
    assert body == report.tables(compressed) and plot.read_text().startswith("<svg")
