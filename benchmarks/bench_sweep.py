"""Sweeps: seconds and bytes for a scenario, what bounds them, and what Ray adds.

    python benchmarks/bench_sweep.py [--model alexnet] [--scenarios 1e6 1e8] [--searched 10000] [--json]
    python benchmarks/bench_sweep.py --only ray [--searched 10000] [--repeats 5]

Four parts, which --only chooses from. By atlas, each number of --scenarios with compact and with full rows, in this
process and on --workers processes: wall seconds with building the atlas, bytes in the files, and the most memory that a
process had. Beside them the floors, each measured alone on the same grid: the look-ups, the same rows encoded and not
written, and as many bytes written and synchronised. Then the solvers that search, on --searched scenarios; and the same
chunks in one process, by one Ray worker and by two, in turn and --repeats times, every one with a single thread:
medians, and from least to most. Last, the seconds from the command to its first chunk, in process and on a Ray of its
own, with an empty and with a full cache.
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
from collections.abc import Callable, Generator, Hashable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from coinfer_ray.atlas.build import grid_atlases
from coinfer_ray.cli.scripts import positive_int, positive_number, run_script
from coinfer_ray.errors import InputError, check_name
from coinfer_ray.runtime.executors import Envelope, Executor, WorkerContext, make_executor
from coinfer_ray.sweeps.chunks import solve_chunk
from coinfer_ray.sweeps.manifest import Manifest
from coinfer_ray.sweeps.rows import encode
from coinfer_ray.sweeps.sweep import SOLVERS, prepare, sweep

RATES = 10_000
PARTS = ("atlas", "searched", "ray", "start_up")
CHUNKS = 20  # of what Ray and this process are compared by
# What a Ray worker is started with (:class:`coinfer_ray.runtime.executors.ray_executor.Worker`). Libraries read these
# once, when they are imported.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
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
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--model", default="alexnet")
    parser.add_argument("--scenarios", type=positive_number, nargs="+", default=[1e6, 1e7])
    parser.add_argument("--workers", type=positive_int, default=2)
    parser.add_argument("--searched", type=int, default=10_000, help="scenarios of the solvers that search; 0: none")
    parser.add_argument("--solvers", nargs="+", default=["exact", "quantum"])
    parser.add_argument("--repeats", type=positive_int, default=5, help="of the comparison with Ray")
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary one")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    for solver in given.solvers:
        check_name("solver", solver, SOLVERS)
    none = given.searched == 0 and given.only is PARTS
    if given.searched < CHUNKS and "ray" in given.only and not none:
        raise InputError(f"searched: {given.searched} scenarios; Ray is measured on at least {CHUNKS}")
    document: dict[str, Any] = {"processors": os.cpu_count(), "load": os.getloadavg()[0]}
    say = (lambda _: None) if given.json else (lambda line: print(line, flush=True))
    with tempfile.TemporaryDirectory(dir=given.folder) as place:
        out = Path(place) / "answers"
        if "atlas" in given.only:
            by_atlas(given, out, document, say)
        if "searched" in given.only and given.searched > 0:
            searched(given, out, document, say)
        if "ray" in given.only and given.searched:
            ray = document["ray"] = rays_share(given, out)
            say(told_of_ray(ray))
        if "start_up" in given.only:
            document["start_up"] = start_up(given.model, out)
            for each in document["start_up"]:
                say(f"first chunk, {each['executor']}, {each['cache']} cache: {each['seconds']:.1f} s from the command")
    if given.json:
        print(json.dumps(document))


def by_atlas(given: argparse.Namespace, out: Path, document: dict[str, Any], say: Callable[[str], None]) -> None:
    """What every number of scenarios takes by atlas, and beside it the floors."""
    sweep(grid_of(given.model, 1_000_000), None, solver="atlas", executor="local", quiet=True)  # compiles; warms caches
    document["floors"] = {}
    for columns in ("compact", "full"):
        each = document["floors"][columns] = floors(grid_of(given.model, 1_000_000), columns, out.parent)
        shares = ", ".join(f"{name.replace('_', ' ')} {value:.0f}" for name, value in each.items())
        say(f"floors of {columns} rows, ns for a scenario: {shares}")
    document["by_atlas"] = []
    for count in given.scenarios:
        for columns in ("compact", "full"):
            for executor, workers in (("local", 1), ("processes", given.workers)):
                how = {"executor": executor, "workers": workers if executor == "processes" else None}
                found = run(grid_of(given.model, int(count)), out, solver="atlas", columns=columns, **how)
                row = {"columns": columns, "workers": workers, **found, **resident_mb()}
                document["by_atlas"].append(row)
                say(told_of_row(row))


def searched(given: argparse.Namespace, out: Path, document: dict[str, Any], say: Callable[[str], None]) -> None:
    """What the solvers take that search."""
    document["searched"] = []
    for solver in given.solvers:
        for confidence in (0.9, None):
            how = {"executor": "processes", "workers": given.workers, "solver": solver, "columns": "compact"}
            found = run(grid_of(given.model, given.searched, confidence), out, **how)
            row = {"solver": solver, "confidence": confidence, **found}
            document["searched"].append(row)
            sure = "predictions as they are" if confidence is None else f"confidence {confidence:g}"
            say(f"{solver}, {sure}: {row['scenarios']:,} scenarios in {row['seconds']:.1f} s")


def rays_share(given: argparse.Namespace, out: Path) -> dict[str, Any]:
    """The same chunks, solved by local search, in one process (``local``), by one Ray worker and by two, in turn.

    All have one thread: where this process may have more, another is started that has not. What is measured begins
    when every worker has solved a chunk beforehand, so neither Ray's start nor that of its workers is in it:

    - ``seconds``, from then to the last chunk's arrival; of these one worker spent ``outside`` not within chunks, by
      their own clocks;
    - ``overhead``: by which share one worker takes longer than the process that did the same just before;
    - ``outside_share``: ``outside`` of one worker beside what it spent within chunks, less the same of the process.
      The chunks' seconds change with whatever else the machine does, these hardly;
    - ``speed_up``: how much faster two workers are than one.
    """
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        return in_one_thread(given)
    grid = grid_of(given.model, given.searched, None)
    cases = {"local": ("local", 1), "ray_1": ("ray", 1), "ray_2": ("ray", 2)}
    took: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    how = {"solver": "quantum", "columns": "compact", "chunk": max(1, given.searched // CHUNKS)}
    for _ in range(given.repeats):
        for name, (kind, workers) in cases.items():
            began = time.perf_counter()
            with make_executor(kind, workers=workers, in_flight=2) as executor:
                watched = Watched(executor, out.parent / "ready")
                run(grid, out, executor=watched, **how)
            took[name].append({"start": watched.began - began, **watched.took()})
    one, two = took["ray_1"], took["ray_2"]
    pairs = list(zip(took["local"], one, strict=True))
    ratios = {
        "overhead": [ray["seconds"] / local["seconds"] - 1 for local, ray in pairs],
        "outside_share": [ray["outside"] / ray["inside"] - local["outside"] / local["inside"] for local, ray in pairs],
        "speed_up": [ray["seconds"] / twice["seconds"] for ray, twice in zip(one, two, strict=True)],
    }
    return {
        "chunks": watched.chunks,
        "repeats": given.repeats,
        **{name: {key: spread([each[key] for each in found]) for key in found[0]} for name, found in took.items()},
        **{name: spread(found) for name, found in ratios.items()},
    }


def in_one_thread(given: argparse.Namespace) -> dict[str, Any]:
    """:func:`rays_share` by a process of its own, whose libraries have one thread each."""
    asked = ["--only", "ray", "--json", "--model", given.model, "--searched", str(given.searched)]
    asked += ["--repeats", str(given.repeats), *(() if given.folder is None else ("--folder", str(given.folder)))]
    command = [sys.executable, str(Path(__file__).resolve()), *asked]
    with subprocess.Popen(command, env={**os.environ, **ONE_THREAD}, stdout=subprocess.PIPE, text=True) as process:
        try:
            output, _ = process.communicate()
        finally:
            process.terminate()  # where this process is ended: its Ray ends with it
    if process.returncode:
        raise RuntimeError(f"the comparison with Ray ended with status {process.returncode}: {' '.join(command)}")
    found: dict[str, Any] = json.loads(output)["ray"]
    return found


def start_ready(shared: Mapping[str, Any], context: WorkerContext) -> Callable[[Any], Any]:
    """A worker that has solved a chunk, which loads what is compiled, and begins when all of them have."""
    work: Callable[[Any], Any] = shared["start"](shared, context)
    work(shared["first"])
    ready = Path(shared["ready"])
    (ready / str(os.getpid())).touch()
    while len(list(ready.iterdir())) < shared["workers"]:
        time.sleep(0.01)
    return work


class Watched:
    """An executor whose workers begin together, and which notes what it took them; ``ready`` is a folder of its own.

    ``began``: the second when the first chunk did.
    """

    def __init__(self, executor: Executor, ready: Path) -> None:
        self.executor, self.workers, self.ready = executor, executor.workers, ready
        self.arrivals: list[tuple[float, float]] = []  # when, and a chunk's own seconds

    def run(
        self, start: Callable[..., Any], shared: Mapping[str, Any], tasks: Iterable[tuple[Hashable, Any]]
    ) -> Generator[Envelope[Any], None, None]:
        chunks = list(tasks)
        shutil.rmtree(self.ready, ignore_errors=True)
        self.ready.mkdir()
        further = {"start": start, "first": chunks[0][1], "ready": str(self.ready), "workers": self.workers}
        for envelope in self.executor.run(start_ready, {**shared, **further}, chunks):
            self.arrivals.append((time.perf_counter(), envelope.seconds))
            yield envelope

    def progressed(self, what: str, count: int) -> None:
        self.executor.progressed(what, count)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *error: object) -> None:
        """Whoever entered the executor leaves it."""

    @property
    def chunks(self) -> int:
        return len(self.arrivals)

    @property
    def began(self) -> float:
        return min(arrival - seconds for arrival, seconds in self.arrivals)

    def took(self) -> dict[str, float]:
        """Seconds from the first chunk's beginning to the last one's arrival; workers' seconds ``inside`` chunks, and
        ``outside``: a worker also waits for the last chunk of another there."""
        inside = sum(seconds for _, seconds in self.arrivals)
        seconds = self.arrivals[-1][0] - self.began
        return {"seconds": seconds, "inside": inside, "outside": self.workers * seconds - inside}


def spread(values: list[float]) -> dict[str, float]:
    return {"median": float(np.median(values)), "least": min(values), "most": max(values)}


def told_of_ray(ray: Mapping[str, Any]) -> str:
    def of(found: Mapping[str, float], form: str) -> str:
        return f"{found['median']:{form}} ({found['least']:{form}} to {found['most']:{form}})"

    local, one, two = (ray[name] for name in ("local", "ray_1", "ray_2"))
    return (
        f"the same {ray['chunks']} chunks, one thread each, {ray['repeats']} times in turn, median (least to most):\n"
        f"  in one process {of(local['seconds'], '.2f')} s, of which {of(local['outside'], '.3f')} outside chunks\n"
        f"  by one Ray worker {of(one['seconds'], '.2f')} s, of which {of(one['outside'], '.3f')} outside chunks, "
        f"after {one['start']['median']:.1f} s to start\n"
        f"  so Ray adds {of(ray['overhead'], '+.1%')}; by what is outside chunks {of(ray['outside_share'], '+.2%')}\n"
        f"  by two workers {of(two['seconds'], '.2f')} s: {of(ray['speed_up'], '.2f')} times as fast as by one"
    )


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
        try:
            while not any(folder.glob("*/chunk-*.parquet")):
                if process.poll() not in (None, 0):
                    raise RuntimeError(f"the command ended with status {process.returncode}: {' '.join(command)}")
                time.sleep(0.01)
            seconds = time.perf_counter() - began
            process.wait()
        finally:
            process.terminate()  # where this process is ended
    return seconds


def start_up(model: str, folder: Path) -> list[dict[str, Any]]:
    """:func:`first_chunk` in process and on a Ray of its own, with an empty cache and with what that left there."""
    rows = []
    for executor in ("local", "ray"):
        with tempfile.TemporaryDirectory() as cache:
            for state in ("cold", "warm"):
                seconds = first_chunk(model, folder, executor, Path(cache))
                rows.append({"executor": executor, "cache": state, "seconds": seconds})
    return rows


def told_of_row(row: dict[str, Any]) -> str:
    each = 1e9 * row["seconds"] / row["scenarios"]
    return (
        f"{row['scenarios']:>13,} {row['columns']:7} rows, {row['workers']} worker(s): {row['seconds']:7.1f} s, "
        f"{each:5.0f} ns and {row['bytes'] / row['scenarios']:5.2f} bytes each, {row['files']} files, driver "
        f"{row['driver_mb']:.0f} MB, largest worker {row['worker_mb']:.0f} MB"
    )


if __name__ == "__main__":
    run_script(main)
