"""The section of a recipe that says which sublayers are left as they are."""

from __future__ import annotations

from rfx.recipe.fields import option
from rfx.recipe.section import Section


class SitesSpec(Section):
    """What the search may not choose."""

    freeze: tuple[str, ...] = option(
        (),
        """Sublayers that keep all of their heads or filters; their weights may be fitted all the
        same, to make up for what leaves elsewhere. A name such as layer.0.mha (`rfx sites` lists
        them), its beginning (layer.0), its end (mha), or a pattern with * and ? (layer.1?.ffn).
        Once for each.""",
        cli="--freeze",
        form="repeated",
        metavar="PATTERN",
    )
    whole: bool = option(
        False,
        "Remove whole sublayers alone: each keeps all of its heads or filters, or none.",
        cli="--drop-layers",
    )
