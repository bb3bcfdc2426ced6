"""Sweeps: seconds and bytes for a scenario, what bounds them, and what Ray adds.

    python benchmarks/bench_sweep.py [--model alexnet] [--scenarios 1e6 1e8] [--searched 10000] [--json]

By atlas, each number of --scenarios with compact and with full rows, in this process and on --workers processes: wall
seconds with building the atlas, bytes in the files, and the most memory that a process had.
Beside them the floors, each measured alone on the same grid: the look-ups, the same rows encoded and not written, and
as many bytes written and synchronised. Then the solvers that search, on --searched scenarios; and the same chunks by
this process and by one Ray worker, in turn, whose difference is Ray's. Last, the seconds from the command to its first
chunk, in process and on a Ray of its own, with an empty and with a full cache.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from coinfer_ray.atlas.build import grid_atlases
from coinfer_ray.cli.scripts import positive_int, positive_number, run_script
from coinfer_ray.errors import check_name
from coinfer_ray.sweeps.chunks import solve_chunk
from coinfer_ray.sweeps.manifest import Manifest
from coinfer_ray.sweeps.rows import encode
from coinfer_ray.sweeps.sweep import SOLVERS, prepare, sweep

RATES = 10_000
REPEATS = 3  # of what is compared
UNSAID: dict[str, Any] = dict.fromkeys(("confidence", "round_trip_ms", "cost_model", "time_limit_s", "solver_options"))
UNSAID["certify"] = False


def grid_of(model: str, scenarios: int, confidence: float | None = 0.9) -> dict[str, Any]:
    """Devices by rates at two losses, as many scenarios as asked for."""
    rates = min(RATES, max(2, scenarios // 4))
    devices = max(2, scenarios // (2 * rates))
    return {
        "model": [model],
        "device": [{"name": "device", "gflops": {"logspace": [0.1, 1000, devices]}}],
        "server": ["p100"],
        "link": [{"rate_mbps": {"logspace": [0.01, 1000, rates]}}],
        "max_loss": [0.01, 0.02],
        "confidence": [confidence],
    }


def run(grid: dict[str, Any], folder: Path, **how: Any) -> dict[str, float]:
    """One sweep into a new folder: wall seconds and bytes."""
    shutil.rmtree(folder, ignore_errors=True)
    began = time.perf_counter()
    sweep(grid, folder, quiet=True, **how)
    manifest = Manifest.read(folder)
    return {
        "seconds": time.perf_counter() - began,
        "scenarios": manifest.rows,
        "bytes": manifest.bytes,
        "files": len(manifest.files),
    }


def floors(grid: dict[str, Any], columns: str, folder: Path) -> dict[str, float]:
    """Nanoseconds for a scenario of what a sweep by atlas cannot do without, each alone."""
    prepared = prepare(grid, None, solver="atlas", seed=None, chunk=None, columns=columns, shard=None, **UNSAID)
    (problem,) = prepared.problems.values()
    atlases = grid_atlases(prepared.grid, problem, quiet=True)
    how = replace(prepared.how, atlases={problem.graph.model: atlases})
    chunk = prepared.chunks[0]
    rows = chunk.stop - chunk.start
    weights = prepared.grid.weights(chunk.start, chunk.stop)
    table = solve_chunk(prepared.grid, problem, chunk, how)
    content = encode(table)

    def write() -> None:
        with (folder / "floor").open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    return {
        name: 1e9 * best_of(work) / rows
        for name, work in (
            ("look_ups", lambda: atlases[0].table.lookup(weights)),
            ("solved_and_in_columns", lambda: solve_chunk(prepared.grid, problem, chunk, how)),
            ("encoding", lambda: encode(table)),
            ("writing", write),
        )
    }


def floors_of(model: str, columns: str) -> dict[str, float]:
    """Processor nanoseconds (``ns``) and ``bytes`` for a scenario of a chunk that an atlas answers, encoded as well."""
    grid = grid_of(model, 1_000_000)
    prepared = prepare(grid, None, solver="atlas", seed=None, chunk=None, columns=columns, shard=None, **UNSAID)
    (problem,) = prepared.problems.values()
    how = replace(prepared.how, atlases={problem.graph.model: grid_atlases(prepared.grid, problem, quiet=True)})
    chunk = prepared.chunks[0]
    rows = chunk.stop - chunk.start
    content = encode(solve_chunk(prepared.grid, problem, chunk, how))  # compiles, too
    least = np.inf
    for _ in range(3):
        began = time.process_time()
        encode(solve_chunk(prepared.grid, problem, chunk, how))
        least = min(least, time.process_time() - began)
    return {"ns": 1e9 * least / rows, "bytes": memoryview(content).nbytes / rows}


def best_of(work: Any, repeats: int = 3) -> float:
    least = np.inf
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        least = min(least, time.perf_counter() - began)
    return least


def resident_mb() -> dict[str, float]:
    """The most that this process, and the largest of its children, have had."""
    return {
        name: resource.getrusage(who).ru_maxrss / 1e3
        for name, who in (("driver_mb", resource.RUSAGE_SELF), ("worker_mb", resource.RUSAGE_CHILDREN))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="alexnet")
    parser.add_argument("--scenarios", type=positive_number, nargs="+", default=[1e6, 1e7])
    parser.add_argument("--workers", type=positive_int, default=2)
    parser.add_argument("--searched", type=int, default=10_000, help="scenarios of the solvers that search; 0: none")
    parser.add_argument("--solvers", nargs="+", default=["exact", "quantum"])
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary one")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    for solver in given.solvers:
        check_name("solver", solver, SOLVERS)
    document: dict[str, Any] = {"processors": os.cpu_count(), "load": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory(dir=given.folder) as place:
        out = Path(place) / "answers"
        grid = grid_of(given.model, 1_000_000)
        sweep(grid, None, solver="atlas", executor="local", quiet=True)  # compiles, and warms the caches
        document["floors"] = {columns: floors(grid, columns, Path(place)) for columns in ("compact", "full")}
        document["by_atlas"] = []
        for count in given.scenarios:
            for columns in ("compact", "full"):
                for executor, workers in (("local", 1), ("processes", given.workers)):
                    how = {"executor": executor, "workers": workers if executor == "processes" else None}
                    found = run(grid_of(given.model, int(count)), out, solver="atlas", columns=columns, **how)
                    row = {"columns": columns, "workers": workers, **found, **resident_mb()}
                    document["by_atlas"].append(row)
                    if not given.json:
                        print_row(row)
        document["searched"] = []
        for solver in given.solvers if given.searched else ():
            for confidence in (0.9, None):
                how = {"executor": "processes", "workers": given.workers, "solver": solver, "columns": "compact"}
                found = run(grid_of(given.model, given.searched, confidence), out, **how)
                row = {"solver": solver, "confidence": confidence, **found}
                document["searched"].append(row)
                if not given.json:
                    sure = "predictions as they are" if confidence is None else f"confidence {confidence:g}"
                    print(f"{solver}, {sure}: {row['scenarios']:,} scenarios in {row['seconds']:.1f} s", flush=True)
        if given.searched:
            document["ray"] = rays_share(given.model, given.searched, out)
        document["start_up"] = start_up(given.model, out)
    if given.json:
        print(json.dumps(document))
        return
    for columns, each in document["floors"].items():
        shares = ", ".join(f"{name.replace('_', ' ')} {value:.0f}" for name, value in each.items())
        print(f"floors of {columns} rows, ns for a scenario: {shares}")
    for each in document["start_up"]:
        print(f"first chunk, {each['executor']}, {each['cache']} cache: {each['seconds']:.1f} s from the command")
    if given.searched:
        ray = document["ray"]
        print(
            f"the same {ray['files']:.0f} chunks: {ray['local_s']:.1f} s in this process, {ray['ray_1_s']:.1f} s by "
            f"one Ray worker, of which {ray['start_1_s']:.1f} s start Ray: {ray['overhead']:+.1%} beside that; by two "
            f"{ray['ray_2_s']:.1f} s, of which {ray['start_2_s']:.1f} s start Ray: {ray['speed_up']:.2f}x one"
        )


def rays_share(model: str, scenarios: int, out: Path) -> dict[str, float]:
    """Wall seconds of the same chunks, solved by local search: in this process, by one Ray worker, and by two.

    A worker has one thread: run it with NUMBA_NUM_THREADS=1, so that this process has no more.
    What starting Ray takes is measured by four scenarios each and taken off. ``overhead``: what one worker takes beyond
    this process; ``speed_up``: how much faster two are than one.
    """
    grid, few = grid_of(model, scenarios, None), grid_of(model, 4, None)
    common = {"solver": "quantum", "columns": "compact", "chunk": max(1, scenarios // 20)}
    cases = {
        "local_s": (grid, {"executor": "local", **common}),
        "start_1_s": (few, {"executor": "ray", "workers": 1, "solver": "quantum"}),
        "ray_1_s": (grid, {"executor": "ray", "workers": 1, **common}),
        "start_2_s": (few, {"executor": "ray", "workers": 2, "solver": "quantum"}),
        "ray_2_s": (grid, {"executor": "ray", "workers": 2, **common}),
    }
    least, files = dict.fromkeys(cases, np.inf), 0.0
    for _ in range(REPEATS):  # in turn, so that what else the machine does meets all of them
        for name, (asked, how) in cases.items():
            found = run(asked, out, **how)
            least[name] = min(least[name], found["seconds"])
            files = max(files, found["files"])
    one, two = (least[f"ray_{workers}_s"] - least[f"start_{workers}_s"] for workers in (1, 2))
    return {**least, "overhead": one / least["local_s"] - 1, "speed_up": one / two, "files": files}


def first_chunk(model: str, folder: Path, executor: str, cache: Path) -> float:
    """Seconds from the command ``coinfer sweep`` to its first file, with that folder for its cache."""
    shutil.rmtree(folder, ignore_errors=True)
    grid = folder.with_name("grid.json")
    grid.write_text(json.dumps(grid_of(model, 64, 0.9)))
    code = "import sys; from coinfer_ray.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "sweep", str(grid), "--out", str(folder), "--executor", executor]
    environment = {**os.environ, "COINFER_CACHE_DIR": str(cache)}
    began = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not any(folder.glob("*/chunk-*.parquet")):
            if process.poll() not in (None, 0):
                raise RuntimeError(f"the command ended with status {process.returncode}: {' '.join(command)}")
            time.sleep(0.01)
        return time.perf_counter() - began


def start_up(model: str, folder: Path) -> list[dict[str, Any]]:
    """:func:`first_chunk` in process and on a Ray of its own, with an empty cache and with what that left there."""
    rows = []
    for executor in ("local", "ray"):
        with tempfile.TemporaryDirectory() as cache:
            for state in ("cold", "warm"):
                seconds = first_chunk(model, folder, executor, Path(cache))
                rows.append({"executor": executor, "cache": state, "seconds": seconds})
    return rows


def print_row(row: dict[str, Any]) -> None:
    each = 1e9 * row["seconds"] / row["scenarios"]
    print(
        f"{row['scenarios']:>13,} {row['columns']:7} rows, {row['workers']} worker(s): {row['seconds']:7.1f} s, "
        f"{each:5.0f} ns and {row['bytes'] / row['scenarios']:5.2f} bytes each, {row['files']} files, driver "
        f"{row['driver_mb']:.0f} MB, largest worker {row['worker_mb']:.0f} MB",
        flush=True,
    )


if __name__ == "__main__":
    run_script(main)
