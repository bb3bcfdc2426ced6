"""Tasks in the calling process, one after the other: for debugging, small runs and machines without Ray."""

from __future__ import annotations

import os
from collections.abc import Generator, Hashable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from coinfer_ray.executors.base import Envelope, R, Start, T, WorkerContext, attempt


class LocalExecutor:
    """One worker: this process, with ``threads`` threads (default: as many as it may run on) and maybe a GPU."""

    workers = 1

    def __init__(self, threads: int | None = None, gpu: int | None = None) -> None:
        self.context = WorkerContext(threads or os.cpu_count() or 1, gpu)

    def run(
        self, start: Start[T, R], shared: Mapping[str, Any], tasks: Iterable[tuple[Hashable, T]]
    ) -> Generator[Envelope[R], None, None]:
        """See :class:`coinfer_ray.executors.base.Executor`."""
        work = start(shared, self.context)
        for task_id, task in tasks:
            value, error, seconds = attempt(work, task)
            yield Envelope(task_id, value, error, 1, seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None
