"""What quantizing costs by site: each site alone is in integers, and all others stay in fp32.

The files are put together from the fp32 file and the quantized one, so that nothing is quantized
anew. They run on calibration examples: the evaluation set takes no part in which site is chosen.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rfx.core.artefact import Artefact
from rfx.core.plan import Plan
from rfx.evidence.records import BySite, SiteLoss
from rfx.export.quantizers.mixed import changed, made_by_modules, mixed
from rfx.methods.scores.divergence import outputs_divergence
from rfx.models.subject import Subject
from rfx.pipeline.baseline import Outputs, served_batch
from rfx.pipeline.dense import workload_of
from rfx.pipeline.session import Session
from rfx.recipe.spec import Recipe
from rfx.runtimes.base import Engine
from rfx.tasks.calibration import run_features
from rfx.tasks.examples import Examples

if TYPE_CHECKING:
    import onnx

EXAMPLES, FEWEST, EVERY = 100, 32, 5  # every fifth calibration example, so many at most and least


@dataclass(frozen=True)
class Mixture:
    """The two files of one model, and which of their tensors each quantized site makes."""

    plain: onnx.ModelProto
    quantized: onnx.ModelProto
    sites: dict[str, frozenset[str]]
    rest: frozenset[str]

    @classmethod
    def of(
        cls, subject: Subject, names: Collection[str], plain: Artefact, served: Artefact
    ) -> Mixture | None:
        """None where there are several graphs, or a site is not told apart.

        Args:
            names: of the sites that are in integers.
        """
        import onnx

        if len(plain.files) != 1 or len(served.files) != 1:
            return None
        before, after = (onnx.load(str(a.files[0])) for a in (plain, served))
        left = changed(before, after)
        sites = {}
        for site in subject.sites:
            if site.name in names:
                own = made_by_modules(before, (*site.inputs, site.output)) & left
                if not own:
                    return None
                sites[site.name] = own
        return cls(before, after, sites, left.difference(*sites.values()))

    def without(self, site: str) -> onnx.ModelProto:
        """All of it quantized but one site."""
        names = self.rest.union(*(own for name, own in self.sites.items() if name != site))
        return mixed(self.plain, self.quantized, names)


def by_site(
    session: Session,
    recipe: Recipe,
    subject: Subject,
    examples: Examples,
    names: Collection[str],
    plain: tuple[Artefact, Engine],
    served: tuple[Artefact, Engine],
) -> BySite | None:
    """The divergence from the fp32 file that quantizing each site alone makes; None where the two
    files cannot be mixed.

    Args:
        names: of the sites that are in integers.
        plain: the model in fp32, its file and its engine.
        served: the same, quantized.
    """
    features = examples.calibration_features
    features = features[:: max(1, min(EVERY, len(features) // FEWEST))][:EXAMPLES]
    batch = served_batch(recipe, recipe.workload.precision)
    outputs = examples.task.output_names

    def run(engine: Engine) -> Outputs:
        return run_features(engine.run, examples.task, features, batch)

    with session.stage("quantizing site by site"):
        mixture = Mixture.of(subject, names, plain[0], served[0])
        if mixture is None:
            return None
        before = run(plain[1])

        def loss(made: frozenset[str]) -> float:
            with built(session, recipe, mixed(mixture.plain, mixture.quantized, made)) as engine:
                return outputs_divergence(before, run(engine), outputs)

        rows = []
        with session.progress.bar("quantizing one site at a time", len(mixture.sites) + 1) as bar:
            for name, own in mixture.sites.items():
                rows.append(SiteLoss(site=name, divergence=loss(own)))
                bar.advance()
            rest = loss(mixture.rest) if mixture.rest else 0.0
            bar.advance()
        together = outputs_divergence(before, run(served[1]), outputs)
    return BySite(examples=len(features), together=together, rest=rest, sites=rows)


@contextmanager
def built(session: Session, recipe: Recipe, model: onnx.ModelProto) -> Iterator[Engine]:
    """An engine of a file that is needed once."""
    import onnx

    folder = session.store.scratch("mixed")
    try:
        file = Path(folder) / "model.onnx"
        onnx.save(model, str(file))
        engine = session.build(file, workload_of(recipe))
        try:
            yield engine
        finally:
            engine.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sites_in_integers(plan: Plan, kept: Collection[str]) -> list[str]:
    """The sites of a plan whose products are quantized: those that have units and are not kept in
    fp32."""
    return [s.name for s in plan.sites if s.count and s.name not in kept]
