"""The accuracy benchmark's tables say what its JSON holds."""

import json

import benchmarks.accuracy_report as report


def results(tmp_path):
    def cell(metric, divergence, agreement=0.9):
        return {"metric": metric, "divergence": divergence, "agreement": agreement}

    cells = {f"a|{r}|{seed}|0.5|64": cell(0.8 + 0.02 * seed, d) for r, d in (("rfx", 0.01), ("kwon", 0.08)) for seed in (0, 1)}
    cells |= {"b|rfx|0|0.5|64": cell(0.7, 0.02, None), "b|kwon|0|0.5|64": cell(0.6, 0.04, None)}
    cells |= {"a|rfx|0|latency 0.7|64": {"metric": 0.81, "ratio": 0.69}, "a|kwon|0|latency 0.7|64": {"note": "out of reach"}}
    dense = {"a": {"name": "accuracy", "metric": 0.85, "agreement": 1.0}, "b": {"name": "spearman", "metric": 0.9, "agreement": None}}
    file = tmp_path / "r.json"
    file.write_text(json.dumps({"cells": cells, "dense": dense}))
    return file


def test_cells_are_means_over_seeds_and_ratios_geometric_means_over_pairs(tmp_path):
    text = report.tables(results(tmp_path))
    assert "| `rfx` | 2 | 0.8100 · 0.0100 · 0.900 |" in text and "| `rfx` | 1 | 0.7000 · 0.0200 |" in text
    assert "| `kwon` | 1/4.0 |" in text  # sqrt(8 * 2)
    assert "| a | `rfx` | 0.7 | 0.690 | 0.8100 |" in text and "out of reach" in text


def test_the_plot_has_a_panel_a_pair(tmp_path):
    svg = report.plot(results(tmp_path))
    assert svg.startswith("<svg") and ">a<" in svg and ">b<" in svg
