"""What is timed, as a part of keys: equal where it says the same, and read as it was written."""

import pytest

from rfx.core.workload import Workload


def test_a_workload_is_read_as_it_was_written():
    image = Workload(8, {"height": 224, "width": 196}, "encode", 4, "fp16")
    assert Workload.from_json(image.to_json()) == image
    assert hash(Workload.from_json(image.to_json())) == hash(image)
    assert Workload.of_text(sequence=64).sequence == 64
    with pytest.raises(KeyError, match="sequence"):
        _ = image.sequence


def test_the_order_of_axes_says_nothing_and_all_else_does():
    one = Workload(axes={"height": 2, "width": 3})
    assert one == Workload(axes={"width": 3, "height": 2})
    assert hash(one) == hash(Workload(axes={"width": 3, "height": 2}))
    others = [
        Workload(axes={"height": 3, "width": 2}),
        Workload(2, one.axes),
        Workload(axes=one.axes, phase="decode"),
        Workload(axes=one.axes, threads=2),
        Workload(axes=one.axes, precision="fp16"),
    ]
    assert len({one, *others}) == 6


def test_it_cannot_be_changed():
    with pytest.raises(TypeError):
        Workload().axes["sequence"] = 4
