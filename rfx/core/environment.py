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


@lru_cache(maxsize=1)
def gpu_models() -> tuple[str, ...]:
    """Names of the NVIDIA GPUs as nvidia-smi gives them; empty without one."""
    if not shutil.which("nvidia-smi"):
        return ()
    return tuple(
        x.strip()
        for x in _output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]).splitlines()
    )


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
        "cores": os.cpu_count(),
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "gpus": list(gpu_models()),
        "versions": versions(),
    }
    try:
        import psutil

        facts["memory_gb"] = round(psutil.virtual_memory().total / 2**30, 1)
    except ImportError:
        pass
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
