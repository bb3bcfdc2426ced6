"""``coinfer_kernels.minimize`` on the functions of COCO, beside its peers, in one run, on one thread.

    python benchmarks/bench_coco.py [--dimensions 5 10 20] [--suites bbob bbob-mixint] [--functions 1 8 10]
                                    [--instances 1 2 3] [--budget 1000] [--peers DE BIPOP] [--seeds N] [--each] [--json]

COCO (N. Hansen et al., "COCO: a platform for comparing continuous optimizers in a black-box setting", Optimization
Methods and Software 36, 2021) publishes suites of functions: ``bbob``, 24 functions of real variables in [-5, 5]^D, and
``bbob-mixint``, the same with four in five variables whole numbers of 2 to 16 values. A run ends at ``--budget``
evaluations for each variable, or at the last target. The share of targets is that of the 51 of COCO's, 10^2, 10^1.8,
.. 10^-8 above the optimum, that the best solution meets, over all functions, instances and seeds.

*Own time*: processor time of an evaluation without the objective's, which is measured apart; of ours also with the
loop compiled, around the sum of squares, by D.

The peers: SciPy's differential evolution as it ships, and BIPOP-CMA-ES with pycma's bounds and whole numbers, both
begun anew at random until the budget is spent. What is not installed is left out with a line on stderr:

    pip install coco-experiment cma scipy
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numba
import numpy as np
from coinfer_kernels import minimize

from coinfer_ray.cli.scripts import positive_int, run_script
from coinfer_ray.errors import InputError
from coinfer_ray.runtime.progress import Progress

TARGETS = 10.0 ** np.arange(2, -8.1, -0.2)
SUITES = ("bbob", "bbob-mixint")
FUNCTIONS = 24


class SpentError(Exception):
    """The budget is spent, or the last target met."""


class Watched:
    """A function of a suite and the least that was found of it."""

    def __init__(self, problem: Any, optimum: float, budget: int) -> None:
        self.problem, self.optimum, self.budget = problem, optimum, budget
        self.low, self.high = problem.lower_bounds, problem.upper_bounds
        self.integral = np.arange(problem.dimension) < problem.number_of_integer_variables
        self.best, self.evaluations = np.inf, 0

    def __call__(self, x: np.ndarray) -> float:
        if self.evaluations == self.budget or self.best - self.optimum <= TARGETS[-1]:
            raise SpentError
        value = float(self.problem(x))
        self.evaluations += 1
        self.best = min(self.best, value)
        return value

    @property
    def share(self) -> float:
        """Of the targets that were met."""
        return float((self.best - self.optimum <= TARGETS).mean())


def ours(watched: Watched, seed: int) -> None:
    bounds = np.stack([watched.low, watched.high], axis=1)
    minimize(watched, bounds, watched.integral, vectorized=False, max_evaluations=watched.budget, seed=seed)


def scipy_de(watched: Watched, seed: int) -> None:
    from scipy.optimize import differential_evolution

    rng = np.random.default_rng(seed)
    bounds = list(zip(watched.low, watched.high, strict=True))
    while True:
        differential_evolution(watched, bounds, integrality=watched.integral, rng=rng)


def bipop(watched: Watched, seed: int) -> None:
    import cma

    rng = np.random.default_rng(seed)
    width = watched.high - watched.low
    # A whole number's values each get the same room; a fifth of the domain is what BBOB's experiments begin with.
    room = np.where(watched.integral, 0.5 - 1e-9, 0.0)
    options = {
        "bounds": [watched.low - room, watched.high + room],
        "integer_variables": np.flatnonzero(watched.integral).tolist(),
        "CMA_stds": 0.2 * (width + 2 * room),
        "maxfevals": watched.budget,
        "verbose": -9,
    }

    def objective(x: np.ndarray) -> float:
        return watched(np.where(watched.integral, np.clip(np.rint(x), watched.low, watched.high), x))

    start = 0
    while True:
        start += 1
        options["seed"] = 1 + start + 1000 * seed
        cma.fmin2(objective, lambda: rng.uniform(watched.low, watched.high), 1.0, options, restarts=9, bipop=True)


OURS = "minimize (ours)"
PEERS: dict[str, tuple[str, Callable[[Watched, int], None]]] = {
    "DE": ("SciPy DE", scipy_de),
    "BIPOP": ("pycma, BIPOP", bipop),
}


def problems(suite: str, dimension: int, functions: list[int], instances: list[int]) -> Any:
    import cocoex

    which = f"dimensions: {dimension} function_indices: {','.join(map(str, functions))}"
    return cocoex.Suite(suite, f"instances: {','.join(map(str, instances))}", which)


def optima(suite: Any) -> list[float]:
    """The least value of each function: COCO writes where it is into a file of the folder it runs in."""
    found = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for problem in suite:
            problem._best_parameter("print")
            best = np.loadtxt("._bbob_problem_best_parameter.txt", ndmin=1)
            found.append(float(problem(best[: problem.dimension])))
            if not problem.final_target_hit:
                raise RuntimeError(f"{problem.id}: its last target is not met at the optimum that COCO states")
    return found


def objective_s(watched: Watched, calls: int = 2000) -> float:
    """Processor time of one evaluation: of another copy, so that none counts."""
    copy = Watched(watched.problem, -np.inf, calls)
    x = np.array(watched.problem.initial_solution)
    began = time.process_time()
    for _ in range(calls):
        copy(x)
    return (time.process_time() - began) / calls


def measured(suite: str, dimension: int, name: str, run: Callable[[Watched, int], None], arguments: Any) -> Any:
    """One optimizer on one suite in one dimension: a row of the table."""
    chosen = suite, dimension, arguments.functions, arguments.instances
    least = optima(problems(*chosen))
    shares: dict[int, list[float]] = {function: [] for function in arguments.functions}
    with contextlib.suppress(SpentError):  # compiled and imported
        run(Watched(next(iter(problems(*chosen))), -np.inf, 200), 0)
    own = evaluations = 0.0
    with Progress(f"{suite}, D = {dimension}, {name}", len(least) * arguments.seeds) as progress:
        for seed in range(arguments.seeds):
            for problem, optimum in zip(problems(*chosen), least, strict=True):
                watched = Watched(problem, optimum, arguments.budget * dimension)
                of_one = objective_s(watched)
                began = time.process_time()
                with contextlib.suppress(SpentError), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    run(watched, seed)
                own += time.process_time() - began - of_one * watched.evaluations
                evaluations += watched.evaluations
                shares[problem.id_function].append(watched.share)
                progress.advance()
    each = {function: float(np.mean(found)) for function, found in shares.items()}
    row = {"suite": suite, "dimension": dimension, "optimizer": name, "share": float(np.mean(list(each.values())))}
    return row | {"own_us": 1e6 * own / evaluations, "runs": len(least) * arguments.seeds, "functions": each}


@numba.njit
def sum_of_squares(x: np.ndarray) -> np.ndarray:
    total = np.zeros(x.shape[0])
    for i in range(x.shape[0]):
        for d in range(x.shape[1]):
            total[i] += (x[i, d] - 0.3) ** 2 * (d + 1)
    return total


def compiled_us(suite: str, dimension: int, budget: int) -> float:
    """Own time of an evaluation with the loop compiled; the objective's share of it is a few nanoseconds."""
    integral = (np.arange(dimension) < dimension * 4 // 5) & (suite == "bbob-mixint")
    minimize(sum_of_squares, [(-5, 5)] * dimension, integral, max_evaluations=1000)
    began = time.process_time()
    minimize(sum_of_squares, [(-5, 5)] * dimension, integral, max_evaluations=budget * dimension)
    return 1e6 * (time.process_time() - began) / (budget * dimension)


def available(peers: list[str]) -> dict[str, Callable[[Watched, int], None]]:
    """Ours and the peers that are installed."""
    found: dict[str, Callable[[Watched, int], None]] = {OURS: ours}
    for peer in peers:
        name, run = PEERS[peer]
        try:
            __import__({"DE": "scipy", "BIPOP": "cma"}[peer])
            found[name] = run
        except ModuleNotFoundError as error:
            print(f"{name}: left out ({error})", file=sys.stderr)
    return found


def show(report: dict[str, Any], each: bool) -> None:
    print(f"{'suite':<13}{'D':>4}  {'optimizer':<18}{'targets':>9}{'own us':>9}{'runs':>6}")
    for row in report["rows"]:
        print(
            f"{row['suite']:<13}{row['dimension']:>4}  {row['optimizer']:<18}{row['share']:>9.3f}"
            f"{row['own_us']:>9.1f}{row['runs']:>6}"
        )
        if each:
            print("  " + "  ".join(f"f{function} {share:.2f}" for function, share in row["functions"].items()))
    for row in report["compiled"]:
        print(f"{row['suite']:<13}{row['dimension']:>4}  ours, compiled    {'-':>9}{row['own_us']:>9.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dimensions", nargs="+", type=positive_int, default=[5, 10, 20])
    parser.add_argument("--suites", nargs="+", choices=SUITES, default=list(SUITES))
    parser.add_argument("--functions", nargs="+", type=positive_int, default=list(range(1, FUNCTIONS + 1)))
    parser.add_argument("--instances", nargs="+", type=positive_int, default=[1, 2, 3])
    parser.add_argument("--budget", type=positive_int, default=1000, help="evaluations for each variable")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), help="none: ours alone")
    parser.add_argument("--seeds", type=positive_int, default=1)
    parser.add_argument("--each", action="store_true", help="the share of each function as well")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if max(arguments.functions) > FUNCTIONS:
        raise InputError(f"--functions: {max(arguments.functions)} is not one; 1 to {FUNCTIONS} are")
    known = (2, 3, 5, 10, 20, 40), (5, 10, 20, 40, 80, 160)
    for suite, has in zip(SUITES, known, strict=True):
        if suite in arguments.suites and (foreign := sorted({*arguments.dimensions} - {*has})):
            raise InputError(f"--dimensions: {suite} has none of {foreign[0]}; it has {', '.join(map(str, has))}")
    try:
        __import__("cocoex")
    except ModuleNotFoundError:
        raise InputError("cocoex is not installed, which has the functions; pip install coco-experiment") from None
    optimizers = available(arguments.peers)
    report: dict[str, Any] = {"rows": [], "compiled": []}
    for suite in arguments.suites:
        for dimension in arguments.dimensions:
            for name, run in optimizers.items():
                report["rows"].append(measured(suite, dimension, name, run, arguments))
            own_us = compiled_us(suite, dimension, arguments.budget)
            report["compiled"].append({"suite": suite, "dimension": dimension, "own_us": own_us})
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        show(report, arguments.each)


if __name__ == "__main__":
    run_script(main)
