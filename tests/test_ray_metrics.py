"""What a run on Ray tells those who watch: read from the metrics' own objects, on a real local Ray."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from ray import cloudpickle
from ray.util import metrics

from coinfer_ray.runtime.executors import Envelope, WorkerContext, make_executor
from coinfer_ray.runtime.executors.ray_metrics import RunMetrics


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
