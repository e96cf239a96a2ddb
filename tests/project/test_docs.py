"""The documentation is whole and true: what is generated is current, names exist, and the site
builds."""

import importlib.util
import io
import json
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


def test_the_page_of_installation_has_every_extra():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = project.split("\n[project.optional-dependencies]\n")[1].split("\n[")[0]
    extras = re.findall(r"^([\w-]+) = \[", section, re.M)
    page = (PAGES / "how-to" / "install.md").read_text(encoding="utf-8")
    first_cells = [row.split("|")[1] for row in page.splitlines() if row.startswith("| `")]
    listed = [name for cell in first_cells for name in re.findall(r"`([\w-]+)`", cell)]
    assert "cpu" in extras and sorted(listed) == sorted(extras)


def printed_summary() -> list[str]:
    """What a run prints at its end, with the committed figures of the quickstart at 0.7. That file
    keeps nothing of the search and of the compensation, so their lines are absent."""
    from rich.console import Console
    from rich.table import Table

    from rfx.core import migrate
    from rfx.evidence import records
    from rfx.evidence.gates import accuracy_gate, latency_gate
    from rfx.evidence.report.terminal import summary

    file = ROOT / "benchmarks" / "results" / "quickstart.json"
    runs = json.loads(file.read_text(encoding="utf-8"))["runs"]
    (run,) = (r for r in runs if r["target"] == 0.7)
    document = migrate.evidence({"schema_version": 1, "latency": run["latency"]})
    latency = records.LatencyPart(**document["latency"])
    accuracy = records.AccuracyPart(**run["accuracy"])
    evidence = records.Evidence(
        tool="rfx",
        created="",
        recipe={"name": "quickstart", "budget": {"latency": 0.7}},
        model={"source": "/cache/model"},
        environment=run["environment"],
        data=records.DataPart(
            calibration=0, evaluation=4000, calibration_hash="", evaluation_hash="", overlap=0
        ),
        plan={},
        dense_layers=[{"heads": 12, "filters": 1536}] * 6,
        kept_layers=run["kept_layers"],
        search=records.SearchPart(method="", budget=0.0, budget_unit="ms", rounds=run["rounds"]),
        table=records.TablePart(
            key={},
            hash="",
            costs_ms={},
            fixed_ms=0.0,
            additivity=[],
            additivity_error=run["additivity_error"],
        ),
        gates=[
            *(g for g in run["gates"] if g["name"] in ("shrunk", "same")),
            accuracy_gate(accuracy, accuracy.max_drop),
            latency_gate(latency, target=latency.target, min_speedup=None),
        ],
        latency=latency,
        accuracy=accuracy,
        flops_ratio=run["flops_ratio"],
        params_ratio=run["params_ratio"],
        warnings=run["warnings"],
    )
    console = Console(width=120, no_color=True, highlight=False, file=io.StringIO())
    for line in summary(evidence, Path("rfx-out")):
        console.print(line, soft_wrap=not isinstance(line, Table))  # as the command line does
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("page", ["README.md", "docs/pages/tutorials/classify.md"])
def test_the_shown_output_is_what_a_run_prints(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("model", "triton"):
        (tmp_path / "rfx-out" / name).mkdir(parents=True)
    for name in ("model.onnx", "report.html", "evidence.json", "junit.xml", "README.md"):
        (tmp_path / "rfx-out" / name).touch()
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
