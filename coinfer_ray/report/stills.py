"""The figures of a page as pictures (PNG, SVG) and as numbers (CSV), from the same figures as the page itself."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coinfer_ray.errors import InputError
from coinfer_ray.report.interactive import area_names
from coinfer_ray.report.looks import Look, looks_of
from coinfer_ray.report.model import Figure, Grid, Page, Series
from coinfer_ray.runtime.files import write_whole
from coinfer_ray.runtime.outputs import FIGURE_HEAD, FIGURE_MARK, check_replaceable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

NEAR, LIFT = 0.035, 0.28  # points nearer than this share of the axis part, by at most this share of a row
PANEL_IN, HEIGHT_IN, ROW_IN = 3.9, 2.9, 0.27
LETTER_IN = 0.09  # width of a letter with its share of the margins
MANY, MARKS = 20, 8  # points of a line beyond which no more than some are marked
_PAPER, _SOFT, _FAINT, _INK = "#ffffff", "#55616d", "#d5dce3", "#111820"
_SHAPES = {
    "circle": "o",
    "square": "s",
    "triangle-up": "^",
    "triangle-down": "v",
    "diamond": "D",
    "cross": "P",
    "x": "X",
    "pentagon": "p",
    "star": "*",
    "hexagram": "h",
}
_DASHES: dict[str, Any] = {
    "solid": "-",
    "dash": (0, (5, 2)),
    "dot": (0, (1, 1.5)),
    "dashdot": (0, (5, 2, 1, 2)),
    "longdash": (0, (8, 2.5)),
    "longdashdot": (0, (8, 2.5, 1, 2.5)),
}
_HATCHES = {"": "", "/": "///", "\\": "\\\\\\", "x": "xxx", "-": "---", "|": "|||", "+": "+++", ".": "..."}


def write_stills(page: Page, folder: str | Path) -> list[Path]:
    """Write ``NAME.png``, ``NAME.svg`` and ``NAME.csv`` of each figure into ``folder``; returns their paths.

    The folder is made where it is missing; its other files stay.

    Raises:
        InputError: ``folder`` is a file or cannot be made, or one of the files is there and not such a figure.
    """
    folder = Path(folder)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"out: {folder} cannot be made a folder ({error.strerror}); give another name") from None
    looks = looks_of(page)
    figures = list(page.figures())
    paths = [folder / f"{figure.name}.{ending}" for figure in figures for ending in ("png", "svg", "csv")]
    for path in paths:  # all of them before the first is written
        check_replaceable(path, "figure")
    for figure in figures:
        _write_pictures(figure, looks, folder)
        write_whole(folder / f"{figure.name}.csv", partial(_write_csv, figure))
    return paths


def _write_csv(figure: Figure, path: Path) -> None:
    filters = list(dict.fromkeys(name for filters in figure.all_filters for name in filters))
    last = (figure.z_label or "value") if figure.kind == "heat" else "verified"
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(FIGURE_HEAD)
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([figure.x_label or "x", figure.y_label or "y", last, *filters])
        for one in figure.series:
            verified = [""] * len(one.x) if one.verified is None else [str(each).lower() for each in one.verified]
            for i, x in enumerate(one.x):
                own = [one.filters.get(name, "") for name in filters]
                places = [value if isinstance(value, str) else value[i] for value in own]
                writer.writerow([one.panel, one.label, x, one.y[i], verified[i], *places])
        for grid in figure.grids:
            places = [grid.filters.get(name, "") for name in filters]
            for y, row in zip(grid.y, grid.z, strict=True):
                writer.writerows([grid.panel, "", x, y, cell, *places] for x, cell in zip(grid.x, row, strict=True))


def _write_pictures(figure: Figure, looks: dict[str, Look], folder: Path) -> None:
    import matplotlib

    settings: Any = {
        "font.size": 10,
        "text.color": _INK,
        "axes.edgecolor": _SOFT,
        "axes.labelcolor": _SOFT,
        "xtick.color": _SOFT,
        "ytick.color": _SOFT,
        "svg.fonttype": "none",
        "svg.hashsalt": "coinfer",
        "hatch.linewidth": 0.8,
    }
    with matplotlib.rc_context(settings):
        canvas = _draw(figure, looks)
        for ending, entry in (("png", "Software"), ("svg", "Creator")):
            made = {entry: FIGURE_MARK} | ({"Date": None} if ending == "svg" else {})
            save = partial(canvas.savefig, format=ending, dpi=160, metadata=made)
            write_whole(folder / f"{figure.name}.{ending}", save)


def _draw(figure: Figure, looks: dict[str, Look]) -> Canvas:
    from matplotlib.figure import Figure as Canvas

    panels = figure.panels
    columns = min(len(panels), 2 if len(panels) in (2, 4) else 3)
    rows = -(-len(panels) // columns)
    categories = max(len(figure.categories("y", panel)) for panel in panels)
    thick = 1.0 if figure.kind != "bars" or figure.stacked else max(1.0, 0.55 * len(figure.labels))
    height = ROW_IN * thick * categories + 0.9 if categories else HEIGHT_IN
    canvas = Canvas(figsize=(max(PANEL_IN * columns, 6), height * rows + 0.75), layout="constrained")
    canvas.suptitle(figure.title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    axes = canvas.subplots(rows, columns, squeeze=False).ravel()
    for axis, panel in zip(axes, panels, strict=False):
        _draw_panel(axis, figure, panel, looks)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    _share_ranges(list(axes[: len(panels)]), figure)
    _legend(canvas, figure, looks)
    canvas.draw_without_rendering()
    canvas.set_layout_engine("none")  # what it laid out stays; either format would do it again
    return canvas


def _draw_panel(axis: Axes, figure: Figure, panel: str, looks: dict[str, Look]) -> None:
    axis.set_title(panel, loc="left", fontsize=10, fontweight="bold")
    axis.set_xlabel(figure.x_label)
    axis.set_ylabel(figure.y_label)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_axisbelow(True)
    words = {name: figure.categories(name, panel) for name in ("x", "y")}  # type: ignore[arg-type]
    for name, log in (("x", figure.x_log), ("y", figure.y_log)):
        own = axis.xaxis if name == "x" else axis.yaxis
        if words[name]:
            own.set_ticks(range(len(words[name])), words[name])
            own.set_tick_params(length=0, labelcolor=_INK)
            continue
        if log:
            (axis.set_xscale if name == "x" else axis.set_yscale)("log")
        own.set_major_formatter("{x:,.6g}")
        if figure.kind != "heat":
            own.grid(color=_FAINT, linewidth=0.6)
    axis.minorticks_off()
    if words["y"]:
        axis.set_ylim(len(words["y"]) - 0.45, -0.55)
        axis.spines["left"].set_visible(False)
    for grid in (grid for grid in figure.grids if grid.panel == panel):
        _heat(axis, figure, grid, looks)
    series = [one for one in figure.series if one.panel == panel]
    if figure.kind == "bars":
        _bars(axis, figure, series, words, looks)
    else:
        _connect(axis, figure, series, words["y"])
        lifts = _lifts(figure, series, words["y"])
        for place, one in enumerate(sorted(series, key=lambda one: looks[one.label].strong)):
            _points(axis, figure, one, place, words, looks[one.label], lifts.get(one.label, 0.0))
    for note in figure.notes:
        if note.panel == panel and note.at in words["y"]:
            place = words["y"].index(note.at)
            axis.text(
                1.02,
                place,
                note.text,
                transform=axis.get_yaxis_transform(),
                va="center_baseline",
                fontsize=9,
                clip_on=False,
            )


def _places(values: Sequence[float | str | None], words: list[str]) -> np.ndarray:
    """Numbers of an axis: categories by their place, gaps NaN."""
    return np.array([np.nan if v is None else words.index(v) if isinstance(v, str) else v for v in values], float)


def _points(
    axis: Axes,
    figure: Figure,
    one: Series,
    place: int,
    words: dict[str, list[str]],
    look: Look,
    lift: np.ndarray | float,
) -> None:
    x, y = _places(one.x, words["x"]), _places(one.y, words["y"]) + lift
    line = figure.kind == "line"
    if line:
        axis.plot(x, y, color=look.light, linestyle=_DASHES[look.dash], linewidth=2.4 if look.strong else 1.5, zorder=3)
    verified = np.ones(len(x), bool) if one.verified is None else np.array(one.verified, bool)
    size = 5 if line else 7 if look.strong else max(8.5 - place, 5.5)
    style: dict[str, Any] = {"linestyle": "none", "marker": _SHAPES[look.shape], "markersize": size, "zorder": 4}
    marked = verified.copy()
    if line and len(x) > MANY:  # some, and other ones for each series
        every = max(1, int(verified.sum()) // MARKS)
        marked &= np.cumsum(verified) % every == 3 * place % every
    axis.plot(x[marked], y[marked], color=look.light, markeredgecolor=_PAPER, markeredgewidth=0.6, **style)
    axis.plot(x[~verified], y[~verified], color=_PAPER, markeredgecolor=look.light, markeredgewidth=1.3, **style)


def _connect(axis: Axes, figure: Figure, series: Sequence[Series], words: list[str]) -> None:
    """A faint line from the least to the largest of each category of points."""
    if figure.kind != "points":
        return
    for place, word in enumerate(words):
        values = [
            x for one in series for x, y in zip(one.x, one.y, strict=True) if y == word and not isinstance(x, str)
        ]
        if len(values) > 1:
            axis.plot([min(values), max(values)], [place, place], color=_FAINT, linewidth=1.3, zorder=1)


def _lifts(figure: Figure, series: Sequence[Series], words: list[str]) -> dict[str, np.ndarray]:
    """How far the points of each series move off their category, so that none hides another at the same place."""
    if figure.kind != "points" or not words:
        return {}
    scale = np.log10 if figure.x_log else np.asarray
    places = {one.label: scale(np.array(one.x, float)) for one in series}
    every = [x for own in figure.series for x in scale(np.array(own.x, float))]
    near = NEAR * (max(every) - min(every))
    found = {label: np.zeros(len(x)) for label, x in places.items()}
    for word in words:
        row = [(places[one.label][i], one.label, i) for one in series for i, y in enumerate(one.y) if y == word]
        group: list[tuple[float, str, int]] = []
        for point in [*sorted(row), (np.inf, "", 0)]:
            if group and point[0] - group[-1][0] > near:
                step = min(LIFT, 0.5 / max(len(group) - 1, 1))
                for number, (_, label, i) in enumerate(group):
                    found[label][i] = step * (number - (len(group) - 1) / 2)
                group = []
            group.append(point)
    return found


def _bars(
    axis: Axes, figure: Figure, series: Sequence[Series], words: dict[str, list[str]], looks: dict[str, Look]
) -> None:
    lying = bool(words["y"])
    width = 0.68 if figure.stacked else 0.8 / len(series)
    before: dict[float, float] = {}
    for number, one in enumerate(series):
        at, length = _places(one.x, words["x"]), _places(one.y, words["y"])
        at, length = (length, at) if lying else (at, length)
        start = np.array([before.get(place, 0.0) if figure.stacked else 0.0 for place in at])
        before.update(
            {place: base + extra for place, base, extra in zip(at, start, np.nan_to_num(length), strict=True)}
        )
        look = looks[one.label]
        verified = [True] * len(at) if one.verified is None else one.verified
        style: dict[str, Any] = {
            "color": [look.light if each else _PAPER for each in verified],
            "edgecolor": [_PAPER if each else look.light for each in verified],
            "hatch": _HATCHES[look.hatch],
            "linewidth": 0.8,
            "zorder": 3,
        }
        at = at + (0.0 if figure.stacked else (number - (len(series) - 1) / 2) * width)
        if lying:
            axis.barh(at, length, width, left=start, **style)
        else:
            axis.bar(at, length, width, bottom=start, **style)


def _heat(axis: Axes, figure: Figure, grid: Grid, looks: dict[str, Look]) -> None:
    from matplotlib.colors import LinearSegmentedColormap, ListedColormap

    words = grid.words
    z = np.array([[np.nan if cell is None else words.index(cell) if isinstance(cell, str) else cell for cell in row]
                  for row in grid.z], float)  # fmt: skip
    common: dict[str, Any] = {"shading": "nearest", "rasterized": True}
    if not words:
        shades = LinearSegmentedColormap.from_list("coinfer", ["#eef5fb", "#08407a"])
        values = [cell for one in figure.grids for row in one.z for cell in row if isinstance(cell, int | float)]
        low, high = (min(values), max(values)) if values else (0.0, 1.0)  # of all panels, so that they compare
        mesh = axis.pcolormesh(grid.x, grid.y, z, cmap=shades, vmin=low, vmax=high, **common)
        axis.figure.colorbar(mesh, ax=axis, label=figure.z_label)
        return
    colours = ListedColormap([looks[word].light for word in words])
    axis.pcolormesh(grid.x, grid.y, z, cmap=colours, vmin=-0.5, vmax=len(words) - 0.5, **common)
    room = axis.bbox.width / axis.figure.dpi / LETTER_IN
    for word, x, y, span in area_names(grid):
        if span * room < len(word):
            continue
        box = {"facecolor": _PAPER, "edgecolor": "none", "alpha": 0.9, "pad": 2}
        axis.text(x, y, word, ha="center", va="center", fontsize=9, bbox=box)


def _share_ranges(axes: Sequence[Axes], figure: Figure) -> None:
    """One range of numbers for all panels, so that they compare."""
    if figure.kind == "heat":
        return
    for name in ("x", "y"):
        if any(figure.categories(name, panel) for panel in figure.panels):  # type: ignore[arg-type]
            continue
        ends = np.array([getattr(axis, f"get_{name}lim")() for axis in axes])
        for axis in axes:
            getattr(axis, f"set_{name}lim")(ends.min(), ends.max())


def _legend(canvas: Canvas, figure: Figure, looks: dict[str, Look]) -> None:
    if len(figure.labels) < 2 and not figure.has_unverified:
        return
    handles = list(_handles(figure, looks))
    canvas.legend(
        handles=handles,
        loc="outside lower left",
        ncols=min(len(handles), int(canvas.get_figwidth() / 1.6)),
        frameon=False,
        handletextpad=0.5,
    )


def _handles(figure: Figure, looks: dict[str, Look]) -> Iterator[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    for label in figure.labels:
        look = looks[label]
        if figure.kind in ("bars", "heat"):
            hatch = _HATCHES[look.hatch] if figure.kind == "bars" else ""
            yield Patch(facecolor=look.light, edgecolor=_PAPER, hatch=hatch, label=label)
            continue
        style: Any = _DASHES[look.dash] if figure.kind == "line" else "none"
        yield Line2D([], [], color=look.light, linestyle=style, marker=_SHAPES[look.shape], markersize=6, label=label)
    if figure.has_unverified:
        yield Line2D(
            [], [], linestyle="none", marker="o", markerfacecolor=_PAPER, markeredgecolor=_INK, label="not verified"
        )
