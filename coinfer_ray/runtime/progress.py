"""Progress of long work, on stderr: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

FORM_VARIABLE = "COINFER_PROGRESS"
LINE_EVERY_S = 30.0
WINDOW_S = 120.0  # over which the rate is taken: what was slower or faster long ago says nothing of what is left
MIN_S, MIN_STEPS = 3.0, 3  # a rate over less is noise


class Progress:
    """``with Progress("candidates", total, done=already) as progress: progress.advance()``

    Shows the share done and, once it means something, the rate and the time left: over the last two minutes, and
    never with what came first, whose time is that of starting workers and compiling kernels. Without a terminal it
    prints a line every half minute and a last one, so that a log file stays readable. Where ``COINFER_PROGRESS`` is
    ``json`` the lines are JSON, for programs that watch: ``{"what", "done", "total", "failed", "per_s", "left_s"}``,
    the last two null while they mean nothing.
    """

    def __init__(self, what: str, total: int, *, done: int = 0, quiet: bool = False) -> None:
        self.what = what
        self.total = total
        self.done = done
        self.failed = 0  # of those done; shown where there are any
        self._fresh = 0
        self._quiet = quiet
        self._json = os.environ.get(FORM_VARIABLE) == "json"
        self._printed = time.monotonic()
        self._steps: deque[tuple[float, int]] = deque()  # when how much was done, within the window
        self._bar: Bar | None = None

    def __enter__(self) -> Self:
        if not self._quiet and not self._json and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as RichProgress

            columns = (TextColumn(self.what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
            self._bar = RichProgress(*columns, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task(self.what, total=self.total, completed=self.done, note="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif not self._quiet and self._fresh:
            self._print()

    def advance(self, count: int = 1) -> None:
        self.done += count
        self._fresh += count
        now = time.monotonic()
        self._steps.append((now, self.done))
        while len(self._steps) > MIN_STEPS + 1 and self._steps[0][0] < now - WINDOW_S:
            self._steps.popleft()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, note=self._note())
        elif not self._quiet and time.monotonic() - self._printed >= LINE_EVERY_S:
            self._print()

    def _note(self) -> str:
        """How many failed, the rate and the time left; empty while these mean nothing, or when nothing is left."""
        notes = [self._rate(), f"{self.failed:,} failed" if self.failed else ""]
        return ", ".join(note for note in notes if note)

    def _rate(self) -> str:
        rate = self._per_s()
        if rate is None or self.done >= self.total:
            return ""
        shown = f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2f}/s" if rate >= 0.5 else f"{rate * 60:.1f}/min"
        return f"{shown}, {_duration((self.total - self.done) / rate)} left"

    def _per_s(self) -> float | None:
        """How many a second; None while that means nothing."""
        if len(self._steps) <= MIN_STEPS:
            return None
        (began, before), (now, done) = self._steps[0], self._steps[-1]
        return None if now - began < MIN_S else (done - before) / (now - began)

    def _print(self) -> None:
        self._printed = time.monotonic()
        if self._json:
            rate = self._per_s()
            left = None if rate is None else round((self.total - self.done) / rate, 1)
            line = {"what": self.what, "done": self.done, "total": self.total, "failed": self.failed}
            line |= {"per_s": None if rate is None else round(rate, 3), "left_s": left}
            print(json.dumps(line), file=sys.stderr, flush=True)
            return
        note = self._note()
        print(f"{self.what}: {self.done:,} of {self.total:,}{note and f', {note}'}", file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
