"""Recipes from documents: a mapping, a YAML file, or one of those that come with rfx."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, overload

from rfx.core import migrate
from rfx.core.bounded import as_path, deeper, read_text
from rfx.core.errors import UsageError
from rfx.core.recognised import RECIPE, told_apart
from rfx.core.values import kind_of, short
from rfx.recipe.document import MOST_DEPTH, MOST_MB, parse_yaml
from rfx.recipe.mistakes import EVERY_KEY, lines_known, validated
from rfx.recipe.spec import GIVEN, Recipe

R = TypeVar("R", bound=Recipe)


def bundled_recipes() -> dict[str, Path]:
    """The ready recipes that come with rfx, by name."""
    here = Path(__file__).parent.parent
    folder = next((f for f in (here / "_recipes", here.parent / "recipes") if f.is_dir()), None)
    return {p.stem: p for p in sorted(folder.glob("*.yaml"))} if folder else {}


@overload
def make_recipe(data: Mapping[str, Any], where: str = ..., origin: str = ...) -> Recipe: ...
@overload
def make_recipe(
    data: Mapping[str, Any], where: str = ..., origin: str = ..., *, model: type[R]
) -> R: ...
def make_recipe(
    data: Mapping[str, Any],
    where: str = "the recipe",
    origin: str = "",
    *,
    model: type[Recipe] = Recipe,
) -> Recipe:
    """The recipe of a document of this or an earlier form.

    Args:
        where: the document in words, for error messages.
        origin: where its values come from; without, what the document's own `origin` says, and
            "given" for the rest.

    Raises:
        UsageError: unknown keys, wrong types, values out of range. Every mistake is named with its
            place, what was got and what is allowed.
    """
    if not isinstance(data, Mapping):
        raise UsageError(
            f"{where} is not valid: it holds no keys.",
            got=kind_of(data),
            allowed="a mapping of keys",
            next_step=EVERY_KEY,
        )
    if deeper(data, 2 * MOST_DEPTH):
        raise UsageError(
            f"{where} is not valid: it is nested too deep.",
            got=f"more than {2 * MOST_DEPTH} keys within each other",
            allowed="a mapping of keys, as in docs/pages/reference/recipes.md",
            next_step=EVERY_KEY,
        )
    strange = [key for key in data if not isinstance(key, str)]
    if strange:
        raise UsageError(
            f"{where} is not valid: a key is not a text.",
            got=f"{kind_of(strange[0])}: {short(strange[0])}",
            allowed="keys such as model, data and budget",
            next_step=f"correct it; {EVERY_KEY}",
        )
    current = migrate.recipe(data, where)
    if origin:
        current.pop("origin", None)
    recipe = validated(model, current, where)
    if not origin:
        return recipe
    said = {k: origin if v == GIVEN else v for k, v in recipe.origin.items()}
    return recipe.model_copy(update={"origin": type(recipe.origin)(said)})


def read_recipe(path: str | Path, *, model: type[R] | None = None) -> R | Recipe:
    """Read a YAML recipe; a bare name means one of the bundled ones.

    Raises:
        UsageError: no such file, not YAML, or not a valid recipe.
    """
    bundled = bundled_recipes()
    ours = isinstance(path, str) and path in bundled
    allowed = "a YAML or JSON file, or one of " + ", ".join(bundled)
    file = bundled[str(path)] if ours else as_path(path, "recipe", allowed)
    if not _there(file):
        raise UsageError(
            "The recipe file does not exist.",
            got=short(str(path), 300, bare=True),
            allowed=allowed,
            next_step=f"give its name alone: {file.stem}"
            if file.stem in bundled
            else "correct the path",
        )
    origin = f"the recipe {path} of rfx" if ours else f"the file {path}"
    with told_apart(file, RECIPE):
        text = read_text(file, what="recipe", most_mb=MOST_MB, allowed=allowed)
        document = parse_yaml(text, str(file))
        if not isinstance(document.data, Mapping):
            raise UsageError(
                f"{file} does not hold a recipe.",
                got=kind_of(document.data),
                allowed="a mapping of keys",
                next_step=f"correct the file; {EVERY_KEY}",
            )
        with lines_known(document.lines):
            recipe = make_recipe(document.data, str(file), origin, model=model or Recipe)
    return _relative_to(recipe, file.parent)


def _there(file: Path) -> bool:
    try:
        return file.exists()
    except OSError:  # a name that is too long
        return False


def _relative_to(recipe: R, folder: Path) -> R:
    """Files named in a recipe are looked for beside it first."""
    found = {
        key: str(folder / value)
        for key, value in (
            ("model", recipe.model),
            ("data.train", recipe.data.train),
            ("data.eval", recipe.data.eval),
        )
        if value and not Path(value).is_absolute() and _there(folder / value)
    }
    return recipe.changed(found, {k: recipe.origin[k] for k in found}) if found else recipe
