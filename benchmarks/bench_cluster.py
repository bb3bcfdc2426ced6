"""How many chunks a second one driver hands out and gathers, on a simulated cluster; and a large sweep on paper.

    python benchmarks/bench_cluster.py [--nodes 1 4 16 50] [--workers 1] [--answer-bytes 200 1000000] [--json]

Every node is a raylet of its own on this machine (Ray's cluster_utils) with as many workers as asked for, whose chunks
sleep instead of solving: what is measured is the driver. One cluster grows from each number of --nodes to the next,
--stage nodes at a time, and ends in one line where less than --keep-gb of memory would be left; a node takes some
130 MB and a worker 70. A row for each size says what the driver did, and what held it: its workers, which were all
busy; the driver, whose own thread was; or this machine, whose processors the simulated nodes share. The driver's
processor seconds for a chunk say what it could do at most, whatever else the machine does.

Then, in this process, a chunk of an atlas's look-ups is really solved and encoded, and from both follows what
--scenarios of them take on --of nodes of --cores each, at --price a core and hour, which is an assumption.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, TextIO
from unittest.mock import patch

# A node's workers start when they are asked for, and nobody reads its metrics: half the memory, half the processes. And
# what many nodes on few processors do late is late and not dead. Ray reads these when it is imported, and its nodes
# when they start.
os.environ.update(
    MALLOC_ARENA_MAX="2",
    RAY_prestart_worker_first_driver="0",
    RAY_enable_worker_prestart="0",
    RAY_enable_metrics_collection="0",
    RAY_agent_register_timeout_ms="600000",
    RAY_worker_register_timeout_seconds="600",
    RAY_gcs_server_request_timeout_seconds="300",
    RAY_health_check_timeout_ms="60000",
    RAY_health_check_failure_threshold="10",
)

import ray
import ray._private.services as services
from ray import cloudpickle
from ray.cluster_utils import Cluster

from coinfer_ray.cli.scripts import positive_int, positive_number, run_script
from coinfer_ray.errors import InputError
from coinfer_ray.records.store import shipped_records
from coinfer_ray.runtime.executors import WorkerContext
from coinfer_ray.runtime.executors.around_ray import own_sigterm
from coinfer_ray.runtime.executors.ray_executor import RayExecutor
from coinfer_ray.sweeps.sweep import LARGEST_LOOK_UP, MAX_CHUNKS

STORE_BYTES = 80_000_000  # of a node's object store; Ray takes no less than 75 MB
NODE_GB, WORKER_GB = 0.13, 0.07  # that a node and each of its workers take
START_LIMIT_S = 600
SECONDS_OF_AN_HOUR = 3600


def start_sleeper(shared: Mapping[str, Any], context: WorkerContext) -> Callable[[int], bytes]:
    """Chunks that sleep, and come back as large as a description of a written one, or as their rows."""
    seconds, answer = float(shared["seconds"]), bytes(int(shared["bytes"]))

    def work(chunk: int) -> bytes:
        time.sleep(seconds)
        return answer

    return work


class Simulated:
    """A cluster on this machine that grows; each node has room for so many workers, and this process has joined it.

    Raises:
        InputError: a further stage would leave less memory than is to be kept, or did not start in time.
    """

    def __init__(self, workers: int, stage: int, keep_gb: float, log: TextIO) -> None:
        self.settings = {"num_cpus": workers, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        self.workers, self.stage, self.keep_gb, self.log = workers, stage, keep_gb, log
        with own_sigterm():
            self.cluster = Cluster()
        self.nodes, self.start_s = 0, 0.0

    def __enter__(self) -> Simulated:
        return self

    def __exit__(self, *error: object) -> None:
        ray.shutdown()
        self.cluster.shutdown()

    def grow(self, nodes: int) -> None:
        """Start nodes until there are so many, in stages, each waited for."""
        while self.nodes < nodes:
            began = time.perf_counter()
            further = min(self.stage, nodes - self.nodes)
            self.check_memory(self.nodes + further, further * (NODE_GB + self.workers * WORKER_GB))
            try:
                with own_sigterm(), patch.object(services, "get_node", patiently(services.get_node)):
                    for _ in range(further):
                        self.cluster.add_node(wait=False, **self.settings)
                self.cluster.wait_for_nodes(timeout=START_LIMIT_S)
            except TimeoutError:
                raise InputError(
                    f"nodes: those from {self.nodes + 1} to {self.nodes + further} were not up in {START_LIMIT_S} s; "
                    "this machine is too busy, or too small for so many"
                ) from None
            if not ray.is_initialized():
                with own_sigterm():
                    ray.init(address=self.cluster.address, log_to_driver=False, logging_level="ERROR")
            self.nodes += further
            self.start_s += time.perf_counter() - began
            print(
                f"{self.nodes} of {nodes} nodes after {self.start_s:.0f} s; {free_gb():.1f} GB of memory free",
                file=self.log,
                flush=True,
            )

    def check_memory(self, nodes: int, need_gb: float) -> None:
        if free_gb() - need_gb < self.keep_gb:
            raise InputError(
                f"nodes: {nodes} would leave less than {self.keep_gb:g} GB of this machine's memory "
                f"({free_gb():.1f} GB are free); ask for fewer, or for less to be kept (--keep-gb)"
            )


def patiently(get_node: Callable[..., Any]) -> Callable[..., Any]:
    """Ray's question whether a node is up, which fails after 30 s, asked again for as long as :data:`START_LIMIT_S`."""

    def ask(*where: Any) -> Any:
        end = time.monotonic() + START_LIMIT_S
        while True:
            try:
                return get_node(*where)
            except RuntimeError:
                if time.monotonic() > end:
                    raise TimeoutError from None

    return ask


def free_gb() -> float:
    """Of this machine's memory, as Linux counts what programs can have."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 1e6


def idle_s() -> float:
    """Seconds that all processors of this machine have idled."""
    idle, waiting = (int(ticks) for ticks in Path("/proc/stat").read_text().splitlines()[0].split()[4:6])
    return (idle + waiting) / os.sysconf("SC_CLK_TCK")


def driver_on(cluster: Simulated, chunks: int, seconds: float, size: int) -> dict[str, Any]:
    """Hand out and gather ``chunks`` and say what it took the driver, from the second that every worker was ready."""
    crew = cluster.nodes * cluster.workers
    warm_up = max(20, 10 * crew)  # while workers still start, few do all the work
    shared, tasks = {"seconds": seconds, "bytes": size}, ((n, n) for n in range(chunks + warm_up))
    with (
        RayExecutor(workers=crew, in_flight=2, start_timeout_s=START_LIMIT_S) as executor,
        closing(executor.run(start_sleeper, shared, tasks)) as running,
    ):
        for _ in range(warm_up):
            next(running)
            cluster.check_memory(cluster.nodes, 0)
        clocks = time.perf_counter, time.process_time, time.thread_time, idle_s
        before = [clock() for clock in clocks]
        done = sum(envelope.error is None for envelope in running)
        wall, processor, thread, idle = (clock() - then for clock, then in zip(clocks, before, strict=True))
    row = {
        "nodes": cluster.nodes,
        "workers": crew,
        "start_s": cluster.start_s,
        "chunks": done,
        "bytes_of_a_chunk": size,
        "per_s": done / wall,
        "asleep_per_s": crew / seconds,
        "driver_ms": 1e3 * processor / done,
        "driver_thread_ms": 1e3 * thread / done,
        "driver_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "machine_busy": 1 - idle / (wall * (os.cpu_count() or 1)),
    }
    return {**row, "held_by": held_by(row)}


def held_by(row: Mapping[str, float]) -> str:
    """What kept the driver from more chunks a second."""
    if row["per_s"] > 0.85 * row["asleep_per_s"]:
        return "its workers"
    if row["per_s"] * row["driver_thread_ms"] > 0.85e3:
        return "the driver"
    return "this machine" if row["machine_busy"] > 0.85 else "Ray"


def one_chunk(model: str) -> dict[str, float]:
    """Processor nanoseconds and bytes for a scenario of an atlas's compact rows, solved and encoded in this process."""
    sys.path.insert(0, str(Path(__file__).parent))
    from bench_sweep import floors_of

    return floors_of(model, "compact")


def on_paper(row: dict[str, float], chunk: dict[str, float], given: argparse.Namespace) -> dict[str, float]:
    """What so many scenarios take, by what was measured."""
    scenarios = given.scenarios
    size = max(LARGEST_LOOK_UP, scenarios / MAX_CHUNKS)
    files = math.ceil(scenarios / size)
    work_s = scenarios * chunk["ns"] / 1e9
    cores = given.of * given.cores
    gather_s = files * row["driver_ms"] / 1e3
    wall_s = max(work_s / cores, gather_s)
    return {
        "scenarios": scenarios,
        "cores": cores,
        "files": files,
        "bytes": scenarios * chunk["bytes"],
        "work_core_s": work_s,
        "driver_s": gather_s,
        "wall_s": wall_s,
        "cost": wall_s * cores / SECONDS_OF_AN_HOUR * given.price,
    }


HEAD = (
    "nodes  workers  up in  bytes back  a second  workers allow  held by       driver ms  of it own  at most  driver MB"
)


def print_row(row: Mapping[str, Any]) -> None:
    print(
        f"{row['nodes']:5}  {row['workers']:7}  {row['start_s']:3.0f} s  {row['bytes_of_a_chunk']:10,}  "
        f"{row['per_s']:8.0f}  {row['asleep_per_s']:13.0f}  {row['held_by']:12}  {row['driver_ms']:9.2f}  "
        f"{row['driver_thread_ms']:9.2f}  {1e3 / row['driver_ms']:7.0f}  {row['driver_mb']:9.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--nodes", type=positive_int, nargs="+", default=[10], help="several are measured one after the other"
    )
    parser.add_argument("--workers", type=positive_int, default=1, help="of a node")
    parser.add_argument("--chunks", type=positive_int, default=2000)
    parser.add_argument("--sleep-ms", type=positive_number, default=20.0, help="that a chunk takes its worker")
    parser.add_argument(
        "--answer-bytes",
        type=positive_int,
        nargs="+",
        default=[200],
        help="that a chunk sends back: 200 describe a written file, rows that return themselves are some MB",
    )
    parser.add_argument("--stage", type=positive_int, default=10, help="nodes that start at a time")
    parser.add_argument("--keep-gb", type=positive_number, default=6.0, help="of memory that stay free")
    parser.add_argument("--model", default="alexnet")
    parser.add_argument("--scenarios", type=positive_number, default=1e10)
    parser.add_argument("--of", type=positive_int, default=100, help="nodes, on paper")
    parser.add_argument("--cores", type=positive_int, default=16, help="of a node, on paper")
    parser.add_argument("--price", type=float, default=0.04, help="US dollars for a core and hour: an assumption")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    shipped_records(given.model)  # one without any is refused before the driver is measured
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    document: dict[str, Any] = {"processors": os.cpu_count(), "load": os.getloadavg()[0], "driver": []}
    with Simulated(given.workers, given.stage, given.keep_gb, sys.stderr) as cluster:
        if not given.json:
            print(HEAD, flush=True)
        for nodes in sorted(set(given.nodes)):
            cluster.grow(nodes)
            for size in given.answer_bytes:
                row = driver_on(cluster, given.chunks, given.sleep_ms / 1e3, size)
                document["driver"].append(row)
                if not given.json:
                    print_row(row)
    chunk = document["chunk"] = one_chunk(given.model)
    paper = document["on_paper"] = on_paper(document["driver"][-1], chunk, given)
    if given.json:
        print(json.dumps(document))
        return
    print(
        f"on paper: {given.scenarios:.0e} scenarios x {chunk['ns']:.0f} ns = {paper['work_core_s']:,.0f} core-seconds; "
        f"/ {paper['cores']:,} cores = {paper['work_core_s'] / paper['cores']:.1f} s\n"
        f"  {paper['files']:,.0f} files x {document['driver'][-1]['driver_ms']:.2f} ms of the driver = "
        f"{paper['driver_s']:.1f} s; x {chunk['bytes']:.2f} bytes = {paper['bytes'] / 1e9:.1f} GB\n"
        f"  so {paper['wall_s']:.0f} s beside what starts the cluster, {paper['cost']:.2f} dollars at {given.price:g} "
        "a core and hour"
    )


if __name__ == "__main__":
    run_script(main)
