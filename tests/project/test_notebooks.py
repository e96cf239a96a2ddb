"""The notebooks run as they are written, with short measurements."""

from pathlib import Path

import pytest

import rfx

FOLDER = Path(__file__).parents[2] / "docs" / "pages" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
WHOLE_API = hasattr(rfx, "gate") and "limits" in rfx.Recipe.model_fields
# A tiny model takes well under a millisecond: a second holds a thousand rounds of it.
SHORT = """
import rfx.cost.latency, rfx.pipeline.dense, rfx.pipeline.judge, rfx.pipeline.loop
rfx.pipeline.judge.FINAL_SECONDS = 1.0
rfx.pipeline.loop.ROUND_SECONDS = 0.5
rfx.cost.latency.ANCHOR_SECONDS = 0.5
rfx.cost.latency.SECONDS = (1.0, 10.0)
rfx.pipeline.dense.ADDITIVITY_LIMIT = 9.0
"""


def test_there_are_three():
    names = [p.stem for p in NOTEBOOKS]
    assert names == ["comparing-methods", "own-model", "quickstart"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs(path, cache, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    if path.stem == "own-model" and not WHOLE_API:
        pytest.skip("the jobs of the public API are not in this version")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(SHORT))
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(FOLDER)}}
    )
    client.execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_kept_with_its_outputs_and_without_errors(path):
    nbformat = pytest.importorskip("nbformat")
    if path.stem == "own-model" and not WHOLE_API:
        pytest.skip("it cannot have been run: the jobs of the public API are not in this version")
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert any(c.outputs for c in cells)
    for cell in cells:
        for output in cell.outputs:
            text = str(output.get("text", output.get("data", "")))
            assert output.output_type != "error" and output.get("name") != "stderr", text
