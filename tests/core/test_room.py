"""The error of a full disk names the folder, and says how much is free."""

import errno
import re

import pytest

from rfx.core.faults import explained
from rfx.core.files import atomic_write_bytes
from rfx.core.folders import atomic_dir, atomic_files

WORDS = "I/O error: No space left on device (os error 28)"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), RuntimeError(WORDS)], ids=repr)
@pytest.mark.parametrize("several", [False, True], ids=["folder", "files"])
def test_the_folder_that_was_written_to_is_named(tmp_path, error, several):
    made = atomic_files(tmp_path / "one") if several else atomic_dir(tmp_path / "out")
    error = type(error)(*error.args)
    with pytest.raises(type(error)), made:
        raise error
    said = explained(error)
    assert said.exit_code == 4 and "No space left on device" in str(said)
    assert re.search(rf"got: +{re.escape(str(tmp_path))}: [\d,.]+ MB free", said.render())


def test_a_single_file_too(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("rfx.core.files.os.fsync", full)
    with pytest.raises(OSError, match="full") as raised:
        atomic_write_bytes(tmp_path / "file", b"1")
    assert f"{tmp_path}: " in explained(raised.value).render()


def test_a_file_that_the_error_names_tells_the_folder(tmp_path):
    said = explained(OSError(errno.ENOSPC, "full", str(tmp_path / "x" / "file")))
    assert f"{tmp_path / 'x'}: " in said.render() and "MB free" in said.render()
    assert explained(PermissionError(errno.EACCES, "no", str(tmp_path))).got is None
