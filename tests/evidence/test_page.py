"""report.html and sweep.html can be read by everyone: on a phone, in the dark, without a network,
without seeing."""

import html
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from rfx.evidence.read import read_curve
from rfx.evidence.report.curve import page
from rfx.evidence.report.svg import COLOURS
from rfx.evidence.report.write import render
from tests.evidences import make_accuracy, make_evidence, make_latency

SCHEMA1 = Path(__file__).parents[1] / "golden" / "schema1"
VOID = ("meta", "br", "link", "path", "use", "img", "rect", "line", "circle")
WIDE = "a" * 64  # what has no place to break, as a hash


def sweep() -> str:
    return page(read_curve(SCHEMA1 / "sweep.json").model_copy(update={"max_drop": 20.0}))


def report() -> str:
    return render(
        make_evidence(
            accuracy=make_accuracy(-0.01),
            files={"model.onnx": WIDE},
            recipe={
                "name": "reviews",
                "budget": {"latency": 0.7},
                "model": f"/home/{WIDE}",
                "origin": {"budget.latency": "the command line (--latency)"},
            },
        ),
        "html",
    )


PAGES = {
    "report": report,
    "failed": lambda: render(
        make_evidence(latency=make_latency(0.9), accuracy=make_accuracy(4.0)), "html"
    ),
    "unmeasured": lambda: render(
        make_evidence(table=False).model_copy(update={"latency": None, "accuracy": None}), "html"
    ),
    "sweep": sweep,
}


@pytest.fixture(scope="module", params=PAGES)
def text(request) -> str:
    return PAGES[request.param]()


class Node:
    def __init__(self, tag, attributes, parent):
        self.tag, self.attributes, self.parent = tag, attributes, parent
        self.children: list = []

    def all(self, *tags):
        for child in self.children:
            if isinstance(child, Node):
                if child.tag in tags:
                    yield child
                yield from child.all(*tags)

    @property
    def text(self) -> str:
        return "".join(c if isinstance(c, str) else c.text for c in self.children).strip()


class Tree(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.root = self.at = Node("", {}, None)
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        node = Node(tag, dict(attrs), self.at)
        self.at.children.append(node)
        if tag not in VOID:
            self.at = node

    def handle_startendtag(self, tag, attrs):
        self.at.children.append(Node(tag, dict(attrs), self.at))

    def handle_endtag(self, tag):
        if self.at.tag == tag:
            self.at = self.at.parent

    def handle_data(self, data):
        self.at.children.append(data)


def test_the_page_says_its_language_title_and_outline(text):
    root = Tree(text).root
    assert next(root.all("html")).attributes["lang"] == "en"
    assert len(next(root.all("title")).text) > 5 and len(list(root.all("main"))) == 1
    viewport = [n for n in root.all("meta") if n.attributes.get("name") == "viewport"]
    assert viewport[0].attributes["content"].startswith("width=device-width")
    levels = [int(n.tag[1]) for n in root.all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1 and len(levels) > 2
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert all(n.text for n in root.all("h1", "h2", "h3", "summary", "caption"))


def test_tables_have_a_caption_and_heads_that_say_what_they_head(text):
    tables = list(Tree(text).root.all("table"))
    assert tables
    for table in tables:
        assert next(table.all("caption")).text
        heads = list(next(table.all("thead")).all("th"))
        assert all(h.attributes["scope"] == "col" and h.text for h in heads)
        for row in next(table.all("tbody")).all("tr"):
            cells = [c for c in row.children if isinstance(c, Node)]
            assert len(cells) == len(heads)
            assert cells[0].tag == "th" and cells[0].attributes["scope"] == "row"
            if "stack" in table.attributes.get("class", ""):  # on a phone each cell says its head
                said = [c.attributes["data-label"] for c in cells[1:]]
                assert said == [h.text for h in heads[1:]]
                roles = {n.attributes.get("role") for n in (*row.all("th", "td"), row, table)}
                assert roles == {"table", "row", "rowheader", "cell"}


def test_plots_say_in_words_what_they_show(text):
    root = Tree(text).root
    for svg in root.all("svg"):
        assert svg.attributes["role"] == "img"
        named = {n.attributes.get("id"): n.text for n in svg.all("title", "desc")}
        ids = svg.attributes["aria-labelledby"].split()
        assert len(ids) == 2 and all(len(named[i]) > 10 for i in ids)


def test_what_a_plot_shows_is_said_in_numbers():
    root = Tree(report()).root
    said = [n.text for svg in root.all("svg") for n in svg.all("desc")]
    assert any("layer 0 3 of 4, layer 1 0 of 4" in s for s in said)
    assert any("0.01 points gained" in s and "pass" in s for s in said)


def test_outcomes_are_words_and_not_colours_alone(text):
    badges = [n for n in Tree(text).root.all("span") if "verdict" in n.attributes.get("class", "")]
    assert all(
        b.text in ("pass", "fail", "inconclusive", "no limit")
        and b.text.replace(" ", "-") in b.attributes["class"].split()
        for b in badges
    )


def test_the_page_needs_no_network_and_no_script(text):
    root = Tree(text).root
    assert not list(root.all("script", "link", "img", "iframe"))
    assert not re.search(r"@import|url\((?!#)", text)
    assert not re.search(r'(?:src|href)="(?!#)', text)


def style(text: str) -> tuple[dict[str, dict[str, str]], list[tuple[str, dict[str, str]]]]:
    """{scheme: {variable: colour}}, and the rules as (selector, {property: value})."""
    css = re.search(r"<style>(.*?)</style>", text, re.S)[1]
    dark = re.search(r"@media \(prefers-color-scheme: dark\) \{(.*?\})\s*\}", css, re.S)[1]
    rest = css.replace(dark, "")

    def variables(block: str) -> dict[str, str]:
        return dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})", block))

    light = variables(rest)
    rules = [
        (
            selector.strip(),
            dict(p.strip().split(":", 1) for p in body.split(";") if ":" in p),
        )
        for selector, body in re.findall(r"([^{}]+)\{([^{}]*)\}", rest)
    ]
    return {"light": light, "dark": light | variables(dark)}, rules


def contrast(one: str, other: str) -> float:
    """WCAG 2: (L1 + 0.05) / (L2 + 0.05) of the relative luminances."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_contrast_is_computed_as_wcag_says():
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_in_both_schemes(text, scheme):
    schemes, rules = style(text)
    colours, grounds = schemes[scheme], {"page"}
    pairs = set()
    for _, properties in rules:
        found = {
            name: re.search(r"var\(--([\w-]+)\)", properties.get(name, ""))
            for name in ("color", "background")
        }
        if found["background"]:
            grounds.add(found["background"][1])
        if found["color"]:
            ground = found["background"][1] if found["background"] else "page"
            pairs.add((found["color"][1], ground))
    panels = grounds - {"pass", "fail", "inconclusive", "not-judged"}
    # Text of the page and its quieter form stand on every panel; text of plots on the page and,
    # as the numbers of bars, on bars.
    pairs |= {(ink, ground) for ink in ("ink", "soft") for ground in panels}
    pairs |= {(ink, "page") for ink in ("ink", "soft", "curve", "limit")} | {("ink", "dense")}
    assert len(pairs) > 12
    weak = {p: contrast(colours[p[0]], colours[p[1]]) for p in pairs}
    assert {p: c for p, c in weak.items() if c < 4.5} == {}
    shapes = {n: contrast(colours[n], colours["page"]) for n in ("kept", "best", "inconclusive")}
    assert {n: c for n, c in shapes.items() if c < 3.0} == {}


def test_plots_take_their_colours_from_the_page(text):
    """So that they change with the scheme: no colour stands in a plot but as a fallback."""
    schemes, _ = style(text)
    assert set(COLOURS) <= set(schemes["light"]) == set(schemes["dark"])
    for svg in re.findall(r"<svg.*?</svg>", text, re.S):
        used = set(re.findall(r"var\(--([\w-]+)", svg))
        assert used and used <= set(COLOURS)
        bare = re.sub(r"var\(--[\w-]+, #[0-9a-f]{6}\)", "", svg)
        assert not re.findall(r"(?:fill|stroke|color)[:=]\s*\"?#[0-9a-f]{3,6}", bare)


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("name", ["report", "sweep"])
def test_nothing_is_wider_than_a_phone(name, tmp_path):
    """Everything open, 390 pixels wide: nothing needs scrolling sideways."""
    inner = PAGES[name]().replace("<details>", "<details open>")
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe id="f" style="width:390px;height:800px;border:0" srcdoc="{html.escape(inner)}">'
        "</iframe><script>f.onload = () => { document.title = "
        "f.contentDocument.documentElement.scrollWidth; }</script>",
        encoding="utf-8",
    )
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    flags += (
        " --disable-background-networking --disable-component-update --virtual-time-budget=5000"
    )
    done = subprocess.run(
        [
            CHROMIUM,
            *flags.split(),
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            frame.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert int(re.search(r"<title>(\d+)</title>", done.stdout)[1]) <= 390
