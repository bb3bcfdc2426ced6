"""Exit statuses, the variable that asks for tracebacks, and how a process ends that is told to."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

EXIT_FAILURE, EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 130, 143
DEBUG_VARIABLE = "COINFER_DEBUG"
SEND_AGAIN_S = 0.05


@contextlib.contextmanager
def ended_by_sigterm(terminated: list[int]) -> Iterator[None]:
    """Let SIGTERM end what runs meanwhile as Ctrl-C does, and be noted in ``terminated``.

    All that cleans up after the one cleans up after the other. Python takes signals in its main thread alone, and drops
    what they raise within a callback from C (the compiler calls back), with a word on stderr: they are sent again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _: object) -> None:
        terminated.append(number)
        raise KeyboardInterrupt

    told = sys.unraisablehook

    def send_again(dropped: sys.UnraisableHookArgs) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            told(dropped)
            return
        number = signal.SIGTERM if terminated else signal.SIGINT
        again = threading.Timer(SEND_AGAIN_S, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()

    before = signal.signal(signal.SIGTERM, end)
    sys.unraisablehook = send_again
    try:
        yield
    finally:
        sys.unraisablehook = told
        signal.signal(signal.SIGTERM, before)


def end_after_sigterm() -> None:
    """End this process at once where it has used Ray, whose threads may crash while Python takes itself down after a
    start of theirs that was broken off. What is to be done at the end, and ends the processes that it started, is done.
    """
    if "ray" in sys.modules:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_TERMINATED)
