"""The registry: what other packages bring is known without importing them, found by name, and told
apart."""

import importlib
import sys
from pathlib import Path

import pytest

from rfx.core import registry
from rfx.core.errors import EnvironmentMissingError, UsageError

PART = '''"""A part.

@register("scorer", "of-the-docstring")
class Told: ...
"""
from rfx.core.registry import register


@register("scorer", "{name}")
class Part:
    pass


@register(
    "task",
    "{name}-task",
)
def task():
    return "made"
'''


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a package with an entry point on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    packages, before = [], set(registry._registered)

    def put(distribution, package, files, version="1.0", value=None):
        packages.append(package)
        info = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        )
        (info / "entry_points.txt").write_text(f"[rfx.plugins]\nmine = {value or package}\n")
        for name, text in files.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        importlib.invalidate_caches()
        registry.plugins.cache_clear()

    yield put
    for name in [m for m in sys.modules if m.split(".")[0] in packages]:
        del sys.modules[name]
    for key, part in list(registry._registered.items()):
        if key not in before and part.__module__.split(".")[0] != "rfx":
            del registry._registered[key]
    registry.plugins.cache_clear()


def test_a_package_is_read_without_being_imported_and_its_parts_are_found(install):
    install(
        "rfx-extra",
        "extra",
        {"extra/__init__.py": "", "extra/deep/a.py": PART.format(name="extra")},
    )
    assert "extra" in registry.names("scorer") and "extra-task" in registry.names("task")
    assert "of-the-docstring" not in registry.names("scorer")
    mine = next(p for p in registry.plugins() if p.distribution == "rfx-extra")
    assert (mine.version, mine.package, mine.problem) == ("1.0", "extra", None)
    assert [e.target for e in mine.offers] == ["extra.deep.a:Part", "extra.deep.a:task"]
    assert "extra" not in sys.modules
    assert registry.find("scorer", "extra") is sys.modules["extra.deep.a"].Part
    assert registry.find("task", "extra-task")() == "made"
    assert registry.names("scorer").count("extra") == 1  # scanned, and now registered too


def test_a_module_alone_and_a_module_inside_of_a_package_are_read_too(install):
    install("rfx-alone", "alone", {"alone.py": PART.format(name="alone")})
    files = {"inside/__init__.py": "raise SystemExit", "inside/part.py": PART.format(name="inner")}
    install("rfx-inside", "inside", files, value="inside.part")
    assert {"alone", "inner"} <= set(registry.names("scorer"))
    assert registry.find("scorer", "alone").__name__ == "Part"


def test_an_unknown_name_lists_the_known_ones_and_the_nearest(install):
    install("rfx-extra", "extra", {"extra/__init__.py": PART.format(name="extraordinary")})
    with pytest.raises(UsageError) as caught:
        registry.find("scorer", "extraordnary", next_step="correct method.scorer")
    error = caught.value
    assert error.what == "There is no scorer of this name." and error.got == "extraordnary"
    assert error.allowed == ", ".join(registry.names("scorer")) and "extraordinary" in error.allowed
    assert error.next_step == "did you mean 'extraordinary'? correct method.scorer"
    with pytest.raises(UsageError) as caught:
        registry.find("family", "qqqq")
    assert caught.value.what == "There is no model family of this name."
    assert caught.value.next_step == "give one of the names that are allowed"


def test_two_packages_with_one_name_are_both_named_and_only_where_it_is_asked_for(install):
    install("rfx-one", "one", {"one/__init__.py": PART.format(name="same")})
    install("rfx-two", "two", {"two/__init__.py": PART.format(name="same")}, version="2.5")
    install("rfx-three", "three", {"three/__init__.py": PART.format(name="other")})
    assert registry.names("scorer").count("same") == 1
    with pytest.raises(UsageError) as caught:
        registry.find("scorer", "same")
    assert "rfx-one 1.0 (one:Part) and rfx-two 2.5 (two:Part)" in str(caught.value)
    assert "uninstall rfx-one or rfx-two" in caught.value.next_step
    assert registry.find("scorer", "other")


def test_a_package_that_does_not_import_is_named_with_its_version_and_the_reason(install):
    text = PART.format(name="broken") + "\nimport no_such_module_anywhere\n"
    install("rfx-broken", "broken", {"broken/__init__.py": text}, version="0.3")
    with pytest.raises(EnvironmentMissingError) as caught:
        registry.find("scorer", "broken")
    assert "rfx-broken 0.3" in caught.value.what
    assert "ModuleNotFoundError" in caught.value.got and "no_such_module" in caught.value.got


def test_a_decorator_of_that_name_which_is_not_ours_is_seen_through(install):
    text = PART.format(name="foreign").replace(
        "from rfx.core.registry import register", "def register(*a):\n    return lambda x: x"
    )
    install("rfx-foreign", "foreign", {"foreign.py": text})
    with pytest.raises(EnvironmentMissingError, match="registers nothing with rfx"):
        registry.find("scorer", "foreign")


@pytest.mark.parametrize(
    ("files", "said"),
    [({}, "no module 'gone'"), ({"gone.py": "@register('a', 'b')\nclass ("}, "SyntaxError")],
)
def test_a_package_that_cannot_be_read_is_listed_with_the_problem(install, files, said):
    install("rfx-gone", "gone", files)
    mine = next(p for p in registry.plugins() if p.distribution == "rfx-gone")
    assert mine.offers == () and said in mine.problem and mine.to_json()["problem"] == mine.problem


def test_what_is_registered_in_this_process_is_known_and_clashes_are_told(install):
    @registry.register("scorer", "of-a-notebook")
    class Mine:
        pass

    assert registry.names("scorer")[-1] == "of-a-notebook"
    assert registry.find("scorer", "of-a-notebook") is Mine
    install("rfx-extra", "extra", {"extra.py": PART.format(name="of-a-notebook")})
    with pytest.raises(UsageError, match=r"rfx-extra 1\.0.*this process"):
        registry.find("scorer", "of-a-notebook")


def test_a_stored_result_depends_on_the_code_of_a_plug_in_and_not_on_rfxs_own(install):
    text = PART.format(name="far")
    install("far-away", "faraway", {"faraway/__init__.py": "", "faraway/part.py": text})
    code = registry.code_of("scorer", "far")
    assert code.startswith("far-away 1.0 ")
    Path(sys.modules["faraway.part"].__file__).write_text(text + "# another version\n")
    assert registry.code_of("scorer", "far") != code
    assert registry.code_of("scorer", "fisher") == ""


def test_there_are_no_other_kinds():
    for ask in (registry.names, lambda kind: registry.register(kind, "x")):
        with pytest.raises(ValueError, match="no kind 'scorers'"):
            ask("scorers")


def test_what_is_read_from_the_text_is_what_importing_registers():
    """Every module of rfx imported: the decorators have recorded just what was read."""
    root = Path(registry.__file__).parents[1]
    for file in root.rglob("*.py"):
        parts = file.relative_to(root).with_suffix("").parts
        if parts[-1] not in ("__main__", "__init__") and parts != ("quantize",):
            importlib.import_module(".".join(("rfx", *parts)))
    read = {(e.kind, e.name, e.target) for e in registry.plugins()[0].offers}
    recorded = {
        (kind, name, f"{part.__module__}:{part.__qualname__}")
        for (kind, name), part in registry._registered.items()
        if part.__module__.split(".")[0] == "rfx"
    }
    assert read == recorded
    for entry in registry.plugins()[0].offers:
        module, _, attribute = entry.target.partition(":")
        found = registry.find(entry.kind, entry.name)
        assert found is getattr(importlib.import_module(module), attribute)
