"""What evidence and sweeps say of sizes: in words in every report, judged again by `check`, and
refused where it was edited."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from rfx.cli.results import print_curve
from rfx.core.errors import ExitCode, UsageError
from rfx.evidence.check import check
from rfx.evidence.curve import Curve, recommend
from rfx.evidence.files import differences
from rfx.evidence.gates import OTHER_FILE, exit_code, of_another_file, size_gate
from rfx.evidence.records import Evidence, SearchPart, SizePart, SizeRound
from rfx.evidence.report.advice import next_step
from rfx.evidence.report.curve import page, recipe_yaml, table_csv
from rfx.evidence.report.curve_plot import plot
from rfx.evidence.report.facts import budget_text, headline, round_texts, search_sentences
from rfx.evidence.report.rival import sweep_rival_text
from rfx.evidence.report.terminal import summary
from rfx.evidence.report.write import render
from rfx.evidence.sound import contradictions
from rfx.evidence.sound_curve import curve_contradictions
from rfx.evidence.words import target_text
from rfx.pipeline.gate import gate
from tests.evidence.test_sweep_rival import curve_of, point, rival
from tests.evidences import make_accuracy, make_evidence, make_latency

RECIPE = {"name": "reviews", "task": "text-classification", "budget": {"size": "18MB"}}


def part(size=17_900_000, limit=18_000_000, **more):
    return SizePart(
        **{
            "files": {"model.onnx": size},
            "bytes": size,
            "dense_bytes": 90_000_000,
            "limit": limit,
            "predicted": 17_900_100.0,
            "rounds": [
                SizeRound(budget=18e6, predicted=18e6, bytes=18_000_500, note="too large"),
                SizeRound(budget=17.9e6, predicted=17.9e6, bytes=size, note="within the size"),
            ],
            **more,
        }
    )


def searched():
    return SearchPart(
        method="knapsack",
        budget=18e6,
        budget_unit="bytes",
        value_kept=0.9,
        price=1e-8,
        importance_total=1.0,
    )


def sized(size=17_900_000, **more):
    """Evidence of a run with a size budget."""
    own = part(size, **more)
    made = make_evidence(latency=make_latency(target=None), recipe=RECIPE, size=own, table=False)
    made = made.model_copy(update={"search": searched()})
    return made.model_copy(update={"gates": [*made.gates, size_gate(own)]})


def test_bytes_are_judged_exactly():
    for size, outcome in ((18_000_000, "pass"), (18_000_001, "fail")):
        made = size_gate(part(size))
        assert (made.outcome, made.value, made.limit, made.interval) == (
            *(outcome, size, 18_000_000, None),
        )
        assert f"{size} bytes of at most 18000000" in made.detail and "90000000" in made.detail
    assert size_gate(part(limit=None)) is None


def test_a_file_that_is_too_large_fails_and_says_what_to_do():
    good, bad = sized(), sized(18_000_001)
    assert (good.outcome, bad.outcome) == ("pass", "fail")
    assert exit_code(good) == ExitCode.PASS and exit_code(bad) == ExitCode.GATE_FAILED
    assert "--size" in next_step(bad) and "larger than its limit" in next_step(bad)


def test_gate_judges_it_again():
    for made in (sized(), sized(18_000_001)):
        assert list(contradictions(made)) == []
        again = check(made)
        assert next(g for g in again if g.name == "size") == size_gate(made.size)
        assert [g.name for g in again].count("size") == 1
    assert "size" not in [g.name for g in check(make_evidence(size=part(limit=None)))]
    assert gate(sized()).outcome == "pass"


def terminal(evidence):
    stream = io.StringIO()
    console = Console(file=stream, width=200)
    for line in summary(evidence):
        console.print(line)
    return stream.getvalue()


@pytest.mark.parametrize("asked", [True, False])
def test_every_report_says_the_size_before_and_after(asked):
    made = sized() if asked else make_evidence(size=part(limit=None, rounds=[], predicted=None))
    for text in (
        terminal(made),
        *(render(made, name) for name in ("markdown", "card", "html", "junit")),
    ):
        assert "17.9 MB in place of 90.0 MB" in text
        assert ("at most 18.0 MB" in text) == asked
    assert "MB" not in headline(make_evidence())  # of an earlier version, which did not say it


def test_a_size_budget_is_said_as_one():
    made = sized()
    assert budget_text(made) == "file of at most 18MB"
    first, last = round_texts(made)
    assert "18000500 bytes. That is larger than the size." in first
    assert last.endswith("17900000 bytes. That is within the size.")
    assert "1 MB more would buy 1.0 % of the importance." in search_sentences(searched())
    assert '<testcase classname="rfx.' in render(made, "junit")
    assert 'name="size"' in render(made, "junit")


FORGED = {
    "a smaller file": (lambda d: d["size"].update(bytes=17_000_000), "together have 17900000"),
    "a file that is not there": (
        lambda d: d["size"].update(files={"other.onnx": 17_900_000}),
        "'other.onnx', which the evidence does not list",
    ),
    "no bytes": (lambda d: d["size"].update(bytes=0, files={"model.onnx": 0}), "have 0 bytes"),
    "a dense model without bytes": (lambda d: d["size"].update(dense_bytes=0), "model 0"),
    "a higher limit": (
        lambda d: d["size"].update(limit=20_000_000),
        "limited to 20000000 bytes, the recipe says 18000000",
    ),
    "another recipe": (
        lambda d: d["recipe"]["budget"].update(size="20MB"),
        "limited to 18000000 bytes, the recipe says 20000000",
    ),
    "a recipe without a size": (
        lambda d: d["recipe"]["budget"].update(size=None),
        "the recipe says None",
    ),
    "a recipe whose size is none": (
        lambda d: d["recipe"]["budget"].update(size="18"),
        "recipe.budget.size is '18', and no size",
    ),
    "a gate's value": (lambda d: d["gates"][-1].update(value=1.0), "other numbers"),
    "a gate's limit": (lambda d: d["gates"][-1].update(limit=19e6), "other numbers"),
    "a gate's interval": (lambda d: d["gates"][-1].update(interval=[1, 2]), "other numbers"),
    "a verdict": (lambda d: d["gates"][-1].update(outcome="not-judged"), "recorded as not-judged"),
    "no gate": (lambda d: d["gates"].pop(), "there is no gate of it"),
    "no part": (lambda d: d.update(size=None), "there is no part of it"),
    "a gate without a limit": (
        lambda d: (d["size"].update(limit=None), d["recipe"]["budget"].update(size=None)),
        "no limit to judge by",
    ),
    "a gate alone": (
        lambda d: (d.update(size=None), d["recipe"]["budget"].update(size=None)),
        "a gate and no part",
    ),
    "a recipe without a budget": (
        lambda d: d["recipe"].update(budget=None),
        "searched for under a size, and the recipe says none",
    ),
    "a size that was never asked for": (
        lambda d: (
            d["size"].update(limit=None),
            d["recipe"]["budget"].update(size=None),
            d["gates"].pop(),
        ),
        "searched for under a size, and the recipe says none",
    ),
    "a size of another file": (
        lambda d: (
            d["files"].update({"plan.json": "0" * 64}),
            d["size"].update(files={"plan.json": 17_900_000}),
        ),
        "of plan.json, and of no ONNX file",
    ),
    "no size at all": (
        lambda d: (
            d.update(size=None),
            d["recipe"]["budget"].update(size=None),
            d["gates"].pop(),
        ),
        "searched for under a size, and the recipe says none",
    ),
}
PAGE = Path(__file__).parents[2] / "docs" / "pages" / "explanation" / "evidence.md"


def test_the_page_lists_these_forgeries_too():
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    listed = text.split("Under a size: ")[1].split(".")[0].split("; ")
    assert sorted(listed) == sorted(FORGED)


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_size_is_refused(name):
    damage, said = FORGED[name]
    data = json.loads(sized().model_dump_json())
    damage(data)
    forged = Evidence.model_validate(data)
    assert any(said in found for found in contradictions(forged)), list(contradictions(forged))
    with pytest.raises(UsageError, match="contradicts itself"):
        gate(forged)


def test_another_file_that_was_judged_may_lie_deeper_and_be_called_otherwise():
    made = sized(files={"quantized": 17_900_000})
    listed = {"model.onnx": "0" * 64, "mine/quantized": "1" * 64}
    same = {"detail": f"{OTHER_FILE}outputs: 1e-6"}
    gates = [g.model_copy(update=same) if g.name == "same" else g for g in made.gates]
    other = made.model_copy(update={"files": listed, "gates": gates})
    assert of_another_file(gates) and list(contradictions(other)) == []
    # Without that the size is of no model.
    assert any(
        "no ONNX file" in said for said in contradictions(made.model_copy(update={"files": listed}))
    )


def test_a_forged_pass_is_refused():
    data = json.loads(sized(18_000_001).model_dump_json())
    data["gates"][-1]["outcome"] = "pass"
    with pytest.raises(UsageError, match="its numbers say fail"):
        gate(Evidence.model_validate(data))


def test_the_file_itself_has_the_size_that_is_recorded(tmp_path):
    from rfx.core import manifest
    from rfx.evidence.report.write import write_reports

    (tmp_path / "model.onnx").write_bytes(b"a graph")
    files = manifest.hashes(tmp_path)

    def judged(size):
        own = part(size)
        made = make_evidence(
            latency=make_latency(target=None), recipe=RECIPE, size=own, table=False, files=files
        )
        made = made.model_copy(update={"gates": [*made.gates, size_gate(own)]})
        written = write_reports(made, tmp_path, lambda text: None)
        manifest.seal(tmp_path, manifest.OUTPUT, files, [file.name for file in written])
        return gate(made, files=tmp_path)

    assert judged(7).outcome == "pass"
    with pytest.raises(UsageError, match=r"model\.onnx has 7 bytes, the evidence says 6"):
        judged(6)
    files["gone.onnx"] = "0" * 64
    own = {"files": {"gone.onnx": 17_900_000}}
    made = sized(**own).model_copy(update={"files": files})
    assert "gone.onnx, whose size was judged, is gone" in list(differences(made, tmp_path))


def swept(**more):
    """A sweep over sizes whose rival has 24 MB of 90."""
    points = [
        point(size, ratio=0.5, drop=drop, divergence=drop / 50).model_copy(
            update={"bytes": int(size) - 1000}
        )
        for size, drop in ((30e6, 0.2), (20e6, 0.5), (15e6, 2.0))
    ]
    made = curve_of(*points, rival=rival(drop=0.1), precision="fp32", budget="size", max_drop=1.5)
    return made.model_copy(update={"dense_bytes": 90_000_000, **more})


def test_the_cost_of_a_sweep_over_sizes_is_the_size():
    curve = swept()
    assert [r.name for r in curve.rows] == ["30MB", "20MB", "15MB"]
    assert [r.cost for r in curve.rows] == pytest.approx([0.33332, 0.22221, 0.16666], abs=1e-4)
    assert curve.rival_cost == pytest.approx(24 / 90)
    # Of 30 MB the quantized dense model is smaller and loses less.
    assert [r.dominated_by for r in curve.rows] == ["int8", "", ""]
    assert "larger than the dense model in int8" in sweep_rival_text(curve)
    assert "--latency" not in sweep_rival_text(curve)
    best, _ = recommend(curve.rows, curve.max_drop)
    assert best.name == "20MB"
    assert "size: 20MB" in recipe_yaml(curve)
    assert list(curve_contradictions(curve)) == []


def test_a_sweep_over_sizes_says_them_everywhere():
    curve = swept()
    csv = table_csv(curve).splitlines()
    at = csv[0].split(",").index("bytes")
    assert [row.split(",")[at] for row in csv[1:]] == [
        "29999000",
        "19999000",
        "14999000",
        "24000000",
    ]
    assert [row.split(",")[0] for row in csv[1:]] == ["30000000", "20000000", "15000000", ""]
    html = page(curve)
    assert "Recommended: size 20MB" in html and "size of the file, share of dense" in html
    assert "2e+07" not in html and "size of the file" in plot(curve)


def test_a_sweep_over_sizes_fits_the_terminal(capsys, tmp_path):
    print_curve(swept(), tmp_path)
    said = capsys.readouterr().out
    assert "20MB" in said and "Recommended: size 20MB" in said and "e+07" not in said
    print_curve(swept(max_drop=0.01), tmp_path)
    assert "sweep over larger sizes." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"dense_bytes": None}, "the size of the dense model is missing"),
        ({"dense_bytes": 0}, "the dense model's file has 0 bytes"),
    ],
)
def test_a_sweep_without_sizes_is_refused(damage, said):
    assert any(said in found for found in curve_contradictions(swept(**damage)))
    bad = swept()
    bad.points[0].bytes = 0
    assert any("has 0 bytes" in found for found in curve_contradictions(bad))


def test_a_sweep_of_an_earlier_version_is_read():
    data = json.loads(curve_of(point(0.5)).model_dump_json())
    del data["dense_bytes"]
    for p in data["points"]:
        del p["bytes"]
    curve = Curve.model_validate(data)
    assert curve.rows[0].cost == pytest.approx(0.5) and curve.rows[0].name == "0.5"
    assert make_accuracy().drop == 0.5 and target_text("flops", 0.25) == "0.25"
