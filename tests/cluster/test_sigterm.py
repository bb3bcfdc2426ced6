"""SIGTERM at any moment of a command that starts a Ray of its own: status 143, one line, and nothing left running."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.disturbed import COINFER
from tests.test_faults import GRID


def marked(marker: str) -> list[int]:
    """Processes with ``marker`` in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marker.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("delay_s", [1.0, 2.5, 5.0])
def test_sigterm_while_ray_starts(tmp_path: Path, delay_s: float) -> None:
    """So long after the command's start: while modules are imported, Ray starts, workers start."""
    grid, marker = tmp_path / "grid.yaml", f"MARK_{secrets.token_hex(6)}"
    grid.write_text(json.dumps(GRID | {"max_loss": [0.02]}))
    command = [sys.executable, "-c", COINFER, "sweep", str(grid), "--out", str(tmp_path / "out"), "--chunk", "1"]
    command += ["--workers", "1", "--confidence", "0.9"]
    environment = os.environ | {marker: "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        time.sleep(delay_s)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=90)
    if process.returncode != 0:  # on a fast machine it may have been done
        assert process.returncode in (143, -signal.SIGTERM), said
        assert "SIGTERM received" not in said and "Traceback" not in said
    assert left_of(marker) == []


def left_of(marker: str) -> list[int]:
    """Processes with ``marker`` that do not end by themselves: Ray's agents notice that they are alone."""
    deadline = time.monotonic() + 120
    while (left := marked(marker)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


@pytest.mark.parametrize("delay_s", [0.5, 4.0])
def test_sigterm_while_a_benchmark_starts_nodes(delay_s: float) -> None:
    """Its nodes and joining them change what SIGTERM does, too."""
    marker = f"MARK_{secrets.token_hex(6)}"
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "bench_cluster.py"), "--nodes", "3", "--keep-gb", "0.5"]
    environment = os.environ | {marker: "1", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("nodes ")
        time.sleep(delay_s)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=90)
    told = [line for line in said.splitlines() if " nodes after " not in line]
    assert (process.returncode, told) == (143, ["bench_cluster.py: ended by SIGTERM"])
    assert left_of(marker) == []
