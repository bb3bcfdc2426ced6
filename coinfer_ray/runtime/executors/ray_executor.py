"""Tasks on Ray: the same behaviour on a laptop's cores and on a cluster's nodes.

One plain actor per worker, never restarted by Ray: a lost one (killed, out of memory, its node gone) is replaced
by a fresh actor, and only the task that it was running is charged with an attempt. Replacements that find no room
wait without holding up the others, so a cluster that shrinks goes on with what is left.

This module and ``ray_metrics`` are the only ones of the executors that import ray.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections import deque
from collections.abc import Generator, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, Self

# Ray's own answer to SIGTERM is a dump of its C++ stack and an abort; it reads this when it is imported.
os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")

import ray
from ray import cloudpickle
from ray.exceptions import RayError, RayTaskError

from coinfer_ray.errors import InputError, counted
from coinfer_ray.runtime.executors.around_ray import (
    captured_stderr,
    environment,
    own_sigterm,
    provide_token,
    watched_head,
)
from coinfer_ray.runtime.executors.base import Envelope, R, Start, T, WorkerContext, attempt, describe
from coinfer_ray.runtime.executors.ray_metrics import RunMetrics
from coinfer_ray.runtime.executors.tls import check_tls

_POLL_S = 1.0
_SHOWN = 300  # characters of Ray's message in ours
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


class RayExecutor:
    """Workers on a Ray cluster, or on a Ray that is started here and ends with this executor.

    Args:
        address: a running cluster (``host:port``, ``auto``). None: the one that ``RAY_ADDRESS`` names (as inside
            a Ray job), else a Ray of our own on this machine. A Ray that this process has already joined is used
            as it is and left running.
        workers: how many; None: as many as the cluster has room for now.
        cpus_per_worker: CPUs reserved and threads allowed for a worker.
        gpus_per_worker: GPUs reserved; a fraction lets workers share one.
        in_flight: tasks handed to a worker at a time; 2 hides the round trip where tasks are short.
        max_attempts: workers that a task may cost before it is given up with an error envelope.
        start_timeout_s: how long to wait for room for a first worker, or for any once all are lost.

    Raises (on entering):
        InputError: the cluster can't be reached or refuses our token, or no node has room for a worker.
    """

    def __init__(
        self,
        address: str | None = None,
        workers: int | None = None,
        cpus_per_worker: int = 1,
        gpus_per_worker: float = 0,
        in_flight: int = 1,
        max_attempts: int = 3,
        start_timeout_s: float = 120,
    ) -> None:
        if workers is not None and workers < 1:
            raise InputError(f"workers: {workers} must be 1 or more")
        self.address = address or os.environ.get("RAY_ADDRESS")
        self.workers = workers or 0
        self.cpus_per_worker = cpus_per_worker
        self.gpus_per_worker = gpus_per_worker
        self.in_flight = in_flight
        self.max_attempts = max_attempts
        self.start_timeout_s = start_timeout_s
        self._joined_here = False
        self._metrics: RunMetrics | None = None

    def __enter__(self) -> Self:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if not ray.is_initialized():
            try:
                self._join()
            except BaseException:
                ray.shutdown()
                raise
            self._joined_here = True
        if not self.workers:
            self.workers = _room(self.cpus_per_worker, self.gpus_per_worker)
            if not self.workers:
                self.__exit__(None, None, None)
                raise InputError(
                    f"executor: no node of the Ray cluster has {self.cpus_per_worker} CPUs and "
                    f"{self.gpus_per_worker:g} GPUs for a worker; ask for fewer, or say how many --workers to wait for"
                )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._joined_here:
            self._joined_here = False
            ray.shutdown()

    def run(
        self, start: Start[T, R], shared: Mapping[str, Any], tasks: Iterable[tuple[Hashable, T]]
    ) -> Generator[Envelope[R], None, None]:
        """See :class:`coinfer_ray.runtime.executors.base.Executor`.

        Raises:
            InputError: a node lacks the package, or ``start`` raised one there.
            RuntimeError: ``start`` failed, or no worker could be placed in time.
        """
        if not ray.is_initialized():
            raise RuntimeError("a RayExecutor runs tasks only inside its `with` block")
        crew: _Crew[T, R] = _Crew(self, start, shared, tasks)
        self._metrics = RunMetrics(start.__module__)
        head = _head()
        try:
            with watched_head(head, lambda: ray.is_initialized() and _head() == head):
                for envelope in crew.envelopes():
                    self._metrics.took(envelope, crew.ready)
                    yield envelope
        finally:
            if ray.is_initialized():  # else its workers have ended with it, and a call would start another Ray
                self._metrics.ended()
                crew.dismiss()

    def progressed(self, what: str, count: int) -> None:
        """See :class:`coinfer_ray.runtime.executors.base.Executor`."""
        if self._metrics is not None:
            self._metrics.progressed(what, count)

    def _join(self) -> None:
        with own_sigterm():
            if self.address is None or self.address == "local":
                self._start_local()
            else:
                self._join_cluster(self.address)

    def _start_local(self) -> None:
        cpus = self.workers * self.cpus_per_worker or None
        for last in (False, True):
            with environment(PYTHONPATH=os.pathsep.join(path for path in sys.path if path)):
                provide_token()
                try:
                    ray.init(
                        "local",
                        num_cpus=cpus,
                        include_dashboard=False,
                        logging_level=logging.ERROR,
                        log_to_driver=False,
                    )
                    return
                except Exception as error:
                    if "timed out" not in str(error):
                        raise
                    ray.shutdown()
            if last:
                raise InputError(
                    "executor: a local Ray did not start in time, twice: this machine is too busy; --executor local "
                    "needs none"
                )

    def _join_cluster(self, address: str) -> None:
        check_tls(address)
        with captured_stderr() as complaints:
            try:
                ray.init(address, logging_level=logging.ERROR, log_to_driver=False)
                return
            except (RayError, ConnectionError, RuntimeError, ValueError) as error:
                reason = _one_line(error)
                refused = "InvalidAuthToken" in complaints()
        if refused:
            raise InputError(
                f"address: the Ray cluster at {address} refuses our token; "
                "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a file with the cluster's"
            )
        raise InputError(f"address: the Ray cluster at {address} cannot be joined ({reason}); check the address")


class Worker:
    """The actor: limits its process to its threads and devices, then starts and runs what it is told to."""

    def __init__(self, threads: int) -> None:
        # Before anything is unpickled that might import numpy, numba or torch: they read these once.
        os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
        devices = [str(device) for device in ray.get_gpu_ids()]
        if not devices:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        gpu = None
        if devices:  # torch counts the visible devices, Ray those of the machine
            gpu = visible.index(devices[0]) if devices[0] in visible else int(devices[0])
        self.context = WorkerContext(threads, gpu)
        self.work: Any = None

    def placed(self) -> None:
        """Answers once the actor has a place."""

    def start(self, start: bytes, shared: Mapping[str, Any]) -> tuple[type[Exception], str] | None:
        """Unpickle and call ``start``; what went wrong comes back as (exception to raise in the driver, message)."""
        node: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        try:
            values = dict(zip(shared, ray.get(list(shared.values())), strict=True))
            self.work = cloudpickle.loads(start)(values, self.context)
        except InputError as error:
            return InputError, str(error)
        except Exception as error:
            if isinstance(error, ModuleNotFoundError):
                return InputError, _not_installed(str(error), node)
            return RuntimeError, f"a worker on node {node} could not start: {describe(error)}"
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(self.context.threads)
        return None

    def run(self, task: Any) -> tuple[Any, str | None, float]:
        return attempt(self.work, task)


@dataclass(eq=False)
class _Job(Generic[T]):
    task_id: Hashable
    task: T
    attempts: int = 0


@dataclass(eq=False)
class _Member(Generic[T]):
    """An actor of the crew. ``calls`` are its outstanding refs, oldest first; None stands for a call of ours."""

    actor: Any
    calls: dict[Any, _Job[T] | None] = field(default_factory=dict)
    placed: bool = False
    ready: bool = False


class _Crew(Generic[T, R]):
    """The workers of one run and what each of them is doing.

    A finished task costs the driver the same however many workers there are: what it needs of a member it finds by the
    call, and what is ready is asked for all calls at once.
    """

    def __init__(
        self,
        executor: RayExecutor,
        start: Start[T, R],
        shared: Mapping[str, Any],
        tasks: Iterable[tuple[Hashable, T]],
    ) -> None:
        self.executor = executor
        self.start = ray.put(cloudpickle.dumps(start))  # type: ignore[no-untyped-call]
        self.shared = {name: ray.put(value) for name, value in shared.items()}
        self.tasks = iter(tasks)
        self.returned: deque[_Job[T]] = deque()  # lost with their worker, to be tried again
        self.members: list[_Member[T]] = []
        self.member_of: dict[Any, _Member[T]] = {}  # by outstanding call
        self.hungry: dict[_Member[T], None] = {}  # ready, with room for a task; a set that keeps its order
        self.ready = 0  # members that are
        self.failed_starts = 0
        self.last_failure = ""
        self.unplaced_s = 0.0  # waited while no member had a place
        self.remote: Any = ray.remote(Worker).options(
            num_cpus=executor.cpus_per_worker,
            num_gpus=executor.gpus_per_worker,
            max_restarts=0,
            scheduling_strategy="SPREAD",
        )

    def envelopes(self) -> Iterator[Envelope[R]]:
        first = self._next_job()
        if first is None:
            return
        self.returned.append(first)
        for _ in range(self.executor.workers):
            self._hire()
        while True:
            self._hand_out()
            if not self.returned and not any(member.ready and member.calls for member in self.members):
                following = self._next_job()
                if following is None:
                    return
                self.returned.append(following)  # for a worker that is still to come
            for call in self._wait():
                if call in self.member_of:  # else answered already, with the rest of a lost member's
                    yield from self._settle(call)
                    self._hand_out()
            self._check_places()

    def _wait(self) -> list[Any]:
        """Calls that have ended: all of them where some have by now, else the first, if one does in a second.

        Ray looks at every call that it is to wait for; a driver that is behind asks once for all that came meanwhile.
        """
        calls = list(self.member_of)
        done, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
        if not done:
            began = time.monotonic()
            done, _ = ray.wait(calls, timeout=_POLL_S)
            self.unplaced_s += time.monotonic() - began
        return list(done)

    def dismiss(self) -> None:
        for member in self.members:
            ray.kill(member.actor)
        self.members.clear()
        self.member_of.clear()
        self.hungry.clear()
        self.ready = 0

    def _call(self, member: _Member[T], call: Any, job: _Job[T] | None) -> None:
        member.calls[call] = job
        self.member_of[call] = member

    def _hire(self) -> None:
        """A fresh actor, unless the last ones all died before they could work."""
        if self.failed_starts > self.executor.max_attempts:
            return
        actor: Any = self.remote.remote(max(1, self.executor.cpus_per_worker))
        member: _Member[T] = _Member(actor)
        self._call(member, actor.placed.remote(), None)
        self._call(member, actor.start.remote(self.start, self.shared), None)
        self.members.append(member)

    def _next_job(self) -> _Job[T] | None:
        if self.returned:
            return self.returned.popleft()
        following = next(self.tasks, None)
        return None if following is None else _Job(*following)

    def _hand_out(self) -> None:
        """Fill every ready member's window, one task a round, so that the last tasks spread over the members."""
        for depth in range(self.executor.in_flight):
            for member in self.hungry:
                if len(member.calls) == depth:
                    job = self._next_job()
                    if job is None:
                        return
                    self._call(member, member.actor.run.remote(job.task), job)
        self.hungry.clear()

    def _settle(self, call: Any) -> Iterator[Envelope[R]]:
        member = self.member_of[call]
        try:
            answer = ray.get(call)
        except RayTaskError as error:  # the task or its result could not travel
            text = describe(error.cause if isinstance(error.cause, Exception) else error)
            if member.calls[call] is None:
                raise RuntimeError(f"a worker could not start: {text}") from None
            answer = None, text, 0.0
        except RayError as error:
            yield from self._replace(member, error)
            return
        job = member.calls.pop(call)
        del self.member_of[call]
        if job is not None:
            self.hungry[member] = None
            value, text, seconds = answer
            yield Envelope(job.task_id, value, text, job.attempts + 1, seconds)
        elif not member.placed:
            member.placed = True
        elif answer is not None:
            failure, message = answer
            raise failure(message)
        else:
            member.ready = True
            self.ready += 1
            self.hungry[member] = None
            self.failed_starts = 0

    def _replace(self, member: _Member[T], error: RayError) -> Iterator[Envelope[R]]:
        """Take back a lost member's tasks and hire a fresh one.

        Calls run in order, so of those that failed the oldest was running; the others lost only their place.
        """
        self.members.remove(member)
        self.hungry.pop(member, None)
        self.ready -= member.ready
        for call in member.calls:
            del self.member_of[call]
        ray.kill(member.actor)  # a worker that can't be reached may still be alive
        reason = _one_line(error)
        if member.ready:
            self.failed_starts = 0
        else:
            missing = re.search(r"ModuleNotFoundError: (No module named \S+)", str(error))
            if missing:
                node = re.search(r"\bip=([\w.:]+)", str(error))
                raise InputError(_not_installed(missing[1], node[1] if node else "of the cluster"))
            self.failed_starts += 1
            self.last_failure = reason
        charged = False
        for call, job in member.calls.items():
            if job is None:
                continue
            answer = _finished(call)
            if answer is not None:
                yield Envelope(job.task_id, answer[0], answer[1], job.attempts + 1, answer[2])
                continue
            job.attempts += not charged
            charged = True
            if job.attempts < self.executor.max_attempts:
                self.returned.append(job)
            else:
                lost = f"WorkerDied: {counted(job.attempts, 'worker')} died over this task, the last one so: {reason}"
                yield Envelope(job.task_id, None, lost, job.attempts, 0.0)
        self._hire()

    def _check_places(self) -> None:
        if any(member.placed for member in self.members):
            self.unplaced_s = 0.0
        elif not self.members:
            raise RuntimeError(f"every worker died while starting, the last one so: {self.last_failure}")
        elif self.unplaced_s > self.executor.start_timeout_s:
            raise RuntimeError(
                f"no worker found a place in {self.executor.start_timeout_s:g} s; the cluster has no free "
                f"{self.executor.cpus_per_worker} CPUs and {self.executor.gpus_per_worker:g} GPUs on one node"
            )


def _head() -> str:
    """The address of the head of the cluster that this process has joined."""
    address: str = ray.get_runtime_context().gcs_address
    return address


def _finished(call: Any) -> Any:
    """The answer of a call that ended before its worker was lost, else None."""
    try:
        return ray.get(call, timeout=_POLL_S)
    except RayError:
        return None


def _room(cpus: float, gpus: float) -> int:
    """How many workers fit on the cluster's living nodes."""
    total = 0
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["Alive"]:
            resources = node["Resources"]
            fits = [resources.get(name, 0) / need for name, need in (("CPU", cpus), ("GPU", gpus)) if need > 0]
            total += int(min(fits, default=1))
    return total


def _not_installed(reason: str, node: str) -> str:
    return f"executor: {reason} on node {node}; install the same coinfer-ray on every node of the cluster"


def _one_line(error: BaseException) -> str:
    """Ray's message without its advice."""
    return " ".join(str(error).split()).split(" Some common causes", 1)[0][:_SHOWN]
