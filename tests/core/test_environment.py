"""The facts of a machine, as evidence keeps them."""

import json
import re
from pathlib import Path

import pytest

from rfx.core import environment as facts

CPUINFO = """processor\t: 0
model name\t: A Processor
flags\t\t: fpu avx avx2 avx512f avx512_vnni amx_int8
"""


@pytest.fixture
def machine(monkeypatch):
    """A Linux machine whose /proc/cpuinfo says this. What was asked once is kept: it is forgotten
    before and after."""
    asked = (facts.cpu_model, facts.cpu_features)

    def of(text):
        monkeypatch.setattr(Path, "read_text", lambda self, **_: text)
        monkeypatch.setattr(facts.platform, "system", lambda: "Linux")
        for fact in asked:
            fact.cache_clear()

    yield of
    for fact in asked:
        fact.cache_clear()


def test_a_cpu_is_named_with_its_widest_vectors(machine):
    machine(CPUINFO)
    assert facts.cpu_model() == "A Processor (avx512f)"
    assert facts.cpu_features() == ("AVX2", "AVX-512", "AVX-512 VNNI", "AMX INT8")


def test_an_arm_cpu_names_its_own(machine):
    machine("Hardware\t: A Board\nFeatures\t: fp asimd asimddp i8mm\n")
    assert facts.cpu_model() == "A Board"
    assert {"dotprod", "i8mm"} <= set(facts.cpu_features())


def test_a_system_that_says_nothing_has_no_features(machine, monkeypatch):
    machine("")
    monkeypatch.setattr(facts.platform, "processor", lambda: "")
    monkeypatch.setattr(facts.platform, "machine", lambda: "riscv64")
    assert facts.cpu_model() == "riscv64" and facts.cpu_features() == ()


def test_what_evidence_keeps_is_json_and_names_the_packages():
    known = facts.environment()
    assert json.loads(json.dumps(known)) == known
    assert known["versions"]["torch"] and known["cores"] >= 1 and known["memory_gb"] > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", facts.now())
