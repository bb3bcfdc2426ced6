"""The first picture of the README: which strategy is optimal for which device and which link.

coinfer atlas build --model alexnet --out out/alexnet.parquet
python docs/draw_atlas.py out/alexnet.parquet docs/images/atlas.png
"""

from __future__ import annotations

import math
import sys

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from scipy.ndimage import distance_transform_edt

from coinfer_ray.atlas.atlas import StrategyAtlas, load_atlas
from coinfer_ray.models.library import load_graph
from coinfer_ray.scenarios.read import device_of, link_of

POINTS = 1200  # on either axis
LEAST_DEPTH = 0.025  # of the picture's height, on either side of a name
DEVICE_NAMES = {"rpi3b+": "Pi 3B+", "rpi4b": "Pi 4B", "tk1": "Jetson TK1"}
LINK_NAMES = {"3g": "3G", "4g": "4G", "wifi": "5G, WiFi"}  # 5G's rate differs from WiFi's by 4 %


def main(source: str, target: str) -> None:
    atlas = load_atlas(source)
    ranges = atlas.info.ranges
    device = ranges.server_flops_per_s / np.geomspace(ranges.device[1], ranges.device[0], POINTS)
    rate = ranges.server_flops_per_s / np.geomspace(ranges.uplink[1], ranges.uplink[0], POINTS)
    rows = winners(atlas, device, rate)
    with matplotlib.rc_context({"font.size": 11, "axes.linewidth": 0.8, "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(6.2, 4.6), layout="constrained")
        axes = figure.subplots()
        draw_areas(axes, atlas, rows, rate / 1e6, device / 1e9)
        draw_presets(axes)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
        axes.set_xlabel("uplink rate (Mb/s)")
        axes.set_ylabel("device speed (GFLOP/s)")
        figure.savefig(target, dpi=200)
    print(f"{target}: {len(atlas)} strategies")


def winners(atlas: StrategyAtlas, device: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """(device, rate) the number of the strategy that is optimal at each point."""
    ranges = atlas.info.ranges
    rates, devices = np.meshgrid(rate, device)
    server = np.full(rates.size, 1 / ranges.server_flops_per_s)
    # The ratios decide, and rounding must not carry one out of the range that the atlas covers.
    of_device = np.clip(ranges.server_flops_per_s / devices.ravel(), *ranges.device)
    of_uplink = np.clip(ranges.server_flops_per_s / rates.ravel(), *ranges.uplink)
    weights = np.column_stack([of_device * server, server, of_uplink * server])
    return atlas.table.lookup(weights)[0].reshape(rates.shape)


def draw_areas(axes: Axes, atlas: StrategyAtlas, rows: np.ndarray, rate: np.ndarray, device: np.ndarray) -> None:
    """One colour for each cut, a line between two strategies, and the cut's name along its band."""
    points = np.array([strategy.partition_point for strategy in atlas.strategies])
    cuts = np.unique(points[np.unique(rows)])
    colours = matplotlib.colormaps["viridis"](np.linspace(0.1, 0.93, len(cuts)))
    code = np.searchsorted(cuts, points[rows])
    axes.set(xscale="log", yscale="log", xlim=rate[[0, -1]], ylim=device[[0, -1]])
    mesh = {"cmap": ListedColormap(colours), "vmin": -0.5, "vmax": len(cuts) - 0.5, "shading": "nearest"}
    axes.pcolormesh(rate, device, code, rasterized=True, **mesh)
    for row in np.unique(rows):
        axes.contour(rate, device, rows == row, levels=[0.5], colors="white", linewidths=0.7, alpha=0.7)
    speeds, rates = preset_places()
    dots = np.argwhere(
        np.isin(np.arange(len(device)), [np.abs(np.log(device / each)).argmin() for each in speeds.values()])[:, None]
        & np.isin(np.arange(len(rate)), [np.abs(np.log(rate / each)).argmin() for each in rates.values()])
    )
    last = len(load_graph(atlas.info.model, atlas.info.input_px).layers)
    decades = [math.log10(ends[-1] / ends[0]) for ends in (rate, device)]
    for number, cut in enumerate(cuts):
        area = code == number
        row, column, depth = label_place(area, dots)
        if depth < LEAST_DEPTH * len(area):
            continue
        name = {0: "everything on\nthe server", last: "everything on\nthe device"}.get(int(cut))
        band = name is None
        layer = atlas.cut_after[int(np.flatnonzero(points == cut)[0])]
        axes.text(
            rate[column],
            device[row],
            f"cut after {layer}" if band else name,
            ha="center",
            va="center",
            rotation=math.degrees(math.atan2(3.7 / decades[1], 4.75 / decades[0])) if band else 0,
            color="white" if colours[number][:3] @ (0.299, 0.587, 0.114) < 0.5 else "black",
        )


def label_place(area: np.ndarray, dots: np.ndarray) -> tuple[int, int, float]:
    """A point deep inside an area, not far from the middle of the picture nor near the ``dots`` (n, 2), and how deep it
    is."""
    depth = distance_transform_edt(np.pad(area, 1))[1:-1, 1:-1]
    rows, columns = np.indices(area.shape)
    middle = np.hypot(rows - area.shape[0] / 2, columns - area.shape[1] / 2)
    near = np.min([np.hypot(rows - row, columns - column) for row, column in dots], axis=0)
    crowded = np.maximum(0.16 * len(area) - near, 0.0)
    worth = depth - 0.08 * middle - 2.0 * crowded
    row, column = np.unravel_index(np.argmax(np.where(area, worth, -np.inf)), area.shape)
    return int(row), int(column), float(depth[row, column])


def preset_places() -> tuple[dict[str, float], dict[str, float]]:
    """Speeds of the paper's devices in GFLOP/s and rates of its links in Mb/s, by the names that are drawn."""
    speeds = {name: device_of(key).flops_per_s / 1e9 for key, name in DEVICE_NAMES.items()}
    return speeds, {name: link_of(key).rate_bps / 1e6 for key, name in LINK_NAMES.items()}


def draw_presets(axes: Axes) -> None:
    """The paper's devices and links: a point for each pair, names on the upper and the right edge."""
    speeds, rates = preset_places()
    for speed in speeds.values():
        for rate in rates.values():
            axes.plot(rate, speed, "o", ms=5.5, mfc="white", mec="black", mew=0.9)
    for edge, values in ((axes.secondary_xaxis("top"), rates), (axes.secondary_yaxis("right"), speeds)):
        axis = edge.xaxis if values is rates else edge.yaxis
        axis.set_ticks(list(values.values()), list(values))
        axis.set_ticks([], minor=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python docs/draw_atlas.py ATLAS PICTURE")
    main(*sys.argv[1:])
