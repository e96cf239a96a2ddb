"""Size: its cost, read off the dense model's file; the loop that closes on the bytes of the real
file; and what the evidence says of it.

Bytes are exact: each turn of the loop looks at the file that its plan gives, and the best plan
whose file is within the size is taken. Where none of the turns finds one, the smallest file is
taken and the gate on the size fails.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from rfx.core.errors import FixedPartError, InfeasibleError
from rfx.core.plan import Plan, Update
from rfx.core.registry import find
from rfx.core.sizes import size_words
from rfx.cost.base import Cost, FileCost
from rfx.evidence.records import SizePart, SizeRound
from rfx.evidence.size import size_round_text
from rfx.export.onnx import METADATA_PREFIX
from rfx.methods.schedule.base import plan_of
from rfx.methods.scores.base import Scores
from rfx.methods.search.problem import SearchResult
from rfx.methods.search.searcher import Searcher
from rfx.models.subject import Subject
from rfx.pipeline.dense import DENSE, Baseline, quantizes
from rfx.pipeline.make import export, own_metadata
from rfx.pipeline.quantizing import for_timing
from rfx.pipeline.rival import precision_of
from rfx.pipeline.session import Session
from rfx.recipe.spec import Recipe

ROUNDS = 4
# What became of a round, as it stands in the evidence.
FITS, TOO_LARGE, ROOM = "within the size", "too large", "room is left"
WHOLE = "nothing has to be pruned"


def is_of_file(recipe: Recipe) -> bool:
    """Whether the recipe's budget is of what is read off the dense model's file."""
    unit = recipe.budget.unit
    return unit not in (None, "latency") and issubclass(find("cost", str(unit)), FileCost)


def file_cost(
    session: Session,
    recipe: Recipe,
    subject: Subject,
    outputs: tuple[str, ...],
    dense: Baseline,
    quantized: Baseline | None,
) -> FileCost:
    """The cost of the recipe's budget, read off the dense model's file at the recipe's precision.

    Args:
        quantized: the dense model at that precision, where it is a quantized one.

    Raises:
        UnsupportedModelError: the file does not name its weights.
    """
    import onnx

    cls: type[FileCost] = find("cost", str(recipe.budget.unit))
    more = _bytes_of(own_metadata(recipe, None, subject.vocabulary)) - _bytes_of(DENSE)
    at = recipe.workload.precision
    if not recipe.quantization.keep_fp32 and subject.vocabulary is None:
        files = (quantized or dense).artefact.files
        graphs = [onnx.load(str(file)) for file in files]
        return cls.of_files(graphs, subject.sites, precision=at, more=more)
    # The dense model of a smaller vocabulary, or of which sites are kept in fp32, is nobody's
    # rival: it is made for this alone.
    folder = session.store.scratch("size")
    try:
        _, made = export(
            recipe,
            subject,
            outputs,
            Plan.dense(subject.sites),
            Update(),
            folder,
            DENSE,
            for_timing(session, recipe, subject.as_served),  # no scale takes more bytes
        )
        graphs = [onnx.load(str(file)) for file in made.files]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return cls.of_files(graphs, subject.sites, precision=at, more=more)


def _bytes_of(metadata: Mapping[str, object]) -> int:
    """Bytes of metadata in a file: two tags and lengths an entry, and those of the entry itself."""
    texts = [(METADATA_PREFIX + key, str(value)) for key, value in metadata.items()]
    return sum(len(key.encode()) + len(value.encode()) + 6 for key, value in texts)


def require_room(session: Session, recipe: Recipe, cost: Cost) -> None:
    """Raises FixedPartError where what cannot be pruned is larger than the size that is asked for,
    saying what that is."""
    limit = recipe.budget.size_bytes
    if limit is None or cost.fixed <= limit:
        return
    parts: Mapping[str, float] = getattr(cost, "parts", {})
    listed = sorted(parts.items(), key=lambda item: -item[1])
    made_of = ", ".join(f"{name} {size_words(size)}" for name, size in listed)
    smaller = f"ask for --size {size_up(cost.fixed)} or more"
    able = None if quantizes(recipe) else precision_of(session)
    if able is not None:
        smaller += f", add --precision {able}"
    words = "" if recipe.vocabulary.prune else ", add --prune-vocabulary"
    raise FixedPartError(
        "The file cannot be as small as this: what cannot be pruned is larger.",
        got=f"--size {recipe.budget.size}; without any head and filter the file still has "
        f"{size_words(cost.fixed)}" + (f" ({made_of})" if made_of else ""),
        allowed=f"{size_up(cost.fixed)} or more at {recipe.workload.precision}",
        next_step=f"{smaller}{words}, or start from a model with a smaller vocabulary",
    )


def require_possible(
    session: Session,
    recipe: Recipe,
    subject: Subject,
    outputs: tuple[str, ...],
    dense: Baseline,
    quantized: Baseline | None,
) -> None:
    """As `require_room`, before the work of scoring. Other budgets are all possible so far."""
    if is_of_file(recipe):
        require_room(
            session, recipe, file_cost(session, recipe, subject, outputs, dense, quantized)
        )


def size_up(count: float) -> str:
    """A round size that is not smaller, as `--size` takes it."""
    step, name = (1e5, "MB") if count >= 1e6 else (1e3, "kB")
    unit = {"MB": 1e6, "kB": 1e3}[name]
    return f"{-(-count // step) * step / unit:g}{name}"


def close_on_size(
    session: Session,
    recipe: Recipe,
    subject: Subject,
    scores: Scores,
    searcher: Searcher,
    outputs: tuple[str, ...],
) -> tuple[SearchResult, list[SizeRound]]:
    """Search, write the file, look at its size; correct the budget and search again.

    Returns:
        The plan of most importance among those whose file is within the size, and the rounds.

    Raises:
        FixedPartError: what cannot be pruned is larger than the size.
    """
    limit = recipe.budget.size_bytes
    if limit is None:
        raise ValueError("this loop needs a size")
    cost = searcher.cost
    require_room(session, recipe, cost)
    rounds: list[SizeRound] = []
    tried: list[tuple[int, SearchResult]] = []
    budget = float(limit)
    folder = session.store.scratch("size")
    try:
        with session.progress.bar("closing the loop on the size", ROUNDS) as bar:
            for number in range(ROUNDS):
                try:
                    result = searcher(subject.sites, scores, budget)
                except InfeasibleError:  # only after a round: there was room before
                    break
                plan = plan_of(subject.sites, result.kept, result)
                _, artefact = export(
                    recipe,
                    subject,
                    outputs,
                    plan,
                    Update(),
                    folder,
                    own_metadata(recipe, None, subject.vocabulary),
                    for_timing(session, recipe, subject.as_served),
                )
                real = sum(file.stat().st_size for file in artefact.files)
                artefact.remove()
                tried.append((real, result))
                predicted = cost.predict(subject.sites, result.choices)
                again = limit - (real - predicted)  # the budget under which the error is none
                whole = all(result.counts[s.name] == s.units for s in subject.sites)
                note = _note(real, limit, again - budget, whole, _least(cost, subject))
                rounds.append(SizeRound(budget=budget, predicted=predicted, bytes=real, note=note))
                bar.advance()
                session.progress.note(size_round_text(number + 1, rounds[-1]))
                if note in (FITS, WHOLE):
                    break
                # A file that is too large has to lose something, whatever the cost says of it.
                budget = min(again, budget - (real - limit)) if note == TOO_LARGE else again
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    within = [result for real, result in tried if real <= limit]
    if within:
        return max(within, key=lambda result: result.value), rounds
    return min(tried, key=lambda item: item[0])[1], rounds


def _note(real: int, limit: int, more: float, whole: bool, least: float) -> str:
    """What a file is beside its limit.

    Args:
        more: by how much the budget would grow for another round, bytes.
        least: what the cheapest unit takes: where less is left, another round finds nothing.
    """
    if real > limit:
        return TOO_LARGE
    if whole:
        return WHOLE
    return ROOM if more >= least else FITS


def _least(cost: Cost, subject: Subject) -> float:
    """What the smallest step of any site costs."""
    steps = []
    for site in subject.sites:
        costs = sorted(cost.curve(site).values())
        steps += [b - a for a, b in pairwise(costs) if b > a]
    return min(steps, default=1.0)


def size_part(
    recipe: Recipe,
    files: Sequence[Path],
    dense: Baseline,
    *,
    predicted: float | None = None,
    rounds: Sequence[SizeRound] = (),
) -> SizePart:
    """What the evidence says of the size of these files, which are served.

    Args:
        predicted: bytes by the cost, under a size budget.
    """
    sizes = {file.name: file.stat().st_size for file in files}
    return SizePart(
        files=sizes,
        bytes=sum(sizes.values()),
        dense_bytes=sum(file.stat().st_size for file in dense.artefact.files),
        limit=recipe.budget.size_bytes,
        predicted=predicted,
        rounds=list(rounds),
    )
