"""Collections survive kills, resume without loss or repetition, and do not depend on who trains a candidate."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import torch

from coinfer_ray.errors import InputError
from coinfer_ray.records import store
from coinfer_ray.runtime.executors import LocalExecutor, make_executor
from coinfer_ray.training.candidate import CandidateTrainer, TrainedCandidate
from coinfer_ray.training.collect import CollectSummary, collect
from coinfer_ray.training.data import load_data
from coinfer_ray.training.trainer import Diverged
from coinfer_ray.training.worker import CollectSettings
from tests.training.collect_driver import SETTINGS

DRIVER = Path(__file__).with_name("collect_driver.py")
CANDIDATES = 12


def start(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(DRIVER), *map(str, arguments)], start_new_session=True)


def wait_until(true: Callable[[], object], driver: subprocess.Popen[bytes], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert driver.poll() is None, "the collection ended early"
        assert time.monotonic() < end, "the collection made no progress"
        time.sleep(0.05)


def workers_of(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The executor's actors under the driver: Ray names a process after the class that it runs."""
    found = []
    for process in psutil.Process(driver.pid).children(recursive=True):
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if line.startswith("ray::Worker"):
            found.append(process)
    return found


@pytest.fixture(scope="module")
def killed_twice(few_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection on Ray of which an actor was killed, then the driver, then run again."""
    out = tmp_path_factory.mktemp("collection") / "out"
    driver = start(few_images, out, CANDIDATES, "ray")
    try:
        wait_until(lambda: len(store.finished_candidates(out)) >= 1, driver)
        victims = workers_of(driver)
        assert victims, "no actor process found"
        victims[0].send_signal(signal.SIGKILL)
        before = len(store.finished_candidates(out))
        wait_until(lambda: len(store.finished_candidates(out)) >= before + 3, driver)
    finally:
        driver.kill()
        driver.wait()
    assert 0 < len(store.finished_candidates(out)) < CANDIDATES
    again = start(few_images, out, CANDIDATES, "ray")
    assert again.wait(timeout=400) == 0
    return out


def test_killed_actor_and_killed_driver_lose_and_double_nothing(killed_twice: Path) -> None:
    records = store.read_records(killed_twice)
    assert records.table["candidate"].to_pylist() == list(range(CANDIDATES))
    assert records.failed == 0
    assert not list(killed_twice.glob(".*.tmp"))


def test_costs_counted_on_the_trained_modules_equal_the_kernels(killed_twice: Path) -> None:
    from coinfer_ray.models.library import load_graph
    from coinfer_ray.problem.costs import DelayCalculator
    from coinfer_ray.problem.space import SearchSpace

    records = store.read_records(killed_twice)
    space = SearchSpace(load_graph("alexnet", 64))
    delay = DelayCalculator(space)
    for strategy, measured in zip(records.strategies, records.costs(), strict=True):
        assert delay.costs(space.levels(strategy))[0].tolist() == measured.tolist()


def test_a_candidate_is_the_same_in_process_as_on_ray(killed_twice: Path, few_images: Path, tmp_path: Path) -> None:
    with LocalExecutor(threads=1) as executor:  # a worker on a CPU has one thread, and sums depend on their order
        collect(
            "alexnet",
            few_images,
            tmp_path / "local",
            2,
            executor=executor,
            settings=SETTINGS,
            base=killed_twice / "_base.safetensors",
            quiet=True,
        )
    there = store.read_records(killed_twice).table.slice(0, 2).drop_columns(["wall_s"])
    here = store.read_records(tmp_path / "local").table.drop_columns(["wall_s"])
    assert here.equals(there)


def test_repeats_are_the_same_strategies_from_other_seeds(killed_twice: Path, few_images: Path, tmp_path: Path) -> None:
    base = killed_twice / "_base.safetensors"
    with LocalExecutor(threads=1) as executor:
        for minutes, trained in ((0, 0), (None, 4)):
            summary = collect(
                "alexnet",
                few_images,
                tmp_path / "out",
                2,
                repeats=2,
                minutes=minutes,
                executor=executor,
                settings=SETTINGS,
                base=base,
                quiet=True,
            )
            assert summary.trained_now == trained
    rows = store.read_records(tmp_path / "out").table.to_pylist()
    assert [row["candidate"] for row in rows] == [0, 0, 1, 1]
    assert len({row["seed"] for row in rows}) == 4
    assert rows[0]["sparsity"] == rows[1]["sparsity"] != rows[2]["sparsity"]
    assert store.finished_candidates(tmp_path / "out") == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_a_candidate_that_fails_is_a_record_that_says_so(
    few_images: Path, killed_twice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are trained all the same, and a second run leaves the failed ones alone."""
    failures = [Diverged("the loss is nan after 1 of 9 steps"), torch.OutOfMemoryError("out of memory\nTried to"), None]
    really = CandidateTrainer.train

    def sometimes(self: CandidateTrainer, *arguments: Any, **named: Any) -> TrainedCandidate:
        failure = failures.pop(0)
        if failure is not None:
            raise failure
        return really(self, *arguments, **named)

    monkeypatch.setattr(CandidateTrainer, "train", sometimes)
    base = killed_twice / "_base.safetensors"
    for trained, failed in ((3, 2), (0, 0)):
        with LocalExecutor(threads=1) as executor:
            summary = collect(
                "alexnet", few_images, tmp_path, 3, executor=executor, settings=SETTINGS, base=base, quiet=True
            )
        assert (summary.trained_now, summary.failed_now) == (trained, failed)
    rows = [pq.read_table(store.shard_path(tmp_path, candidate)).to_pylist()[0] for candidate in range(3)]
    assert [row["status"] for row in rows] == ["diverged", "out_of_memory", "ok"]
    assert [row["error"] for row in rows] == ["the loss is nan after 1 of 9 steps", "out of memory", None]
    assert all(row["sparsity"] and row["base_validation_accuracy"] is not None for row in rows)
    records = store.read_records(tmp_path)
    assert len(records) == 1 and records.failed == 2


def test_packed_records_stand_for_a_lost_folder(killed_twice: Path, few_images: Path, tmp_path: Path) -> None:
    """What a packed file holds comes back as shards, what was not asked for stays out, other settings are refused."""
    packed, out = tmp_path / "packed.parquet", tmp_path / "out"
    store.pack(killed_twice, packed)

    def again(seconds: float, settings: CollectSettings, folder: Path) -> CollectSummary:
        with LocalExecutor(threads=1) as executor:
            return collect(
                "alexnet",
                few_images,
                folder,
                CANDIDATES - 2,
                minutes=seconds / 60,
                executor=executor,
                settings=settings,
                base=killed_twice / "_base.safetensors",
                known=packed,
                quiet=True,
            )

    assert again(0, SETTINGS, out).trained_now == 0
    assert store.finished_candidates(out) == {(candidate, 0) for candidate in range(CANDIDATES - 2)}
    assert store.read_records(out).table.equals(store.read_records(packed).table.slice(0, CANDIDATES - 2))
    with pytest.raises(
        InputError, match=r"known: .*packed\.parquet differs from this run in test_images \(\d+ against 3"
    ):
        again(0, replace(SETTINGS, test_images=3), tmp_path / "other")
    assert not list((tmp_path / "other").glob("candidate-*"))


def test_candidates_near_the_base_network_join_what_is_known(
    killed_twice: Path, few_images: Path, tmp_path: Path
) -> None:
    packed, out = tmp_path / "packed.parquet", tmp_path / "out"
    store.pack(killed_twice, packed)

    def near(known: Path | None, minutes: float | None = None) -> CollectSummary:
        with LocalExecutor(threads=1) as executor:
            return collect(
                "alexnet",
                few_images,
                out,
                2,
                minutes=minutes,
                executor=executor,
                settings=SETTINGS,
                base=killed_twice / "_base.safetensors",
                known=known,
                near=0.5,
                quiet=True,
            )

    with pytest.raises(InputError, match="near: which candidates lose little is predicted from records"):
        near(None)
    assert near(packed, minutes=0).trained_now == 0
    assert store.read_records(out).table.equals(store.read_records(packed).table)
    assert (near(packed).trained_now, near(packed).trained_now) == (2, 0)
    finished = store.finished_candidates(out)
    assert len(finished) == CANDIDATES + 2 and max(finished)[0] >= CANDIDATES + 1


def test_packed_records_are_the_shards(killed_twice: Path, few_images: Path, tmp_path: Path) -> None:
    store.pack(killed_twice, tmp_path / "packed.parquet")
    packed = store.read_records(tmp_path / "packed.parquet")
    assert packed.table.equals(store.read_records(killed_twice).table)
    assert packed.info.settings["data"] == load_data(few_images).name


def test_ctrl_c_leaves_whole_records_and_no_processes(few_images: Path, killed_twice: Path, tmp_path: Path) -> None:
    driver = start(few_images, tmp_path / "out", CANDIDATES, "ray", killed_twice / "_base.safetensors")
    wait_until(lambda: len(store.finished_candidates(tmp_path / "out")) >= 1, driver)
    children = psutil.Process(driver.pid).children(recursive=True)
    os.kill(driver.pid, signal.SIGINT)
    assert driver.wait(timeout=60) != 0
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
    records = store.read_records(tmp_path / "out")
    assert len(records) == len(store.finished_candidates(tmp_path / "out"))


def test_another_runs_folder_is_refused(killed_twice: Path, few_images: Path) -> None:
    with make_executor("local") as executor, pytest.raises(InputError, match="belongs to another run: seed is 0 there"):
        collect("alexnet", few_images, killed_twice, 12, executor=executor, settings=SETTINGS, seed=1, quiet=True)


def test_records_of_different_settings_are_not_mixed(killed_twice: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    records = store.read_records(killed_twice)
    row = records.table.slice(0, 1).to_pylist()[0]
    store.write_records(store.shard_path(tmp_path, 0), [row], records.info)
    other = replace(records.info, settings={**records.info.settings, "validation_images": 7})
    store.write_records(store.shard_path(tmp_path, 1), [row | {"candidate": 1}], other)
    with pytest.raises(
        InputError, match=r"differs from candidate-000000.parquet in validation_images \(7 against 50\)"
    ):
        store.read_records(tmp_path)


def test_broken_records_are_told_in_one_line(killed_twice: Path, tmp_path: Path) -> None:
    whole = store.shard_path(killed_twice, 0)
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a whole Parquet file"):
        store.read_records(cut)
    pq.write_table(pq.read_table(whole).drop_columns(["codec"]), tmp_path / "less.parquet")
    with pytest.raises(InputError, match="lacks the columns codec"):
        store.read_records(tmp_path / "less.parquet")
    with pytest.raises(InputError, match="are of alexnet, not of regnet_x_400mf"):
        store.read_records(whole, model="regnet_x_400mf")
    with pytest.raises(InputError, match="does not exist"):
        store.read_records(tmp_path / "none.parquet")
