"""A page as one HTML file that a reader can filter, sort, zoom and point at; it fetches nothing."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from coinfer_ray.errors import InputError
from coinfer_ray.report.atlas_figure import deepest_point
from coinfer_ray.report.looks import Look, looks_of
from coinfer_ray.report.model import Cell, Column, Figure, Grid, Page, Section, Series, TableView, as_cell
from coinfer_ray.runtime.files import write_whole
from coinfer_ray.runtime.outputs import PAGE_MARK, check_replaceable

MAX_BYTES = 6_000_000
FEW_VALUES = 12  # up to here a filter's values are buttons; beyond, a list to choose one from
LONGEST_LINE = 40  # letters of a table's cell; longer ones are broken
MIN_NAMED = 0.02  # share of a matrix from which an area is large enough for its name
_DIGITS = 5  # of the numbers in figures
# name -> (on white, on black)
_COLOURS = {
    "paper": ("#ffffff", "#0f1419"),
    "raised": ("#f2f5f8", "#1a222b"),
    "ink": ("#111820", "#f2f5f8"),
    "soft": ("#55616d", "#a5b1bd"),
    "line": ("#d5dce3", "#323d48"),
    "grid": ("#e8ecf0", "#232c35"),
    "accent": ("#0a6cb0", "#5cb8f0"),
    "low": ("#eef5fb", "#16212b"),
    "high": ("#08407a", "#7cc6f7"),
}
_DASH_ARRAYS = {
    "solid": "",
    "dash": "6 3",
    "dot": "2 2.5",
    "dashdot": "6 2.5 2 2.5",
    "longdash": "9 3",
    "longdashdot": "9 3 2 3",
}
# Lines over a box from -6 to 6.
_HATCHES = {
    "": "",
    "/": "M-6 2L2-6M-2 6L6-2",
    "\\": "M-6-2L2 6M-2-6L6 2",
    "x": "M-6 2L2-6M-2 6L6-2M-6-2L2 6M-2-6L6 2",
    "-": "M-6-2H6M-6 2H6",
    "|": "M-2-6V6M2-6V6",
    "+": "M-6-2H6M-6 2H6M-2-6V6M2-6V6",
    ".": "M-3-3h1M2-3h1M-3 2h1M2 2h1",
}
# Around (0, 0), about 10 wide.
_PATHS = {
    "circle": "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0Z",
    "square": "M-4-4H4V4H-4Z",
    "triangle-up": "M0-5L5 4H-5Z",
    "triangle-down": "M0 5L5-4H-5Z",
    "diamond": "M0-5.5L5.5 0L0 5.5L-5.5 0Z",
    "cross": "M-1.7-5H1.7V-1.7H5V1.7H1.7V5H-1.7V1.7H-5V-1.7H-1.7Z",
    "x": "M-2.4-4.8L0-2.4L2.4-4.8L4.8-2.4L2.4 0L4.8 2.4L2.4 4.8L0 2.4L-2.4 4.8L-4.8 2.4L-2.4 0L-4.8-2.4Z",
    "pentagon": "M0-5L4.8-1.5L2.9 4H-2.9L-4.8-1.5Z",
    "star": "M0-5.5L1.4-1.8H5.3L2.2 .7L3.3 4.5L0 2.2L-3.3 4.5L-2.2 .7L-5.3-1.8H-1.4Z",
    "hexagram": "M0-5.5L1.7-2.9H5L3.3 0L5 2.9H1.7L0 5.5L-1.7 2.9H-5L-3.3 0L-5-2.9H-1.7Z",
}


def write_interactive(page: Page, out: str | Path) -> None:
    """Write the page to ``out``.

    Raises:
        InputError: ``out`` is there and no such page, or the page would be larger than :data:`MAX_BYTES`.
    """
    check_replaceable(out, "page")
    document = render(page)
    size = len(document.encode())
    if size > MAX_BYTES:
        raise InputError(
            f"out: {out} would have {size / 1e6:.1f} MB, more than the {MAX_BYTES / 1e6:g} MB of a page; "
            "show fewer scenarios"
        )
    write_whole(out, lambda temporary: temporary.write_text(document, encoding="utf-8"))


def render(page: Page) -> str:
    """The page as one HTML document."""
    looks = looks_of(page)
    filters = page.filters()
    numbers = {label: number for number, label in enumerate(looks)}
    data = {
        "filters": list(filters),
        "looks": {label: _look(numbers[label], look) for label, look in looks.items()},
        "figures": [_figure_data(figure) for figure in page.figures()],
    }
    return Template(_template("page.html")).substitute(
        mark=PAGE_MARK,
        title=escape(page.title),
        lead=escape(page.lead),
        colours=_colours(looks),
        style=_template("page.css"),
        filters=_filter_bar(filters),
        sections="\n".join(_section(section, looks, numbers) for section in page.sections),
        provenance=_provenance(page.provenance),
        library=_library(),
        # Within a script element only "<" could end the element.
        data=json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
        script="".join(_template(name) for name in ("draw.js", "figures.js", "page.js")),
    )


@cache
def _library() -> str:
    """The plotting library: gzip in base64, the same bytes every time."""
    source = resources.files("plotly").joinpath("package_data/plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(source, mtime=0)).decode()


def _template(name: str) -> str:
    return resources.files("coinfer_ray.report").joinpath("template", name).read_text(encoding="utf-8")


def _colours(looks: Mapping[str, Look]) -> str:
    def rules(dark: bool) -> str:
        base = [f"--{name}: {pair[dark]};" for name, pair in _COLOURS.items()]
        own = [f"--look-{number}: {look.dark if dark else look.light};" for number, look in enumerate(looks.values())]
        return " ".join([*base, *own, f"color-scheme: {'dark' if dark else 'light'};"])

    return (
        f":root {{ {rules(False)} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root:not([data-theme]) {{ {rules(True)} }} }}\n"
        f":root[data-theme=dark] {{ {rules(True)} }}"
    )


# ---------------------------------------------------------------------------------------------------------------- data


def _look(number: int, look: Look) -> dict[str, Any]:
    return {"number": number, "dash": look.dash, "shape": look.shape, "hatch": look.hatch, "strong": look.strong}


def _figure_data(figure: Figure) -> dict[str, Any]:
    return {
        "name": figure.name,
        "title": figure.title,
        "kind": figure.kind,
        "stacked": figure.stacked,
        "xLabel": figure.x_label,
        "yLabel": figure.y_label,
        "zLabel": figure.z_label,
        "xLog": figure.x_log,
        "yLog": figure.y_log,
        "series": [_series_data(one) for one in figure.series],
        "grids": [_grid_data(grid, figure) for grid in figure.grids],
        "notes": [{"at": note.at, "text": note.text, "panel": note.panel} for note in figure.notes],
    }


def _series_data(series: Series) -> dict[str, Any]:
    found: dict[str, Any] = {
        "label": series.label,
        "panel": series.panel,
        "x": [_number(value) for value in series.x],
        "y": [_number(value) for value in series.y],
        "filters": {name: value if isinstance(value, str) else list(value) for name, value in series.filters.items()},
    }
    if series.text is not None:
        found["text"] = list(series.text)
    if series.verified is not None:
        found["hollow"] = [int(not one) for one in series.verified]
    return found


def _grid_data(grid: Grid, figure: Figure) -> dict[str, Any]:
    words = grid.words
    return {
        "panel": grid.panel,
        "x": [_number(value) for value in grid.x],
        "y": [_number(value) for value in grid.y],
        "z": [[words.index(cell) if isinstance(cell, str) else _number(cell) for cell in row] for row in grid.z],
        "words": words,
        "names": [{"word": word, "x": x, "y": y, "span": round(span, 3)} for word, x, y, span in area_names(grid)],
        "filters": dict(grid.filters),
    }


def area_names(grid: Grid) -> list[tuple[str, float, float, float]]:
    """Each word of a matrix with the place (x, y) deep in its area where its name stands, and the share of the
    matrix' width that the area has there; none for small areas."""
    cells = np.array([["" if cell is None else str(cell) for cell in row] for row in grid.z])
    found = []
    for word in grid.words:
        area = cells == word
        if area.mean() < MIN_NAMED:
            continue
        row, column = deepest_point(area)
        others = np.flatnonzero(~area[row])
        left, right = others[others < column], others[others > column]
        # Twice the nearer side: the name stands in the middle of its place.
        near = min(column - (left[-1] if len(left) else -1), (right[0] if len(right) else len(grid.x)) - column)
        found.append((word, float(grid.x[column]), float(grid.y[row]), float(2 * near - 1) / len(grid.x)))
    return found


def _number(value: float | str | None) -> float | str | None:
    """Few digits, no infinities: a gap is None."""
    if value is None or isinstance(value, str):
        return value
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{_DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


# ---------------------------------------------------------------------------------------------------------------- HTML


def _filter_bar(filters: Mapping[str, Sequence[str]]) -> str:
    if not filters:
        return ""
    groups = "\n".join(_filter(name, values) for name, values in filters.items())
    return (
        '<details class="filters"><summary>Show <b>everything</b></summary>\n'
        f'<div class="groups">\n{groups}\n'
        '<button type="button" class="quiet" id="everything" hidden>Show everything</button>\n</div></details>'
    )


def _filter(name: str, values: Sequence[str]) -> str:
    title, of = escape(name.replace("_", " ")), f'data-filter="{escape(name)}"'
    if len(values) > FEW_VALUES:
        options = "".join(f"<option>{escape(value)}</option>" for value in values)
        control = f'<select {of} aria-label="{title}"><option value="">all</option>{options}</select>'
    else:
        control = "".join(
            f'<button type="button" class="chip" aria-pressed="false" {of} data-value="{escape(value)}">'
            f"{escape(value)}</button>"
            for value in values
        )
    return f"<fieldset><legend>{title}</legend>{control}</fieldset>"


def _section(section: Section, looks: Mapping[str, Look], numbers: Mapping[str, int]) -> str:
    text = f"<p>{escape(section.text)}</p>" if section.text else ""
    parts = "\n".join(
        _figure(part, looks, numbers) if isinstance(part, Figure) else _table(part) for part in section.parts
    )
    return f"<section>\n<h2>{escape(section.title)}</h2>\n{text}\n{parts}\n</section>"


def _figure(figure: Figure, looks: Mapping[str, Look], numbers: Mapping[str, int]) -> str:
    alone = len(figure.labels) < 2
    keys = "".join("" if alone else _key(label, figure.kind, looks[label], numbers[label]) for label in figure.labels)
    if figure.has_unverified:
        ring = f'<path d="{_PATHS["circle"]}" fill="none" stroke="currentColor" stroke-width="1.8"/>'
        keys += f'<span class="key plain">{_swatch(16, ring)}not verified</span>'
    tools = "".join(
        f'<button type="button" class="quiet" {what} aria-label="{label}">{text}</button>'
        for what, label, text in (
            ('data-zoom="0.7"', "Zoom in", "+"),
            ('data-zoom="1.4286"', "Zoom out", "\u2212"),
            ('data-zoom="0"', "Reset zoom", "Reset"),
            ("data-csv", "Save the numbers as CSV", "CSV"),
        )
    )
    return (
        f'<figure id="{figure.name}">\n<h3>{escape(figure.title)}</h3>\n'
        f'<div class="bar"><div class="legend">{keys}</div><div class="tools">{tools}</div></div>\n'
        '<div class="panels"></div>\n<p class="nothing" hidden>Nothing in it is among what you chose.</p>\n'
        f'<p class="unseen" aria-live="polite"></p>\n<figcaption>{escape(figure.caption)}</figcaption>\n'
        f"{_command(figure.command)}</figure>"
    )


def _key(label: str, kind: str, look: Look, number: int) -> str:
    colour = f"var(--look-{number})"
    if kind in ("bars", "heat"):
        drawn = f'<rect x="-6" y="-6" width="12" height="12" rx="2" fill="{colour}"/>'
        if kind == "bars" and look.hatch:
            drawn += f'<path d="{_HATCHES[look.hatch]}" stroke="var(--paper)"/>'
    else:
        drawn = f'<path d="{_PATHS[look.shape]}" fill="{colour}"/>'
    if kind == "line":
        dash = _DASH_ARRAYS[look.dash]
        width = 3 if look.strong else 2
        drawn = f'<path d="M-15 0H15" stroke="{colour}" stroke-width="{width}" stroke-dasharray="{dash}"/>{drawn}'
    strong = " strong" if look.strong else ""
    return (
        f'<button type="button" class="key{strong}" aria-pressed="true" data-label="{escape(label)}">'
        f"{_swatch(32 if kind == 'line' else 16, drawn)}{escape(label)}</button>"
    )


def _swatch(width: int, drawn: str) -> str:
    return (
        f'<svg width="{width}" height="16" viewBox="{-width / 2:g} -8 {width} 16" aria-hidden="true" fill="none">'
        f"{drawn}</svg>"
    )


def _command(command: str) -> str:
    if not command:
        return ""
    return (
        f'<div class="command"><code>{escape(command)}</code>'
        '<button type="button" class="quiet" data-copy aria-label="Copy the command">Copy</button></div>\n'
    )


def _table(table: TableView) -> str:
    names = [column.name for column in table.columns]
    places = {name: names.index(of) for name, of in table.filters.items()}

    def row(cells: Sequence[str | float | Cell | None]) -> str:
        drawn = [as_cell(cell) for cell in cells]
        filters = {name: drawn[place].text for name, place in places.items()}
        body = "".join(_td(cell, column) for cell, column in zip(drawn, table.columns, strict=True))
        return f"<tr{_attribute(filters)}>{body}</tr>"

    heads = "".join(
        f'<th scope="col" class="{_classes(column.numeric, column.strong)}"{_attribute(column.filters)}>'
        f'<button type="button">{escape(column.name)}</button></th>'
        for column in table.columns
    )
    body = "\n".join(row(cells) for cells in table.rows)
    return (
        f'<div class="table">\n<h3>{escape(table.title)}</h3>\n'
        '<p class="hint axis" hidden>More columns to the right.</p>\n'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.title)}">\n'
        f"<table><thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n"
        f'<p class="caption">{escape(table.caption)}</p>\n{_command(table.command)}</div>'
    )


def _td(cell: Cell, column: Column) -> str:
    value = "" if cell.value is None or not math.isfinite(cell.value) else f' data-value="{cell.value:.12g}"'
    classes = _classes(column.numeric, column.strong or cell.strong, sentence=len(cell.text) > LONGEST_LINE)
    return f'<td class="{classes}"{value}>{escape(cell.text)}</td>'


def _classes(numeric: bool, strong: bool, sentence: bool = False) -> str:
    named = (("num", numeric), ("strong", strong), ("sentence", sentence))
    return " ".join(name for name, holds in named if holds)


def _attribute(filters: Mapping[str, str]) -> str:
    return f' data-filters="{escape(json.dumps(dict(filters), ensure_ascii=False))}"' if filters else ""


def _provenance(groups: Mapping[str, Mapping[str, str]]) -> str:
    return "\n".join(
        f"<details><summary>{escape(heading)}</summary>\n<dl>\n"
        + "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
        + "\n</dl></details>"
        for heading, facts in groups.items()
    )
