"""Sweeps in an object store: on a real S3 server, killed and resumed, by workers of every kind."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from coinfer_ray import open_sweep, sweep
from coinfer_ray.errors import InputError
from coinfer_ray.report import read_sweep
from coinfer_ray.runtime import lease
from coinfer_ray.runtime.executors import LocalExecutor
from coinfer_ray.runtime.object_store import ObjectStore
from coinfer_ray.runtime.status import run_status
from coinfer_ray.sweeps.manifest import MANIFEST_FILE, Manifest
from coinfer_ray.sweeps.progress import sweep_progress
from tests.s3 import BUCKET, GRID, QUICK, SCENARIOS, coinfer, key, keys
from tests.synthetic import write_synthetic_records

STUCK = """
import sys, time
from itertools import islice
from coinfer_ray import sweep
from coinfer_ray.runtime.executors import LocalExecutor

class Stuck(LocalExecutor):
    def run(self, start, shared, tasks):
        yield from super().run(start, shared, islice(tasks, 3))
        time.sleep(600)

sweep({grid!r}, {out!r}, records={records!r}, **{{**{quick!r}, "executor": Stuck()}})
"""


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_records(tmp_path_factory.mktemp("records") / "alexnet.parquet")


@pytest.fixture(scope="module")
def expected(records: Path) -> pa.Table:
    return sweep(GRID, records=records, **QUICK).to_table()


def test_a_killed_sweep_goes_on_and_is_row_for_row_a_local_one(
    s3: Any, prefix: str, records: Path, expected: pa.Table
) -> None:
    script = STUCK.format(grid=GRID, out=prefix, records=str(records), quick=QUICK)
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 100
        while MANIFEST_FILE not in keys(s3, prefix) or "model=alexnet/chunk-000002.parquet" not in keys(s3, prefix):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
            time.sleep(0.01)
        held = coinfer("status", prefix)
        assert f"sweep, at work: process {process.pid} on " in held.stdout, held.stderr
        with pytest.raises(InputError, match=f"is in use by process {process.pid} on .* wait for it"):
            sweep(GRID, prefix, records=records, **QUICK)
        process.kill()
    before = Manifest.read(prefix).files
    assert 0 < len(before) < SCENARIOS / 2
    assert any(name.startswith(lease.PREFIX) for name in keys(s3, prefix))  # the kill left it
    status = run_status(prefix)
    assert (status.kind, status.holder) == ("sweep", None)
    assert sweep_progress(prefix).rows == sum(each.rows for each in before.values())
    with pytest.raises(InputError, match=r"is not finished \(\d+ rows so far\)"):
        open_sweep(prefix)

    given: list[Any] = []

    class Counting(LocalExecutor):
        def run(self, start: Any, shared: Any, tasks: Any) -> Any:
            def counted() -> Iterator[Any]:
                for task in tasks:
                    given.append(task[0])
                    yield task

            return super().run(start, shared, counted())

    answers = sweep(GRID, prefix, records=records, **{**QUICK, "executor": Counting()})
    assert len(given) == SCENARIOS / 2 - len(before)
    assert answers.to_table().equals(expected)
    assert not any(name.startswith(".") for name in keys(s3, prefix))
    opened = open_sweep(prefix, check=True)
    assert opened.to_table(expected.schema.names).equals(expected)
    assert sweep_progress(prefix).complete
    assert {row.latency_s for row in read_sweep(prefix).rows} == set(expected["latency_s"].to_pylist())


def test_the_objects_are_the_files_of_a_local_sweep_to_the_bit(
    s3: Any, prefix: str, records: Path, tmp_path: Path
) -> None:
    sweep(GRID, prefix, records=records, **QUICK)
    sweep(GRID, tmp_path, records=records, **QUICK)
    files = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("*") if path.is_file()}
    files.pop(".coinfer.lock")
    assert keys(s3, prefix) == set(files)
    for name, path in files.items():
        assert s3.get_object(Bucket=BUCKET, Key=key(prefix, name))["Body"].read() == path.read_bytes(), name


def test_workers_of_another_process_write_to_the_store(prefix: str, records: Path, expected: pa.Table) -> None:
    answers = sweep(GRID, prefix, records=records, workers=2, **{**QUICK, "executor": "processes"})
    assert answers.to_table().equals(expected)


def test_a_worker_that_the_store_refuses_sends_its_rows(
    s3: Any, prefix: str, records: Path, expected: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = ObjectStore.write

    def refuse(self: ObjectStore, name: str, content: Any) -> None:
        if self._lease is None:
            raise InputError("permission denied")
        written(self, name, content)

    monkeypatch.setattr(ObjectStore, "write", refuse)
    assert sweep(GRID, prefix, records=records, **QUICK).to_table().equals(expected)

    def unreachable(address: str) -> None:
        raise InputError("cannot be reached")

    monkeypatch.setattr("coinfer_ray.sweeps.chunks.open_store", unreachable)
    assert sweep(GRID, f"{prefix}-2", records=records, **QUICK).to_table().equals(expected)


def test_file_addresses_are_folders(records: Path, expected: pa.Table, tmp_path: Path) -> None:
    out = f"file://{tmp_path}/out"
    assert sweep(GRID, out, records=records, **QUICK).to_table().equals(expected)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [".coinfer.lock", "_manifest.json", "_run.json", "_strategies.parquet", "model=alexnet"]
    )
    assert len(open_sweep(out, check=True)) == SCENARIOS
