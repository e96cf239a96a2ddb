"""A result goes only where nothing of anybody else would be lost."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from rfx.core import manifest
from rfx.core.errors import EnvironmentMissingError, UsageError
from rfx.core.files import file_hash
from rfx.core.folders import atomic_dir
from rfx.cost.bundle import require_bundle_place
from rfx.cost.table_file import require_table_place
from rfx.evidence.curve import Curve, Point
from rfx.evidence.report.curve import write_curve
from rfx.evidence.report.write import files as reports
from rfx.evidence.report.write import write_reports
from rfx.pipeline import places
from rfx.recipe.spec import Recipe
from rfx.runtimes.tensorrt.file import read_engine_file, write_engine_file
from tests.commands import STANDARD, given, run
from tests.evidences import make_evidence
from tests.kills import in_a_copy

MODEL = {
    "model.onnx": b"a graph, and its metadata rfx.precision",
    "plan.json": b"{}",
    "model/config.json": b'{"rfx": {}}',
    "model/model.safetensors": b"weights",
    "triton/reviews/config.pbtxt": b"# Written by rfx 0.1.0",
    "triton/reviews/1/model.onnx": b"a graph",
}


def fill(folder: Path, *, sealed: bool = True) -> Path:
    """An output as `prune-export` leaves it; one of an earlier version has no manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in MODEL.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    files = manifest.hashes(folder)
    written = write_reports(make_evidence(files=files), folder)
    if sealed:
        manifest.seal(folder, manifest.OUTPUT, files, [file.name for file in written])
    return folder


def state(folder: Path) -> dict[str, object]:
    return {
        str(p.relative_to(folder)): p.readlink()
        if p.is_symlink()
        else p.is_file() and p.read_bytes()
        for p in folder.rglob("*")
    }


def ask(out: object, cache: Path, **recipe: object) -> list[str]:
    told: list[str] = []
    places.output_folder(out, Recipe(**recipe), cache, told.append)
    return told


@pytest.fixture
def place(tmp_path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path / "out"


def test_an_output_that_nobody_changed_is_replaced(place):
    fill(place)
    assert ask(place, place.parent / "cache") == []
    assert places.output_strangers(place) == []


@pytest.mark.parametrize("loss", ["of an earlier version", "gone", "damaged"])
def test_without_a_manifest_nothing_says_what_somebody_has_changed(place, loss):
    """Reports in which notes were made look like those of rfx."""
    fill(place, sealed=loss != "of an earlier version")
    if loss == "gone":
        (place / manifest.FILE).unlink()
    if loss == "damaged":
        (place / manifest.FILE).write_text("{}")
    (place / "README.md").write_text((place / "README.md").read_text() + "\nOur notes.\n")
    before = state(place)
    with pytest.raises(UsageError, match="did not write") as refused:
        ask(place, place.parent / "cache")
    assert "README.md (added)" in refused.value.got and manifest.FILE in refused.value.allowed
    assert state(place) == before


def add_link(folder: Path) -> None:
    (folder / "model" / "linked.bin").symlink_to("/etc/hostname")


def link_in_place(folder: Path) -> None:
    (folder / "model.onnx").rename(folder.parent / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(folder.parent / "elsewhere.onnx")


def link_a_folder(folder: Path) -> None:
    (folder / "data").symlink_to(folder.parent)


def forge(folder: Path) -> None:
    """Evidence that names a stranger's file with the hash that it has."""
    (folder / "thesis.txt").write_text("years")
    evidence = json.loads((folder / "evidence.json").read_text())
    evidence["files"]["thesis.txt"] = file_hash(folder / "thesis.txt")
    (folder / "evidence.json").write_text(json.dumps(evidence))


def forge_manifest(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "thesis.txt").write_text("years")
    (folder / "evidence.json").write_text("{}")
    manifest.seal(folder, manifest.OUTPUT, {})


CHANGES = {
    "edited": (lambda f: (f / "plan.json").write_text("{ }"), "plan.json (changed)"),
    "weights": (lambda f: (f / "model/model.safetensors").write_bytes(b"w"), "model.safetensors"),
    "added": (lambda f: (f / "thesis.txt").write_text("years"), "thesis.txt (added)"),
    "deep": (lambda f: (f / "model" / "notes.txt").write_text("mine"), "model/notes.txt (added)"),
    "hidden": (lambda f: (f / ".env").write_text("mine"), ".env (added)"),
    "folder": (lambda f: (f / "photos").mkdir(), "photos/ (added)"),
    "pipe": (lambda f: os.mkfifo(f / "pipe"), "pipe (added)"),
    "link": (add_link, "model/linked.bin (a link)"),
    "link in place": (link_in_place, "model.onnx (a link)"),
    "linked folder": (link_a_folder, "data (a link)"),
    "forged": (forge, "thesis.txt (added)"),
    "forged manifest": (forge_manifest, "thesis.txt (added)"),
    "evidence gone": (lambda f: (f / "evidence.json").unlink(), "model.onnx"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_is_not_as_rfx_wrote_it_is_refused_and_stays(place, change):
    fill(place)
    make, said = CHANGES[change]
    make(place)
    before = state(place)
    with pytest.raises(UsageError, match="did not write") as refused:
        ask(place, place.parent / "cache")
    assert said in refused.value.got and "another --out" in refused.value.next_step
    assert state(place) == before


@pytest.mark.parametrize("report", [*reports()])
def test_a_report_that_was_edited_is_somebodys_work(place, report):
    fill(place)
    with (place / report).open("a") as stream:
        stream.write("\nOur notes.\n")
    with pytest.raises(UsageError, match="changed") as refused:
        ask(place, place.parent / "cache")
    assert report in refused.value.got


def test_a_sweep_that_nobody_changed_is_replaced_and_nothing_else(place):
    facts = make_evidence()
    curve = Curve(
        **{name: getattr(facts, name) for name in ("tool", "created", "recipe", "model", "data")},
        environment={},
        budget="latency",
        points=[Point(target=0.8, seed=0, latency=facts.latency, accuracy=facts.accuracy)],
    )
    place.mkdir()
    written = write_curve(curve, place)

    def sweep() -> None:
        places.sweep_folder(place, Recipe(), place.parent / "cache", print)

    with pytest.raises(UsageError, match=r"sweep.csv \(added\)"):
        sweep()  # it has no manifest, as those of earlier versions
    manifest.seal(place, manifest.SWEEP, {}, [file.name for file in written])
    sweep()
    with pytest.raises(UsageError, match="did not write"):
        ask(place, place.parent / "cache")  # a sweep is no output of prune-export
    (place / "point-1").mkdir()
    with pytest.raises(UsageError, match=r"point-1/ \(added\)"):
        sweep()
    (place / "point-1").rmdir()
    (place / "sweep.csv").write_text("mine\n")
    with pytest.raises(UsageError, match="sweep.csv"):
        sweep()


def test_up_to_ten_are_named(place):
    fill(place)
    for i in range(30):
        (place / f"mine-{i:02}").touch()
    with pytest.raises(UsageError) as refused:
        ask(place, place.parent / "cache")
    assert refused.value.got.count("(added)") == 10 and "20 more" in refused.value.got


def killed_in(folder):
    with atomic_dir(folder) as new:
        (new / "half").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_run_left_is_no_strangers(place):
    """Beside an output and in it: a build and a run that were killed."""
    fill(place)
    for folder in (place.parent, place, place / "triton"):
        name = folder / ("out" if folder == place.parent else "reviews")
        _, status = os.waitpid(in_a_copy(partial(killed_in, name)), 0)
        assert os.WIFSIGNALED(status)
    assert len([p for p in place.parent.rglob("*") if ".rfx-new-" in p.name]) == 3
    assert ask(place, place.parent / "cache") == []
    assert not [p for p in place.parent.rglob("*") if ".rfx-new-" in p.name]


def test_an_engine_that_was_built_into_an_output_belongs_to_it(place):
    fill(place)
    facts = {"tool": "rfx 0.1.0"}
    for data in (b"one", b"two"):  # the second replaces the first
        places.engine_file(place / "model.engine")
        facts["engine_sha256"] = hashlib.sha256(data).hexdigest()
        write_engine_file(data, facts, place / "model.engine")
        assert places.output_strangers(place) == []  # also where the build is killed here
        places.record_engine(place / "model.engine")
        assert places.output_strangers(place) == []
    served = place / "triton" / "reviews"
    (served / "1" / "model.onnx").unlink()
    (served / "1" / "model.plan").write_bytes(b"two")
    assert places.edited(served)
    places.record_served(served)
    assert places.edited(served) == places.output_strangers(place) == []
    (place / "model.engine").write_bytes(b"of the user's own")
    with pytest.raises(UsageError, match="another kind"):
        places.engine_file(place / "model.engine")


def build(data: bytes, out: Path) -> Path:
    """What `rfx build` does around the compiler."""
    out = places.engine_file(out)
    facts = {"tool": "rfx 0.1.0", "engine_sha256": hashlib.sha256(data).hexdigest()}
    return write_engine_file(data, facts, out)


def test_an_engine_deep_in_an_output_belongs_to_it(place, monkeypatch):
    fill(place)
    (place / "engines" / "old").mkdir(parents=True)
    engine = place / "engines" / "old" / "a.engine"
    build(b"one", engine)
    assert places.output_strangers(place) == []  # also where the build is killed here
    monkeypatch.chdir(engine.parent)
    places.record_engine(Path(engine.name))
    assert places.output_strangers(place) == [] and not (engine.parent / manifest.FILE).exists()
    assert "engines/old/a.engine.json" in manifest.read(place)[1]
    engine.with_name("notes").touch()
    assert places.output_strangers(place) == ["engines/old/notes (added)"]


def test_a_link_to_an_engine_stays_a_link(place):
    """Its facts lie where it leads, and are found from there; it can be built again."""
    fill(place)
    link = place.parent / "latest.engine"
    link.symlink_to("out/a.engine")
    for data in (b"one", b"two"):
        built = build(data, link)
        assert built == place / "a.engine" and link.is_symlink()
        places.record_engine(built)
        assert read_engine_file(link)[1]["engine_sha256"] == hashlib.sha256(data).hexdigest()
    assert places.output_strangers(place) == []
    assert sorted(p.name for p in place.parent.iterdir()) == ["cache", "latest.engine", "out"]


@pytest.mark.parametrize("name", ["mine.engine", "new.engine"])
def test_an_engine_replaces_nothing_of_another_kind(tmp_path, name):
    (tmp_path / "mine.engine").write_bytes(b"trtexec")
    (tmp_path / "new.engine.json").write_text('{"mine": 1}')
    with pytest.raises(UsageError, match=name):
        places.engine_file(tmp_path / name)
    with pytest.raises(UsageError):
        places.engine_file(Path("/dev/null"))


@pytest.mark.parametrize("require", [require_table_place, require_bundle_place])
def test_a_table_and_shapes_replace_nothing_of_another_kind(tmp_path, require):
    for text in ('{"key": "mine"}', "[" * 100_000, "not json"):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(UsageError, match="another kind"):
            require(tmp_path / "x.json")
        assert (tmp_path / "x.json").read_text() == text


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("model", "is the model's folder"),
        ("data", "is the examples of --train"),
        ("cache", "is the cache"),
        ("cache/out", "lies within the cache"),
        (".", "holds the model's folder"),
    ],
)
def test_an_output_is_apart_from_what_a_job_reads(tmp_path, monkeypatch, out, said):
    monkeypatch.chdir(tmp_path)
    for name in ("model", "data", "cache"):
        Path(name).mkdir()
    with pytest.raises(UsageError, match=said):
        ask(out, tmp_path / "cache", model="model", data={"train": "data"})
    for name in ("model/out", "data/out"):  # nothing of anybody else is lost there
        assert ask(name, tmp_path / "cache", model="model", data={"train": "data"}) == []
    Path("link").symlink_to("model")
    with pytest.raises(UsageError, match="is the model's folder"):
        ask("link", tmp_path / "cache", model="model")


def test_an_output_within_the_models_folder_is_replaced_and_a_strangers_folder_is_not(
    tmp_path, monkeypatch
):
    """Run from within the model's folder, with the default --out."""
    model = tmp_path / "model"
    (model / "onnx").mkdir(parents=True)
    (model / "onnx" / "mine.onnx").write_bytes(b"mine")
    monkeypatch.chdir(model)
    fill(model / "rfx-out")
    assert ask("rfx-out", tmp_path / "cache", model=".") == []
    with pytest.raises(UsageError, match=r"mine\.onnx"):
        ask("onnx", tmp_path / "cache", model=".")
    with pytest.raises(UsageError, match="is the model's folder"):
        ask(".", tmp_path / "cache", model=".")


@pytest.mark.parametrize("loss", ["gone", "changed", "all"])
def test_a_file_that_goes_while_an_output_is_made_is_an_error(place, loss):
    fill(place, sealed=False)
    made = manifest.hashes(place)
    if loss == "gone":
        (place / "model.onnx").unlink()
    elif loss == "changed":
        (place / "model.onnx").write_bytes(b"other")
    else:
        shutil.rmtree(place)
        place.mkdir()
    with pytest.raises(EnvironmentMissingError, match=r"something else[\s\S]*model.onnx"):
        manifest.seal(place, manifest.OUTPUT, made)
    assert not (place / manifest.FILE).exists()


def test_every_command_refuses_before_any_work(trained, cache, tmp_path):
    """With no time for work: the model is not even loaded."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    (tmp_path / "mine.json").write_text("mine")
    for command, out in (
        (["prune-export", *given(trained, **STANDARD), "--flops", "0.5"], tmp_path / "mine"),
        (["sweep", *given(trained, **STANDARD), "--flops", "0.5"], tmp_path / "mine"),
        (["prune-export", *given(trained, **STANDARD), "--flops", "0.5"], "/proc/x"),
        (["sweep", *given(trained, **STANDARD), "--flops", "0.5"], "n" * 300),
        (["profile", trained["model"], "--task", STANDARD["task"]], tmp_path / "mine.json"),
        (["shapes", trained["model"], "--task", STANDARD["task"]], tmp_path / "mine.json"),
    ):
        result = run(*command, "--out", out)
        assert result.exit_code == 2, result.output
        assert "another --out" in " ".join(result.output.split()), result.output
        assert "Stage" not in result.output
    assert (tmp_path / "mine.json").read_text() == "mine"
    assert state(tmp_path / "mine") == {"thesis.txt": b"years"}


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("ignored", [False, True], ids=["", "ignored, as under nohup"])
def test_being_told_to_end_is_an_interrupt(tmp_path, name, ignored):
    number = getattr(signal, name)
    program = (
        "import os, sys, signal\n"
        "from rfx.core.entry import start, run_command\n"
        "from rfx.core.folders import atomic_dir\n"
        "def work():\n"
        f"    with atomic_dir({str(tmp_path / 'out')!r}):\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "        signal.sigpending()\n"
        "    return 0\n"
        "start(lambda: run_command(work, interrupted=lambda: 'ended'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        preexec_fn=lambda: signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL),
        capture_output=True,
        text=True,
    )
    assert done.returncode == (0 if ignored else 130), done.stderr
    assert [p.name for p in tmp_path.iterdir()] == (["out"] if ignored else [])


def test_an_output_with_the_folder_that_a_command_runs_in_stays(place, tmp_path, monkeypatch):
    out, cache = fill(place), tmp_path / "cache"
    deep = out / "model"
    assert deep.is_dir()
    before = state(out)
    monkeypatch.chdir(deep)
    with pytest.raises(UsageError) as error:
        ask(out, cache)
    assert str(deep) in str(error.value) and f"cd {out}" in str(error.value)
    assert state(out) == before
    monkeypatch.chdir(out)
    ask(Path(), cache)
