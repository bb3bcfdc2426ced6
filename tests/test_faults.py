"""What may happen to a sweep on a real machine: SIGTERM, a full disk. In each the rows in the end are the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coinfer_ray import open_sweep
from coinfer_ray.sweeps.manifest import Manifest
from coinfer_ray.sweeps.sweep import sweep
from tests.synthetic import write_synthetic_records

GRID = {
    "model": ["alexnet"],
    "device": ["rpi3b+", "tk1"],
    "server": ["p100"],
    "link": ["3g", "4g", "wifi", {"rate_mbps": [0.1, 1, 10]}],
    "max_loss": [0.1, 0.2],
    "confidence": [None],
}
COINFER = "import sys; from coinfer_ray.cli import main; sys.exit(main())"


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_records(tmp_path_factory.mktemp("records") / "alexnet.parquet")


def command(records: Path, out: Path, *options: str) -> list[str]:
    grid = records.with_name("grid.yaml")
    grid.write_text(json.dumps(GRID))
    asked = ["--records", str(records), "--solver", "paper", "--chunk", "2", "--executor", "local", *options]
    return [sys.executable, "-c", COINFER, "sweep", str(grid), "--out", str(out), *asked]


def wait_for(condition: object, process: subprocess.Popen[str]) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.01)


def test_sigterm_ends_a_sweep_that_then_goes_on(records: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with subprocess.Popen(command(records, out), stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: list(out.glob("*/chunk-*.parquet")), process)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    last = said.splitlines()[-1]
    assert last == "coinfer: ended by SIGTERM; run a long command again to go on where it stopped"
    assert "Traceback" not in said and "SIGTERM received" not in said
    before = Manifest.read(out)
    assert before.files and not before.complete and not list(before.damaged())
    done = {path: path.stat().st_mtime_ns for path in out.glob("*/chunk-*.parquet") if path.name in str(before.files)}

    subprocess.run(command(records, out), check=True, capture_output=True)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    undisturbed = sweep(GRID, solver="paper", records=records, executor="local", quiet=True).to_table()
    assert open_sweep(out, check=True).to_table(undisturbed.schema.names).equals(undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for some chunks."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(place)], capture_output=True, check=False
        ).returncode
    )
    if not mounted:
        pytest.skip("a small file system cannot be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_one_line_and_room_is_enough_to_go_on(records: Path, small_disk: Path) -> None:
    ballast, out = small_disk / "ballast", small_disk / "out"
    ballast.write_bytes(bytes(48 * 1024))
    ended = subprocess.run(command(records, out), capture_output=True, text=True, check=False)
    assert ended.returncode == 2, ended.stderr
    # A worker's file did not fit, or the driver's manifest.
    told = f"coinfer: out: no space is left for {out}; make room and run again", "coinfer: no space is left"
    assert ended.stderr.splitlines()[-1].startswith(told)
    assert "Traceback" not in ended.stderr
    assert not list(Manifest.read(out).damaged())
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    subprocess.run(command(records, out), check=True, capture_output=True)
    undisturbed = sweep(GRID, solver="paper", records=records, executor="local", quiet=True).to_table()
    assert open_sweep(out, check=True).to_table(undisturbed.schema.names).equals(undisturbed)
