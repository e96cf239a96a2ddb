"""Which parts can do something, for messages that say what to take instead."""

from __future__ import annotations

from rfx.core.errors import UserError
from rfx.core.registry import find, names


def names_with(kind: str, capability: str) -> tuple[str, ...]:
    """The names of a kind whose classes say that they have a capability, such as `on_the_way`.
    Parts that cannot be imported are left out."""
    return tuple(name for name in names(kind) if _says(kind, name, capability))


def _says(kind: str, name: str, capability: str) -> bool:
    try:
        return bool(getattr(find(kind, name), capability, False))
    except UserError:  # a package that cannot be imported is no help
        return False
