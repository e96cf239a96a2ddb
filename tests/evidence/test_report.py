"""Every report is made from the evidence alone, whatever stands in it."""

import io
import json
import math
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from rfx.cli.results import print_lines
from rfx.cli.session import publish
from rfx.core.errors import EnvironmentMissingError, UsageError
from rfx.core.registry import register
from rfx.evidence.curve import Curve
from rfx.evidence.read import read_curve
from rfx.evidence.records import Evidence, Round
from rfx.evidence.report.advice import next_step
from rfx.evidence.report.base import Report
from rfx.evidence.report.curve import FILES as CURVE_FILES
from rfx.evidence.report.curve import write_curve
from rfx.evidence.report.facts import round_texts, search_text, table_text, workload_text
from rfx.evidence.report.terminal import summary
from rfx.evidence.report.write import files, render, write_reports
from tests.evidences import make_accuracy, make_evidence, make_latency

SCHEMA1 = Path(__file__).parents[1] / "golden" / "schema1"
EVIDENCES = {
    "pass": make_evidence(),
    "flops": make_evidence(table=False, latency=make_latency(target=None)),
    "fail": make_evidence(
        latency=make_latency(0.9), mismatches=["layer.0.ffn has 128, the plan keeps 96"]
    ),
    "inconclusive": make_evidence(latency=make_latency(0.699, half=0.01)),
    "not finite": make_evidence(
        latency=make_latency(math.nan), accuracy=make_accuracy(pruned=math.nan, drop=math.nan)
    ),
    "bare": make_evidence(table=False, tuning=[], gates=[], stages=[], warnings=[]).model_copy(
        update={"latency": None, "accuracy": None}
    ),
    "one layer": make_evidence(
        dense_layers=[{"heads": 4, "filters": 128}], kept_layers=[{"heads": 0, "filters": 0}]
    ),
}


@pytest.mark.parametrize("name", EVIDENCES)
@pytest.mark.parametrize("form", ["json", "html", "junit", "markdown", "card"])
def test_every_form_of_every_evidence(name, form):
    assert len(render(EVIDENCES[name], form)) > 100


@pytest.mark.parametrize("name", EVIDENCES)
def test_the_card_says_that_outputs_for_padding_alone_mean_nothing(name):
    """The checkpoint and model.onnx differ there where another attention is set: it is no fault
    of either."""
    use = render(EVIDENCES[name], "card").split("## Use")[1].split("\n## ")[0]
    assert "Outputs for a row that is padding alone mean nothing." in use


def test_unknown_forms_are_refused():
    with pytest.raises(UsageError, match="pdf"):
        render(EVIDENCES["pass"], "pdf")


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags, self.links, self.ids = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [
            v for k, v in attrs if k in ("src", "href", "xlink:href") and not v.startswith("#")
        ]
        self.ids += [v for k, v in attrs if k == "id"]
        if tag not in ("meta", "br", "link", "path", "use", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()


@pytest.mark.parametrize(("name", "plots"), [("pass", 6), ("flops", 4), ("bare", 2)])
def test_the_page_stands_alone(name, plots):
    text = render(EVIDENCES[name], "html")
    page = Page()
    page.feed(text)
    assert page.tags.count("svg") == plots and not page.open
    assert not page.links and "<script" not in text and "@import" not in text
    assert len(page.ids) == len(set(page.ids)), "ids of two plots collide"
    if name != "bare":
        # What users wrote is escaped.
        assert "&lt;reviews&gt;" in text and "bert-<reviews>" not in text
        assert "a &lt;warning&gt;" in text


def test_the_same_evidence_gives_the_same_page():
    assert render(EVIDENCES["pass"], "html") == render(EVIDENCES["pass"], "html")


def test_junit_has_a_case_a_gate():
    def count(name):
        root = ET.fromstring(render(EVIDENCES[name], "junit").encode())
        suite = root.find("testsuite")
        assert int(suite.get("tests")) == len(root.findall(".//testcase"))
        assert int(suite.get("failures")) == len(root.findall(".//failure"))
        return (
            len(root.findall(".//testcase")),
            len(root.findall(".//failure")),
            len(root.findall(".//skipped")),
        )

    assert (
        count("pass") == (5, 0, 0)
        and count("fail") == (5, 2, 0)
        and count("inconclusive") == (5, 0, 1)
    )
    odd = make_evidence(latency=make_latency(0.9))
    odd.gates[0].detail = "a \x00 byte & <tag>"
    assert ET.fromstring(render(odd, "junit").encode()) is not None


def test_the_card_is_one_the_hub_reads():
    front = render(EVIDENCES["pass"], "card").split("---\n")[1]
    data = yaml.safe_load(front)
    assert (
        data["base_model"] == "someone/bert-<reviews>"
        and data["pipeline_tag"] == "text-classification"
    )
    assert data["model-index"][0]["results"][0]["metrics"][0]["value"] == pytest.approx(0.895)
    local = make_evidence(model={"source": "/home/me/model", "hash": "x"})
    assert "base_model" not in yaml.safe_load(render(local, "card").split("---\n")[1])
    assert "/home/me" not in render(local, "card")
    assert data["model-index"][0]["results"][0]["dataset"]["name"] == "reviews"
    unnamed = make_evidence(
        model={"source": "/home/me/bert", "hash": "x"},
        recipe={"name": "bert", "data": {"eval": "/home/me/dev.csv"}},
    )
    front = yaml.safe_load(render(unnamed, "card").split("---\n")[1])
    assert front["model-index"][0]["results"][0]["dataset"]["name"] == "dev.csv"


def test_tables_in_markdown_keep_their_columns():
    for form in ("markdown", "card"):
        tables = re.findall(r"(?:^\|.*\n)+", render(EVIDENCES["fail"], form), re.M)
        assert tables
        for table in tables:
            assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1


def test_all_files_are_written(tmp_path):
    written = write_reports(EVIDENCES["pass"], tmp_path / "new")
    assert (
        {p.name for p in written} == set(files()) == {p.name for p in (tmp_path / "new").iterdir()}
    )
    assert json.loads((tmp_path / "new" / "evidence.json").read_text())["schema_version"] == 2


@pytest.mark.parametrize("name", EVIDENCES)
def test_the_summary_prints(name, capsys, tmp_path):
    print_lines(summary(EVIDENCES[name], tmp_path))
    out = capsys.readouterr()
    assert (
        "gates" in out.out
        and "latency" in out.out
        and str(tmp_path) in out.out.replace("\n", "")
        and not out.err
    )


def test_ci_services_are_told(monkeypatch, tmp_path, capsys):
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    publish(EVIDENCES["fail"])
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    (tmp_path / "summary.md").write_text("before\n")
    publish(EVIDENCES["fail"])
    said = capsys.readouterr()
    assert (
        said.out == ""
        and said.err.count("::error title=rfx gate") == 2
        and len(said.err.splitlines()) == 2
    )
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert text.startswith("before\n") and "| latency" in text
    publish(EVIDENCES["inconclusive"])
    assert "::warning title=rfx gate latency" in capsys.readouterr().err
    # A folder: said, and no reason to fail.
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    publish(EVIDENCES["pass"])
    assert "cannot be written" in capsys.readouterr().err


def test_svg_is_readable_xml():
    text = render(EVIDENCES["pass"], "html")
    for svg in re.findall(r"<svg.*?</svg>", text, re.S):
        ET.parse(io.StringIO(svg))


def without(monkeypatch, *packages: str) -> None:
    """As if they were not installed."""
    for name in packages:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("packages", [("matplotlib",), ("jinja2",), ("matplotlib", "jinja2")])
def test_without_the_plots_the_rest_is_written_and_the_extra_is_named(
    monkeypatch, tmp_path, packages
):
    without(monkeypatch, *packages)
    said: list[str] = []
    written = write_reports(EVIDENCES["pass"], tmp_path, said.append)
    assert {p.name for p in written} == {p.name for p in tmp_path.iterdir()}
    assert set(files()) - {p.name for p in written} == {"report.html"}
    assert len(said) == 1 and said[0].startswith("report.html was not written")
    assert all(p in said[0] for p in packages) and "rfx-exporter[plots]" in said[0]
    with pytest.raises(EnvironmentMissingError, match=r"rfx-exporter\[plots\]"):
        render(EVIDENCES["pass"], "html")


def test_without_the_plots_a_sweep_is_written_too(monkeypatch, tmp_path):
    curve = read_curve(SCHEMA1 / "sweep.json").model_copy(update={"max_drop": 20.0})
    assert {p.name for p in write_curve(curve, tmp_path / "all")} == set(CURVE_FILES)
    without(monkeypatch, "matplotlib")
    said: list[str] = []
    written = write_curve(curve, tmp_path / "some", said.append)
    assert set(CURVE_FILES) - {p.name for p in written} == {"sweep.html", "sweep.svg"}
    assert len(said) == 1 and "rfx-exporter[plots]" in said[0]


def test_reports_need_neither_torch_nor_plots():
    """A CI service that only judges has neither."""
    program = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'onnx', 'matplotlib', 'jinja2'):\n"
        "    sys.modules[name] = None\n"
        "from rfx.evidence.read import read_evidence\n"
        "from rfx.evidence.report.terminal import summary\n"
        "from rfx.evidence.report.write import write_reports\n"
        "evidence = read_evidence(sys.argv[1])\n"
        "print(len(write_reports(evidence, sys.argv[2], lambda text: None)), "
        "len(summary(evidence)) > 5)\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", program, str(SCHEMA1 / "evidence.json"), folder],
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout.split() == ["4", "True"]


def test_a_strangers_report_is_written_beside_the_others(tmp_path, forgets):
    @register("report", "lines")
    class Lines(Report):
        file = "lines.txt"

        def render(self, evidence):
            return f"{evidence.outcome}\n"

    assert "lines.txt" in {p.name for p in write_reports(EVIDENCES["fail"], tmp_path)}
    assert (tmp_path / "lines.txt").read_text() == "fail\n" == render(EVIDENCES["fail"], "lines")


def test_any_kind_of_unit_has_its_column():
    evidence = make_evidence(
        dense_layers=[{"heads": 4, "groups": 2}, {"filters": 64}],
        kept_layers=[{"heads": 3, "groups": 1}, {"filters": 32}],
    )
    card = render(evidence, "card")
    assert "| layer | heads | groups | filters |" in card
    assert "| 0 | 3 / 4 | 1 / 2 |  |" in card and "| 1 |  |  | 32 / 64 |" in card
    assert "groups kept in each layer" in render(evidence, "html")


def test_signs_are_read_rightly_everywhere():
    better = make_evidence(accuracy=make_accuracy(-0.01, 0.02))
    for form in ("html", "junit", "markdown", "card"):
        text = render(better, form)
        assert "0.01 points gained" in text and "0.03 points gained to 0.01 points lost" in text
        assert "-0.01" not in text and "-0.03" not in text


def test_the_search_is_told_with_units():
    evidence = make_evidence()
    evidence.search = evidence.search.model_copy(
        update={"importance_total": 33.0, "optimality_gap": 2.7e-6}
    )
    assert search_text(evidence) == [
        "The search (knapsack) kept 98.00 % of the importance.",
        "The best possible choice within the budget could keep at most 0.0003 % more.",
        "One millisecond more would buy 0.3 % of the importance.",
    ]
    part = {"budget": 0.13, "price": 33.0, "optimality_gap": 0.0}
    evidence.search = evidence.search.model_copy(update=part)
    assert search_text(evidence)[1:] == [
        "No choice within the budget keeps more.",
        "0.01 ms more would buy 1.0 % of the importance.",
    ]
    part = {"budget": 2e6, "price": 33e-6, "budget_unit": "flops", "importance_total": 33.0}
    evidence.search = evidence.search.model_copy(update=part)
    assert search_text(evidence)[2] == "1 % more of the budget would buy 2.0 % of the importance."
    evidence.search = evidence.search.model_copy(update={"importance_total": None})
    assert len(search_text(evidence)) == 2  # an earlier rfx did not say of how much


def test_rounds_say_what_was_asked_what_was_measured_and_why_another_follows():
    notes = ("too slow", "faster than asked", "too near to the target")
    rounds = [
        Round(budget_ms=b, predicted_ms=b, measured_ratio=r, note=n)
        for b, r, n in zip((6.8, 6.5, 6.6), (0.72, 0.6, 0.695), notes, strict=True)
    ]
    evidence = make_evidence()
    evidence.search = evidence.search.model_copy(update={"rounds": rounds})
    first, second, third = round_texts(evidence)
    assert first == (
        "Round 1 asked for a plan of at most 6.800 ms by the table and measured 0.720 of the dense "
        "latency; the target is 0.7. That is slower than the target. The next round is given a "
        "smaller budget."
    )
    assert "costs accuracy for nothing. The next round is given a larger budget." in second
    assert third.endswith("may lie above it. This was the last round.")
    assert round_texts(make_evidence())[0].endswith("That is on target.")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fail", "A proof of rfx failed"),
        ("inconclusive", "Measure it again: rfx verify"),
        ("not finite", "too slow for its limit"),
        ("bare", "measure the latency on the device"),
        ("pass", "rfx gate"),
    ],
)
def test_the_last_line_says_what_to_do(name, said, tmp_path):
    last = str(summary(EVIDENCES[name], tmp_path)[-1])
    assert last.startswith("Next: ") and said in last


def test_what_can_be_served_is_named(tmp_path):
    (tmp_path / "model.onnx").write_text("")
    assert f"serve {tmp_path / 'model.onnx'};" in next_step(EVIDENCES["pass"], tmp_path)
    assert "FOLDER" not in "".join(render(EVIDENCES["pass"], form) for form in ("html", "markdown"))
    (tmp_path / "triton").mkdir()
    assert f"serve {tmp_path / 'triton'} with Triton" in next_step(EVIDENCES["pass"], tmp_path)
    lossy = make_evidence(accuracy=make_accuracy(4.0))
    assert "Raise the target" in next_step(lossy, tmp_path)
    unsure = make_evidence(accuracy=make_accuracy(0.9, 0.5))
    assert "more examples with --eval" in next_step(unsure, tmp_path)


def test_every_field_of_the_schema_is_described():
    for model in (Evidence, Curve):
        schema = model.model_json_schema()
        for name, part in {"": schema, **schema["$defs"]}.items():
            missing = [k for k, v in part.get("properties", {}).items() if "description" not in v]
            assert not missing, (name, missing)


def test_a_recipe_says_where_its_values_came_from_if_it_knows():
    origin = {"budget.latency": "the command line (--latency)"}
    recipe = {"name": "reviews", "budget": {"latency": 0.7}, "origin": origin}
    text = render(make_evidence(recipe=recipe), "html")
    assert "the command line (--latency)" in text and "where from" in text
    assert "where from" not in render(make_evidence(), "html")


def test_each_round_of_the_loop_is_told_and_none_where_there_was_none():
    from rfx.evidence.records import Round
    from rfx.evidence.report.facts import round_texts

    def told(*rounds):
        search = make_evidence().search.model_copy(update={"rounds": list(rounds)})
        return round_texts(make_evidence().model_copy(update={"search": search}))

    slow = Round(budget_ms=2.0, predicted_ms=1.9, measured_ratio=0.75, note="too slow")
    good = Round(budget_ms=1.5, predicted_ms=1.4, measured_ratio=0.68, note="on target")
    assert told() == []
    first, second = told(slow, good)
    assert "measured 0.750" in first and "given a smaller budget" in first
    assert "That is on target." in second and "next round" not in second
    assert told(slow)[0].endswith("This was the last round.")


def test_a_cpu_is_named_with_the_instruction_sets_that_matter():
    evidence = make_evidence()
    workload = {**evidence.latency.workload, "device": "A CPU (avx512f)"}
    latency = evidence.latency.model_copy(update={"workload": workload})
    known = {"cpu": "A CPU (avx512f)", "cpu_features": ["AVX-512", "AVX-512 VNNI", "AMX INT8"]}
    here = evidence.model_copy(update={"latency": latency, "environment": known})
    assert "on A CPU (AVX-512, AVX-512 VNNI, AMX INT8), batch" in workload_text(here)
    elsewhere = here.model_copy(update={"environment": {**known, "cpu": "Another"}})
    assert "on A CPU (avx512f), batch" in workload_text(elsewhere)


def test_the_list_of_a_device_is_not_told_twice():
    evidence = make_evidence()
    device = "A Board (asimddp, i8mm)"
    latency = evidence.latency.model_copy(
        update={"workload": {**evidence.latency.workload, "device": device}}
    )
    known = {"cpu": device, "cpu_features": ["dotprod", "i8mm", "BF16"]}
    here = evidence.model_copy(update={"latency": latency, "environment": known})
    assert "on A Board (dotprod, i8mm, BF16), batch" in workload_text(here)


def test_what_a_last_layer_costs_at_one_position_is_told_where_the_table_is():
    e = make_evidence()

    def told(evidence):
        page = re.sub(r"<[^>]+>", " ", render(evidence, "html"))
        return " ".join(page.split())

    assert "One position of the last layer" not in told(e) and not e.table.shares
    part = e.table.model_copy(update={"shares": {"layer.1.ffn": 0.04, "layer.1.mha": 0.4}})
    said = told(e.model_copy(update={"table": part}))
    assert "its units cost this part" in said and "layer.1.ffn 0.04, layer.1.mha 0.40" in said
    assert table_text(e.model_copy(update={"table": part})).startswith("The latency table was off")
