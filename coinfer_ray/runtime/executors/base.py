"""What runs tasks: one small interface, in process or on a Ray cluster.

A worker is made once by a module-level function ``start`` from shared values and its own context; what it returns
is called for every task. Results come back in envelopes in the order in which they finish; an exception in a task
is an envelope that says so and stops nothing. ``tests/conformance`` holds every executor to the same behaviour.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Generator, Hashable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class WorkerContext:
    """What a worker may use: ``threads`` CPU threads, and the CUDA device of index ``gpu`` (None: no GPU)."""

    threads: int
    gpu: int | None = None


@dataclass(frozen=True)
class Envelope(Generic[R]):
    """The outcome of one task.

    ``error`` is None where the task succeeded; otherwise its first line says what went wrong and the lines after
    it are the traceback. ``attempts`` counts the workers that it was given to: more than 1 where some were lost
    while they ran it. ``seconds`` is the wall time of the last attempt on its worker.
    """

    task_id: Hashable
    value: R | None
    error: str | None
    attempts: int
    seconds: float

    @property
    def reason(self) -> str:
        """The error in one line; empty where the task succeeded."""
        return self.error.splitlines()[0] if self.error else ""


Start = Callable[[Mapping[str, Any], WorkerContext], Callable[[T], R]]


class Executor(Protocol):
    """Runs tasks on ``workers`` workers. A context manager: entering starts what it needs, leaving ends it."""

    workers: int

    def run(
        self,
        start: Start[T, R],
        shared: Mapping[str, Any],
        tasks: Iterable[tuple[Hashable, T]],
    ) -> Generator[Envelope[R], None, None]:
        """Yield one envelope for each (id, task), in order of completion.

        ``start`` is importable by name on every worker. ``shared`` values reach a worker once, before ``start``;
        their numpy arrays may be read-only. ``tasks`` is read only as far ahead as the workers need. An exception
        in ``start`` is raised here: no task could run.
        """
        ...

    def progressed(self, what: str, count: int) -> None:
        """Tell whoever watches the executor (metrics on Ray, nobody elsewhere) that ``count`` more of ``what`` the
        tasks are made of is done; while :meth:`run` is under way."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def attempt(work: Callable[[T], R], task: T) -> tuple[R | None, str | None, float]:
    """Run one task: (value, error as an :class:`Envelope` holds it, seconds)."""
    began = time.perf_counter()
    try:
        return work(task), None, time.perf_counter() - began
    except Exception as error:
        return None, describe(error), time.perf_counter() - began


def describe(error: BaseException) -> str:
    """One line with the exception's type and message, then its traceback."""
    message = " ".join(str(error).split())
    head = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return head + "\n" + "".join(traceback.format_exception(error)).rstrip()
