"""What rfx can prune in a model, and what it leaves alone: found and proved, nothing is pruned."""

from __future__ import annotations

from typing import Any, NamedTuple

from rfx.core.plan import Site
from rfx.core.progress import Progress
from rfx.core.store import Store
from rfx.models.families.find import Inspection
from rfx.pipeline.resolve import open_session, resolve_model
from rfx.recipe.spec import Recipe


class Seen(NamedTuple):
    """A model's name, and what was seen of it."""

    model: str
    inspection: Inspection

    def share(self, *paths: str) -> float:
        """Of the multiplications of all dense modules, the part of those at some paths."""
        macs = self.inspection.macs
        return sum(macs.get(p, 0) for p in paths) / max(1, sum(macs.values()))

    def site_share(self, site: Site) -> float:
        """The same for the modules of a site."""
        return self.share(*site.inputs, site.output)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready facts."""
        seen = self.inspection
        return {
            "model": self.model,
            "sites": [
                {
                    "name": s.name,
                    "kind": s.kind.value,
                    "units": s.units,
                    "width": s.width,
                    "producers": list(s.inputs),
                    "projection": s.output,
                    "share": self.site_share(s),
                }
                for s in seen.sites
            ],
            "refused": [
                {"module": r.path, "reason": r.reason, "share": self.share(r.path)}
                for r in seen.refused
            ],
            "share": sum(map(self.site_share, seen.sites)),
            "proof": {"error": seen.error, "examples_run": seen.rows},
        }


def sites(recipe: Recipe, *, store: Store | None = None, progress: Progress | None = None) -> Seen:
    """The sites of a model, proved on it, and the dense modules that are left alone with the reason
    of each.

    Args:
        recipe: needs a model; data and budget are not looked at.

    Raises:
        UserError: every mistake and missing piece, each with its exit code.

    Examples:
        >>> seen = rfx.sites(rfx.Recipe(model="model/"))
        >>> [s.name for s in seen.inspection.sites][:2]
        ['layer.0.mha', 'layer.0.ffn']
    """
    session = open_session(recipe, store=store, progress=progress, stages=1)
    _, subject = resolve_model(session, recipe)
    assert subject.inspection is not None  # it was loaded just now
    return Seen(subject.name, subject.inspection)
