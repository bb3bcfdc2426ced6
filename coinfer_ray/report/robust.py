"""Choices for ranges of speeds and rates as a table of numbers (CSV)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from coinfer_ray.report.lines import with_strategy, write_lines
from coinfer_ray.runtime.outputs import check_replaceable

if TYPE_CHECKING:
    from coinfer_ray.optimizer.robust import Robust


def write_robust(found: Robust, path: str | Path) -> None:
    """Write the choices to ``path`` as CSV: a line for each, where its regret is greatest in columns ``worst_at.*``.

    Seconds, FLOP/s, bit/s, and accuracies and regrets as shares; an empty field is what is not known.

    Raises:
        InputError: ``path`` is there and holds something else.
    """
    check_replaceable(path, "robust")
    lines = []
    for choice in found.choices:
        line = choice.to_json()
        worst = {f"worst_at.{name}": value for name, value in line.pop("worst_at").items()}
        lines.append(with_strategy({"chosen_as": line.pop("chosen_as"), "regret": line.pop("regret"), **worst, **line}))
    write_lines(path, lines)
