"""The peak memory of a part of a process."""

from __future__ import annotations

from pathlib import Path

from rfx.pipeline.session import peak_memory_mb


def forget_peak() -> float:
    """Start the process's peak memory anew (Linux), after freed memory is given back to the system.

    Returns:
        What is resident then, MB.
    """
    import ctypes

    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        pass
    return peak_mb()


def peak_mb() -> float:
    """Largest resident memory since `forget_peak`, MB; that of the whole process where the system
    does not count it so."""
    try:
        rows = Path("/proc/self/status").read_text().splitlines()
        return int(next(r for r in rows if r.startswith("VmHWM")).split()[1]) / 1024
    except (OSError, StopIteration):
        return peak_memory_mb()
