"""Nothing that comes from data, names or paths is taken for markup, a command or a line's end."""

import json
import re
import xml.etree.ElementTree as ET

import pytest
import yaml

from rfx.cli.results import print_lines
from rfx.cli.session import publish
from rfx.core.errors import UsageError
from rfx.evidence.curve import Curve, Point
from rfx.evidence.report.curve import page, plot, recipe_yaml
from rfx.evidence.report.junit import require_own
from rfx.evidence.report.terminal import summary
from rfx.evidence.report.write import render
from tests.commands import run
from tests.evidences import make_evidence

HOSTILE = (
    "a\n::error::forged\r\n# Heading\n| cell | `code` <script>alert(1)</script> "
    "$\\frac$ "
    "[link](https://evil.example) \x1b[31mred \x00 \u202eoverridden ##[command] %0A --- \ufffe"
)


@pytest.fixture
def hostile():
    """Evidence whose texts are all hostile."""
    evidence = make_evidence(
        model={"source": f"/models/{HOSTILE.replace('/', '')}", "hash": "m"},
        recipe={"name": HOSTILE, "task": HOSTILE, "data": {"eval": HOSTILE}},
        tool=HOSTILE,
        created=HOSTILE,
        warnings=[HOSTILE],
        dense_layers=[{HOSTILE: 4}],
        kept_layers=[{HOSTILE: 2}],
        exported={"ir_version": HOSTILE, "opset": HOSTILE, "positions": HOSTILE},
    )
    for gate in evidence.gates:
        gate.detail = HOSTILE
    evidence.gates[0] = evidence.gates[0].model_copy(update={"name": HOSTILE, "outcome": "fail"})
    for i in (0, 2, 4):  # units of gates that figures are drawn of, too
        evidence.gates[i] = evidence.gates[i].model_copy(update={"unit": HOSTILE})
    evidence.gates[3] = evidence.gates[3].model_copy(
        update={"name": HOSTILE, "outcome": "not-judged"}
    )
    workload = evidence.latency.workload | {"device": HOSTILE, "version": HOSTILE}
    evidence.latency = evidence.latency.model_copy(update={"workload": workload, "clock": HOSTILE})
    evidence.accuracy = evidence.accuracy.model_copy(update={"metric": HOSTILE})
    return evidence


CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


@pytest.mark.parametrize("form", ["markdown", "card", "junit", "html"])
def test_no_control_character_and_no_command_is_written(form, hostile):
    text = render(hostile, form)
    assert not CONTROLS.search(text)
    assert not re.search(r"^\s*::", text, re.M) and "##[" not in text
    # YAML of the card's front matter is data, and no markup.
    assert "<script" not in text.rpartition("\n---\n")[2]


def test_json_shows_nothing_to_a_terminal_and_reads_back_as_it_was(hostile):
    hostile.warnings = [HOSTILE.replace("\ufffe", "") + "\x9b2J"]
    text = render(hostile, "json")
    assert not CONTROLS.search(text) and "##[" not in text and "\u202e" not in text
    assert json.loads(text) == json.loads(hostile.model_dump_json())


@pytest.mark.parametrize("form", ["markdown", "card"])
def test_markdown_has_our_headings_tables_and_links_alone(form, hostile):
    text = render(hostile, form)
    body = text.split("\n---\n", 1)[1] if form == "card" else text
    headings = re.findall(r"^#+ .*$", body, re.M)
    honest = render(make_evidence(), form)
    honest = honest.split("\n---\n", 1)[1] if form == "card" else honest
    assert len(headings) == len(re.findall(r"^#+ .*$", honest, re.M))
    # Every mark of the hostile text is escaped.
    assert not re.search(r"(?<!\\)\[link", body) and not re.search(r"(?<!\\)`code", body)
    assert "https://evil" not in body and not re.search(r"<(?!/?details)", body)
    for table in re.findall(r"(?:^\|.*\n)+", body, re.M):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1


def test_the_front_matter_is_yaml_of_one_document(hostile):
    text = render(hostile, "card")
    front = text.split("---\n")[1]
    data = yaml.safe_load(front)
    assert set(data) == {"library_name", "pipeline_tag", "tags", "metrics", "model-index"}
    assert "\n" not in data["pipeline_tag"]


def test_facts_of_the_exported_file_are_numbers_or_left_out():
    for value in (HOSTILE, [20], {"a": 1}, True, None):
        text = render(make_evidence(exported={"ir_version": value, "opset": value}), "card")
        assert "ONNX IR version" not in text and "<script" not in text


def test_the_curve_of_a_sweep_has_no_markup_of_others(hostile):
    point = Point(
        target=0.7,
        seed=0,
        latency=hostile.latency,
        accuracy=hostile.accuracy,
        flops_ratio=0.6,
        params_ratio=0.7,
        note=HOSTILE,
    )
    curve = Curve(
        tool=HOSTILE,
        created=HOSTILE,
        recipe={"name": HOSTILE, "method": {"name": HOSTILE}},
        model=hostile.model,
        environment=hostile.environment,
        data=hostile.data,
        budget="latency",
        max_drop=1.0,
        points=[point],
    )
    for text in (page(curve), plot(curve, standalone=True)):
        assert not CONTROLS.search(text) and "<script" not in text
    assert yaml.safe_load(recipe_yaml(curve) or "")["budget"] == {"latency": 0.7}
    ET.fromstring(plot(curve, standalone=True).encode())


def test_junit_is_xml(hostile):
    root = ET.fromstring(render(hostile, "junit").encode())
    assert len(root.findall(".//testcase")) == 5
    assert "\\x1b" in root.find(".//failure").text


def test_commands_of_github_stay_in_one_line_and_their_properties_are_closed(
    hostile, monkeypatch, capsys
):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    publish(hostile)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and lines[1].startswith("::notice title=rfx gate a")
    level, title, text = re.fullmatch(r"::(\w+) title=([^:,]*)::(.*)", lines[0]).groups()
    assert level == "error" and title.startswith("rfx gate a") and "%250A" in text


def test_the_terminal_gets_no_escape_sequence(hostile, capsys):
    print_lines(summary(hostile))
    assert not CONTROLS.search(capsys.readouterr().out)


@pytest.mark.parametrize(
    "text",
    [
        "<project><name>mine</name></project>",
        "<testsuites><testsuite name='pytest' tests='1'/></testsuites>",
        "<testsuite name='rfx x'><testcase classname='theirs'/></testsuite>",
        "notes, no XML",
        "<!DOCTYPE a [<!ENTITY b 'c'>]><testsuite name='rfx x'/>",
        b"\xff\xfe\x00",
    ],
)
def test_a_file_of_the_users_is_not_replaced_by_junit_xml(text, tmp_path):
    (tmp_path / "evidence.json").write_text(make_evidence().model_dump_json())
    file = tmp_path / "report.xml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = file.read_bytes()
    done = run("gate", tmp_path, "--junit", file)
    assert done.exit_code == 2 and "report.xml" in done.output and "not replaced" in done.output
    assert file.read_bytes() == before


def test_a_large_file_is_no_junit_xml_of_rfx_whatever_the_bound(tmp_path, monkeypatch):
    """No word of a bound: whoever raised it would lose the file, or be refused again."""
    file = tmp_path / "backup.tar"
    with file.open("wb") as stream:
        stream.truncate((600 << 20) + 1)
    for bound in ("", "1000"):
        monkeypatch.setenv("RFX_MAX_FILE_MB", bound)
        with pytest.raises(UsageError, match="no JUnit XML of rfx: it is not replaced") as error:
            require_own(file)
        assert "RFX_MAX_FILE_MB" not in str(error.value)
        assert "another path for --junit" in error.value.next_step


def test_junit_xml_of_rfx_is_replaced(tmp_path):
    (tmp_path / "evidence.json").write_text(make_evidence().model_dump_json())
    file = tmp_path / "gate.xml"
    for _ in range(2):
        assert run("gate", tmp_path, "--junit", file).exit_code == 0
        assert len(ET.parse(file).findall(".//testcase")) == 5
    file.write_text("")
    assert run("gate", tmp_path, "--junit", file).exit_code == 0
    require_own(tmp_path)  # a folder is refused by what writes
    with pytest.raises(UsageError):
        require_own(tmp_path / "evidence.json")


def test_the_card_says_what_a_runtime_needs_and_what_becomes_of_long_inputs():
    evidence = make_evidence(exported={"ir_version": 10, "opset": 20, "positions": 512})
    evidence.recipe["max_length"] = 128
    text = render(evidence, "card")
    assert "IR version 10 and opset 20: ONNX Runtime 1.18 or newer reads it." in text
    assert "truncation=True, max_length=128" in text and "has 512 positions" in text
    assert "ONNX Runtime 1" not in render(make_evidence(), "card")
    unknown = make_evidence(exported={"ir_version": 99, "opset": 30})
    assert "IR version 99 and opset 30." in render(unknown, "card")
