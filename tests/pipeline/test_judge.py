"""A search for the tensor that differs may fail in any way; the verdict, and the run, stand without
it."""

from types import SimpleNamespace

import pytest

from rfx.core.artefact import Artefact
from rfx.core.errors import EnvironmentMissingError
from rfx.core.inputs import InputSpec
from rfx.evidence.gates import same_gate
from rfx.measure.parity import compare as parity
from rfx.pipeline import judge as check
from rfx.recipe.read import make_recipe

RUNTIME = SimpleNamespace(
    name="trt",
    capabilities=SimpleNamespace(locates_differences=True),
    tolerance=lambda precision: 1e-3,
)
RUN = SimpleNamespace(target=SimpleNamespace(serves=RUNTIME, here=RUNTIME, absent=False))
RECIPE = make_recipe({})


@pytest.fixture
def fails(monkeypatch):
    def with_(error):
        def compare_runtimes(*args, **kwargs):
            raise error

        monkeypatch.setattr(check, "_engine_inputs", lambda examples, count: [])
        monkeypatch.setattr(parity, "compare_runtimes", compare_runtimes)

    return with_


def artefact(folder):
    return Artefact.of_model(folder / "model.onnx", InputSpec(()), ("logits",))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            EnvironmentMissingError("Polygraphy is not installed.", got="no module"),
            "Polygraphy is not installed. no module",
        ),
        (RuntimeError("CUDA error: out of memory\nmore of it"), "CUDA error: out of memory"),
    ],
)
def test_a_search_that_fails_leaves_the_verdict_and_says_why(fails, tmp_path, error, said):
    fails(error)
    gate = same_gate({"shrunk-engine": 0.5}, 1e-3)
    after = check.diagnose(RUN, RECIPE, None, artefact(tmp_path), gate, tmp_path)
    assert after.outcome == "fail" and after.value == gate.value
    assert after.detail == f"{gate.detail}; not located: {said}"
    assert not list(tmp_path.iterdir())  # no script of a search that found nothing


def test_an_interrupt_is_none_of_its_failures(fails, tmp_path):
    fails(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        check.diagnose(
            RUN,
            RECIPE,
            None,
            artefact(tmp_path),
            same_gate({"shrunk-engine": 0.5}, 1e-3),
            tmp_path,
        )


def test_where_outputs_agree_nothing_is_searched(fails, tmp_path):
    fails(AssertionError("searched"))
    gate = same_gate({"shrunk-engine": 0.0}, 1e-3)
    assert check.diagnose(RUN, RECIPE, None, artefact(tmp_path), gate, tmp_path) is gate
