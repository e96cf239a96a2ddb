"""rfx, the retraining-free exporter: prune a fine-tuned Transformer to a latency target on the
runtime that serves it, with the evidence.

Everything that the command line does is one call here (`prune_export`, `plan`, `sweep`, `sites`,
`profile`, `shapes`, `build`, `verify`, `gate`, `environment`), and so are the steps that make it up
(`load_model`, `load_examples`, `find_sites`, `score`, `search`, `compensate`, `shrink`,
`export_onnx`, `load`). `read_table` and `write_table` keep the latency table of `profile` as a
file. `register` adds a part of your own: a scorer, a task, a runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rfx.core.telemetry import switch_off
from rfx.core.version import __version__

switch_off()  # before any library is imported that reports its use to its maker

# Public names, imported where they are first used so that `import rfx` and `rfx --help` stay quick.
_API = {
    # jobs
    "prune_export": "rfx.pipeline.prune_export",
    "plan": "rfx.pipeline.plan",
    "sweep": "rfx.pipeline.sweep",
    "sites": "rfx.pipeline.sites",
    "profile": "rfx.pipeline.profile",
    "shapes": "rfx.pipeline.shapes",
    "build": "rfx.pipeline.build",
    "verify": "rfx.pipeline.verify",
    "gate": "rfx.pipeline.gate",
    "environment": "rfx.pipeline.environment",
    # steps
    "load_model": "rfx.pipeline.steps",
    "load_examples": "rfx.pipeline.steps",
    "find_sites": "rfx.models.families.find",
    "score": "rfx.pipeline.steps",
    "search": "rfx.pipeline.steps",
    "compensate": "rfx.pipeline.steps",
    "shrink": "rfx.models.shrink",
    "export_onnx": "rfx.export.onnx",
    "load": "rfx.models.checkpoint",
    "read_table": "rfx.cost.table_file",
    "write_table": "rfx.cost.table_file",
    # parts of your own
    "register": "rfx.core.registry",
    # what passes between them
    "Artefact": "rfx.core.artefact",
    "Choice": "rfx.core.plan",
    "Cost": "rfx.cost.base",
    "Evidence": "rfx.evidence.records",
    "Examples": "rfx.tasks.examples",
    "InputSpec": "rfx.core.inputs",
    "LatencyTable": "rfx.cost.table",
    "MaskTap": "rfx.models.masks",
    "Plan": "rfx.core.plan",
    "Recipe": "rfx.recipe.spec",
    "Scores": "rfx.methods.scores.base",
    "Site": "rfx.core.plan",
    "Store": "rfx.core.store",
    "Subject": "rfx.models.subject",
    "Update": "rfx.core.plan",
    "UserError": "rfx.core.errors",
    "Workload": "rfx.core.workload",
}
__all__ = ["__version__", *_API]

if TYPE_CHECKING:
    from rfx.core.artefact import Artefact
    from rfx.core.errors import UserError
    from rfx.core.inputs import InputSpec
    from rfx.core.plan import Choice, Plan, Site, Update
    from rfx.core.registry import register
    from rfx.core.store import Store
    from rfx.core.workload import Workload
    from rfx.cost.base import Cost
    from rfx.cost.table import LatencyTable
    from rfx.cost.table_file import read_table, write_table
    from rfx.evidence.records import Evidence
    from rfx.export.onnx import export_onnx
    from rfx.methods.scores.base import Scores
    from rfx.models.checkpoint import load
    from rfx.models.families.find import find_sites
    from rfx.models.masks import MaskTap
    from rfx.models.shrink import shrink
    from rfx.models.subject import Subject
    from rfx.pipeline.build import build
    from rfx.pipeline.environment import environment
    from rfx.pipeline.gate import gate
    from rfx.pipeline.plan import plan
    from rfx.pipeline.profile import profile
    from rfx.pipeline.prune_export import prune_export
    from rfx.pipeline.shapes import shapes
    from rfx.pipeline.sites import sites
    from rfx.pipeline.steps import compensate, load_examples, load_model, score, search
    from rfx.pipeline.sweep import sweep
    from rfx.pipeline.verify import verify
    from rfx.recipe.spec import Recipe
    from rfx.tasks.examples import Examples


def __getattr__(name: str) -> Any:
    if name in _API:
        import importlib

        found = getattr(importlib.import_module(_API[name]), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module 'rfx' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
