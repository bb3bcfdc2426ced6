"""What only Ray has: workers that are killed, places that are not there, and processes to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray import cloudpickle

from coinfer_ray.errors import InputError
from coinfer_ray.predictor.obtain import obtain_predictor
from coinfer_ray.runtime.executors import WorkerContext
from coinfer_ray.runtime.executors.ray_executor import RayExecutor
from coinfer_ray.sweeps.chunks import start_worker
from coinfer_ray.sweeps.sweep import FAILED_FILE, sweep
from tests.cluster.nodes import alive, descendants, wait_until
from tests.synthetic import write_synthetic_records

cloudpickle.register_pickle_by_value(sys.modules[__name__])

CPUS = 2


@pytest.fixture(scope="module", autouse=True)
def own_ray() -> Iterator[None]:
    """A Ray of this module's own; the executors below join it and leave it running."""
    with RayExecutor(workers=CPUS):
        yield
    assert not ray.is_initialized()


def start_killable(shared: Mapping[str, Any], context: WorkerContext) -> Callable[[Any], Any]:
    """Tasks are (name, how often to die): the worker kills itself, hard, on the first attempts."""
    folder = Path(shared["folder"])

    def work(task: tuple[str, int]) -> str:
        name, deaths = task
        died = len(list(folder.glob(f"{name}.*")))
        if died < deaths:
            (folder / f"{name}.{died}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return name

    return work


def start_reporter(shared: Mapping[str, Any], context: WorkerContext) -> Callable[[Any], Any]:
    table: np.ndarray = shared["table"]
    names = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    settings = {name: os.environ.get(name) for name in names}
    return lambda task: (table.flags.writeable, float(table.sum()), context, settings)


def start_sleeper(shared: Mapping[str, Any], context: WorkerContext) -> Callable[[float], int]:
    def work(seconds: float) -> int:
        time.sleep(seconds)
        return os.getpid()

    return work


def start_fragile(shared: Mapping[str, Any], context: WorkerContext) -> Callable[[Any], Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def start_locks(shared: Mapping[str, Any], context: WorkerContext) -> Callable[[Any], Any]:
    return lambda task: threading.Lock() if task else task


def test_a_killed_worker_costs_its_task_one_attempt(tmp_path: Path) -> None:
    tasks = [(n, (f"t{n}", 1 if n in (3, 8) else 0)) for n in range(12)]
    with RayExecutor(workers=2) as executor:
        envelopes = {e.task_id: e for e in executor.run(start_killable, {"folder": str(tmp_path)}, tasks)}
    assert {task: envelope.value for task, envelope in envelopes.items()} == {n: f"t{n}" for n in range(12)}
    assert {task for task, envelope in envelopes.items() if envelope.attempts == 2} == {3, 8}
    assert all(envelope.attempts <= 2 for envelope in envelopes.values())


def test_a_task_that_always_kills_is_given_up(tmp_path: Path) -> None:
    tasks = [(name, (name, 99 if name == "deadly" else 0)) for name in ("a", "deadly", "b", "c")]
    with RayExecutor(workers=1, max_attempts=2) as executor:
        envelopes = {e.task_id: e for e in executor.run(start_killable, {"folder": str(tmp_path)}, tasks)}
    assert {name for name, envelope in envelopes.items() if envelope.error is None} == {"a", "b", "c"}
    assert envelopes["deadly"].attempts == 2
    assert envelopes["deadly"].reason.startswith("WorkerDied: 2 workers died over this task, the last one so: ")
    assert "\n" not in (envelopes["deadly"].error or "")


def test_a_chunk_whose_workers_die_is_tried_again_by_the_next_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file is missing and its failure kept; the others' files stay, and the second run does this one alone."""
    records = write_synthetic_records(tmp_path / "records.parquet", count=60)
    grid = {"model": ["alexnet"], "device": ["tk1"], "server": ["p100"], "link": ["3g", "4g", "wifi"], "max_loss": 0.2}
    out, deadly = tmp_path / "out", tmp_path / "deadly"
    deadly.touch()

    def start(shared: Mapping[str, Any], context: WorkerContext) -> Callable[[Any], Any]:
        work = start_worker(shared, context)

        def solve(chunk: Any) -> Any:
            if chunk.number == 1 and deadly.exists():
                os.kill(os.getpid(), signal.SIGKILL)
            return work(chunk)

        return solve

    monkeypatch.setattr("coinfer_ray.sweeps.sweep.start_worker", start)

    def run() -> Any:
        predictor = obtain_predictor(records, model="alexnet", regressor="decision_tree")
        with RayExecutor(workers=1, max_attempts=1) as executor:
            return sweep(
                grid,
                out,
                solver="paper",
                solver_options={"max_evaluations": 50},
                chunk=1,
                executor=executor,
                records=predictor,
                quiet=True,
            )

    with pytest.raises(RuntimeError, match="1 of 3 chunks failed, chunk 1 so: WorkerDied: 1 worker died over this"):
        run()
    done = {path: path.stat().st_mtime_ns for path in out.glob("*/chunk-*.parquet")}
    assert sorted(path.name for path in done) == ["chunk-000000.parquet", "chunk-000002.parquet"]
    (kept,) = json.loads((out / FAILED_FILE).read_text())
    assert kept["chunk"] == 1 and kept["attempts"] == 1
    deadly.unlink()
    assert run().to_table()["scenario"].to_pylist() == [0, 1, 2]
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert not (out / FAILED_FILE).exists()


def test_a_task_that_only_waited_is_not_charged(tmp_path: Path) -> None:
    with RayExecutor(workers=1, in_flight=3) as executor:
        tasks = [(name, (name, deaths)) for name, deaths in (("first", 1), ("second", 0), ("third", 0))]
        envelopes = {e.task_id: e for e in executor.run(start_killable, {"folder": str(tmp_path)}, tasks)}
    assert {name: envelope.attempts for name, envelope in envelopes.items()} == {"first": 2, "second": 1, "third": 1}


def test_a_driver_that_is_behind_asks_once_for_all_that_came_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray looks at every call that it waits for: a question for each task would cost as much as there are workers."""
    wait, asked = ray.wait, list[int]()

    def late(calls: list[Any], **how: Any) -> Any:
        if how["timeout"] == 0:
            wait(calls, num_returns=len(calls))  # so long did the driver do something else
        asked.append(len(calls))
        return wait(calls, **how)

    monkeypatch.setattr(ray, "wait", late)
    with RayExecutor(workers=1, in_flight=10) as executor:
        done = [envelope.task_id for envelope in executor.run(start_sleeper, {}, ((n, 0.0) for n in range(40)))]
    assert sorted(done) == list(range(40))
    assert asked == [2, 10, 10, 10, 10]  # a place and a start, then a whole window each time


def test_workers_are_bounded_and_share_arrays() -> None:
    table = np.ones(1_000_000)
    with RayExecutor(workers=2) as executor:
        reports = [e.value for e in executor.run(start_reporter, {"table": table}, ((n, n) for n in range(6)))]
    for writeable, total, context, settings in reports:
        assert not writeable  # zero-copy, from the object store
        assert total == 1e6
        assert context == WorkerContext(threads=1, gpu=None)
        assert settings == {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def test_threads_follow_the_reserved_cpus() -> None:
    with RayExecutor(workers=1, cpus_per_worker=2) as executor:
        (envelope,) = executor.run(start_reporter, {"table": np.ones(1)}, [(0, 0)])
    assert envelope.value is not None
    assert (envelope.value[2].threads, envelope.value[3]["NUMBA_NUM_THREADS"]) == (2, "2")


def test_a_result_that_cannot_travel_is_an_error() -> None:
    with RayExecutor(workers=1) as executor:
        envelopes = {e.task_id: e for e in executor.run(start_locks, {}, [("bad", 1), ("good", 0)])}
    assert envelopes["good"].value == 0
    assert "cannot pickle '_thread.lock' object" in (envelopes["bad"].error or "")


def test_workers_without_a_place_hold_up_nothing() -> None:
    with RayExecutor(workers=CPUS + 3) as executor:
        pids = [e.value for e in executor.run(start_sleeper, {}, ((n, 0.05) for n in range(20)))]
    assert len(pids) == 20
    assert len(set(pids)) <= CPUS


def test_no_place_at_all() -> None:
    with (
        RayExecutor(workers=1, gpus_per_worker=64, start_timeout_s=2) as executor,
        pytest.raises(RuntimeError, match="no worker found a place in 2 s"),
    ):
        list(executor.run(start_sleeper, {}, [(0, 0.0)]))
    with pytest.raises(InputError, match="no node of the Ray cluster has 1 CPUs and 64 GPUs for a worker"):
        RayExecutor(gpus_per_worker=64).__enter__()
    assert ray.is_initialized()


def test_workers_that_all_die_while_starting() -> None:
    with RayExecutor(workers=2) as executor, pytest.raises(RuntimeError, match="every worker died while starting"):
        list(executor.run(start_fragile, {}, [(0, 0)]))


def test_as_many_workers_as_there_is_room() -> None:
    with RayExecutor() as executor:
        assert executor.workers == CPUS
    with RayExecutor(cpus_per_worker=2) as executor:
        assert executor.workers == CPUS // 2


# A shell that starts this suite in the background has its processes ignore SIGINT.
DRIVER = """
import signal, time
from coinfer_ray.runtime.executors import make_executor
signal.signal(signal.SIGINT, signal.default_int_handler)
def start(shared, context):
    return time.sleep
with make_executor("ray", workers=1) as executor:
    for envelope in executor.run(start, {}, [(0, 0.01), (1, 600)]):
        print("first", flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_its_driver(how: signal.Signals, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "HOME": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "first\n"
        children = descendants(driver.pid)
        assert len(children) >= 3  # at least the GCS, a raylet and a worker
        if how is signal.SIGKILL:  # Ray's two agents of a node see its end only after a minute, and end then
            children = {child for child in children if b"Agent" not in Path(f"/proc/{child}/cmdline").read_bytes()}
        driver.send_signal(how)
        try:
            wait_until(lambda: not any(map(alive, children)), f"{len(children)} processes end")
            _, errors = driver.communicate(timeout=30)
        finally:
            driver.kill()  # one that goes on would keep this block waiting for its task's ten minutes
    if how is signal.SIGINT:
        assert errors.rstrip().endswith("KeyboardInterrupt")
    assert not (tmp_path / ".ray" / "auth_token").exists()  # the token of a Ray of our own stays in memory


def test_only_inside_the_with_block() -> None:
    code = (
        "from coinfer_ray.runtime.executors.ray_executor import RayExecutor\n"
        "try: list(RayExecutor(workers=1).run(None, {}, []))\n"
        "except RuntimeError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "a RayExecutor runs tasks only inside its `with` block\n"


LATE = """
import ray
from coinfer_ray.runtime.executors.ray_executor import RayExecutor

def start(shared, context):
    return lambda task: task

with RayExecutor(workers=1) as executor:
    running = executor.run(start, {}, ((number, number) for number in range(9)))
    next(running)
running.close()
assert not ray.is_initialized()
"""


def test_a_run_that_is_closed_after_its_executor_starts_no_other_ray() -> None:
    """As where an exception leaves the loop over a run: its generator is closed when nobody holds it any more."""
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, check=False, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
