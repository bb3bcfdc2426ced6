"""What commands print: one JSON document, or tables."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coinfer_ray.errors import InputError, counted

if TYPE_CHECKING:
    from rich.table import Table

    from coinfer_ray.problem.strategy import Strategy

PLAIN_WIDTH = 140  # columns of a table that goes to a file or a pipe


def print_json(document: Any) -> None:
    """Print one JSON document on stdout.

    Raises:
        ValueError: the document holds a NaN or an infinity, which JSON cannot say.
    """
    json.dump(document, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def print_table(*tables: Table) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    for table in tables:
        console.print(table)


def rests_on(accuracy_source: str, trainings: int) -> str:
    """What an accuracy rests on, in the words of a table."""
    return {
        "base": "the network as it is",
        "measured": f"measured, {counted(trainings, 'training')}",
        "predicted": "predicted",
    }[accuracy_source]


def strategy_cells(strategy: Strategy) -> tuple[str, str]:
    """How much a strategy prunes, and its codec with the bits of a value, as cells of a table."""
    ratios = [ratio for ratio in strategy.sparsity.values() if ratio]
    pruned = f"{len(ratios)} of {len(strategy.sparsity)}, to {max(ratios):.0%}" if ratios else "nothing"
    codec = " ".join(f"{value:g}" for value in vars(strategy.codec).values())
    codec = "none" if all(value == 1 for value in vars(strategy.codec).values()) else codec
    bits = "" if strategy.feature_bits == 32 else f", {strategy.feature_bits} bits"
    return pruned, codec + bits


def check_output(path: Path | None, kind: str) -> None:
    """Raise InputError, before any work is done, where an output file can't be written or would destroy another.

    ``kind``: what will be written, a key of :data:`coinfer_ray.runtime.outputs.KINDS`.
    """
    if path is None:
        return
    from coinfer_ray.runtime.address import refuse_address
    from coinfer_ray.runtime.outputs import check_replaceable

    refuse_address(path)
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InputError(f"out: {path.parent} is no folder; create it, or write {path.name} elsewhere")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"out: {path.parent} cannot be written; write {path.name} elsewhere")
    check_replaceable(path, kind)


def note(text: str) -> None:
    """A line for the person at the terminal, on stderr."""
    print(text, file=sys.stderr)


@contextlib.contextmanager
def stdout_for_answers() -> Iterator[None]:
    """Send to stderr whatever libraries print while a command works, so that stdout holds the answer alone."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
