"""Recipes from documents: a mapping, a YAML file, or one of those that come with rfx."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, overload

from rfx.core import migrate
from rfx.core.errors import UsageError
from rfx.recipe.mistakes import EVERY_KEY, validated
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
    import yaml

    bundled = bundled_recipes()
    ours = str(path) in bundled
    file = bundled[str(path)] if ours else Path(path)
    if not file.is_file():
        raise UsageError(
            "The recipe file does not exist.",
            got=str(path),
            allowed="a YAML file, or one of " + ", ".join(bundled),
            next_step="correct the path",
        )
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{file} is not readable as YAML.",
            got=str(error).replace("\n", " "),
            next_step="correct the file",
        ) from None
    if not isinstance(data, Mapping):
        raise UsageError(
            f"{file} does not hold a recipe.",
            got=type(data).__name__,
            allowed="a mapping of keys",
            next_step=f"correct the file; {EVERY_KEY}",
        )
    origin = f"the recipe {path} of rfx" if ours else f"the file {path}"
    return _relative_to(make_recipe(data, str(file), origin, model=model or Recipe), file.parent)


def _relative_to(recipe: R, folder: Path) -> R:
    """Files named in a recipe are looked for beside it first."""
    found = {
        key: str(folder / value)
        for key, value in (
            ("model", recipe.model),
            ("data.train", recipe.data.train),
            ("data.eval", recipe.data.eval),
        )
        if value and not Path(value).is_absolute() and (folder / value).exists()
    }
    return recipe.changed(found, {k: recipe.origin[k] for k in found}) if found else recipe
