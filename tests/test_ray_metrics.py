"""What a run on Ray tells those who watch: read from the metrics' own objects, on a real local Ray."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle
from ray.util import metrics

from coinfer_ray.runtime.executors import Envelope, WorkerContext, make_executor
from coinfer_ray.runtime.executors.ray_metrics import RunMetrics

ENDPOINT = """
import logging, time, urllib.request
import ray
from coinfer_ray.runtime.executors import make_executor

def start(shared, context):
    return lambda task: 1 / task

port = {port}
ray.init(
    "local",
    num_cpus=1,
    include_dashboard=False,
    logging_level=logging.ERROR,
    log_to_driver=False,
    _metrics_export_port=port,
)
with make_executor("ray", workers=1) as executor:
    running = executor.run(start, {{}}, ((number, number) for number in (1, 0, 2)))
    for _ in range(3):  # not to its end, so that the worker is still there
        next(running)
        executor.progressed("scenarios", 5)
    deadline = time.monotonic() + 100
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{{port}}/metrics", timeout=5) as page:
                lines = [line for line in page.read().decode().splitlines() if line.startswith("ray_coinfer")]
        except OSError:
            lines = []
        told = any("progress" in line and line.endswith(" 15.0") for line in lines)  # the last that was counted
        if told or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    print("\\n".join(lines))
"""


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], list[float]]:
    """(name, tag ``what``) -> the values that Ray was given."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    record = metrics.Metric._record

    def listen(self: Any, value: float, tags: Any = None) -> None:
        if self.info["name"].startswith("coinfer"):
            found[self.info["name"], (tags or {}).get("what", "")].append(value)
        record(self, value, tags)

    monkeypatch.setattr(metrics.Metric, "_record", listen)
    return found


def start_dividing(shared: Mapping[str, Any], context: WorkerContext) -> Callable[[int], float]:
    return lambda task: 1 / task


def test_a_run_counts_its_tasks_its_failures_and_what_it_is_told(recorded: dict[tuple[str, str], list[float]]) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a worker does not see this file
    with make_executor("ray", workers=1) as executor:
        for envelope in executor.run(start_dividing, {}, ((number, number) for number in (1, 0, 2, 4))):
            executor.progressed("scenarios", 5 if envelope.error is None else 0)
    counted = {name: sum(values) for name, values in recorded.items() if name[0] != "coinfer_workers"}
    seconds = counted.pop(("coinfer_worker_seconds", ""))
    assert seconds > 0
    assert counted == {
        ("coinfer_tasks_done", ""): 3,
        ("coinfer_tasks_failed", ""): 1,
        ("coinfer_progress", "scenarios"): 15,
    }
    assert recorded["coinfer_workers", ""] == [1, 1, 1, 1, 0]


def test_attempts_beyond_the_first_were_lost(recorded: dict[tuple[str, str], list[float]]) -> None:
    told = RunMetrics("tests")
    told.took(Envelope("a", None, "WorkerDied: 3 workers died", 3, 0.0), 2)
    assert recorded == {
        ("coinfer_tasks_failed", ""): [1],
        ("coinfer_tasks_retried", ""): [2],
        ("coinfer_workers", ""): [2],
    }


def test_the_names_are_those_of_the_documentation() -> None:
    """Read from the endpoint that Prometheus reads, where Ray's agent is installed."""
    pytest.importorskip("prometheus_client", reason="ray[default] is not installed")
    pytest.importorskip("aiohttp_cors", reason="ray[default] is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = ENDPOINT.format(port=port)
    environment = {**os.environ, "RAY_AUTH_TOKEN": "0" * 64, "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    values = {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in done.stdout.splitlines()}
    assert values.pop("ray_coinfer_worker_seconds_total") > 0
    assert values == {
        "ray_coinfer_tasks_done_total": 2,
        "ray_coinfer_tasks_failed_total": 1,
        "ray_coinfer_progress_total": 15,
        "ray_coinfer_workers": 1,
    }
    page = (Path(__file__).resolve().parents[1] / "docs" / "howto" / "cluster.md").read_text()
    assert all(f"`{name}`" in page for name in (*values, "ray_coinfer_worker_seconds_total"))
