"""A sweep shows the dense model quantized alone, and marks what that or another point dominates."""

import csv
import io
import json
import xml.etree.ElementTree as ET

import pytest
from rich.console import Console

from rfx.cli.results import print_curve
from rfx.core.errors import UsageError
from rfx.evidence.curve import Curve, Point
from rfx.evidence.precision import SweepRival, SweepRivalLatency
from rfx.evidence.read import read_curve
from rfx.evidence.report.curve import page, rows_table, table_csv, write_curve
from rfx.evidence.report.curve_plot import plot
from rfx.evidence.report.rival import sweep_rival_text
from tests.evidences import make_accuracy, make_evidence, make_latency


def rival(ratio=0.4, drop=0.3, divergence=0.002, precision="int8", **more):
    return SweepRival(
        precision=precision,
        method="ONNX Runtime",
        metric=0.9 - drop / 100,
        drop=drop,
        agreement=0.98,
        divergence=divergence,
        bytes=24_000_000,
        latency=SweepRivalLatency(
            ms=10 * ratio, dense_ms=10.0, ratio=ratio, interval=(ratio - 0.01, ratio + 0.01)
        ),
        **more,
    )


def point(target, ratio=None, drop=0.5, divergence=None, seed=0, **more):
    ratio = target if ratio is None else ratio
    return Point(
        target=target,
        seed=seed,
        latency=make_latency(ratio),
        accuracy=make_accuracy(drop, divergence=divergence, max_drop=5.0, **more),
    )


def curve_of(*points, rival=None, precision="fp32", max_drop=5.0, budget="latency"):
    evidence = make_evidence()
    return Curve(
        tool="rfx 0.1.0",
        created="2026-01-01T00:00:00+00:00",
        recipe={"name": "reviews", "workload": {"precision": precision}},
        model=evidence.model,
        environment={},
        data=evidence.data,
        budget=budget,
        max_drop=max_drop,
        rival=rival,
        points=list(points),
    )


def behind(curve):
    return {r.target: r.dominated_by for r in curve.rows}


MIXED = (
    point(0.7, drop=0.1, divergence=0.004),
    point(0.5, drop=0.6, divergence=0.01),
    point(0.3, drop=1.0, divergence=0.02),
)


def test_the_rival_dominates_what_is_slower_and_loses_no_less():
    assert behind(curve_of(*MIXED)) == {0.7: "", 0.5: "", 0.3: ""}
    curve = curve_of(*MIXED, rival=rival())
    # 0.7 has lost less of the metric than the rival, by chance: it diverges more.
    assert behind(curve) == {0.7: "int8", 0.5: "int8", 0.3: ""}
    assert curve.by_divergence and curve.front == [(0.3, 1.0), (0.4, pytest.approx(0.3))]


def test_where_a_divergence_is_not_known_the_metric_decides():
    for curve in (
        curve_of(point(0.7, drop=0.1), *MIXED[1:], rival=rival()),
        curve_of(*MIXED, rival=rival(divergence=None)),
        curve_of(*MIXED, rival=rival(divergence=float("nan"))),
    ):
        assert not curve.by_divergence
        assert behind(curve) == {0.7: "", 0.5: "int8", 0.3: ""}


def test_a_target_is_dominated_by_the_cheapest_that_loses_no_more_and_never_by_itself():
    curve = curve_of(
        point(0.8, drop=1.0), point(0.7, drop=0.5), point(0.6, drop=0.5), point(0.5, drop=2.0)
    )
    assert behind(curve) == {0.8: "0.6", 0.7: "0.6", 0.6: "", 0.5: ""}
    equal = curve_of(point(0.8, ratio=0.5), point(0.7, ratio=0.5))
    assert behind(equal) == {0.8: "", 0.7: ""}
    same = curve_of(point(0.5), rival=rival(ratio=0.5, drop=0.5, divergence=None))
    assert behind(same) == {0.5: "int8"}  # it needs no pruning


def test_a_target_that_answers_otherwise_dominates_none():
    ruined = point(0.3, drop=-2.0, agreement=0.4, agreement_interval=(0.39, 0.41))
    assert behind(curve_of(point(0.8), ruined)) == {0.8: "", 0.3: ""}


def test_the_mean_over_the_seeds_is_compared():
    points = [point(0.5, 0.5, divergence=0.004), point(0.5, 0.5, divergence=0.008, seed=1)]
    ahead = curve_of(*points, rival=rival(divergence=0.007))
    assert behind(ahead) == {0.5: ""} and ahead.rows[0].divergence == pytest.approx(0.006)
    assert behind(curve_of(*points, rival=rival(divergence=0.005))) == {0.5: "int8"}


def test_a_latency_that_was_not_measured_is_compared_with_none():
    counted = Point(target=0.6, seed=0, flops_ratio=0.6, accuracy=make_accuracy(2.0, max_drop=5.0))
    for curve in (
        curve_of(counted, rival=rival(), budget="flops"),
        curve_of(point(0.6, drop=2.0), rival=rival().model_copy(update={"latency": None})),
    ):
        assert behind(curve) == {0.6: ""} and curve.rival_cost is None
        assert sweep_rival_text(curve).endswith("its file is 24.0 MB.")
        assert "dense in int8" not in page(curve)


def test_how_many_targets_are_behind_is_said_and_what_to_do():
    text = sweep_rival_text(curve_of(*MIXED, rival=rival()))
    assert text.startswith(
        "The dense model in int8, not pruned (ONNX Runtime), takes 0.400 of the dense latency and "
        "has a metric of 89.70, 0.30 points lost, divergence 0.002; its file is 24.0 MB."
    )
    assert text.endswith(
        " 2 of 3 targets are slower than the dense model in int8 and lose no less (by their "
        "divergence): prune and quantize in one, with --precision int8 and --latency below 0.40."
    )
    fewer = curve_of(MIXED[0], MIXED[2], rival=rival())
    assert " 1 of 2 targets is slower than the dense model in int8 and loses no less (by" in (
        sweep_rival_text(fewer)
    )
    served = sweep_rival_text(curve_of(*MIXED[:1], rival=rival(), precision="int8"))
    assert served.endswith(
        " The target is slower than the dense model in int8 and loses no less (by their "
        "divergence), the recommended one too: ask for lower targets."
    )
    ahead = sweep_rival_text(curve_of(*MIXED, rival=rival(ratio=0.8)))
    assert ahead.endswith(
        " Each target is faster than the dense model in int8 or loses less (by their divergence)."
    )
    assert sweep_rival_text(curve_of(*MIXED)) == ""


def test_every_form_of_a_sweep_shows_the_rival_and_what_is_dominated(tmp_path, capsys):
    curve = curve_of(*MIXED, rival=rival(), max_drop=0.3)
    lines = list(csv.DictReader(io.StringIO(table_csv(curve))))
    assert [(line["target"], line["dominated_by"]) for line in lines] == [
        ("0.7", "int8"),
        ("0.5", "int8"),
        ("0.3", ""),
        ("", ""),
    ]
    last = lines[-1]
    assert last["note"] == "the dense model in int8, not pruned" and last["metric"] == "accuracy"
    numbers = {"latency_ratio": 0.4, "latency_low": 0.39, "latency_high": 0.41, "speedup": 2.5}
    numbers |= {"dense": 0.9, "pruned": 0.897, "drop_points": 0.3, "agreement": 0.98}
    numbers |= {"divergence": 0.002}
    assert {k: float(last[k]) for k in numbers} == pytest.approx(numbers)
    assert all(last[k] == "" for k in ("seed", "drop_low", "drop_high", "flops_ratio"))

    table = rows_table(curve)
    assert list(table.columns[0].cells) == ["0.7", "0.5", "0.3", "dense in int8"]
    assert list(table.columns[-1].cells) == [
        "recommended\ndominated\nby int8",
        "dominated\nby int8",
        "",
        "not pruned",
    ]
    assert list(table.columns[-2].cells) == ["0.004", "0.01", "0.02", "0.002"]
    shown = Console(width=80, file=io.StringIO(), record=True)
    shown.print(table)
    drawn = shown.export_text()
    assert "…" not in drawn and all(line[-1] in "┓┃┩│┘" for line in drawn.splitlines())

    text = page(curve)
    assert sweep_rival_text(curve) in text and "dominated by int8" in text
    assert ">dense in int8</th>" in text
    assert "or than the dense model quantized alone, and loses no less, by the divergence" in text
    assert "recommended, dominated by int8" in text
    drawn = plot(curve, standalone=True)
    said = ET.fromstring(drawn.encode()).find("{http://www.w3.org/2000/svg}desc").text
    assert "at 0.500 0.60 points lost, dominated; at 0.300 1.00 points lost; dense in int8 at" in (
        said
    )
    assert "pruned, dominated</text>" in drawn and "dense in int8</text>" in drawn
    plain = plot(curve_of(MIXED[2]), standalone=True)
    assert "dominated" not in plain and "int8" not in plain

    print_curve(curve, tmp_path)
    shown = " ".join(capsys.readouterr().out.split())
    assert "2 of 3 targets are slower than the dense model in int8" in shown

    write_curve(curve, tmp_path)
    again = read_curve(tmp_path)
    assert again == curve and again.rows == curve.rows


def edited(**changes):
    def edit(data):
        for name, value in changes.items():
            *way, last = name.split("__")
            place = data["rival"]
            for step in way:
                place = place[step]
            place[last] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (edited(drop=-1.0), "the rival loses -1 points, but the metrics differ by 0.3"),
        (edited(metric=0.95), "but the metrics differ by -5"),
        (edited(agreement=1.2), "the rival's agreement is 1.2"),
        (edited(divergence=-0.5), "the rival's divergence is -0.5"),
        (edited(bytes=0), "the rival's file has 0 bytes"),
        (edited(latency__ratio=0.9), "by their medians 0.4"),
        (edited(latency__ms=9.0), "by their medians 0.9"),
        (edited(latency__ms=0.0), "the rival takes 0 ms"),
        (edited(latency__dense_ms=None), "the dense model nan ms"),
        (edited(latency__ratio=None), "is no number"),
        (edited(latency__interval=[0.8, 0.9]), "its interval 0.8 to 0.9"),
        (edited(speed=1.0), "rival.speed"),
    ],
)
def test_a_sweep_whose_rival_contradicts_itself_is_refused(edit, said, tmp_path):
    file = tmp_path / "sweep.json"
    data = json.loads(curve_of(*MIXED, rival=rival()).model_dump_json())
    file.write_text(json.dumps(data), encoding="utf-8")
    read_curve(file)
    edit(data)
    file.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(UsageError) as error:
        read_curve(file)
    assert said in str(error.value.got) and str(file) in str(error.value.got)


def test_the_rival_of_a_stranger_brings_no_markup():
    hostile = rival(precision="<script>alert(1)</script>\x1b[31m\n| x").model_copy(
        update={"method": "<img src=x>\n# head"}
    )
    curve = curve_of(*MIXED, rival=hostile)
    for text in (page(curve), plot(curve, standalone=True)):
        assert "<script" not in text and "<img" not in text and "\x1b" not in text
    ET.fromstring(plot(curve, standalone=True).encode())
    for cell in rows_table(curve).columns[0].cells:
        assert "\x1b" not in cell and "\n" not in cell
    assert "\n" not in sweep_rival_text(curve)
