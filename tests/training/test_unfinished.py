"""What no worker brings to an end is no result: it is kept as failed, and the next run tries it again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from coinfer_ray.records import store
from coinfer_ray.runtime.executors import LocalExecutor
from coinfer_ray.runtime.executors.base import Envelope
from coinfer_ray.training import collect as module
from coinfer_ray.training.collect import CollectSummary, collect
from tests.training.collect_driver import SETTINGS

LOST = {1, 2}  # candidates whose worker dies


class DyingExecutor(LocalExecutor):
    """An executor whose workers die of the same tasks each time, as on a machine with too little memory."""

    def run(self, start: Any, shared: Mapping[str, Any], tasks: Iterable[Any]) -> Iterator[Envelope[Any]]:
        tasks = list(tasks)
        whole = [(task_id, task) for task_id, task in tasks if task.candidate not in LOST]
        yield from super().run(start, shared, whole)
        for task_id, task in tasks:
            if task.candidate in LOST:
                yield Envelope(task_id, None, "the worker died (exit code 137)\nTraceback", attempts=3, seconds=0.1)


def test_lost_candidates_are_tried_again(
    few_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coinfer_ray.runtime.progress.LINE_EVERY_S", 0.0)

    def again(executor: Callable[..., LocalExecutor]) -> CollectSummary:
        with executor(threads=1) as running:
            return collect("alexnet", few_images, tmp_path, 4, executor=running, settings=SETTINGS)

    for trained in (4, 2):  # the second run meets the same fate
        summary = again(DyingExecutor)
        assert (summary.trained_now, summary.failed_now, summary.unfinished_now) == (trained, 2, 2)
        assert store.finished_candidates(tmp_path) == {(0, 0), (3, 0)}
    assert "2 failed" in capsys.readouterr().err
    row = pq.read_table(store.shard_path(tmp_path, 1)).to_pylist()[0]
    assert (row["status"], row["error"]) == ("error", "the worker died (exit code 137)")
    assert row["sparsity"] and row["seed"] == module.candidate_seed(0, 1)
    assert store.read_records(tmp_path).failed == 2
    summary = again(LocalExecutor)
    assert (summary.trained_now, summary.failed_now, summary.unfinished_now) == (2, 0, 0)
    records = store.read_records(tmp_path)
    assert records.failed == 0 and records.table["candidate"].to_pylist() == [0, 1, 2, 3]
