"""What starting or joining a Ray would change in this process, kept to while that is under way; and what to do when
the head of one is gone."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

ASK_S = 5.0  # between two questions whether the head is there
SILENT_S = 40.0  # without an answer until it is given up; Ray itself ends the process after 60, by its own clock


@contextmanager
def own_sigterm() -> Iterator[None]:
    """Keep what SIGTERM does. Starting a node or joining a cluster changes it: one that comes then waits up to 30 s for
    a node that nobody uses to drain, and ends the process as if it had failed."""
    set_handler = signal.signal

    def set_others(number: int, handler: Any) -> Any:
        return signal.getsignal(number) if number == signal.SIGTERM else set_handler(number, handler)

    with patch.object(signal, "signal", set_others):
        yield


@contextmanager
def captured_stderr() -> Iterator[Callable[[], str]]:
    """Take what any code of this process, Ray's C++ too, writes to stderr; yields a reader for it."""
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as file:

        def read() -> str:
            file.seek(0)
            return file.read().decode(errors="replace")

        os.dup2(file.fileno(), 2)
        try:
            yield read
        finally:
            os.dup2(before, 2)
            os.close(before)


@contextmanager
def watched_head(address: str, joined: Callable[[], bool]) -> Iterator[None]:
    """End this process with one line on stderr and status 2 where the head of a Ray cluster at ``address``
    (``host:port``) takes no connections for :data:`SILENT_S`, while this process has ``joined`` it.

    Nothing gentler is left then: Ray's calls do not return, no signal reaches Python in them, and Ray itself ends the
    process a little later, without an exception and with pages of its own state.
    """
    host, _, port = address.rpartition(":")
    over = threading.Event()

    def watch() -> None:
        silent_since = None
        while not over.wait(ASK_S) and joined():
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
                silent_since = None
            except OSError as error:
                now = time.monotonic()
                silent_since = now if silent_since is None else silent_since
                if now - silent_since > SILENT_S and not over.is_set():
                    reason = error.strerror or str(error)
                    print(
                        f"coinfer: executor: the Ray cluster's head at {address} has not answered for {SILENT_S:g} s "
                        f"({reason}); when it does, run again: what is done stays",
                        file=sys.stderr,
                        flush=True,
                    )
                    os._exit(2)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()


def provide_token() -> None:
    """Ray asks for a token from 2.60 on and would leave one in the home folder, readable by all: keep it to us."""
    known = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not known and not (Path.home() / ".ray" / "auth_token").exists():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Variables that the processes started within inherit."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
