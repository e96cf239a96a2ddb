"""docker/, as far as it can be checked without Docker: the files as text, against what they speak
of."""

import ast
import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

tomllib = pytest.importorskip("tomllib")  # Python 3.11
ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
EXTRAS = {
    "cpu.Dockerfile": {"cpu", "plots"},
    "gpu.Dockerfile": {"cuda13", "trt13", "plots"},
}
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
README = (DOCKER / "README.md").read_text(encoding="utf-8")


def instructions(path: Path) -> list[tuple[str, str]]:
    """(INSTRUCTION, its arguments) in order, comments gone and continued lines joined."""
    text = "\n".join(
        line
        for line in path.read_text(encoding="utf-8").splitlines()
        if not line.lstrip().startswith("#")
    )
    text = re.sub(r"\\\n\s*", " ", text)
    return [
        (line.split()[0].upper(), line.split(maxsplit=1)[1])
        for line in text.splitlines()
        if line.strip()
    ]


def arguments(path: Path, name: str) -> list[str]:
    return [rest for instruction, rest in instructions(path) if instruction == name]


def in_context(path: str) -> bool:
    """Whether .dockerignore leaves a file in the build context: the last pattern that fits it, or a
    folder above it, decides."""
    parts = path.split("/")
    above = ["/".join(parts[:i]) for i in range(1, len(parts) + 1)]
    inside = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        keep, pattern = pattern.startswith("!"), pattern.removeprefix("!")
        tail = pattern.removeprefix("**/")
        fits = any(
            fnmatchcase(p.split("/")[-1], tail)
            if pattern.startswith("**/")
            else p.count("/") == pattern.count("/") and fnmatchcase(p, pattern)
            for p in above
        )
        inside = keep if fits else inside
    return inside


def pins() -> dict[str, str]:
    lines = (DOCKER / "constraints.txt").read_text(encoding="utf-8").splitlines()
    rows = [
        re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][0-9.]*)", line)
        for line in lines
        if line and not line.startswith("#")
    ]
    assert all(rows), "every line of constraints.txt is NAME==VERSION"
    return {canonicalize_name(r.group(1)): r.group(2) for r in rows}


def requirements(extras: set[str]) -> list[Requirement]:
    listed = PROJECT["dependencies"] + [
        r for e in extras for r in PROJECT["optional-dependencies"][e]
    ]
    return [Requirement(r) for r in listed]


def test_there_is_one_for_the_cpu_and_one_for_the_gpu():
    assert {p.name for p in DOCKERFILES} == set(EXTRAS)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_what_is_copied_exists_and_is_in_the_build_context(path):
    copied = []
    for rest in arguments(path, "COPY"):
        *sources, _ = rest.split()
        assert not any(s.startswith("--from") for s in sources)
        copied += sources
    assert set(copied) == {
        "pyproject.toml",
        "docker/constraints.txt",
        "README.md",
        "recipes",
        "rfx",
    }
    for source in copied:
        assert (ROOT / source).exists(), source
        files = (
            [p for p in (ROOT / source).rglob("*.*") if "__pycache__" not in p.parts]
            if (ROOT / source).is_dir()
            else [ROOT / source]
        )
        assert files and all(in_context(p.relative_to(ROOT).as_posix()) for p in files), source


def test_nothing_else_is_in_the_build_context():
    for path in (
        ".git/config",
        "tests/conftest.py",
        "benchmarks/x.json",
        "docs/pages/how-to/ci.md",
        "rfx-out/model.onnx",
        "build/model.onnx",
        "rfx/__pycache__/cli.pyc",
        "rfx/export/__pycache__/onnx.pyc",
        "docker/README.md",
        "model.safetensors",
    ):
        assert not in_context(path), path


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_the_extras_exist_and_go_together(path):
    named = {
        e
        for e in re.findall(r'"\.\[([^\]]+)\]"', path.read_text(encoding="utf-8"))
        for e in e.split(",")
    }
    assert named == EXTRAS[path.name] and named <= set(PROJECT["optional-dependencies"])
    assert len(named & {"cpu", "cuda12", "cuda13"}) == 1  # the onnxruntime wheels share one folder


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_every_direct_dependency_is_pinned_to_a_version_that_rfx_takes(path):
    pinned = pins()
    for requirement in requirements(EXTRAS[path.name]):
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"pin {name} in docker/constraints.txt"
        assert requirement.specifier.contains(pinned[name]), (
            f"{name}=={pinned[name]} against {requirement}"
        )
    for rest in arguments(path, "RUN"):
        if "pip" in rest and " install " in rest:
            assert (
                "--no-deps --force-reinstall ." in rest
                or f"torch=={pinned['torch']}" in rest
                or "-c constraints.txt" in rest
            )


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_the_user_is_not_root_and_the_command_is_rfx(path):
    steps = instructions(path)
    users = [rest for name, rest in steps if name == "USER"]
    assert users and users[-1] not in ("root", "0")
    assert re.search(rf"useradd --uid [1-9]\d* .*\b{users[-1]}\b", path.read_text(encoding="utf-8"))
    after = [name for name, _ in steps[max(i for i, s in enumerate(steps) if s[0] == "USER") :]]
    assert "RUN" not in after and "COPY" not in after
    assert (
        arguments(path, "ENTRYPOINT") == ['["rfx"]']
        and PROJECT["scripts"]["rfx"] == "rfx.cli.app:main"
    )
    assert not arguments(path, "HEALTHCHECK") and not arguments(path, "CMD")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_the_code_comes_after_what_changes_less(path):
    """Dependencies are installed before the code is copied: an edit of the code keeps the large
    layers."""
    steps = [f"{name} {rest}" for name, rest in instructions(path)]
    position = {step: i for i, step in enumerate(steps)}
    install = next(i for s, i in position.items() if "-c constraints.txt" in s)
    assert (
        position["COPY pyproject.toml docker/constraints.txt ./"]
        < install
        < position["COPY rfx rfx"]
    )
    assert next(i for s, i in position.items() if "torch==" in s) < install


@pytest.mark.parametrize("path", [*DOCKERFILES, DOCKER / "compose.yaml"], ids=lambda p: p.name)
def test_every_image_has_a_tag_and_none_is_latest(path):
    text = path.read_text(encoding="utf-8")
    assert "latest" not in text
    tags = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.M)) | dict(
        re.findall(r"\$\{(\w+):-([^}]+)\}", text)
    )
    images = re.findall(r"^(?:FROM|\s*image:) (\S+)", text, re.M)
    assert images
    for image in images:
        tag = re.fullmatch(r"[a-z0-9./-]+:\$\{(\w+)(?::-[^}]+)?\}", image)
        assert tag and re.match(r"\d+\.\d+", tags[tag.group(1)]), image


def test_the_engine_is_built_by_the_tensorrt_that_serves_it():
    """NVIDIA's containers of one month have one TensorRT; the wheel is that one too."""
    base = re.search(
        r"^ARG TENSORRT_TAG=(\S+)$", (DOCKER / "gpu.Dockerfile").read_text(encoding="utf-8"), re.M
    ).group(1)
    assert re.fullmatch(r"\d\d\.\d\d-py3", base)
    assert COMPOSE["x-triton"]["image"] == f"nvcr.io/nvidia/tritonserver:${{TRITON_TAG:-{base}}}"
    assert f"tensorrt:{base}" in README and f"tritonserver:{base}" in README
    assert ".".join(pins()["tensorrt-cu13"].split(".")[:3]) in README


def test_compose_serves_what_rfx_writes():
    services = COMPOSE["services"]
    assert {name: s["profiles"] for name, s in services.items()} == {
        "triton-cpu": ["cpu"],
        "triton-gpu": ["gpu"],
    }
    for service in services.values():
        (mount,) = service["volumes"]
        assert (
            mount["type"] == "bind"
            and mount["read_only"] is True
            and mount["bind"]["create_host_path"] is False
        )
        assert re.fullmatch(r"\$\{RFX_BUILD:\?[^}]+\}/triton", mount["source"])
        command = service["command"]
        assert command[0] == "tritonserver" and f"--model-repository={mount['target']}" in command
        assert "--disable-auto-complete-config" in command and "--exit-on-error=true" in command
        assert service["healthcheck"]["test"][0] == "CMD" and service["healthcheck"]["test"][
            -1
        ].endswith(":8000/v2/health/ready")
        assert service["user"].split(":")[0] not in ("0", "root")
        assert [p.split(":")[-1] for p in service["ports"]] == ["8000", "8001", "8002"]
        assert all(p.startswith("127.0.0.1:") for p in service["ports"])
    devices = services["triton-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert "deploy" not in services["triton-cpu"]


def test_the_readme_says_what_is_true():
    assert "not built by our CI" in README and "unverified on hardware" in README
    for name in ("cpu.Dockerfile", "gpu.Dockerfile", "compose.yaml", "constraints.txt"):
        assert name in README
    for used in re.findall(r"docker/[\w.-]+", README):
        assert (ROOT / used).is_file(), used
    for tag in re.findall(r"`(?:python|nvcr\.io/[\w./-]+):([\w.-]+)`", README):
        assert tag in "".join(
            p.read_text(encoding="utf-8") for p in [*DOCKERFILES, DOCKER / "compose.yaml"]
        )


def test_the_options_in_the_readme_exist():
    import typer

    from rfx.cli.app import app

    commands = typer.main.get_command(app).commands
    block = re.sub(r"\\\n\s*", " ", README)
    runs = re.findall(r"rfx:(?:cpu|gpu) +([a-z-]+) (.*)", block)
    assert len(runs) == 2
    for name, rest in runs:
        known = {o for p in commands[name].params for o in p.opts}
        assert set(re.findall(r"(--[a-z-]+)", rest)) <= known


def test_the_client_example_reads_the_names_from_the_server():
    """It compiles, and asks only for what the client library has; input names come from the model,
    as rfx wrote them."""
    code = re.search(r"<!-- client -->\n```python\n(.*?)```", README, re.S).group(1)
    tree = ast.parse(code)
    assert "get_model_metadata" in code and "tokens[tensor.name]" in code
    triton = pytest.importorskip("tritonclient.grpc")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = {"triton": triton, "client": triton.InferenceServerClient}.get(node.value.id)
            assert owner is None or hasattr(owner, node.attr), node.attr


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_libraries_of_an_image_report_nothing(file):
    """Also where another program than rfx is run in it."""
    said = [arguments for name, arguments in instructions(file) if name == "ENV"]
    found = dict(part.split("=", 1) for line in said for part in line.split() if "=" in part)
    for name in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        assert found.get(name) == "1", name


def test_the_server_of_the_compose_file_reports_nothing():
    services = [s for s in COMPOSE["services"].values() if "onnx" in str(s) or "triton" in str(s)]
    assert services
    for service in services:
        if "build" not in service:
            assert service["environment"]["ORT_DISABLE_TELEMETRY"] == "1"
