"""The quantum-inspired optimizer beside its peers, in one run, on one thread.

    python benchmarks/bench_optimizers.py [--quick] [--ablation] [--classic] [--problem] [--seeds N] [--json]

*The mission's problem*: 12 scenarios (3 devices x 4 links, a loss of 2 points) of the shipped records. For every
optimizer: the share of runs that come within 1 % of the best known value (the least of the exact solver's, of long
runs, and of everything in this run), and, of those runs, the median processor time and evaluations until they do.
All peers minimise the same number over the unit cube: the objective where the strategy is accurate enough, else more
than any objective by as much as accuracy is missing; they hand whole populations to our compiled kernels, which is
generous to them. Rows marked "sklearn" ask scikit-learn's own predict instead. A run ends at its cap of seconds.
solve_quantum and solve_paper cannot be watched from outside: they run with budgets that double, and the time and
evaluations are those of the first budget that gets there, with all smaller ones counted in.

*Classic functions*: medians over seeds at equal evaluations, beside SciPy's differential evolution.

*Ablation*: what each part of solve_quantum gives, and what was tried; the table of kernels/README.md.

SciPy comes with scikit-learn; peers that are not installed are left out with a line on stderr:

    pip install cma pymoo optuna
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from coinfer_kernels import (
    QuantumOptimizer,
    Scenarios,
    decode,
    features,
    minimize,
    solve_exact,
    solve_paper,
    solve_quantum,
    strategy_costs,
)
from coinfer_kernels.local_search.solve import EVALUATIONS, LevelSettings, solve_with
from coinfer_kernels.problem import check_problem

from coinfer_ray.cli.scripts import positive_int, run_script

WITHIN = 0.01
BUDGETS = tuple(62_500 * 2**k for k in range(7))  # to 4,000,000


class ReachedError(Exception):
    """The target was met, or the time is up."""


class Case(NamedTuple):
    """The 12 scenarios and all that they share."""

    tables: tuple[Any, Any, Any]
    scenarios: Scenarios
    names: list[str]
    ensemble: Any
    regressor: Any  # scikit-learn's own


def load_case(regressor: str) -> Case:
    from coinfer_ray.optimizer.problem import assemble
    from coinfer_ray.predictor.fit import record_features, regressor_of
    from coinfer_ray.records.store import read_records, shipped_records
    from coinfer_ray.scenarios.scenario import DEVICE_FLOPS_PER_S, LINK_RATE_BPS, SERVER_FLOPS_PER_S

    problem = assemble("alexnet", regressor=regressor)
    source = shipped_records("alexnet", problem.graph.input_px)
    records = read_records(source)
    x, _ = record_features(records)
    fitted = regressor_of(records, regressor, 0)().fit(x, records.accuracy("validation"))
    weights, labels = [], []
    for device, flops_per_s in DEVICE_FLOPS_PER_S.items():
        for link, rate_bps in LINK_RATE_BPS.items():
            weights.append((1 / flops_per_s, 1 / SERVER_FLOPS_PER_S["p100"], 1 / rate_bps))
            labels.append(f"{device} {link}")
    floor = np.full(len(weights), problem.base_accuracy - 0.02)
    scenarios = Scenarios(np.array(weights), floor, np.full(len(weights), np.nan))
    tables = *problem.searched, problem.predictor.ensemble.tables
    return Case(tables, scenarios, labels, problem.predictor.ensemble, fitted)


def one(scenarios: Scenarios, s: int) -> Scenarios:
    return Scenarios(*(array[s : s + 1] for array in scenarios))


class Watched:
    """The number that peers minimise, and when it came near the best known value."""

    def __init__(self, case: Case, s: int, target: float, seconds: float, sklearn: bool) -> None:
        self.case, self.s, self.target, self.seconds = case, s, target, seconds
        self.predict = case.regressor.predict if sklearn else case.ensemble.predict
        space, cost, _ = case.tables
        corners = np.zeros((int(space.n_levels[space.cut_variable]), len(space.n_levels)), dtype=np.int64)
        corners[:, space.cut_variable] = np.arange(len(corners))
        self.weights, self.floor = case.scenarios.weights[s], float(case.scenarios.accuracy_floor[s])
        # A codec costs at most about as much again as the network and its feature.
        self.worst = 10 * float((strategy_costs(cost, space.cut_variable, corners) @ self.weights).max())
        self.best, self.evaluations, self.began = np.inf, 0, time.process_time()
        self.reached: tuple[float, int] | None = None

    def parts(self, cube: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Objective and missing accuracy of points (n, V) of the unit cube."""
        space, cost, _ = self.case.tables
        levels = decode(space, np.clip(cube, 0.0, 1.0))
        missing = np.maximum(self.floor - self.predict(features(space, levels)), 0.0)
        objective = strategy_costs(cost, space.cut_variable, levels) @ self.weights
        self.evaluations += len(cube)
        self.best = min(self.best, float(objective[missing == 0].min(initial=np.inf)))
        if self.best <= self.target or time.process_time() - self.began > self.seconds:
            if self.best <= self.target:
                self.reached = time.process_time() - self.began, self.evaluations
            raise ReachedError
        return objective, missing

    def __call__(self, cube: np.ndarray) -> np.ndarray:
        objective, missing = self.parts(np.atleast_2d(cube))
        return np.where(missing > 0, self.worst * (1 + missing), objective)


def scipy_de(merit: Watched, variables: int, seed: int) -> None:
    from scipy.optimize import differential_evolution

    for restart in range(10_000):
        differential_evolution(
            lambda x: merit(x.T),
            [(0, 1)] * variables,
            vectorized=True,
            updating="deferred",
            polish=False,
            rng=1000 * seed + restart,
        )


def pycma(merit: Watched, variables: int, seed: int) -> None:
    import cma

    rng = np.random.default_rng(seed)
    options = {"bounds": [0, 1], "verbose": -9, "tolfun": 0, "tolflatfitness": 50}
    for restart in range(10_000):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            search = cma.CMAEvolutionStrategy(
                rng.random(variables),
                0.3,
                options | {"seed": 1 + restart + 1000 * seed, "popsize": 20 * 2 ** (restart % 5)},
            )
            while not search.stop():
                asked = search.ask()
                search.tell(asked, merit(np.array(asked)).tolist())


def pymoo(name: str) -> Callable[[Watched, int, int], None]:
    def run(merit: Watched, variables: int, seed: int) -> None:
        from pymoo.algorithms.soo.nonconvex.de import DE
        from pymoo.algorithms.soo.nonconvex.ga import GA
        from pymoo.core.problem import Problem
        from pymoo.optimize import minimize as pymoo_minimize

        class Cube(Problem):  # type: ignore[misc]
            def _evaluate(self, x: np.ndarray, out: dict[str, Any], *_: Any, **__: Any) -> None:
                out["F"] = merit(x)

        algorithm = {"GA": GA, "DE": DE}[name](pop_size=100)
        pymoo_minimize(Cube(n_var=variables, n_obj=1, xl=0.0, xu=1.0), algorithm, ("n_gen", 10**9), seed=seed)

    return run


def optuna_tpe(merit: Watched, variables: int, seed: int) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(
        lambda trial: float(merit(np.array([trial.suggest_float(str(v), 0, 1) for v in range(variables)]))[0]),
        n_trials=10**9,
    )


def ask_tell(merit: Watched, variables: int, seed: int) -> None:
    optimizer = QuantumOptimizer([(0, 1)] * variables, seed=seed)
    while True:
        x = optimizer.ask()
        optimizer.tell(x, *merit.parts(x))


def algorithm_1(merit: Watched, variables: int, seed: int) -> None:
    """The tests' plain Python, one strategy a call: the paper's algorithm as one would write it down."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.reference import algorithm1, random_stream

    def judge(point: list[float]) -> tuple[bool, float]:
        objective, violation = merit.parts(np.array([point]))
        return bool(violation[0] <= 0), float(objective[0])

    streams = [random_stream.Stream(seed, 0, i) for i in range(5)]
    algorithm1.solve(judge, variables, streams, scales=20, shrink=1.3, max_evaluations=10**9, max_tries=10_000)


PEERS: dict[str, tuple[Callable[[Watched, int, int], None], bool]] = {
    "minimize (ours, any function)": (ask_tell, False),
    "SciPy DE": (scipy_de, False),
    "pycma": (pycma, False),
    "pymoo GA": (pymoo("GA"), False),
    "pymoo DE": (pymoo("DE"), False),
    "Optuna TPE": (optuna_tpe, False),
    "SciPy DE, sklearn": (scipy_de, True),
    "Algorithm 1, sklearn": (algorithm_1, True),
}


def best_known(case: Case, nodes: int, seeds: int) -> np.ndarray:
    best = solve_exact(*case.tables, case.scenarios, max_nodes=nodes, threads=1).objective
    for seed in range(seeds):
        found = solve_quantum(*case.tables, case.scenarios, max_evaluations=20_000_000, seed=10_000 + seed, threads=1)
        best = np.minimum(best, found.objective)
    return best


def run_ours(solver: Any, case: Case, s: int, target: float, seed: int, seconds: float) -> tuple[float, int] | None:
    """Seconds and evaluations until the target, all budgets up to the one that meets it counted."""
    spent, evaluations = 0.0, 0
    for budget in BUDGETS:
        began = time.process_time()
        found = solver(*case.tables, one(case.scenarios, s), max_evaluations=budget, seed=seed, keys=[s], threads=1)
        spent += time.process_time() - began
        evaluations += int(found.evaluations[0])
        if found.objective[0] <= target:
            return spent, evaluations
        if spent > seconds:
            return None
    return None


def on_the_problem(case: Case, seeds: int, seconds: float, rows: list[int], best: np.ndarray) -> list[dict[str, Any]]:
    variables = len(case.tables[0].n_levels)
    results: dict[str, list[tuple[float, int] | None]] = {}
    for name, solver in (("solve_quantum (ours)", solve_quantum), ("Algorithm 1 (our kernels)", solve_paper)):
        solver(*case.tables, one(case.scenarios, 0), max_evaluations=1, threads=1)
        found = [run_ours(solver, case, s, best[s] * (1 + WITHIN), i, seconds) for s in rows for i in range(seeds)]
        results[name] = found
    for name, (peer, sklearn) in PEERS.items():
        found = []
        for s in rows:
            for seed in range(seeds):
                merit = Watched(case, s, best[s] * (1 + WITHIN), seconds, sklearn)
                try:
                    peer(merit, variables, seed)
                except ReachedError:
                    found.append(merit.reached)
                except ModuleNotFoundError as error:
                    print(f"{name}: left out ({error})", file=sys.stderr)
                    break
            if not found:
                break
        if found:
            results[name] = found
    table = []
    for name, runs in results.items():
        reached = [run for run in runs if run is not None]
        table.append(
            {
                "optimizer": name,
                "success": len(reached) / len(runs),
                "seconds": float(np.median([run[0] for run in reached])) if reached else None,
                "evaluations": float(np.median([run[1] for run in reached])) if reached else None,
                "runs": len(runs),
            }
        )
    return table


def at_the_default(case: Case, seeds: int, best: np.ndarray) -> dict[str, Any]:
    """solve_quantum with its default budget over all scenarios in one call, as a sweep calls it."""
    above, began = [], time.process_time()
    for seed in range(seeds):
        above.append(solve_quantum(*case.tables, case.scenarios, seed=seed, threads=1).objective / best - 1)
    taken = (time.process_time() - began) / seeds / len(best)
    return {"success": float((np.array(above) <= WITHIN).mean()), "mean_above": float(np.mean(above)), "seconds": taken}


ABLATIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "a quarter of the evaluations": {"max_evaluations": EVALUATIONS // 4},
    "half of the evaluations": {"max_evaluations": EVALUATIONS // 2},
    "twice the evaluations": {"max_evaluations": EVALUATIONS * 2},
    "no planes but for the first descent (as many evaluations)": {"planes": 0.0},
    "no budgets of cost": {"lowered": 0.0},
    "budgets of cost for nine in ten proposals": {"lowered": 0.9},
    "all cuts entered, whatever their corners": {"corners": 0.0},
    "no steps towards the most accurate strategy": {"eased": 0.0},
    "nothing from other cuts' solutions": {"mixed": 0.0},
    "Gaussian steps alone": {"mixed": 0.0, "eased": 0.0},
    "four solutions a cut": {"solutions": 4},
    "patience with costly cuts down to 0.05": {"last_patience": 0.05},
    "the Gaussian's width does not shrink": {"last_scale": 0.5},
}


def ablation(case: Case, seeds: int, best: np.ndarray) -> list[dict[str, Any]]:
    problem, table = check_problem(*case.tables, case.scenarios), []
    solve_with(problem, LevelSettings(1, 1, 0), threads=1)
    for name, changed in ABLATIONS.items():
        above, began = [], time.process_time()
        for seed in range(seeds):
            settings = LevelSettings(**({"solutions": 1, "max_evaluations": EVALUATIONS, "seed": seed} | changed))
            above.append(solve_with(problem, settings, threads=1).objective / best - 1)
        taken = (time.process_time() - began) / seeds / len(best)
        success = float((np.array(above) <= WITHIN).mean())
        table.append({"form": name, "success": success, "mean_above": float(np.mean(above)), "seconds": taken})
    return table


def sphere(x: np.ndarray) -> np.ndarray:
    return (x**2).sum(axis=1)


def rosenbrock(x: np.ndarray) -> np.ndarray:
    return (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(axis=1)


def rastrigin(x: np.ndarray) -> np.ndarray:
    return (x**2 - 10 * np.cos(2 * np.pi * x) + 10).sum(axis=1)


def ackley(x: np.ndarray) -> np.ndarray:
    root, mean = np.sqrt((x**2).mean(axis=1)), np.cos(2 * np.pi * x).mean(axis=1)
    return -20 * np.exp(-0.2 * root) - np.exp(mean) + 20 + np.e


def schwefel(x: np.ndarray) -> np.ndarray:
    return 418.98288727243374 * x.shape[1] - (x * np.sin(np.sqrt(np.abs(x)))).sum(axis=1)


CLASSIC = {"sphere": (sphere, 5.12), "Rosenbrock": (rosenbrock, 2.048), "Rastrigin": (rastrigin, 5.12)}
CLASSIC |= {"Ackley": (ackley, 32.0), "Schwefel": (schwefel, 500.0)}


def classic(seeds: int, dimensions: list[int]) -> list[dict[str, Any]]:
    """Medians at 2,000 evaluations a dimension; half of the variables are whole numbers in the rows that say so."""
    from scipy.optimize import differential_evolution

    table = []
    for d in dimensions:
        rng = np.random.default_rng(d)
        for name, (fun, width) in CLASSIC.items():
            # Away from the middle of the box, where every optimizer begins.
            shift = np.zeros(d) if name in ("Schwefel", "Rosenbrock") else rng.uniform(-0.3, 0.3, d) * width
            for whole in (False, True):
                integral = np.arange(d) % 2 == 0 if whole else np.zeros(d, dtype=bool)
                moved = np.where(integral, np.round(shift), shift)
                box = [(-width, width)] * d
                evaluations = 2000 * d
                generations = evaluations // (15 * d) - 1

                def shifted(x: np.ndarray, fun: Any = fun, moved: np.ndarray = moved) -> np.ndarray:
                    return fun(x - moved)

                ours, theirs = [], []
                for seed in range(seeds):
                    ours.append(minimize(shifted, box, integral, max_evaluations=evaluations, seed=seed).fun)
                    found = differential_evolution(
                        lambda x: shifted(x.T),
                        box,
                        maxiter=generations,
                        popsize=15,
                        tol=0,
                        polish=False,
                        vectorized=True,
                        updating="deferred",
                        integrality=integral,
                        rng=seed,
                    )
                    theirs.append(found.fun)
                table.append(
                    {
                        "function": name + (", half whole" if whole else ""),
                        "dimensions": d,
                        "ours": float(np.median(ours)),
                        "scipy_de": float(np.median(theirs)),
                    }
                )
    return table


def show(report: dict[str, Any]) -> None:
    for regressor, part in report["problem"].items():
        print(f"\n{regressor}: best known " + ", ".join(f"{value:.4g}" for value in part["best_known"]))
        default = part["default"]
        print(
            f"solve_quantum, default budget, all scenarios in one call: {default['success']:.1%} within 1 %, "
            f"{default['mean_above']:.2%} above on average, {1e3 * default['seconds']:.1f} ms a scenario"
        )
        rows = part.get("peers", [])
        if rows:
            print(f"{'until within 1 %':<32}{'success':>9}{'s':>10}{'evaluations':>13}{'times ours':>12}{'runs':>6}")
        for row in rows:
            seconds, evaluations, ratio = "-", "-", "-"
            if row["seconds"] is not None:
                seconds, evaluations = f"{row['seconds']:.4f}", f"{row['evaluations']:.0f}"
                ratio = f"{row['seconds'] / rows[0]['seconds']:.1f}" if rows[0]["seconds"] else "-"
            print(
                f"{row['optimizer']:<32}{row['success']:>9.1%}{seconds:>10}{evaluations:>13}{ratio:>12}{row['runs']:>6}"
            )
        for row in part.get("ablation", []):
            print(
                f"{row['form']:<60}{row['success']:>8.1%}{row['mean_above']:>9.2%} above{1e3 * row['seconds']:>8.1f} ms"
            )
    if report["classic"]:
        print(f"\n{'median at 2,000 D evaluations':<28}{'D':>4}{'ours':>12}{'SciPy DE':>12}")
    for row in report["classic"]:
        worse = "  worse" if row["ours"] > max(row["scipy_de"], 1e-8) else ""
        print(f"{row['function']:<28}{row['dimensions']:>4}{row['ours']:>12.3g}{row['scipy_de']:>12.3g}{worse}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three scenarios, one seed, short caps: about 2 minutes")
    parser.add_argument("--problem", action="store_true", help="only the mission's problem")
    parser.add_argument("--classic", action="store_true", help="only the classic functions")
    parser.add_argument("--ablation", action="store_true", help="only the ablation of solve_quantum")
    parser.add_argument("--seeds", type=positive_int)
    parser.add_argument("--seconds", type=float, help="cap of a run; Algorithm 1 on scikit-learn has the same")
    parser.add_argument("--regressors", nargs="+", default=["monotone_boosting", "gradient_boosting"])
    parser.add_argument(
        "--nodes", type=positive_int, default=500, help="limit of the exact solver for the best known value"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    everything = not (arguments.problem or arguments.classic or arguments.ablation)
    quick = arguments.quick
    seeds = arguments.seeds or (1 if quick else 20)
    seconds = arguments.seconds or (2.0 if quick else 30.0)
    report: dict[str, Any] = {"problem": {}, "classic": []}
    for regressor in arguments.regressors[: 1 if quick else None] if not arguments.classic else []:
        case = load_case(regressor)
        solve_quantum(*case.tables, case.scenarios, max_evaluations=1, threads=1)  # compiled, or read from the cache
        best = best_known(case, arguments.nodes, 1 if quick else 5)
        part: dict[str, Any] = {}
        if everything or arguments.problem:
            rows = [0, 5, 10] if quick else list(range(12))
            part["peers"] = on_the_problem(case, seeds, seconds, rows, best)
        if everything or arguments.ablation:
            part["ablation"] = ablation(case, 2 if quick else seeds, best) if not quick or arguments.ablation else []
        part["default"] = at_the_default(case, 2 if quick else seeds, best)
        report["problem"][regressor] = part | {"best_known": best.tolist()}
    if everything or arguments.classic:
        report["classic"] = classic(3 if quick else seeds, [10] if quick else [10, 40])
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)


if __name__ == "__main__":
    run_script(main)
