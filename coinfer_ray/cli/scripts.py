"""What programs beside ``coinfer`` share: benchmarks, scripts and studies answer bad input as it does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from coinfer_ray.cli import explain
from coinfer_ray.cli.exits import EXIT_FAILURE


def run_script(main: Callable[[], object]) -> None:
    """Call ``main``; bad input ends the process with one line on stderr and status 2, as :mod:`coinfer_ray.cli` does.

    What is no fault of the input keeps its traceback.
    """
    try:
        main()
    except Exception as error:
        status, message = explain(error)
        if status == EXIT_FAILURE:
            raise
        print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
        sys.exit(status)


def positive_int(text: str) -> int:
    """A type of argparse: a whole number, at least 1."""
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, at least 1")
    return int(text)


def positive_number(text: str) -> float:
    """A type of argparse: a finite number above 0."""
    return _between(text, 0, float("inf"), "a finite number above 0")


def inner_share(text: str) -> float:
    """A type of argparse: a share of a whole, above 0 and below 1."""
    return _between(text, 0, 1, "a share above 0 and below 1")


def _between(text: str, low: float, high: float, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = low
    if not low < number < high:
        raise argparse.ArgumentTypeError(f"{text!r} must be {what}")
    return number
