"""The latency table: its algebra on made-up times, its measurement on the real runtime, its
file."""

import json
from dataclasses import asdict, replace
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest

import rfx.cost.curves as algebra
import rfx.cost.groups as groups
from rfx.core import environment
from rfx.core.errors import UsageError
from rfx.core.plan import Kind, Plan
from rfx.core.progress import Silent
from rfx.core.store import Store
from rfx.core.workload import Workload
from rfx.cost import effort
from rfx.cost.alike import Alike, ModelShape, alike
from rfx.cost.bench import Bench
from rfx.cost.flops import FlopsCost
from rfx.cost.latency import load_or_measure, table_key
from rfx.cost.points import MAX_COUNTS, counts_of, thinned
from rfx.cost.table import LatencyTable, TableKey
from rfx.cost.table_file import parse_table, read_table, write_table
from rfx.models.families.find import find_sites
from rfx.models.shrink import shrink
from rfx.pipeline.timed import timed_plan
from rfx.runtimes.base import Capabilities, Runtime
from rfx.runtimes.find import runtime
from tests.families import make, text_inputs
from tests.methods.search.problems import make_sites

KEY = TableKey(
    "ort",
    "onnxruntime 1",
    "a CPU",
    "process CPU time",
    1,
    "fp32",
    1,
    16,
    64,
    4,
    16,
    128,
    "post-ln/gelu",
)


def table(**more):
    curves = {
        "mha": {n: 0.01 + 0.1 * n for n in range(5)},
        "ffn": {n: 0.01 + 0.002 * n for n in range(0, 129, 32)},
    }
    return LatencyTable(**{"key": KEY, "costs_ms": curves, "fixed_ms": 0.3, "layers": 3, **more})


@pytest.mark.parametrize(
    ("total", "grid"), [(128, 32), (1536, 32), (3072, 32), (4096, 64), (100, 32), (48, 64), (7, 1)]
)
def test_counts_are_on_the_grid_with_both_ends(total, grid):
    counts = thinned(total, grid)
    assert counts[0] == 0 and counts[-1] == total and len(counts) <= MAX_COUNTS + 1
    assert all(n % grid == 0 for n in counts[:-1])


def test_what_is_timed_comes_apart_into_its_curves():
    """Additive models: what n units add at all sites, whatever the others keep."""
    rng = np.random.default_rng(0)
    a, b = np.sort(rng.random(5)), np.sort(rng.random(4))
    a, b, filters = a - a[0], b - b[0], [0, 32, 64, 96]

    def noisy(ms):
        return ms * (1 + 1e-9 * rng.standard_normal(50))

    samples = {("mha", h): noisy(0.5 + a[h] + b[3]) for h in range(4)}
    samples |= {("ffn", f): noisy(0.5 + a[4] + b[j]) for j, f in enumerate(filters[:3])}
    samples[algebra.DENSE] = noisy(0.5 + a[4] + b[3])
    rises, errors = algebra.split(samples, {"mha": range(5), "ffn": filters}, smooth=False)
    assert [rises["mha"][h] for h in range(5)] == pytest.approx(a.tolist(), abs=1e-6)
    assert [rises["ffn"][f] for f in filters] == pytest.approx(b.tolist(), abs=1e-6)
    assert max(errors["mha"].values()) < 1e-6 and errors["mha"][0] == 0


def test_smoothing_takes_noise_away_and_leaves_what_rises():
    times = {("mha", h): np.full(3, 1.0 + h) for h in range(4)} | {algebra.DENSE: np.full(3, 5.0)}
    times["mha", 2] = np.full(3, 4.5)  # an outlier: slower than three heads
    rises, _ = algebra.split(times, {"mha": range(5)}, smooth=True)
    values = [rises["mha"][h] for h in range(5)]
    assert values == sorted(values) and values[0] == 0 and values[4] == pytest.approx(4.0)
    raw, _ = algebra.split(times, {"mha": range(5)}, smooth=False)
    assert raw["mha"][2] > raw["mha"][3]


RISES = {"mha": {0: 0.0, 1: 1.2, 2: 2.7}, "ffn": {0: 0.0, 64: 5.7}}  # of three layers
ERRORS = {k: dict.fromkeys(c, 0.03) for k, c in RISES.items()}
COUNTED = {"mha": algebra.Sites(2, 3, 3), "ffn": algebra.Sites(64, 3, 3)}


def test_the_anchors_are_met_exactly():
    for dense, emptied in ((10.0, 1.0), (8.0, 2.5), (9.0, 0.2)):
        costs, errors, fixed, _, note = algebra.anchor(RISES, ERRORS, COUNTED, dense, emptied)
        assert fixed == emptied and costs["mha"][0] == costs["ffn"][0] == 0
        assert fixed + 3 * (costs["mha"][2] + costs["ffn"][64]) == pytest.approx(dense)
        assert note["anchor_factor"] == pytest.approx((dense - emptied) / 8.4)
        assert errors["mha"][2] == pytest.approx(0.01 * note["anchor_factor"])
    # An empty model slower than the dense one: the models that were timed have the word.
    noise = algebra.anchor(RISES, ERRORS, COUNTED, 1.0, 1.1)
    assert noise[4]["anchor_factor"] is None
    assert noise[0]["mha"] == pytest.approx({0: 0.0, 1: 0.4, 2: 0.9})


def test_a_model_is_timed_with_its_first_layers():
    """Three of the six layers: the costs are those of one site all the same."""
    half = {k: algebra.Sites(s.units, 6, 3) for k, s in COUNTED.items()}
    costs, _, fixed, _, note = algebra.anchor(RISES, ERRORS, half, 17.8, 1.0)
    assert note["anchor_factor"] == pytest.approx(1.0) and fixed == 1.0
    assert costs["mha"] == pytest.approx({0: 0.0, 1: 0.4, 2: 0.9})


def partial_rises(share, whole=3, layers=3):
    """What is timed where one of the layers computes a share of what the others do: heads add 0.5
    for the first and 0.4 for the second, filters 2; the last layer keeps a head at least."""
    heads = {0: 0.0, 1: 0.5 * (layers - 1), 2: 0.9 * (layers - 1) + 0.4 * share}
    rises = {"mha": heads, "ffn": {0: 0.0, 64: 2.0 * (layers - 1) + 2.0 * share}}
    added = {"mha": 0.4 * share, "ffn": 2.0 * share}
    sites = {
        name: algebra.Sites(units, whole, layers, 1, 1, least, added[name])
        for name, units, least in (("mha", 2, 1), ("ffn", 64, 0))
    }
    dense = 1.0 + (whole - 1) * 2.9 + 2.9 * share
    return rises, sites, dense


@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
@pytest.mark.parametrize(("whole", "layers"), [(3, 3), (12, 6)])
def test_what_a_last_layer_costs_where_it_computes_one_position_is_met_too(share, whole, layers):
    rises, sites, dense = partial_rises(share, whole, layers)
    errors = {k: dict.fromkeys(c, 0.01) for k, c in rises.items()}
    costs, _, fixed, shares, note = algebra.anchor(rises, errors, sites, dense, 1.0)
    assert note["anchor_factor"] == pytest.approx(1.0) and fixed == 1.0
    assert costs["mha"] == pytest.approx({0: 0.0, 1: 0.5, 2: 0.9})
    assert costs["ffn"] == pytest.approx({0: 0.0, 64: 2.0})
    assert shares == pytest.approx({"mha": share, "ffn": share})


def test_shares_stay_within_what_they_can_be():
    rises, sites, dense = partial_rises(0.3)
    errors = {k: dict.fromkeys(c, 0.01) for k, c in rises.items()}
    # A clock's noise is no gain; and a part is no more than the whole.
    for added, share in ((-0.2, algebra.LEAST), (9.0, 1.0)):
        noisy = sites | {"ffn": replace(sites["ffn"], added_ms=added)}
        assert algebra.anchor(rises, errors, noisy, dense, 1.0)[3]["ffn"] == share
    # Where every site is a partial one there is nothing that it could be a part of.
    alone = {
        "mha": algebra.Sites(2, 1, 1, 1, 1, 1, 0.45),
        "ffn": algebra.Sites(64, 1, 1, 1, 1, 0, 1.0),
    }
    rises = {"mha": {0: 0.0, 1: 0.0, 2: 0.45}, "ffn": {0: 0.0, 64: 1.0}}
    costs, _, fixed, shares, note = algebra.anchor(rises, errors, alone, 2.5, 1.0)
    assert shares == {"mha": 1.0, "ffn": 1.0} and note["anchor_factor"] is None
    assert costs["mha"] == pytest.approx(rises["mha"])
    assert fixed + costs["mha"][2] + costs["ffn"][64] == pytest.approx(2.5)


def test_sites_of_several_sizes_have_a_curve_for_each():
    sites = [
        replace(s, units=s.units // 2 if s.layer == 1 else s.units)
        for s in make_sites(layers=3, heads=4, filters=64)
    ]
    groups = alike(sites, partial=[sites[-1].name])
    assert [g.name for g in groups] == ["mha", "ffn", "mha-2", "ffn-2"]
    shape = ModelShape("bert/x", 32, 3, groups)
    assert shape.curves == {sites[2].name: "mha-2", sites[3].name: "ffn-2"}
    assert shape.partial == {"ffn": (sites[-1].name,)}
    assert ModelShape.from_json(json.loads(json.dumps(shape.to_json()))) == shape
    made = table(
        costs_ms={"mha": {0: 0.0, 4: 1.0}, "ffn": {0: 0.0, 128: 1.0}}
        | {"mha-2": {0: 0.0, 2: 0.7}, "ffn-2": {0: 0.0, 32: 0.3}},
        curves=shape.curves,
    )
    assert parse_table(json.loads(json.dumps(made.to_json())), "x") == made
    assert made.curve_at(sites[2]) == {0: 0.0, 2: 0.7} and made.curve_at(sites[0])[4] == 1.0
    with pytest.raises(UsageError, match="not in costs_ms"):
        parse_table(made.to_json() | {"curves": {"x": "mha-3"}}, "x")
    with pytest.raises(UsageError, match="curve of no kind"):
        parse_table(
            made.to_json() | {"costs_ms": {**made.to_json()["costs_ms"], "conv-2": {"0": 1}}}, "x"
        )


def test_a_model_of_many_sizes_has_fewer_counts_of_each(monkeypatch):
    monkeypatch.setattr("rfx.cost.points.MAX_COUNTS", 49)
    there = SimpleNamespace(grid=lambda kind, precision: 32, capabilities=Capabilities())
    for number in (2, 40):
        groups = tuple(
            Alike(f"ffn-{i + 2}" if i else "ffn", Kind.FFN, 3072, 1, (f"s{i}",))
            for i in range(number)
        )
        counts = counts_of(ModelShape("x", 8, 1, groups), there, "fp32")
        lengths = {len(own) for own in counts.values()}
        assert lengths == ({49} if number == 2 else {4}) and all(
            own[0] == 0 and own[-1] == 3072 for own in counts.values()
        )
    heads = Alike("mha", Kind.MHA, 96, 8, ("a", "b"), ("b",))
    (own,) = counts_of(ModelShape("x", 8, 1, (heads,)), there, "fp32").values()
    assert own[:3] == [0, 1, 2] and own[-1] == 96 and heads.kept("b", 0) == 1


def test_a_prediction_is_the_sum_over_sites():
    model = make("bert", hidden_size=64, intermediate_size=128)
    sites = find_sites(model)
    counts = {s.name: s.units for s in sites} | {"layer.0.mha": 0, "layer.1.ffn": 48}
    expected = 0.3 + (0.01 + 2 * 0.41) + (0.01 + 0.096 + 0.01) + 2 * 0.256 - 0.01 + 0.01
    expected = 0.3 + 0.01 + 0.41 + 0.41 + 0.266 + (0.01 + 0.096) + 0.266
    assert table().predict_ms(sites, counts) == pytest.approx(expected)


def test_a_table_survives_its_file(tmp_path):
    made = table(
        additivity=({"plan": "x", "predicted_ms": 1.0, "measured_ms": 1.02, "error": -0.02},),
        measured={"rounds": 3},
    )
    write_table(made, tmp_path / "t.json")
    assert read_table(tmp_path / "t.json") == made and made.additivity_error == 0.02
    assert read_table(tmp_path / "t.json").hash == made.hash != table().hash


def change(**parts):
    data = table().to_json()
    for path, value in parts.items():
        *parents, last = path.split("__")
        at = data
        for p in parents:
            at = at[p]
        if value is ...:
            del at[last]
        else:
            at[last] = value
    return data


@pytest.mark.parametrize(
    "data",
    [
        [],
        {},
        change(schema_version=...),
        change(key=...),
        change(key__device=...),
        change(key__extra=1),
        change(costs_ms=...),
        change(costs_ms__mha=...),
        change(costs_ms__mha__0=...),
        change(costs_ms__mha__4=...),
        change(costs_ms__mha__9=1.0),
        change(costs_ms__ffn__64=float("nan")),
        change(costs_ms__ffn__64=-1.0),
        change(costs_ms__ffn__64="fast"),
        change(costs_ms__ffn__x=1.0),
        change(fixed_ms=float("inf")),
        change(fixed_ms="?"),
        change(layers=0),
        change(costs_ms=3),
    ],
)
def test_a_corrupt_table_is_refused(data, tmp_path):
    with pytest.raises(UsageError, match="not a valid latency table") as refused:
        parse_table(data, "here")
    assert "Error" not in str(refused.value.got)  # words, not a Python type
    (tmp_path / "t.json").write_text(json.dumps(data))
    with pytest.raises(UsageError, match=r"t\.json"):
        read_table(tmp_path / "t.json")


def test_a_table_of_another_version_is_refused(tmp_path):
    (tmp_path / "t.json").write_text(json.dumps(change(schema_version=2)))
    with pytest.raises(UsageError, match=r"written by a newer rfx(.|\n)*t\.json: schema_version 2"):
        read_table(tmp_path / "t.json")


def test_a_file_that_is_no_table_is_named(tmp_path):
    for text in ("", "{", None):
        if text is not None:
            (tmp_path / "t.json").write_text(text)
        else:
            (tmp_path / "t.json").unlink()
        with pytest.raises(UsageError, match=r"t\.json"):
            read_table(tmp_path / "t.json")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A real table of a real little model on ONNX Runtime, and what it was measured with."""
    from rfx.export.onnx import export_onnx

    folder = tmp_path_factory.mktemp("small")
    model = make("bert", hidden_size=64, intermediate_size=96, num_hidden_layers=2)
    sites = find_sites(model)
    ort, workload = runtime("ort"), Workload.of_text(sequence=16)
    inputs = text_inputs(("input_ids", "attention_mask"))
    built = []

    class Models:
        layers, bytes = 2, 1 << 20
        sites = MappingProxyType({"mha": (2, 0), "ffn": (2, 0)})

        def file(self, point, folder):
            built.append(point)
            groups = {g.name: g for g in alike(sites)}
            plan = Plan.dense(sites)
            if point != algebra.DENSE:
                plan = timed_plan(sites, groups[point[0]], point[1])
            return export(plan, folder / "timed.onnx")

    def export(plan, file):
        made = shrink(model, sites, plan)
        return export_onnx(made, file, inputs=inputs, output_names=("logits",))

    empty = export(Plan.of(sites, {s.name: () for s in sites}), folder / "empty.onnx")
    dense = ort.build(export(Plan.dense(sites), folder / "dense.onnx"), workload)

    def without_last():
        kept = {s.name: range(0 if s is sites[-1] else s.units) for s in sites}
        return ort.build(export(Plan.of(sites, kept), folder / "without.onnx"), workload)

    def measure(store, progress=None, seed=0, partial=(), without=without_last):
        shape = ModelShape("bert/test", 64, 2, alike(sites, partial))
        bench = Bench(store, ort, workload, shape, Models(), inputs, progress or Silent(), seed)
        return load_or_measure(
            bench,
            dense=dense,
            emptied=lambda: ort.build(empty, workload),
            without=dict.fromkeys(shape.partial, without),
            model_hash="m",
        )

    measure.sites, measure.built, measure.without_last = sites, built, without_last
    shape = ModelShape("bert/test", 64, 2, alike(sites))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(effort, "SECONDS", (0.5, 5.0))
        yield measure, table_key(ort, workload, shape), tmp_path_factory


def test_what_partial_sites_add_is_measured_on_whole_models(small, tmp_path):
    """The last feed-forward block without its filters, beside the dense model: its share of what
    the others cost is that difference, and a table with it is not the one without."""
    measure, _, _ = small
    store, last = Store(tmp_path), measure.sites[-1].name
    built = []

    def without():
        built.append("ffn")
        return measure.without_last()

    table, cached = measure(store, partial=[last], without=without)
    assert not cached and built == ["ffn"] and list(table.shares) == [last]
    # It is a whole one here; what is measured of so small a model is mostly the clock's noise.
    assert 0 < table.shares[last] <= 1
    again, cached = measure(store, partial=[last], without=without)
    assert cached and again.shares == table.shares and built == ["ffn"]
    assert parse_table(table.to_json(), "itself").shares == table.shares
    assert not measure(store)[0].shares


def test_a_table_is_measured_kept_and_found_again(small, tmp_path):
    measure, key, _ = small
    store = Store(tmp_path)
    first, cached = measure(store)
    assert not cached and first.key == key and sorted(first.costs_ms["mha"]) == [0, 1, 2, 3, 4]
    assert sorted(first.costs_ms["ffn"]) == [0, 32, 64, 96] and first.fixed_ms >= 0
    assert (
        first.costs_ms["mha"][4] > first.costs_ms["mha"][0]
        and first.costs_ms["ffn"][96] > first.costs_ms["ffn"][0]
    )
    assert {"rounds", "layers", "smoothed", "anchor_factor", "created"} <= set(first.measured)
    assert parse_table(json.loads(json.dumps(first.to_json())), "x") == first
    assert measure(store) == (first, True)
    assert not list((tmp_path / "scratch").iterdir())


def test_a_corrupt_cached_table_is_said_and_measured_again(small, tmp_path):
    measure, _, _ = small
    said = []
    store = Store(tmp_path, warn=said.append)
    first, _ = measure(store)
    (folder,) = (tmp_path / "latency-table").iterdir()
    (folder / "data.json").write_text("{}")
    again, cached = measure(store)
    assert (
        not cached and "latency-table" in said[0] and again.costs_ms.keys() == first.costs_ms.keys()
    )
    # Whole, but not a table.
    store.put_json("latency-table", folder.name, {**first.to_json(), "fixed_ms": -1.0})
    assert not measure(store)[1] and "fixed_ms" in said[1]
    other = {**first.to_json(), "key": {**asdict(first.key), "device": "another"}}
    store.put_json("latency-table", folder.name, other)
    assert not measure(store)[1] and "another key" in said[2]
    newer = {**first.to_json(), "schema_version": 2}
    store.put_json("latency-table", folder.name, newer)
    assert not measure(store)[1] and "schema_version 2" in said[3]
    older = {k: v for k, v in asdict(first.key).items() if k != "layout"}
    store.put_json("latency-table", folder.name, {**first.to_json(), "key": older})
    assert not measure(store)[1] and "its key needs exactly" in said[4]
    assert measure(store)[1]


def test_a_cached_table_of_a_cpu_with_other_instruction_sets_is_not_taken(
    small, tmp_path, monkeypatch
):
    measure, _, _ = small
    store = Store(tmp_path)
    devices = []
    for flags in ({"avx2", "avx512f"}, {"avx2", "avx512f", "avx512_vnni"}):
        monkeypatch.setattr(environment, "_cpu", lambda flags=flags: ("A CPU", flags))
        table, cached = measure(store)
        assert not cached and measure(store) == (table, True)
        devices.append(table.key.device)
    assert devices == ["A CPU (avx2, avx512f)", "A CPU (avx2, avx512f, avx512_vnni)"]


def test_an_interrupted_measurement_resumes(small, tmp_path, monkeypatch):
    measure, _, _ = small
    monkeypatch.setattr(Runtime, "group_bytes", lambda self: 0)  # two points a group
    store = Store(tmp_path)
    done = []
    real = groups.measure_group

    def stops(*args):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(args)
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(groups, "measure_group", stops)
        with pytest.raises(KeyboardInterrupt):
            measure(store)
    assert not list((tmp_path / "scratch").iterdir())
    later = []
    monkeypatch.setattr(groups, "measure_group", lambda *args: later.append(args) or real(*args))
    measured, cached = measure(store)
    number = 4  # groups of the seven models beside the dense one, which is timed with each
    assert (
        not cached
        and len(later) == number - 2
        and sorted(measured.costs_ms["mha"]) == [0, 1, 2, 3, 4]
    )
    measured_points = [p for args in done[:2] + later for p in args[1]]
    assert len(measured_points) == len(set(measured_points)) == 7
    assert algebra.DENSE not in measured_points


def test_with_other_memory_at_hand_the_rest_is_divided_anew(small, tmp_path, monkeypatch):
    measure, _, _ = small
    store, sizes = Store(tmp_path), []
    real = groups.measure_group

    def first_only(*args):
        if sizes:
            raise KeyboardInterrupt
        sizes.append(len(args[1]))
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Runtime, "group_bytes", lambda self: 0)
        patch.setattr(groups, "measure_group", first_only)
        with pytest.raises(KeyboardInterrupt):
            measure(store)
    monkeypatch.setattr(
        groups, "measure_group", lambda *args: sizes.append(len(args[1])) or real(*args)
    )
    table, _ = measure(store)
    assert sizes == [2, 5] and sorted(table.costs_ms["ffn"]) == [0, 32, 64, 96]
    assert not list((tmp_path / "latency-part").iterdir())


def test_the_dense_model_is_built_once_for_all_groups(small, tmp_path, monkeypatch):
    measure, _, _ = small
    monkeypatch.setattr(Runtime, "group_bytes", lambda self: 0)
    measure.built.clear()
    measure(Store(tmp_path))
    # The last is the one that the whole models are put on the table's scale with.
    timed = measure.built[:-1]
    assert len(timed) == len(set(timed)) == 8 and measure.built[-1] == algebra.DENSE


def test_a_group_takes_what_the_memory_holds():
    groups_of_sites = (
        Alike("mha", Kind.MHA, 12, 64, ("a",)),
        Alike("ffn", Kind.FFN, 3072, 1, ("f",)),
    )
    shape = ModelShape("bert/x", 768, 12, groups_of_sites)

    def size(batch, memory, **own):
        there = SimpleNamespace(group_bytes=lambda: memory, capabilities=Capabilities(**own))
        models = SimpleNamespace(bytes=440 << 20)
        workload = Workload.of_text(batch=batch)
        return groups.group_size(Bench(None, there, workload, shape, models, None, None, 0))

    assert size(1, 1 << 29, own_activations=False) == size(128, 1 << 29, own_activations=False) == 2
    assert size(1, 1 << 36, own_activations=True) == groups.MAX_GROUP
    assert 2 < size(128, 1 << 33, own_activations=True) < size(1, 1 << 33, own_activations=True)


def test_flops_are_those_that_torch_counts():
    """The formula against torch's own counter, on the sublayers' matrix products."""
    from torch.utils.flop_counter import FlopCounterMode

    model = make("bert", "token-classification", hidden_size=64, intermediate_size=128)
    model.config._attn_implementation = "eager"
    sites = find_sites(model)
    rng = np.random.default_rng(0)
    plan = Plan.of(sites, {s.name: rng.permutation(s.units)[: max(1, s.units // 2)] for s in sites})
    import torch

    tokens = 10
    for some in (Plan.dense(sites), plan):
        small = shrink(model, sites, some)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            small(
                input_ids=torch.ones(1, tokens, dtype=torch.long),
                attention_mask=torch.ones(1, tokens, dtype=torch.long),
            )
        head = 2 * tokens * 64 * 2
        assert (
            2 * FlopsCost(64, tokens).predict(sites, some.choices("fp32"))
            == counter.get_total_flops() - head
        )
    cost = FlopsCost(64, 26.99)
    assert cost.price(sites[0]) == pytest.approx(
        3 * 26.99 * 64 * 16 + 2 * 26.99**2 * 16 + 26.99 * 16 * 64
    )
    assert cost.price(sites[1]) == pytest.approx(2 * 26.99 * 64)


def test_isotonic_regression_is_scikit_learns():
    from sklearn.isotonic import IsotonicRegression

    rng = np.random.default_rng(0)
    for n in (1, 2, 17, 49):
        values = np.linspace(0, 1, n) + rng.normal(0, 0.3, n)
        np.testing.assert_allclose(
            algebra.monotone(values), IsotonicRegression().fit_transform(np.arange(n), values)
        )


def test_between_tile_edges_the_middles_of_the_highest_steps_are_tried():
    step = {0: 0.0, 64: 1.0, 128: 1.0, 192: 2.0, 256: 2.02}
    times = {
        n: np.concatenate([[ms], ms + np.random.default_rng(n).normal(0, 0.02, 50)])
        for n, ms in step.items()
    }
    # 64 -> 128 and 192 -> 256 are flat, and 0 is no edge.
    assert algebra.midpoints(times) == [160]
    many = {64 * i: np.asarray([float(i * i)] * 5) for i in range(20)}
    assert len(algebra.midpoints(many)) == algebra.MAX_MIDPOINTS
    assert algebra.midpoints(many)[-1] == 64 * 18 + 32


def test_widths_that_a_larger_one_undercuts_are_never_chosen():
    from rfx.cost.table import LatencyTable, TableKey

    key = TableKey("trt", "v", "d", "c", 1, "fp16", 1, 128, 64, 4, 16, 256, "post-ln/gelu")
    table = LatencyTable(
        key,
        {
            "mha": {0: 0.0, 1: 0.5, 2: 0.5, 3: 0.4, 4: 0.6},
            "ffn": {0: 0.1, 64: 0.3, 128: 0.3, 256: 0.5},
        },
        0.1,
        2,
    )
    mha, ffn = make_sites(layers=1, heads=4, filters=256)
    assert table.choices(mha) == {0: 0.0, 3: 0.4, 4: 0.6}
    assert table.choices(ffn) == {0: 0.1, 128: 0.3, 256: 0.5}
    part = replace(table, shares={ffn.name: 0.5})
    assert part.choices(mha) == table.choices(mha)
    assert part.choices(ffn) == pytest.approx({0: 0.1, 128: 0.2, 256: 0.3})
