"""Clumsy inputs of a new user, each with the words that help."""

import json

import pytest

from rfx.core.errors import UsageError
from rfx.tasks.data import load_examples
from tests.commands import given, run
from tests.conftest import sentences, write_jsonl


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("https://huggingface.co/org/name", "give the model's name and its task: org/name --task"),
        ("https://example.com/model.zip", "download the model first"),
        ("./nowhere", "no such folder here"),
        ("C:\\models\\x", "no such folder here"),
        ("model.zip", "no such folder here"),
        ("Quickstart", "did you mean quickstart?"),
        ("quickstart.yaml", "give its name alone: quickstart"),
        ("bert-base-uncased", "for a model of the hub add --task"),
    ],
)
def test_a_model_that_is_not_there(trained, cache, tmp_path, monkeypatch, model, said):
    monkeypatch.chdir(tmp_path)
    result = run("plan", model, *given(trained, flops=0.5)[1:])
    assert result.exit_code == 2 and said in " ".join(result.output.split()), result.output


@pytest.mark.parametrize(
    "args",
    [
        ["gate", "https://example.com/evidence.json"],
        ["verify", "https://example.com/out"],
        ["build", "https://example.com/model.onnx"],
        ["prune-export", "x", "--out", "s3://bucket/out"],
    ],
)
def test_an_address_is_no_path(args):
    with pytest.raises(UsageError, match="This is an address") as error:
        run(*args)
    assert "download it first" in error.value.next_step


@pytest.mark.parametrize(
    ("option", "text", "meant"),
    [("--max-drop", "1%", "1"), ("--max-drop", "1,5", "1.5"), ("--flops", "50%", "0.5")],
)
def test_a_number_with_a_comma_or_a_sign_is_shown_as_it_is_meant(option, text, meant):
    with pytest.raises(UsageError) as error:
        run("prune-export", "x", option, text)
    assert error.value.next_step == f"write {option} {meant}"


ROWS = sentences(20, 0)


@pytest.mark.parametrize(
    ("name", "text", "step"),
    [
        ("a.jsonl", "text,label\ngood,1\n", "ends in .csv"),
        ("a.json", "text,label\ngood,1\n", "ends in .csv"),
        ("a.jsonl", "\n".join(map(str, ROWS)), "json.dumps"),
        ("a.jsonl", "".join(json.dumps(r) + ",\n" for r in ROWS), "remove the comma"),
        ("a.jsonl", "[\n" + "".join(json.dumps(r) + ",\n" for r in ROWS) + "]", "write it again"),
        ("a.csv", "".join(json.dumps(r) + "\n" for r in ROWS), "ends in .jsonl"),
        ("a", "".join(json.dumps(r) + "\n" for r in ROWS), "give it a name that ends in"),
    ],
)
def test_examples_under_the_wrong_name(tmp_path, name, text, step):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError) as error:
        load_examples(tmp_path / name)
    assert step in error.value.next_step and name in error.value.render()


def test_examples_at_an_address_are_to_be_downloaded():
    with pytest.raises(UsageError, match="not from an address"):
        load_examples("https://example.com/train.jsonl")


def test_labels_under_other_names_are_listed_as_the_option_takes_them(trained, cache, tmp_path):
    rows = [{**r, "label": ["bad", "good"][r["label"]]} for r in ROWS]
    file = write_jsonl(tmp_path / "x.jsonl", rows)
    named = {**trained, "train": file}
    result = run("plan", *given(named, flops=0.5))
    assert (
        result.exit_code == 2
        and "order, which the data do not tell: --labels bad,good if 'bad' is"
        in " ".join(result.output.split())
    )


def test_the_root_of_a_disk_is_not_searched_through(tmp_path):
    from rfx.core.errors import UserError
    from rfx.models.place import Place, look_at

    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (deep / "model.onnx").write_bytes(b"\x08\x0a\x12\x00")
    with pytest.raises(UserError, match="holds no Hugging Face checkpoint"):
        look_at(Place.of(str(tmp_path)))
    with pytest.raises(UserError, match="an exported ONNX graph only"):
        look_at(Place.of(str(deep.parent)))


def test_weights_beside_an_onnx_file_that_are_a_pointer_are_named(tmp_path):
    import numpy
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in ("x", "y")]
    weight = numpy_helper.from_array(numpy.ones(4, numpy.float32), "w")
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    model = helper.make_model(helper.make_graph(nodes, "g", value[:1], value[1:], [weight]))
    onnx.save(
        model,
        tmp_path / "model.onnx",
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=0,
    )
    (tmp_path / "model.onnx.data").write_text("version https://git-lfs.github.com/spec/v1\n")
    result = run("build", tmp_path / "model.onnx", "--compute-capability", "8.9")
    assert result.exit_code == 2 and "git lfs pull" in result.output
    assert "model.onnx.data" in result.output


def test_a_key_of_another_section_is_named_before_one_that_merely_looks_alike(cache, tmp_path):
    (tmp_path / "r.yaml").write_text("model: x\nflops: 0.5\n")
    result = run("plan", tmp_path / "r.yaml")
    assert result.exit_code == 2 and "did you mean budget.flops?" in result.output


def test_a_next_step_never_names_an_option_as_a_key(trained, cache):
    result = run("plan", *given(trained, flops=0.5, labels="a;b"))
    assert result.exit_code == 2 and "next:    correct --labels\n" in result.output


def test_weights_without_their_configuration_are_told_so(tmp_path, cache):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
    result = run("plan", tmp_path / "m", "--train", "x", "--flops", "0.5")
    assert result.exit_code == 2 and "has weights and no config.json" in result.output


def test_an_option_of_another_command_says_whose_it_is(cache, monkeypatch, capsys):
    from rfx.cli.app import main

    for option, said in (("--max-drop", "rfx prune-export, rfx sweep, rfx gate"), ("--xyz", "")):
        monkeypatch.setattr("sys.argv", ["rfx", "plan", "m", option, "1"])
        with pytest.raises(SystemExit) as ended:
            main()
        step = capsys.readouterr().err.partition("next:")[2]
        assert ended.value.code == 2 and said in step and "--help" in step
        assert ("it is an option of" in step) == bool(said)


def test_a_plan_that_prunes_nothing_says_so_and_warnings_are_in_the_json(trained, warm):
    """The whole model is within a size of 500 MB."""
    arguments = ("plan", *given(trained, size="500MB"))
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert "Nothing is pruned: the whole model is within the budget." in result.output
    assert "rfx prune-export" not in result.stdout
    found = json.loads(run(*arguments, "--refine", "none", "--json", "--quiet").stdout)
    assert found["warnings"] == []


def test_texts_that_are_all_numbers_are_warned_of(trained, warm, tmp_path):
    rows = [{"text": str(i / 2), "label": i % 2} for i in range(40)]
    train = write_jsonl(tmp_path / "numbers.jsonl", rows)
    result = run("plan", *given({**trained, "train": train}, flops=0.5), "--json")
    assert result.exit_code == 0, result.output
    (said,) = [w for w in json.loads(result.stdout)["warnings"] if "number" in w]
    assert "Every text of the training examples is a number" in said and "--column" in said
