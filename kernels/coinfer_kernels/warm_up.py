"""Compile the solvers ahead, on a problem so small that solving it takes no time.

What the solvers compile depends on the types of their arguments alone, and those are the same for every problem.
"""

import subprocess
import sys
import threading
from typing import IO

import numpy as np

from coinfer_kernels import machine_code
from coinfer_kernels.exact import solve as exact
from coinfer_kernels.exact.solve import solve_exact
from coinfer_kernels.jit import default_threads
from coinfer_kernels.local_search.solve import solve_quantum
from coinfer_kernels.notation import (
    CODEC_VARIABLES,
    CUT_NONE,
    CUT_RAW,
    CostTables,
    EnsembleTables,
    Scenarios,
    Solutions,
    SpaceTables,
)


def small_problem() -> tuple[SpaceTables, CostTables, EnsembleTables, Scenarios]:
    """Two layers of one prunable set, all on the device or all on the server, and one scenario."""
    variables = 2 + CODEC_VARIABLES
    values = np.ones((variables, 2))
    values[0] = 1.0, 0.5
    n_levels = np.ones(variables, dtype=np.int64)
    n_levels[:2] = 2
    space = SpaceTables(
        n_levels=n_levels,
        values=values,
        cut_variable=1,
        active=np.arange(variables) < np.array([[2], [2]]),
        canonical=np.zeros(variables, dtype=np.int64),
    )
    cost = CostTables(
        in_set=np.array([1, 0]),
        out_set=np.array([0, 1]),
        quadratic=np.array([4.0, 4.0]),
        linear=np.array([1.0, 1.0]),
        kept=np.array([[4.0, 2.0], [1.0, 1.0]]),
        cut_layers=np.array([0, 2]),
        cut_kind=np.array([CUT_RAW, CUT_NONE]),
        cut_set=np.array([1, 1]),
        cut_channels=np.array([1.0, 1.0]),
        cut_height=np.array([1, 1]),
        cut_width=np.array([1, 1]),
        codec_variable=2,
        ratio=values[2:].copy(),
        cut_bits=np.full(2, 32.0),
        input_bits=8.0,
        codec_flops=True,
    )
    ensemble = EnsembleTables(
        feature=np.array([0, -1, -1]),
        threshold=np.array([0.25, 0.0, 0.0]),
        left=np.array([1, 1, 2]),
        right=np.array([2, 1, 2]),
        value=np.array([0.0, 0.5, 0.75]),
        roots=np.array([0]),
        weights=np.ones(1),
        median=False,
        intercept=0.0,
        coefficients=np.zeros(variables),
    )
    return space, cost, ensemble, Scenarios(np.ones((1, 3)), np.full(1, 0.5), np.zeros(1))


def compile_solvers(threads: int | None = None) -> None:
    """Have ``solve_quantum`` and ``solve_exact`` compiled, or read from disk where they have been before.

    With more than one thread (None: all that this process may use) a second process compiles one of the two. Workers
    that start after that find both on disk.
    """
    helper = None
    if (threads or default_threads()) > 1 and not machine_code.is_kept(exact._advance) and machine_code.folder():
        helper = subprocess.Popen(
            [sys.executable, "-c", _HELPER, *sys.path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert helper.stdout is not None
        reader = threading.Thread(target=_pass_on, args=(helper.stdout,), daemon=True)
        reader.start()
    try:
        problem = small_problem()
        begun = solve_quantum(*problem, max_evaluations=1, threads=1)
        if helper is not None:
            helper.wait()  # where it failed, the rest is compiled here
            reader.join()
    finally:
        if helper is not None and helper.poll() is None:
            helper.kill()
            helper.wait()
    solve_exact(*problem, incumbents=begun, threads=1)


_HELPER = """
import sys
sys.path[:] = sys.argv[1:]
from coinfer_kernels import machine_code, warm_up
machine_code.on_compile(lambda at: at.done and print(at.function, flush=True))
warm_up._compile_exact()
"""


def _pass_on(names: IO[str]) -> None:
    for name in names:
        machine_code.count(name.strip())


def _compile_exact() -> None:
    space, cost, ensemble, scenarios = small_problem()
    levels = space.canonical[None]
    begun = Solutions(
        levels, np.full(1, np.inf), np.full(1, 0.75), np.zeros(1, np.int64), np.ones(1, np.bool_), np.full(1, np.nan)
    )
    solve_exact(space, cost, ensemble, scenarios, incumbents=begun, threads=1)
