"""Executor and sweep on a cluster of two nodes: tokens, missing code, a lost node, a killed driver."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from coinfer_ray.sweeps.manifest import Manifest
from coinfer_ray.sweeps.reader import open_sweep
from coinfer_ray.sweeps.sweep import sweep
from tests.cluster.nodes import TwoNodes, alive, descendants, wait_until
from tests.synthetic import write_synthetic_records

REPORT = """
import json, os, sys, time
import ray
from coinfer_ray.runtime.executors import make_executor

def start(shared, context):
    def work(task):
        time.sleep(0.05)
        node = ray.get_runtime_context().get_node_id()
        return node, os.environ["NUMBA_NUM_THREADS"], int(shared["base"].sum()) + task
    return work

import numpy as np
with make_executor("ray", address=sys.argv[1]) as executor:
    envelopes = list(executor.run(start, {"base": np.ones(500_000)}, ((n, n) for n in range(20))))
print(json.dumps([executor.workers, [(envelope.value, envelope.attempts) for envelope in envelopes]]))
"""

REFUSED = """
import sys
from coinfer_ray.errors import InputError
from coinfer_ray.runtime.executors import make_executor
try:
    make_executor("ray", address=sys.argv[1]).__enter__()
except InputError as error:
    print(error)
"""

MISSING = """
import sys
sys.path.insert(0, sys.argv[2])
import only_here
from coinfer_ray.errors import InputError
from coinfer_ray.runtime.executors import make_executor
with make_executor("ray", address=sys.argv[1]) as executor:
    try:
        list(executor.run(only_here.start, {}, [(0, 0)]))
    except InputError as error:
        print(error)
"""

SLOW = """
import sys, time
from pathlib import Path
from coinfer_ray.runtime.executors import make_executor

def start(shared, context):
    folder = Path(shared["folder"])
    def work(task):
        (folder / f"started-{task}").touch()
        while not (folder / "go").exists():
            time.sleep(0.02)
        return task
    return work

with make_executor("ray", address=sys.argv[1]) as executor:
    for envelope in executor.run(start, {"folder": sys.argv[2]}, ((n, n) for n in range(8))):
        print(envelope.value, envelope.attempts, flush=True)
"""

CLI = "import sys; from coinfer_ray.cli import main; sys.exit(main(sys.argv[1:]))"

# The command line again, killed as hard as can be when its second chunk is reported: a poll from outside may come
# after the last one.
KILLED = f"""
import os, signal
from coinfer_ray.runtime.progress import Progress

def advance(self, count=1):
    self.done += count
    if self.done >= 2:
        os.kill(os.getpid(), signal.SIGKILL)

Progress.advance = advance
{CLI}
"""


def test_both_nodes_work(two_nodes: TwoNodes) -> None:
    workers, results = json.loads(two_nodes.drive(REPORT, two_nodes.address))
    assert workers == 2
    assert sorted(value[2] for value, _ in results) == [500_000 + n for n in range(20)]
    assert len({value[0] for value, _ in results}) == 2
    assert {(value[1], attempts) for value, attempts in results} == {("1", 1)}


def test_a_driver_without_the_token_is_refused(two_nodes: TwoNodes, tmp_path: Path) -> None:
    nothing = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": "", "HOME": str(tmp_path)}
    wrong = {"RAY_AUTH_TOKEN": "0" * 64}
    drivers = [two_nodes.driver(REFUSED, two_nodes.address, **changes) for changes in (nothing, wrong)]
    for driver in drivers:  # Ray asks for 20 s; both at once
        output, errors = driver.communicate(timeout=120)
        assert output == (
            f"address: the Ray cluster at {two_nodes.address} refuses our token; "
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a file with the cluster's\n"
        )
        assert errors == ""


def test_code_that_the_nodes_lack_is_named(two_nodes: TwoNodes, tmp_path: Path) -> None:
    (tmp_path / "only_here.py").write_text("def start(shared, context):\n    return None\n")
    message = two_nodes.drive(MISSING, two_nodes.address, tmp_path)
    assert message.startswith("executor: No module named 'only_here' on node ")
    assert message.endswith("; install the same coinfer-ray on every node of the cluster\n")


def test_a_lost_node_costs_its_task_one_attempt(two_nodes: TwoNodes, tmp_path: Path) -> None:
    with two_nodes.driver(SLOW, two_nodes.address, tmp_path) as driver:
        try:
            wait_until(lambda: len(list(tmp_path.glob("started-*"))) == 2, "a task runs on each node")
            node = {two_nodes.process("worker")} | descendants(two_nodes.process("worker"))
            for process in node:
                if alive(process):
                    signal_process(process)
            (tmp_path / "go").touch()
            output, errors = driver.communicate(timeout=120)
        finally:
            driver.kill()
            two_nodes.stop("worker")
            two_nodes.start("worker")
    assert driver.returncode == 0, errors
    results = dict(line.split() for line in output.splitlines() if line[:1].isdigit())
    assert sorted(results) == [str(n) for n in range(8)]
    assert sorted(results.values()) == ["1"] * 7 + ["2"]


def signal_process(process: int) -> None:
    subprocess.run(["kill", "-KILL", str(process)], check=False)


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    file = tmp_path / "grid.yaml"
    document = {
        "model": ["alexnet"],
        "device": ["rpi3b+", "tk1"],
        "server": ["p100"],
        "link": ["4g", {"rate_mbps": {"logspace": [0.1, 100, 8]}}],
        "max_loss": [0.2],
    }
    file.write_text(yaml.safe_dump(document))
    return file


def test_a_sweep_survives_its_driver(
    two_nodes: TwoNodes,
    grid: Path,
    tmp_path: Path,
    kill_later: Callable[[subprocess.Popen[str]], subprocess.Popen[str]],
) -> None:
    """`coinfer sweep` on both nodes, killed and run again, ends with the answers of a run in one process."""
    records = write_synthetic_records(tmp_path / "records.parquet")
    out = tmp_path / "out"
    command = ["sweep", grid, "--out", out, "--records", records, "--solver", "paper", "--chunk", 1, "--json"]
    command += ["--executor", "ray", "--address", two_nodes.address]

    first = kill_later(two_nodes.driver(KILLED, *command))
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    assert 2 <= len(list(out.glob("*/chunk-*.parquet"))) < 18
    # What was written within the last second before the kill is not in the manifest yet, and is done anew.
    before = {out / name: (out / name).stat().st_mtime_ns for name in Manifest.read(out).files}
    assert before

    summary = json.loads(two_nodes.drive(CLI, *command))
    assert (summary["scenarios"], summary["feasible"]) == (18, 18)
    assert {path: path.stat().st_mtime_ns for path in before} == before

    alone = sweep(grid, executor="local", records=records, solver="paper", quiet=True).to_table()
    assert open_sweep(out, check=True).to_table(alone.schema.names).equals(alone)
