"""The notebooks run as they are written, with short measurements."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "pages" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# A tiny model takes well under a millisecond: a second holds a thousand rounds of it. A name that
# is not there any more fails the notebook, because a measurement would then be as long as ever.
SHORT = """
from importlib import import_module

for module, name, value in [
    ("rfx.cost.effort", "SECONDS", (0.5, 4.0)),
    ("rfx.cost.effort", "ANCHOR_SECONDS", 0.08),
    ("rfx.cost.effort", "MIN_ROUNDS", 6),
    ("rfx.pipeline.table", "ADDITIVITY_LIMIT", 9.0),
    ("rfx.pipeline.table", "ADDITIVITY_PLANS", 1),
    ("rfx.pipeline.loop", "ROUNDS", 1),
    ("rfx.pipeline.loop", "ROUND_SECONDS", 0.2),
    ("rfx.pipeline.judge", "FINAL_SECONDS", 0.5),
]:
    assert hasattr(import_module(module), name), f"{module} has no {name}"
    setattr(import_module(module), name, value)
"""
# The one that takes the least time; the others measure or prune several times.
QUICK = "quickstart"


def test_there_are_three():
    names = [p.stem for p in NOTEBOOKS]
    assert names == ["comparing-methods", "own-model", "quickstart"]


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[] if p.stem == QUICK else pytest.mark.slow) for p in NOTEBOOKS],
    ids=lambda p: p.stem,
)
def test_a_notebook_runs(path, cache, monkeypatch):
    import nbclient
    import nbformat

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(SHORT))
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(FOLDER)}}
    )
    client.execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_kept_with_its_outputs_and_without_errors(path):
    import nbformat

    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert any(c.outputs for c in cells)
    for cell in cells:
        for output in cell.outputs:
            text = str(output.get("text", output.get("data", "")))
            assert output.output_type != "error" and output.get("name") != "stderr", text
