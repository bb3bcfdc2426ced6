"""The summary that the terminal and the page share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coinfer_ray.errors import counted
from coinfer_ray.report.results import METHOD_COLUMNS, PROPOSED, Row, SweepResults, spread

if TYPE_CHECKING:
    from rich.table import Table

MAX_ROWS = 60
PROVEN_GAP = 1e-3 * (1 + 1e-9)  # the gap at which the exact solver stops, and the rounding of two divisions


def milliseconds(seconds: float) -> str:
    """Three digits, without an exponent."""
    value = seconds * 1e3
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3 if value >= 0.1 else 4
    return f"{value:,.{digits}f}"


def times_faster(gain: float) -> str:
    return f"{gain:,.0f}\u00d7" if gain >= 100 else f"{gain:.1f}\u00d7" if gain >= 10 else f"{gain:.2f}\u00d7"


def summary_header(results: SweepResults) -> list[str]:
    """Names of the summary's columns; latencies are in milliseconds."""
    axes = [axis.replace("_", " ") for axis in _leading_axes(results)]
    accuracy = ["accuracy", "at least"] if _bounded(results) else ["accuracy"]
    return [*axes, PROPOSED, "gain", "cut after", *accuracy, *METHOD_COLUMNS]


def summary_cells(results: SweepResults) -> list[list[str]]:
    """The summary's rows; of a large sweep, some evenly spaced ones."""
    shown = (results.rows[i] for i in spread(len(results.rows), MAX_ROWS))
    return [_cells(row, _leading_axes(results), _bounded(results)) for row in shown]


def summary_note(results: SweepResults) -> str:
    """What a reader must know of the table: what is left out, and what its figures mean."""
    notes = []
    if len(results.rows) < results.scenarios:
        verb = "is" if len(results.rows) == 1 else "are"
        asked = counted(results.scenarios, "scenario")
        notes.append(f"The sweep is unfinished: {len(results.rows):,} of {asked} {verb} answered.")
    if len(results.rows) > MAX_ROWS:
        notes.append(f"{MAX_ROWS} of {len(results.rows):,} scenarios, evenly spread.")
    notes.append("Latencies in ms. Gain: the best of the other methods over coinfer.")
    bounded = [(row.latency_s, row.lower_bound_s) for row in results.rows if row.latency_s and row.lower_bound_s]
    if bounded:
        proven = sum(1 - bound / latency <= PROVEN_GAP for latency, bound in bounded)
        total = len(results.rows)
        answers = f"{counted(total, 'answer')} {'is' if proven == 1 else 'are'}"
        notes.append(f"{proven:,} of {answers} proven within 0.1 % of the best that is accepted.")
    # One for each predictor: problems of one network with different devices share it.
    own = {str(problem["predictor"]): problem["predictor"]["typical_error"] for problem in results.problems.values()}
    errors = [f"{error:.3f}" for error in own.values()]
    notes.append(
        "Accuracy: measured where the network stays as it is or the strategy was trained for the records; "
        f"elsewhere as the predictor says, with a typical error of {' and '.join(errors)}."
    )
    if _bounded(results):
        notes.append("At least: the accuracy less the margin that the confidence asks for.")
    return " ".join(notes)


def summary_table(results: SweepResults) -> Table:
    """The summary for the terminal."""
    from rich.table import Table

    table = Table(caption=summary_note(results), caption_justify="left")
    left = {axis.replace("_", " ") for axis in _leading_axes(results)} | {"cut after"}
    for name in summary_header(results):
        table.add_column(name, justify="left" if name in left else "right", style="bold" if name == PROPOSED else None)
    for cells in summary_cells(results):
        table.add_row(*cells)
    return table


def _leading_axes(results: SweepResults) -> tuple[str, ...]:
    return (*(results.varying or ("device",)), "link")


def _bounded(results: SweepResults) -> bool:
    return any(row.confidence is not None for row in results.rows)


def _cells(row: Row, axes: tuple[str, ...], bounded: bool) -> list[str]:
    place = [row.place(axis) for axis in axes]
    others = [milliseconds(row.others_s[method]) for method in METHOD_COLUMNS]
    if row.latency_s is None or row.gain is None:
        return [*place, "infeasible", "-", "-", "-", *(["-"] if bounded else []), *others]
    answer = [milliseconds(row.latency_s), times_faster(row.gain), str(row.cut_after), f"{row.predicted_accuracy:.4f}"]
    if bounded:
        answer.append("-" if row.accuracy_bound is None else f"{row.accuracy_bound:.4f}")
    return [*place, *answer, *others]
