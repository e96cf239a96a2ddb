"""What README says to type works as written: every command of its blocks is run here, on small
things; and both of its lines for a fresh machine, in a fresh clone (`pytest -m slow`)."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import commands

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
# The build without CUDA, which nobody asked for. Where its index is not to be had, pip goes on with
# the one that it has.
TORCH = (
    ".venv/bin/pip install --no-deps torch==2.13.0 "
    "--extra-index-url https://download.pytorch.org/whl/cpu"
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.S | re.M)


def line_after(marker: str) -> list[str]:
    """The one line of the block after a marker, as the commands that `&&` joins."""
    (block,) = re.findall(rf"<!-- {marker} -->\n```bash\n(.*?)```", TEXT, re.S)
    (line,) = block.splitlines()
    return [part.strip() for part in line.split("&&")]


def lines(block: str) -> list[list[str]]:
    joined = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in joined if line.strip()]


def run(arguments: list[str]) -> int:
    result = commands.run(*arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), (
        arguments,
        result.exception,
    )
    assert result.exit_code != 2, (arguments, result.output)
    return result.exit_code


@pytest.fixture
def place(tmp_path, tmp_path_factory, trained, monkeypatch):
    """A folder with the files that README names, and a store that the tests of this file share."""
    monkeypatch.setattr("rfx.cost.effort.SECONDS", (0.5, 4.0))
    monkeypatch.setattr("rfx.cost.effort.MIN_ROUNDS", 6)
    monkeypatch.setattr("rfx.pipeline.loop.ROUNDS", 1)
    monkeypatch.setenv("RFX_CACHE", str(tmp_path_factory.getbasetemp() / "readme-cache"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained["model"], tmp_path / "path" / "to" / "model")
    shutil.copy(trained["train"], "train.jsonl")
    shutil.copy(trained["eval"], "dev.jsonl")
    return tmp_path


def test_the_quickstart_block(tmp_path, cache, quickstarted, monkeypatch):
    shutil.copytree(quickstarted.store, cache)
    monkeypatch.setattr("rfx.cost.effort.SECONDS", (0.5, 8.0))
    monkeypatch.setattr("rfx.cost.effort.MIN_ROUNDS", 3)
    monkeypatch.setattr("rfx.pipeline.loop.ROUNDS", 1)
    monkeypatch.chdir(tmp_path)
    venv, torch, install, prune = map(shlex.split, line_after("quickstart"))
    assert venv == ["python3", "-m", "venv", ".venv"]
    assert torch == TORCH.split()
    assert install == [".venv/bin/pip", "install", "-e", ".[quickstart,plots]"]
    asked = ["--precision", "int8", "--latency", "0.2"]
    assert prune == [".venv/bin/rfx", "prune-export", *asked]
    assert run(prune[1:]) in (0, 1, 7)  # so little training promises no accuracy
    files = {p.name for p in (tmp_path / "rfx-out").iterdir()}
    named = re.search(r"## What comes out\n\n(.*?)\n\n", TEXT, re.S).group(1)
    assert files == set(
        re.findall(r"`([\w.-]+?)/?`", " ".join(row.split("|")[1] for row in named.splitlines()[2:]))
    )


def test_the_commands_for_an_own_model(place):
    own, others = (lines(b) for b in blocks("bash")[1:3])
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
        names == ["plan", "sites", "profile", "sweep", "verify", "gate", "shapes", "build", "env"]
        and (place / "table.json").is_file()
    )


def test_the_python_block(place):
    (python,) = blocks("python")
    exec(compile(python, "README.md", "exec"), scope := {})
    assert scope["evidence"].latency.target == 0.7 and scope["model"].config.pruned_layers


def test_the_test_line_is_what_ci_runs():
    venv, torch, install, test = line_after("test")
    assert torch == TORCH
    assert venv == "python3 -m venv .venv" and test == ".venv/bin/pytest"
    assert install == '.venv/bin/pip install -e ".[test]"'
    assert "<!-- test -->" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("marker", ["quickstart", "test"])
def test_a_line_does_all_in_a_fresh_clone(marker, tmp_path):
    """Some minutes each: PyTorch is installed, and for the quickstart a model fine-tuned."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    clone = tmp_path / "rfx"
    for name in filter(None, listed.stdout.split("\0")):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    one_test = "tests/project/test_readme.py::test_every_link_leads_somewhere"  # no recursion
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "PYTHON"))}
    env = {**clean, "RFX_CACHE": str(tmp_path / "cache"), "PYTEST_ADDOPTS": one_test}
    done = subprocess.run(
        ["bash", "-c", " && ".join(line_after(marker))],
        cwd=clone,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-2000:])
    if marker == "quickstart":
        assert (clone / "rfx-out" / "evidence.json").is_file()
    else:
        assert "1 passed" in done.stdout


def test_it_can_be_read_in_five_minutes():
    assert len(TEXT.splitlines()) <= 130


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert target.startswith("http") or (ROOT / target).exists(), target
