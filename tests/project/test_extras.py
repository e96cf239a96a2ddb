"""The main job without the packages that only extras bring: it runs to its end and says what is
left out and which extra would bring it.

The packages are hidden from a process of its own, as if they were not installed.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

tomllib = pytest.importorskip("tomllib")  # Python 3.11
ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
HIDDEN = ("matplotlib", "jinja2", "pandas", "pyarrow", "psutil")
HIDE = f"""
import sys
from importlib.machinery import PathFinder


class WithoutExtras(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in {HIDDEN!r} else super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutExtras
"""
# A tiny model's latency is soon known: see `short_measurements` in conftest.py.
SHORT = """
import rfx.pipeline.judge, rfx.measure.latency
rfx.pipeline.judge.FINAL_SECONDS = 1.0
rfx.measure.latency.PRECISION = 0.2
from rfx.cli.app import main
main()
"""


@pytest.fixture(scope="module")
def rfx(trained, closed, tmp_path_factory):
    """Runs a command on the tiny model in a process that has none of the hidden packages."""
    folder = tmp_path_factory.mktemp("without")
    shutil.copytree(closed.store, folder / "cache")
    (folder / "sitecustomize.py").write_text(HIDE, encoding="utf-8")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        "RFX_CACHE": str(folder / "cache"),
        "COLUMNS": "300",  # no message is broken into lines
    }

    def run(command: str, *more: object, **changed: object) -> subprocess.CompletedProcess:
        options = {"train": trained["train"], "eval": trained["eval"], "target": "ort"}
        options |= {"sequence": 16, "max-length": 32, "examples": 64, **changed}
        arguments = [str(a) for k, v in options.items() for a in (f"--{k}", v)]
        return subprocess.run(
            [sys.executable, "-c", SHORT, command, trained["model"], *arguments, *map(str, more)],
            env=environment,
            capture_output=True,
            text=True,
        )

    for name in HIDDEN:  # or the tests below prove nothing
        code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({name!r}) is None)"
        assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 1
    return run


def test_the_main_job_needs_none_of_them(rfx, tmp_path):
    out = tmp_path / "out"
    done = rfx("prune-export", "--flops", "0.6", "--out", out)
    assert done.returncode in (0, 1, 7), done.stderr
    assert "Traceback" not in done.stderr
    files = {p.name for p in out.iterdir()}
    assert {"model.onnx", "evidence.json", "junit.xml", "README.md", "model"} <= files
    assert "report.html" not in files
    said = " ".join((done.stdout + done.stderr).split())
    assert (
        "report.html was not written, because matplotlib and jinja2 are not installed: "
        'pip install "rfx-exporter[plots]"' in said
    )
    evidence = json.loads((out / "evidence.json").read_text(encoding="utf-8"))
    assert evidence["environment"]["memory_gb"] > 0.1


def test_a_sweep_writes_what_needs_no_plot(rfx, tmp_path):
    out = tmp_path / "sweep"
    done = rfx("sweep", "--flops", "0.3,0.6", "--max-drop", "50", "--out", out)
    assert done.returncode == 0, done.stderr
    files = {"manifest.json", "sweep.json", "sweep.csv", "recipe.yaml"}
    assert {p.name for p in out.iterdir()} == files
    assert len(json.loads((out / "sweep.json").read_text(encoding="utf-8"))["points"]) == 2
    with (out / "sweep.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    # The last row is the rival, which has no target.
    assert [row["target"] for row in rows] == ["0.6", "0.3", ""]
    said = " ".join((done.stdout + done.stderr).split())
    assert "sweep.html" in said and 'pip install "rfx-exporter[plots]"' in said


def test_a_parquet_file_says_which_extra_reads_it(rfx, tmp_path):
    file = tmp_path / "train.parquet"
    file.write_bytes(b"PAR1")
    done = rfx("prune-export", "--flops", "0.6", "--out", tmp_path / "out", train=file)
    assert done.returncode == 4
    said = " ".join(done.stderr.split())
    assert "Parquet files need pyarrow." in said
    assert "No module named 'pyarrow'" in said
    assert 'pip install "rfx-exporter[tables]"' in said
    assert not (tmp_path / "out").exists()


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(r).name) for r in requirements}


def test_what_the_main_job_does_not_need_is_in_extras():
    assert not names(PROJECT["dependencies"]) & {*HIDDEN, "onnxruntime"}
    assert names(EXTRAS["plots"]) == {"matplotlib", "jinja2"}
    assert names(EXTRAS["tables"]) == {"pyarrow"}
    assert names(EXTRAS["cpu"]) == {"onnxruntime"}


def test_every_extra_that_a_message_names_exists():
    named = {
        extra
        for path in (ROOT / "rfx").rglob("*.py")
        for part in path.read_text(encoding="utf-8").split("rfx-exporter[")[1:]
        for extra in part.split("]")[0].split(",")
    }
    assert {"plots", "tables", "quickstart"} <= named <= set(EXTRAS)
