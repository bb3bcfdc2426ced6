"""A long command that something happens to: begun, disturbed, run again where it ended, and compared with one that
nothing happened to. ``scripts/faults.py`` prints a table of it; the tests hold the small members of that table."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coinfer_ray.records import store
from coinfer_ray.sweeps.reader import open_sweep

COINFER = "import sys; from coinfer_ray.cli import main; sys.exit(main())"
CLOCKS = ("wall_s", "peak_memory_mb")  # of a record: what is another number each time
LIMIT_S = 600.0  # a busy machine is slow


@dataclass(frozen=True)
class Row:
    """One fault, as it went: ``tried`` on what, ``seen`` on the last line of the command, ``recovered`` how,
    ``lost_s`` beside a command that nothing happened to (wall seconds), and whether what it wrote in the end is
    ``equal`` to that one's."""

    fault: str
    run: str
    tried: str
    seen: str
    recovered: str
    lost_s: float | None = None
    equal: bool | None = None


class Running:
    """One run of a trial's command, from its first start to its last end."""

    def __init__(self, trial: Trial, out: Path, settings: Mapping[str, str]) -> None:
        self.trial, self.out, self.settings = trial, out, settings
        self.began = time.monotonic()
        # No pipe: workers that outlive the command would hold it open. Not beside ``out``, whose disk may be full.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        command = [*trial.before, sys.executable, "-c", COINFER, *trial.command(out)]
        environment = {**trial.environment, **settings}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=self._stderr)

    def wait_for(self, pieces: int) -> None:
        """Until so many files are finished."""
        deadline = time.monotonic() + LIMIT_S
        while self.trial.pieces(self.out) < pieces:
            assert self.process.poll() is None and time.monotonic() < deadline, self.said()
            time.sleep(0.01)

    def stop(self) -> None:
        """Kill it where it still runs."""
        self.process.kill()
        self.process.wait()

    def said(self) -> str:
        """All that the command has written on stderr."""
        file = self._stderr.fileno()  # read at a place: where it stands is where the command writes on
        return os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace")

    def end(self) -> tuple[int, str]:
        """The command's exit status, and the last line of what it said on stderr; AssertionError where it said what
        only its developers understand."""
        try:
            self.process.wait(LIMIT_S)
        finally:
            self.process.kill()
        said = self.said()
        for sign in ("Traceback", "SIGTERM received", "Stack trace", "core dumped"):
            assert sign not in said, said
        lines = [line for line in said.splitlines() if line.startswith("coinfer: ")]
        return self.process.returncode, lines[-1] if lines else ""


class Trial:
    """A command that writes ``pieces`` one after the other, and holds ``rows`` in the end.

    ``command(out)`` is its arguments behind ``coinfer``, ``before`` what the process begins with (:meth:`TwoNodes.
    within`), ``environment`` what it inherits, ``room_kb`` a room that is too small for what it writes.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[Path], list[str]],
        rows: Callable[[Path], Any],
        pieces: str,
        environment: Mapping[str, str],
        before: tuple[str, ...] = (),
        room_kb: int = 80,
    ) -> None:
        self.name, self.command, self.rows = name, command, rows
        self.pattern, self.environment, self.before = pieces, dict(environment), before
        self.room_kb = room_kb
        self.undisturbed_s, self._begun = 0.0, list[Running]()
        self.expected: Any = None

    def measure(self, out: Path, warm: bool = True) -> None:
        """Run it undisturbed: what it should write, and in how long. ``warm``: once before, which fills the caches."""
        for place in [*([out.with_name(f"{out.name}-warm")] if warm else []), out]:
            running = self.begin(place)
            status, said = running.end()
            assert status == 0, said
        self.undisturbed_s = time.monotonic() - running.began
        self.expected = self.rows(out)

    def pieces(self, out: Path) -> int:
        return len(list(out.glob(self.pattern)))

    def begin(self, out: Path, **settings: str) -> Running:
        self._begun.append(Running(self, out, settings))
        return self._begun[-1]

    @contextmanager
    def ended(self) -> Iterator[None]:
        """No command that was begun meanwhile, or before, runs on behind it, however it ends."""
        try:
            yield
        finally:
            for running in self._begun:
                running.stop()
            self._begun.clear()

    def finish(
        self, running: Running, fault: str, tried: str, repair: Callable[[], float | None] = lambda: None
    ) -> Row:
        """Wait for its end, ``repair`` and run it again where it did not succeed, and compare. The seconds that
        ``repair`` returns are not the command's, and not counted as lost."""
        status, said = running.end()
        seen, recovered, paused_s = said or "nothing", "by itself", 0.0
        if status != 0:
            seen = f"status {status}" + (f": {said.removeprefix('coinfer: ')}" if said else "")
            recovered = "by running it again"
            paused_s = repair() or 0.0
            status, said = self.begin(running.out).end()
            assert status == 0, said
        lost_s = time.monotonic() - running.began - self.undisturbed_s - paused_s
        equal = self.rows(running.out) == self.expected
        return Row(fault, self.name, tried, seen.replace(str(running.out), "OUT"), recovered, lost_s, equal)


def rows_of_sweep(out: Path) -> Any:
    """Every answer of a sweep, its files' checksums read."""
    return open_sweep(out, check=True).to_table()


def rows_of_collection(out: Path) -> Any:
    """Every record, but for what clocks say."""
    table = store.read_records(out).table
    return table.drop_columns([name for name in CLOCKS if name in table.column_names])


def mount_small(place: Path, size: str) -> bool:
    """Mount a file system of so many bytes at ``place``, which is made; False where that is not allowed."""
    place.mkdir()
    return os.geteuid() == 0 and mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", place)


def mount(*arguments: str | Path) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


def unmount(place: Path) -> None:
    subprocess.run(["umount", str(place)], check=True)


SHIFTED_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long shift(void) {
    char text[32] = {0};
    int file = open(getenv("SHIFT_FILE"), O_RDONLY);
    if (file < 0) return 0;
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    return length > 0 ? atol(text) : 0;
}

int clock_gettime(clockid_t id, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(id, at);
    if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) at->tv_sec += shift();
    return failed;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""


def shifted_clock(folder: Path) -> dict[str, str] | None:
    """Variables under which a process's wall clock is off by as many seconds as the file that ``SHIFT_FILE`` names
    says, from when it is there; None where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    source, library = folder / "clock.c", folder / "clock.so"
    source.write_text(SHIFTED_CLOCK)
    done = subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], capture_output=True, check=False
    )
    return None if done.returncode else {"LD_PRELOAD": str(library), "SHIFT_FILE": str(folder / "shift")}
