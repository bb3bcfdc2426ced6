"""The kernels stand alone: numpy, numba and the standard library."""

import os
import subprocess
import sys
from pathlib import Path

KERNELS = Path(__file__).parents[2] / "kernels"

PROBE = """
import sys
before = set(sys.modules)
import numba, numpy
of_numba = {name.partition(".")[0] for name in sys.modules}
import coinfer_kernels
print(*sorted({name.partition(".")[0] for name in sys.modules} - of_numba))
"""


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(KERNELS)} | environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()


def test_importing_pulls_in_nothing_but_numpy_numba_and_the_standard_library():
    pulled = set(run(PROBE))
    assert "coinfer_kernels" in pulled
    assert pulled - {"coinfer_kernels"} <= sys.stdlib_module_names


def test_importing_compiles_nothing_and_starts_no_threads():
    code = (
        "import threading, coinfer_kernels.algorithm1 as q\n"
        "print(threading.active_count(), len(q._solve_paper_rows.signatures))"
    )
    assert run(code) == ["1", "0"]


def test_several_threads_may_call_at_once():
    code = """
import numpy as np
from concurrent.futures import ThreadPoolExecutor
from coinfer_kernels import Scenarios, cheapest_feasible
scenarios = Scenarios(np.ones((5000, 3)), np.zeros(5000), np.zeros(5000))
def call(_):
    return cheapest_feasible(np.arange(30.0).reshape(10, 3), np.ones(10), scenarios, threads=2)[1].sum()
with ThreadPoolExecutor(4) as pool:
    print(len(set(pool.map(call, range(20)))))
"""
    assert run(code) == ["1"]
