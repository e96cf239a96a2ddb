"""rfx, the retraining-free exporter: prune a fine-tuned Transformer to a latency target, with the
evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

# The public API, imported where it is first used so that `import rfx` and `rfx --help` stay quick.
_API = {
    "load": "rfx.surgery.checkpoint",
    "find_sites": "rfx.anatomy",
    "MaskTap": "rfx.masks",
    "shrink": "rfx.surgery.shrink",
    "export_onnx": "rfx.export.onnx",
    "Site": "rfx.plan",
    "Plan": "rfx.plan",
    "Recipe": "rfx.recipe",
    "LatencyTable": "rfx.cost.table",
    "Evidence": "rfx.verify.evidence",
    "prune_export": "rfx.pipeline",
}
__all__ = ["__version__", *_API]

if TYPE_CHECKING:
    from rfx.anatomy import find_sites
    from rfx.cost.table import LatencyTable
    from rfx.export.onnx import export_onnx
    from rfx.masks import MaskTap
    from rfx.pipeline import prune_export
    from rfx.plan import Plan, Site
    from rfx.recipe import Recipe
    from rfx.surgery.checkpoint import load
    from rfx.surgery.shrink import shrink
    from rfx.verify.evidence import Evidence


def __getattr__(name: str):
    if name in _API:
        import importlib

        return getattr(importlib.import_module(_API[name]), name)
    raise AttributeError(f"module 'rfx' has no attribute {name!r}")
