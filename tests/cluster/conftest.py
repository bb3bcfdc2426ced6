"""A cluster of two nodes for all tests of this folder."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.cluster.nodes import TwoNodes, two_nodes_on


@pytest.fixture(scope="session")
def two_nodes() -> Iterator[TwoNodes]:
    fast_detection = {f"RAY_health_check_{name}_ms": "1000" for name in ("initial_delay", "period", "timeout")}
    with two_nodes_on({}, **fast_detection, RAY_health_check_failure_threshold="3") as cluster:
        yield cluster


@pytest.fixture
def kill_later() -> Iterator[Callable[[subprocess.Popen[str]], subprocess.Popen[str]]]:
    """Register a process that must not outlive its test."""
    processes: list[subprocess.Popen[str]] = []

    def register(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
        processes.append(process)
        return process

    yield register
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()
