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
from typing import Any

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
    "polygraphy",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "nvidia-ml-py",
    "numpy",
    "scipy",
    "scikit-learn",
    "safetensors",
)


@lru_cache(maxsize=1)
def cpu_model() -> str:
    """The CPU's model name and, on x86, its widest vector extension (the kernels a runtime picks
    depend on it)."""
    name, flags = "", ""
    try:
        for line in (
            Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        ):
            key, _, value = line.partition(":")
            key, value = key.strip().lower(), value.strip()
            if key in ("model name", "hardware") and not name:
                name = value
            elif key == "flags" and not flags:
                flags = f" {value} "
    except OSError:
        pass
    if not name and platform.system() == "Darwin":
        name = _output(["sysctl", "-n", "machdep.cpu.brand_string"])
    name = name or platform.processor() or platform.machine() or "unknown CPU"
    extension = next((e for e in ("avx512f", "avx2", "avx") if f" {e} " in flags), "")
    return f"{name} ({extension})" if extension else name


# The instruction sets that decide how fast matrix products are, in words: by the flags of Linux,
# and by the keys that macOS answers under hw.optional.
_FEATURES = {
    "AVX2": ("avx2",),
    "AVX-512": ("avx512f",),
    "AVX-512 VNNI": ("avx512_vnni",),
    "AVX VNNI": ("avx_vnni",),
    "AVX-512 BF16": ("avx512_bf16",),
    "AMX INT8": ("amx_int8",),
    "AMX BF16": ("amx_bf16",),
    "dotprod": ("asimddp", "arm.FEAT_DotProd"),
    "i8mm": ("i8mm", "arm.FEAT_I8MM"),
    "BF16": ("bf16", "arm.FEAT_BF16"),
    "SVE": ("sve",),
}


@lru_cache(maxsize=1)
def cpu_features() -> tuple[str, ...]:
    """The instruction sets of this CPU on which the speed of matrix products depends: "AVX-512",
    "AVX-512 VNNI", "AMX INT8" and so on, on ARM "dotprod" and "i8mm". Empty where the system does
    not say."""
    flags: set[str] = set()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            flags |= set(value.split())
            break
    if platform.system() == "Darwin":
        asked = [name for names in _FEATURES.values() for name in names if "." in name]
        flags |= {n for n in asked if _output(["sysctl", "-n", f"hw.optional.{n}"]) == "1"}
    return tuple(name for name, known in _FEATURES.items() if flags & set(known))


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
