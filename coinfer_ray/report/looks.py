"""Colours, dashes and shapes: one look for each label of a page, the same on the page and in pictures.

Methods take the colours of Okabe and Ito ("Color Universal Design", 2008), darker on white and lighter on black for
contrast, and differ by dash and shape as well. Labels that are no methods, such as the parts of a latency, take tones
that differ by lightness, so that they part even without colour.
"""

from __future__ import annotations

from dataclasses import dataclass

from coinfer_ray.report.model import METHOD, Page

# (on white, on black)
_INK = ("#111820", "#f2f5f8")
_METHODS = (
    ("#c2500a", "#ff9447"),
    ("#0a6cb0", "#5cb8f0"),
    ("#00805e", "#35c99b"),
    ("#b0558a", "#e794c4"),
    ("#8a6a00", "#e6c13c"),
    ("#5b4fb5", "#a9a0f5"),
    ("#6b7681", "#98a4b0"),
)
_TONES = (("#0b4f80", "#3d8fc7"), ("#5aa7d6", "#8fd0f5"), ("#e0a030", "#f0bd62"), ("#8b95a0", "#6f7b88"))
_DASHES = ("dash", "dot", "dashdot", "longdash", "longdashdot", "solid")
_HATCHES = ("", "/", "\\", "x", "-", "|", "+", ".")
_SHAPES = ("square", "triangle-up", "diamond", "cross", "x", "triangle-down", "pentagon", "star", "hexagram")


@dataclass(frozen=True)
class Look:
    """How a label is drawn: colours on a light and on a dark ground; plotly's names of a dash, a shape and a hatch."""

    light: str
    dark: str
    dash: str
    shape: str
    hatch: str = ""
    strong: bool = False


def looks_of(page: Page) -> dict[str, Look]:
    """The look of every label of a page's figures."""
    methods: dict[str, None] = {}
    others: dict[str, None] = {}
    for figure in page.figures():
        # A grid's words are methods where its figure's readers can filter by them.
        of_methods = {one.label for one in figure.series if METHOD in one.filters}
        of_methods |= {word for grid in figure.grids for word in grid.words}
        for label in figure.labels:
            (methods if label in of_methods else others)[label] = None
    found = {}
    number = 0
    for label in methods:
        if label in page.emphasis:
            found[label] = Look(*_INK, "solid", "circle", strong=True)
            continue
        colours = _METHODS[number % len(_METHODS)]
        dash, shape, hatch = (names[number % len(names)] for names in (_DASHES, _SHAPES, _HATCHES))
        found[label] = Look(*colours, dash, shape, hatch)
        number += 1
    for number, label in enumerate(label for label in others if label not in found):
        colours = _INK if label in page.emphasis else _TONES[number % len(_TONES)]
        found[label] = Look(
            *colours, "solid", ("circle", *_SHAPES)[number % (1 + len(_SHAPES))], strong=label in page.emphasis
        )
    return found
