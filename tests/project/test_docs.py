"""The documentation is whole and true: what is generated is current, names exist, and the site
builds."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rfx.recipe.spec import Recipe, bundled_recipes, make_recipe

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


def test_a_new_key_appears_in_the_table(generate):
    from pydantic import Field

    class More(Recipe):
        patience: int = Field(3, ge=1, description="How long to wait.")

    row = "| `patience` | whole number, at least 1<br>default: `3` | How long to wait. |"
    assert row in generate.recipe_table(More)


def test_every_key_is_in_the_table(generate):
    table = generate.recipe_table()
    for path, field in generate.fields_of(Recipe):
        assert f"`{path if generate.section_of(field) else path.split('.')[-1]}`" in table, path


def test_the_examples_of_recipes_are_valid():
    blocks = [yaml.safe_load(b) for b in re.findall(r"```yaml\n(.*?)```", TEXT, re.S)]
    assert len(blocks) == 3
    if "limits" not in Recipe.model_fields:
        pytest.skip("this version has no `limits` in a recipe")
    for block in blocks:
        make_recipe(block)


def parts(kind: str) -> list[str]:
    """The names of rfx's own parts of a kind."""
    try:
        from rfx.core.registry import names
    except ImportError:  # a version without the registry
        from rfx.methods.compensate.find import COMPENSATORS
        from rfx.methods.schedule.find import SCHEDULES
        from rfx.methods.scores.find import SCORERS
        from rfx.methods.search.find import SEARCHES

        from rfx.tasks.find import TASKS

        known = {"scorer": SCORERS, "search": SEARCHES, "compensation": COMPENSATORS}
        return list({**known, "schedule": SCHEDULES, "task": TASKS}[kind])
    return list(names(kind))


def test_names_of_methods_and_recipes_are_all_there():
    from rfx.recipe.spec import PRESETS

    for name in (*PRESETS, *bundled_recipes()):
        assert f"`{name}`" in TEXT, name


@pytest.mark.parametrize("kind", ["scorer", "search", "compensation", "schedule", "task"])
def test_names_of_parts_are_all_there(kind):
    for name in parts(kind):
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
