"""Every report is made from the evidence alone, whatever stands in it."""

import io
import json
import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
import yaml

from rfx.cli.session import publish
from rfx.cli.results import print_lines
from rfx.core.errors import UsageError
from rfx.evidence.report.terminal import summary
from rfx.evidence.report.write import files, render, write_reports
from tests.evidences import make_accuracy, make_evidence, make_latency

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
        assert (
            "&lt;reviews&gt;" in text and "bert-<reviews>" not in text
        )  # what users wrote is escaped
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
        count("pass") == (4, 0, 0)
        and count("fail") == (4, 2, 0)
        and count("inconclusive") == (4, 0, 1)
    )
    unlimited = make_evidence()
    unlimited.gates = [
        g.model_copy(update={"limit": None}) if g.name == "accuracy" else g for g in unlimited.gates
    ]
    skipped = ET.fromstring(render(unlimited, "junit").encode()).findall(".//skipped")
    assert len(skipped) == 1 and skipped[0].get("message").startswith("no limit")
    for form in ("html", "markdown", "card"):
        assert "no limit" in render(unlimited, form) and "no limit" not in render(
            EVIDENCES["pass"], form
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
    monkeypatch.setenv(
        "GITHUB_STEP_SUMMARY", str(tmp_path)
    )  # a folder: said, and no reason to fail
    publish(EVIDENCES["pass"])
    assert "cannot be written" in capsys.readouterr().err


def test_svg_is_readable_xml():
    text = render(EVIDENCES["pass"], "html")
    for svg in re.findall(r"<svg.*?</svg>", text, re.S):
        ET.parse(io.StringIO(svg))
