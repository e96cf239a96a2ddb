"""Every name of TensorRT that the code touches exists in the genuine bindings of 10.x and of 11.x.

The bindings are real wheels; the libraries below them, which only NVIDIA's index has, are stubs
compiled here. Nothing can be built with them, but every class, attribute and enum can be looked up.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "rfx/runtimes/tensorrt").glob("*.py"))
WHEELS = {10: "tensorrt-cu12-bindings>=10.13,<11", 11: "tensorrt-cu13-bindings>=11,<12"}
# Variables of these names hold objects of these classes, in both files.
CLASSES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "_config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "cache": "ITimingCache",
    "error": "ParserError",
    "tensor": "ITensor",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "runtime": "Runtime",
    "runtime_config": "IRuntimeConfig",
    "inspector": "EngineInspector",
}
OURS = {
    "cache.keep",
    "cache.origin",
    "error.what",
    "error.got",
    "error.next_step",
    "error.strerror",
    "engine.facts",
    "engine.engine",
    "engine.save",
    "engine.close",
}
# Behind `is_rtx`: TensorRT itself has none of them.
RTX_ONLY = {
    "ComputeCapability",
    "DynamicShapesKernelSpecializationStrategy",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
}
GONE_IN_11 = {
    "FP16",
    "BF16",
    "INT8",
    "FP8",
    "EXPLICIT_BATCH",
    "set_output_type",
    "dynamic_range",
    "build_engine",
    "max_workspace_size",
    "execute_async_v2",
    "get_binding_shape",
    "platform_has_fast_fp16",
    "device_memory_size",
    "IInt8Calibrator",
}


def used_names() -> set[str]:
    """`Class.attribute` and `Enum.MEMBER` as the sources use them."""
    found = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Attribute):
                continue
            chain, at = [node.attr], node.value
            while isinstance(at, ast.Attribute):
                chain.insert(0, at.attr)
                at = at.value
            if isinstance(at, ast.Name):
                chain.insert(0, at.id)
            if "trt" in chain[:-1]:
                names = chain[chain.index("trt") + 1 :]
                names = [n for n in names if not n.startswith("__")]
                found.add(".".join(names))
            elif chain[-2:-1] and chain[-2] in CLASSES and ".".join(chain[-2:]) not in OURS:
                found.add(f"{CLASSES[chain[-2]]}.{chain[-1]}")
    return {n for n in found if n}


def must_be_had(wheel: str, stderr: str, *, ci: bool) -> None:
    """Skip where no index answers; in CI a wheel that the index does not give is a failure, or the
    contract would go unchecked for ever."""
    offline = re.search(
        r"Retrying|connection|name resolution|timed? ?out|--no-index|proxy", stderr, re.IGNORECASE
    )
    if ci and not offline:
        pytest.fail(f"{wheel} cannot be had: {stderr.strip()[-500:]}")
    pytest.skip(f"{wheel} cannot be fetched (no package index, or no wheel for this Python)")


def test_in_ci_a_wheel_that_the_index_does_not_give_is_a_failure():
    gone = "ERROR: No matching distribution found for tensorrt-cu13-bindings"
    with pytest.raises(pytest.fail.Exception, match="No matching distribution"):
        must_be_had("w", gone, ci=True)
    for stderr, ci in (
        (gone, False),
        (f"WARNING: Retrying (Retry(total=4)) after connection broken\n{gone}", True),
    ):
        with pytest.raises(pytest.skip.Exception):
            must_be_had("w", stderr, ci=ci)


@pytest.fixture(scope="module", params=list(WHEELS))
def bindings(request, tmp_path_factory):
    """Folder to put on the path and the environment to import it in."""
    if not (sys.platform == "linux" and shutil.which("gcc")):
        pytest.skip("the stub libraries need Linux and gcc")
    folder = tmp_path_factory.mktemp(f"trt{request.param}")
    fetch = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
        "-d",
        str(folder),
        WHEELS[request.param],
    ]
    done = subprocess.run(fetch, capture_output=True, text=True, timeout=180)
    if done.returncode:
        must_be_had(WHEELS[request.param], done.stderr, ci=bool(os.environ.get("CI")))
    zipfile.ZipFile(next(folder.glob("*.whl"))).extractall(folder)
    symbols = {
        "nvinfer": [
            "createInferBuilder_INTERNAL",
            "createInferRefitter_INTERNAL",
            "createInferRuntime_INTERNAL",
            "getBuilderPluginRegistry",
            "getPluginRegistry",
        ],
        "nvinfer_plugin": ["initLibNvInferPlugins"],
        "nvonnxparser": [
            "createNvOnnxParser_INTERNAL",
            "createNvOnnxParserRefitter_INTERNAL",
            "getNvOnnxParserVersion",
        ],
    }
    for library, names in symbols.items():
        source = folder / f"{library}.c"
        source.write_text(
            "\n".join(f"void *{n}(void) {{ return 0; }}" for n in names), encoding="utf-8"
        )
        name = f"lib{library}.so.{request.param}"
        subprocess.run(
            [
                "gcc",
                "-shared",
                "-fPIC",
                f"-Wl,-soname,{name}",
                "-o",
                str(folder / name),
                str(source),
            ],
            check=True,
        )
    return request.param, folder


LOOK_UP = textwrap.dedent("""
    import importlib, json, sys
    module = importlib.import_module(sys.argv[1])
    missing = []
    for name in json.loads(sys.argv[2]):
        at = module
        try:
            for part in name.split("."):
                at = getattr(at, part)
        except AttributeError:
            missing.append(name)
    print(json.dumps({"version": module.__version__, "missing": missing}))
""")


def look_up(module: str, names: set[str], folder: Path | None = None) -> dict:
    env = dict(os.environ)
    if folder is not None:
        env |= {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOOK_UP, module, json.dumps(sorted(names))],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_scan_sees_what_the_code_touches():
    names = used_names()
    assert len(names) > 40, names
    assert {
        "Builder.build_serialized_network",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "IExecutionContext.execute_async_v3",
        "IBuilderConfig.create_timing_cache",
        "ParserError.node_operator",
        "ComputeCapability.CURRENT",
    } <= names
    assert not {n for n in names if set(n.split(".")) & GONE_IN_11}


def test_every_name_exists_in_the_genuine_bindings(bindings):
    major, folder = bindings
    names = {n for n in used_names() if n not in RTX_ONLY and n.split(".")[0] not in RTX_ONLY}
    found = look_up("tensorrt_bindings", names, folder)
    assert found["version"].startswith(f"{major}.")
    assert not found["missing"], f"TensorRT {found['version']} has no {', '.join(found['missing'])}"


def test_a_name_that_does_not_exist_would_be_found(bindings):
    major, folder = bindings
    # 11 has taken these away, 10 still has them.
    removed = {"BuilderFlag.FP16", "ITensor.dynamic_range"}
    missing = look_up("tensorrt_bindings", removed | {"Builder.no_such_thing"}, folder)["missing"]
    assert set(missing) == {"Builder.no_such_thing"} | (removed if major == 11 else set())


def test_tensorrt_rtx_has_the_rest():
    pytest.importorskip("tensorrt_rtx")
    found = look_up("tensorrt_rtx", used_names())
    assert not found["missing"], (
        f"TensorRT-RTX {found['version']} has no {', '.join(found['missing'])}"
    )
