"""The hostile documents are hostile where they say, and what a terminal would obey is seen."""

import importlib
from pathlib import Path

import pytest

from benchmarks.robustness import READ, SWITCHES, _obeyed, _written, environment
from benchmarks.robustness_inputs import WRITTEN, evidence, tables
from benchmarks.robustness_report import page
from rfx.core.errors import UsageError
from rfx.core.migrate import EVIDENCE
from rfx.cost.table_file import read_table
from rfx.evidence.read import parse_evidence

ROOT = Path(__file__).parents[2]


def said_of(call):
    with pytest.raises(UsageError) as error:
        call()
    return error.value.what


def test_documents_are_refused_for_what_is_hostile_in_them(tmp_path):
    """And not for their version, which would be said first."""
    for documents, read in (
        (tables(), read_table),
        (evidence(), lambda file: parse_evidence(file.read_bytes(), "x.json")),
    ):
        for name, content in documents.items():
            file = tmp_path / "x.json"
            file.write_bytes(content.encode() if isinstance(content, str) else content)
            if name == "gates of escape sequences":  # what they say is judged by `rfx gate`
                assert read(file).schema_version == EVIDENCE
                continue
            said = said_of(lambda file=file, read=read: read(file))
            assert ("newer" in said) == (name == "a version of the future"), name
            assert ("no rfx writes" in said) == (name == "a version of a megabyte"), name


def test_what_a_terminal_or_a_service_obeys_is_seen():
    for text in ("a\x1b[2J", "a\n  ::error::x", "a ##[group]", "\x9b2J", "\u202e"):
        assert _obeyed(text), text
    assert not _obeyed("a::b #\\#[x] \\x1b\n")


def test_no_variable_keeps_a_watched_run_from_the_network(tmp_path, monkeypatch):
    for name in SWITCHES:
        monkeypatch.setenv(name, "1")
    assert not set(SWITCHES) & set(environment(tmp_path))
    found = {"watched": True, "had_network": False, "not_set": SWITCHES, "runs": []}
    text = page({"network": found})
    assert "had no way to other machines" in text and "`HF_HUB_OFFLINE`" in text


def case(name, code, **more):
    said = {"seconds": 1, "peak_mb": 1, "what": "", "written": 1, "escapes": False}
    return {"kind": "model", "name": name, "exit_code": code, **said, **more}


def inputs(*cases, **more):
    counts = dict.fromkeys(("tracebacks", "not_one_json", "over_time", "files_left", "code_ran"), 0)
    counts |= {"most_seconds": 1, "most_mb": 1, "limits": {"seconds": 9, "memory_gb": 8}}
    return {"inputs": {"count": len(cases), **counts, "cases": list(cases), **more}}


def test_the_page_says_what_was_looked_at_and_what_was_not(tmp_path):
    """A checkpoint, and files that are no texts, are not looked at; the page said that all were."""
    root = tmp_path / WRITTEN
    (root / "model").mkdir(parents=True)
    for name in ("summary.md", "evidence.json", "model.onnx", "model/config.json"):
        (root / name).write_text("x")
    (tmp_path / f"{WRITTEN}.xml").write_text("x")
    (tmp_path / f"{WRITTEN}.engine").write_text("x")
    texts, others = _written(tmp_path)
    assert {p.name for p in texts} == {"summary.md", "evidence.json", f"{WRITTEN}.xml"}
    assert others == ["a file .engine", "model.onnx", "model/config.json"]
    found = page(inputs(case("a", 2, not_read=others), case("b", 2, not_read=[]), read=READ))
    assert f"that were looked at ({', '.join(READ)}) | 2 |" in found
    assert "that were not looked at | 3 |" in found
    assert "Not looked at: `a file .engine`, `model.onnx`, `model/config.json`." in found
    before = page(inputs(case("a", 2)))  # results that do not say it
    assert "that were looked at | 1 |" in before and "ot looked at" not in before


def test_exit_codes_are_explained_by_those_that_there_were():
    found = page(inputs(case("switch", 0), case("names", 1), case("b", 2), case("c", 2)))
    assert "| 0 | 1 | it came to its end, and no gate is against the result | model: switch |" in (
        found
    )
    assert "| 1 | 1 | it came to its end, and a gate failed | model: names |" in found
    assert "| 2 | 2 | refused: an option, a file or a value is wrong |  |" in found
    assert "inconclusive" not in found  # no run ended so
    killed = page(inputs(case("a", None), case("b", -9)))
    assert "| over time | 1 | it was killed when its time was over |  |" in killed
    assert "| -9 | 1 | not one that rfx gives | model: b |" in killed
    runs = [
        {"command": "rfx gate", "exit_code": c, "connections": [], "packets": 0} for c in (1, 3)
    ]
    watched = {"watched": True, "had_network": True, "not_set": SWITCHES, "runs": runs}
    assert "| 3 | 1 | refused: no plan meets the target |  |" in page({"network": watched})


def test_the_commands_of_the_page_are_those_that_gave_its_numbers():
    kills = {job: {"runs": 10, "survived": 10, "seed": 0} for job in ("build", "sweep")}
    guided = {"csv": {"seconds": 40, "inputs": 9, "broken": False}}
    fuzz = {"csv": {"inputs": 500, "tracebacks": 0, "seed": 7}, "tsv": {"inputs": 500, "seed": 7}}
    found = page({"kills": kills, "guided": guided, "fuzz": fuzz, "forged": {"kinds": 1}})
    assert "benchmarks.kills --runs 10 --out benchmarks/results/robustness.json\n" in found
    assert "benchmarks.fuzz_guided --seconds 40 --out" in found
    assert "benchmarks.fuzz 500 --seed 7 --out" in found
    assert "benchmarks/robustness.py --only forged --out" in found
    kills["build"] = {"runs": 20, "survived": 20}
    found = page({"kills": kills})
    assert "--runs 20 --jobs build --out" in found and "--runs 10 --jobs sweep --out" in found
    assert "fuzz" not in found and "robustness.py" not in found


def test_each_part_names_its_own_day_and_machine():
    def on(day, cpu):
        return {"day": day, "system": "Linux 6", "cpu": cpu, "python": "3.11.7"}

    kills = {job: {"runs": 10, "survived": 10} for job in ("build", "sweep")}
    results = {"forged": {"kinds": 1}, "kills": kills, "fuzz": {"csv": {"inputs": 5}}}
    made = {"forged": on("2026-01-02", "one"), "kills/build": on("2026-01-03", "two")}
    found = page({**results, "made": made})
    assert "Counted on 2026-01-02 on Linux 6, one, Python 3.11.7." in found.split("## Forged")[1]
    killed = found.split("## Kills")[1].split("## Forged")[0]
    assert "build: counted on 2026-01-03 on Linux 6, two, Python 3.11.7." in killed
    assert "sweep: on which day and machine it was counted is not recorded." in killed
    assert (
        "On which day and machine this was counted is not recorded."
        in (found.split("## Fuzzing")[1].split("## Kills")[0])
    )
    made["kills/sweep"] = made["kills/build"]
    killed = page({**results, "made": made}).split("## Kills")[1]
    assert "\nCounted on 2026-01-03 on Linux 6, two, Python 3.11.7." in killed


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "benchmarks").glob("*.py")))
def test_every_benchmark_can_be_started(name):
    """What it imports of rfx is there."""
    importlib.import_module(f"benchmarks.{name}")


def test_a_hang_is_no_error_of_a_file():
    """Readers turn errors of the system into refusals, and a TimeoutError is one of them."""
    from benchmarks.fuzz import TooLongError

    assert not issubclass(TooLongError, Exception)
