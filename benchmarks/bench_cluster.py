"""How many chunks a second one driver hands out and gathers, on a simulated cluster; and a large sweep on paper.

    python benchmarks/bench_cluster.py [--nodes 10] [--workers 1] [--chunks 2000] [--sleep-ms 20] [--json]

Every node is a raylet of its own on this machine (Ray's cluster_utils) with as many workers as asked for, whose chunks
sleep instead of solving: what is measured is the driver. Its processor seconds for a chunk say what it could do at
most, whatever else the machine does; the rate is what it did. Then, in this process, a chunk of an atlas's look-ups is
really solved and encoded, and from both follows what --scenarios of them take on --of nodes of --cores each, at --price
a core and hour, which is an assumption. Some 300 MB of memory a node.
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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.cluster_utils import Cluster

from coinfer_ray.cli.scripts import positive_int, positive_number, run_script
from coinfer_ray.records.store import shipped_records
from coinfer_ray.runtime.executors import WorkerContext
from coinfer_ray.runtime.executors.ray_executor import RayExecutor
from coinfer_ray.sweeps.sweep import LARGEST_LOOK_UP, MAX_CHUNKS

STORE_BYTES = 80_000_000  # of a node's object store; Ray takes no less than 75 MB
SECONDS_OF_AN_HOUR = 3600


def start_sleeper(shared: Mapping[str, Any], context: WorkerContext) -> Callable[[int], bytes]:
    """Chunks that sleep, and come back as large as a description of a written one, or as their rows."""
    seconds, answer = float(shared["seconds"]), bytes(int(shared["bytes"]))

    def work(chunk: int) -> bytes:
        time.sleep(seconds)
        return answer

    return work


@contextmanager
def simulated(nodes: int, workers: int) -> Any:
    """A cluster of so many nodes, each with room for so many workers, that this process has joined."""
    began = time.perf_counter()
    settings = {"num_cpus": workers, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=settings)
    try:
        for _ in range(nodes - 1):
            cluster.add_node(wait=False, **settings)
        cluster.wait_for_nodes(timeout=60 + 10 * nodes)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield time.perf_counter() - began
    finally:
        ray.shutdown()
        cluster.shutdown()


def driver_on(nodes: int, workers: int, chunks: int, seconds: float, size: int) -> dict[str, float]:
    """Hand out and gather ``chunks`` and say what it took the driver, from the second that every worker was ready."""
    with simulated(nodes, workers) as start_s:
        crew = nodes * workers
        with RayExecutor(workers=crew, in_flight=2) as executor:
            shared = {"seconds": seconds, "bytes": size}
            running = executor.run(start_sleeper, shared, ((n, n) for n in range(chunks + 20 * crew)))
            for _ in range(20 * crew):  # while workers still start, few do all the work
                next(running)
            wall, processor = time.perf_counter(), time.process_time()
            done = sum(envelope.error is None for envelope in running)
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return {
        "nodes": nodes,
        "workers": crew,
        "start_s": start_s,
        "chunks": done,
        "bytes_of_a_chunk": size,
        "per_s": done / wall,
        "asleep_per_s": crew / seconds,
        "driver_ms": 1e3 * processor / done,
        "driver_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--nodes", type=positive_int, nargs="+", default=[10], help="several are measured one after the other"
    )
    parser.add_argument("--workers", type=positive_int, default=1, help="of a node")
    parser.add_argument("--chunks", type=positive_int, default=2000)
    parser.add_argument("--sleep-ms", type=positive_number, default=20.0, help="that a chunk takes its worker")
    parser.add_argument("--bytes", type=positive_int, nargs="+", default=[200], help="that a chunk sends back")
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
    for nodes in given.nodes:
        for size in given.bytes:
            row = driver_on(nodes, given.workers, given.chunks, given.sleep_ms / 1e3, size)
            document["driver"].append(row)
            if not given.json:
                print(
                    f"{nodes:3} nodes up in {row['start_s']:.0f} s: {row['chunks']:,.0f} chunks of {size:,} bytes at "
                    f"{row['per_s']:.0f} a second (workers allow {row['asleep_per_s']:.0f}); the driver takes "
                    f"{row['driver_ms']:.2f} ms of a processor for each, {1e3 / row['driver_ms']:.0f} a second at "
                    f"most, and {row['driver_mb']:.0f} MB",
                    flush=True,
                )
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
