"""What a command asks of the network: its calls to the kernel, watched by strace.

A hook in Python would not see the connections of native code, which is where libraries report to
their makers from. What stays on this machine (AF_UNIX, AF_NETLINK) is no connection.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CALLS = "connect,sendto,sendmsg,sendmmsg"
_INTERNET = re.compile(r"AF_INET6?\b")
_SENDS = re.compile(r"\b(sendto|sendmsg|sendmmsg)\((\d+),")
_CONNECTS = re.compile(r"\bconnect\((\d+), \{sa_family=AF_INET")


@dataclass(frozen=True)
class Watched:
    """A command's end, and the calls by which it spoke to other machines."""

    code: int
    connections: tuple[str, ...]
    packets: int


def can_watch() -> bool:
    """Whether strace is here and may watch."""
    if shutil.which("strace") is None:
        return False
    tried = subprocess.run(["strace", "-qq", "-e", "trace=none", "true"], capture_output=True)
    return tried.returncode == 0


def has_network() -> bool:
    """Whether this machine has a way to others: a default route."""
    try:
        routes = Path("/proc/net/route").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return False
    return any(route.split()[1] == "00000000" for route in routes)


def watch(command: Sequence[str], env: Mapping[str, str], timeout: float = 900) -> Watched:
    """Run a command and its children to their end, and count what they send to other machines."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "calls"
        strace = ["strace", "-f", "-qq", "-e", f"trace={CALLS}", "-o", str(log)]
        ended = subprocess.run(
            [*strace, *command],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
        )
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return Watched(ended.returncode, *_read(lines))


def _read(lines: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """The connections, and the number of packets: those sent to an address, and those sent through
    a socket that is connected to one."""
    connections, packets = [], 0
    sockets: set[str] = set()
    for line in lines:
        connected, sent = _CONNECTS.search(line), _SENDS.search(line)
        if connected:
            sockets.add(connected.group(1))
            connections.append(line.partition(" ")[2].strip()[:200])
        elif sent and (_INTERNET.search(line) or sent.group(2) in sockets):
            packets += 1
    return tuple(connections), packets
