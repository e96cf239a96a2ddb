"""rfx, the retraining-free exporter: prune a fine-tuned Transformer to a latency target, with the
evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rfx.core.version import __version__

# The public API, imported where it is first used so that `import rfx` and `rfx --help` stay quick.
_API = {
    "load": "rfx.models.checkpoint",
    "find_sites": "rfx.models.families.find",
    "MaskTap": "rfx.models.masks",
    "shrink": "rfx.models.shrink",
    "export_onnx": "rfx.export.onnx",
    "Site": "rfx.plan",
    "Plan": "rfx.plan",
    "Recipe": "rfx.recipe.spec",
    "LatencyTable": "rfx.cost.table",
    "Evidence": "rfx.evidence.records",
    "prune_export": "rfx.pipeline.prune_export",
}
__all__ = ["__version__", *_API]

if TYPE_CHECKING:
    from rfx.core.plan import Plan, Site
    from rfx.cost.table import LatencyTable
    from rfx.evidence.records import Evidence
    from rfx.export.onnx import export_onnx
    from rfx.models.checkpoint import load
    from rfx.models.families.find import find_sites
    from rfx.models.masks import MaskTap
    from rfx.models.shrink import shrink
    from rfx.pipeline.prune_export import prune_export
    from rfx.recipe.spec import Recipe


def __getattr__(name: str):
    if name in _API:
        import importlib

        return getattr(importlib.import_module(_API[name]), name)
    raise AttributeError(f"module 'rfx' has no attribute {name!r}")
