"""The latency table: its algebra on made-up slopes, its measurement on the real runtime, its
file."""

import json
import math
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

import rfx.cost.curves as algebra
import rfx.cost.groups as groups
from rfx.core import environment
from rfx.core.errors import UsageError
from rfx.core.plan import Plan
from rfx.core.progress import Silent
from rfx.core.store import Store
from rfx.core.workload import Workload
from rfx.cost import effort
from rfx.cost.flops import FlopsCost
from rfx.cost.latency import load_or_measure, table_key
from rfx.cost.points import MAX_FILTER_COUNTS, filter_counts
from rfx.cost.stacks import Bench, Stacks
from rfx.cost.table import LatencyTable, TableKey
from rfx.cost.table_file import parse_table, read_table, write_table
from rfx.cost.whole import Partial
from rfx.export.blocks import BlockShape, stack, stack_inputs
from rfx.models.families.find import find_sites
from rfx.models.shrink import shrink
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
def test_filter_counts_are_on_the_grid_with_both_ends(total, grid):
    counts = filter_counts(total, grid)
    assert counts[0] == 0 and counts[-1] == total and len(counts) <= MAX_FILTER_COUNTS + 1
    assert all(n % grid == 0 for n in counts[:-1])


def test_additive_slopes_come_apart_into_their_curves():
    """S(h, f) = a(h) + b(f): every layer is predicted exactly, whatever the convention between a
    and b."""
    rng = np.random.default_rng(0)
    a, b = np.sort(rng.random(5)), np.sort(rng.random(4))
    filters = [0, 32, 64, 96]
    noise = 1 + 1e-9 * rng.standard_normal((5, 4, 50))
    samples = {(h, f): (a[h] + b[j]) * noise[h, j] for h in range(5) for j, f in enumerate(filters)}
    costs, errors, facts = algebra.split(samples, range(5), filters, (4, 96), smooth=False)
    for h in range(5):
        for j, f in enumerate(filters):
            assert costs["mha"][h] + costs["ffn"][f] == pytest.approx(a[h] + b[j], rel=1e-6)
    assert costs["mha"][0] == pytest.approx(costs["ffn"][0]) and max(errors["mha"].values()) < 1e-6
    assert facts["block_ms"] == pytest.approx(a[4] + b[3])


def test_smoothing_takes_noise_away_and_leaves_what_rises():
    rising = {(h, 8): np.full(3, 1.0 + h) for h in range(5)} | {
        (4, 0): np.full(3, 4.0),
        (0, 0): np.full(3, 0.5),
    }
    rising[2, 8] = np.full(3, 4.5)  # an outlier: slower than three heads
    costs, _, _ = algebra.split(rising, range(5), [0, 8], (4, 8), smooth=True)
    values = [costs["mha"][h] for h in range(5)]
    assert values == sorted(values) and values[4] - values[0] == pytest.approx(4.0)
    raw, _, _ = algebra.split(rising, range(5), [0, 8], (4, 8), smooth=False)
    assert raw["mha"][2] > raw["mha"][3]


def test_the_anchors_are_met_exactly():
    curves = {"mha": {0: 0.1, 1: 0.5, 2: 1.0}, "ffn": {0: 0.1, 64: 2.0}}
    errors = {k: dict.fromkeys(c, 0.01) for k, c in curves.items()}
    for dense, emptied in ((10.0, 1.0), (8.0, 2.5), (9.0, 0.2)):
        moved, _, fixed, _, note = algebra.anchor(curves, errors, 3, (2, 64), dense, emptied, {})
        assert fixed >= -1e-12
        assert fixed + 3 * (moved["mha"][2] + moved["ffn"][64]) == pytest.approx(dense)
        assert fixed + 3 * (moved["mha"][0] + moved["ffn"][0]) == pytest.approx(emptied)
        assert note["anchor_factor"] == pytest.approx((dense - emptied) / (3 * 2.8))
    # An empty model slower than the dense one.
    noise = algebra.anchor(curves, errors, 3, (2, 64), 1.0, 1.1, {})
    assert noise[0] == curves and noise[4]["anchor_factor"] is None


def test_what_a_last_layer_costs_where_it_computes_one_position_is_met_too():
    curves = {"mha": {0: 0.1, 1: 0.5, 2: 1.0}, "ffn": {0: 0.1, 64: 2.0}}
    errors = {k: dict.fromkeys(c, 0.01) for k, c in curves.items()}
    partial = {"mha": (1, 0.4 * 5 / 9, 1), "ffn": (1, 0.1, 0)}  # of 0.9 ms, 0.5 above one head
    moved, _, fixed, shares, note = algebra.anchor(curves, errors, 3, (2, 64), 10.0, 1.0, partial)
    assert note["anchor_factor"] == pytest.approx((10.0 - 1.0 - 0.5) / (2 * 2.8))
    made = table(
        costs_ms=moved,
        fixed_ms=fixed,
        shares={"layer.2.mha": shares["mha"]} | {"layer.2.ffn": shares["ffn"]},
    )
    full = {"mha": 2, "ffn": 64}

    def ms(**counts):
        sites = make_sites(layers=3, heads=2, filters=64)
        kept = {s.name: full[s.kind.value] for s in sites}
        return made.predict_ms(sites, kept | {n.replace("_", "."): k for n, k in counts.items()})

    assert ms() == pytest.approx(10.0)
    assert ms() - ms(layer_2_mha=0) == pytest.approx(0.4)
    assert ms() - ms(layer_2_ffn=0) == pytest.approx(0.1)
    # A clock's noise is no gain, and where all sites are partial ones they keep the stacks' scale.
    noisy = algebra.anchor(curves, errors, 3, (2, 64), 10.0, 1.0, {"ffn": (1, -0.2, 0)})
    assert noisy[3] == {"ffn": algebra.LEAST}
    alone = algebra.anchor(
        curves, errors, 1, (2, 64), 2.0, 1.0, {"mha": (1, 0.45, 0), "ffn": (1, 0.19, 0)}
    )
    assert alone[3] == {"mha": pytest.approx(0.5), "ffn": pytest.approx(0.1)}
    assert alone[4]["anchor_factor"] is None and alone[2] == pytest.approx(2.0 - 0.2 - 0.45 - 0.19)


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
    shape = BlockShape(64, 4, 16, 96)
    names = ("input_ids", "attention_mask")
    empty = shrink(model, sites, Plan.of(sites, {s.name: () for s in sites}))
    files = [
        export_onnx(m, folder / f"{i}.onnx", inputs=text_inputs(names), output_names=("logits",))
        for i, m in enumerate((model, empty))
    ]
    dense = ort.build(files[0], workload)

    def without_last():
        kept = {s.name: range(0 if s is sites[-1] else s.units) for s in sites}
        less = shrink(model, sites, Plan.of(sites, kept))
        file = folder / "without.onnx"
        export_onnx(less, file, inputs=text_inputs(names), output_names=("logits",))
        return ort.build(file, workload)

    def measure(store, progress=None, seed=0, partial=None):
        return load_or_measure(
            store,
            ort,
            workload,
            shape,
            2,
            dense=dense,
            emptied=lambda: ort.build(files[1], workload),
            model_hash="m",
            inputs=text_inputs(names),
            progress=progress or Silent(),
            seed=seed,
            partial=partial,
        )

    measure.without_last = without_last
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(effort, "SECONDS", (0.5, 5.0))
        yield measure, table_key(ort, workload, shape), tmp_path_factory


def test_what_partial_sites_add_is_measured_on_whole_models(small, tmp_path):
    """The last feed-forward block without its filters, beside the dense model: its share of what
    the others cost is that difference, and a table with it is not the one without."""
    measure, _, _ = small
    store = Store(tmp_path)
    built = []

    def without():
        built.append("ffn")
        return measure.without_last()

    part = {"ffn": Partial(("bert.encoder.layer.1.ffn",), without)}
    table, cached = measure(store, partial=part)
    assert not cached and built == ["ffn"] and list(table.shares) == list(part["ffn"].sites)
    # It is a whole one here; what is measured of so small a model is mostly the clock's noise.
    assert 0 < table.shares["bert.encoder.layer.1.ffn"] < math.inf
    again, cached = measure(store, partial=part)
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
    assert {"rounds", "depths", "bend", "anchor_factor", "created"} <= set(first.measured)
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
    number = 4  # of the eight points but the dense one, which is timed with each
    assert (
        not cached
        and len(later) == number - 2
        and sorted(measured.costs_ms["mha"]) == [0, 1, 2, 3, 4]
    )
    measured_points = [p for args in done[:2] + later for p in args[1]]
    assert len(measured_points) == len(set(measured_points)) == 8 and (4, 96) not in measured_points


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
    assert sizes == [2, 6] and sorted(table.costs_ms["ffn"]) == [0, 32, 64, 96]
    assert not list((tmp_path / "latency-part").iterdir())


def test_the_dense_stacks_are_built_once_for_all_groups(small, tmp_path, monkeypatch):
    measure, _, _ = small
    monkeypatch.setattr(Runtime, "group_bytes", lambda self: 0)
    built = []
    real = Bench.build
    monkeypatch.setattr(
        Bench, "build", lambda *args: built.append((args[1], args[2])) or real(*args)
    )
    measure(Store(tmp_path))
    # The last is the one that the whole models are put on the table's scale with.
    stacks = built[:-1]
    assert len(stacks) == len(set(stacks)) and built[-1] == ((4, 96), 2)


def test_a_group_takes_what_the_memory_holds():
    bert, depths = BlockShape(768, 12, 64, 3072), (3, 12)

    def size(batch, memory, **own):
        there = SimpleNamespace(group_bytes=lambda: memory, capabilities=Capabilities(**own))
        return groups.group_size(there, bert, Workload.of_text(batch=batch), depths)

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


def test_stacks_are_valid_and_smaller_with_fewer_units():
    shape = BlockShape(32, 4, 8, 64)
    ort = runtime("ort")
    for layers in ([(4, 64)] * 2, [(1, 32), (0, 64), (4, 0), (0, 0)]):
        model = stack(shape, layers)
        onnx.checker.check_model(model, full_check=True)
        engine = ort.build_model(model.SerializeToString(), Workload())
        for batch, sequence in ((1, 5), (3, 7)):
            out = engine.run(stack_inputs(shape, batch, sequence))["output"]
            assert out.shape == (batch, sequence, 32) and np.isfinite(out).all()
    assert stack(shape, [(2, 32)]).ByteSize() < stack(shape, [(4, 64)]).ByteSize()


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
    slopes = {
        n: np.concatenate([[ms], ms + np.random.default_rng(n).normal(0, 0.02, 50)])
        for n, ms in step.items()
    }
    # 64 -> 128 and 192 -> 256 are flat, and 0 is no edge.
    assert algebra.midpoints(slopes, 256) == [160]
    many = {64 * i: np.asarray([float(i * i)] * 5) for i in range(20)}
    assert len(algebra.midpoints(many, 64 * 19)) == algebra.MAX_MIDPOINTS
    assert algebra.midpoints(many, 64 * 19)[-1] == 64 * 18 + 32


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


def test_the_checker_sees_the_first_stack_alone(tmp_path, monkeypatch):
    import rfx.export.precision.convert as precision

    checked = []
    monkeypatch.setattr(precision, "check_converted", lambda model, name: checked.append(name))
    stacks = Stacks(BlockShape(32, 4, 8, 64), Workload.of_text(precision="fp16"), 0)
    for point in ((4, 64), (2, 32), (0, 64)):
        assert stacks.file(point, 2, tmp_path).is_file()
    assert checked == ["fp16"]
