"""YAML of users: read without running or expanding anything, with the line of every key.

A document may use a few aliases, as YAML has them; so many that they multiply what a document holds
are refused before anything is made of them, and so are deep nesting, a key that is given twice, and
tags that would make objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from rfx.core.bounded import deeper
from rfx.core.errors import UsageError, first_line
from rfx.core.values import short

MOST_ALIASES = 20
MOST_DEPTH = 30
MOST_MB = 0.25  # PyYAML takes seconds for so much


@dataclass(frozen=True)
class Document:
    """What a YAML text holds, and on which line each of its keys stands, by the key with dots."""

    data: Any
    lines: Mapping[str, int] = field(default_factory=dict)


def parse_yaml(text: str, where: str) -> Document:
    """The contents of a YAML document.

    Args:
        where: the name of its file, for messages.

    Raises:
        UsageError: it is not YAML, or holds what a recipe never needs (see above).
    """
    import yaml

    loader = None
    try:
        loader = _loader()(text)
        node = loader.get_single_node()
        if node is None:
            return Document(None)
        data = loader.construct_document(node)
        if deeper(data, 2 * MOST_DEPTH):
            raise _RefusedError("an alias (*name) stands within what it names", "write it out")
        return Document(data, dict(_lines(node, "", 0)))
    except _RefusedError as error:
        why, next_step = str(error), error.next_step
    except RecursionError:
        why, next_step = f"it is nested more than {MOST_DEPTH} deep", "write it flat"
    except yaml.YAMLError as error:
        why = " ".join(str(error).replace(' in "<unicode string>",', " at").split())
        next_step = "correct the file"
        if "could not determine a constructor for the tag" in why:
            mark = getattr(error, "problem_mark", None)
            at = f" on line {mark.line + 1}" if mark is not None else ""
            problem = str(getattr(error, "problem", "")).rpartition(" ")[2]
            why = f"the tag {short(problem, bare=True)}{at}: a recipe holds plain values only"
            next_step = "write the value itself"
    # Values that look like a number or a date and are none.
    except (ValueError, TypeError, OverflowError, AttributeError, KeyError) as error:
        said = first_line(error, 120)
        said = "an integer of thousands of digits" if "integer string" in said else said
        why, next_step = f"a value cannot be read: {said}", "correct the file"
    finally:
        if loader is not None:
            loader.dispose()
    raise UsageError(
        f"{where} is not readable as YAML.",
        got=why if len(why) <= 400 else f"{why[:300]}…{why[-80:]}",
        allowed="a YAML document of plain keys and values",
        next_step=next_step,
    )


class _RefusedError(Exception):
    """What YAML allows, and a recipe does not."""

    def __init__(self, why: str, next_step: str) -> None:
        super().__init__(why)
        self.next_step = next_step


@lru_cache(maxsize=1)
def _loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """PyYAML's safe loader, which looks at each node as it is composed."""

        def __init__(self, text: str) -> None:
            super().__init__(text)
            self.aliases = self.depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                self.aliases += 1
                if self.aliases > MOST_ALIASES:
                    raise _RefusedError(
                        f"more than {MOST_ALIASES} aliases (*name), at line "
                        f"{self.peek_event().start_mark.line + 1}",
                        "write the values out",
                    )
            self.depth += 1
            if self.depth > MOST_DEPTH:
                line = self.peek_event().start_mark.line + 1
                raise _RefusedError(
                    f"it is nested more than {MOST_DEPTH} deep, at line {line}", "write it flat"
                )
            node = super().compose_node(parent, index)
            self.depth -= 1
            if isinstance(node, yaml.MappingNode):
                _refuse_twice(node)
            return node

    return Loader


def _refuse_twice(node: Any) -> None:
    """PyYAML takes the last of two equal keys in silence, which nobody means."""
    seen: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if not isinstance(key.value, str) or key.tag == "tag:yaml.org,2002:merge":
            continue
        line = key.start_mark.line + 1
        if (key.tag, key.value) in seen:
            raise _RefusedError(
                f"the key {short(key.value, bare=True)} stands on line "
                f"{seen[key.tag, key.value]} and again on line {line}",
                "remove one of the two",
            )
        seen[key.tag, key.value] = line


def _lines(node: Any, prefix: str, depth: int) -> Iterator[tuple[str, int]]:
    if depth > MOST_DEPTH or not isinstance(node.value, list):
        return
    for pair in node.value:
        if isinstance(pair, tuple) and isinstance(pair[0].value, str):
            key = f"{prefix}{pair[0].value}"
            yield key, pair[0].start_mark.line + 1
            if depth < 3:  # no key of a recipe lies deeper
                yield from _lines(pair[1], f"{key}.", depth + 1)
