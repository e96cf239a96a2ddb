"""A small checkpoint whose configuration was edited is refused before work goes into it."""

import json
import shutil
import time

import pytest

from rfx.core.errors import UsageError
from rfx.core.plan import Plan
from rfx.models.checkpoint import load, save
from rfx.models.families.find import find_sites
from rfx.models.shrink import shrink
from tests.families import make
from tests.models.checkpoints import edit


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small") / "good"
    model = make("bert", num_labels=3)
    sites = find_sites(model)
    plan = Plan.of(sites, {s.name: range(s.units // 2) for s in sites[1:]} | {sites[0].name: ()})
    save(shrink(model, sites, plan), sites, plan, folder)
    load(folder)  # whatever is imported once is imported
    return folder


@pytest.fixture
def folder(good, tmp_path):
    return shutil.copytree(good, tmp_path / "model")


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 2000},
        {"num_labels": 3 * 10**6, "id2label": None, "label2id": None},
        {"vocab_size": 10**9},
        {"hidden_size": 10**6},
        {"intermediate_size": 10**9},
        {"num_attention_heads": 3},
        {"num_hidden_layers": "many"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_giant_is_refused_in_no_time(folder, change):
    edit(folder, **change)
    start = time.process_time()
    with pytest.raises(UsageError, match=next(iter(change))):
        load(folder)
    assert time.process_time() - start < 1


def sites_with(folder, **changes):
    entry = json.loads((folder / "config.json").read_text())["rfx"]
    entry["sites"][1] |= changes
    return edit(folder, rfx=entry)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"count": -1}, "count of 'layer.0.ffn' is -1"),
        ({"count": 10**9}, "keeps 1000000000 of 48 units"),
        ({"count": "3"}, "count of 'layer.0.ffn' is '3'"),
        ({"count": 23}, r"\[24\]|\[24, 32\]"),
        ({"units": 10**9, "width": "a"}, "width of 'layer.0.ffn' is 'a'"),
        ({"units": 10**9, "count": 10**9 - 1}, "far larger model"),
    ],
)
def test_counts_that_cannot_be_are_named(folder, changes, said):
    with pytest.raises(UsageError, match=said):
        load(sites_with(folder, **changes))


@pytest.mark.parametrize(
    "named",
    [["pipeline"], ["set_seed"], ["__name__"], "BertModel", [], None, 5, [5], ["NoSuchModel"]],
    ids=str,
)
def test_what_is_no_class_of_a_model_is_refused(folder, named):
    with pytest.raises(UsageError) as error:
        load(edit(folder, architectures=named))
    assert "architectures" in str(error.value) and error.value.next_step


def test_a_class_of_another_model_is_refused(folder):
    with pytest.raises(UsageError):
        load(edit(folder, architectures=["BertModel"]))


def test_what_is_no_checkpoint_says_the_next_step(good, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for place in ("nowhere", tmp_path / "empty"):
        with pytest.raises(UsageError, match="no checkpoint here") as error:
            load(place)
        assert "check the path" in error.value.next_step and "  next:    " in str(error.value)
    for sites, said in ((3, "of another kind"), ([{"count": 1}], "is missing")):
        edit(folder, rfx={"schema_version": 1, "sites": sites})
        with pytest.raises(UsageError) as error:
            load(folder)
        assert "prune-export" in error.value.next_step
        assert said in error.value.got and "Error" not in error.value.got
    edit(folder, rfx=json.loads((good / "config.json").read_text())["rfx"], layer_norm_eps="x")
    with pytest.raises(UsageError, match="layer_norm_eps") as error:
        load(folder)
    assert error.value.allowed == "a number"
