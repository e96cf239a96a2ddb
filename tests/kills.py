"""Processes that are killed at a certain moment of their work."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from itertools import count

# What Python tells of before it does it: every call that changes something on the disk.
EVENTS = {
    *("open", "os.mkdir", "os.rename", "os.rmdir", "os.remove", "os.chmod", "os.truncate"),
    *("os.link", "fcntl.flock", "shutil.rmtree", "ctypes.dlsym"),
}


def in_a_copy(work: Callable[[], object]) -> int:
    """Start some work in a copy of this process, which ends with it whatever becomes of it: a copy
    of a test worker must never go on as one. Returns its process id; it exits with 0 where the work
    was done, with 1 where it raised an exception, which it prints."""
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return process
    try:
        work()
        os._exit(0)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(1)


def killed_at(moment: int, work: Callable[[], object]) -> bool:
    """Do the work in a copy of this process that is killed right before its `moment`-th touch of
    the disk. False where the work has fewer: it is done then."""
    touches = count(1)

    def kill(event: str, _: object) -> None:
        if event in EVENTS and next(touches) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched() -> None:
        sys.addaudithook(kill)
        work()

    process = in_a_copy(watched)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)
