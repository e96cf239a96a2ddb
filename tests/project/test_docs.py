"""The documentation is whole and true: what is generated is current, names exist, and the site
builds."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rfx.core.registry import entries
from rfx.recipe.fields import option, settings
from rfx.recipe.presets import PRESETS
from rfx.recipe.read import bundled_recipes, make_recipe
from rfx.recipe.reference import recipe_table
from rfx.recipe.spec import Recipe

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "pages"
TEXT = (PAGES / "reference" / "recipes.md").read_text(encoding="utf-8")
COMMITTED = [*PAGES.rglob("*.md"), ROOT / "docker" / "README.md", *(ROOT / ".github").glob("*.md")]


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_recipe_table_is_that_of_todays_fields(generate):
    assert generate.with_recipe_table(TEXT) == TEXT, "run python docs/generate.py"


def test_a_new_key_appears_in_the_table():
    class More(Recipe):
        patience: int = option(
            3, "How long to wait.", cli="--patience", unit="minutes", group="run", ge=1
        )

    row = (
        "| `patience`<br>`--patience` | whole number, 1 or more, minutes<br>default: `3` "
        "| How long to wait. |"
    )
    assert row in recipe_table(More)


def test_every_key_is_in_the_table():
    for setting in settings(Recipe):
        name = setting.key.rpartition(".")[2]
        expected = f"### `{setting.key}`" if setting.is_section else f"| `{name}`"
        assert expected in TEXT, setting.key


def test_the_examples_of_recipes_are_valid():
    blocks = [yaml.safe_load(b) for b in re.findall(r"```yaml\n(.*?)```", TEXT, re.S)]
    assert len(blocks) == 3
    for block in blocks:
        make_recipe(block)


def test_names_of_methods_and_recipes_are_all_there():
    for name in (*PRESETS, *bundled_recipes()):
        assert f"`{name}`" in TEXT, name


@pytest.mark.parametrize("kind", ["scorer", "search", "compensation", "schedule", "task"])
def test_names_of_parts_are_all_there(kind):
    ours = (e.name for e in entries(kind) if e.target.startswith("rfx."))
    for name in ours:
        assert f"`{name}`" in TEXT, name


def test_metrics_are_all_there():
    from rfx.tasks.question_answering import QuestionAnswering
    from rfx.tasks.text_classification import TextClassification
    from rfx.tasks.token_classification import TokenClassification

    tasks = (QuestionAnswering, TextClassification, TokenClassification)
    for metric in {m for task in tasks for m in task.metrics}:
        assert f"`{metric}`" in TEXT, metric


@pytest.mark.parametrize("page", COMMITTED, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere_in_the_repository(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert re.match(r"[a-z]+:", target) or (page.parent / target).exists(), target


def test_every_command_has_a_section_with_its_options(generate):
    import typer

    from rfx.cli.app import app

    text = generate.cli_reference()
    for name, command in typer.main.get_command(app).commands.items():
        section = text.split(f"## rfx {name} ")[1].split("\n## ")[0]
        for parameter in command.params:
            shown = parameter.opts[0]
            assert (f"`{shown}`" if shown.startswith("-") else shown.upper()) in section, shown


def test_every_field_of_evidence_is_listed(generate):
    text = generate.evidence_reference()
    for name in generate.evidence_schema()["properties"]:
        assert f"| `{name}` |" in text, name


def test_every_public_name_is_on_the_page_of_the_python_api(generate):
    text = generate.api_reference()
    for name in generate.public_names():
        assert f"::: rfx.{name}\n" in text, name


def test_the_site_builds_without_a_warning_and_asks_no_other_host(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    mkdocs = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", "docs/mkdocs.yml"]
    done = subprocess.run(
        [*mkdocs, "-d", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        fetched = re.findall(
            r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=\"?(https?:[^\">]+)", text
        )
        assert not fetched, (page.name, fetched)
