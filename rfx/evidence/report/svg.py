"""Figures as SVG elements that a page can hold: drawn by matplotlib without a display, with a text
alternative, in colours that the page's style may change."""

from __future__ import annotations

import hashlib
import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rfx.evidence.report.escape import xml

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The colours that figures are drawn in, and the names that the page's style knows them by. Each
# must be a colour of its own: it is found again by its value.
COLOURS = {
    "ink": "#1f2430",
    "soft": "#4b5563",
    "kept": "#2563eb",
    "dense": "#cbd0d8",
    "curve": "#5f6875",
    "limit": "#b91c1c",
    "best": "#15803d",
    "spread": "#8fb0f7",
    "page": "#ffffff",
    "inconclusive": "#92400e",
    "rival": "#86198f",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name with dollars in it is no formula
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.titlecolor": COLOURS["ink"],
    "axes.edgecolor": COLOURS["soft"],
    "xtick.color": COLOURS["soft"],
    "ytick.color": COLOURS["soft"],
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@contextmanager
def new_figure(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """A figure of one plot in the reports' style; width and height in inches."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots()


def svg(figure: Figure, salt: str, title: str, text: str) -> str:
    """The figure as an `<svg>` element for a page.

    Args:
        salt: keeps the ids of several figures on one page apart.
        title, text: what it shows, for who cannot see it.
    """
    salt = _id(salt)
    drawn = _saved(figure, salt)
    for name, colour in COLOURS.items():
        drawn = drawn.replace(colour, f"var(--{name}, {colour})")
    return _described(drawn, salt, title, text)


def standalone_svg(figure: Figure, salt: str, title: str, text: str) -> str:
    """The figure as a file of its own, on a white ground and in plain colours, which every viewer
    understands."""
    salt = _id(salt)
    drawn = _described(_saved(figure, salt), salt, title, text)
    ground = f'<rect width="100%" height="100%" fill="{COLOURS["page"]}"/>'
    return drawn.replace("</desc>", f"</desc>{ground}", 1)


def _id(salt: str) -> str:
    """What may stand in an id. Names of units come from files, and another one must not become the
    same."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "-", salt)[:60]
    return (
        plain
        if plain == salt
        else f"{plain}-{hashlib.sha256(ascii(salt).encode()).hexdigest()[:8]}"
    )


def _saved(figure: Figure, salt: str) -> str:
    import matplotlib

    # The style must hold while a figure is drawn as well as while it is saved.
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt}):
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = xml(text[text.index("<svg") :].strip())  # matplotlib writes what XML does not allow
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{salt}-", text)


def _described(text: str, salt: str, title: str, description: str) -> str:
    names = f'role="img" aria-labelledby="{salt}-title {salt}-desc"'
    said = (
        f'<title id="{salt}-title">{html.escape(xml(title))}</title>'
        f'<desc id="{salt}-desc">{html.escape(xml(description))}</desc>'
    )
    head, rest = text.split(">", 1)
    return f"{head.replace('<svg', f'<svg {names}', 1)}>{said}{rest}"
