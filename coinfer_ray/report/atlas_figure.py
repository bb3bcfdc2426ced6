"""A picture of an atlas: which strategy is the best at which device speed and uplink rate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coinfer_ray.errors import counted
from coinfer_ray.report.pictures import check_ending, save
from coinfer_ray.runtime.outputs import PICTURE_MARK, check_replaceable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from coinfer_ray.atlas.atlas import StrategyAtlas

POINTS = 600  # on either axis
MIN_LABELLED = 0.012  # share of the picture from which an area is large enough for its name


def draw_atlas(atlas: StrategyAtlas, path: str | Path) -> None:
    """Write the picture to ``path`` (PNG, SVG or PDF by its ending).

    Areas have the colour of their cut; a white line parts two strategies with the same cut.

    Raises:
        InputError: another ending, or ``path`` is there and no such picture.
    """
    path = Path(path)
    check_ending(path)
    check_replaceable(path, "picture")
    ranges = atlas.info.ranges
    import matplotlib

    device = ranges.server_flops_per_s / np.geomspace(ranges.device[1], ranges.device[0], POINTS)
    rate = ranges.server_flops_per_s / np.geomspace(ranges.uplink[1], ranges.uplink[0], POINTS)
    rates, devices = (axis.ravel() for axis in np.meshgrid(rate, device))
    server = np.full(len(rates), 1 / ranges.server_flops_per_s)
    # The ratios decide, and the grid's were rounded twice on their way here.
    inside = np.clip(1 / devices / server, *ranges.device), np.clip(1 / rates / server, *ranges.uplink)
    rows = atlas.lookup(np.column_stack([inside[0] * server, server, inside[1] * server]))[0]
    rows = rows.reshape(POINTS, POINTS)
    with matplotlib.rc_context({"font.size": 9, "svg.fonttype": "none"}):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7.2, 5.2), layout="constrained")
        axes = figure.subplots()
        _draw_areas(axes, atlas, rows, rate, device)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("uplink rate (Mb/s)")
        axes.set_ylabel("device speed (GFLOP/s)")
        axes.set_title(_title(atlas), fontsize=9, loc="left")
        save(figure, path, PICTURE_MARK)


def _title(atlas: StrategyAtlas) -> str:
    info = atlas.info
    held = "" if info.confidence is None else f" at {info.confidence:.0%} confidence"
    return (
        f"{info.model}, {info.input_px} px, loss of accuracy at most {info.max_loss:g}{held}, "
        f"server of {info.ranges.server_flops_per_s / 1e9:,.0f} GFLOP/s:\n"
        f"{counted(len(atlas), 'strategy', 'strategies')}, proven to {max(info.ratio - 1, 0):.2%}"
    )


def _draw_areas(axes: Axes, atlas: StrategyAtlas, rows: np.ndarray, rate: np.ndarray, device: np.ndarray) -> None:
    """Colours by cut, borders between strategies, names where there is room."""
    import matplotlib
    from matplotlib.colors import ListedColormap

    points = np.array([strategy.partition_point for strategy in atlas.strategies])
    cuts = np.unique(points[np.unique(rows)])
    places: Any = matplotlib.colormaps["viridis"](np.linspace(0.12, 0.95, len(cuts)))
    code = np.searchsorted(cuts, points[rows])
    extent = np.log10(rate[[0, -1]] / 1e6), np.log10(device[[0, -1]] / 1e9)
    axes.pcolormesh(
        rate / 1e6,
        device / 1e9,
        code,
        cmap=ListedColormap(places),
        vmin=-0.5,
        vmax=len(cuts) - 0.5,
        shading="nearest",
        rasterized=True,
    )
    border = np.zeros(rows.shape)
    border[:, 1:] += rows[:, 1:] != rows[:, :-1]
    border[1:] += rows[1:] != rows[:-1]
    overlay = np.ones((*rows.shape, 4))
    overlay[..., 3] = 0.8 * (border > 0)
    axes.pcolormesh(rate / 1e6, device / 1e9, overlay, shading="nearest", rasterized=True)
    for number, cut in enumerate(cuts):
        area = code == number
        if area.mean() < MIN_LABELLED:
            continue
        row, column = deepest_point(area)
        x = 10 ** (extent[0][0] + (extent[0][1] - extent[0][0]) * column / (len(rate) - 1))
        y = 10 ** (extent[1][0] + (extent[1][1] - extent[1][0]) * row / (len(device) - 1))
        name = atlas.cut_after[int(np.flatnonzero(points == cut)[0])]
        dark = 0.299 * places[number][0] + 0.587 * places[number][1] + 0.114 * places[number][2] < 0.5
        axes.text(x, y, name, ha="center", va="center", color="white" if dark else "black", fontsize=8)


def deepest_point(area: np.ndarray) -> tuple[int, int]:
    """Row and column of the point of an area (a mask with a point in it) that lies deepest: the last to go as its
    border is taken off again and again."""
    left = np.pad(area, 1)
    while True:
        inner = left[1:-1, 1:-1] & left[:-2, 1:-1] & left[2:, 1:-1] & left[1:-1, :-2] & left[1:-1, 2:]
        if not inner.any():
            row, column = np.argwhere(left[1:-1, 1:-1])[0]
            return int(row), int(column)
        left = np.pad(inner, 1)
