"""`rfx gate` does not trust what it judges: evidence that was edited or made up is refused."""

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from rfx.core.errors import ExitCode, UsageError
from rfx.evidence.check import check
from rfx.evidence.gates import exit_code
from rfx.evidence.read import read_evidence
from rfx.evidence.records import Evidence
from rfx.evidence.sound import contradictions
from rfx.pipeline.gate import gate
from tests.commands import run
from tests.evidences import make_evidence

KEPT = Path(__file__).parents[1] / "golden" / "schema1"
PAGE = Path(__file__).parents[2] / "docs" / "pages" / "explanation" / "evidence.md"


def honest() -> dict:
    return json.loads(make_evidence(table=False).model_dump_json())


def at(data, path):
    *way, last = path.split(".")
    for step in way:
        data = data[int(step) if isinstance(data, list) else step]
    return data, int(last) if isinstance(data, list) else last


def sets(**changes):
    """An edit of the document: `latency__ratio=0.1` sets one place."""

    def forge(data):
        for name, value in changes.items():
            place, key = at(data, name.replace("__", "."))
            place[key] = value

    return forge


def without_gate(name):
    def forge(data):
        data["gates"] = [g for g in data["gates"] if g["name"] != name]

    return forge


def more_gates(**gate):
    return lambda data: data["gates"].append({**data["gates"][0], **gate})


def every(*edits):
    """Several edits, one after the other."""

    def forge(data):
        for edit in edits:
            edit(data)

    return forge


def failing_speedup(data):
    """Honest evidence of a model that is not as fast as was asked for."""
    data["recipe"]["limits"] = {"max_drop": 1.0, "min_speedup": 2.0, "min_agreement": None}
    data["gates"][4] |= {"limit": 0.5, "outcome": "fail"}


def without_agreement():
    return sets(
        accuracy__agreement=None,
        accuracy__agreement_interval=None,
        accuracy__chance_agreement=None,
    )


def not_judged():
    return {"name": "agreement", "outcome": "not-judged"}


# The gates stand in the order shrunk, same, accuracy, agreement, latency. Each kind: what was done,
# and what is said of it.
FORGED = {
    "no files": (sets(files={}), "lists no exported model"),
    "files without the model": (sets(files={"plan.json": "0" * 64}), "lists no exported model"),
    "a gate is left out": (without_gate("shrunk"), "the gate shrunk is missing"),
    "the agreement is left out": (without_gate("agreement"), "the gate agreement is missing"),
    "a gate is there twice": (more_gates(), "is there 2 times"),
    "a gate that rfx does not have": (more_gates(name="beautiful"), "no gate 'beautiful'"),
    "a faster ratio": (sets(latency__ratio=0.3), "is 0.68"),
    "a faster pruned model": (sets(latency__pruned_ms=3.0), "50th percentile 6.8"),
    "a ratio outside its interval": (
        sets(latency__interval=[0.2, 0.3]),
        "outside its own interval",
    ),
    "an interval that runs down": (sets(latency__interval=[0.69, 0.67]), "runs from 0.69 down"),
    "a negative ratio": (
        sets(latency__ratio=-0.5, latency__pruned_ms=-5.0),
        "the ratio of latencies is -0.5",
    ),
    "percentiles out of order": (sets(latency__pruned__p99=1.0), "not in order"),
    "no inferences": (sets(latency__dense__samples=0), "0 inferences"),
    "a better pruned model": (sets(accuracy__pruned=0.91), "but the metrics differ by -1"),
    "a smaller drop": (sets(accuracy__drop=-3.0), "the drop is -3"),
    "a metric above one": (sets(accuracy__dense=9.0, accuracy__pruned=8.995), "metric is 9"),
    "an interval that is a point": (sets(accuracy__interval=[0.5, 0.5]), "is a point"),
    "an agreement above one": (sets(accuracy__agreement=1.7), "the agreement is 1.7"),
    "an agreement outside its interval": (sets(accuracy__agreement=0.99), "the agreement is 0.99"),
    "no examples": (sets(accuracy__examples=0, accuracy__distinct=None), "on 0 examples"),
    "more examples than there are": (sets(accuracy__examples=10**6), "were evaluated"),
    "a drop although all answers are alike": (
        sets(accuracy__agreement=1.0, accuracy__agreement_interval=[0.99, 1.0]),
        "of the answers are otherwise",
    ),
    "fewer distinct examples": (
        lambda d: d["accuracy"].update(distinct=d["accuracy"]["examples"] - 7),
        "examples are distinct",
    ),
    "a gate without its number": (lambda d: d["gates"][2].pop("value"), "accuracy has no value"),
    "a gate without its interval": (
        lambda d: d["gates"][2].pop("interval"),
        "accuracy has no interval",
    ),
    "a latency without its interval": (
        lambda d: d["gates"][4].update(interval=None),
        "latency has no interval",
    ),
    "fewer FLOPs than were asked for": (
        lambda d: d["recipe"].update(budget={"flops": d["flops_ratio"] - 0.1}),
        "was asked for",
    ),
    "a dense model that is worse than a constant answer": (
        sets(accuracy__chance=0.99),
        "with which no run goes on",
    ),
    "a weak baseline that was not allowed": (
        lambda d: (
            d["accuracy"].update(weak_baseline=True),
            d["recipe"].update(limits={"max_drop": 1.0, "allow_weak_baseline": False}),
        ),
        "which was not allowed",
    ),
    "fewer examples than there are": (
        lambda d: d["accuracy"].update(examples=d["accuracy"]["examples"] - 1),
        "were evaluated, there are",
    ),
    "a limit that was not asked for": (
        sets(recipe__limits={"max_drop": 0.1, "min_agreement": None}),
        "max_drop is 1.0, the recipe says 0.1",
    ),
    "another target than was asked for": (sets(latency__target=0.9), "target is 0.9"),
    "a failed proof that passes": (sets(gates__0__value=3.0), "shrunk is recorded as pass"),
    "a difference that passes": (
        sets(gates__1__value=0.1, parity={"shrunk-engine": 0.1}),
        "same is recorded as pass, its numbers say fail",
    ),
    "a difference that was not measured": (sets(gates__1__value=1e-8), "was not measured"),
    "a tolerance without bounds": (sets(gates__1__limit=50.0), "tolerance of the gate same is 50"),
    "an accuracy that passes": (
        sets(gates__2__limit=0.2, accuracy__max_drop=0.2),
        "accuracy is recorded as pass, its numbers say inconclusive",
    ),
    "an agreement that passes": (
        sets(gates__3__limit=0.99, accuracy__min_agreement=0.99),
        "agreement is recorded as pass",
    ),
    "a latency that passes": (
        sets(gates__4__limit=0.5, latency__target=0.5, recipe__budget={"latency": 0.5}),
        "latency is recorded as pass",
    ),
    "a speedup that is no longer asked for": (
        every(failing_speedup, sets(recipe__limits__min_speedup=None)),
        "limit of the gate latency is 0.5, the recorded limits and numbers give 0.7",
    ),
    "a drop that is allowed afterwards": (
        every(sets(accuracy__max_drop=50.0), lambda data: data["recipe"].pop("limits", None)),
        "limit of the gate accuracy is 1, the recorded limits and numbers give 50",
    ),
    "a limit that is taken away": (sets(accuracy__max_drop=None), "numbers give none"),
    "an agreement that would be by chance": (
        sets(accuracy__chance_agreement=0.0),
        "limit of the gate agreement is 0.75, the recorded limits and numbers give 0.5",
    ),
    "a lower agreement that is asked for": (sets(accuracy__min_agreement=0.1), "numbers give 0.1"),
    "a limit of a gate alone": (sets(gates__2__limit=9.0), "limit of the gate accuracy is 9"),
    "a target of a gate alone": (sets(gates__4__limit=1.0), "limit of the gate latency is 1"),
    "evidence that passes for an old one": (
        every(without_gate("agreement"), without_agreement()),
        "the gate agreement is missing",
    ),
    "an agreement that is not judged": (
        every(without_agreement(), sets(gates__3=not_judged())),
        "accuracy.agreement is missing",
    ),
    "a chance that is left out": (
        every(
            sets(accuracy__chance_agreement=None),
            sets(gates__3__limit=None, gates__3__outcome="not-judged"),
        ),
        "accuracy.chance_agreement is missing",
    ),
    "another batch than what was timed": (
        sets(recipe__workload={"batch": 8}),
        "recipe.workload.batch is 8, the latency was measured at 1",
    ),
    "another length than what was timed": (
        sets(recipe__workload={"sequence": 512}),
        "recipe.workload.sequence is 512, the latency was measured at 128",
    ),
    "other threads than were timed": (
        sets(recipe__workload={"threads": 4}),
        "recipe.workload.threads is 4, the latency was measured at 1",
    ),
    "another precision than what was timed": (
        sets(recipe__workload={"precision": "int8"}),
        "recipe.workload.precision is 'int8', the latency was measured at 'fp32'",
    ),
    "limits that are none": (sets(recipe__limits=[1.0]), "recipe.limits is"),
    "a speedup of nothing": (
        sets(recipe__limits={"max_drop": 1.0, "min_speedup": 0}),
        "recipe.limits.min_speedup is 0, and not a number above 0",
    ),
    "a target that is no number": (
        sets(recipe__budget={"latency": "0.7"}),
        "recipe.budget.latency is '0.7'",
    ),
    "a pass without numbers": (
        sets(accuracy__pruned=None, accuracy__drop=None, accuracy__interval=[None, None]),
        "accuracy is recorded as pass, its numbers say fail",
    ),
    "calibrated on the evaluation set": (sets(data__overlap=3), "were calibrated on"),
    "one hash for both sets": (sets(data__evaluation_hash="c"), "their hashes are equal"),
    "the training set as evaluation set": (sets(data__training_hash="e"), "hashes are equal"),
    "negative counts": (sets(data__duplicates=-1), "data.duplicates is -1"),
    "more units than there were": (sets(kept_layers__0__heads=9), "layer 0 keeps 9 of 4 heads"),
    "other units than the plan's": (sets(kept_layers__0__heads=1), "keeps other units"),
    "a layer less": (lambda data: data["kept_layers"].pop(), "1 layers are kept of 2"),
    "a plan that was edited": (sets(plan__sites__0__kept=[1, 2, 3]), "another hash"),
    "a plan that is none": (sets(plan={"sites": 3}), "the plan cannot be read"),
    "fewer FLOPs than none": (sets(flops_ratio=-0.1), "share of FLOPs"),
    "made in the future": (
        sets(created=(datetime.now(timezone.utc) + timedelta(days=2)).isoformat()),
        "in the future",
    ),
    "made at no time": (sets(created="yesterday"), "no time"),
    "of a newer rfx": (sets(schema_version=3), "written by a newer rfx"),
}


def write(folder, data):
    folder.mkdir(exist_ok=True)
    text = data if isinstance(data, str) else json.dumps(data)
    (folder / "evidence.json").write_text(text, encoding="utf-8")
    return folder


def test_honest_evidence_is_sound(tmp_path):
    assert list(contradictions(make_evidence())) == []
    assert list(contradictions(read_evidence(KEPT))) == []
    assert run("gate", write(tmp_path, honest())).exit_code == 0
    for limits in ({"max_drop": 5}, {"min_speedup": 1.2, "min_agreement": 0.5}, {}):
        judged = gate(make_evidence(), **limits)
        assert judged.outcome == "pass" and list(contradictions(judged)) == []
        assert gate(judged).gates == judged.gates
    data = honest()
    failing_speedup(data)
    assert run("gate", write(tmp_path, data)).exit_code == ExitCode.GATE_FAILED
    assert run("gate", tmp_path, "--min-speedup", 1.2).exit_code == 0


def test_a_limit_of_the_recipe_is_held_within_the_bounds_of_its_option(tmp_path):
    for name, value in (
        ("min_speedup", 0),
        ("min_speedup", -1.0),
        ("min_speedup", "fast"),
        ("min_speedup", [1.3]),
        ("min_speedup", True),
        ("min_speedup", 10**400),
        ("max_drop", -1),
        ("min_agreement", 1.5),
    ):
        evidence = make_evidence()
        evidence.recipe["limits"] = {"max_drop": 1.0, name: value}
        for ask in (check, gate):
            with pytest.raises(UsageError, match=f"recipe.limits.{name}"):
                ask(evidence)
        if value != 10**400:  # JSON of so many digits is refused as such
            done = run("gate", write(tmp_path, json.loads(evidence.model_dump_json())))
            assert done.exit_code == ExitCode.USAGE and name in done.output
    evidence.recipe["limits"] = {"min_speedup": float("nan")}
    with pytest.raises(UsageError, match=r"recipe\.limits\.min_speedup"):
        gate(evidence)


def test_evidence_of_a_run_is_sound(closed, quickstarted):
    for finished in (closed, quickstarted):
        assert list(contradictions(read_evidence(finished.out))) == []


@pytest.mark.parametrize("kind", FORGED)
def test_forged_evidence_is_refused(kind, tmp_path):
    forge, said = FORGED[kind]
    data = honest()
    forge(data)
    done = run("gate", write(tmp_path, data), "--json")
    assert done.exit_code == ExitCode.USAGE, done.output
    error = json.loads(done.stdout)["error"]
    assert said in error["got"] + error["what"] and error["next_step"]
    # As a baseline neither.
    write(tmp_path / "ours", honest())
    assert run("gate", tmp_path / "ours", "--baseline", tmp_path).exit_code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("find", "put", "said"),
    [
        ('"ratio": 0.68', '"ratio": 0.68, "ratio": 0.3', "the key 'ratio' is there twice"),
        ('"drop": 0.5', '"drop": NaN', "NaN is no number of JSON"),
        ('"drop": 0.5', '"drop": -Infinity', "-Infinity is no number of JSON"),
        ('"metric": "accuracy"', '"metric": "accuracy", "extra": 1', "extra"),
    ],
)
def test_what_json_does_not_allow_is_refused(find, put, said, tmp_path):
    text = json.dumps(honest())
    assert find in text
    done = run("gate", write(tmp_path, text.replace(find, put, 1)))
    assert done.exit_code == ExitCode.USAGE and said in done.output


def test_the_message_lists_what_is_wrong_and_no_more_than_helps(tmp_path):
    data = honest()
    for forge, _ in list(FORGED.values())[:8]:
        forge(data)
    with pytest.raises(UsageError, match=r"contradicts itself(.|\n)*and \d+ more"):
        gate(write(tmp_path, data))


def test_evidence_that_is_made_to_look_like_an_earlier_versions_does_not_pass():
    """All that came with agreement is taken out, so that nothing contradicts itself."""
    data = honest()
    taken = ("agreement", "agreement_interval", "chance_agreement", "chance", "distinct")
    data["accuracy"] |= dict.fromkeys(taken)
    data["gates"] = [g for g in data["gates"] if g["name"] != "agreement"]
    judged = gate(Evidence.model_validate(data))
    outcomes = {g.name: g.outcome for g in judged.gates}
    assert outcomes["agreement"] == "inconclusive" and judged.outcome == "inconclusive"
    assert exit_code(judged) == ExitCode.INCONCLUSIVE


@pytest.mark.parametrize("count", ["contradictory", "near_copies", "skipped"])
def test_no_count_of_examples_is_below_nothing(count):
    (said,) = contradictions(make_evidence_with(count, -1))
    assert said == f"data.{count} is -1"


def make_evidence_with(count, value):
    evidence = make_evidence()
    return evidence.model_copy(
        update={"data": evidence.data.model_copy(update={count: value})},
    )


def test_the_page_lists_the_kinds_of_forgeries():
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert [kind for kind in FORGED if kind not in text] == []
