"""What a run tells those who watch its Ray cluster: metrics of the application, which Ray exports to Prometheus.

Ray puts ``ray_`` before their names, and drops them where its dashboard's agent is not installed (``ray[default]``): a
run never waits for who watches.
"""

from __future__ import annotations

from typing import Any

from ray.util.metrics import Counter, Gauge

from coinfer_ray.runtime.executors.base import Envelope


class RunMetrics:
    """The metrics of one run; the tag ``run`` is what it was started with, the module of its workers' code."""

    def __init__(self, run: str) -> None:
        self._tasks = Counter("coinfer_tasks_done", "Tasks that succeeded: chunks of a sweep, candidates.", ("run",))
        self._failed = Counter("coinfer_tasks_failed", "Tasks that were given up.", ("run",))
        self._again = Counter("coinfer_tasks_retried", "Attempts that were lost with their worker.", ("run",))
        self._seconds = Counter("coinfer_worker_seconds", "Seconds that workers spent on tasks.", ("run",))
        self._steps = Counter("coinfer_progress", "What the command counts: scenarios.", ("run", "what"))
        self._workers = Gauge("coinfer_workers", "Workers that are ready.", ("run",))
        self._run = {"run": run}

    def took(self, envelope: Envelope[Any], workers: int) -> None:
        """Count a finished task, while so many workers are ready."""
        (self._tasks if envelope.error is None else self._failed).inc(tags=self._run)
        if envelope.attempts > 1:
            self._again.inc(envelope.attempts - 1, tags=self._run)
        if envelope.seconds > 0:
            self._seconds.inc(envelope.seconds, tags=self._run)
        self._workers.set(workers, tags=self._run)

    def progressed(self, what: str, count: int) -> None:
        """Count what tasks are made of."""
        if count > 0:
            self._steps.inc(count, tags={**self._run, "what": what})

    def ended(self) -> None:
        """No worker is left."""
        self._workers.set(0, tags=self._run)
