"""The page about a sweep: latency of each method, where the answers' time goes or what they gain, and a table."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from coinfer_ray.errors import counted
from coinfer_ray.report.interactive import write_interactive
from coinfer_ray.report.model import METHOD, Cell, Column, Figure, Note, Page, Section, Series, TableView
from coinfer_ray.report.results import METHOD_COLUMNS, PROPOSED, Row, SweepResults, read_sweep, spread
from coinfer_ray.report.stills import write_stills
from coinfer_ray.report.table import milliseconds, summary_cells, summary_header, summary_note, times_faster
from coinfer_ray.runtime.outputs import check_replaceable

FEW_LINKS = 8  # up to here a link is a row of its own; beyond, the rate is an axis
MAX_PANELS = 12
MAX_POINTS = 200  # of a curve
_PARTS = {"device_s": "device", "uplink_s": "uplink", "server_s": "server"}


def write_page(results: SweepResults | str | Path, out: str | Path) -> None:
    """Write the page about a sweep's results, or about the folder of one, to ``out``.

    Its figures as PNG, SVG and CSV go to a folder beside it (:func:`figures_folder`).

    Raises:
        InputError: a folder that is no sweep's (see :func:`coinfer_ray.report.results.read_sweep`), or ``out`` or one
            of the figures is a file of another kind.
    """
    check_replaceable(out, "page")
    results = results if isinstance(results, SweepResults) else read_sweep(results)
    page = sweep_page(results)
    write_stills(page, figures_folder(out))
    write_interactive(page, out)


def figures_folder(out: str | Path) -> Path:
    """The folder beside the page ``out`` that its figures go to: ``page-figures`` beside ``page.html``."""
    out = Path(out)
    return out.with_name(f"{out.stem}-figures")


def sweep_page(results: SweepResults) -> Page:
    """What there is to say of a sweep."""
    many = max(len(rows) for rows in results.panels.values()) > FEW_LINKS
    figures = _curves(results) if many else _rows(results)
    sections = (
        Section("Latency and where it comes from", _text(results), figures),
        Section("Scenario by scenario", "", [_table(results, many)]),
    )
    provenance = {
        f"What these numbers rest on: {model}": _facts(problem) for model, problem in results.problems.items()
    }
    return Page(f"{' and '.join(results.problems)}: what to run where", _lead(results), sections, provenance)


def _lead(results: SweepResults) -> str:
    gains = [row.gain for row in results.rows if row.gain is not None]
    count = counted(len(results.rows), "scenario")
    if not gains:
        return "No strategy keeps the accuracy that was asked for."
    if len(gains) == 1:
        return f"{PROPOSED} is {times_faster(gains[0])} as fast as the best other method."
    return (
        f"{PROPOSED} is {times_faster(statistics.median(gains))} as fast as the best other method in the median of "
        f"{count}, and up to {times_faster(max(gains))}."
    )


def _text(results: SweepResults) -> str:
    text = f"{counted(len(results.rows), 'scenario')}, each with the strategy that {results.solver} search found "
    text += "fastest: how much of every layer to prune, where to cut the network, and how to compress what is sent."
    infeasible = sum(row.gain is None for row in results.rows)
    if infeasible:
        text += f" {infeasible:,} of them have no strategy that keeps the accuracy asked for."
    return text


# ------------------------------------------------------------------------------------------------------------- figures


def _panels(results: SweepResults) -> list[tuple[str, list[Row]]]:
    panels = list(results.panels.items())
    return [panels[i] for i in spread(len(panels), MAX_PANELS)]


def _shown(results: SweepResults) -> str:
    panels = len(results.panels)
    return f" {MAX_PANELS} of {panels:,} groups of scenarios are shown." if panels > MAX_PANELS else ""


def _filters(results: SweepResults, rows: Sequence[Row], link: bool) -> dict[str, str | list[str]]:
    """The filters of a series about these rows of one panel."""
    row = rows[0]
    found: dict[str, str | list[str]] = {axis.replace("_", " "): row.place(axis) for axis in results.varying}
    return found | ({"link": [row.link for row in rows]} if link else {})


def _answer(row: Row) -> str:
    if row.latency_s is None or row.gain is None:
        return "infeasible"
    return f"gain {times_faster(row.gain)}\ncut after {row.cut_after}\naccuracy {row.predicted_accuracy:.4f}"


def _rows(results: SweepResults) -> list[Figure]:
    """A row for each link."""
    latency, shares, gains, totals = [], [], [], []
    for panel, rows in _panels(results):
        filters = _filters(results, rows, link=True)
        links = [row.link for row in rows]
        for method in METHOD_COLUMNS:
            times = [1e3 * row.others_s[method] for row in rows]
            latency.append(Series(method, times, links, panel=panel, filters=filters | {METHOD: method}))
        answered = [row for row in rows if row.latency_s is not None]
        for row in rows:
            gains.append(Note(row.link, "infeasible" if row.gain is None else times_faster(row.gain), panel))
            total = "infeasible" if row.latency_s is None else f"{milliseconds(row.latency_s)} ms"
            totals.append(Note(row.link, total, panel))
        if not answered:
            continue
        filters = _filters(results, answered, link=True)
        links = [row.link for row in answered]
        times = [1e3 * (row.latency_s or 0.0) for row in answered]
        text = [_answer(row) for row in answered]
        latency.append(Series(PROPOSED, times, links, text, panel=panel, filters=filters | {METHOD: PROPOSED}))
        for column, name in _PARTS.items():
            parts = [getattr(row, column) for row in answered]
            share = [100 * part / row.latency_s for part, row in zip(parts, answered, strict=True)]
            text = [f"{milliseconds(part)} ms\n{_answer(row)}" for part, row in zip(parts, answered, strict=True)]
            shares.append(Series(name, share, links, text, panel=panel, filters=filters))
    figures = [
        Figure(
            "latency",
            "Latency of each method",
            f"To the left is faster; the number in the margin is the gain over the best other method.{_shown(results)}",
            "",
            "points",
            "latency (ms), logarithmic",
            "",
            x_log=True,
            series=latency,
            notes=gains,
        )
    ]
    if shares:
        caption = "Share of the latency that the chosen strategy spends on the device, on the link and on the server; "
        figures.append(
            Figure(
                "time",
                "Where the time of the chosen strategies goes",
                f"{caption}its latency in the margin.{_shown(results)}",
                "",
                "bars",
                "share of the latency (%)",
                "",
                series=shares,
                notes=totals,
                stacked=True,
            )
        )
    return figures


def _curves(results: SweepResults) -> list[Figure]:
    """Curves over the uplink rate."""
    latency, gains = [], []
    for panel, all_rows in _panels(results):
        rows = [all_rows[i] for i in spread(len(all_rows), MAX_POINTS)]
        filters = _filters(results, rows, link=False)
        rates = [row.rate_bps / 1e6 for row in rows]

        curves: dict[str, list[float | None]] = {
            method: [1e3 * row.others_s[method] for row in rows] for method in METHOD_COLUMNS
        }
        curves[PROPOSED] = [None if row.latency_s is None else 1e3 * row.latency_s for row in rows]
        text = [_answer(row) for row in rows]
        for label, times in curves.items():
            own = text if label == PROPOSED else None
            latency.append(Series(label, rates, times, own, panel=panel, filters=filters | {METHOD: label}))
        gain = [row.gain for row in rows]
        gains.append(Series(PROPOSED, rates, gain, text, panel=panel, filters=filters | {METHOD: PROPOSED}))
    rate = "uplink rate (Mb/s)"
    return [
        Figure(
            "latency",
            "Latency of each method over the uplink rate",
            f"Lower is faster; both axes are logarithmic.{_shown(results)}",
            "",
            "line",
            rate,
            "latency (ms)",
            x_log=True,
            y_log=True,
            series=latency,
        ),
        Figure(
            "gain",
            "Gain over the best of the other methods",
            f"How many times faster the chosen strategy is than the best of the other methods.{_shown(results)}",
            "",
            "line",
            rate,
            "times as fast",
            x_log=True,
            series=gains,
        ),
    ]


# --------------------------------------------------------------------------------------------------------------- table


def _table(results: SweepResults, many: bool) -> TableView:
    header = summary_header(results)
    first = header.index(PROPOSED)
    words = {*header[:first], "cut after"} - {"max loss", "confidence"}
    columns = [
        Column(
            name,
            numeric=name not in words,
            filters={METHOD: name} if name in METHOD_COLUMNS or name == PROPOSED else {},
            strong=name == PROPOSED,
        )
        for name in header
    ]
    rows = [
        [Cell(text, _value(text)) if column.numeric else text for text, column in zip(cells, columns, strict=True)]
        for cells in summary_cells(results)
    ]
    filters = {name: name for name in header[:first] if name != "link" or not many}
    if not results.varying:
        filters.pop("device", None)
    return TableView("All methods" if not many else "Some scenarios", summary_note(results), "", columns, rows, filters)


def _value(text: str) -> float | None:
    """The number that a cell of the summary prints."""
    try:
        return float(text.replace(",", "").removesuffix("\u00d7"))
    except ValueError:
        return None


# ---------------------------------------------------------------------------------------------------------- provenance


def _facts(problem: Mapping[str, Any]) -> dict[str, str]:
    predictor, widths = problem["predictor"], problem["feature_bits"]
    # A sweep of an earlier version says one number.
    bits = " or ".join(map(str, widths)) if isinstance(widths, list) else f"{widths:g}"
    if problem.get("measured_bits"):
        bits += f", and {' or '.join(map(str, problem['measured_bits']))} where that was measured"
    errors = {
        "typical error": f"{predictor['typical_error']:.4f} (root mean square, out of fold)",
        "noise of a training": "unknown, no strategy was trained twice"
        if predictor["noise_floor"] is None
        else f"{predictor['noise_floor']:.4f} between {predictor['repeated']} strategies' own trainings",
    }
    return {
        "input": f"{predictor['input_px']} x {predictor['input_px']} pixels",
        "predictor": f"{predictor['regressor']} fitted on {predictor['records']:,} really trained strategies",
        "accuracy": f"{predictor['accuracy']} images, {predictor['base_accuracy']:.4f} for the untouched network",
        **errors,
        "cuts": str(problem["cuts"]),
        "codec's own FLOPs": str(problem["codec_flops"]),
        "bits of an element": f"{bits} of a feature, {problem['input_bits']:g} of the input",
        **dict(_flat(predictor["settings"])),
        "records": f"fingerprint {predictor['records_hash']}, settings {predictor['settings_hash']}",
        "fitted with": ", ".join(f"{name} {version}" for name, version in predictor["versions"].items()),
    }


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The records' settings, one line for each group of them."""
    for name, value in settings.items():
        label = f"{prefix}{name.replace('_', ' ')}"
        if not isinstance(value, Mapping):
            yield label, f"{value:,}" if type(value) is int else str(value)
            continue
        plain = {key: each for key, each in value.items() if not isinstance(each, Mapping)}
        if plain:
            yield label, ", ".join(f"{key.replace('_', ' ')} {each}" for key, each in plain.items())
        yield from _flat({key: each for key, each in value.items() if isinstance(each, Mapping)}, f"{label}: ")
