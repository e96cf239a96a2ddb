"""Bad input, one by one: a message and an exit code, no traceback, nothing half-written, nothing
lost."""

import json
import shutil
import sys

import pytest

from tests.commands import STANDARD, given, run
from tests.conftest import sentences, write_jsonl


@pytest.fixture
def call(trained, cache, tmp_path):
    """prune-export on the trained model with some options replaced; returns exit code and
    message."""

    def go(model=None, task="text-classification", train=None, evaluation=None, out=None, extra=()):
        named = {
            "model": model or trained["model"],
            "train": train or trained["train"],
            "eval": evaluation or trained["eval"],
        }
        options = STANDARD | {"task": task, "flops": 0.5, "out": out or tmp_path / "out"}
        result = run("prune-export", *given(named, **options), *extra)
        assert result.exception is None or isinstance(result.exception, SystemExit), (
            result.exception
        )
        assert "Traceback" not in result.output
        if out is None:
            assert not (tmp_path / "out").exists()
        assert not [p for p in tmp_path.iterdir() if p.name.startswith(".") or "tmp" in p.name]
        return result.exit_code, result.output

    return go


def test_missing_files(call, tmp_path):
    code, text = call(train=tmp_path / "nowhere.jsonl")
    assert code == 2 and "nowhere.jsonl" in text
    code, text = call(model=tmp_path / "nomodel")
    assert code == 2 and "nomodel" in text


def test_wrong_columns(call, tmp_path):
    file = write_jsonl(tmp_path / "x.jsonl", [{"a": "b", "c": 1}] * 20)
    code, text = call(train=file)
    assert code == 2 and "a" in text and "c" in text


def test_empty_data(call, tmp_path):
    code, _ = call(train=write_jsonl(tmp_path / "x.jsonl", []))
    assert code == 2


@pytest.mark.parametrize("label", [2, -2, "nonsense"])
def test_labels_that_cannot_be(call, tmp_path, label):
    rows = sentences(30, 5)
    rows[7]["label"] = label
    code, _ = call(train=write_jsonl(tmp_path / "x.jsonl", rows))
    assert code == 2


def test_a_broken_line_is_named(call, tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text('{"text": "a", "label": 0}\n{"text": "b", "lab\n')
    code, text = call(train=file)
    assert code == 2 and "2" in text


def test_sequence_too_long(call):
    code, text = call(extra=["--max-length", "500"])
    assert code == 2 and "64" in text
    code, text = call(extra=["--sequence", "500"])
    assert code == 2 and "64" in text


def test_a_model_without_a_head(call, trained, tmp_path):
    import transformers

    headless = transformers.AutoModel.from_pretrained(trained["model"])
    headless.save_pretrained(tmp_path / "headless")
    shutil.copy(trained["model"] / "tokenizer.json", tmp_path / "headless")
    shutil.copy(trained["model"] / "tokenizer_config.json", tmp_path / "headless")
    code, text = call(model=tmp_path / "headless")
    assert code == 2 and "head" in text


def test_an_unsupported_family(call, tmp_path, trained):
    import transformers

    model = transformers.BartForSequenceClassification(
        transformers.BartConfig(
            vocab_size=50,
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
        )
    )
    model.save_pretrained(tmp_path / "bart")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(trained["model"] / name, tmp_path / "bart")
    code, text = call(model=tmp_path / "bart")
    assert (
        code == 5
        and "is an encoder-decoder" in text
        and "got: BartForSequenceClassification" in " ".join(text.split())
    )


def test_calibration_and_evaluation_are_one_file(call, trained):
    code, text = call(train=trained["eval"])
    assert code == 2 and "evaluation" in text


def test_budgets_that_cannot_be(trained, cache):
    assert (
        run(
            "prune-export", trained["model"], "--task", "text-classification", "--latency", "1.5"
        ).exit_code
        == 2
    )
    assert (
        run("prune-export", trained["model"], "--latency", "0.5", "--flops", "0.5").exit_code == 2
    )
    nothing = run("prune-export", *given(trained, task="text-classification"))
    assert nothing.exit_code == 2 and "--latency" in nothing.output


def test_unknown_names(call):
    assert call(task="translation")[0] == 2
    assert call(extra=["--method", "magic"])[0] == 2
    assert call(extra=["--metric", "bleu"])[0] == 2
    assert call(extra=["--column", "text"])[0] == 2


def test_tensorrt_says_what_is_missing(trained, cache):
    options = {"task": "text-classification", "latency": 0.7, "target": "trt"}
    result = run("prune-export", *given(trained, **options), "--json")
    assert result.exit_code == 4
    error = json.loads(result.stdout)["error"]
    assert "ort" in error["allowed"] and error["next_step"]


def test_an_output_folder_of_someone_else_is_left_alone(call, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    code, text = call(out=mine)
    assert code == 2 and "did not write" in text
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_evidence_that_is_none(tmp_path):
    assert run("gate", tmp_path / "nothing.json").exit_code == 2
    (tmp_path / "evidence.json").write_text("{}")
    assert run("gate", tmp_path / "evidence.json").exit_code == 2
    (tmp_path / "evidence.json").write_text("{")
    assert run("gate", tmp_path).exit_code == 2
    assert run("verify", tmp_path).exit_code == 2
    assert run("verify", tmp_path / "nowhere").exit_code == 2


def test_env_tells_of_every_runtime():
    result = run("env", "--json")
    assert result.exit_code == 0
    rows = {r["name"]: r for r in json.loads(result.stdout)["runtimes"]}
    assert rows["ort"]["ok"] and not rows["trt"]["ok"] and rows["trt"]["reason"]
    assert "runs here" in run("env").stdout


def test_options_the_task_does_not_have(trained, cache, tmp_path):
    file = tmp_path / "r.yaml"
    text = (
        f"model: {trained['model']}\ntask: text-classification\ndata: {{train: "
        f"{trained['train']}, eval: {trained['eval']}}}\n"
    )
    for options in ("{doc_stride: 64}", "{docstride: 64}", "{tokenizer: 1}"):
        file.write_text(text + f"task_options: {options}\n")
        result = run("plan", file, "--flops", "0.5")
        assert result.exit_code == 2 and "task_options" in result.output, result.output + str(
            result.exception
        )


def test_label_names_of_another_number(call):
    code, text = call(extra=["--labels", "a, b, c"])
    assert code == 2 and "3 label names" in text


def test_weights_that_are_damaged_or_only_a_pointer(call, trained, tmp_path):
    for name, content in (
        ("cut", None),
        ("pointer", b"version https://git-lfs.github.com/spec/v1\n"),
    ):
        shutil.copytree(trained["model"], tmp_path / name)
        file = tmp_path / name / "model.safetensors"
        file.write_bytes(file.read_bytes()[:1000] if content is None else content)
        code, text = call(model=tmp_path / name)
        assert code == 2 and "does not load" in text
        assert ("git lfs pull" in text) == (name == "pointer")


def test_examples_that_are_only_a_pointer(call, tmp_path):
    for name in ("eval.jsonl", "eval.json"):
        file = tmp_path / name
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
        code, text = call(evaluation=file)
        assert code == 2 and "git lfs pull" in text and name in text


def test_a_model_without_its_tokenizer(call, trained, tmp_path):
    shutil.copytree(
        trained["model"],
        tmp_path / "bare",
        ignore=shutil.ignore_patterns("*token*", "vocab*", "special*"),
    )
    code, text = call(model=tmp_path / "bare")
    assert code == 2 and "tokenizer" in text


def test_a_recipe_without_a_model(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in (["profile", "glue-sst2"], ["prune-export", "glue-sst2", "--latency", "0.7"]):
        result = run(*command)
        assert result.exit_code == 2 and "--model" in result.output


def test_an_output_place_that_cannot_be_written_is_named_before_the_work(
    call, tmp_path, monkeypatch
):
    import os

    access = os.access
    monkeypatch.setattr(os, "access", lambda p, mode: access(p, mode) and str(p) != str(tmp_path))
    code, text = call(out=tmp_path / "out")
    assert code == 2 and "Permission denied" in text and not (tmp_path / "out").exists()


def test_a_value_out_of_range_names_its_option(trained, cache):
    for option, value in (
        ("--latency", "1.5"),
        ("--latency", "0"),
        ("--threads", "0"),
        ("--examples", "0"),
        ("--max-drop", "-1"),
    ):
        more = [] if option == "--latency" else ["--latency", "0.7"]
        result = run("prune-export", trained["model"], option, value, *more)
        assert result.exit_code == 2 and option in result.output and value in result.output, (
            result.output
        )
    result = run("prune-export", trained["model"], "--latency", "0.7", "--flops", "0.5")
    assert (
        result.exit_code == 2
        and "only one of" in result.output
        and "Value error" not in result.output
    )


def test_a_misspelled_key_is_shown_its_neighbour(cache, tmp_path):
    (tmp_path / "r.yaml").write_text("bugdet: {latency: 0.7}\n")
    result = run("prune-export", tmp_path / "r.yaml")
    assert result.exit_code == 2 and "did you mean budget?" in result.output


def test_a_name_that_is_nothing_is_said(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("nosuch", "glue-xyz"):
        result = run("prune-export", name, "--latency", "0.7")
        assert result.exit_code == 2 and name in result.output and "glue-sst2" in result.output


def test_names_and_lengths_are_checked_before_the_quickstart_is_trained(cache):
    for option, value, said in (
        ("--metric", "foo", "foo"),
        ("--column", "foo=bar", "foo"),
        ("--sequence", "513", "at most 512 tokens"),
        ("--max-length", "100000", "at most 512 tokens"),
    ):
        result = run("prune-export", "--latency", "0.7", "--target", "ort", option, value)
        assert result.exit_code == 2 and said in result.output
    assert not (cache / "quickstart").exists()


def test_progress_off_a_terminal_tells_slow_from_hung(monkeypatch, capsys):
    from rfx.cli.terminal import Terminal, _PlainBar

    monkeypatch.setattr(_PlainBar, "EVERY_S", 0.0)
    with Terminal() as terminal, terminal.bar("counting", 4) as bar:
        bar.advance()
    said = capsys.readouterr()
    assert "counting: 1 of 4 (25%); time left: about" in said.err and not said.out


def test_an_engine_is_never_written_over_its_model(tmp_path, trained, cache):
    file = tmp_path / "model.onnx"
    file.write_bytes(_tiny_onnx())
    before = file.read_bytes()
    for out in (file, tmp_path / "model"):
        if out.name == "model":
            file.rename(tmp_path / "model.json")
            file = tmp_path / "model.json"
        result = run("build", file, "--compute-capability", "8.9", "--out", out)
        assert result.exit_code == 2 and "over the model" in result.output
        assert file.read_bytes() == before


@pytest.mark.parametrize(
    "options, said",
    [
        (["--batch", "-1"], "--batch is not a size"),
        (["--sequence", "0"], "--sequence is not a size"),
        (["--max-batch", "8", "--batch", "16"], "--max-batch is smaller"),
        (["--max-batch", "8", "--batch", "16"], "raise --max-batch, or lower --batch"),
        (["--max-sequence", "8", "--sequence", "16"], "--max-sequence is smaller"),
        (["--target", "xx"], "no such target"),
    ],
)
def test_sizes_of_an_engine_are_checked(tmp_path, options, said):
    file = tmp_path / "model.onnx"
    file.write_bytes(_tiny_onnx())
    result = run("build", file, "--compute-capability", "8.9", *options)
    assert result.exit_code == 2 and said in result.output, result.output
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("option", ["--sequence", "--max-sequence"])
def test_an_engine_is_not_built_for_more_tokens_than_the_model_has_positions(tmp_path, option):
    import onnx

    model = onnx.load_from_string(_tiny_onnx())
    onnx.helper.set_model_props(
        model, {"rfx.positions": "64", "rfx.sequence": "16", "rfx.max_length": "32"}
    )
    onnx.save(model, tmp_path / "model.onnx")
    result = run("build", tmp_path / "model.onnx", "--compute-capability", "8.9", option, "65")
    assert (
        result.exit_code == 2
        and f"{option} is longer" in result.output
        and "64 or less" in result.output
    ), result.output


def test_what_is_no_model_is_said(tmp_path):
    result = run("build", tmp_path)
    assert result.exit_code == 2 and "folder" in result.output
    (tmp_path / "empty.onnx").write_bytes(b"")
    result = run("build", tmp_path / "empty.onnx")
    assert result.exit_code == 2 and "no outputs" in result.output


def _tiny_onnx() -> bytes:
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 4]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    ).SerializeToString()


@pytest.mark.parametrize(
    "options",
    [
        ["--min-speedup", "0"],
        ["--min-speedup", "-1"],
        ["--min-speedup", "nan"],
        ["--max-drop", "nan"],
        ["--max-drop", "-3"],
        ["--max-regression", "-1"],
    ],
)
def test_limits_that_are_none_are_refused(tmp_path, options):
    from rfx.evidence.report.write import write_reports
    from tests.evidences import make_evidence

    write_reports(make_evidence(), tmp_path)
    result = run("gate", tmp_path, *options)
    assert result.exit_code == 2 and "is no limit" in result.output


def test_a_users_file_in_an_output_is_never_lost(call, warm, tmp_path):
    out = tmp_path / "kept"
    code, text = call(out=out)
    assert code == 0, text
    assert (
        oct((out / "model" / "model.safetensors").stat().st_mode)[-3:]
        == oct((out / "model.onnx").stat().st_mode)[-3:]
    )
    (out / "mynote.txt").write_text("mine")
    code, text = call(out=out)
    assert code == 2 and "mynote.txt" in text and (out / "mynote.txt").read_text() == "mine"
    (out / "mynote.txt").unlink()
    (out / "model" / "notes.txt").write_text("mine")
    code, text = call(out=out)
    assert code == 2 and "notes.txt" in text and (out / "model" / "notes.txt").read_text() == "mine"
    (out / "model" / "notes.txt").unlink()
    served = next((out / "triton").iterdir()) / "1"
    (served / "model.plan").write_bytes(b"not an engine that `rfx build` has recorded")
    code, text = call(out=out)
    assert code == 2 and "model.plan (added)" in text
    (served / "model.plan").unlink()
    assert call(out=out)[0] == 0


def test_an_option_that_is_none_is_one_json_object_too(monkeypatch, capsys):
    import rfx.cli.app

    for args, said in (
        (["gate", "x", "--max-drop", "abc"], "--max-drop"),
        (["gate", "--nonsense"], "--nonsense"),
        (["gate", "no.json"], "cannot be read"),
    ):
        monkeypatch.setattr(sys, "argv", ["rfx", *args, "--json"])
        with pytest.raises(SystemExit) as ended:
            rfx.cli.app.main()
        out = json.loads(capsys.readouterr().out)
        assert ended.value.code == out["exit_code"] == 2 and said in out["error"]["what"]


def test_a_table_of_another_runtime_or_condition_is_refused_before_any_work(
    call, trained, warm, tmp_path
):
    table = tmp_path / "table.json"
    assert (
        run(
            "profile",
            trained["model"],
            "--target",
            "ort",
            "--sequence",
            "16",
            "--out",
            table,
            "--quiet",
        ).exit_code
        == 0
    )
    nowhere = tmp_path / "nowhere.jsonl"  # would be met next
    for extra, said in (
        (["--target", "trt"], "runtime: table 'ort'"),
        (["--batch", "4"], "batch: table 1, asked for 4"),
    ):
        code, text = call(train=nowhere, extra=["--table", table, *extra])
        assert code == 2 and said in text.replace("\n", " "), text


def test_a_place_that_cannot_be_is_named(call):
    code, text = call(out="/proc/nowhere/out")
    assert code == 2 and "cannot be made" in text
    assert run("build", "/proc/none.onnx").exit_code == 2


def test_a_missing_package_is_named(trained, monkeypatch):
    import rfx.pipeline.plan

    def gone(*_, **__):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(rfx.pipeline.plan, "plan", gone)
    result = run("plan", trained["model"], "--flops", "0.5")
    assert result.exit_code == 4 and "needs torch" in result.output


@pytest.mark.parametrize("command", ["plan", "prune-export", "profile"])
def test_an_empty_name_of_a_model_is_not_the_quickstart(command):
    result = run(command, "", *(() if command == "profile" else ("--flops", "0.5")))
    assert result.exit_code == 2 and "The name of the model is empty." in result.output


def test_a_plan_asks_for_the_sites_that_are_kept_too(trained, cache):
    named = given(trained, task="text-classification", flops=0.5)
    result = run("plan", *named, "--precision", "int8", "--keep-fp32", "layer.9.ffn")
    assert result.exit_code == 2 and "There is no such site to keep in fp32." in result.output
