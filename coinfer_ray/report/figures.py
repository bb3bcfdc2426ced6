"""Figures as SVG that a page can hold inline.

Colours are left to the page: every one is drawn as a placeholder and becomes a CSS variable, so that one figure
serves light and dark. Methods differ by shape as well as by colour.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from coinfer_ray.report.results import METHOD_COLUMNS, PROPOSED, Row, SweepResults, spread
from coinfer_ray.report.table import milliseconds, times_faster

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_IN = 5.4
FEW_LINKS = 8  # up to here a link is a row of its own; beyond, the rate is an axis
MAX_PANELS = 6

# Placeholder colours and the CSS variables that take their place.
INK, FAINT = "#010101", "#020202"
_VARIABLES = {INK: "--ink", FAINT: "--faint"}
_STYLE = {
    "All_Local": ("#030303", "--local", "s"),
    "All_Server": ("#040404", "--server", "^"),
    "Neurosurgeon": ("#050505", "--neurosurgeon", "D"),
    PROPOSED: (INK, "--ink", "o"),
}
_PARTS = {"device_s": ("#060606", "--part-device"), "uplink_s": ("#070707", "--part-uplink")}
_PARTS["server_s"] = ("#080808", "--part-server")
_VARIABLES |= {colour: variable for colour, variable, _ in _STYLE.values()}
_VARIABLES |= dict(_PARTS.values())


def latency_figure(results: SweepResults) -> str:
    """Latency of every method: by link, or over the rate where there are many."""
    with _style():
        if _many_links(results):
            return _curves(results, _latency_curves, "latency (ms)", "Latency of each method over the uplink rate")
        return _rows(results, _latency_rows, "latency (ms), logarithmic", "Latency of each method by device and link")


def second_figure(results: SweepResults) -> str:
    """Where the answers' time goes; over the rate, where there are many links, the gain instead."""
    with _style():
        if _many_links(results):
            return _curves(results, _gain_curve, "times faster", "Gain over the best of the other methods")
        return _rows(results, _share_rows, "share of the latency (%)", "Where the time of the chosen strategies goes")


def figure_captions(results: SweepResults) -> tuple[str, str]:
    """What the two figures show, in a sentence each."""
    panels = len(results.panels)
    shown = f" {MAX_PANELS} of {panels} groups of scenarios are shown." if panels > MAX_PANELS else ""
    if _many_links(results):
        return (
            f"Latency of each method over the uplink rate.{shown}",
            "How many times faster the chosen strategy is than the best of the other methods.",
        )
    return (
        f"Latency of each method; the figure at the right is the gain over the best of the others.{shown}",
        "Share of the latency that the chosen strategy spends on the device, on the link and on the server; at the "
        "right its latency and the layer that it is cut after.",
    )


def _many_links(results: SweepResults) -> bool:
    return max(len(rows) for rows in results.panels.values()) > FEW_LINKS


def _shown_panels(results: SweepResults) -> list[tuple[str, list[Row]]]:
    panels = list(results.panels.items())
    return [panels[i] for i in spread(len(panels), MAX_PANELS)]


def _rows(results: SweepResults, draw: Callable[[Axes, list[Row]], None], x_label: str, title: str) -> str:
    """A panel for each group, a row for each link, one x axis for all."""
    panels = _shown_panels(results)
    heights = [len(rows) + 1.6 for _, rows in panels]
    figure = _new_figure(0.25 * sum(heights) + 0.9)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (label, rows) in zip(axes, panels, strict=True):
        draw(axis, rows)
        axis.set_yticks(range(len(rows)), [row.link for row in rows])
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.tick_params(axis="y", length=0)
        _plain(axis, label)
    axes[-1].set_xlabel(x_label)
    handles, labels = axes[0].get_legend_handles_labels()
    _legend(figure, handles, labels)
    return _svg(figure, title)


def _latency_rows(axis: Axes, rows: list[Row]) -> None:
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:,g}")
    axis.margins(x=0.08)
    for position, row in enumerate(rows):
        times = [*row.others_s.values()] + ([] if row.latency_s is None else [row.latency_s])
        axis.plot([1e3 * min(times), 1e3 * max(times)], [position, position], color=FAINT, linewidth=1, zorder=1)
    for method in METHOD_COLUMNS:
        colour, _, marker = _STYLE[method]
        times = [1e3 * row.others_s[method] for row in rows]
        hollow = method == "Neurosurgeon"  # it often stands where another method does
        axis.plot(
            times,
            range(len(rows)),
            marker,
            color=colour,
            markersize=9.5 if hollow else 6,
            markerfacecolor="none" if hollow else colour,
            markeredgewidth=1.4,
            label=method,
            zorder=2,
        )
    answered = [(position, row) for position, row in enumerate(rows) if row.latency_s is not None]
    axis.plot(
        [1e3 * (row.latency_s or 0.0) for _, row in answered],
        [position for position, _ in answered],
        "o",
        color=INK,
        markersize=6,
        label=PROPOSED,
        zorder=3,
    )
    for position, row in enumerate(rows):
        _margin_text(axis, position, "infeasible" if row.gain is None else times_faster(row.gain))


def _share_rows(axis: Axes, rows: list[Row]) -> None:
    axis.set_xlim(0, 100)
    left = [0.0] * len(rows)
    for name, (colour, _) in _PARTS.items():
        shares = [100 * getattr(row, name) / row.latency_s if row.latency_s else 0.0 for row in rows]
        axis.barh(range(len(rows)), shares, 0.62, left=left, color=colour, label=name.removesuffix("_s"))
        left = [before + share for before, share in zip(left, shares, strict=True)]
    for position, row in enumerate(rows):
        text = "infeasible" if row.latency_s is None else f"{milliseconds(row.latency_s)} ms, {row.cut_after}"
        _margin_text(axis, position, text)


def _curves(results: SweepResults, draw: Callable[[Axes, list[Row]], None], y_label: str, title: str) -> str:
    """A panel for each group over the uplink rate."""
    panels = _shown_panels(results)
    figure = _new_figure(2.1 * len(panels) + 0.9)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (label, rows) in zip(axes, panels, strict=True):
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:,g}")
        draw(axis, rows)
        axis.set_ylabel(y_label)
        _plain(axis, label)
    axes[-1].set_xlabel("uplink rate (Mb/s), logarithmic")
    handles, labels = axes[0].get_legend_handles_labels()
    _legend(figure, handles, labels)
    return _svg(figure, title)


def _latency_curves(axis: Axes, rows: list[Row]) -> None:
    rates = [row.rate_bps / 1e6 for row in rows]
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:,g}")
    dashes = {"All_Local": (4, 2), "All_Server": (1, 1.5), "Neurosurgeon": (6, 2, 1, 2)}
    for method in METHOD_COLUMNS:
        line = axis.plot(rates, [1e3 * row.others_s[method] for row in rows], color=_STYLE[method][0], label=method)
        line[0].set_dashes(dashes[method])
    times = [float("nan") if row.latency_s is None else 1e3 * row.latency_s for row in rows]
    axis.plot(rates, times, color=INK, linewidth=2, label=PROPOSED)


def _gain_curve(axis: Axes, rows: list[Row]) -> None:
    rates = [row.rate_bps / 1e6 for row in rows]
    axis.axhline(1, color=FAINT, linewidth=1)
    axis.plot(rates, [float("nan") if row.gain is None else row.gain for row in rows], color=INK, linewidth=2)
    axis.set_ylim(bottom=0)


def _new_figure(height_in: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH_IN, height_in), layout="constrained")


def _plain(axis: Axes, label: str) -> None:
    """Panel title at the left, no box, a faint grid along x."""
    axis.set_title(label, loc="left", fontsize=11, fontweight="bold")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.grid(axis="x", color=FAINT, linewidth=0.6)
    axis.set_axisbelow(True)


def _margin_text(axis: Axes, position: int, text: str) -> None:
    axis.text(1.015, position, text, transform=axis.get_yaxis_transform(), va="center_baseline", fontsize=9.5)


def _legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    if labels:
        figure.legend(
            handles,
            labels,
            loc="outside upper left",
            ncols=len(labels),
            frameon=False,
            handletextpad=0.3,
            columnspacing=1.2,
        )


def _style() -> contextlib.AbstractContextManager[None]:
    from matplotlib import rc_context

    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    settings: Any = dict.fromkeys(inked, INK) | {
        "font.size": 10.5,
        "svg.fonttype": "none",
        "svg.hashsalt": "coinfer",
    }
    return rc_context(settings)


def _svg(figure: Figure, title: str) -> str:
    """The figure as an ``<svg>`` element that scales with the page and takes the page's fonts and colours."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r"font: (?:(\w+) )?([\d.]+)px [^;\"]*", r"font: \1 \2px system-ui, sans-serif", text)
    text = re.sub(r' id="[a-zA-Z]+\d*_\d+"', "", text)  # two figures on a page would share them
    text = re.sub(r'(<svg[^>]*?) height="[\d.]+pt"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[\d.]+pt"', r"\1", text, count=1)
    return text.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
