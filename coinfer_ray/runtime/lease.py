"""One driver at a time on a store that has no locks: a lock object that its holder keeps renewing.

Every driver writes a lock object of its own and then lists all of them; where it sees another that is alive it takes
its own back and says whose store it is. Writing comes before listing, so of two drivers that begin together at least
one sees the other (in a store whose listings show what was written before; those of S3, GCS and HDFS do): both may be
refused, never neither.

What is not guarded: a holder that could not renew its lock for :data:`LEASE_S` (suspended, cut off) passes for dead
and writes nothing of its own accord once it notices, but a write that is on its way then still lands.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from coinfer_ray.errors import InputError
from coinfer_ray.runtime.stores import Seen

LEASE_S = 120.0  # that a lock is good for
RENEW_S = 15.0
PREFIX = ".coinfer-lock-"


class Locks(Protocol):
    """What a store has to do for leases."""

    def locks(self) -> dict[str, Seen]: ...
    def put(self, name: str, content: bytes) -> None: ...
    def read(self, name: str) -> bytes: ...
    def remove(self, name: str) -> None: ...


@dataclass(frozen=True)
class Holder:
    """A driver: process ``pid`` of ``host``, begun at ``started`` by the clock of ``kernel``, the one that runs it and
    in which its number means something; both None where the system does not say."""

    pid: int
    host: str
    token: str
    kernel: str | None
    started: str | None

    @classmethod
    def this(cls) -> Holder:
        return cls(os.getpid(), platform.node(), secrets.token_hex(4), _kernel(), _started(os.getpid()))

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} ({self.token})"

    @property
    def is_dead(self) -> bool:
        """Whether it is certain, for it ran under this kernel and runs no more."""
        return self.kernel is not None and self.kernel == _kernel() and self.started != _started(self.pid)


class Lease:
    """The lock of one driver."""

    def __init__(self, store: Locks) -> None:
        self.store = store
        self.holder = Holder.this()
        self.name = f"{PREFIX}{self.holder.token}"
        self._content = json.dumps(asdict(self.holder)).encode()
        self._renewed = 0.0
        self._ended = threading.Event()

    def renew(self) -> None:
        asked = time.monotonic()
        self.store.put(self.name, self._content)
        self._renewed = asked

    def check(self) -> None:
        """Raise InputError where the lock was not renewed in time, so that another driver may be at work."""
        if time.monotonic() - self._renewed > LEASE_S:
            raise InputError(
                f"out: the lock of {self.store} could not be renewed for {LEASE_S:g} s, another run may have begun "
                "there; run again, what is done is done"
            )

    def keep(self) -> None:
        """Renew the lock until :meth:`end`, in a thread."""
        while not self._ended.wait(RENEW_S):
            if time.monotonic() - self._renewed > LEASE_S:
                return  # no longer ours: `check` says so
            with suppress(InputError):  # the store is out of reach: the next time, or never
                self.renew()

    def end(self) -> None:
        self._ended.set()
        with suppress(InputError):
            self.store.remove(self.name)


@contextmanager
def leased(store: Locks) -> Iterator[Lease]:
    """Hold ``store`` as its only driver.

    Raises:
        InputError: another driver holds it, or it cannot be written.
    """
    lease = Lease(store)
    lease.renew()
    keeper = threading.Thread(target=lease.keep, daemon=True)
    try:
        seen = store.locks()
        now_s = seen[lease.name].time_s if lease.name in seen else time.time()
        # Our own is not read back: a store may let us write what it does not let us read.
        others = {name: lock for name, lock in seen.items() if name != lease.name}
        for name, holder in holders(store, others):
            quiet_s = now_s - seen[name].time_s
            if quiet_s <= LEASE_S and not holder.is_dead:
                raise InputError(
                    f"out: {store} is in use by {holder}, last heard of {max(0, round(quiet_s))} s ago; wait for it "
                    f"(if it was killed: {LEASE_S:g} s), or give another place"
                )
            store.remove(name)
        keeper.start()
        yield lease
    finally:
        lease.end()
        if keeper.ident is not None:
            keeper.join()


def holders(store: Locks, seen: dict[str, Seen]) -> Iterator[tuple[str, Holder]]:
    """Who wrote the locks that are ``seen``, the newest first."""
    for name in sorted(seen, key=lambda name: -seen[name].time_s):
        try:
            yield name, Holder(**json.loads(store.read(name)))
        except FileNotFoundError:
            continue  # taken back meanwhile
        except (ValueError, TypeError):
            raise InputError(f"out: {store}/{name} is no lock of ours; remove it") from None


def _kernel() -> str | None:
    """The running kernel and the space of its process numbers; None on systems that do not name them."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When a process was begun, in the kernel's ticks; None where there is none of that number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
