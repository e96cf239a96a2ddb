"""The page of robustness, from the results of benchmarks/robustness.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results_file import place_of, read_results

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "robustness.json"
PAGE = ROOT / "docs" / "pages" / "explanation" / "robustness.md"
OTHERS = {
    "fuzz": ("Fuzzing", "Documents made by chance, and what rfx did with them."),
    "guided": (
        "Fuzzing guided by coverage",
        "Documents that atheris made, which keeps those that reach new code of rfx and changes "
        "them further. `broken`: one of them ended in anything but a message, took more than 20 "
        "seconds or more than 3 GB.",
    ),
    "kills": ("Kills", "Runs that were killed, and what was left of them."),
    "forged": ("Forged evidence", "Evidence that was changed by hand, given to `rfx gate`."),
}
HEAD = """# Robustness: what was counted

This page is made by commands. The last one writes it from the results of the others in
[robustness.json](../../../benchmarks/results/robustness.json):

```bash
{commands}
```

[Attacks](attacks.md) says what each of them is after.
"""
COMMAND = "{program} --out benchmarks/results/robustness.json"
MEANINGS = {
    "0": "it came to its end, and no gate is against the result",
    "1": "it came to its end, and a gate failed",
    "2": "refused: an option, a file or a value is wrong",
    "3": "refused: no plan meets the target",
    "4": "refused: the machine lacks something",
    "5": "refused: rfx cannot prune this model",
    "6": "one of rfx's own proofs failed, or it is a bug",
    "7": "it came to its end, and a gate is inconclusive",
    "over time": "it was killed when its time was over",
}
TO_AN_END = ("0", "1", "7")


def write_page() -> None:
    """Write the page, where there are results."""
    if place_of(RESULTS).exists():
        PAGE.write_text(page(read_results(RESULTS)), encoding="utf-8")


def page(results: Mapping[str, Any]) -> str:
    """The text of the page: of each part what was counted, and when and where it was."""
    parts = [HEAD.format(commands="\n".join([*_commands(results), "python docs/generate.py"]))]
    if "inputs" in results:
        parts += [_inputs(results["inputs"]), _when(results, "inputs")]
    if "network" in results:
        parts += [_network(results["network"]), _when(results, "network")]
    for name, (title, about) in OTHERS.items():
        if name in results:
            parts += [_facts(title, about, results[name]), _when(results, name)]
    return "\n".join(parts)


def _commands(results: Mapping[str, Any]) -> list[str]:
    """What was called, by the numbers in the results."""
    whole = [p for p in ("inputs", "network", "forged") if p in results]
    only = "" if len(whole) == 3 else "".join(f" --only {p}" for p in whole)
    programs = [f"python benchmarks/robustness.py{only}"] * bool(whole)
    for program, part, number, option in (
        ("kills", "kills", "runs", "--runs "),
        ("fuzz", "fuzz", "inputs", ""),
        ("fuzz_guided", "guided", "seconds", "--seconds "),
    ):
        called: dict[str, list[str]] = {}
        for row, facts in results.get(part, {}).items():
            seed = f" --seed {facts['seed']}" if facts.get("seed") else ""  # 0 where none is given
            called.setdefault(f"{option}{facts[number]}{seed}", []).append(row)
        for arguments, rows in called.items():
            some = f" --jobs {' '.join(rows)}" if part == "kills" and len(called) > 1 else ""
            programs.append(f"python -m benchmarks.{program} {arguments}{some}")
    return [COMMAND.format(program=program) for program in programs]


def _when(results: Mapping[str, Any], part: str) -> str:
    """On which day and machine a part was counted, or each row of it that was counted by itself."""
    made = results.get("made", {})
    of: dict[str, list[str]] = {}
    for name in results[part]:
        here = made.get(f"{part}/{name}", made.get(part))
        said = (
            f"counted on {here['day']} on {here['system']}, {here['cpu']}, Python {here['python']}"
            if here
            else ""
        )
        of.setdefault(said, []).append(name)
    lines = []
    for said, names in of.items():
        who, it = ("", "this") if len(of) == 1 else (f"{', '.join(names)}: ", "it")
        line = f"{who}{said or f'on which day and machine {it} was counted is not recorded'}."
        lines.append(line if who else line[0].upper() + line[1:])
    return "\n\n".join(lines) + "\n"


def _inputs(found: Mapping[str, Any]) -> str:
    limits, cases = found["limits"], found["cases"]
    read = f" ({', '.join(found['read'])})" if "read" in found else ""
    lines = [
        "## Hostile inputs",
        "",
        f"Each of the {found['count']} inputs ran in a process of its own with {limits['seconds']} "
        f"seconds and {limits['memory_gb']} GB of memory.",
        "",
        *_table(
            ("what", "count"),
            [
                ("inputs", found["count"]),
                ("tracebacks", found["tracebacks"]),
                ("stdout that is not exactly one JSON object", found["not_one_json"]),
                ("runs over their time", found["over_time"]),
                (
                    f"files that runs wrote and that were looked at{read}",
                    sum(c["written"] for c in cases),
                ),
                *(
                    [
                        (
                            "files that runs wrote and that were not looked at",
                            sum(len(c["not_read"]) for c in cases),
                        )
                    ]
                    if all("not_read" in c for c in cases)
                    else []
                ),
                (
                    "inputs with an escape sequence or a CI command in stderr, stdout or a file "
                    "that was looked at",
                    sum(bool(c["escapes"]) for c in cases),
                ),
                ("files left behind", found["files_left"]),
                ("runs of a model's own code", int(found["code_ran"])),
                ("longest run, seconds", found["most_seconds"]),
                ("largest memory, MB", found["most_mb"]),
            ],
        ),
        "",
        *_table(
            ("what is hostile", "input", "exit code", "seconds", "MB", "what rfx said"),
            [
                (c["kind"], c["name"], _code(c), c["seconds"], c["peak_mb"], c["what"])
                for c in cases
            ],
        ),
        "",
        *_codes([(_code(c), f"{c['kind']}: {c['name']}") for c in cases]),
    ]
    others = sorted({name for c in cases for name in c.get("not_read", ())})
    if others:
        lines += ["Not looked at: " + ", ".join(f"`{name}`" for name in others) + ".", ""]
    return "\n".join(lines)


def _codes(ended: Sequence[tuple[str, str]]) -> list[str]:
    """What the exit codes mean that runs ended with, and which runs came to an end of their own.

    Args:
        ended: the exit code and the name of each.
    """
    of: dict[str, list[str]] = {}
    for code, name in ended:
        of.setdefault(code, []).append(name)
    return [
        *_table(
            ("exit code", "runs", "meaning", "which"),
            [
                (
                    code,
                    len(names),
                    MEANINGS.get(code, "not one that rfx gives"),
                    "; ".join(names) if code in TO_AN_END or code not in MEANINGS else "",
                )
                for code, names in sorted(of.items())
            ],
        ),
        "",
    ]


def _network(found: Mapping[str, Any]) -> str:
    if not found["watched"]:
        return "## Network\n\nNot counted: this machine has no strace.\n"
    had = "had a default route" if found["had_network"] else "had no way"
    lines = [
        "## Network",
        "",
        "Calls to the kernel that send something to another machine, counted by strace, in all "
        f"threads and children. The machine {had} to other machines. None of the variables that "
        "keep libraries from them was set when rfx began: "
        + ", ".join(f"`{name}`" for name in found["not_set"])
        + ".",
        "",
        *_table(
            ("command", "exit code", "connections", "packets"),
            [
                (f"`{r['command']}`", r["exit_code"], len(r["connections"]), r["packets"])
                for r in found["runs"]
            ],
        ),
        "",
        *_codes([(_code(r), r["command"]) for r in found["runs"]]),
    ]
    return "\n".join(lines)


def _facts(title: str, about: str, found: Mapping[str, Any]) -> str:
    """A part that other programs fill: its numbers, and its rows where it has a list of them."""
    if found and all(isinstance(v, Mapping) for v in found.values()):
        found = {"rows": [{"of": k, **v} for k, v in found.items()]}
    plain = [
        (k.replace("_", " "), v)
        for k, v in found.items()
        if isinstance(v, (int, float, str)) or v is None
    ]
    lines = [f"## {title}", "", about, ""]
    lines += [*_table(("what", "value"), plain), ""] if plain else []
    for rows in found.values():
        if isinstance(rows, list) and rows and isinstance(rows[0], Mapping):
            columns = [k for k, v in rows[0].items() if not isinstance(v, (list, dict))]
            rows = [{k: _word(v) for k, v in row.items()} for row in rows]
            cells = [[row.get(c, "") for c in columns] for row in rows]
            lines += [*_table([c.replace("_", " ") for c in columns], cells), ""]
    return "\n".join(lines)


def _word(value: object) -> object:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value


def _code(case: Mapping[str, Any]) -> str:
    return "over time" if case["exit_code"] is None else str(case["exit_code"])


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        lines.append("| " + " | ".join(_cell(value) for value in row) + " |")
    return lines


def _cell(value: object) -> str:
    text = " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")
    return text.replace("[", "\\[").replace("`rfx", "`rfx")
