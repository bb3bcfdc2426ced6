"""A front as a table of numbers (CSV) and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from coinfer_ray.report.lines import with_strategy, write_lines
from coinfer_ray.report.pictures import check_ending, save
from coinfer_ray.runtime.outputs import FIGURE_MARK, check_replaceable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from coinfer_ray.optimizer.pareto import Front

# What an accuracy rests on: the words of a legend and the shape of a mark.
_SHAPES = {
    "base": ("the network as it is", "s"),
    "measured": ("measured", "o"),
    "predicted": ("predicted", "^"),
}
_FAINT, _INK = "#d5dce3", "#111820"


def write_front(front: Front, path: str | Path) -> None:
    """Write a front to ``path`` as CSV: a line for each point, its numbers and then its strategy's, by column.

    Seconds, joules, and accuracies in 0..1; an empty field is what is not known.

    Raises:
        InputError: ``path`` is there and is no front.
    """
    check_replaceable(path, "front")
    write_lines(path, [with_strategy(point.to_json()) for point in front.points])


def draw_front(front: Front, path: str | Path) -> None:
    """Write the picture to ``path`` (PNG, SVG or PDF by its ending): latency, or a stream's time per item, against
    loss, and where energy counts latency against energy with the loss as the colour.

    A line leads along what is unbeaten in the panel's own two; a mark above it is unbeaten for the third's sake.

    Raises:
        InputError: another ending, or ``path`` is there and no such picture.
    """
    path = Path(path)
    check_ending(path)
    check_replaceable(path, "figure")
    import matplotlib

    paces = [point.latency_s if point.items_per_s is None else 1 / point.items_per_s for point in front.points]
    latency = np.array(paces) * 1e3
    loss = np.array([point.loss for point in front.points]) * 100
    with_energy = front.without_energy is None
    with matplotlib.rc_context({"font.size": 9, "svg.fonttype": "none"}):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.6 if with_energy else 5.2, 3.9), layout="constrained")
        panels = figure.subplots(1, 2 if with_energy else 1, squeeze=False)[0]
        marks = _draw(panels[0], front, latency, loss, loss)
        panels[0].set_ylabel("loss of accuracy (points)")
        if with_energy:
            energy = np.array([point.energy_j or 0.0 for point in front.points])
            marks = _draw(panels[1], front, latency, energy, loss)
            panels[1].set_ylabel("energy of the device (J)")
            _scale(panels[1], "y", energy)
        figure.colorbar(marks, ax=list(panels), label="loss of accuracy (points)")
        panels[0].legend(frameon=False)
        held = "predictions count" if front.confidence is None else f"at {front.confidence:.0%} confidence"
        figure.suptitle(
            f"{front.model}, {front.input_px} px, {held}: {len(front.points)} unbeaten of {front.looked_at:,}",
            fontsize=9,
            x=0.01,
            ha="left",
        )
        save(figure, path, FIGURE_MARK)


def _draw(axes: Axes, front: Front, x: np.ndarray, y: np.ndarray, loss: np.ndarray) -> Any:
    """Marks by what an accuracy rests on, coloured by loss, and the line of the least ``y`` up to each ``x``."""
    axes.step(x, np.minimum.accumulate(y), where="post", color=_FAINT, zorder=1)
    sources = np.array([point.accuracy_source for point in front.points])
    # One point, or points of one loss, still need a scale of colours.
    low, high = float(min(loss.min(), 0.0)), float(max(loss.max(), 0.1))
    marks: Any = None
    for source, (words, shape) in _SHAPES.items():
        some = sources == source
        if some.any():
            marks = axes.scatter(
                x[some],
                y[some],
                c=loss[some],
                vmin=low,
                vmax=high,
                cmap="viridis_r",
                marker=shape,
                s=36,
                edgecolors=_INK,
                linewidths=0.6,
                label=words,
                zorder=2,
            )
    _scale(axes, "x", x)
    axes.set_xlabel("time per item of a stream (ms)" if front.of_streams else "latency (ms)")
    axes.grid(visible=True, color=_FAINT, linewidth=0.5)
    axes.set_axisbelow(True)
    return marks


def _scale(axes: Axes, name: Literal["x", "y"], values: np.ndarray) -> None:
    """A logarithmic axis with plain numbers where ``values`` above 0 spread over a decade; others stay linear."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if not 0 < 10 * values.min() < values.max():
        return
    axes.set(**{f"{name}scale": "log"})
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
