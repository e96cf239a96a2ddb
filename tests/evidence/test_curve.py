"""A sweep recommends no point whose answers are no longer the dense model's."""

from rfx.evidence.curve import Curve, Point, none_passes, recommend
from rfx.evidence.report.curve import page, recipe_yaml, rows_table
from tests import commands
from tests.evidences import make_accuracy, make_evidence


def curve_of(*points, max_drop=5.0):
    """A curve of points, each a target, its drop, its agreement and perhaps a limit."""
    evidence = make_evidence()

    def point(target, drop, share, limit=None):
        interval = (share - 0.01, min(1.0, share + 0.01))
        accuracy = make_accuracy(
            drop, 0.1, max_drop, agreement=share, agreement_interval=interval, min_agreement=limit
        )
        return Point(target=target, seed=0, flops_ratio=target, accuracy=accuracy)

    return Curve(
        tool="t",
        created="c",
        recipe={},
        model=evidence.model,
        environment={},
        data=evidence.data,
        budget="flops",
        max_drop=max_drop,
        points=[point(*p) for p in points],
    )


def test_a_point_that_no_longer_answers_as_the_dense_model_is_not_recommended():
    """A metric can stay, or rise, while the answers change."""
    curve = curve_of((0.8, 0.2, 0.97), (0.5, -20.0, 0.4))
    assert [(r.agreement, r.alike) for r in curve.rows] == [(0.97, "pass"), (0.4, "fail")]
    best, why = recommend(curve.rows, curve.max_drop)
    assert best.target == 0.8 and "without 0.5, where the model no longer answers" in why
    assert recipe_yaml(curve).splitlines()[-1].strip() == "flops: 0.8"
    text = page(curve)
    assert "97.0%" in text and "answers otherwise" in text and "fails the gate agreement" in text
    table = rows_table(curve)
    assert list(table.columns[4].cells) == ["97.0%", "40.0%"]
    assert list(table.columns[6].cells) == ["recommended", "answers otherwise"]


def test_a_sweep_goes_by_the_least_agreement_that_was_asked_for():
    strict = curve_of((0.8, 0.2, 0.97, 0.99), (0.7, 0.3, 0.96, 0.99))
    best, why = recommend(strict.rows, strict.max_drop)
    assert best is None and "still answers as the dense model does" in why
    assert none_passes(strict)
    doubted = curve_of((0.8, 0.2, 0.97, 0.9), (0.7, 0.3, 0.905, 0.9))
    assert doubted.rows[1].alike == "inconclusive"
    assert recommend(doubted.rows, doubted.max_drop)[0].target == 0.8  # surely
    alone = curve_of((0.7, 0.3, 0.905, 0.9))
    best, why = recommend(alone.rows, alone.max_drop)
    assert best.target == 0.7 and "is inconclusive" in why
    loose = curve_of((0.5, 0.3, 0.4, 0.3))
    assert recommend(loose.rows, loose.max_drop)[0].target == 0.5
    assert "--min-agreement" in commands.run("sweep", "--help", COLUMNS="200").output
