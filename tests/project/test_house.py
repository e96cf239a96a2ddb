"""Rules of the house: imports run one way, heavy packages are imported late, the library does not
print."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "rfx"

# Bottom first. A room may import rooms of its own layer and of those below.
LAYERS = [
    {"errors", "progress", "plan", "store", "device", "recipe"},
    {"anatomy", "masks", "calibration"},
    {"tasks", "export", "surgery", "runtimes", "environment"},
    {"verify", "report", "compensate", "search", "scores", "cost"},
    {"schedule"},
    {"stages"},
    {"pipeline", "sweep"},
    {
        "cli",
        "command_line",
        "options",
        "terminal",
        "board",
        "quantize",
        "entry",
        "__main__",
        "__init__",
    },
]
LEVEL = {room: i for i, layer in enumerate(LAYERS) for room in layer}
# What passes between rooms is known to both sides: types only, checked to import nothing above
# them.
SHARED_TYPES = {
    "rfx.tasks.base",
    "rfx.cost.table",
    "rfx.methods.scores.base",
    "rfx.runtimes.base",
    "rfx.evidence.records",
}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, top_level_only: bool = False):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(n)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for n in ast.walk(block)
    }
    for node in tree.body if top_level_only else ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_room_imports_upwards(path):
    room = room_of(path)
    assert room in LEVEL, f"{room} has no layer: put it into LAYERS"
    for module in imports(path):
        if module.startswith("rfx.") and module not in SHARED_TYPES:
            other = module.split(".")[1]
            assert LEVEL[other] <= LEVEL[room], (
                f"{path.relative_to(ROOT)} ({room}) imports {module} from above"
            )


def test_what_drives_the_stages_knows_nothing_of_the_others():
    """pipeline and sweep tell two stories of the same stages."""
    for name, other in (("pipeline", "sweep"), ("sweep", "pipeline")):
        assert not [m for m in imports(PACKAGE / f"{name}.py") if m.startswith(f"rfx.{other}")]


def test_scorers_know_of_compensation_and_not_the_other_way():
    """The damage of a unit depends on what can make up for it; a fit needs no scores but the
    tokens' weights it is given."""
    for path in (PACKAGE / "compensate").rglob("*.py"):
        assert not [m for m in imports(path) if m.startswith(("rfx.scores", "rfx.schedule"))]


@pytest.mark.parametrize("room", ["runtimes", "anatomy"])
def test_runtimes_and_anatomy_know_nothing_of_pruning(room):
    forbidden = ("rfx.search", "rfx.scores", "rfx.compensate", "rfx.surgery", "rfx.models.masks")
    for path in (PACKAGE / room).rglob("*.py"):
        assert not [m for m in imports(path) if m.startswith(forbidden)]


def test_reports_know_only_evidence():
    allowed = (
        "rfx.evidence.records",
        "rfx.evidence.curve",
        "rfx.report",
        "rfx.core.store",
        "rfx.core.errors",
        "rfx.plan",
    )
    for path in (PACKAGE / "report").rglob("*.py"):
        assert not [m for m in imports(path) if m.startswith("rfx.") and not m.startswith(allowed)]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_does_not_print_and_files_stay_short(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "print"
    ]
    assert not calls
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 420


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from typer.testing import CliRunner; from rfx.cli.app import app; "
        "r = CliRunner().invoke(app, ['--help']); assert r.exit_code == 0, r.output; "
        "heavy = {'torch', 'transformers', 'onnx', 'onnxruntime', 'scipy', 'sklearn', 'pandas', "
        "'matplotlib'}; "
        "loaded = heavy & set(sys.modules); assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
