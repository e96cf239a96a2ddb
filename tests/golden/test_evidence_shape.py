"""The evidence of a run keeps its keys, their types, and every value that depends on no clock and
no machine.

A deliberate change of the schema edits evidence_shape.json alone: `either` names the places whose
type depends on the machine, with the types they may have (none: absent); `exact` the values."""

import pytest

from tests.golden.lab import at, kept, shape


def test_keys_and_types(lab):
    expected, found = kept("evidence_shape.json"), shape(lab.evidence("bert", "rfx"))
    either = expected["either"]
    assert {p: t for p, t in found.items() if p not in either} == expected["shape"]
    assert {
        p: found.get(p, "absent") for p in either if found.get(p, "absent") not in either[p]
    } == {}


def test_values(lab):
    evidence = lab.evidence("bert", "rfx")
    for path, value in kept("evidence_shape.json")["exact"].items():
        found = at(evidence, path)
        if isinstance(value, float):
            assert found == pytest.approx(value, abs=1e-6), path
        else:
            assert found == value, path
