"""Paths on the command line: none is empty, and `~` is a home folder."""

from pathlib import Path

import pytest

from rfx.cli.paths import given_path
from rfx.core.errors import UsageError
from tests.commands import run


@pytest.mark.parametrize(
    "arguments",
    [
        ("prune-export", "quickstart", "--out", ""),
        ("sweep", "quickstart", "--latency", "0.5", "--out="),
        ("shapes", "quickstart", "-o", ""),
        ("profile", "quickstart", "--out", ""),
        ("plan", "quickstart", "--table", ""),
        ("build", "model.onnx", "--out", ""),
        ("build", ""),
        ("verify", "."),  # the current folder, which is another mistake
        ("verify", "out", "--out", ""),
        ("verify", "out", "--onnx", ""),
        ("gate", "out", "--junit", ""),
    ],
    ids=" ".join,
)
def test_an_empty_path_is_refused(arguments, tmp_path, monkeypatch):
    """It would be the current folder."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as error:
        result = run(*arguments)
        assert result.exit_code == 2
        raise UsageError(result.output)
    empty = "takes a path has an empty one" in str(error.value)
    assert empty is ("" in arguments or "--out=" in arguments)
    assert not list(tmp_path.iterdir())


def test_a_home_is_one_in_quotes_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert given_path("~/x") == tmp_path / "x"
    assert given_path(".") == Path() == given_path(Path())
    (tmp_path / "model.onnx").write_bytes(b"no model")
    result = run("build", "~/model.onnx", "--out", "~/engine")
    assert result.exit_code == 2 and str(tmp_path / "model.onnx") in result.output
    assert "not a valid ONNX" in result.output
