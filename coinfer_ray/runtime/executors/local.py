"""Tasks in the calling process, one after the other: for debugging, small runs and machines without Ray."""

from __future__ import annotations

import os
from collections.abc import Generator, Hashable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from coinfer_ray.runtime.executors.base import Envelope, R, Start, T, WorkerContext, attempt


def allowed_threads() -> int:
    """The cores that this process may run on, or ``$OMP_NUM_THREADS`` where that is less.

    Who runs several processes side by side says so by one or the other; threads beyond that wait for each other in
    busy loops, and a training run takes many times as long.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # OpenMP allows a list, the first for the outermost level; whatever is no number there OpenMP ignores too.
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(cores, int(asked)) if asked.isdecimal() and int(asked) else cores


class LocalExecutor:
    """One worker: this process, with ``threads`` threads (default: :func:`allowed_threads`) and maybe a GPU."""

    workers = 1

    def __init__(self, threads: int | None = None, gpu: int | None = None) -> None:
        self.context = WorkerContext(threads or allowed_threads(), gpu)

    def run(
        self, start: Start[T, R], shared: Mapping[str, Any], tasks: Iterable[tuple[Hashable, T]]
    ) -> Generator[Envelope[R], None, None]:
        """See :class:`coinfer_ray.runtime.executors.base.Executor`."""
        work = start(shared, self.context)
        for task_id, task in tasks:
            value, error, seconds = attempt(work, task)
            yield Envelope(task_id, value, error, 1, seconds)

    def progressed(self, what: str, count: int) -> None:
        """See :class:`coinfer_ray.runtime.executors.base.Executor`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None
