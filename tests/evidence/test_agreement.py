"""Accuracy and agreement: a loss is judged by its limit, ruin without one, and a metric that moves
up while the answers change is no pass."""

import json
import math
import re

import pytest

from rfx.core.errors import ExitCode, UsageError
from rfx.evidence.check import check
from rfx.evidence.gates import accuracy_gate, agreement_gate, exit_code
from rfx.evidence.report.terminal import gates_table, summary
from rfx.evidence.report.write import render
from rfx.evidence.sound import require_sound
from rfx.pipeline.gate import gate
from tests.commands import run
from tests.evidences import make_accuracy, make_evidence


def agreement(value=None, half=0.01, **more):
    part = make_accuracy(
        agreement=value,
        agreement_interval=None if value is None else (value - half, min(1.0, value + half)),
        **more,
    )
    return agreement_gate(part)


@pytest.mark.parametrize(
    ("value", "half", "outcome"),
    [(0.97, 0.01, "pass"), (0.76, 0.01, "pass"), (0.76, 0.02, "inconclusive"), (0.7, 0.02, "fail")],
)
def test_the_default_limit_is_a_kappa_of_one_half(value, half, outcome):
    found = agreement(value, half, chance_agreement=0.5)
    assert found.outcome == outcome and found.limit == 0.75
    assert "50.0% would be by chance" in found.detail


def test_a_limit_that_is_given_takes_its_place():
    part = make_accuracy(agreement=0.9, agreement_interval=(0.88, 0.92), min_agreement=0.95)
    assert agreement_gate(part).outcome == "fail" and agreement_gate(part).limit == 0.95
    assert agreement_gate(part, 0.85).outcome == "pass"  # of `rfx gate`
    assert agreement_gate(part, 0.9).outcome == "inconclusive"
    assert agreement_gate(part, 0.0).outcome == "pass"


def test_agreement_that_is_not_known_is_inconclusive_where_it_is_asked_for():
    unknown = {"agreement": None, "agreement_interval": None}
    assert agreement_gate(make_accuracy(**unknown)).outcome == "inconclusive"
    nan = make_accuracy(agreement=0.9, agreement_interval=(math.nan, math.nan))
    assert agreement_gate(nan).outcome == "inconclusive"
    # Evidence of an earlier rfx has none of it.
    old = make_accuracy(**unknown, chance_agreement=None)
    assert agreement_gate(old).outcome == "inconclusive" and agreement_gate(old).limit is None
    assert agreement_gate(old, 0.9).outcome == "inconclusive"


def test_two_models_that_always_give_one_answer_cannot_be_told_from_chance():
    """A default limit of 100 % would never pass, however many examples there are."""
    same = {"agreement": 1.0, "agreement_interval": (0.996, 1.0), "chance_agreement": 1.0}
    part = make_accuracy(0.0, 0.2, **same)
    found = agreement_gate(part)
    assert found.outcome == "inconclusive" and found.limit is None and found.value is None
    assert "one and the same answer to all 1000 examples" in found.detail
    evidence = make_evidence(accuracy=part)
    require_sound(evidence)
    assert exit_code(evidence) == ExitCode.INCONCLUSIVE
    said = str(summary(evidence)[-1])
    assert (
        "answers differently" in said and "--min-agreement" in said and "more examples" not in said
    )
    assert "at least 100" not in render(evidence, "markdown")
    # The advice can be followed.
    assert gate(evidence, min_agreement=0.95).outcome == "pass"


def test_an_agreement_of_all_answers_ever_is_said_to_be_out_of_reach():
    """The lower end of an interval never comes to 1: more examples are no advice."""
    alike = make_accuracy(0.0, 0.2, agreement=1.0, agreement_interval=(0.996, 1.0))
    judged = gate(make_evidence(accuracy=alike), min_agreement=1)
    found = next(g for g in judged.gates if g.name == "agreement")
    assert found.outcome == "inconclusive" and "no number of examples" in found.detail
    said = str(summary(judged)[-1])
    assert "--min-agreement 0.99" in said and "more examples" not in said
    # The advice can be followed, and elsewhere more examples still are the advice.
    assert gate(judged, min_agreement=0.99).outcome == "pass"
    near = gate(judged, min_agreement=0.998)
    assert "more examples" in str(summary(near)[-1])
    assert all("no number of examples" not in g.detail for g in near.gates)


def test_a_regression_without_a_baseline_is_refused(tmp_path):
    (tmp_path / "evidence.json").write_text(make_evidence().model_dump_json())
    refused = run("gate", tmp_path, "--max-regression", 1)
    assert refused.exit_code == ExitCode.USAGE and "--baseline" in refused.output
    assert run("gate", tmp_path, "--max-regression", 1, "--baseline", tmp_path).exit_code == 0


def test_the_next_step_names_the_file_that_was_read(tmp_path):
    file = tmp_path / "other.json"
    file.write_text(make_evidence().model_dump_json())
    assert f"`rfx gate {file}`" in run("gate", file).stdout
    file.rename(tmp_path / "evidence.json")
    for given in (tmp_path, tmp_path / "evidence.json"):
        assert f"`rfx gate {tmp_path}`" in run("gate", given).stdout


def test_earlier_evidence_that_records_a_share_alone_is_judged_as_far_as_it_goes():
    def old(share, limit=None):
        part = make_accuracy(agreement=share, agreement_interval=None, chance_agreement=None)
        return agreement_gate(part, limit)

    assert old(0.3).outcome == "fail"  # less than any agreement by chance would allow
    assert old(0.97).outcome == "inconclusive" and old(0.97).limit is None
    low, high = old(0.97).interval  # Wilson's, of 970 in 1000
    assert (low, high) == pytest.approx((0.9575, 0.9789), abs=1e-4)
    assert old(0.97, 0.95).outcome == "pass" and old(0.97, 0.975).outcome == "inconclusive"


def test_a_metric_that_rises_while_the_answers_change_is_no_pass():
    """The labels of the data were in another order than the model's, and pruning ruined it."""
    part = make_accuracy(
        dense=0.177,
        pruned=0.4375,
        drop=-26.05,
        interval=(-29.0, -23.1),
        agreement=0.36,
        agreement_interval=(0.33, 0.39),
        chance_agreement=0.33,
        chance=0.354,
        weak_baseline=True,  # else the run would have stopped
    )
    evidence = make_evidence(accuracy=part)
    (found,) = (g for g in evidence.gates if g.name == "accuracy")
    assert "the dense model itself is no better than a constant answer" in found.detail
    outcomes = {g.name: g.outcome for g in evidence.gates}
    assert outcomes["accuracy"] == "pass" and outcomes["agreement"] == "fail"
    assert evidence.outcome == "fail" and exit_code(evidence) == ExitCode.GATE_FAILED
    assert gate(evidence).outcome == "fail" and gate(evidence, max_drop=50).outcome == "fail"
    assert "no longer answers as the dense model does" in str(summary(evidence)[-1])
    assert gate(evidence, min_agreement=0.1).outcome == "pass"
    for form in ("html", "markdown", "card", "junit"):
        text = render(evidence, form)
        assert "26.05 points gained" in text and "at least 66.5%" in text, form
        assert "-26" not in text and "+26" not in text


def test_accuracy_without_a_limit_is_not_judged_and_every_report_says_so(tmp_path):
    evidence = make_evidence(accuracy=make_accuracy(2.0, 0.6, max_drop=None))
    (found,) = (g for g in evidence.gates if g.name == "accuracy")
    assert found.outcome == "not-judged" and found.limit is None
    assert evidence.outcome == "pass" and exit_code(evidence) == ExitCode.PASS
    said = "pass; accuracy was not judged: give --max-drop"
    assert str(gates_table(evidence).title) == f"gates: {said}"
    assert said in render(evidence, "html") and said in render(evidence, "junit")
    assert said.partition("pass")[2] in render(evidence, "markdown")
    assert said in render(evidence, "card").replace("\\", "")
    assert '<skipped message="not judged: 2.00 points lost' in render(evidence, "junit")
    (tmp_path / "evidence.json").write_text(evidence.model_dump_json())
    done = run("gate", tmp_path, "--json")
    assert done.exit_code == 0
    answer = json.loads(done.stdout)
    assert answer["outcome"] == "pass" and answer["not_judged"] == ["accuracy"]
    done = run("gate", tmp_path, GITHUB_ACTIONS="true")
    assert done.exit_code == 0 and said in done.stdout
    assert "::notice title=rfx gate accuracy%3A not judged::" in done.stderr
    assert run("gate", tmp_path, "--max-drop", 1).exit_code == ExitCode.GATE_FAILED


def test_nothing_judged_is_no_pass():
    part = make_accuracy(max_drop=None)
    (accuracy,) = (g for g in make_evidence(accuracy=part).gates if g.name == "accuracy")
    assert exit_code(make_evidence(gates=[accuracy])) == ExitCode.INCONCLUSIVE


@pytest.mark.parametrize(
    ("pruned", "half", "chance", "outcome", "word"),
    [
        (0.81, 0.5, 0.5, "fail", "more than 20%"),  # 9 of 40 points above chance
        (0.83, 1.5, 0.5, "not-judged", "no limit"),  # 7 of 40
        (0.81, 2.0, 0.5, "not-judged", "no limit"),  # it may as well be 7 of 40
        (0.5, 60.0, 0.5, "fail", "no better than chance"),
        (0.81, 0.5, 0.95, "not-judged", "no limit"),  # a weak baseline has nothing to lose
        (0.81, 0.5, None, "not-judged", "no limit"),  # earlier evidence: 9 of at most 90
        (0.6, 0.5, None, "fail", "more than 20%"),
        (0.95, 0.5, 0.5, "not-judged", "no limit"),
    ],
)
def test_ruin_fails_unless_a_limit_allows_it(pruned, half, chance, outcome, word):
    part = make_accuracy(100 * (0.9 - pruned), half, None, pruned=pruned, chance=chance)
    found = accuracy_gate(part, None)
    assert found.outcome == outcome and word in found.detail
    assert ("Give --max-drop to allow" in found.detail) == (outcome == "fail")
    assert accuracy_gate(part, 100.0).outcome == "pass"  # asked for


def test_a_metric_that_cannot_be_computed_is_inconclusive():
    nan = math.nan
    for limit in (None, 1.0):
        dense = make_accuracy(dense=nan, drop=nan, interval=(nan, nan), max_drop=limit)
        found = accuracy_gate(dense, limit)
        assert found.outcome == "inconclusive" and found.value is None
        assert "of the dense model cannot be computed" in found.detail
        pruned = make_accuracy(pruned=nan, drop=nan, interval=(nan, nan), max_drop=limit)
        assert accuracy_gate(pruned, limit).outcome == "fail"
        unsure = make_accuracy(interval=(nan, nan), max_drop=limit)
        assert accuracy_gate(unsure, limit).outcome == "inconclusive"
    evidence = make_evidence(accuracy=dense)
    assert exit_code(evidence) == ExitCode.INCONCLUSIVE
    assert json.loads(evidence.model_dump_json())["accuracy"]["dense"] is None
    assert "cannot be computed" in str(summary(evidence)[-1])
    for form in ("html", "markdown", "card", "junit"):
        text = render(evidence, form)
        assert not re.search(r"\bnan\b", text, re.IGNORECASE) and "not known" in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_drop", "x"),
        ("max_drop", -1),
        ("max_drop", True),
        ("max_drop", math.nan),
        ("min_speedup", 0),
        ("min_speedup", [1.0]),
        ("min_agreement", 1.5),
        ("min_agreement", "0.9"),
        ("max_regression", math.inf),
    ],
)
def test_what_is_no_limit_is_refused(name, value):
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} is no limit"):
        check(make_evidence(), **{name: value})


def test_a_regression_is_told_in_its_own_words():
    part = make_accuracy(metric="spearman", divergence=0.02, agreement=0.97)
    said = accuracy_gate(part, 1.0).detail
    assert said.endswith(
        "predictions correlate by 0.970 with the dense model's, squared difference 0.02"
    )
