"""The delay kernels beside their floors and beside NumPy: one thread, one run.

    python benchmarks/bench_latency.py [--strategies 4096] [--scenarios 4096] [--json]

costs      FLOPs and bits of strategies (strategy_costs). Floor: two look-ups and four additions or products a layer,
           two of each a cycle.
latencies  every strategy in every scenario, stored (latencies). Floor: eight bytes written a pair, at the speed at
           which NumPy fills an array of that size.
cheapest   the cheapest strategy that is accurate enough, for every scenario, nothing stored (cheapest_feasible).
           Floor: three multiply-adds and two comparisons a pair, eight float64 lanes, two a cycle.

The clock is taken from a chain of dependent additions (three cycles each on AMD's Zen; four on
most of Intel's, whose clock is then told too low). NumPy computes the
last two with a matrix product and, for the last, an argmin over the products with the others masked.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from coinfer_kernels import Scenarios, cheapest_feasible, decode, latencies, strategy_costs
from numba import njit

from coinfer_ray.cli.scripts import positive_int, run_script
from coinfer_ray.models.library import load_graph
from coinfer_ray.problem.costs import DelayCalculator
from coinfer_ray.problem.space import SearchSpace

CHAIN, CYCLES_AN_ADDITION = 10_000_000, 3


@njit
def chain(count: int, x: float) -> float:
    for _ in range(count):
        x += 1.0
    return x


def best(call: Callable[[], object], repetitions: int = 7) -> float:
    call()
    seconds = []
    for _ in range(repetitions):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategies", type=positive_int, default=4096)
    parser.add_argument("--scenarios", type=positive_int, default=4096)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()

    rng = np.random.default_rng(0)
    clock = CHAIN * CYCLES_AN_ADDITION / best(lambda: chain(CHAIN, 0.5))
    weights = np.column_stack([10.0 ** -rng.uniform(8, 12, given.scenarios), np.full(given.scenarios, 1e-13)])
    weights = np.column_stack([weights, 10.0 ** -rng.uniform(4, 8, given.scenarios)])
    scenarios = Scenarios(weights, np.full(given.scenarios, 0.5), np.full(given.scenarios, np.nan))
    accuracy = rng.random(given.strategies)
    rows = []
    for model in ("alexnet", "regnet_x_400mf"):
        space = SearchSpace(load_graph(model, 64))
        tables = DelayCalculator(space).tables
        levels = decode(space.tables, rng.random((given.strategies, len(space.variables))))
        seconds = best(partial(strategy_costs, tables, space.cut_variable, levels))
        floor = len(space.graph.layers) * 2 / clock
        rows.append((f"costs, {model}", seconds / given.strategies, floor, None))
    costs = strategy_costs(tables, space.cut_variable, levels)
    pairs = given.strategies * given.scenarios
    room = np.empty((given.strategies, given.scenarios))
    rows.append(
        (
            "latencies",
            best(lambda: latencies(costs, weights)) / pairs,
            best(lambda: room.fill(1.0)) / pairs,
            best(lambda: costs @ weights.T) / pairs,
        )
    )

    def with_numpy() -> np.ndarray:
        all_pairs = costs @ weights.T
        all_pairs[accuracy < 0.5] = np.inf
        return all_pairs.argmin(axis=0)

    index, _ = cheapest_feasible(costs, accuracy, scenarios)
    assert (index == with_numpy()).mean() > 0.99  # sums in another order may swap equals
    measured = best(lambda: cheapest_feasible(costs, accuracy, scenarios)) / pairs
    rows.append(("cheapest", measured, 5 / 16 / clock, best(with_numpy) / pairs))
    if given.json:
        names = ("kernel", "seconds", "floor_s", "numpy_s")
        json.dump([dict(zip(names, row, strict=True)) for row in rows], sys.stdout)
        return
    print(f"{given.strategies} strategies, {given.scenarios} scenarios, one thread at {clock / 1e9:.2f} GHz")
    print(f"{'ns a strategy or pair':24}{'ours':>10}{'floor':>10}{'NumPy':>10}{'NumPy / ours':>14}")
    for name, ours, floor, peer in rows:
        beside = "" if peer is None else f"{peer * 1e9:10.3f}{peer / ours:14.2f}"
        print(f"{name:24}{ours * 1e9:10.3f}{floor * 1e9:10.3f}{beside}")


if __name__ == "__main__":
    run_script(main)
