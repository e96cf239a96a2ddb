"""Numbers in words: signs are read rightly, shares have digits that count."""

import math

import pytest

from rfx.evidence.words import change, milliseconds, percent, point_range, points, step


def test_a_drop_is_lost_or_gained_and_never_negative():
    assert [points(x) for x in (-0.001, 0.0, 0.004, -0.2, 1.0)] == [
        "0.00 points lost",
        "0.00 points lost",
        "0.00 points lost",
        "0.20 points gained",
        "1.00 points lost",
    ]
    assert [change(x) for x in (-0.2, 1.0)] == ["0.20 gained", "1.00 lost"]
    assert "not a number" in points(math.nan) and "not a number" in change(math.inf)


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        ((0.1, 0.9), "0.10 to 0.90 points lost"),
        ((-0.3, 0.5), "0.30 points gained to 0.50 points lost"),
        ((-0.9, -0.1), "0.10 to 0.90 points gained"),
        ((-0.5, 0.0), "0.00 to 0.50 points gained"),
        ((math.nan, 1.0), "not a number of points"),
    ],
)
def test_an_interval_of_drops(interval, text):
    assert point_range(*interval) == text


def test_shares_keep_the_digits_that_count():
    shares = {
        2.7e-6: "0.0003 %",
        0.003: "0.3 %",
        0.053: "5.3 %",
        0.5: "50 %",
        0.9912: "99.12 %",
        1.0: "100 %",
        0.0: "0 %",
        math.nan: "an unknown share",
    }
    assert {s: percent(s) for s in shares} == shares


def test_latencies_and_steps_beside_them():
    assert [milliseconds(x) for x in (0.1347, 12.345, 250.0)] == [
        "0.135 ms",
        "12.35 ms",
        "250.0 ms",
    ]
    assert [step(x) for x in (0.13, 6.8, 80.0, math.nan)] == [0.01, 1.0, 1.0, 1.0]
