"""What evidence says of a smaller vocabulary: in words in every report, judged again by `check`,
and refused where it was edited."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from rfx.core.errors import ExitCode, UsageError
from rfx.evidence.check import check
from rfx.evidence.gates import LEAST_ALIKE, exit_code, vocabulary_gate
from rfx.evidence.records import Evidence, SizePart, VocabularyPart
from rfx.evidence.report.advice import next_step
from rfx.evidence.report.terminal import summary
from rfx.evidence.report.write import render
from rfx.evidence.sound import contradictions
from rfx.evidence.vocabulary import vocabulary_texts
from rfx.pipeline.gate import gate
from tests.evidences import make_accuracy, make_evidence

SERVED, FULL = 54_200_000, 78_100_000
RECIPE = {
    "name": "reviews",
    "task": "text-classification",
    "budget": {"latency": 0.7, "flops": None},
    "vocabulary": {"prune": True},
    "limits": {"max_drop": 1.0, "min_agreement": None, "min_vocabulary_agreement": None},
}


def part(agreement=0.984, half=0.01, **more):
    return VocabularyPart(
        **{
            "before": 30_522,
            "after": 14_997,
            "hash": "0123456789abcdef",
            "training": 9114,
            "bytes": SERVED,
            "full_bytes": FULL,
            "texts": 1000,
            "otherwise": 400,
            "pieces": 27_200,
            "full_pieces": 26_500,
            "unknown": 12,
            "full_unknown": 10,
            "difference": 0.0,
            "tolerance": 2e-4,
            "metric": 0.895,
            "full_metric": 0.899,
            "drop": 0.4,
            "interval": (-0.3, 1.1),
            "agreement": agreement,
            "agreement_interval": (agreement - half, min(1.0, agreement + half)),
            **more,
        }
    )


def pruned(own=None, **more):
    """Evidence of a model whose vocabulary is smaller."""
    own = own or part()
    size = SizePart(files={"model.onnx": SERVED}, bytes=SERVED, dense_bytes=90_900_000)
    made = make_evidence(
        accuracy=make_accuracy(), recipe=json.loads(json.dumps(RECIPE)), size=size, **more
    )
    parity = {**made.parity, "full-sliced": 0.0}
    gates = [*made.gates[:-1], vocabulary_gate(own), made.gates[-1]]
    return made.model_copy(update={"gates": gates, "vocabulary": own, "parity": parity})


def test_the_share_of_the_same_answers_is_judged_by_its_interval():
    for agreement, half, outcome in (
        (0.984, 0.01, "pass"),
        (0.955, 0.01, "inconclusive"),
        (0.93, 0.01, "fail"),
    ):
        made = vocabulary_gate(part(agreement, half))
        assert (made.outcome, made.value, made.limit) == (outcome, agreement, LEAST_ALIKE)
        assert made.interval == pytest.approx((agreement - half, agreement + half))
        assert "14997 of 30522 entries; 400 of 1000 evaluation examples" in made.detail
        assert "700 pieces more of 26500, 2 of them unknown" in made.detail
        assert "0.40 points lost by the vocabulary alone" in made.detail
    assert vocabulary_gate(part(min_agreement=0.99)).outcome == "inconclusive"
    assert vocabulary_gate(part(min_agreement=0.99), 0.9).outcome == "pass"
    unknown = vocabulary_gate(part(agreement=1.0).model_copy(update={"agreement": None}))
    assert (unknown.outcome, unknown.value) == ("inconclusive", None)


def test_other_rows_than_the_full_table_s_are_a_proof_that_failed():
    for difference in (0.01, float("nan")):
        made = pruned(part(difference=difference))
        assert made.outcome == "fail" and exit_code(made) == ExitCode.INTERNAL_CHECK
        assert "do not use this model" in next_step(made)
        assert "the tolerance is 2.0e-04" in vocabulary_gate(made.vocabulary).detail
    assert exit_code(pruned()) == ExitCode.PASS


def test_what_to_do_where_too_many_answers_change():
    bad, unsure = pruned(part(0.93)), pruned(part(0.955))
    assert exit_code(bad) == ExitCode.GATE_FAILED
    assert "leave --prune-vocabulary out" in next_step(bad)
    assert exit_code(unsure) == ExitCode.INCONCLUSIVE
    assert "set --min-vocabulary-agreement" in next_step(unsure)


def test_gate_judges_it_again():
    for made in (pruned(), pruned(part(0.93))):
        assert list(contradictions(made)) == []
        again = check(made)
        assert next(g for g in again if g.name == "vocabulary") == vocabulary_gate(made.vocabulary)
        assert [g.name for g in again].count("vocabulary") == 1
    strict = gate(pruned(), min_vocabulary_agreement=0.999)
    assert strict.outcome == "fail" and strict.vocabulary.min_agreement == 0.999
    assert strict.recipe["limits"]["min_vocabulary_agreement"] == 0.999
    assert list(contradictions(strict)) == []
    with pytest.raises(UsageError, match="no vocabulary to judge") as refused:
        gate(make_evidence(), min_vocabulary_agreement=0.9)
    assert "leave --min-vocabulary-agreement out" in refused.value.next_step
    with pytest.raises(UsageError, match="--min-vocabulary-agreement is no limit"):
        gate(pruned(), min_vocabulary_agreement=1.1)


def terminal(evidence):
    stream = io.StringIO()
    console = Console(file=stream, width=2000)
    for line in summary(evidence):
        console.print(line)
    return stream.getvalue()


def test_every_report_says_entries_bytes_and_loss():
    made = pruned()
    texts = [terminal(made)]
    texts += [render(made, name) for name in ("markdown", "card", "html", "junit")]
    for text in texts:
        assert "The vocabulary has 14997 of 30522 entries: those of 9114 training examples" in text
        assert "saves 23.9 MB: with the full vocabulary the file has 78.1 MB" in text
        assert "the metric went from 89.90 to 89.50: 0.40 points lost" in text
        assert "400 of 1000 evaluation examples are encoded in other pieces" in text
        assert "Texts in other words or languages than those of the training set" in text
    assert json.loads(render(made, "json"))["vocabulary"]["after"] == 14_997
    assert vocabulary_texts(None) == [] and "vocabulary" not in terminal(make_evidence())


def gate_in(data):
    return next(g for g in data["gates"] if g["name"] == "vocabulary")


def without_gate(data):
    data["gates"] = [g for g in data["gates"] if g["name"] != "vocabulary"]


FORGED = {
    "more entries than there were": (
        lambda d: d["vocabulary"].update(after=30_523),
        "keeps 30523 of 30522 entries",
    ),
    "no entries": (lambda d: d["vocabulary"].update(after=0), "keeps 0 of 30522"),
    "a hash that is none": (lambda d: d["vocabulary"].update(hash="all"), "have the hash 'all'"),
    "entries of fewer training texts than were calibrated on": (
        lambda d: d["vocabulary"].update(training=3),
        "are of 3 training examples",
    ),
    "other evaluation texts": (
        lambda d: d["vocabulary"].update(texts=10, otherwise=1),
        "1 of 10 evaluation examples are encoded otherwise, there are 1000",
    ),
    "more texts encoded otherwise than there are": (
        lambda d: d["vocabulary"].update(otherwise=1001),
        "1001 of 1000 evaluation examples",
    ),
    "no text encoded otherwise": (
        lambda d: d["vocabulary"].update(otherwise=0),
        "their pieces differ in number",
    ),
    "fewer pieces than texts": (
        lambda d: d["vocabulary"].update(pieces=999),
        "pieces of 1000 examples",
    ),
    "more unknown pieces than pieces": (
        lambda d: d["vocabulary"].update(unknown=30_000),
        "30000 of 27200 pieces",
    ),
    "a smaller file with the smaller vocabulary": (
        lambda d: d["vocabulary"].update(bytes=SERVED - 1),
        "what is served 54200000",
    ),
    "a full vocabulary that takes less": (
        lambda d: d["vocabulary"].update(full_bytes=SERVED - 1),
        "and 54199999 with the full one",
    ),
    "a full vocabulary that takes no more": (
        lambda d: d["vocabulary"].update(full_bytes=SERVED),
        "saves no byte",
    ),
    "a smaller loss by the vocabulary": (
        lambda d: d["vocabulary"].update(drop=0.1),
        "0.1 points are lost by the vocabulary, but the metrics differ by 0.4",
    ),
    "a better metric with the smaller vocabulary": (
        lambda d: d["vocabulary"].update(metric=0.898, drop=0.1),
        "the metric is 0.895, and 0.898 where the vocabulary is judged",
    ),
    "a loss by the vocabulary outside its interval": (
        lambda d: d["vocabulary"].update(interval=[2.0, 3.0]),
        "the points lost by the vocabulary: 0.4, their interval 2 to 3",
    ),
    "more of the same answers": (
        lambda d: d["vocabulary"].update(agreement=0.99),
        "the gate vocabulary has other numbers",
    ),
    "an agreement with the full vocabulary above one": (
        lambda d: d["vocabulary"].update(agreement=1.2, agreement_interval=[1.1, 1.3]),
        "the agreement with the full vocabulary: 1.2",
    ),
    "no agreement with the full vocabulary": (
        lambda d: d["vocabulary"].update(agreement=None),
        "the agreement with the full vocabulary is missing",
    ),
    "a difference of the tables below nothing": (
        lambda d: d["vocabulary"].update(difference=-1.0),
        "the outputs differ by -1",
    ),
    "a tolerance of the tables without bounds": (
        lambda d: d["vocabulary"].update(difference=0.5, tolerance=0.9),
        "the tolerance is 0.9",
    ),
    "a difference of the tables that passes": (
        lambda d: d["vocabulary"].update(difference=0.1),
        "the gate vocabulary has other numbers",
    ),
    "a lower agreement with the full vocabulary that is asked for": (
        lambda d: d["vocabulary"].update(min_agreement=0.5),
        "min_vocabulary_agreement is 0.5, the recipe says nothing",
    ),
    "a limit of the vocabulary in the recipe alone": (
        lambda d: d["recipe"]["limits"].update(min_vocabulary_agreement=0.5),
        "min_vocabulary_agreement is None, the recipe says 0.5",
    ),
    "a limit of the vocabulary that is none": (
        lambda d: d["recipe"]["limits"].update(min_vocabulary_agreement=7),
        "recipe.limits.min_vocabulary_agreement is 7",
    ),
    "a limit of the gate vocabulary alone": (
        lambda d: gate_in(d).update(limit=0.9),
        "the gate vocabulary has other numbers",
    ),
    "a verdict of the gate vocabulary": (
        lambda d: gate_in(d).update(outcome="not-judged"),
        "the gate vocabulary is recorded as not-judged",
    ),
    "the gate vocabulary is left out": (without_gate, "there is no gate of it"),
    "the part of the vocabulary is left out": (
        lambda d: d.update(vocabulary=None),
        "there is no part of it",
    ),
    "a vocabulary that nobody asked for": (
        lambda d: d["recipe"].update(vocabulary={"prune": False}),
        "the recipe does not ask for it",
    ),
    "a request that is no truth value": (
        lambda d: d["recipe"].update(vocabulary={"prune": "no"}),
        "recipe.vocabulary.prune is 'no'",
    ),
    "all that is said of the vocabulary is left out": (
        lambda d: (d.update(vocabulary=None), d["recipe"].pop("vocabulary"), without_gate(d)),
        "the recipe does not ask for it",
    ),
    "the proof of the table is left out": (
        lambda d: d["parity"].pop("full-sliced"),
        "nothing says that the smaller table gives",
    ),
}
PAGE = Path(__file__).parents[2] / "docs" / "pages" / "explanation" / "evidence.md"


def test_the_page_lists_the_forged_vocabularies():
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    listed = text.split("With a smaller vocabulary: ")[1].split(".")[0].split("; ")
    assert sorted(listed) == sorted(FORGED)


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_vocabulary_is_refused(name):
    damage, said = FORGED[name]
    data = json.loads(pruned().model_dump_json())
    damage(data)
    forged = Evidence.model_validate(data)
    assert any(said in found for found in contradictions(forged)), list(contradictions(forged))
    with pytest.raises(UsageError, match="contradicts itself"):
        gate(forged)


def test_a_forged_pass_of_the_vocabulary_is_refused():
    data = json.loads(pruned(part(0.93)).model_dump_json())
    gate_in(data)["outcome"] = "pass"
    with pytest.raises(UsageError, match="its numbers say fail"):
        gate(Evidence.model_validate(data))


def test_evidence_of_an_earlier_version_says_nothing_of_it():
    data = json.loads(make_evidence().model_dump_json())
    del data["vocabulary"]
    made = Evidence.model_validate(data)
    assert made.vocabulary is None and list(contradictions(made)) == []
