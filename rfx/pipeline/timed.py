"""The models that a latency table is measured with, as ONNX files."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from rfx.core.artefact import MODEL, Artefact
from rfx.core.errors import UnsupportedModelError
from rfx.core.output import SENTENCE
from rfx.core.plan import FULL, Plan, Site
from rfx.core.registry import code_of
from rfx.cost.alike import Alike, ModelShape, alike
from rfx.cost.curves import DENSE, Point
from rfx.export.one_position import PROPERTY, modules_at_one_position
from rfx.export.precision.convert import convert_precision, is_quantized
from rfx.export.template import Template
from rfx.models.shorter import first_layers, layer_number
from rfx.models.shrink import shrink
from rfx.models.subject import Subject
from rfx.pipeline.dense import export_model, workload_of
from rfx.pipeline.quantizing import Quantizing
from rfx.pipeline.session import Session
from rfx.recipe.spec import Recipe

if TYPE_CHECKING:
    import onnx
    from torch import nn

# What a configuration says without changing what a layer costs.
_NAMES = frozenset(
    {"_name_or_path", "architectures", "id2label", "label2id", "pruned_layers", "rfx", "vocab_size"}
    | {"transformers_version", "dtype", "torch_dtype", "finetuning_task", "problem_type"}
    | {"num_labels", "num_hidden_layers", "initializer_range", "_attn_implementation"}
)


def model_shape(recipe: Recipe, subject: Subject, dense: Artefact) -> ModelShape:
    """By what the latency tables of models are comparable.

    Args:
        dense: the dense model as it is exported; it says which sites compute one position alone.
    """
    at_one = modules_at_one_position(dense.files)
    partial = [s.name for s in subject.sites if s.output in at_one]
    groups = alike(subject.sites, partial)
    config = {
        name: value
        for name, value in subject.model.config.to_dict().items()
        if name not in _NAMES and not name.endswith(("_token_id", "dropout", "_dropout_prob"))
    }
    exporter = recipe.exporter, code_of("exporter", recipe.exporter)
    sizes = [(g.name, g.units, g.width, g.sites) for g in groups]
    # How a sentence encoder's texts are written costs nothing.
    head = (config.pop(SENTENCE, None) or {}).get("steps")
    said = [type(subject.model).__name__, config, sizes, exporter, recipe.opset, head]
    digest = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()
    kind = getattr(subject.model.config, "model_type", "") or "model"
    return ModelShape(f"{kind}/{digest[:12]}", subject.hidden, subject.layers, groups)


class Timed:
    """Makes them from the model itself (see `rfx.cost.bench.TimedModels`).

    The model is exported with all units, and for each curve with some of them and with none; what
    the files of other counts look like, these say (`rfx.export.template`).

    Where the model has more layers than the runtime needs to be timed with, its first ones are
    taken, so many that every curve has a site among them and the last one is like the model's.

    Args:
        shape: as `model_shape` gives it.
        quantizing: what makes the files of a quantized precision.
    """

    def __init__(
        self,
        session: Session,
        recipe: Recipe,
        subject: Subject,
        outputs: tuple[str, ...],
        shape: ModelShape,
        quantizing: Quantizing | None,
    ):
        self._session, self._recipe, self._subject = session, recipe, subject
        self._outputs, self._shape, self._quantizing = outputs, shape, quantizing
        self._templates: dict[str, Template | None] = {}
        self._exported: dict[Point, onnx.ModelProto] = {}
        self._checked = False

    @cached_property
    def _short(self) -> tuple[nn.Module, tuple[Site, ...]]:
        """The model that is timed, and its sites."""
        subject, most = self._subject, self._session.target.serves.capabilities.max_depth
        groups = self._shape.alike
        curve = {name: g.name for g in groups for name in g.sites}
        last = max(map(layer_number, subject.sites))
        ends = {curve[s.name] for s in subject.sites if layer_number(s) == last}
        for layers in range(most, last + 1):
            kept = tuple(s for s in subject.sites if layer_number(s) < layers)
            # Every curve has a site before the last layer, which is computed otherwise, and the
            # last layer's curves are those of the model's: else no share of theirs can be seen.
            before = {curve[s.name] for s in kept if layer_number(s) < layers - 1}
            own = {curve[s.name] for s in kept if layer_number(s) == layers - 1}
            if before != {g.name for g in groups} or own != ends:
                continue
            model = first_layers(subject.model, subject.sites, subject.inputs, layers)
            if model is None:
                break
            return model, kept
        return subject.model, subject.sites

    @property
    def layers(self) -> int:
        return 1 + max(map(layer_number, self._short[1]))

    @cached_property
    def _groups(self) -> dict[str, Alike]:
        """By curve, the sites that the models have."""
        sites = self._short[1]
        if len(sites) == len(self._subject.sites):
            return {g.name: g for g in self._shape.alike}
        facts = {p.key: p.value for p in self._export(DENSE).metadata_props}
        at_one = facts.get(PROPERTY, "").split()
        found = {}
        for group in self._shape.alike:
            own = [s for s in sites if s.name in group.sites]
            partial = tuple(s.name for s in own if s.output in at_one)
            names = tuple(s.name for s in own)
            found[group.name] = Alike(
                group.name, group.kind, group.units, group.width, names, partial
            )
        return found

    @property
    def sites(self) -> Mapping[str, tuple[int, int]]:
        return {name: (len(g.sites), len(g.partial)) for name, g in self._groups.items()}

    @cached_property
    def bytes(self) -> int:
        whole = workload_of(self._recipe).precision == FULL
        return self._plain(DENSE).ByteSize() // (1 if whole else 2)

    def file(self, point: Point, folder: Path) -> Path:
        """The ONNX file of `point`, in `folder`."""
        import onnx

        path = folder / "timed.onnx"
        onnx.save(self.model(point), str(path))
        return path

    def model(self, point: Point) -> onnx.ModelProto:
        """`point` at the precision of the workload."""
        precision = workload_of(self._recipe).precision
        quantizing = self._quantizing if is_quantized(precision) else None
        made = convert_precision(
            self._plain(point),
            precision,
            # The checker on the first alone: the others have its nodes, and it takes longer than
            # the conversion.
            check=not self._checked,
            quantizer=quantizing.name if quantizing else None,
            calibration=quantizing.feeds if quantizing else (),
        )
        self._checked = True
        return made

    def _plain(self, point: Point) -> onnx.ModelProto:
        """`point` in fp32."""
        name, count = point
        if point == DENSE or count == 0:
            return self._export(point)
        group = self._groups[name]
        if name not in self._templates:
            self._templates[name] = self._template(group)
        template = self._templates[name]
        return template.at(count) if template else self._export(point)

    def _template(self, group: Alike) -> Template | None:
        """What the files of a curve look like; None where they are not of one pattern."""
        fewer = max(1, group.units // 2)
        try:
            less = self._export((group.name, fewer))
            return Template(self._export(DENSE), group.units, less, fewer)
        except ValueError as error:
            self._session.progress.note(f"{group.name}: every size is exported by itself ({error})")
            return None

    def _export(self, point: Point) -> onnx.ModelProto:
        """`point` in fp32 by the exporter."""
        import onnx

        if point in self._exported:
            return self._exported[point]
        model, sites = self._short
        subject, (name, count) = self._subject, point
        plan = Plan.dense(sites)
        if point != DENSE:
            plan = timed_plan(sites, self._groups[name], count)
            model = shrink(model, sites, plan)
        folder = self._session.store.scratch("timed-export")
        try:
            artefact = export_model(
                self._recipe, subject, model, folder, self._outputs, plan, precision=FULL
            )
            require_one_graph(artefact)
            made = onnx.load(str(artefact.file))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if point == DENSE:
            self._exported[point] = made
        return made


def timed_plan(sites: Sequence[Site], group: Alike, count: int) -> Plan:
    """All sites of a group with `count` units, the others with all."""
    kept = {
        s.name: range(group.kept(s.name, count) if s.name in group.sites else s.units)
        for s in sites
    }
    return Plan.of(sites, kept)


def require_one_graph(artefact: Artefact) -> None:
    """Raises UnsupportedModelError where the exporter writes several graphs."""
    if artefact.roles != (MODEL,):
        raise UnsupportedModelError(
            "A latency table is measured on models of one graph.",
            got=", ".join(artefact.roles),
            allowed=f"one graph, called {MODEL}",
            next_step="prune with a FLOPs budget, --flops 0.5 for example; the latency of the "
            "result is measured all the same",
        )
