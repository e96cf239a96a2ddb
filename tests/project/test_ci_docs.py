"""docs/ci: both files parse, their options exist, and their shell steps do what the page on CI
says, run for real."""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.evidences import make_accuracy, make_evidence, make_latency

ROOT = Path(__file__).parents[2]
CI = ROOT / "docs" / "ci"
GITHUB = yaml.safe_load((CI / "rfx-gate.yml").read_text(encoding="utf-8"))
GITLAB = yaml.safe_load((CI / "gitlab.yml").read_text(encoding="utf-8"))["rfx-gate"]
PAGES = ROOT / "docs" / "pages"
PAGE = (PAGES / "how-to" / "ci.md").read_text(encoding="utf-8")
CALL = GITHUB[True]["workflow_call"]  # YAML 1.1 reads the key `on` as true
STEPS = GITHUB["jobs"]["gate"]["steps"]
EVIDENCES = {
    "passing": make_evidence(),
    "failing": make_evidence(accuracy=make_accuracy(drop=3.0)),
    "inconclusive": make_evidence(accuracy=make_accuracy(drop=1.0, half=0.4)),
    "broken": make_evidence(mismatches=("a weight has 3 channels, the plan keeps 2",)),
    "slower": make_evidence(latency=make_latency(ratio=0.69, half=0.001)),
    "quicker": make_evidence(latency=make_latency(ratio=0.5, half=0.001)),
}


def step(name: str) -> dict:
    (found,) = [s for s in STEPS if s.get("id") == name]
    return found


def installed_packages(script: str) -> set[str]:
    """What an install step brings, with everything those packages require, as this environment has
    them."""
    wanted = [Requirement(r) for r in re.findall(r'"([a-z]+[<>=][^"]*)"', script)]
    todo, closure = {canonicalize_name(r.name) for r in wanted}, set()
    for requirement in wanted:
        assert requirement.specifier.contains(metadata.version(requirement.name)), requirement
    while todo:
        name = todo.pop()
        closure.add(name)
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo |= {canonicalize_name(requirement.name)} - closure
    return closure


GITHUB_INSTALL = step("install")["run"]
GITLAB_INSTALL = "\n".join(GITLAB["before_script"])


@pytest.fixture(scope="module")
def rfx_alone(tmp_path_factory) -> Path:
    """A folder with the command `rfx`, which can import only what the install step brings."""
    allowed = installed_packages(GITHUB_INSTALL)
    modules = metadata.packages_distributions()
    forbidden = {
        m for m, d in modules.items() if not {canonicalize_name(x) for x in d} & allowed
    } - {"rfx", "sitecustomize"}
    assert {"torch", "transformers", "onnx", "onnxruntime", "numpy"} <= forbidden
    folder = tmp_path_factory.mktemp("bin")
    (folder / "run.py").write_text(
        f"import runpy, sys\nFORBIDDEN = {sorted(forbidden)!r}\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in FORBIDDEN:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "runpy.run_module('rfx', run_name='__main__', alter_sys=True)\n",
        encoding="utf-8",
    )
    (folder / "rfx").write_text(
        f'#!/bin/sh\nexec "{sys.executable}" "{folder / "run.py"}" "$@"\n', encoding="utf-8"
    )
    (folder / "rfx").chmod(0o755)
    return folder


def run(
    script: str, shell: list[str], env: dict[str, str], folder: Path, bin_: Path
) -> subprocess.CompletedProcess:
    file = folder / ".step.sh"
    file.write_text(script, encoding="utf-8")
    clean = {
        k: v for k, v in os.environ.items() if not k.startswith(("GITHUB_", "RFX_", "CI", "COV_"))
    }
    path = f"{bin_}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [*shell, str(file)],
        cwd=folder,
        env={**clean, **env, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )


class GitHub:
    """The gate step as a runner takes it: inputs into its env, bash with -eo pipefail."""

    def __call__(self, folder: Path, bin_: Path, **inputs: str) -> subprocess.CompletedProcess:
        values = {
            n: str(i.get("default", "")).lower() if i["type"] == "boolean" else i.get("default", "")
            for n, i in CALL["inputs"].items()
        }
        values |= {n.replace("_", "-"): v for n, v in inputs.items()}
        gate = step("gate")
        assert gate["shell"] == "bash"
        env = {
            k: values[re.fullmatch(r"\$\{\{ inputs\.([a-z-]+) \}\}", v).group(1)]
            for k, v in gate["env"].items()
        }
        env |= {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(folder / "step-summary.md")}
        return run(
            gate["run"], ["bash", "--noprofile", "--norc", "-eo", "pipefail"], env, folder, bin_
        )


class GitLab:
    """The job's script as a runner takes it, by a plain POSIX shell."""

    def __call__(self, folder: Path, bin_: Path, **inputs: str) -> subprocess.CompletedProcess:
        env = GITLAB["variables"] | {f"RFX_{n.upper()}": v for n, v in inputs.items()}
        return run("\n".join(GITLAB["script"]), ["sh", "-e"], env, folder, bin_)


SERVICES = pytest.mark.parametrize("service", [GitHub(), GitLab()], ids=["github", "gitlab"])


def put(folder: Path, name: str, where: str = "evidence.json") -> str:
    (folder / where).parent.mkdir(parents=True, exist_ok=True)
    (folder / where).write_text(EVIDENCES[name].model_dump_json(), encoding="utf-8")
    return where


@SERVICES
@pytest.mark.parametrize(
    "name, inputs, code, outcomes",
    [
        ("passing", {}, 0, {}),
        ("passing", {"max_drop": "1.0", "min_speedup": "1.3"}, 0, {}),
        ("failing", {}, 1, {"accuracy": "failure"}),
        ("passing", {"min_speedup": "1.6"}, 1, {"latency": "failure"}),
        ("inconclusive", {}, 7, {"accuracy": "skipped"}),
        ("inconclusive", {"allow_inconclusive": "true"}, 0, {"accuracy": "skipped"}),
        ("failing", {"allow_inconclusive": "true"}, 1, {"accuracy": "failure"}),
        ("broken", {}, 6, {"shrunk": "failure"}),
    ],
)
def test_the_shell_step_gates(service, name, inputs, code, outcomes, tmp_path, rfx_alone):
    put(tmp_path, name)
    done = service(tmp_path, rfx_alone, **inputs)
    assert done.returncode == code, done.stderr
    cases = {
        c.get("name"): c for c in ET.parse(tmp_path / "rfx-gate.xml").getroot().iter("testcase")
    }
    assert set(cases) == {"shrunk", "same", "accuracy", "agreement", "latency"}
    found = {
        n: tag
        for n, c in cases.items()
        for tag in ("failure", "skipped")
        if c.find(tag) is not None
    }
    assert found == outcomes
    if isinstance(service, GitHub):
        summary = (tmp_path / "step-summary.md").read_text(encoding="utf-8")
        assert all(gate in summary for gate in cases) and EVIDENCES[name].recipe["name"] in summary
        levels = {"failure": "::error", "skipped": "::warning"}
        lines = [line for line in done.stderr.splitlines() if line.startswith("::")]
        assert [line.split(" ")[0] for line in lines] == [levels[o] for o in outcomes.values()]
    else:
        assert "::" not in done.stderr and not (tmp_path / "step-summary.md").exists()


@SERVICES
def test_a_baseline_is_compared_with(service, tmp_path, rfx_alone):
    put(tmp_path, "slower")
    put(tmp_path, "quicker", "main/evidence.json")
    put(tmp_path, "slower", "same.json")
    assert service(tmp_path, rfx_alone, baseline="main/evidence.json").returncode == 1
    assert "baseline-latency" in (tmp_path / "rfx-gate.xml").read_text(encoding="utf-8")
    assert service(tmp_path, rfx_alone, baseline="same.json", max_regression="0").returncode == 0
    done = service(tmp_path, rfx_alone, baseline="gone.json")
    assert done.returncode == 2 and "gone.json" in done.stderr


def test_artifacts_are_looked_for_where_they_are_put(tmp_path, rfx_alone):
    paths = {
        s["with"]["name"]: s["with"]["path"]
        for s in STEPS
        if "download-artifact" in s.get("uses", "")
    }
    assert paths == {
        "${{ inputs.artifact }}": "rfx-evidence",
        "${{ inputs.baseline-artifact }}": "rfx-baseline",
    }
    put(tmp_path, "failing")  # in the repository: not the one that is asked for
    put(tmp_path, "passing", "rfx-evidence/evidence.json")
    put(tmp_path, "passing", "rfx-baseline/evidence.json")
    put(tmp_path, "quicker", "rfx-baseline/other.json")
    assert GitHub()(tmp_path, rfx_alone, artifact="a").returncode == 0
    assert (
        GitHub()(tmp_path, rfx_alone, artifact="a", evidence=".", baseline_artifact="b").returncode
        == 0
    )
    assert (
        GitHub()(
            tmp_path, rfx_alone, artifact="a", baseline_artifact="b", baseline="other.json"
        ).returncode
        == 1
    )
    assert GitHub()(tmp_path, rfx_alone).returncode == 1


@SERVICES
@pytest.mark.parametrize(
    "inputs",
    [
        {"max_drop": "1.0; touch pwned"},
        {"max_drop": "$(touch pwned)"},
        {"min_speedup": "`touch pwned`"},
        {"max_drop": "--help"},
        {"evidence": "$(touch pwned)"},
        {"evidence": "a && touch pwned"},
        {"evidence": "--json"},
        {"baseline": "x' ; touch pwned '"},
        {"max_regression": "nan\ntouch pwned"},
        {"evidence": "gone.json"},
    ],
)
def test_inputs_are_never_commands_or_options(service, inputs, tmp_path, rfx_alone):
    put(tmp_path, "passing")
    done = service(tmp_path, rfx_alone, **inputs)
    assert done.returncode == 2, done.stdout + done.stderr
    assert not list(tmp_path.rglob("pwned"))


@SERVICES
def test_paths_of_any_kind_are_read(service, tmp_path, rfx_alone):
    put(tmp_path, "passing", "-a b/evidence.json")
    assert service(tmp_path, rfx_alone, evidence="-a b").returncode == 0


def test_every_option_exists(rfx_alone):
    done = subprocess.run(
        [str(rfx_alone / "rfx"), "gate", "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    offered = set(re.findall(r"--[a-z][a-z-]+", done.stdout))
    for script in (step("gate")["run"], "\n".join(GITLAB["script"])):
        used = set(re.findall(r"--[a-z][a-z-]+", script))
        assert used == {
            "--junit",
            "--max-drop",
            "--min-speedup",
            "--max-regression",
            "--baseline",
            "--allow-inconclusive",
        }
        assert used <= offered, done.stdout


def test_nothing_is_put_into_shell_text():
    for s in STEPS:
        assert "${{" not in s.get("run", "")
        for value in s.get("env", {}).values():
            assert re.fullmatch(r"\$\{\{ inputs\.[a-z-]+ \}\}", value)
    for job in (*GITLAB["before_script"], *GITLAB["script"]):
        assert not re.search(r'(?<!["{\w-])\$[A-Z]', job), "an unquoted variable"


def test_the_workflow_asks_for_little_and_its_inputs_are_typed():
    assert (
        GITHUB["permissions"] == {"contents": "read"}
        and "permissions" not in GITHUB["jobs"]["gate"]
    )
    assert {n: i["type"] for n, i in CALL["inputs"].items()} == {
        **dict.fromkeys(CALL["inputs"], "string"),
        "allow-inconclusive": "boolean",
    }
    assert all(
        "description" in i and ("default" in i) != i.get("required", False)
        for i in CALL["inputs"].values()
    )
    used = set(re.findall(r"inputs\.([a-z-]+)", (CI / "rfx-gate.yml").read_text(encoding="utf-8")))
    assert used == set(CALL["inputs"])
    actions = [s["uses"] for s in STEPS if "uses" in s]
    assert len(actions) == 5 and all(re.fullmatch(r"actions/[a-z-]+@v\d+", a) for a in actions)
    (checkout,) = [s for s in STEPS if s.get("uses", "").startswith("actions/checkout")]
    assert checkout["with"] == {"persist-credentials": False}


def test_junit_is_published():
    upload = STEPS[-1]
    assert (
        upload["uses"].startswith("actions/upload-artifact")
        and upload["with"]["path"] == "rfx-gate.xml"
    )
    assert "cancelled" in upload["if"]  # also after a failed gate
    assert (
        GITLAB["artifacts"]["reports"]["junit"] == "rfx-gate.xml"
        and GITLAB["artifacts"]["when"] == "always"
    )


def test_both_install_the_same_few_packages_and_the_page_names_them():
    assert installed_packages(GITHUB_INSTALL) == installed_packages(GITLAB_INSTALL)
    assert "torch" not in installed_packages(GITHUB_INSTALL)
    assert "--no-deps" in GITHUB_INSTALL and "--no-deps" in GITLAB_INSTALL
    for name in ("typer", "rich", "pydantic", "PyYAML"):
        assert name in PAGE


def test_the_page_calls_them_as_they_are():
    blocks = [yaml.safe_load(b) for b in re.findall(r"```yaml\n(.*?)```", PAGE, re.S)]
    (github,) = [b for b in blocks if "jobs" in b]
    call = github["jobs"]["gate"]
    assert set(call["with"]) <= set(CALL["inputs"]) and call["permissions"] == GITHUB["permissions"]
    assert {n for n, i in CALL["inputs"].items() if i.get("required")} <= set(call["with"])
    (gitlab,) = [b for b in blocks if "include" in b]
    assert (ROOT / gitlab["include"]).is_file() and set(gitlab["rfx-gate"]["variables"]) <= set(
        GITLAB["variables"]
    )
    for link in re.findall(r"\]\(([\w./-]+)\)", PAGE):
        assert (PAGES / "how-to" / link).is_file(), link


def test_the_pages_first_job_lets_only_gates_through(tmp_path):
    """A failed or inconclusive gate reaches the judging job; a mistake stops the first one."""
    (github,) = [
        b
        for b in (yaml.safe_load(b) for b in re.findall(r"```yaml\n(.*?)```", PAGE, re.S))
        if "jobs" in b
    ]
    script = next(s["run"] for s in github["jobs"]["prune"]["steps"] if "run" in s)
    for code in (0, 1, 2, 4, 7):
        (tmp_path / "rfx").write_text(f"#!/bin/sh\nexit {code}\n", encoding="utf-8")
        (tmp_path / "rfx").chmod(0o755)
        done = run(script, ["bash", "-e"], {}, tmp_path, tmp_path)
        assert done.returncode == (0 if code in (0, 1, 7) else code)


def test_the_commands_of_the_jetson_page_exist():
    import typer

    from rfx.cli.app import app

    text = (PAGES / "how-to" / "jetson.md").read_text(encoding="utf-8")
    lines = re.sub(
        r"\\\n\s*", "", "\n".join(re.findall(r"```bash\n(.*?)```", text, re.S))
    ).splitlines()
    commands = typer.main.get_command(app).commands
    board = subprocess.run(
        [sys.executable, "-m", "rfx.board", "profile", "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    seen = set()
    for line in lines:
        words = line.split("#")[0].split()
        used = set(re.findall(r"(--[a-z][a-z-]+)", line))
        if words[:1] == ["rfx"]:
            seen.add(words[1])
            assert used <= {o for p in commands[words[1]].params for o in p.opts}, line
        elif words[:4] == ["python", "-m", "rfx.board", "profile"]:
            seen.add("board")
            assert used <= set(re.findall(r"--[a-z][a-z-]+", board.stdout)), line
    assert seen == {"shapes", "board", "prune-export", "build", "verify"}
    for link in re.findall(r"\]\(([\w./-]+\.md)\)", text):
        assert (PAGES / "how-to" / link).is_file(), link
    assert text.lower().count("unverified on hardware") >= 2
