"""Sizes of files are read with their unit alone, and said without loss."""

import random

import pytest

from rfx.core.sizes import UNITS, exact_size, parse_size, size_words


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("25MB", 25_000_000),
        ("25 mb", 25_000_000),
        ("24.7MB", 24_700_000),  # whose product of floats is a byte less
        ("1.5 GiB", 3 << 29),
        ("300kB", 300_000),
        ("300KB", 300_000),
        ("2KiB", 2048),
        ("17B", 17),
        ("0.0015kB", 1),
    ],
)
def test_a_size_has_a_number_and_a_unit(text, count):
    assert parse_size(text) == count


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            "25",
            "0.5",
            "MB",
            "-3MB",
            "1e3MB",
            "25XB",
            "2,5MB",
            "25 M B",
            "٣MB",
            "",
            "9" * 30 + "GB",
        ),
        *(25, 0.5, None, True, ["25MB"], {"MB": 25}, b"25MB"),
    ],
)
def test_what_is_no_size_is_refused(wrong):
    with pytest.raises(ValueError, match="not a size with a unit"):
        parse_size(wrong)


@pytest.mark.parametrize("wrong", ["0MB", "0.1B", "2000000GB"])
def test_a_size_is_one_that_a_file_can_have(wrong):
    with pytest.raises(ValueError, match="not a size that a file can have"):
        parse_size(wrong)


def test_what_is_said_is_read_as_the_same_number():
    rng = random.Random(0)
    counts = [1, 999, 1000, 1024, 25_000_000, 26_214_400, 17_997_330, 1_500_000_000, 5 << 30]
    counts += [rng.randrange(1, 1 << rng.randrange(4, 45)) for _ in range(500)]
    for count in counts:
        assert parse_size(exact_size(count)) == count, exact_size(count)
    assert [exact_size(n) for n in (25_000_000, 26_214_400, 17_997_330, 1_500_000)] == [
        *("25MB", "25MiB", "17997330B", "1.5MB")
    ]
    assert set(UNITS) == {"B", "kB", "MB", "GB", "KiB", "MiB", "GiB"}


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (17_997_330, "18.0 MB"),
        (90_910_443, "90.9 MB"),
        (999_999, "1.00 MB"),
        (9_996_000, "10.0 MB"),
        (812_345, "812 kB"),
        (1_500_000_000, "1.50 GB"),
        (17, "17 bytes"),
        (float("nan"), "an unknown size"),
    ],
)
def test_words_have_three_digits(count, said):
    assert size_words(count) == said
