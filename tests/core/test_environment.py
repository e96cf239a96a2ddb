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

    def of(text, system="Linux", processor="x86_64"):
        monkeypatch.setattr(Path, "read_text", lambda self, **_: text)
        monkeypatch.setattr(facts.platform, "system", lambda: system)
        monkeypatch.setattr(facts.platform, "machine", lambda: processor)
        facts._cpu.cache_clear()

    yield of
    facts._cpu.cache_clear()


def cpuinfo(*flags):
    return f"model name\t: A Processor\nflags\t\t: fpu sse2 {' '.join(flags)}\n"


def test_a_cpu_is_named_with_its_instruction_sets(machine):
    machine(CPUINFO)
    assert facts.cpu_model() == "A Processor (avx2, avx512f, avx512_vnni, amx_int8)"
    assert facts.cpu_features() == ("AVX2", "AVX-512", "AVX-512 VNNI", "AMX INT8")


def test_an_arm_cpu_names_its_own(machine):
    machine("Hardware\t: A Board\nFeatures\t: fp asimd asimddp i8mm bf16\n")
    assert facts.cpu_model() == "A Board (asimddp, i8mm)"
    assert facts.cpu_features() == ("dotprod", "i8mm", "BF16")


def test_a_mac_is_asked_in_its_own_way(machine, monkeypatch):
    answers = {
        "machdep.cpu.brand_string": "Apple M1",
        "hw.optional.arm.FEAT_DotProd": "1",
        "hw.optional.arm.FEAT_I8MM": "0",
    }
    monkeypatch.setattr(facts, "_output", lambda command: answers.get(command[-1], ""))
    machine("", system="Darwin", processor="arm64")
    assert facts.cpu_model() == "Apple M1 (asimddp)" and facts.cpu_features() == ("dotprod",)
    assert facts.int8_products() == "wide"


@pytest.mark.parametrize("order", [1, -1])
def test_the_sets_of_a_device_stand_in_one_order_and_all_are_there(machine, order):
    sets = ["avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "avx512_bf16"]
    arm = ["asimddp", "i8mm"]
    machine(cpuinfo("avx", "amx_bf16", "sve", *[*sets, *arm][::order]))
    assert facts.cpu_model() == f"A Processor ({', '.join([*sets, *arm])})"


def test_cpus_of_one_name_with_other_sets_are_other_devices(machine):
    seen = set()
    for sets in ((), ("avx2",), ("avx2", "avx_vnni"), ("avx2", "avx512f", "avx512_vnni")):
        machine(cpuinfo(*sets))
        seen.add(facts.cpu_model())
        assert facts.split_device(facts.cpu_model()) == ("A Processor", sets)
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("device", "parts"),
    [
        ("A CPU (avx512f)", ("A CPU", ("avx512f",))),  # as earlier versions wrote it
        ("A CPU (avx)", ("A CPU", ("avx",))),
        ("A CPU (Skylake, IBRS)", ("A CPU (Skylake, IBRS)", ())),
        ("A CPU (Skylake) (avx2)", ("A CPU (Skylake)", ("avx2",))),
        ("NVIDIA Orin (sm87)", ("NVIDIA Orin (sm87)", ())),
        ("A CPU (avx2", ("A CPU (avx2", ())),
        ("", ("", ())),
    ],
)
def test_a_device_is_split_into_its_name_and_its_sets(device, parts):
    assert facts.split_device(device) == parts


@pytest.mark.parametrize(
    ("sets", "processor", "products"),
    [
        (("avx2", "avx_vnni"), "x86_64", "wide"),
        (("avx2", "avx512f", "avx512_vnni"), "x86_64", "wide"),
        (("avx2", "avx512f", "amx_int8"), "AMD64", "wide"),
        (("asimd", "asimddp"), "aarch64", "wide"),
        (("asimd", "i8mm"), "aarch64", "wide"),
        (("avx2",), "x86_64", "saturating"),
        (("avx2", "avx512f", "avx512_bf16"), "x86_64", "saturating"),
        ((), "x86_64", "saturating"),
        (("asimd",), "aarch64", "none"),
        ((), "riscv64", "none"),
    ],
)
def test_products_of_8_bits_are_known_by_the_sets(machine, sets, processor, products):
    machine(cpuinfo(*sets), processor=processor)
    assert facts.int8_products() == products
    assert facts.environment()["int8_products"] == products


def test_a_system_that_says_nothing_has_no_features(machine, monkeypatch):
    machine("", processor="riscv64")
    monkeypatch.setattr(facts.platform, "processor", lambda: "")
    assert facts.cpu_model() == "riscv64" and facts.cpu_features() == ()


def test_what_evidence_keeps_is_json_and_names_the_packages():
    known = facts.environment()
    assert json.loads(json.dumps(known)) == known
    assert known["versions"]["torch"] and known["cores"] >= 1 and known["memory_gb"] > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", facts.now())
