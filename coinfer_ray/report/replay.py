"""A replayed trace as a table of numbers (CSV)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from coinfer_ray.report.lines import with_strategy, write_lines
from coinfer_ray.runtime.outputs import check_replaceable

if TYPE_CHECKING:
    from coinfer_ray.atlas.replay import Replay


def write_replay(found: Replay, path: str | Path) -> None:
    """Write a replay to ``path`` as CSV: a line for each sample, with the strategy that switching takes.

    Seconds, Mb/s, and the number of the strategy among those of the replay, then its own values by column.

    Raises:
        InputError: ``path`` is there and holds something else.
    """
    check_replaceable(path, "replay")
    write_lines(path, [with_strategy(line) for line in found.samples()])
