"""A plan that keeps nothing, or next to nothing, is never made without a word."""

import pytest

from rfx.core.kind import Kind
from rfx.core.plan import Plan, SitePlan, almost_empty
from tests.commands import STANDARD, given, run


def plan_of(*layers, heads=12, filters=100):
    """A plan of some (kept heads, kept filters) a layer."""
    sites = []
    for number, kept in enumerate(layers):
        for kind, count, units in zip((Kind.MHA, Kind.FFN), kept, (heads, filters)):
            name = f"layer.{number}.{kind.value}"
            sites.append(SitePlan(name, number, kind, units, 1, tuple(range(count))))
    return Plan(tuple(sites))


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (plan_of((0, 0), (0, 0)), "keeps nothing: all 2 layers are emptied"),
        (
            plan_of((1, 2), (0, 0)),
            "next to nothing: 1 of 24 heads and 2 of 200 filters; 1 of 2 layers are emptied",
        ),
        (plan_of((0, 90), (0, 100)), "keeps no attention: all 24 heads go"),
        (plan_of((12, 0), (12, 0)), ""),
        (plan_of((6, 50), (0, 0)), ""),
        (plan_of((12, 100), (12, 100)), ""),
        (Plan(()), ""),
    ],
)
def test_what_there_is_to_warn_of(plan, said):
    text = almost_empty(plan)
    assert (said in text) if said else not text


def test_plan_sweep_and_prune_export_say_it(trained, warm, tmp_path):
    options = given(trained, **STANDARD)
    said = "keeps nothing: all 2 layers are emptied"
    result = run("plan", *options, "--flops", "0.0001")
    assert result.exit_code == 0 and said in result.output
    result = run("prune-export", *options, "--flops", "0.0001", "--out", tmp_path / "out", "--json")
    assert said in result.output and (tmp_path / "out" / "evidence.json").exists()
    from rfx.evidence.read import read_curve, read_evidence

    assert any(said in text for text in read_evidence(tmp_path / "out").warnings)
    run("sweep", *options, "--flops", "0.0001", "--out", tmp_path / "sweep")
    point = read_curve(tmp_path / "sweep").points[0]
    assert any(said in text for text in point.warnings)
