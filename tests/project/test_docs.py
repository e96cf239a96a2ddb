"""The documentation is whole and true: what is generated is current, names exist, and the site
builds."""

import importlib.util
import io
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


def test_the_tables_of_int8_are_those_of_the_results():
    from benchmarks import int8_report
    from benchmarks.results_file import place_of, read_results

    there = place_of(int8_report.RESULTS).exists()
    found = read_results(int8_report.RESULTS) if there else {"models": {}}
    for page, made in (
        (int8_report.README, int8_report.short(found)),
        (int8_report.GUIDE, int8_report.full(found)),
    ):
        text = page.read_text(encoding="utf-8")
        assert int8_report.with_table(text, made) == text, "run python docs/generate.py"


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


def test_the_bounds_of_files_are_those_of_the_code():
    from rfx.core import bounded, limits
    from rfx.cost import bundle
    from rfx.evidence import read, signature
    from rfx.evidence.report import junit
    from rfx.models import place
    from rfx.recipe import document
    from rfx.tasks.rows import MAX_MB

    def raised(mb):
        return f"{mb} MB; `{limits.SIZE}` raises it"

    assert Recipe().data.max_mb == MAX_MB
    bounds = {
        "a file of examples, unpacked": f"{MAX_MB} MB; `--max-data-mb` changes it",
        "a file of shapes": raised(bundle._MOST_MB),
        "a graph in a file of shapes, unpacked": raised(bundle._MOST_GRAPH_MB),
        "evidence, a sweep, a baseline": raised(read.MOST_MB),
        "a latency table and any other JSON document": raised(bounded.MOST_MB),
        "a model's configuration, or the index of its weights' files": raised(place.MOST_MB),
        "JUnit XML that is there and will be replaced": f"{junit._MOST_MB} MB; a larger file is "
        "not rfx's own, and stays",
        "a key or a signature": raised(signature._MOST_MB),
        "a recipe": raised(document.MOST_MB),
        "silence of a pipe before its first byte": f"{limits.SILENCE_S:g} s; `{limits.SILENCE}` "
        "changes it",
        "depth of a recipe": f"{document.MOST_DEPTH}",
        "aliases in a recipe": f"{document.MOST_ALIASES}",
        "depth of a JSON document": f"{bounded.MOST_DEPTH}",
        "digits of an integer in a JSON document": f"{bounded.MOST_DIGITS}",
    }
    page = (PAGES / "reference" / "output.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+) \| (.+) \|$", page.split("## Bounds of the files")[1], re.M)
    assert dict(rows) == {"what": "bound", **bounds}


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
        section = text.split(f"## rfx {name}\n")[1].split("\n## ")[0]
        for parameter in command.params:
            shown = parameter.opts[0]
            assert (f"`{shown}`" if shown.startswith("-") else shown.upper()) in section, shown


def test_the_committed_page_of_the_command_line_is_that_of_today(generate):
    text = generate.COMMANDS.read_text(encoding="utf-8")
    assert generate.with_commands(text) == text, "python docs/generate.py writes it"
    assert "## rfx prune-export\n" in text


def test_every_field_of_evidence_is_listed(generate):
    text = generate.evidence_reference()
    for name in generate.evidence_schema()["properties"]:
        assert f"| `{name}` |" in text, name


def test_every_public_name_is_on_the_page_of_the_python_api(generate):
    text = generate.api_reference()
    for name in generate.public_names():
        assert f"::: rfx.{name}\n" in text, name


def test_the_page_of_installation_has_every_extra():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = project.split("\n[project.optional-dependencies]\n")[1].split("\n[")[0]
    extras = re.findall(r"^([\w-]+) = \[", section, re.M)
    page = (PAGES / "how-to" / "install.md").read_text(encoding="utf-8")
    first_cells = [row.split("|")[1] for row in page.splitlines() if row.startswith("| `")]
    listed = [name for cell in first_cells for name in re.findall(r"`([\w-]+)`", cell)]
    assert "cpu" in extras and sorted(listed) == sorted(extras)


def printed_summary() -> list[str]:
    """What a run prints at its end: the one whose whole evidence is committed."""
    from rich.console import Console
    from rich.table import Table

    from rfx.evidence.read import read_evidence
    from rfx.evidence.report.terminal import summary

    evidence = read_evidence(ROOT / "benchmarks" / "results" / "quickstart-evidence.json")
    console = Console(width=120, no_color=True, highlight=False, file=io.StringIO())
    for line in summary(evidence, Path("rfx-out")):
        console.print(line, soft_wrap=not isinstance(line, Table))  # as the command line does
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("page", ["README.md", "docs/pages/tutorials/classify.md"])
def test_the_shown_output_is_what_a_run_prints(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("model", "triton"):
        (tmp_path / "rfx-out" / name).mkdir(parents=True)
    for name in ("model.onnx", "model.fp32.onnx", "report.html", "evidence.json", "junit.xml"):
        (tmp_path / "rfx-out" / name).touch()
    (tmp_path / "rfx-out" / "README.md").touch()
    printed = printed_summary()
    text = (ROOT / page).read_text(encoding="utf-8")
    (block,) = re.findall(r"<!-- output -->\n```text\n(.*?)```", text, re.S)
    shown = [line.removesuffix(", [...]") for line in block.splitlines() if line != "[...]"]
    assert len(shown) > 5
    places = [printed.index(line) for line in shown]
    assert places == sorted(places)


def test_the_site_builds_without_a_warning_and_asks_no_other_host(tmp_path):
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
