"""What the NVIDIA driver says of this machine: GPUs, compute capability, clocks. Neither torch nor
CUDA is needed."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rfx.core.errors import UsageError

if TYPE_CHECKING:
    from rfx.runtimes.base import Capabilities

# CUdevice_attribute
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


def gpu_count() -> tuple[int, str]:
    """How many CUDA GPUs the driver shows, and where there are none the reason."""
    library = _driver()
    if library is None:
        return 0, "no NVIDIA driver is installed (libcuda.so.1 not found)"
    status = library.cuInit(0)
    if status != 0:
        return 0, f"the NVIDIA driver shows no GPU (cuInit: error {status})"
    count = ctypes.c_int(0)
    status = library.cuDeviceGetCount(ctypes.byref(count))
    if status != 0 or count.value == 0:
        return 0, "the NVIDIA driver shows no GPU"
    return count.value, ""


@lru_cache(maxsize=1)
def gpu_name() -> str:
    """Model name and compute capability of the first GPU, e.g. `NVIDIA H200 (sm90)`; `no GPU` where
    there is none."""
    if not gpu_count()[0]:
        return "no GPU"
    library, device, name = _driver(), ctypes.c_int(0), ctypes.create_string_buffer(256)
    library.cuDeviceGet(ctypes.byref(device), 0)
    library.cuDeviceGetName(name, 256, device)
    major, minor = compute_capability() or (0, 0)
    return f"{name.value.decode(errors='replace')} (sm{major}{minor})"


@lru_cache(maxsize=1)
def compute_capability() -> tuple[int, int] | None:
    """Of the first GPU, e.g. (9, 0); None without one."""
    if not gpu_count()[0]:
        return None
    library, device = _driver(), ctypes.c_int(0)
    library.cuDeviceGet(ctypes.byref(device), 0)
    found = []
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
        value = ctypes.c_int(0)
        library.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        found.append(value.value)
    return found[0], found[1]


def capability_of(device: str) -> tuple[int, int] | None:
    """The compute capability in a device's name, as `gpu_name` writes it; None where there is
    none."""
    found = re.search(r"\(sm(\d+)(\d)\)$", device)
    return (int(found[1]), int(found[2])) if found else None


def require_compute(able: Capabilities, precision: str, where: Mapping[str, str]) -> None:
    """Raises UsageError where a GPU does not have a precision.

    Args:
        able: of the runtime that it is for.
        where: compute capabilities, such as "8.9", by what they are of, in words.
    """
    least = able.least_compute.get(precision)
    if least is None:
        return
    weak = [f"{name}: {text}" for name, text in where.items() if _numbers(text) < least]
    if weak:
        raise UsageError(
            f"This GPU cannot compute in {precision}.",
            got="compute capability of " + ", ".join(weak),
            allowed=f"compute capability {least[0]}.{least[1]} or more for {precision}",
            next_step="give --precision int8 or --precision fp16",
        )


def compute_of(*devices: str) -> dict[str, str]:
    """The compute capabilities of devices, by their names; without those that say none."""
    found = {device: capability_of(device) for device in devices}
    return {name: f"{c[0]}.{c[1]}" for name, c in found.items() if c is not None}


def _numbers(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (1 << 30, 0)


@lru_cache(maxsize=1)
def cuda_version() -> str:
    """The CUDA version that the driver speaks, e.g. `13.0`; empty without a driver."""
    library, value = _driver(), ctypes.c_int(0)
    if library is None or library.cuDriverGetVersion(ctypes.byref(value)) != 0:
        return ""
    return f"{value.value // 1000}.{value.value % 1000 // 10}"


def gpu_state() -> dict[str, Any] | None:
    """Clocks (MHz), power and its limit (W), temperature (C) and what holds the clocks down, from
    NVML.

    None where NVML is not there (Jetson boards have none; the power mode is their matter).
    """
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no package, no driver, or a driver of another version
        return None
    try:
        device = _nvml_device(pynvml)
        reasons = _asked(getattr(pynvml, "nvmlDeviceGetCurrentClocksEventReasons", None), device)
        if reasons is None:  # its name in older drivers' bindings
            reasons = _asked(
                getattr(pynvml, "nvmlDeviceGetCurrentClocksThrottleReasons", None), device
            )
        power, limit = (
            _asked(pynvml.nvmlDeviceGetPowerUsage, device),
            _asked(pynvml.nvmlDeviceGetEnforcedPowerLimit, device),
        )
        return {
            "driver": _text(_asked(pynvml.nvmlSystemGetDriverVersion)),
            "sm_mhz": _asked(pynvml.nvmlDeviceGetClockInfo, device, pynvml.NVML_CLOCK_SM),
            "memory_mhz": _asked(pynvml.nvmlDeviceGetClockInfo, device, pynvml.NVML_CLOCK_MEM),
            "max_sm_mhz": _asked(pynvml.nvmlDeviceGetMaxClockInfo, device, pynvml.NVML_CLOCK_SM),
            "power_w": None if power is None else power / 1000,
            "power_limit_w": None if limit is None else limit / 1000,
            "temperature_c": _asked(
                pynvml.nvmlDeviceGetTemperature, device, pynvml.NVML_TEMPERATURE_GPU
            ),
            "held_down_by": None if reasons is None else throttle_reasons(int(reasons)),
        }
    finally:
        pynvml.nvmlShutdown()


def _nvml_device(pynvml: ModuleType) -> Any:
    """NVML's handle of the first CUDA GPU. NVML counts all GPUs of the machine, CUDA those of
    CUDA_VISIBLE_DEVICES, in an order of its own; the PCI bus is the same to both."""
    bus = pci_bus_id()
    handle = _asked(pynvml.nvmlDeviceGetHandleByPciBusId, bus.encode()) if bus else None
    return pynvml.nvmlDeviceGetHandleByIndex(0) if handle is None else handle


def pci_bus_id() -> str:
    """Of the first CUDA GPU, e.g. `0000:1b:00.0`; empty where the driver does not say."""
    if not gpu_count()[0]:
        return ""
    library, device, text = _driver(), ctypes.c_int(0), ctypes.create_string_buffer(32)
    library.cuDeviceGet(ctypes.byref(device), 0)
    return text.value.decode() if library.cuDeviceGetPCIBusId(text, 32, device) == 0 else ""


def gpu_group_bytes() -> int | None:
    """A quarter of the device memory that is free now: of the engines of a table's part only
    weights and the largest activations can be counted beforehand. None where neither CuPy nor NVML
    says."""
    free_pools()
    try:
        import cupy

        return int(cupy.cuda.runtime.memGetInfo()[0]) // 4
    except Exception:  # no CuPy, or one for another CUDA
        pass
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # as in `gpu_state`
        return None
    try:
        memory = _asked(lambda: pynvml.nvmlDeviceGetMemoryInfo(_nvml_device(pynvml)))
        return None if memory is None else int(memory.free) // 4
    finally:
        pynvml.nvmlShutdown()


def free_pools() -> None:
    """Give back what CuPy holds of memory that no array uses. Nothing where CuPy was never
    imported."""
    cupy = sys.modules.get("cupy")
    if cupy is None:
        return
    try:
        cupy.get_default_memory_pool().free_all_blocks()
        cupy.get_default_pinned_memory_pool().free_all_blocks()
    except Exception:  # a CuPy that cannot use the GPU holds nothing of it
        pass


# Bits of nvmlClocksEventReasons
_REASONS = {
    0x1: "idle",
    0x2: "clocks set by the user",
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
    0x100: "display clocks",
}


def throttle_reasons(bits: int) -> list[str]:
    """The reasons that NVML's bit field names."""
    return [text for bit, text in _REASONS.items() if bits & bit]


def _asked(call: Callable[..., Any] | None, *arguments: Any) -> Any:
    """What NVML answers, None where this device or driver does not know the question."""
    try:
        return None if call is None else call(*arguments)
    except Exception:  # NVMLError in many kinds, AttributeError of an older binding
        return None


def _text(value: Any) -> str | None:
    return value.decode() if isinstance(value, bytes) else value


@lru_cache(maxsize=1)
def _driver() -> Any:
    for name in ("libcuda.so.1", "libcuda.so", "nvcuda.dll"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None
