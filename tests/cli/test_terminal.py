"""What a person sees: stages, work that is done and left, and what to do next."""

import json
import sys

import pytest
from typer.testing import CliRunner

from rfx.cli.app import app
from rfx.cli.terminal import UNKNOWN, Terminal, time_left
from rfx.evidence.report.write import write_reports
from tests.evidences import make_evidence


@pytest.mark.parametrize(
    "done, total, seconds, said",
    [
        (0, 10, 5.0, UNKNOWN),  # nothing is done yet: every number would be a guess
        (3, None, 5.0, UNKNOWN),  # nobody knows how much there is
        (1, 4, 10.0, "time left: about 30 s"),
        (1, 11, 12.0, "time left: about 2 min 0 s"),
        (1, 101, 45.0, "time left: about 1 h 15 min"),
        (4, 4, 10.0, "time left: about 0 s"),
    ],
)
def test_the_time_left_is_said_or_that_it_is_not_known(done, total, seconds, said):
    assert time_left(done, total, seconds) == said


def test_a_stage_says_how_many_there_are(capsys):
    with Terminal() as terminal:
        terminal.stage("score", 3, 9)
        terminal.stage("build", 1)
    said = capsys.readouterr()
    assert said.err.splitlines() == ["Stage 3 of 9: score", "Stage 1: build"] and not said.out


def test_quiet_says_errors_alone(capsys):
    with Terminal(quiet=True) as terminal:
        terminal.stage("score", 3, 9)
        terminal.note("a note")
        terminal.warn("a warning")
        with terminal.bar("counting", 4) as bar:
            bar.advance()
        terminal.error("an error")
    assert capsys.readouterr().err.strip() == "error: an error"


def test_on_a_terminal_the_bar_shows_stage_work_and_time(monkeypatch):
    import io

    from rich.console import Console

    terminal = Terminal()
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, color_system=None)
    terminal.console = terminal._bars.live.console = console
    terminal._bars.disable = False
    with terminal:
        terminal.stage("score", 2, 9)
        with terminal.bar("examples", 4) as bar:
            terminal._bars.refresh()
            assert UNKNOWN in screen.getvalue()
            bar.advance()
            terminal._bars.refresh()
    text = screen.getvalue()
    assert "[2 of 9] examples" in text and "1/4" in text and "time left: about" in text


@pytest.mark.parametrize(
    "args, code",
    [
        (["env"], 0),
        (["gate", "{folder}"], 0),
        (["gate", "{folder}", "--max-drop", "0.01"], 1),
        (["gate", "nowhere"], 2),
        (["prune-export", "nowhere.yaml"], 2),
        (["plan", "--flops", "2"], 2),
        (["sweep", "--latency", "a"], 2),
        (["profile", "--target", "nonsense"], 2),
        (["build", "nowhere.onnx"], 2),
        (["verify", "nowhere"], 2),
        (["plan", "--nonsense"], 2),
        (["plan", "--batch", "many"], 2),
    ],
)
def test_the_last_line_says_what_to_do_next(args, code, tmp_path, monkeypatch, capsys, cache):
    write_reports(make_evidence(), tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["rfx", *(a.format(folder=tmp_path / "out") for a in args)])
    import rfx.cli.app

    with pytest.raises(SystemExit) as ended:
        rfx.cli.app.main()
    said = capsys.readouterr()
    assert ended.value.code == code, said.err
    last = (said.err if code == 2 else said.out).strip().splitlines()[-1]
    assert last.strip().lower().startswith("next:"), last


def test_an_error_as_json_has_a_next_step_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["gate", "nowhere", "--json"])
    assert json.loads(result.stdout)["error"]["next_step"]


def test_env_names_the_instruction_sets():
    from rfx.core.environment import cpu_features

    facts = json.loads(CliRunner().invoke(app, ["env", "--json"]).stdout)["environment"]
    assert facts["cpu_features"] == list(cpu_features())
    line = f"cpu_features: {', '.join(cpu_features())}".strip()
    assert line in CliRunner().invoke(app, ["env"]).stdout


@pytest.mark.parametrize(
    ("products", "said"),
    [
        ("wide", "INT8 pays on this CPU:"),
        ("saturating", "INT8 may pay on this CPU:"),
        ("none", "INT8 is not known to pay on this CPU:"),
    ],
)
def test_env_says_whether_int8_pays_here(monkeypatch, products, said):
    from rfx.core import environment

    monkeypatch.setattr(environment, "int8_products", lambda: products)
    facts = json.loads(CliRunner().invoke(app, ["env", "--json"]).stdout)["environment"]
    assert facts["int8_products"] == products
    out = CliRunner().invoke(app, ["env"]).stdout
    assert said in out and "--precision int8" in out and "int8_products" not in out


def test_colours_obey_no_color(monkeypatch, capsys):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    Terminal().error("plain")
    assert "\x1b[3" not in capsys.readouterr().err


def test_json_has_nothing_that_a_terminal_or_a_ci_service_obeys(capsys):
    from rfx.cli.session import print_json

    said = {"label": "a##[error]b\x9b31m \u202ec \x1b[2J", "text": "naïve – 你好"}
    print_json(said)
    out = capsys.readouterr().out
    assert json.loads(out) == said and "naïve – 你好" in out
    assert not {"\x9b", "\u202e", "\x1b"} & set(out)
    assert "##[" not in out
