"""What programs beside ``coinfer`` share: benchmarks, scripts and studies answer bad input as it does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from coinfer_ray.cli import explain
from coinfer_ray.cli.exits import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    end_after_sigterm,
    ended_by_sigterm,
)


def run_script(main: Callable[[], object]) -> None:
    """Call ``main``; bad input ends the process with one line on stderr and status 2, as :mod:`coinfer_ray.cli` does.

    So do SIGTERM, with status 143, and Ctrl-C, with 130: ``main`` leaves its ``with`` blocks first. What is no fault of
    the input keeps its traceback.
    """
    terminated: list[int] = []
    try:
        with ended_by_sigterm(terminated):
            main()
    except KeyboardInterrupt:
        print(f"{Path(sys.argv[0]).name}: {'ended by SIGTERM' if terminated else 'interrupted'}", file=sys.stderr)
        if terminated:
            end_after_sigterm()
        sys.exit(EXIT_TERMINATED if terminated else EXIT_INTERRUPTED)
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
