"""Pages of the documentation that are made from the code, and what the site takes from elsewhere.

`python docs/generate.py` writes the recipe table into docs/pages/reference/recipes.md, every
command with its options into docs/pages/reference/cli.md, the page
docs/pages/explanation/robustness.md from benchmarks/results/robustness.json, the tables of INT8
in README.md and docs/pages/how-to/quantization.md from benchmarks/results/int8.json, the table
of model families in docs/pages/explanation/sites.md from benchmarks/results/families.json, and that
of embeddings in docs/pages/how-to/embeddings.md from benchmarks/results/embeddings.json. As a
hook of mkdocs (docs/mkdocs.yml) this file also makes the pages of the command line, the Python API
and evidence.json, converts the notebooks, and brings in files from outside docs/pages.
"""

from __future__ import annotations

import json
import posixpath
import re
import sys
import typing
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
PAGES = "docs/pages"
RECIPES = DOCS / "pages" / "reference" / "recipes.md"
COMMANDS = DOCS / "pages" / "reference" / "cli.md"
START, END = "<!-- recipe-table -->", "<!-- /recipe-table -->"

# Files of the repository that the site shows too: the path there -> the path here.
OUTSIDE = {
    "CHANGELOG.md": "changelog.md",
    ".github/CONTRIBUTING.md": "contributing.md",
    ".github/SECURITY.md": "security.md",
    "docker/README.md": "how-to/docker.md",
    "docker/constraints.txt": "files/constraints.txt",
    "docker/cpu.Dockerfile": "files/cpu.Dockerfile.txt",
    "docker/gpu.Dockerfile": "files/gpu.Dockerfile.txt",
    "docker/compose.yaml": "files/compose.yaml",
    "docs/ci/rfx-gate.yml": "files/rfx-gate.yml",
    "docs/ci/gitlab.yml": "files/gitlab.yml",
    "LICENSE": "files/LICENSE.txt",
}

# The public Python API, in the order of the page. A name that rfx does not have is left out, and
# one that it has and that is missing here comes last.
API = {
    "Jobs": (
        "Everything the command line does is one call.",
        "prune_export plan sweep sites profile shapes build verify gate environment",
    ),
    "Steps": (
        "The parts of a job, for research and for pipelines of your own.",
        "load_model load_examples find_sites score search compensate shrink load export_onnx "
        "read_table write_table",
    ),
    "Types": (
        "What passes between jobs and steps.",
        "Recipe Workload InputSpec Site Choice Plan Update Subject Examples Scores Artefact "
        "Evidence Cost LatencyTable Store MaskTap UserError",
    ),
    "Extensions": ("How another package adds a part.", "register"),
}


# ---------------------------------------------------------------------------------------------
# Recipe
# ---------------------------------------------------------------------------------------------


def type_text(annotation: Any) -> str:
    """A type as a reader of YAML understands it."""
    names = {
        str: "text",
        int: "whole number",
        float: "number",
        bool: "true or false",
        type(None): "null",
        Any: "any value",
    }
    try:
        if annotation in names:
            return names[annotation]
    except TypeError:
        pass  # not hashable
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_text(arguments[0])
    if origin is typing.Literal:
        return " or ".join(f"`{a}`" for a in arguments)
    if origin in (list, tuple):
        return f"list of {type_text(arguments[0])}"
    if origin is dict or getattr(origin, "__name__", "") == "Mapping":
        return f"mapping of {type_text(arguments[0])} to {type_text(arguments[1])}"
    if arguments:  # a union
        return " or ".join(dict.fromkeys(type_text(a) for a in arguments))
    return getattr(annotation, "__name__", str(annotation))


def with_recipe_table(text: str) -> str:
    """The page of recipes with the table of today's fields between its markers."""
    from rfx.recipe.reference import recipe_table

    before, _, rest = text.partition(START)
    _, marker, after = rest.partition(END)
    if not marker:
        raise ValueError(f"{RECIPES} has no {START} ... {END}")
    return f"{before}{START}\n\n{recipe_table()}\n{END}{after}"


# ---------------------------------------------------------------------------------------------
# Command line, evidence, Python
# ---------------------------------------------------------------------------------------------


def one_line(text: str) -> str:
    return " ".join(text.split())


def cell(text: str) -> str:
    return one_line(text).replace("|", "\\|").replace("<", "&lt;")


def cli_reference() -> str:
    """Every command with its arguments and options, from the tree of commands."""
    import typer

    from rfx.cli.app import app

    group = typer.main.get_command(app)
    lines = ["| command | what it does |", "|---|---|"]
    commands = {n: c for n, c in group.commands.items() if not getattr(c, "hidden", False)}
    for name, command in commands.items():
        first = (command.help or "").split("\n\n")[0]
        lines.append(f"| [`rfx {name}`](#rfx-{name}) | {cell(first)} |")
    for name, command in commands.items():
        arguments = [p for p in command.params if not p.opts[0].startswith("-")]
        options = [p for p in command.params if p.opts[0].startswith("-")]
        usage = " ".join(p.name.upper() if p.required else f"[{p.name.upper()}]" for p in arguments)
        # Sites and GitHub make the anchor of a heading from its words.
        lines += ["", f"## rfx {name}", "", command.help or "", ""]
        lines += ["```text", f"rfx {name} {'[OPTIONS] ' if options else ''}{usage}".rstrip(), "```"]
        if arguments:
            lines += ["", "| argument | meaning |", "|---|---|"]
            lines += [f"| `{p.name.upper()}` | {cell(p.help or '')} |" for p in arguments]
        if options:
            lines += ["", "| option | value | meaning |", "|---|---|---|"]
            lines += [option_row(p) for p in options]
    return "\n".join(lines) + "\n"


def option_row(option: Any) -> str:
    described = getattr(option, "type_descriptor", None)
    kind = getattr(described, "annotation", None) or getattr(option, "type", None)
    value = "" if option.is_flag else type_text(kind) if isinstance(kind, type) else ""
    if not value and not option.is_flag:
        value = getattr(kind, "name", None) or type_text(kind) if kind is not None else ""
    value = {"Path": "path", "list": "text"}.get(value, value)
    value = value.removeprefix("list of ")
    names = "<br>".join(f"`{o}`" for o in option.opts)
    default = option.default
    if option.multiple:
        value += ", may be repeated"
    if default not in (None, False, ()) and not callable(default):
        value += f"<br>default: `{default}`"
    return f"| {names} | {value} | {cell(option.help or '')} |"


def schema_type(part: dict[str, Any]) -> str:
    if "$ref" in part:
        name = part["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in part:
            return " or ".join(dict.fromkeys(schema_type(p) for p in part[key]))
    if "const" in part:
        return f"`{json.dumps(part['const'])}`"
    if "enum" in part:
        return " or ".join(f"`{v}`" for v in part["enum"])
    kind = part.get("type", "any value")
    if kind == "array":
        if "prefixItems" in part:
            return "[" + ", ".join(schema_type(p) for p in part["prefixItems"]) + "]"
        return f"list of {schema_type(part.get('items', {}))}"
    if kind == "object":
        inner = part.get("additionalProperties")
        return f"mapping to {schema_type(inner)}" if isinstance(inner, dict) and inner else "object"
    return {"string": "text", "boolean": "true or false"}.get(kind, kind)


def evidence_schema() -> dict[str, Any]:
    from rfx.evidence.records import Evidence

    return Evidence.model_json_schema()


def evidence_reference() -> str:
    """The fields of evidence.json, from its JSON schema."""
    schema = evidence_schema()
    version = schema["properties"]["schema_version"]
    number = version.get("const", version.get("default"))
    lines = [f"This is `schema_version` {number}."]
    parts = {"Evidence": schema, **schema.get("$defs", {})}
    for name, part in parts.items():
        if "properties" not in part:
            continue
        lines += ["", f"## {name} {{#{name.lower()}}}", ""]
        about = part.get("description", "")
        lines += [about.replace("\n", " "), ""] if about else []
        lines += ["| field | type | meaning |", "|---|---|---|"]
        required = set(part.get("required", ()))
        for field, described in part["properties"].items():
            meaning = cell(described.get("description", ""))
            optional = "" if field in required or part is schema else " (may be absent)"
            lines.append(f"| `{field}` | {cell(schema_type(described))}{optional} | {meaning} |")
    return "\n".join(lines) + "\n"


def public_names() -> set[str]:
    """The names that rfx offers and that can be imported here and now."""
    import rfx

    found = set()
    for name in rfx.__all__:
        try:
            getattr(rfx, name)
        except (ImportError, AttributeError):
            continue
        found.add(name)
    return found - {"__version__"}


def api_reference() -> str:
    names = public_names()
    lines: list[str] = []
    listed = {n for _, known in API.values() for n in known.split()}
    groups = [(title, about, known.split()) for title, (about, known) in API.items()]
    groups.append(("More", "", sorted(names - listed)))
    for title, about, known in groups:
        present = [n for n in known if n in names]
        if present:
            lines += ["", f"## {title}", "", about]
            lines += [f"\n::: rfx.{name}" for name in present]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------------------------------------
# Notebooks
# ---------------------------------------------------------------------------------------------


def notebook_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook with its kept outputs as Markdown, and the pictures in it by file name."""
    from nbconvert import MarkdownExporter

    resources = {
        "unique_key": path.stem,
        "output_files_dir": f"{path.stem}_files",
    }
    text, resources = MarkdownExporter().from_filename(str(path), resources)
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)  # colours of a terminal
    note = (
        f"\n\nThis page is a notebook: [{path.name}]({path.name}). Its outputs were made on a "
        "shared machine with two cores; the times are those of one run.\n"
    )
    title, newline, rest = text.lstrip().partition("\n")
    return title + note + newline + rest, resources.get("outputs", {})


# ---------------------------------------------------------------------------------------------
# The hook of mkdocs
# ---------------------------------------------------------------------------------------------


GENERATED = "<!-- generated -->"  # what follows it in a page is replaced
REFERENCES = {
    "reference/cli.md": cli_reference,
    "reference/api.md": api_reference,
    "reference/evidence.md": evidence_reference,
}


def outside() -> dict[str, str]:
    results = sorted((ROOT / "benchmarks" / "results").glob("*.json*"))
    more = {f"benchmarks/results/{p.name}": f"files/{p.name}" for p in results}
    return {k: v for k, v in {**OUTSIDE, **more}.items() if (ROOT / k).is_file()}


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    def add(src: str, content: str | bytes) -> None:
        known = files.get_file_from_path(src)
        if known is not None:
            files.remove(known)
        files.append(File.generated(config, src, content=content))

    add("reference/evidence.schema.json", json.dumps(evidence_schema(), indent=2))
    for source, target in outside().items():
        add(target, (ROOT / source).read_bytes())
    for path in sorted((DOCS / "pages" / "notebooks").glob("*.ipynb")):
        text, pictures = notebook_page(path)
        add(f"notebooks/{path.stem}.md", text)
        for name, data in pictures.items():
            add(f"notebooks/{name}", data)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    if page.file.src_uri == "reference/recipes.md":
        markdown = with_recipe_table(markdown)
    elif page.file.src_uri in REFERENCES:
        made = REFERENCES[page.file.src_uri]()
        markdown = re.sub(f"{GENERATED}.*", lambda _: made, markdown, flags=re.S)
    return relinked(markdown, page.file.src_uri)


def relinked(markdown: str, src_uri: str) -> str:
    """Links are written as they hold in the repository; here they become those of the site."""
    elsewhere = outside()
    source = {v: k for k, v in elsewhere.items()}.get(src_uri, f"{PAGES}/{src_uri}")

    def replace(match: re.Match[str]) -> str:
        target = match.group(1)
        if re.match(r"[a-z]+:", target):
            return match.group(0)
        place = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if place in elsewhere:
            there = elsewhere[place]
        elif place.startswith(f"{PAGES}/"):
            there = place.removeprefix(f"{PAGES}/")
            if there.endswith(".ipynb") and not src_uri.startswith("notebooks/"):
                there = there.removesuffix(".ipynb") + ".md"
        else:
            return match.group(0)  # mkdocs says that it leads nowhere
        here = posixpath.relpath(there, posixpath.dirname(src_uri) or ".")
        return f"]({here}"

    return re.sub(r"\]\(([^)#\s]+)", replace, markdown)


def with_commands(text: str) -> str:
    """The page of the command line with the commands of today behind its marker."""
    before, marker, _ = text.partition(GENERATED)
    if not marker:
        raise ValueError(f"{COMMANDS} has no {GENERATED}")
    return f"{before}{GENERATED}\n\n{cli_reference()}"


def main() -> None:
    text = RECIPES.read_text(encoding="utf-8")
    RECIPES.write_text(with_recipe_table(text), encoding="utf-8")
    text = COMMANDS.read_text(encoding="utf-8")
    COMMANDS.write_text(with_commands(text), encoding="utf-8")
    sys.path.insert(0, str(ROOT))  # the benchmarks are no installed package
    from benchmarks.embeddings_report import write_table as write_embeddings
    from benchmarks.families_report import write_table
    from benchmarks.int8_report import write_tables
    from benchmarks.robustness_report import write_page

    write_page()
    write_tables()
    write_table()
    write_embeddings()


if __name__ == "__main__":
    main()
