"""On what machine and with what software something was measured: a part of every evidence, and `rfx
env`."""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

PACKAGES = (
    "torch",
    "transformers",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "tensorrt-rtx",
    "openvino",
    "nncf",
    "nvidia-modelopt",
    "polygraphy",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "nvidia-ml-py",
    "numpy",
    "scipy",
    "scikit-learn",
    "safetensors",
)


class _Set(NamedTuple):
    """A set of instructions on which the speed of matrix products depends."""

    word: str  # as people call it
    flag: str  # as Linux lists it, and the name of a CPU's device
    macos: str = ""  # as macOS answers to it, under hw.optional
    names_device: bool = True  # whether a CPU without it is another device to a latency table


_SETS = (
    _Set("AVX2", "avx2"),
    _Set("AVX VNNI", "avx_vnni"),
    _Set("AVX-512", "avx512f"),
    _Set("AVX-512 VNNI", "avx512_vnni"),
    _Set("AMX INT8", "amx_int8"),
    _Set("AVX-512 BF16", "avx512_bf16"),
    _Set("dotprod", "asimddp", "arm.FEAT_DotProd"),
    _Set("i8mm", "i8mm", "arm.FEAT_I8MM"),
    _Set("AMX BF16", "amx_bf16", names_device=False),
    _Set("BF16", "bf16", "arm.FEAT_BF16", names_device=False),
    _Set("SVE", "sve", names_device=False),
)
# With these, products of u8 and s8 are summed in 32 bits.
_WIDE = frozenset({"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"})
_X86 = frozenset({"x86_64", "amd64", "x86", "i386", "i686"})
# What a device may end in: today's list, or the widest vector extension alone, as earlier versions
# wrote it.
_LISTED = frozenset({"avx", *(s.flag for s in _SETS if s.names_device)})

Products = Literal["wide", "saturating", "none"]


@lru_cache(maxsize=1)
def _cpu() -> tuple[str, frozenset[str]]:
    """The CPU's model name, and the flags of `_SETS` that it has: none where the system does not
    say."""
    name, flags = "", set[str]()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        key, value = key.strip().lower(), value.strip()
        if key in ("model name", "hardware") and not name:
            name = value
        elif key in ("flags", "features") and not flags:
            flags = set(value.split())
    if platform.system() == "Darwin":
        name = name or _output(["sysctl", "-n", "machdep.cpu.brand_string"])
        flags |= {
            s.flag
            for s in _SETS
            if s.macos and _output(["sysctl", "-n", f"hw.optional.{s.macos}"]) == "1"
        }
    name = name or platform.processor() or platform.machine() or "unknown CPU"
    return name, frozenset(flags & {s.flag for s in _SETS})


def cpu_model() -> str:
    """The CPU as a device: its model name and those of its instruction sets by which a runtime
    picks its kernels, in a fixed order. Many CPUs share a name (virtual machines give "AMD EPYC"
    for several generations), so that CPUs with other sets are other devices."""
    name, flags = _cpu()
    listed = [s.flag for s in _SETS if s.names_device and s.flag in flags]
    return f"{name} ({', '.join(listed)})" if listed else name


def split_device(device: str) -> tuple[str, tuple[str, ...]]:
    """The name and the instruction sets of what `cpu_model` gives, today or in earlier versions,
    which named the widest alone. A device that ends in no such list has none."""
    name, bracket, rest = device.rpartition(" (")
    listed = tuple(rest.removesuffix(")").split(", "))
    if not bracket or not rest.endswith(")") or not _LISTED.issuperset(listed):
        return device, ()
    return name, listed


def cpu_features() -> tuple[str, ...]:
    """The instruction sets of this CPU on which the speed of matrix products depends: "AVX-512",
    "AVX-512 VNNI", "AMX INT8" and so on, on ARM "dotprod" and "i8mm". Empty where the system does
    not say."""
    flags = _cpu()[1]
    return tuple(s.word for s in _SETS if s.flag in flags)


def int8_products() -> Products:
    """How this CPU sums products of an unsigned and a signed integer of 8 bits.

    Returns:
        "wide": in 32 bits, in one instruction, so that no sum overflows. "saturating": two at a
        time in 16 bits, which overflows unless one side keeps to 7 bits; every x86 CPU that shows
        no better. "none": there is no such instruction, or the system does not say.
    """
    if _cpu()[1] & _WIDE:
        return "wide"
    return "saturating" if platform.machine().lower() in _X86 else "none"


@lru_cache(maxsize=1)
def gpu_models() -> tuple[str, ...]:
    """Names of the NVIDIA GPUs as nvidia-smi gives them; empty without one."""
    if not shutil.which("nvidia-smi"):
        return ()
    return tuple(
        x.strip()
        for x in _output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]).splitlines()
    )


def memory_bytes() -> int | None:
    """The machine's physical memory; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return None


def versions() -> dict[str, str]:
    """Installed versions of the packages that matter, read from their metadata: nothing heavy is
    imported."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def tool() -> str:
    """Name and version of this software, for evidence."""
    from rfx.core.version import __version__

    return f"rfx {__version__}"


def now() -> str:
    """ISO 8601, UTC, whole seconds."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def environment() -> dict[str, Any]:
    """JSON-ready facts: python, system, CPU, cores this process may use, memory, GPUs, versions."""
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_model(),
        "cpu_features": list(cpu_features()),
        "int8_products": int8_products(),
        "cores": os.cpu_count(),
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "gpus": list(gpu_models()),
        "versions": versions(),
    }
    memory = memory_bytes()
    if memory is not None:
        facts["memory_gb"] = round(memory / 2**30, 1)
    if gpu_models():
        facts["driver"] = _output(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        ).split("\n")[0]
    return facts


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
