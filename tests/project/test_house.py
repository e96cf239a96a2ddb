"""Rules of the house: imports run downward, heavy packages are imported late, the library does not
print, files stay short."""

import ast
import subprocess
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from rfx.core import errors

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "rfx"
LONGEST = 400  # lines of a file

# Each room and the rooms that it may import; the lowest floor first.
ROOMS = {
    "core": set(),
    "evidence": {"core"},
    "export": {"core"},
    "models": {"core"},
    "recipe": {"core"},
    "runtimes": {"core"},
    "tasks": {"core"},
    "cost": {"export", "runtimes", "core"},
    "measure": {"evidence", "export", "runtimes", "tasks", "core"},
    "methods": {"cost", "tasks", "models", "recipe", "core"},
    "pipeline": {
        *("methods", "cost", "measure", "tasks", "export", "models", "runtimes"),
        *("recipe", "evidence", "core"),
    },
    "cli": {"pipeline", "evidence", "recipe", "core"},
    # Doors: one file each.
    "board": {"cost", "export", "runtimes", "core"},
    "quantize": {"export", "core"},
    "__main__": {"cli"},
}
FILES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {"torch", "transformers", "onnx", "onnxruntime", "scipy", "sklearn", "pandas", "matplotlib"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path):
    """Every module that a file imports at run time, wherever in the file it does."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports name the whole path"
            yield node.module


def test_every_room_is_one_that_the_house_has():
    there = {
        p.name.removesuffix(".py") for p in PACKAGE.iterdir() if p.suffix == ".py" or p.is_dir()
    }
    assert there - {"__init__", "__pycache__", "py.typed"} == set(ROOMS)


@pytest.mark.parametrize("path", [p for p in FILES if p != PACKAGE / "__init__.py"], ids=name)
def test_imports_run_downward(path):
    room = room_of(path)
    for module in imports(path):
        if module.split(".")[0] != "rfx":
            continue
        assert module != "rfx", f"{name(path)} imports the face of the package"
        other = module.split(".")[1]
        assert other == room or other in ROOMS[room], f"{name(path)} ({room}) imports {module}"


def test_no_files_import_one_another_in_a_circle():
    """Within a room too."""
    modules = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in FILES}
    graph = {module: {m for m in imports(p) if m in modules} for module, p in modules.items()}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_methods_take_no_more_of_the_recipe_than_the_method():
    for path in (PACKAGE / "methods").rglob("*.py"):
        taken = {m for m in imports(path) if m.startswith("rfx.recipe")}
        assert taken <= {"rfx.recipe.method"}, f"{name(path)} imports {taken}"


def test_compensations_know_neither_scores_nor_schedules():
    """A fit needs no scores but the tokens' weights that it is given."""
    for path in (PACKAGE / "methods" / "compensate").rglob("*.py"):
        wrong = ("rfx.methods.scores", "rfx.methods.schedule")
        assert not [m for m in imports(path) if m.startswith(wrong)], name(path)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_the_library_does_not_print_and_files_stay_short(path):
    text = path.read_text(encoding="utf-8")
    calls = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call)]
    assert not [n for n in calls if getattr(n.func, "id", "") == "print"]
    assert len(text.splitlines()) <= LONGEST


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").rglob("*.py")), ids=name)
def test_benchmarks_stay_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_no_two_test_files_have_the_same_name():
    """pytest imports them by their bare name: of two, the second cannot be collected."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_a_package_folder_has_no_code_of_its_own():
    for path in PACKAGE.rglob("__init__.py"):
        if path != PACKAGE / "__init__.py":
            assert not path.read_text(encoding="utf-8").strip(), name(path)


def kinds_of_errors(trees):
    """The names of the classes of errors that a user can act on, those of other rooms with them;
    and of those that word their next step themselves, in a constructor of their own."""
    kinds, worded = {errors.UserError.__name__}, set()
    classes = [n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]
    for _ in classes:  # as often as one may build on another
        for found in classes:
            if kinds & {ast.unparse(b).split(".")[-1] for b in found.bases}:
                kinds.add(found.name)
                if any(getattr(n, "name", "") == "__init__" for n in found.body):
                    worded.add(found.name)
    return kinds, worded - {errors.UserError.__name__}


def errors_without_a_next_step(tree, kinds, worded):
    """The lines that make an error without one, or with one that may be nothing."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        again = called.startswith("type(") and called.endswith("rror)")  # type(error)(...)
        within = called == "super().__init__" and any(k.arg == "got" for k in node.keywords)
        if not (called.split(".")[-1] in kinds - worded or again or within):
            continue
        steps = [k.value for k in node.keywords if k.arg == "next_step"]
        if not steps or any(map(may_be_nothing, steps)):
            yield node.lineno


def may_be_nothing(value):
    """Whether the text of code says that it may be None or empty."""
    if isinstance(value, ast.IfExp):
        return may_be_nothing(value.body) or may_be_nothing(value.orelse)
    if isinstance(value, ast.BoolOp) and isinstance(value.op, ast.Or):
        return may_be_nothing(value.values[-1])
    return isinstance(value, ast.Constant) and not value.value


TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
KINDS, WORDED = kinds_of_errors(TREES.values())


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_error_says_the_next_step(path):
    """In Python too, where no command line adds one of its own."""
    assert not list(errors_without_a_next_step(TREES[path], KINDS, WORDED)), name(path)


@pytest.mark.parametrize(
    ("code", "right"),
    [
        ("UsageError('a', next_step='b')", True),
        ("UsageError('a', next_step='b' if c else 'd')", True),
        ("UsageError('a', next_step=b or 'c')", True),
        ("UsageError('a', next_step=b or None)", False),
        ("UsageError('a')", False),
        ("UsageError('a', next_step=None)", False),
        ("UsageError('a', next_step='')", False),
        ("UsageError('a', next_step='b' if c else None)", False),
        ("errors.UsageError('a')", False),
        ("type(error)('a', got='b')", False),
        ("OtherError('a')", False),
        ("NoSuchColumnError('a')", True),
        ("class E(UsageError):\n def __init__(self): super().__init__('a', got='b')", False),
        ("ValueError('a')", True),
    ],
)
def test_errors_without_a_next_step_are_found(code, right):
    found = list(errors_without_a_next_step(ast.parse(code), KINDS | {"OtherError"}, WORDED))
    assert found == ([] if right else [1 + code.count("\n")])
    assert {"NoSuchColumnError", "InfeasibleError"} <= KINDS
    assert {"NoSuchColumnError", "NumberedError"} == WORDED


# Where the name of an exception's type is for whoever wrote the code, or for an exception without
# any text.
OF_AUTHORS = ("cli/app.py", "core/entry.py", "core/errors.py", "core/registry.py")
SAYS_NOTHING = "pipeline/rival.py"


def test_no_message_names_the_type_of_an_exception():
    """What Python calls it tells a user nothing: `in_words` and `first_line` give a sentence."""
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "type(error).__name__"
    }
    assert found == {*OF_AUTHORS, SAYS_NOTHING}


def test_outside_the_runtimes_nobody_compares_a_runtimes_name():
    """A runtime says what it can do; its name is for people and for keys."""
    from rfx.runtimes.find import runtime_names

    known = set(runtime_names()) - {"cuda"}  # also a device of torch
    for path in FILES:
        if room_of(path) == "runtimes":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                sides += [e for s in sides for e in getattr(s, "elts", ())]
                words = {s.value for s in sides if isinstance(s, ast.Constant)}
                assert not words & known, f"{name(path)}:{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize(
    "code",
    [
        "from typer.testing import CliRunner; from rfx.cli.app import app; "
        "r = CliRunner().invoke(app, ['--help']); assert r.exit_code == 0, r.output",
        "import rfx",
        "import rfx.evidence.records, rfx.evidence.gates, rfx.evidence.read",
        "import rfx.board",
    ],
    ids=["help", "import", "evidence", "board"],
)
def test_what_needs_no_heavy_package_loads_none(code):
    check = f"import sys; {code}; loaded = {HEAVY!r} & set(sys.modules); assert not loaded, loaded"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there_and_documented():
    import inspect

    import rfx

    for public in rfx.__all__:
        found = getattr(rfx, public)
        if public != "__version__":
            assert inspect.getdoc(found), public
