"""Every error of `--json` has one form, and names what the user typed."""

import json

import pytest

from rfx.cli import app as cli
from tests.commands import given, run

KEYS = ["what", "got", "allowed", "next_step"]


@pytest.fixture
def main(monkeypatch, capsys):
    """The whole program; returns its exit code and what it printed."""

    def go(*args):
        monkeypatch.setattr("sys.argv", ["rfx", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return go


def error_of(out):
    data = json.loads(out)
    assert list(data) == ["error", "exit_code"] and list(data["error"]) == KEYS
    assert data["error"]["what"] and data["error"]["next_step"]
    assert all(value is None or isinstance(value, str) for value in data["error"].values())
    return data


@pytest.mark.parametrize(
    "args",
    [
        ["gate", "nowhere.json"],
        ["verify", "nowhere"],
        ["build", "nowhere.onnx"],
        ["plan", "nowhere", "--flops", "0.5"],
        ["plan", "nowhere", "--flops", "2"],
        ["plan", "--nothing"],
        ["plan", "--seed"],
        ["nothing"],
        ["profile"],
        ["shapes"],
        ["sweep", "--flops", "a"],
        ["prune-export", "x", "--out", ""],
    ],
)
def test_errors_of_every_kind_have_the_same_keys(main, args):
    code, out, err = main(*args, "--json")
    assert error_of(out)["exit_code"] == code == 2 and "Traceback" not in err


def test_an_interrupt_and_a_bug_have_them_too(main, monkeypatch, tmp_path):
    for error, code in ((KeyboardInterrupt(), 130), (ZeroDivisionError("by 0"), 6)):

        def fail(*args, error=error, **more):
            raise error

        monkeypatch.setattr("rfx.pipeline.environment.environment", fail)
        ended, out, _ = main("env", "--json")
        assert error_of(out)["exit_code"] == ended == code


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (["--refine", "foo"], "method.refine"),
        (["--scorer", "foo"], "method.scorer"),
        (["--search", "foo"], "method.search"),
        (["--compensate", "foo"], "method.compensate"),
        (["--schedule", "foo"], "method.schedule"),
        (["--scorer-option", "foo=1"], "method.scorer_options"),
        (["--threads", "0"], "workload.threads"),
        (["--examples", "1"], "calibration.examples"),
        (["--limit-eval", "0"], "data.limit_eval"),
        (["--max-drop", "-1"], "limits.max_drop"),
    ],
)
def test_an_option_that_was_typed_is_named_and_not_its_key(trained, cache, options, key):
    result = run("prune-export", *given(trained, flops=0.5), *options, "--json")
    error = error_of(result.stdout)["error"]
    assert result.exit_code == 2
    said = " ".join(str(value) for value in error.values())
    assert options[0] in said and key not in said, said


def test_a_file_that_is_called_like_a_key_keeps_its_name(trained, cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"model": trained["model"], "train": "data.train", "flops": 0.5}
    result = run("plan", *given(trained, **options), "--json")
    error = error_of(result.stdout)["error"]
    assert result.exit_code == 2 and "data.train" in error["got"] and "--train" not in error["got"]


def test_a_key_of_a_file_is_named_as_it_stands_there(trained, cache, tmp_path):
    (tmp_path / "r.yaml").write_text("method: {name: rfx, refine: foo}\nworkload: {threads: 0}\n")
    result = run("plan", tmp_path / "r.yaml", "--flops", "0.5", "--model", trained["model"])
    assert result.exit_code == 2 and "workload.threads (line 2)" in result.output
    (tmp_path / "r.yaml").write_text("method: {name: rfx, refine: foo}\n")
    result = run("plan", tmp_path / "r.yaml", *given(trained, flops=0.5)[1:], "--model", "x")
    assert result.exit_code == 2 and "method.refine" in result.output


def test_two_budgets_are_shown_as_they_were_given(trained, cache):
    result = run("plan", *given(trained, flops=0.5, latency=0.7))
    assert "--flops 0.5" in result.output and "--latency 0.7" in result.output
    assert "{" not in result.output
