"""Turning a standard stream away costs no file descriptor, also where none is left."""

import subprocess
import sys

import pytest

ONE_IS_LEFT = """
import contextlib, os, resource
from rfx.core.streams import native_errors_dropped, results_only
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
taken = []
with contextlib.suppress(OSError):
    while True:
        taken.append(os.dup(2))
os.close(taken.pop())
for _ in range(3):
    with {turned}():
        os.write({number}, b"seen")
os.close(os.dup(2))
"""


@pytest.mark.parametrize(("turned", "number"), [("native_errors_dropped", 2), ("results_only", 1)])
def test_where_one_descriptor_is_left_it_is_left_afterwards(turned, number):
    code = ONE_IS_LEFT.format(turned=turned, number=number)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr) == b"seen" * 3
