"""What evidence says of quantization and of the rival: in words in every report, judged again by
`check`, and refused where it was edited."""

import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from rfx.core.errors import ExitCode, UsageError
from rfx.core.registry import names
from rfx.evidence.check import check
from rfx.evidence.gates import exit_code, quantized_gate
from rfx.evidence.precision import QUANTIZED
from rfx.evidence.records import Evidence
from rfx.evidence.report.advice import next_step
from rfx.evidence.report.facts import headline
from rfx.evidence.report.rival import beaten, rival_headline, rival_texts
from rfx.evidence.report.terminal import summary
from rfx.evidence.report.write import render
from rfx.evidence.sound import contradictions
from rfx.export.precision.convert import is_quantized
from rfx.pipeline.gate import gate
from tests.commands import run
from tests.evidences import (
    make_accuracy,
    make_evidence,
    make_excluding,
    make_latency,
    make_quantization,
    make_quantized,
    make_rival,
)

PAGE = Path(__file__).parents[2] / "docs" / "pages" / "explanation" / "evidence.md"


def loaded(data: dict) -> Evidence:
    return Evidence.model_validate(json.loads(json.dumps(data)))


def document(evidence: Evidence) -> dict:
    return json.loads(evidence.model_dump_json())


def without_quantizing(d: dict) -> None:
    """All that is said of quantizing is taken out."""
    gates = [g for g in d["gates"] if g["name"] != "quantized"]
    d.update(rival=None, quantization=None, gates=gates)


def as_if_in_fp32(d: dict) -> None:
    """That, and the precision of all that is said to have been served is edited."""
    without_quantizing(d)
    d["recipe"]["workload"]["precision"] = d["latency"]["workload"]["precision"] = "fp32"


# What was done to an honest document, and what is said of it.
FORGED = {
    "a slower rival": (lambda d: d["rival"]["latency"].update(ms=8.0), "rival over dense"),
    "a rival's ratio": (lambda d: d["rival"]["latency"].update(ratio=0.8), "by their medians"),
    "a lead over the rival": (
        lambda d: d["rival"]["latency"].update(pruned_ratio=0.1),
        "pruned over rival",
    ),
    "a rival outside its interval": (
        lambda d: d["rival"]["latency"].update(interval=[0.1, 0.2]),
        "its interval 0.1 to 0.2",
    ),
    "a rival that takes no time": (
        lambda d: d["rival"]["latency"].update(ms=0.0),
        "the rival takes 0 ms",
    ),
    "a worse rival": (lambda d: d["rival"].update(metric=0.5), "but the metrics differ by 40"),
    "a rival's larger drop": (lambda d: d["rival"].update(drop=30.0), "the rival loses 30 points"),
    "a rival's agreement above one": (
        lambda d: d["rival"].update(agreement=1.5),
        "the rival's agreement is 1.5",
    ),
    "a rival of no bytes": (lambda d: d["rival"].update(bytes=0), "the rival's file has 0 bytes"),
    "a dense model that takes no time beside a rival": (
        lambda d: d["latency"].update(dense_ms=0.0),
        "contradicts",
    ),
    "the gate of what is quantized is left out": (
        lambda d: d.update(gates=[g for g in d["gates"] if g["name"] != "quantized"]),
        "there is a part and no gate",
    ),
    "a quantized gate without its part": (
        lambda d: d.update(quantization=None),
        "there is a gate and no part",
    ),
    "all that is said of quantizing is left out": (
        lambda d: d.update(
            quantization=None, gates=[g for g in d["gates"] if g["name"] != "quantized"]
        ),
        "nothing says how it was quantized",
    ),
    "the rival is left out too": (
        lambda d: without_quantizing(d),
        "nothing says how it was quantized",
    ),
    "the rival alone is left out": (
        lambda d: d.update(rival=None),
        "nothing says how the dense model does when it is quantized alone",
    ),
    "a recipe and a latency of fp32 over files of int8": (
        lambda d: as_if_in_fp32(d),
        "a file in fp32 is listed beside the one that is served",
    ),
    "a table of int8 under a recipe of fp32": (
        lambda d: (as_if_in_fp32(d), d["files"].pop("model.fp32.onnx")),
        "the latency table is of models in 'int8'",
    ),
    "a recipe that forgets its precision": (
        lambda d: (without_quantizing(d), d["recipe"].pop("workload")),
        "the model is served in 'int8', and nothing says how it was quantized",
    ),
    "mismatches that pass": (
        lambda d: d["quantization"].update(mismatches=["w lies elsewhere"]),
        "quantized is recorded as pass, its numbers say fail",
    ),
    "a quantized file that is faster": (
        lambda d: d["quantization"].update(ratio=0.1),
        "quantized over fp32",
    ),
    "a ratio of the gate quantized alone": (
        lambda d: d["gates"][2].update(value=0.1),
        "the gate quantized has another ratio",
    ),
    "a limit of the gate quantized alone": (
        lambda d: d["gates"][2].update(limit=2.0),
        "limit of the gate quantized is 2.0",
    ),
    "no products in integers": (
        lambda d: d["quantization"].update(products=0),
        "0 products are in integers",
    ),
    "a quantized file of no bytes": (
        lambda d: d["quantization"].update(bytes=0),
        "the quantized file has 0 bytes",
    ),
    "a divergence below nothing": (
        lambda d: d["quantization"].update(quantization=-1.0),
        "the divergence by quantization is -1",
    ),
}


def test_honest_evidence_of_int8_is_sound(tmp_path):
    for evidence in (
        make_quantized(),
        make_evidence(rival=make_rival()),
        make_evidence(rival=make_rival(timed=False)),
        make_quantized(quantization=make_quantization(1.2)),
    ):
        assert list(contradictions(evidence)) == []
        assert list(contradictions(loaded(document(evidence)))) == []


@pytest.mark.parametrize("kind", FORGED)
def test_edited_numbers_of_int8_are_refused(kind, tmp_path):
    forge, said = FORGED[kind]
    data = document(make_quantized())
    forge(data)
    (tmp_path / "evidence.json").write_text(json.dumps(data), encoding="utf-8")
    done = run("gate", tmp_path, "--json")
    assert done.exit_code == ExitCode.USAGE, done.output
    error = json.loads(done.stdout)["error"]
    assert said in error["got"] + error["what"] and error["next_step"]


def test_evidence_knows_every_precision_that_is_quantized():
    """It imports no export, so that it keeps their names itself."""
    own = {name for name in names("precision") if is_quantized(name)}
    assert own == QUANTIZED


def excluding(**more) -> Evidence:
    """A site was kept in fp32 by rfx, and another one on request."""
    made = make_quantized(quantization=make_excluding(**more))
    asked = {
        "quantization": {"keep_fp32": ["layer.1.ffn"]},
        "limits": {"max_quantization_loss": 0.0025, "max_drop": 1.0},
    }
    return made.model_copy(update={"recipe": {**made.recipe, **asked}})


FORGED_SITES = {
    "an exclusion is left out": (
        lambda q: q.update(excluded=[]),
        "whether the site 'layer.0.ffn' is in integers or in fp32",
    ),
    "an exclusion is hidden among the sites in integers": (
        lambda q: q.update(excluded=[], sites=[*q["sites"], "layer.0.ffn"]),
        "what quantizing costs by site is of other sites",
    ),
    "an exclusion is made up": (
        lambda q: q["excluded"].append({**q["excluded"][0], "site": "layer.0.mha"}),
        "the site 'layer.0.mha' is named twice",
    ),
    "an exclusion of a site that there is not": (
        lambda q: q["excluded"].append({**q["excluded"][0], "site": "layer.9.ffn"}),
        "the plan has no site 'layer.9.ffn'",
    ),
    "an exclusion of a site without units": (
        lambda q: q["excluded"].append({**q["excluded"][0], "site": "layer.1.mha"}),
        "the site 'layer.1.mha' has no units",
    ),
    "an exclusion without a reason": (
        lambda q: q["excluded"][0].update(why=[]),
        "was kept in fp32 by rfx for no reason",
    ),
    "a request that was an exclusion": (
        lambda q: q.update(excluded=[], kept_fp32=["layer.1.ffn", "layer.0.ffn"]),
        "the recipe keeps other sites in fp32",
    ),
    "another limit of the loss by quantizing": (
        lambda q: q.update(max_loss=0.5),
        "max_quantization_loss is 0.5, the recipe says 0.0025",
    ),
    "a loss by quantizing above its limit": (
        lambda q: q.update(quantization=0.003),
        "quantized is recorded as pass, its numbers say fail",
    ),
    "a loss by a site below nothing": (
        lambda q: q["by_site"]["sites"][0].update(divergence=-0.1),
        "by site is below nothing",
    ),
}


@pytest.mark.parametrize("kind", FORGED_SITES)
def test_edited_sites_are_refused(kind, tmp_path):
    forge, said = FORGED_SITES[kind]
    honest = excluding()
    assert list(contradictions(honest)) == []
    data = document(honest)
    forge(data["quantization"])
    (tmp_path / "evidence.json").write_text(json.dumps(data), encoding="utf-8")
    done = run("gate", tmp_path, "--json")
    assert done.exit_code == ExitCode.USAGE, done.output
    error = json.loads(done.stdout)["error"]
    assert said in error["got"] and error["next_step"]


def test_every_report_says_which_sites_are_in_fp32_and_what_the_others_cost():
    evidence = excluding()
    own, asked, worst = rival_texts(evidence)[3:]
    assert "layer.0.ffn (for quantization; alone it cost 0.004 and saved 0.25 ms)" in own
    assert "on request: layer.1.ffn" in asked
    assert "layer.0.mha 0.0015" in worst and "0.0019 on the same 100 calibration" in worst
    for form in FORMS:
        text = render(evidence, form)
        assert "layer.0.ffn" in text and "0.0015" in text, form
    page = render(evidence, "html")
    assert "What quantizing costs by site" in page and "all the rest" in page
    assert "What quantizing costs by site" not in render(make_quantized(), "html")


def test_a_loss_above_its_limit_fails_the_gate_and_says_what_to_do():
    over = excluding(quantization=0.003)
    gate_ = quantized_gate(over.quantization)
    assert gate_.outcome == "fail" and "0.003, the limit is 0.0025" in gate_.detail
    assert exit_code(over) == ExitCode.GATE_FAILED
    assert "--max-quantization-loss" in next_step(over) and "--keep-fp32" in next_step(over)
    for unknown in (None, math.nan):
        part = make_excluding(quantization=unknown)
        assert quantized_gate(part).outcome == "fail"


def test_gate_judges_the_loss_by_quantizing_by_a_new_limit():
    made = excluding()
    over = gate(made, max_quantization_loss=0.001)
    found = next(g for g in over.gates if g.name == "quantized")
    assert found.outcome == "fail" and "the limit is 0.001" in found.detail
    assert over.quantization.max_loss == 0.001
    assert over.recipe["limits"]["max_quantization_loss"] == 0.001
    assert list(contradictions(over)) == []
    assert gate(made, max_quantization_loss=0.1).outcome == "pass"
    kept = gate(made, max_drop=5)
    assert kept.quantization.max_loss == 0.0025 and list(contradictions(kept)) == []
    with pytest.raises(UsageError, match="no loss by quantizing") as refused:
        gate(make_evidence(), max_quantization_loss=0.1)
    assert "--max-quantization-loss" in refused.value.next_step
    with pytest.raises(UsageError, match="--max-quantization-loss is no limit"):
        gate(made, max_quantization_loss=-1)


def test_the_page_lists_these_forgeries_too():
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert [kind for kind in {**FORGED, **FORGED_SITES} if kind not in text] == []


def test_another_file_may_be_judged_in_place_of_the_quantized_one():
    """`rfx verify --onnx` says nothing of how model.onnx was quantized, and says so."""
    made = make_quantized()
    gates = [g for g in made.gates if g.name != "quantized"]
    same = gates[1].model_copy(update={"detail": f"model.onnx: {gates[1].detail}"})
    other = made.model_copy(update={"quantization": None, "gates": [gates[0], same, *gates[2:]]})
    assert list(contradictions(other)) == []


@pytest.mark.parametrize("recipe", [{"workload": "int8"}, {"workload": None}, {}])
def test_a_recipe_without_a_workload_is_no_traceback(recipe, tmp_path):
    made = make_evidence(rival=make_rival())
    data = document(made) | {"recipe": {**made.recipe, **recipe}}
    (tmp_path / "evidence.json").write_text(json.dumps(data), encoding="utf-8")
    assert run("gate", tmp_path).exit_code == 0
    for form in ("html", "junit", "markdown", "card"):
        assert "dense model in int8" in render(loaded(data), form)


@pytest.mark.parametrize(
    ("part", "outcome", "code"),
    [
        (make_quantization(0.45), "pass", 0),
        (make_quantization(1.2), "fail", 1),
        (make_quantization(1.0), "inconclusive", 7),
        (make_quantization(math.nan, interval=(math.nan, math.nan)), "fail", 1),
        # What is no speed but a proof of rfx, whatever was measured.
        (make_quantization(0.45, mismatches=["w lies elsewhere"]), "fail", 6),
    ],
)
def test_check_judges_the_gate_again(part, outcome, code):
    made = make_quantized(quantization=part)
    found = quantized_gate(part)
    assert found.outcome == outcome and found.limit == 1.0 and part.method in found.detail
    assert exit_code(made) == code
    # As the gates stand in the file, so they are judged; a verdict that was recorded is not taken.
    lied = [
        g.model_copy(update={"outcome": "pass"}) if g.name == "quantized" else g for g in made.gates
    ]
    again = check(made.model_copy(update={"gates": lied}))
    assert [g.name for g in again] == [g.name for g in made.gates]
    assert next(g for g in again if g.name == "quantized") == found
    assert exit_code(made.model_copy(update={"gates": again})) == code


def test_a_latency_that_was_not_measured_is_inconclusive():
    part = make_quantization().model_copy(update={"ratio": None, "interval": None})
    found = quantized_gate(part)
    assert found.outcome == "inconclusive" and found.value is None
    assert found.detail.endswith("its latency was not measured")
    assert list(contradictions(make_quantized(quantization=part))) == []


def test_new_limits_keep_the_gate():
    judged = gate(make_quantized(), max_drop=5, min_speedup=2.0)
    assert [g.name for g in judged.gates].count("quantized") == 1 and judged.outcome == "pass"
    assert "quantized" not in [g.name for g in gate(make_evidence(), max_drop=5).gates]


def test_the_headline_begins_with_a_rival_that_is_faster():
    behind = make_evidence(rival=make_rival(0.4, pruned=0.68))
    assert beaten(behind)
    assert headline(behind).startswith(
        "the dense model in int8 alone, without pruning, is 1.70x as fast as this (a metric of "
    )
    # What is said of this model is not said of the other one.
    assert "); this model: 1.47x as fast (0.680 of the dense latency), " in headline(behind)
    ahead = make_quantized(0.2)
    assert not beaten(ahead)
    assert headline(ahead).startswith("5.00x as fast (0.200 of the dense latency), 2.00x as fast ")
    even = make_evidence(rival=make_rival(0.68, pruned=0.68))
    assert not beaten(even) and "about as fast as the dense model in int8 alone" in headline(even)
    for none in (make_evidence(), make_evidence(rival=make_rival(timed=False))):
        assert not beaten(none) and rival_headline(none) == "" and "int8" not in headline(none)
    unknown = make_rival().model_copy(deep=True)
    unknown.latency.pruned_ratio = math.nan
    assert rival_headline(make_evidence(rival=unknown)) == ""


def test_a_result_that_is_beaten_says_what_to_do():
    (said,) = rival_texts(make_evidence(rival=make_rival(0.4, pruned=0.68)))
    assert "takes 0.400 of the dense latency" in said and "its file is 24.0 MB" in said
    assert "--precision int8 and a --latency below 0.40" in said and "diverges more" in said
    accuracy = make_accuracy(divergence=0.1)
    (worse,) = rival_texts(make_evidence(accuracy=accuracy, rival=make_rival(0.4, pruned=0.68)))
    assert "diverges no more from the dense model" in worse
    slower = make_quantized(0.2, rival=make_rival(0.1, pruned=0.2))
    assert "ask for a lower latency" in rival_texts(slower)[0]
    (untimed,) = rival_texts(make_evidence(rival=make_rival(timed=False)))
    assert "of the dense latency" not in untimed and "has a metric of" in untimed
    assert rival_texts(make_evidence()) == []


FORMS = ("html", "markdown", "card")


def test_every_report_has_the_rival_and_what_quantizing_did():
    evidence = make_quantized()
    beside, file, parts = rival_texts(evidence)
    assert "14 quantized products and 20.0 MB; in fp32 it has 60.0 MB" in file
    assert "takes 2.22 times as long" in file
    assert "pruning alone makes 0.01" in parts and "diverges by 0.002" in parts
    for form in FORMS:
        text = render(evidence, form)
        for said in ("The dense model in int8, not pruned", "14 quantized products", "0.002"):
            assert said in text, (form, said)
    assert "as fast as the dense model in int8 alone" in render(evidence, "junit")
    assert json.loads(render(evidence, "json"))["rival"]["latency"]["ratio"] == 0.4
    console = Console(width=200, record=True, file=io.StringIO())
    for part in summary(evidence):
        console.print(part)
    shown = console.export_text()
    assert beside[:60] in shown and "14 quantized products" in shown and "quantized" in shown


def test_names_of_strangers_are_escaped_in_every_report():
    rival = make_rival(precision="<b>int9</b>", method="a | <script>")
    for evidence in (make_evidence(rival=rival), make_quantized(rival=rival)):
        for form in ("html", "markdown", "card", "junit"):
            text = render(evidence, form)
            assert "<script>" not in text and "<b>int9" not in text, form


def test_a_quantized_gate_that_fails_says_the_next_step():
    slower = make_quantized(quantization=make_quantization(1.2))
    assert "--precision fp32" in next_step(slower)
    even = make_quantized(quantization=make_quantization(1.0))
    assert "cannot be told" in next_step(even) and "rfx verify" in next_step(even)
    broken = make_quantized(quantization=make_quantization(mismatches=["w lies elsewhere"]))
    assert "do not use" in next_step(broken)


def test_what_is_served_is_the_quantized_file_alone(tmp_path):
    files = {"model.onnx": "0" * 64, "model.fp32.onnx": "1" * 64}
    for name in files:
        (tmp_path / name).touch()
    said = next_step(make_quantized(files=files), tmp_path)
    assert "model.onnx" in said and "model.fp32.onnx" not in said


def test_evidence_in_fp32_that_is_slower_than_int8_still_passes_its_gates():
    evidence = make_evidence(rival=make_rival(), latency=make_latency())
    assert exit_code(evidence) == 0 and list(contradictions(evidence)) == []
