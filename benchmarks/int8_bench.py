"""One model at one condition: what `benchmarks.int8` measures there."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rfx.core.errors import InfeasibleError, UsageError
from rfx.core.files import atomic_write_bytes
from rfx.core.plan import FULL
from rfx.core.progress import Progress
from rfx.core.store import Store
from rfx.evidence.records import AccuracyPart, Evidence
from rfx.export.precision.convert import convert_precision
from rfx.measure.latency import ratio_interval
from rfx.pipeline import judge
from rfx.pipeline.baseline import dense_accuracy
from rfx.pipeline.dense import dense_baseline, workload_of
from rfx.pipeline.loop import AIM, scale
from rfx.pipeline.profile import profile
from rfx.pipeline.prune_export import prune_export
from rfx.pipeline.quantizing import for_serving
from rfx.pipeline.resolve import open_session, resolve
from rfx.pipeline.rival import make_rival
from rfx.recipe.spec import Recipe
from rfx.runtimes.base import Engine
from rfx.runtimes.timing import interleave

PRECISION = "int8"
EQUAL = 0.02  # two latencies that differ by no more are called equal
SECONDS = 6.0  # of timing models beside one another, at least


class Condition:
    """A model, a batch and a length: everything is measured against the same dense engine, and in
    the same rounds as the rival, the dense model in INT8.

    Args:
        recipe: what all runs have in common.
        folder: for the outputs, which take some space; they are removed one by one.
    """

    def __init__(
        self,
        recipe: Recipe,
        batch: int,
        tokens: int,
        folder: Path,
        progress: Progress,
        store: Store,
    ) -> None:
        self.folder, self.progress, self.store = folder, progress, store
        asked = recipe.changed(
            {
                "workload.batch": batch,
                "workload.sequence": tokens,
                "workload.precision": PRECISION,
            }
        )
        self.session = open_session(asked, store=store, progress=progress)
        self.recipe, self.subject, self.examples = self._resolved(asked)
        outputs = self.examples.task.graph_outputs()
        self.dense = dense_baseline(self.session, self.recipe, self.subject, outputs)
        self.before = dense_accuracy(
            self.session, self.recipe, self.subject, self.examples, self.dense
        )
        rival = make_rival(self.session, self.recipe, self.subject, self.examples)
        if rival is None:
            raise UsageError(f"rfx writes no {PRECISION} files for {self.recipe.target}.")
        self.rival = rival.baseline

    def _resolved(self, recipe: Recipe) -> tuple[Recipe, Any, Any]:
        found = resolve(self.session, recipe)
        return found.recipe, found.subject, found.examples

    def measure(
        self, latencies: Sequence[float], shares: Sequence[float], tries: int
    ) -> dict[str, Any]:
        """Everything about this condition, as it stands in the results.

        Args:
            latencies: budgets of pruned fp32 models, shares of the dense fp32 latency.
            shares: budgets of pruned INT8 models, shares of the rival's latency.
            tries: plans of the fp32 table, at most, beside each INT8 model, which is then found by
                a table of INT8 models; 0: INT8 models as the command makes them.
        """
        alone = self.timed({})
        rival = self._row("dense int8", self._accuracy(self.rival.engine), alone["rival"])
        rival["bytes"] = _size(*self.rival.artefact.files)
        rows, beside = [], []
        for latency in latencies:
            evidence, out = self._pruned(FULL, latency)
            rows.append(_of_evidence("fp32", latency, evidence, out))
            self._say(rows[-1])
        for share in shares:
            asked = share * rival["ratio"]
            try:
                evidence, out = self._pruned(PRECISION, asked, own_table=tries > 0)
            except InfeasibleError as error:
                self.progress.note(f"{share:g} of the rival's latency: {error.what}")
                continue
            rows.append({**_of_evidence(PRECISION, asked, evidence, out), "share": share})
            self._say(rows[-1])
            if tries:
                beside.append({"share": share, **self._sequential(out, rows[-1], tries)})
        runtime = self.session.target.here
        return {
            "batch": self.recipe.workload.batch,
            "tokens": self.recipe.workload.sequence,
            "threads": self.recipe.workload.threads,
            "runtime": runtime.name,
            "version": runtime.version(),
            "device": runtime.device(),
            "metric": self.examples.task.metric_name,
            "evaluated": len(self.examples.evaluation),
            "dense": {
                "ms": alone["dense"]["ms"],
                "metric": rival["dense_metric"],
                "bytes": _size(*self.dense.artefact.files),
            },
            "rows": [rival, *rows],
            "sequential": beside,
        }

    def timed(self, engines: Mapping[str, Engine]) -> dict[str, dict[str, Any]]:
        """Engines in turns with the dense model and the rival: of each its median, and its ratio to
        both with an interval."""
        workload, inputs = workload_of(self.recipe), self.subject.inputs
        seed = self.recipe.seed + 1
        everything = {"dense": self.dense.engine, "rival": self.rival.engine, **engines}
        times = interleave(
            {
                name: engine.bind(inputs.example(workload, seed=seed, names=engine.input_names))
                for name, engine in everything.items()
            },
            min_seconds=SECONDS,
            seed=seed,
        )
        dense, rival = times["dense"], times["rival"]
        return {
            name: {
                "ms": float(np.median(own)),
                "ratio": float(np.median(own) / np.median(dense)),
                "interval": list(ratio_interval(dense, own, seed)),
                "to_rival": float(np.median(own) / np.median(rival)),
                "to_rival_interval": list(ratio_interval(rival, own, seed)),
            }
            for name, own in times.items()
        }

    def _pruned(
        self, precision: str, latency: float, name: str = "out", *, own_table: bool = False
    ) -> tuple[Evidence, Path]:
        """What rfx makes at a precision and a budget.

        Args:
            own_table: by a table of models at this precision, which on a CPU rfx would not measure
                by itself.
        """
        out = self.folder / name
        shutil.rmtree(out, ignore_errors=True)
        asked = self.recipe.changed(
            {"workload.precision": precision, "budget": {"latency": latency}}
        )
        common = {"store": self.store, "progress": self.progress}
        table = profile(asked, **common) if own_table else None
        return prune_export(asked, out, table=table, **common), out

    def _sequential(self, out: Path, plan: dict[str, Any], tries: int) -> dict[str, Any]:
        """An INT8 plan beside plans of the fp32 table that are quantized afterwards, of about the
        same measured latency.

        Args:
            out: the output of the INT8 plan; `plan` is its row.
        """
        workload = workload_of(self.recipe)
        engine = self.session.build(out / "model.onnx", workload)
        rows: list[dict[str, Any]] = []
        rival = plan["ratio"] / plan["to_rival"]
        wanted = plan["ratio"] / rival  # in fp32, were INT8 as much faster for every plan
        for _ in range(tries):
            asked = min(max(wanted + AIM * scale(wanted), 0.05), 0.98)
            try:
                evidence, made = self._pruned(FULL, asked, "sequential")
            except InfeasibleError:
                break
            file = converted(made / "model.onnx", self._quantizer())
            own = self.session.build(file, workload)
            times = self.timed({"plan": engine, "own": own})
            row = self._row("sequential", self._accuracy(own), times["own"])
            row |= {
                "asked": asked,
                "fp32_ratio": evidence.latency.ratio if evidence.latency else math.nan,
                "to_plan": times["own"]["ms"] / times["plan"]["ms"],
                "bytes": _size(file),
                "kept_layers": evidence.kept_layers,
            }
            own.close()
            rows.append(row)
            self._say(row)
            if abs(row["to_plan"] - 1) <= EQUAL:
                break
            wanted = next_share(rows)
        engine.close()
        equal = at_equal_latency(rows)
        ratio = plan["divergence"] / equal if equal and plan["divergence"] is not None else None
        return {"rows": rows, "divergence": equal, "divergence_ratio": ratio}

    def _quantizer(self) -> dict[str, Any]:
        """What quantizes for this runtime, with its calibration inputs."""
        made = for_serving(self.session, self.recipe, self.subject, self.examples, PRECISION)
        return {} if made is None else made.asked(PRECISION)

    def _accuracy(self, engine: Engine) -> AccuracyPart:
        """Of a quantized engine, at the batch that is served."""
        part, _ = judge.accuracy(
            self.session,
            self.recipe,
            self.subject,
            self.examples,
            self.dense,
            engine,
            before=self.before,
        )
        return part

    def _row(self, kind: str, part: AccuracyPart, times: Mapping[str, Any]) -> dict[str, Any]:
        measured = {name: value for name, value in times.items() if name != "ms"}
        return {"kind": kind, **measured, **_quality(part)}

    def _say(self, row: Mapping[str, Any]) -> None:
        self.progress.note(
            f"{row['kind']}: {row['ratio']:.3f} of dense fp32, {row['to_rival']:.3f} of dense "
            f"int8, divergence {row['divergence']:.4f}, {row['drop']:+.2f} points lost"
        )


def converted(file: Path, quantizer: Mapping[str, Any]) -> Path:
    """An fp32 file quantized as rfx does it, beside it.

    Args:
        quantizer: what `convert_precision` is told of it.
    """
    import onnx

    target = file.with_name("sequential.onnx")
    model = convert_precision(onnx.load(str(file)), PRECISION, **quantizer)
    atomic_write_bytes(target, model.SerializeToString())
    return target


def next_share(rows: Sequence[Mapping[str, Any]]) -> float:
    """The fp32 latency to ask for, so that the quantized file takes as long as the INT8 plan:
    proportional at first, then along the line through the last two."""
    last = rows[-1]
    guess = last["fp32_ratio"] / last["to_plan"]
    if len(rows) > 1:
        earlier = rows[-2]
        rise = last["to_plan"] - earlier["to_plan"]
        run = last["fp32_ratio"] - earlier["fp32_ratio"]
        if run and 0.2 < (rise / run) * last["fp32_ratio"] / last["to_plan"] < 5:
            guess = last["fp32_ratio"] + (1 - last["to_plan"]) * run / rise
    return float(guess)


def at_equal_latency(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Divergence of plans that are quantized afterwards, at the latency of the INT8 plan: between
    one that is faster and one that is slower, on a line through the logarithms; else that of one of
    about the same latency; None: there is neither."""
    known = [r for r in rows if r["divergence"] is not None and r["divergence"] > 0]
    below = [r for r in known if r["to_plan"] <= 1]
    above = [r for r in known if r["to_plan"] > 1]
    if below and above:
        a = max(below, key=lambda r: r["to_plan"])
        b = min(above, key=lambda r: r["to_plan"])
        part = (1 - a["to_plan"]) / (b["to_plan"] - a["to_plan"])
        logs = math.log(a["divergence"]), math.log(b["divergence"])
        return math.exp(logs[0] + part * (logs[1] - logs[0]))
    nearest = min(known, key=lambda r: abs(r["to_plan"] - 1), default=None)
    if nearest is None or abs(nearest["to_plan"] - 1) > EQUAL:
        return None
    return float(nearest["divergence"])


def _of_evidence(kind: str, asked: float, evidence: Evidence, out: Path) -> dict[str, Any]:
    """A row of the results from the evidence of a run and its output."""
    latency, accuracy, rival = evidence.latency, evidence.accuracy, evidence.rival
    if latency is None or accuracy is None or rival is None or rival.latency is None:
        raise UsageError("The run measured no latency, no accuracy or no rival.")
    table = evidence.table
    return {
        "kind": kind,
        "asked": asked,
        "ratio": latency.ratio,
        "interval": list(latency.interval),
        "to_rival": rival.latency.pruned_ratio,
        "to_rival_interval": list(rival.latency.pruned_interval),
        **_quality(accuracy),
        "bytes": _size(out / "model.onnx"),
        "predicted_ratio": latency.predicted_ratio,
        "table_error": None if table is None else table.additivity_error,
        "params_ratio": evidence.params_ratio,
        "flops_ratio": evidence.flops_ratio,
        "kept_layers": evidence.kept_layers,
        "gates": {g.name: g.outcome for g in evidence.gates},
        "warnings": evidence.warnings,
    }


def _quality(part: AccuracyPart) -> dict[str, Any]:
    return {
        "dense_metric": part.dense,
        "metric": part.pruned,
        "drop": part.drop,
        "drop_interval": list(part.interval),
        "agreement": part.agreement,
        "divergence": part.divergence,
    }


def _size(*files: Path) -> int:
    return sum(file.stat().st_size for file in files)
