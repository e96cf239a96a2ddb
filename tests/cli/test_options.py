"""The options of the command line are the fields of the recipe."""

from typing import Annotated

import pytest
import typer
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from rfx.cli.app import build_app
from rfx.cli.jobs import PLAN, PROFILE, PRUNE_EXPORT, SHAPES, SWEEP
from rfx.cli.options import Asked, Shown, with_options
from rfx.cli.session import recipe_of, targets_of
from rfx.core.errors import UsageError
from rfx.recipe.fields import option, settings
from rfx.recipe.read import make_recipe, read_recipe
from rfx.recipe.reference import recipe_table
from rfx.recipe.spec import Recipe
from tests.commands import run

WIDE = {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}


class More(Recipe):
    """A recipe with one more option, as a change of rfx/recipe/spec.py would give it."""

    warmth: float = option(
        0.25, "How warm it is.", cli="--warmth", unit="degrees", group="method", ge=0, lt=40
    )


def asked_by(*args: object, model: type[Recipe] = Recipe, shown: Shown = PRUNE_EXPORT) -> Asked:
    """What a command that shows these options is asked for by a command line."""
    app, found = typer.Typer(), []

    def command(asked: Asked, extra: Annotated[int, typer.Option("--extra")] = 1) -> None:
        found.append(asked)

    app.command()(with_options(command, model, shown))
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == 0, result.output
    return found[0]


def test_one_more_field_is_one_more_option_everywhere(tmp_path):
    app = build_app(More)
    for command in ("prune-export", "plan", "sweep"):
        text = CliRunner().invoke(app, [command, "--help"], env=WIDE).output
        assert "--warmth" in text and "How warm it is." in text and "degrees" in text, command
    assert "--warmth" not in CliRunner().invoke(app, ["profile", "--help"], env=WIDE).output

    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"model": "m", "warmth": 3}))
    recipe = read_recipe(tmp_path / "r.yaml", model=More)
    assert recipe.warmth == 3 and recipe.origin["warmth"] == f"the file {tmp_path / 'r.yaml'}"

    asked = asked_by(tmp_path / "r.yaml", "--warmth", "12.5", model=More)
    recipe = recipe_of(asked)
    assert recipe.warmth == 12.5 and recipe.origin["warmth"] == "the command line (--warmth)"
    assert recipe.model == "m"

    with pytest.raises(UsageError, match=r"warmth \(--warmth\)") as error:
        make_recipe({"warmth": 50}, model=More)
    assert error.value.allowed == "warmth: 0 or more, below 40"

    row = next(line for line in recipe_table(More).splitlines() if "`warmth`" in line)
    for words in ("`--warmth`", "How warm it is.", "degrees", "`0.25`"):
        assert words in row
    assert "warmth" not in recipe_table()


def test_every_option_of_a_field_is_shown_once_and_described():
    shown = [s for s in settings(Recipe) if s.option]
    names = [name for s in shown for name in s.about.cli]
    assert len(names) == len(set(names))
    command = get_command(build_app()).commands["prune-export"]
    there = {name for p in command.params for name in p.opts}
    assert set(names) <= there
    for s in settings(Recipe):
        assert s.description.endswith("."), s.key
        assert s.about.group, s.key


def test_every_key_is_in_the_table_with_its_option():
    text = recipe_table()
    for s in settings(Recipe):
        name = s.key.rpartition(".")[2]
        assert f"### `{s.key}`" in text if s.is_section else f"| `{name}`" in text, s.key
        assert s.option is None or f"| `{name}`<br>`{s.option}` |" in text, s.key
    assert {line.count(" | ") for line in text.splitlines() if line.startswith("| `")} == {2}


@pytest.mark.parametrize(
    "shown, there, missing",
    [
        (PLAN, ("budget.latency", "workload.threads"), ("limits.max_drop", "engine.max_batch")),
        (SWEEP, ("limits.max_drop", "budget.flops"), ("limits.min_speedup", "engine.max_batch")),
        (PROFILE, ("workload.threads", "seed", "task"), ("max_length", "data.train", "metric")),
        (SHAPES, ("max_length", "seed"), ("workload.threads", "budget.latency", "method")),
    ],
)
def test_a_command_shows_what_it_can_use(shown, there, missing):
    keys = {s.key for s in settings(Recipe) if shown(s)}
    assert keys >= set(there) and not keys & set(missing)


def test_what_is_given_goes_on_top_of_the_file_and_says_so(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "model": "m",
                "budget": {"latency": 0.7},
                "data": {"columns": {"text": "review", "label": "stars"}},
                "method": {"name": "mine", "scorer": "fisher", "rounds": 3},
            }
        )
    )
    recipe = recipe_of(
        asked_by(
            *(file, "--flops", 0.5, "--seed", 4, "--column", "text=body", "--labels", "bad, good"),
            *("--task-option", "doc_stride=64", "--compute-capability", "8.9"),
            *("--compute-capability", "12.0", "--version-compatible", "--search", "piecewise"),
        )
    )
    assert recipe.budget.flops == 0.5 and recipe.budget.latency is None
    assert recipe.seed == recipe.calibration.seed == 4
    assert recipe.data.columns == {"text": "body", "label": "stars"}
    assert recipe.data.labels == ("bad", "good") and recipe.task_options == {"doc_stride": 64}
    assert recipe.engine.compute_capabilities == ("8.9", "12.0")
    assert recipe.engine.version_compatible and not recipe.engine.hardware_compatible
    assert recipe.method.search == "piecewise" and recipe.method.scorer == "fisher"
    said = recipe.origin
    assert said["budget.flops"] == "the command line (--flops)"
    assert said["calibration.seed"] == said["seed"] == "the command line (--seed)"
    assert said["method.search"] == "the command line (--search)"
    assert said["method.scorer"] == said["model"] == f"the file {file}"
    assert said["workload.batch"] == said["engine.hardware_compatible"] == "default"


def test_a_method_and_a_part_of_it_can_be_given_together():
    recipe = recipe_of(asked_by("m", "--method", "kwon", "--compensate", "affine"))
    assert (recipe.method.name, recipe.method.scorer) == ("kwon", "fisher")
    assert recipe.method.compensate == "affine" and recipe.method.refine == "best"
    assert recipe.origin["method.scorer"] == "the preset kwon"
    assert recipe.origin["method.compensate"] == "the command line (--compensate)"


def test_without_a_recipe_the_quickstart_is_taken():
    recipe = recipe_of(asked_by("--latency", "0.7"))
    assert recipe.quickstart and recipe.limits.max_drop == 2.0
    assert recipe.origin["limits.max_drop"] == "the recipe quickstart of rfx"
    assert not recipe_of(asked_by("--model", "m")).quickstart


def test_two_models_are_refused_and_a_model_goes_on_top_of_a_recipe_alone(tmp_path):
    for source in ("nope_dir", "someone/other"):
        with pytest.raises(UsageError, match="Two models are named") as error:
            recipe_of(asked_by(source, "--model", "tiny"))
        assert source in error.value.got and "tiny in --model" in error.value.got
    refused = run("plan", "nope_dir", "--model", tmp_path, "--flops", "0.5")
    assert refused.exit_code == 2 and "nope_dir" in refused.output
    assert recipe_of(asked_by("tiny", "--model", "tiny")).model == "tiny"
    assert recipe_of(asked_by("quickstart", "--model", "tiny")).model == "tiny"


@pytest.mark.parametrize(
    "args, said",
    [
        (["--column", "text"], "--column"),
        (["--task-option", "=3"], "--task-option"),
        (["--latency", "0.5", "--flops", "0.5"], "only one of"),
        (["--method", "magic"], "kwon-reference"),
        (["--builder-level", "6"], "0 to 5"),
    ],
)
def test_what_cannot_be_read_names_its_option(args, said):
    with pytest.raises(UsageError) as error:
        recipe_of(asked_by("m", *args))
    assert said in error.value.render() and error.value.next_step


def test_a_sweep_takes_lists():
    asked = asked_by("m", "--flops", "0.8,0.5", shown=SWEEP)
    assert targets_of(asked) == ("flops", [0.8, 0.5])
    assert recipe_of(asked.without("budget.flops")).budget.flops is None
    assert targets_of(asked_by("m", shown=SWEEP))[0] == "latency"


@pytest.mark.parametrize(
    ("option", "text", "got", "next_step"),
    [
        ("--latency", "0.8,a,b", "a in --latency", "correct --latency"),
        ("--flops", "50%, 0.7", "50% in --flops", "write 0.5 in place of it"),
        ("--flops", "0.7,60 %", "60 % in --flops", "write 0.6 in place of it"),
        ("--latency", "0.7;0.6", "0.7;0.6 in --latency", "correct --latency"),
    ],
)
def test_a_target_of_a_sweep_that_is_no_number_is_named(option, text, got, next_step):
    with pytest.raises(UsageError, match="not a number") as error:
        targets_of(asked_by("m", option, text, shown=SWEEP))
    assert error.value.got == got and error.value.next_step == next_step
