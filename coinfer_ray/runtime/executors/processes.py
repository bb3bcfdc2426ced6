"""Tasks in processes of this machine: several workers where Ray is not installed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
from collections import deque
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

        waiting = ((task_id, task, 1) for task_id, task in tasks)
        queue = deque(islice(waiting, self.workers))
        if not queue:
            return
        with tempfile.TemporaryDirectory(prefix="coinfer-") as folder:
            # Arrays that are mapped from a file lie in memory once, however many workers read them.
            path = Path(folder) / "shared"
            joblib.dump(dict(shared), path)
            pool = self._pool(start, path, len(queue))
            running: dict[Future[_Outcome], tuple[Hashable, T, int]] = {}
            try:
                while queue or running:
                    broken = False
                    while queue and not broken:
                        try:
                            future = pool.submit(_run, queue[0][1])
                        except BrokenProcessPool:  # a worker died since the last look
                            broken = True
                        else:
                            running[future] = queue.popleft()
                    for future in () if broken else wait(running, return_when=FIRST_COMPLETED).done:
                        if isinstance(future.exception(), BrokenProcessPool):
                            broken = True
                            continue
                        task_id, _, attempts = running.pop(future)
                        value, error, seconds = future.result()
                        yield Envelope(task_id, value, error, attempts, seconds)
                    if broken:  # all that ran died with the one that is to blame
                        pool.shutdown(wait=True)
                        for future, (task_id, task, attempts) in running.items():
                            if future.exception() is None:  # it ended just before
                                yield Envelope(task_id, *future.result()[:2], attempts, future.result()[2])
                            elif attempts == MAX_ATTEMPTS:
                                yield Envelope(task_id, None, f"its worker died {attempts} times", attempts, 0.0)
                            else:
                                queue.append((task_id, task, attempts + 1))
                        running.clear()
                        pool = self._pool(start, path, self.workers)
                    queue.extend(islice(waiting, self.workers - len(running) - len(queue)))
            finally:
                if running:  # nobody waits for these any more, and a training takes minutes
                    for process in list((pool._processes or {}).values()):
                        process.terminate()
                pool.shutdown(wait=True, cancel_futures=True)

    def _pool(self, start: Start[T, R], path: Path, workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            min(workers, self.workers),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=(start, path, self.context),
        )

    def progressed(self, what: str, count: int) -> None:
        """See :class:`coinfer_ray.runtime.executors.base.Executor`."""

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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches all of them; the driver ends its workers
    threading.Thread(target=_end_with_the_driver, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = str(context.threads)
    try:
        _work = start(joblib.load(path, mmap_mode="r"), context)
    except Exception as error:
        _failure = error


def _end_with_the_driver() -> None:
    """A pool's workers would outlive a driver that is killed: they hold the pipe that they wait at open themselves."""
    driver = multiprocessing.parent_process()
    assert driver is not None
    driver.join()
    os._exit(1)


def _run(task: Any) -> _Outcome:
    if _failure is not None:
        raise _failure
    assert _work is not None
    return attempt(_work, task)
