"""A word on standard error while kernels are compiled, which happens once on a machine and takes a while."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coinfer_kernels.machine_code import Compiling

FIRST_S = 1.0  # what takes less is not worth a word
EVERY_S = 5.0  # between two lines where the last cannot be written over
_announced = False


class _Notice:
    """Writes one line, over and over on a terminal, elsewhere now and then."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._last = -EVERY_S
        self._begun = False

    def __call__(self, at: Compiling) -> None:
        now = time.monotonic()
        if at.seconds < FIRST_S:
            return
        # A kernel is done when the outermost function is: the line ends there, so that others may write.
        ended = at.done and at.outermost
        if not ended and now - self._last < (0.2 if self._terminal else EVERY_S):
            return
        if ended and not self._begun:
            return
        self._last = now
        line = f"compiling kernels for this processor (once): {at.functions} functions, {at.seconds:.0f} s"
        if not self._terminal:
            if not ended:
                print(line, file=sys.stderr, flush=True)
        else:
            print(f"\r{line}", end="\n" if ended else "", file=sys.stderr, flush=True)
        self._begun = not ended


def announce_compilation() -> None:
    """From now on, say on standard error when kernels are compiled, and how many functions have been."""
    global _announced
    from coinfer_kernels import machine_code

    if not _announced:
        _announced = True
        machine_code.on_compile(_Notice())
