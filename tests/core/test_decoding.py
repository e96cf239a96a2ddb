"""Text that comes block by block is the text of the whole, and so is the place of a wrong byte."""

import codecs

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfx.core.decoding import NotDecodableError, decoded_blocks, joined

KEPT = {"deadline": None, "derandomize": True, "database": None, "max_examples": 60}


def cut(data, sizes):
    at = 0
    for size in sizes:
        yield data[at : at + size]
        at += size
    yield data[at:]


@settings(**KEPT)
@given(
    data=st.one_of(st.text(max_size=40).map(str.encode), st.binary(max_size=40)),
    sizes=st.lists(st.integers(0, 5), max_size=12),
    codec=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
)
def test_blocks_are_read_as_the_whole_is(data, sizes, codec):
    data = {"utf-16": codecs.BOM_UTF16_BE, "utf-32": codecs.BOM_UTF32_LE}.get(codec, b"") + data
    assert joined(cut(data, sizes)) == data
    try:
        text = data.decode(codec)
    except UnicodeDecodeError as expected:
        coming = cut(data, sizes)
        with pytest.raises(NotDecodableError) as error:
            decoded_blocks(coming, codec)
        if codec == "utf-8":
            assert (error.value.reason, error.value.start) == (expected.reason, expected.start)
            before = error.value.text.encode()
            assert joined([before, error.value.rest, *coming]) == data
    else:
        assert decoded_blocks(cut(data, sizes), codec) == text


def test_a_character_may_lie_in_several_blocks():
    data = "film \U0001f600".encode()
    assert decoded_blocks((bytes([b]) for b in data), "utf-8") == "film \U0001f600"
    with pytest.raises(NotDecodableError, match="unexpected end of data") as error:
        decoded_blocks((bytes([b]) for b in data[:-1]), "utf-8")
    assert error.value.start == 5
