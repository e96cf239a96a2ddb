"""What README says to type works as written: every command of its blocks is run here, on small
things."""

import importlib.util
import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rfx.cli.app import app

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.S | re.M)


def commands(block: str) -> list[list[str]]:
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def run(arguments: list[str]) -> int:
    result = CliRunner().invoke(app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), (
        arguments,
        result.exception,
    )
    assert result.exit_code != 2, (arguments, result.output)
    return result.exit_code


@pytest.fixture
def place(tmp_path, trained, cache, monkeypatch):
    """A folder with the files that README names."""
    monkeypatch.setattr("rfx.cost.effort.SECONDS", (0.5, 4.0))
    monkeypatch.setattr("rfx.cost.effort.MIN_ROUNDS", 6)
    monkeypatch.setattr("rfx.pipeline.table.ADDITIVITY_LIMIT", 9.0)  # a tiny model is all noise
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained["model"], tmp_path / "path" / "to" / "model")
    shutil.copy(trained["train"], "train.jsonl")
    shutil.copy(trained["eval"], "dev.jsonl")
    return tmp_path


def test_the_quickstart_block(tmp_path, cache, monkeypatch):
    import rfx.tasks.quickstart as quickstart
    from rfx.cost import effort

    for name, value in (("TRAIN", 96), ("EVAL", 48), ("EPOCHS", 1)):
        monkeypatch.setattr(quickstart, name, value)
    monkeypatch.setattr(effort, "SECONDS", (0.5, 8.0))
    monkeypatch.setattr(effort, "MIN_ROUNDS", 3)
    monkeypatch.setattr(
        "rfx.pipeline.table.ADDITIVITY_LIMIT", 9.0
    )  # so few rounds prove nothing: once is enough
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"<!-- quickstart -->\n```bash\n(.*?)```", TEXT, re.S)
    install, prune = commands(block)
    assert install[:3] == ["pip", "install", "torch==2.13.0"] and install[3:] == [
        "-e",
        ".[quickstart]",
    ]
    assert prune == ["rfx", "prune-export", "--latency", "0.7"]
    assert run(prune[1:]) in (0, 1, 7)  # so little training promises no accuracy
    files = {p.name for p in (tmp_path / "rfx-out").iterdir()}
    named = re.search(r"`rfx-out/` then holds:\n\n(.*?)\n\n", TEXT, re.S).group(1)
    assert files == set(
        re.findall(r"`([\w.-]+?)/?`", " ".join(row.split("|")[1] for row in named.splitlines()[2:]))
    )


def test_the_commands_for_an_own_model(place):
    own, others = (commands(b) for b in blocks("bash")[1:3])
    assert run(own[0][1:]) in (0, 1, 7) and (place / "build" / "model.onnx").is_file()
    shared = [
        "--task",
        "text-classification",
        "--train",
        "train.jsonl",
        "--eval",
        "dev.jsonl",
        "--target",
        "ort",
        "--latency",
        "0.7",
    ]
    names = []
    for command in others:
        names.append(command[1])
        arguments = [a for c in command[1:] for a in (shared if c == "..." else [c])]
        code = run(arguments)
        allowed = {
            "verify": (0, 1, 7),
            "gate": (0, 1, 7),
            "build": (0,) if importlib.util.find_spec("tensorrt_rtx") else (4,),
        }
        assert code in allowed.get(command[1], (0,)), command
    assert (
        names == ["plan", "profile", "sweep", "verify", "gate", "shapes", "build", "env"]
        and (place / "table.json").is_file()
    )
    (python,) = blocks("python")
    exec(compile(python, "README.md", "exec"), scope := {})
    assert scope["evidence"].latency.target == 0.7 and scope["model"].config.pruned_layers


def test_the_test_block_is_what_ci_runs():
    (block,) = re.findall(r"<!-- test -->\n```bash\n(.*?)```", TEXT, re.S)
    assert [c[:3] for c in commands(block)] == [["pip", "install", "torch==2.13.0"], ["pytest"]]
    assert "<!-- test -->" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert target.startswith("http") or (ROOT / target).exists(), target
