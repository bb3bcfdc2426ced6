"""The exact solver over the paper's 12 scenarios x 3 loss bounds: seconds, nodes and gaps; HiGHS beside it.

    python benchmarks/bench_exact.py [--model alexnet] [--input-px N] [--records FILE] [--regressor NAME] [--max-nodes
    N]
        [--highs 2] [--gaps] [--rates 17] [--json]

Without --records: those that ship for the network, or synthetic ones where none do. One thread. Seconds are of
processor time, and those of the quantum-inspired optimizer, whose answer each search starts from, stand beside them.

With --gaps: how far the answers of the quantum-inspired optimizer and of the paper's algorithm are proven to be from
the best, as `coinfer optimize` gives them (the untouched network takes part), for the 12 scenarios at a loss of 2
points and for the rate sweep of the paper's Figs. 7 and 8, 0.01 to 100 Mb/s on rpi3b+ and tk1.

HiGHS gets an independent formulation (a mixed-integer program with a variable for every leaf) of the first scenarios'
problem over all sparsity ratios, the cut and codec as in the answer: over the codec too it would be too large to write
down. The exact solver solves the same problem beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from coinfer_kernels import CostTables, EnsembleTables, Scenarios, Solutions, SpaceTables, solve_quantum, strategy_costs
from coinfer_kernels.exact.solve import solve_exact

from coinfer_ray.cli.scripts import positive_int, run_script

sys.path.insert(0, str(Path(__file__).parents[1]))
LOSSES = (0.01, 0.02, 0.05)
HEURISTICS = ("quantum", "paper", "paper-parent")


def assemble(model: str, input_px: int | None, records: Path | None, regressor: str | None = None) -> Any:
    from coinfer_ray.errors import InputError
    from coinfer_ray.optimizer.problem import assemble as assemble_problem
    from coinfer_ray.predictor.fit import DEFAULT_REGRESSOR
    from tests.synthetic import write_synthetic_records

    chosen = regressor or DEFAULT_REGRESSOR
    try:
        return assemble_problem(model, input_px=input_px, records=records, regressor=chosen)
    except InputError:
        if records is not None:
            raise
    print(f"{model}: no records ship; 300 synthetic ones instead", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.parquet"
        made = write_synthetic_records(path, model=model, input_px=input_px or 224, count=300, seed=1)
        return assemble_problem(model, records=made, regressor=chosen)


def paper_scenarios(base_accuracy: float) -> tuple[Scenarios, list[str]]:
    from coinfer_ray.scenarios.scenario import DEVICE_FLOPS_PER_S, LINK_RATE_BPS, SERVER_FLOPS_PER_S

    weights, floors, names = [], [], []
    for device, flops_per_s in DEVICE_FLOPS_PER_S.items():
        for link, rate_bps in LINK_RATE_BPS.items():
            for loss in LOSSES:
                weights.append((1 / flops_per_s, 1 / SERVER_FLOPS_PER_S["p100"], 1 / rate_bps))
                floors.append(base_accuracy - loss)
                names.append(f"{device} {link} {100 * loss:g} %")
    return Scenarios(np.array(weights), np.array(floors), np.full(len(floors), 25.0)), names


def row(batch: Any, s: int) -> Any:
    return type(batch)(*(array[s : s + 1] for array in batch))


def measure(problem: Any, max_nodes: int, gap: float) -> list[dict[str, Any]]:
    tables = *problem.searched, problem.predictor.ensemble.tables
    scenarios, names = paper_scenarios(problem.base_accuracy)
    solve_quantum(*tables, row(scenarios, 0), threads=1)  # compiled, or read from the cache
    solve_exact(*tables, row(scenarios, 0), max_nodes=1, threads=1)
    rows = []
    for s, name in enumerate(names):
        one, began = row(scenarios, s), time.process_time()
        found: Solutions = solve_quantum(*tables, one, threads=1)
        between = time.process_time()
        answer = solve_exact(*tables, one, incumbents=found, gap=gap, max_nodes=max_nodes, threads=1)
        rows.append(
            {
                "scenario": name,
                "quantum_s": between - began,
                "exact_s": time.process_time() - between,
                "nodes": int(answer.evaluations[0]),
                "objective": float(answer.objective[0]),
                "gap": float(answer.gap[0]),
                "quantum_above": float(found.objective[0] / answer.objective[0] - 1),
                "levels": answer.levels[0].tolist(),
            }
        )
    return rows


def without_codec(space: SpaceTables, cost: CostTables, levels: np.ndarray) -> tuple[SpaceTables, CostTables]:
    """The problem with only the sparsity ratios free: one cut, and the codec as in ``levels``."""
    v, cut = space.cut_variable, levels[space.cut_variable]
    free = (np.arange(len(levels)) < len(cost.kept) - 1) & space.active[cut]
    free[v] = True
    n_levels, values, canonical = space.n_levels.copy(), space.values.copy(), levels.copy()
    n_levels[v], values[v], canonical[v] = 1, space.values[v, cut], 0
    narrowed = {name: getattr(cost, name)[cut : cut + 1] for name in CostTables._fields if name.startswith("cut_")}
    return SpaceTables(n_levels, values, v, free[None], canonical), cost._replace(**narrowed)


class Program:
    """A mixed-integer program in the making."""

    def __init__(self) -> None:
        self.cost: list[float] = []
        self.integral: list[int] = []
        self.upper: list[float] = []
        self.entries: list[tuple[int, int, float]] = []
        self.bounds: list[tuple[float, float]] = []

    def variable(self, cost: float = 0.0, integral: bool = False, upper: float = 1.0) -> int:
        self.cost.append(cost)
        self.integral.append(int(integral))
        self.upper.append(upper)
        return len(self.cost) - 1

    def constraint(self, terms: list[tuple[int, float]], low: float, high: float) -> None:
        self.entries += [(len(self.bounds), variable, factor) for variable, factor in terms]
        self.bounds.append((low, high))


def leaves_of(ensemble: EnsembleTables, root: int) -> list[tuple[float, list[tuple[int, float, bool]]]]:
    """Value of every leaf, and the questions (feature, threshold, whether to the left) on the way to it."""
    found, pending = [], [(root, list[tuple[int, float, bool]]())]
    while pending:
        node, path = pending.pop()
        feature, threshold = int(ensemble.feature[node]), float(ensemble.threshold[node])
        if feature < 0:
            found.append((float(ensemble.value[node]), path))
            continue
        pending.append((int(ensemble.left[node]), [*path, (feature, threshold, True)]))
        pending.append((int(ensemble.right[node]), [*path, (feature, threshold, False)]))
    return found


def by_highs(
    space: SpaceTables, cost: CostTables, ensemble: EnsembleTables, one: Scenarios, seconds: float
) -> dict[str, float]:
    """Solve a problem of :func:`without_codec` with SciPy's HiGHS: one binary for every level."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    program, sets, weights = Program(), len(cost.kept) - 1, one.weights[0]
    base = space.canonical.copy()
    sides = np.where(np.arange(len(cost.in_set)) < cost.cut_layers[0], weights[0], weights[1])
    crossing = int(cost.cut_set[0])
    levels: list[list[int]] = []  # of each set, one binary for each level
    for p in range(sets):
        own = range(int(space.n_levels[p])) if space.active[0, p] else [int(base[p])]
        levels.append([-1] * int(space.n_levels[p]))
        for level in own:
            price = float((sides * cost.linear)[cost.out_set == p].sum() * cost.kept[p, level])
            if p == crossing:
                price += codec_price(cost, space.cut_variable, base, p, level, weights)
            levels[p][level] = program.variable(price, integral=True)
        program.constraint([(z, 1.0) for z in levels[p] if z >= 0], 1.0, 1.0)
    constant = float((sides * cost.linear)[cost.out_set == sets].sum())
    if crossing == sets:
        constant += codec_price(cost, space.cut_variable, base, -1, 0, weights)
    pairs: dict[tuple[int, int], float] = {}
    for i, o, factor in zip(cost.in_set, cost.out_set, sides * cost.quadratic, strict=True):
        pairs[int(i), int(o)] = pairs.get((int(i), int(o)), 0.0) + float(factor)
    for (i, o), factor in pairs.items():
        if factor:
            constant += add_product(program, cost, levels, sets, i, o, factor)
    add_trees(program, space, ensemble, one, levels, base)
    count = len(program.cost)
    matrix = csr_array(
        ([f for _, _, f in program.entries], ([r for r, _, _ in program.entries], [c for _, c, _ in program.entries])),
        shape=(len(program.bounds), count),
    )
    low, high = np.array(program.bounds).T
    scale = 1e3 / max(abs(price) for price in program.cost)  # HiGHS's tolerances are absolute
    began = time.perf_counter()
    answer = milp(
        scale * np.array(program.cost),
        integrality=np.array(program.integral),
        bounds=Bounds(0, np.array(program.upper)),
        constraints=LinearConstraint(matrix, low, high),
        options={"time_limit": seconds, "mip_rel_gap": 1e-6},
    )
    taken = time.perf_counter() - began
    value = np.inf if answer.fun is None else answer.fun / scale + constant
    bound = -np.inf if answer.mip_dual_bound is None else answer.mip_dual_bound / scale + constant
    return {"highs_s": taken, "objective": float(value), "lower_bound": float(bound), "variables": count}


def codec_price(
    cost: CostTables, cut_variable: int, base: np.ndarray, p: int, level: int, weights: np.ndarray
) -> float:
    """What crossing the cut costs with set p at a level: the difference that the layers don't make."""
    strategy = base.copy()
    if p >= 0:
        strategy[p] = level
    whole = strategy_costs(cost, cut_variable, strategy[None])[0]
    bare = strategy_costs(cost._replace(cut_kind=np.full(1, 3)), cut_variable, strategy[None])[0]
    return float((whole - bare) @ weights)


def add_product(
    program: Program, cost: CostTables, levels: list[list[int]], sets: int, i: int, o: int, factor: float
) -> float:
    """Add factor * kept_i * kept_o, linearised level by level of set i; returns its constant part."""
    if i == sets and o == sets:
        return factor
    if sets in (i, o) or i == o:
        p, power = (o if i == sets else i), 2 if i == o else 1
        for level, z in enumerate(levels[p]):
            if z >= 0:
                program.cost[z] += factor * float(cost.kept[p, level]) ** power
        return 0.0
    other = [(z, float(cost.kept[o, level])) for level, z in enumerate(levels[o]) if z >= 0]
    least, most = min(k for _, k in other), max(k for _, k in other)
    parts = []
    for level, z in enumerate(levels[i]):
        if z >= 0:
            part = program.variable(factor * float(cost.kept[i, level]), upper=most)
            program.constraint([(part, 1.0), (z, -most)], -np.inf, 0.0)
            program.constraint([(part, 1.0), (z, -least)], 0.0, np.inf)
            parts.append(part)
    program.constraint([*((part, 1.0) for part in parts), *((z, -k) for z, k in other)], 0.0, 0.0)
    return 0.0


def add_trees(
    program: Program,
    space: SpaceTables,
    ensemble: EnsembleTables,
    one: Scenarios,
    levels: list[list[int]],
    base: np.ndarray,
) -> None:
    """One leaf of each tree, in agreement with the levels, and the accuracy floor (Mišić, 2020)."""
    fixed = np.append(space.values[np.arange(len(base)), base], one.snr_db)
    accuracy: list[tuple[int, float]] = []
    needed = float(one.accuracy_floor[0]) - ensemble.intercept
    for f, coefficient in enumerate(ensemble.coefficients):
        if f < len(levels):
            accuracy += [(z, coefficient * space.values[f, level]) for level, z in enumerate(levels[f]) if z >= 0]
        else:
            needed -= coefficient * fixed[f]
    for root, weight in zip(ensemble.roots, ensemble.weights, strict=True):
        chosen, asked = [], dict[tuple[int, float, bool], list[int]]()
        for value, path in leaves_of(ensemble, int(root)):
            if any((fixed[f] <= edge) != left for f, edge, left in path if f >= len(levels)):
                continue
            leaf = program.variable()
            chosen.append(leaf)
            accuracy.append((leaf, weight * value))
            for question in path:
                if question[0] < len(levels):
                    asked.setdefault(question, []).append(leaf)
        program.constraint([(leaf, 1.0) for leaf in chosen], 1.0, 1.0)
        for (f, edge, left), leaves in asked.items():
            agreeing = [z for level, z in enumerate(levels[f]) if z >= 0 and (space.values[f, level] <= edge) == left]
            program.constraint([*((leaf, 1.0) for leaf in leaves), *((z, -1.0) for z in agreeing)], -np.inf, 0.0)
    program.constraint(accuracy, needed, np.inf)


def beside_highs(problem: Any, rows: list[dict[str, Any]], count: int, seconds: float) -> list[dict[str, Any]]:
    scenarios, _ = paper_scenarios(problem.base_accuracy)
    compared = []
    solved = [s for s, found in enumerate(rows) if np.isfinite(found["objective"])]
    for s in solved[:: max(1, len(solved) // max(1, count))][:count]:
        one, levels = row(scenarios, s), np.array(rows[s]["levels"])
        space, cost = without_codec(*problem.searched, levels)
        tables = space, cost, problem.predictor.ensemble.tables, one
        began = time.process_time()
        exact = solve_exact(*tables, threads=1)
        taken = time.process_time() - began
        compared.append(
            {"scenario": rows[s]["scenario"], "exact_s": taken, "exact_objective": float(exact.objective[0])}
            | by_highs(*tables, seconds)
        )
    return compared


def gap_scenarios(base_accuracy: float, rates: int) -> tuple[Scenarios, list[str]]:
    """The paper's 12 scenarios and its rate sweep, all with a loss of 2 points."""
    from coinfer_ray.scenarios.scenario import DEVICE_FLOPS_PER_S, LINK_RATE_BPS, SERVER_FLOPS_PER_S

    swept = {f"{rate / 1e6:.3g} Mb/s": float(rate) for rate in np.geomspace(1e4, 1e8, rates)}
    cases = [(device, link, rate) for device in DEVICE_FLOPS_PER_S for link, rate in LINK_RATE_BPS.items()]
    cases += [(device, link, rate) for device in ("rpi3b+", "tk1") for link, rate in swept.items()]
    weights = [(1 / DEVICE_FLOPS_PER_S[device], 1 / SERVER_FLOPS_PER_S["p100"], 1 / rate) for device, _, rate in cases]
    count = len(cases)
    scenarios = Scenarios(np.array(weights), np.full(count, base_accuracy - 0.02), np.full(count, 25.0))
    return scenarios, [f"{device} {link}" for device, link, _ in cases]


def certified_gaps(problem: Any, rates: int, max_nodes: int) -> list[dict[str, Any]]:
    """How far each optimizer's answers are proven to be from the best: 1 - lower bound / objective."""
    from coinfer_ray.optimizer.solve import solve

    scenarios, names = gap_scenarios(problem.base_accuracy, rates)
    exact = solve(problem, scenarios, "exact", max_nodes=max_nodes, threads=1)
    rows = [
        {"scenario": name, "lower_bound": float(bound), "exact": float(1 - bound / objective)}
        for name, bound, objective in zip(names, exact.lower_bound, exact.objective, strict=True)
    ]
    for optimizer in HEURISTICS:
        began = time.process_time()
        found = solve(problem, scenarios, optimizer, threads=1)
        seconds = (time.process_time() - began) / len(rows)
        for own, bound, objective in zip(rows, exact.lower_bound, found.objective, strict=True):
            own |= {optimizer: float(1 - bound / objective), f"{optimizer}_s": seconds}
    return rows


def print_gaps(rows: list[dict[str, Any]]) -> None:
    print(f"{'certified gap of':<22}{'exact':>9}{'quantum':>10}{'paper':>10}{'parent':>10}   objective at least")
    for found in rows:
        gaps = "".join(f"{found[name]:>10.2%}" for name in HEURISTICS)
        print(f"{found['scenario']:<22}{found['exact']:>9.2%}{gaps}   {found['lower_bound']:.5g} s")
    for name in HEURISTICS:
        own = np.array([found[name] for found in rows])
        print(
            f"{name}: gap median {np.median(own):.2%}, worst {own.max():.2%}; {(own <= 0.01).sum()} of {len(own)} "
            f"within 1 %; {1e3 * rows[0][f'{name}_s']:.0f} ms a scenario"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="alexnet")
    parser.add_argument("--input-px", type=positive_int)
    parser.add_argument("--records", type=Path)
    parser.add_argument("--regressor", help="instead of the default one, where records are fitted")
    parser.add_argument("--max-nodes", type=positive_int, default=100_000)
    parser.add_argument("--gap", type=float, default=1e-3)
    parser.add_argument("--highs", type=int, default=0, help="scenarios that HiGHS solves too")
    parser.add_argument("--highs-seconds", type=float, default=120.0)
    parser.add_argument("--gaps", action="store_true", help="certified gaps of the other optimizers, too")
    parser.add_argument("--rates", type=positive_int, default=17, help="rates of the sweep")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    problem = assemble(arguments.model, arguments.input_px, arguments.records, arguments.regressor)
    rows = measure(problem, arguments.max_nodes, arguments.gap)
    highs = beside_highs(problem, rows, arguments.highs, arguments.highs_seconds)
    gaps = certified_gaps(problem, arguments.rates, arguments.max_nodes) if arguments.gaps else []
    if arguments.json:
        print(json.dumps({"scenarios": rows, "highs": highs, "gaps": gaps}, indent=2))
        return
    print(f"{'scenario':<18}{'objective':>12}{'gap':>10}{'nodes':>9}{'exact s':>9}{'quantum s':>11}{'above':>9}")
    for found in rows:
        print(
            f"{found['scenario']:<18}{found['objective']:>12.5g}{found['gap']:>10.1e}{found['nodes']:>9}"
            f"{found['exact_s']:>9.3f}{found['quantum_s']:>11.3f}{found['quantum_above']:>9.1%}"
        )
    seconds, nodes = (np.array([found[key] for found in rows]) for key in ("exact_s", "nodes"))
    print(
        f"median {np.median(seconds):.3f} s, 95th percentile {np.percentile(seconds, 95):.3f} s; "
        f"nodes {np.median(nodes):.0f} and {np.percentile(nodes, 95):.0f}; "
        f"{1e6 * seconds.sum() / max(1, nodes.sum()):.0f} us a node; "
        f"solved {sum(found['gap'] <= arguments.gap for found in rows)} of {len(rows)}"
    )
    for found in highs:
        print(
            f"{found['scenario']}: exact {found['exact_objective']:.6g} in {found['exact_s']:.2f} s; "
            f"HiGHS {found['objective']:.6g} (bound {found['lower_bound']:.6g}, {found['variables']} variables) "
            f"in {found['highs_s']:.1f} s"
        )
    if gaps:
        print_gaps(gaps)


if __name__ == "__main__":
    run_script(main)
