"""Answers as lines of a CSV file: numbers first, then the strategy's, one in each column."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from coinfer_ray.runtime.files import write_whole


def with_strategy(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line whose ``strategy``, as JSON says it, is spread over columns of its own at the end."""
    found = {name: value for name, value in line.items() if name != "strategy"}
    strategy = line["strategy"]
    for part in ("sparsity", "codec"):
        found |= {f"{part}.{name}": value for name, value in strategy[part].items()}
    return found | {"partition_point": strategy["partition_point"], "feature_bits": strategy["feature_bits"]}


def write_lines(path: str | Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write lines of the same columns to ``path``, whole; an empty field is what is not known."""
    write_whole(path, partial(_write, lines))


def _write(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
