"""What a page says, without how it is drawn: the writers of pages (:mod:`coinfer_ray.report.interactive`) and of
pictures (:mod:`coinfer_ray.report.stills`) both read these.

A filter is a dimension that a reader may narrow the page by, such as ``device``, ``link``, ``method`` or ``bound``.
While values of it are chosen, whatever names another value vanishes; what names none stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from coinfer_ray.methods.proposed import Proposed

Kind = Literal["line", "points", "bars", "heat"]
Filters = Mapping[str, str | Sequence[str]]
_ORDER = ("model", "device", "server", "link", "method")  # the first filters of a page
METHOD = "method"  # the filter whose values have one colour, dash and shape wherever they stand on a page


@dataclass(frozen=True)
class Series:
    """One curve, one set of points or one set of bars.

    ``x`` and ``y`` are equally long. Words instead of numbers on one of them make that axis one of categories; bars
    with categories on y lie down. None leaves a gap. ``text``: a point's lines for the pointer, parted by newlines.
    ``verified``: False is drawn hollow. ``filters``: the series' value of each filter, or one value for each point.
    """

    label: str
    x: Sequence[float | str]
    y: Sequence[float | str | None]
    text: Sequence[str] | None = None
    verified: Sequence[bool] | None = None
    panel: str = ""
    filters: Filters = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.x)
        perpoint = [value for value in self.filters.values() if not isinstance(value, str)]
        for given in (self.y, *(one for one in (self.text, self.verified) if one is not None), *perpoint):
            if len(given) != count:
                raise ValueError(f"series {self.label}: {len(given)} entries for {count} points")


@dataclass(frozen=True)
class Grid:
    """A matrix over two axes: ``z[i][j]`` belongs to ``y[i]`` and ``x[j]``, ascending both.

    ``z`` holds numbers, drawn as shades, or words, each with the look of the series of that label; None stays empty.
    Cells whose word is a method that the reader did not choose are emptied.
    """

    x: Sequence[float]
    y: Sequence[float]
    z: Sequence[Sequence[float | str | None]]
    panel: str = ""
    filters: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.z) != len(self.y) or any(len(row) != len(self.x) for row in self.z):
            raise ValueError(f"grid: z is not {len(self.y)} rows of {len(self.x)}")

    @property
    def words(self) -> list[str]:
        """The different words of ``z``, in order of appearance; none where it holds numbers."""
        return list(dict.fromkeys(cell for row in self.z for cell in row if isinstance(cell, str)))


@dataclass(frozen=True)
class Note:
    """A word in the margin of a panel beside the category ``at`` of its y axis."""

    at: str
    text: str
    panel: str = ""


@dataclass(frozen=True)
class Figure:
    """One figure: a panel for each different ``panel`` of its series or grids, in order of appearance.

    ``name`` is the stem of its files (lower case, digits, hyphens), ``command`` the command line that makes its
    numbers. ``stacked``: bars stand on each other. ``z_label``: what the numbers of grids are.
    """

    name: str
    title: str
    caption: str
    command: str
    kind: Kind
    x_label: str
    y_label: str
    x_log: bool = False
    y_log: bool = False
    series: Sequence[Series] = ()
    grids: Sequence[Grid] = ()
    notes: Sequence[Note] = ()
    stacked: bool = False
    z_label: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9-]+", self.name):
            raise ValueError(f"figure: {self.name!r} is no file stem of lower-case letters, digits and hyphens")
        if bool(self.grids) != (self.kind == "heat") or bool(self.series) == bool(self.grids):
            raise ValueError(f"figure {self.name}: {self.kind} needs {'grids' if self.kind == 'heat' else 'series'}")

    @property
    def panels(self) -> list[str]:
        """The panels in order of appearance."""
        return list(dict.fromkeys([*(one.panel for one in self.series), *(grid.panel for grid in self.grids)]))

    @property
    def labels(self) -> list[str]:
        """What a legend lists: labels of series, or words of grids, in order of appearance."""
        words = (word for grid in self.grids for word in grid.words)
        return list(dict.fromkeys((*(one.label for one in self.series), *words)))

    @property
    def all_filters(self) -> list[Filters]:
        """The filters of each series or grid."""
        return [*(one.filters for one in self.series), *(grid.filters for grid in self.grids)]

    @property
    def has_unverified(self) -> bool:
        """Whether any point is drawn hollow."""
        return any(one.verified is not None and not all(one.verified) for one in self.series)

    def categories(self, axis: Literal["x", "y"], panel: str) -> list[str]:
        """The words on that axis of a panel in order of appearance; none where it holds numbers."""
        values = (value for one in self.series if one.panel == panel for value in getattr(one, axis))
        return list(dict.fromkeys(value for value in values if isinstance(value, str)))


@dataclass(frozen=True)
class Cell:
    """A table's cell whose text is not its value: ``value`` sorts it; ``strong`` marks it, such as a row's best."""

    text: str
    value: float | None = None
    strong: bool = False


def as_cell(cell: str | float | Cell | None) -> Cell:
    """A row's entry as a cell: numbers with four digits or all those before the point, None as a dash."""
    if isinstance(cell, Cell):
        return cell
    if cell is None:
        return Cell("-")
    return Cell(cell) if isinstance(cell, str) else Cell(f"{cell:,.4g}" if abs(cell) < 1e4 else f"{cell:,.0f}", cell)


@dataclass(frozen=True)
class Column:
    """A table's column. ``numeric`` columns align right and sort by value. It vanishes with the value of a filter
    that ``filters`` names: a method's column with its method."""

    name: str
    numeric: bool = False
    filters: Mapping[str, str] = field(default_factory=dict)
    strong: bool = False


@dataclass(frozen=True)
class TableView:
    """A table that its reader may sort by any column.

    A row has a cell for each column: words, a number (printed with four digits), a :class:`Cell`, or None for a dash.
    ``filters``: filter -> name of the column that holds a row's value of it.
    """

    title: str
    caption: str
    command: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str | float | Cell | None]]
    filters: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"table {self.title}: a row has not {len(self.columns)} cells")
        if missing := set(self.filters.values()) - {column.name for column in self.columns}:
            raise ValueError(f"table {self.title}: no column {', '.join(sorted(missing))}")


@dataclass(frozen=True)
class Section:
    """A part of a page under a heading."""

    title: str
    text: str
    parts: Sequence[Figure | TableView]


@dataclass(frozen=True)
class Page:
    """A page. ``lead`` is the one sentence that counts; ``provenance``: heading -> fact -> value, at the end.

    ``emphasis``: the labels of series and columns that the page is about; these are drawn in ink, and strongly.
    """

    title: str
    lead: str
    sections: Sequence[Section]
    provenance: Mapping[str, Mapping[str, str]]
    emphasis: Sequence[str] = (Proposed.title,)

    def __post_init__(self) -> None:
        names = [figure.name for figure in self.figures()]
        if len(names) != len(set(names)):
            raise ValueError(f"page: two figures of one name among {', '.join(names)}")

    def parts(self) -> Iterator[Figure | TableView]:
        """Figures and tables in their order."""
        for section in self.sections:
            yield from section.parts

    def figures(self) -> Iterator[Figure]:
        """The figures in their order."""
        yield from (part for part in self.parts() if isinstance(part, Figure))

    def filters(self) -> dict[str, list[str]]:
        """Every filter with its values, numbers ascending and words in order of appearance; those of a single value
        are left out."""
        found: dict[str, dict[str, None]] = {}

        def add(name: str, *values: str) -> None:
            found.setdefault(name, {}).update(dict.fromkeys(values))

        for part in self.parts():
            if isinstance(part, TableView):
                _add_of_table(part, add)
                continue
            for filters in part.all_filters:
                for name, value in filters.items():
                    add(name, *([value] if isinstance(value, str) else value))
        order = [*(name for name in _ORDER if name in found), *(name for name in found if name not in _ORDER)]
        return {name: _ascending(list(found[name])) for name in order if len(found[name]) > 1}


def _ascending(values: list[str]) -> list[str]:
    """Numbers in their order, words as they come."""
    try:
        return sorted(values, key=float)
    except ValueError:
        return values


def _add_of_table(table: TableView, add: Callable[..., None]) -> None:
    """``add`` the values of filters that a table's rows and columns have."""
    names = [column.name for column in table.columns]
    for column in table.columns:
        for name, value in column.filters.items():
            add(name, value)
    for name, of in table.filters.items():
        place = names.index(of)
        for row in table.rows:
            add(name, as_cell(row[place]).text)
