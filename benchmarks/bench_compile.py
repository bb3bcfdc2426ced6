"""What a first run compiles: seconds of a processor by function, in a fresh cache.

    python benchmarks/bench_compile.py [--rows 30] [--kernels FOLDER ...] [--json]

Each folder holds another version of ``coinfer_kernels`` (``git worktree add ../before COMMIT`` makes
/tmp/before/kernels), measured in turn with this one: its ``solve_quantum`` and ``solve_exact`` are compiled by one
thread of a process of its own, with nothing on disk, then by another from what the first left there. Seconds are those
of a processor, not of the clock, so that a busy machine does little harm. A function's own seconds leave out those of
the functions that it calls; where one is compiled for several types of arguments, they are added.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import coinfer_kernels
from coinfer_kernels.warm_up import small_problem

from coinfer_ray.cli.scripts import positive_int, run_script

CHILD = """
import collections, json, pickle, sys, time
from numba.core import event

class Listener(event.Listener):
    def __init__(self):
        self.open, self.own, self.count = [], collections.Counter(), collections.Counter()

    def on_start(self, event):
        self.open.append([time.thread_time(), 0.0])

    def on_end(self, event):
        start, inside = self.open.pop()
        taken = time.thread_time() - start
        if self.open:
            self.open[-1][1] += taken
        function = event.data["dispatcher"].py_func
        name = function.__module__.removeprefix("coinfer_kernels.") + "." + function.__qualname__
        self.own[name] += taken - inside
        self.count[name] += 1

listener = Listener()
event.register("numba:compile", listener)
start = time.thread_time()
from coinfer_kernels import solve_exact, solve_quantum
problem = pickle.load(open(sys.argv[1], "rb"))
imported = time.thread_time()
begun = solve_quantum(*problem, max_evaluations=1, threads=1)
solve_exact(*problem, incumbents=begun, threads=1)
seconds = {"import": imported - start, "solve": time.thread_time() - imported}
print(json.dumps({"own": listener.own, "count": listener.count, "seconds": seconds}))
"""


def measure(kernels: Path) -> dict[str, Any]:
    """One cold and one warm process."""
    with tempfile.TemporaryDirectory() as folder:
        problem = Path(folder) / "problem"
        problem.write_bytes(pickle.dumps(small_problem()))
        places = {"COINFER_CACHE_DIR": f"{folder}/cache", "NUMBA_CACHE_DIR": f"{folder}/numba"}
        environment = os.environ | places | {"PYTHONPATH": str(kernels), "NUMBA_NUM_THREADS": "1"}

        def once() -> dict[str, Any]:
            done = subprocess.run(
                [sys.executable, "-c", CHILD, str(problem)], env=environment, check=True, stdout=subprocess.PIPE
            )
            found: dict[str, Any] = json.loads(done.stdout)
            return found

        return {"kernels": str(kernels), "cold": once(), "warm": once()["seconds"]}


def show(found: dict[str, Any], rows: int) -> None:
    cold = found["cold"]
    own, count = cold["own"], cold["count"]
    print(f"\n{found['kernels']}\n{'function':<44}{'signatures':>11}{'seconds':>9}")
    for name in sorted(own, key=own.__getitem__, reverse=True)[:rows]:
        print(f"{name:<44}{count[name]:>11}{own[name]:>9.2f}")
    print(f"{f'all {len(own)} functions':<44}{sum(count.values()):>11}{sum(own.values()):>9.2f}")
    print(f"first solve {cold['seconds']['solve']:.1f} s, in the next process {found['warm']['solve']:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=positive_int, default=30)
    parser.add_argument("--kernels", type=Path, nargs="+", default=[], metavar="FOLDER")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    here = Path(coinfer_kernels.__file__ or "").parents[1]
    found = []
    for kernels in [*arguments.kernels, here]:
        found.append(measure(kernels.resolve()))
        if not arguments.json:
            show(found[-1], arguments.rows)
    if arguments.json:
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    run_script(main)
