"""Every executor behaves the same: one suite, run on each of them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from ray import cloudpickle

from coinfer_ray.errors import InputError
from coinfer_ray.runtime.executors import EXECUTORS, Executor, WorkerContext, make_executor
from coinfer_ray.runtime.executors.local import LocalExecutor

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # this file is importable here, not on a worker


@pytest.fixture(scope="module", params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with make_executor(request.param, workers=2) as started:
        yield started


def start_adder(shared: Mapping[str, Any], context: WorkerContext) -> Callable[[int], float]:
    total = float(shared["table"].sum())
    return lambda task: total + task


def start_reporter(shared: Mapping[str, Any], context: WorkerContext) -> Callable[[Any], Any]:
    made = (os.getpid(), time.monotonic_ns())
    return lambda task: (made, context)


def start_fussy(shared: Mapping[str, Any], context: WorkerContext) -> Callable[[int], int]:
    def work(task: int) -> int:
        if task % 3 == 0:
            raise ValueError(f"task {task}\nis a multiple")
        return task

    return work


def start_broken(shared: Mapping[str, Any], context: WorkerContext) -> Callable[[int], int]:
    raise shared["error"]


def test_every_task_comes_back_once(executor: Executor) -> None:
    shared = {"table": np.arange(10.0)}
    envelopes = list(executor.run(start_adder, shared, ((f"t{n}", n) for n in range(23))))
    assert {envelope.task_id: envelope.value for envelope in envelopes} == {f"t{n}": 45.0 + n for n in range(23)}
    assert len(envelopes) == 23
    assert all(envelope.error is None and envelope.attempts == 1 for envelope in envelopes)
    assert all(envelope.seconds >= 0 for envelope in envelopes)


def test_progress_may_be_told(executor: Executor) -> None:
    for envelope in executor.run(start_adder, {"table": np.zeros(1)}, [("a", 1)]):
        executor.progressed("scenarios", 3)
        executor.progressed("scenarios", 0)
        assert envelope.value == 1


def test_no_tasks(executor: Executor) -> None:
    assert list(executor.run(start_adder, {"table": np.zeros(1)}, [])) == []


def test_a_worker_starts_once(executor: Executor) -> None:
    values = [envelope.value for envelope in executor.run(start_reporter, {}, ((n, None) for n in range(12)))]
    started: dict[int, set[int]] = {}
    for (process, moment), context in values:
        started.setdefault(process, set()).add(moment)
        assert context.threads >= 1
        assert context.gpu is None
    assert all(len(moments) == 1 for moments in started.values())
    assert len(started) <= executor.workers


def test_an_exception_stops_nothing(executor: Executor) -> None:
    envelopes = {envelope.task_id: envelope for envelope in executor.run(start_fussy, {}, ((n, n) for n in range(9)))}
    assert sorted(envelopes) == list(range(9))
    for task, envelope in envelopes.items():
        if task % 3 == 0:
            assert envelope.value is None
            assert envelope.reason == f"ValueError: task {task} is a multiple"
            assert envelope.error is not None
            assert "Traceback" in envelope.error and "in work" in envelope.error
        else:
            assert (envelope.value, envelope.error, envelope.reason) == (task, None, "")


def test_tasks_are_read_no_further_than_needed(executor: Executor) -> None:
    read = 0

    def tasks() -> Iterator[tuple[int, int]]:
        nonlocal read
        for read in range(1, 101):
            yield read, read

    for finished, _ in enumerate(executor.run(start_adder, {"table": np.zeros(1)}, tasks()), start=1):
        assert read <= finished + executor.workers
        if finished == 20:
            break
    assert read < 100


def test_another_run_after_one_left_early(executor: Executor) -> None:
    tasks = ((n, n) for n in range(50))
    next(iter(executor.run(start_adder, {"table": np.zeros(1)}, tasks)))
    rest = list(executor.run(start_adder, {"table": np.ones(1)}, [("last", 1)]))
    assert [(envelope.task_id, envelope.value) for envelope in rest] == [("last", 2.0)]


@pytest.mark.parametrize(
    ("error", "expected"),
    [(InputError("data: nothing there"), InputError), (OSError("no disk"), (OSError, RuntimeError))],
)
def test_a_start_that_fails_is_raised(executor: Executor, error: Exception, expected: Any) -> None:
    with pytest.raises(expected, match=str(error)):
        list(executor.run(start_broken, {"error": error}, [(0, 0)]))


def test_unknown_name() -> None:
    with pytest.raises(InputError, match=r"executor: 'rai' is unknown; did you mean ray\?"):
        make_executor("rai")


def test_no_workers() -> None:
    with pytest.raises(InputError, match="workers: 0 must be 1 or more"):
        make_executor("ray", workers=0)


@pytest.mark.parametrize(
    ("asked", "allowed"), [("", 3), ("1", 1), ("2,1", 2), ("8", 3), ("0", 3), ("many", 3), (" 2 ", 2)]
)
def test_a_local_worker_leaves_room_for_others(monkeypatch: pytest.MonkeyPatch, asked: str, allowed: int) -> None:
    """Several of them side by side are told their share by the cores they may run on or by OpenMP's variable."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 5}, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert LocalExecutor().context.threads == allowed


def start_fatal(shared: Mapping[str, Any], context: WorkerContext) -> Callable[[int], int]:
    marks = str(shared["marks"])

    def work(task: int) -> int:
        if task == 3 and len(os.listdir(marks)) < shared["deaths"]:
            open(os.path.join(marks, str(time.monotonic_ns())), "w").close()
            os._exit(9)
        return task

    return work


@pytest.mark.parametrize("deaths", [1, 9])
def test_processes_that_die_are_replaced(tmp_path: Any, deaths: int) -> None:
    """A task that kills its worker once is done by another; one that always does ends as a failure."""
    with make_executor("processes", workers=2) as executor:
        shared = {"marks": str(tmp_path), "deaths": deaths}
        envelopes = {one.task_id: one for one in executor.run(start_fatal, shared, ((n, n) for n in range(8)))}
    assert sorted(envelopes) == list(range(8))
    failed = {n for n, one in envelopes.items() if one.error is not None}
    if deaths == 1:
        assert not failed and envelopes[3].attempts == 2
    else:
        assert 3 in failed and envelopes[3].reason == "its worker died 3 times"
        assert all(envelopes[n].value == n for n in set(range(8)) - failed) and len(failed) <= 2
