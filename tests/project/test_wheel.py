"""What an installation brings besides the code: a wheel is made and its files are read."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling", reason="hatchling is not installed (extra test)")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        yield archive


def text(wheel: zipfile.ZipFile, name: str) -> str:
    (path,) = [n for n in wheel.namelist() if n.endswith(f".dist-info/{name}")]
    return wheel.read(path).decode()


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    files = {
        p.relative_to(ROOT).as_posix()
        for p in (ROOT / "rfx").rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert {"rfx/py.typed", "rfx/evidence/report/page.html.j2"} <= files
    assert files <= set(wheel.namelist())
    assert all(wheel.read(f) == (ROOT / f).read_bytes() for f in files)


def test_the_bundled_recipes_are_in_the_wheel(wheel):
    recipes = {f"rfx/_recipes/{p.name}" for p in (ROOT / "recipes").glob("*.yaml")}
    assert recipes and recipes <= set(wheel.namelist())


def test_nothing_else_is_in_the_wheel(wheel):
    assert {n.split("/")[0].split("-")[0] for n in wheel.namelist()} == {"rfx", "rfx_exporter"}


def test_the_command_and_the_packages_of_parts_are_entry_points(wheel):
    lines = text(wheel, "entry_points.txt").splitlines()
    assert lines[lines.index("[console_scripts]") + 1] == "rfx = rfx.cli.app:main"
    assert lines[lines.index("[rfx.plugins]") + 1] == "rfx = rfx"


def test_the_metadata_names_the_extras(wheel):
    said = text(wheel, "METADATA").splitlines()
    extras = {line.split(": ")[1] for line in said if line.startswith("Provides-Extra: ")}
    assert {"cpu", "plots", "tables", "quickstart", "hub", "docs", "lint", "test"} <= extras
    core = [line for line in said if line.startswith("Requires-Dist: ") and "extra ==" not in line]
    for package in ("matplotlib", "jinja2", "pandas", "pyarrow", "psutil", "onnxruntime"):
        assert not [line for line in core if line.startswith(f"Requires-Dist: {package}")]
