"""Tasks in processes of this machine: several workers where Ray is not installed."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Generator, Hashable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from coinfer_ray.errors import InputError
from coinfer_ray.runtime.executors.base import Envelope, R, Start, T, WorkerContext, attempt
from coinfer_ray.runtime.executors.local import allowed_threads

MAX_ATTEMPTS = 3  # workers that a task is given to: one that always kills its worker must not do so for ever

_Outcome = tuple[Any, str | None, float]


class ProcessExecutor:
    """``workers`` processes (default: one for each core that may be used), each with its share of the threads.

    All of them use the CUDA device of index ``gpu``, where one is given.
    """

    def __init__(self, workers: int | None = None, gpu: int | None = None) -> None:
        self.workers = allowed_threads() if workers is None else workers
        if self.workers < 1:
            raise InputError(f"workers: {self.workers} must be 1 or more")
        self.context = WorkerContext(max(1, allowed_threads() // self.workers), gpu)

    def run(
        self, start: Start[T, R], shared: Mapping[str, Any], tasks: Iterable[tuple[Hashable, T]]
    ) -> Generator[Envelope[R], None, None]:
        """See :class:`coinfer_ray.runtime.executors.base.Executor`."""
        import joblib

        waiting = iter(tasks)
        first = list(islice(waiting, self.workers))
        if not first:
            return
        with tempfile.TemporaryDirectory(prefix="coinfer-") as folder:
            # Arrays that are mapped from a file lie in memory once, however many workers read them.
            path = Path(folder) / "shared"
            joblib.dump(dict(shared), path)
            pool = self._pool(start, path, len(first))
            running: dict[Future[_Outcome], tuple[Hashable, T, int]] = {}
            try:
                for task_id, task in first:
                    running[pool.submit(_run, task)] = task_id, task, 1
                while running:
                    again: list[tuple[Hashable, T, int]] = []
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        task_id, task, attempts = running.pop(future)
                        try:
                            value, error, seconds = future.result()
                        except BrokenProcessPool:
                            if attempts < MAX_ATTEMPTS:
                                again.append((task_id, task, attempts + 1))
                                continue
                            value, error, seconds = None, f"its worker died {attempts} times", 0.0
                        yield Envelope(task_id, value, error, attempts, seconds)
                    if again:  # all that ran died with the one that is to blame
                        again += [(task_id, task, attempts + 1) for task_id, task, attempts in running.values()]
                        running.clear()
                        pool.shutdown(wait=True)
                        pool = self._pool(start, path, self.workers)
                    again += [(*one, 1) for one in islice(waiting, self.workers - len(running) - len(again))]
                    for task_id, task, attempts in again:
                        running[pool.submit(_run, task)] = task_id, task, attempts
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _pool(self, start: Start[T, R], path: Path, workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            min(workers, self.workers),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=(start, path, self.context),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


_work: Callable[[Any], Any] | None = None
_failure: BaseException | None = None


def _start(start: Start[Any, Any], path: Path, context: WorkerContext) -> None:
    """Begin a worker. What goes wrong is kept: raised here it would only break the pool, without a reason."""
    import joblib

    global _work, _failure
    os.environ["OMP_NUM_THREADS"] = str(context.threads)
    try:
        _work = start(joblib.load(path, mmap_mode="r"), context)
    except Exception as error:
        _failure = error


def _run(task: Any) -> _Outcome:
    if _failure is not None:
        raise _failure
    assert _work is not None
    return attempt(_work, task)
