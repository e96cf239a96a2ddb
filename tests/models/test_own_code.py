"""Python code that lies in a model's folder never runs, and nobody is asked whether it should."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import rfx
from rfx.core.errors import EnvironmentMissingError
from rfx.tasks.data import load_examples
from tests.commands import given
from tests.models.checkpoints import checkpoint, edit

LOADS = ("from_pretrained", "from_config")
PACKAGE = Path(rfx.__file__).parent


def test_a_run_refuses_it_and_reads_no_answer(trained, tmp_path):
    folder = edit(
        checkpoint(tmp_path / "model"),
        model_type="xbert",
        auto_map={
            "AutoConfig": "configuration_x.XConfig",
            "AutoModelForSequenceClassification": "modeling_x.X",
        },
    )
    marker = tmp_path / "it_ran"
    for name, base in (("configuration_x", "BertConfig"), ("modeling_x", "BertModel")):
        (folder / f"{name}.py").write_text(
            f"open({str(marker)!r}, 'a').write('x')\nfrom transformers import {base}\n"
            f"class XConfig({base}): model_type = 'xbert'\nclass X({base}): pass\n"
        )
    options = given({**trained, "model": folder}, task="text-classification", flops=0.5)
    with (tmp_path / "answers").open("w+") as answers:
        answers.write("y\n" * 5)
        answers.seek(0)
        done = subprocess.run(
            [sys.executable, "-m", "rfx", "plan", *options, "--json"],
            stdin=answers,
            capture_output=True,
            text=True,
            timeout=300,
        )
        # The file's position is shared with the process: nothing was read from it.
        assert answers.buffer.raw.tell() == 0
    assert done.returncode == 5 and not marker.exists()
    assert "does not run" in json.loads(done.stdout)["error"]["what"]


def test_every_load_of_the_package_says_so():
    loads = []
    for file in sorted([*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "benchmarks").rglob("*.py")]):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in LOADS:
                said = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
                loads.append((f"{file.name}:{node.lineno}", said.get("trust_remote_code")))
    assert len(loads) >= 8
    assert [where for where, trusted in loads if trusted is not False] == []


def test_a_library_that_runs_scripts_of_datasets_is_refused(monkeypatch):
    """Versions before 4 ask on standard input whether they may run them."""

    def load_dataset(*_, **__):
        raise AssertionError("it was asked for a dataset")

    for version in ("3.6.0", "2.14.1"):
        library = SimpleNamespace(__version__=version, load_dataset=load_dataset)
        monkeypatch.setitem(sys.modules, "datasets", library)
        with pytest.raises(EnvironmentMissingError, match="own scripts") as refused:
            load_examples("glue/sst2", split="train")
        assert version in refused.value.got and "upgrade" in refused.value.next_step
