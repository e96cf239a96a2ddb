"""Real mounts: a disk, a volume and a single file as the place of an output, and disks that are
read-only. Each test runs in a process with a mount namespace of its own, so that nothing is mounted
for anybody else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRELUDE = """
import json, os, subprocess, sys
from pathlib import Path
from rfx.core.errors import EnvironmentMissingError, UsageError
from rfx.core.files import atomic_write_text, is_mount, require_file_place, require_place
from rfx.core.folders import atomic_dir, atomic_files
from rfx.core.workplace import NEW

here = Path(sys.argv[1])

def mount(*arguments):
    subprocess.run(["mount", *map(str, arguments)], check=True)

def names(folder):
    return sorted(p.name for p in Path(folder).iterdir())

def write(out, version):
    with atomic_dir(out, warn=print) as new:
        (new / version).write_text(version)
        (new / "both").mkdir()
        (new / "both" / "deep").write_text(version)

def refused(kind, call, *words):
    try:
        call()
    except kind as error:
        said = error.render()
        assert all(w in said for w in words) and error.next_step, said
    else:
        raise AssertionError("it was not refused")
"""


def unshared(*command, **options):
    """A command in a mount namespace of its own; where only that is allowed, as its own root."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return subprocess.run(
        ["unshare", *user, "--mount", "--propagation", "private", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )


@pytest.fixture(scope="module")
def may_mount(tmp_path_factory):
    try:
        tried = unshared("mount", "-t", "tmpfs", "none", tmp_path_factory.mktemp("tried"))
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"no mount namespaces here: {error}")
    if tried.returncode:
        pytest.skip(f"nothing may be mounted here: {tried.stderr.strip()}")


@pytest.fixture
def mounted(may_mount, tmp_path):
    """Runs Python code where it may mount; the folder of the test is `here` in it."""

    def run(code):
        done = unshared(
            sys.executable,
            "-c",
            PRELUDE + code,
            tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_disk_at_the_place_of_an_output_is_filled_and_exchanged(mounted, tmp_path):
    """As a volume of Docker: the folder itself can neither be renamed nor replaced."""
    mounted(
        """
out = here / "out"
out.mkdir()
mount("-t", "tmpfs", "none", out)
assert is_mount(out)
inode = out.stat().st_ino
for version in ("first", "second"):
    require_place(out)
    write(out, version)
    assert names(out) == ["both", version], names(out)
    assert (out / "both" / "deep").read_text() == version
assert out.stat().st_ino == inode and is_mount(out) and names(here) == ["out"]
try:
    with atomic_dir(out) as new:
        (new / "third").touch()
        raise KeyError
except KeyError:
    pass
assert names(out) == ["both", "second"], names(out)
"""
    )
    assert list((tmp_path / "out").iterdir()) == [], "the mount has ended with its process"


def test_a_folder_of_the_same_disk_may_be_mounted_too(mounted):
    """A bind mount has the device of the folder around it, so that only the kernel's list of
    mounts tells; with a blank in its name that list is written another way."""
    mounted(
        """
for name in ("out", "with a blank"):
    out, elsewhere = here / name, here / f"elsewhere {name}"
    out.mkdir(); elsewhere.mkdir()
    mount("--bind", elsewhere, out)
    assert is_mount(out), Path("/proc/self/mountinfo").read_text()
    for version in ("first", "second"):
        write(out, version)
        assert names(out) == names(elsewhere) == ["both", version]
"""
    )


def test_what_a_killed_run_left_in_a_mounted_folder_is_brought_in_order(mounted):
    mounted(
        """
from tests.kills import killed_at
out = here / "out"
out.mkdir()
mount("-t", "tmpfs", "none", out)
moment, left = 0, 0
write(out, "old")
while killed_at(moment := moment + 4, lambda: write(out, "new")):
    left += any(NEW in name for name in names(out))
    write(out, "next")
    assert names(out) == ["both", "next"], (moment, names(out))
    write(out, "old")
assert left > 3 and moment > 40, (left, moment)
assert names(out) == ["both", "new"]
"""
    )


def test_another_disk_within_an_earlier_output_stays_whole(mounted):
    """What is on it is nobody's of rfx: the earlier folder is kept under another name."""
    mounted(
        """
out, said = here / "out", []
write(out, "first")
mount("-t", "tmpfs", "none", out / "both")
(out / "both" / "mine").write_text("mine")
with atomic_dir(out, removable=lambda old: not list(old.rglob("mine")), warn=said.append) as new:
    (new / "second").touch()
assert names(out) == ["second"], names(out)
(kept,) = (p for p in here.iterdir() if p != out)
assert str(kept) in said[0] and kept.name.startswith("out.earlier-"), (kept, said)
assert (kept / "both" / "mine").read_text() == "mine" and is_mount(kept / "both")
"""
    )


@pytest.mark.parametrize("kind", ["a disk", "a bind mount"])
def test_a_read_only_place_is_refused_before_any_work(mounted, kind):
    """For root too, whom permissions never stop."""
    options = {
        "a disk": 'mount("-t", "tmpfs", "-o", "ro", "none", disk)',
        "a bind mount": 'mount("--bind", disk, disk); mount("-o", "remount,ro,bind", disk)',
    }[kind]
    mounted(
        f"""
disk = here / "disk"
(disk / "within").mkdir(parents=True)
{options}
before = names(disk)
for place in (disk, disk / "out", disk / "within" / "out", disk / "new" / "out"):
    refused(UsageError, lambda: require_place(place), "Read-only file system", str(disk))
    refused(UsageError, lambda: write(place, "x"), "Read-only file system")
for file in (disk / "x.json", disk / "within" / "x.json"):
    refused(UsageError, lambda: require_file_place(file), "Read-only file system")
    refused(UsageError, lambda: atomic_write_text(file, "x"), "Read-only file system")
assert names(disk) == before
"""
    )


def test_a_command_says_that_its_place_is_read_only(mounted):
    mounted(
        """
disk = here / "disk"
disk.mkdir()
mount("-t", "tmpfs", "-o", "ro", "none", disk)
command = [sys.executable, "-m", "rfx", "profile", "no-model", "--target", "ort"]
done = subprocess.run([*command, "--out", disk / "x.json"], capture_output=True, text=True)
assert done.returncode == 2 and "Read-only file system" in done.stderr, done.stderr
assert "Traceback" not in done.stderr
"""
    )


def test_a_disk_that_is_full_loses_nothing(mounted):
    mounted(
        """
out = here / "out"
out.mkdir()
mount("-t", "tmpfs", "-o", "size=256k", "none", out)
write(out, "old")
try:
    with atomic_dir(out, warn=print) as new:
        (new / "large").write_bytes(bytes(1 << 20))
except OSError as error:
    assert error.errno == 28, error
else:
    raise AssertionError("the disk took more than it has")
assert names(out) == ["both", "old"], names(out)
assert (out / "both" / "deep").read_text() == "old"
"""
    )


def test_a_single_file_that_is_mounted_is_refused_before_any_work(mounted):
    """As `-v ./table.json:/out/table.json` of Docker: no rename can replace it."""
    mounted(
        """
file, source = here / "table.json", here / "source.json"
file.touch()
source.write_text("old")
mount("--bind", source, file)

def both():
    with atomic_files(here / "other", file) as new:
        for one in new:
            one.write_text("new")

for ask in (lambda: require_file_place(file), lambda: atomic_write_text(file, "new"), both):
    refused(UsageError, ask, "mounted by itself", str(file), "mount a folder instead")
    assert names(here) == ["source.json", "table.json"] and file.read_text() == "old"
(here / "link").symlink_to(file)
refused(UsageError, lambda: require_file_place(here / "link"), "mounted by itself")
command = [sys.executable, "-m", "rfx", "profile", "no-model", "--target", "ort", "--out", file]
done = subprocess.run(command, capture_output=True, text=True)
assert done.returncode == 2 and "mounted by itself" in done.stderr, done.stderr
"""
    )
