"""The atlas: what building it takes, whether it equals the exact solver, and how fast it answers.

    python benchmarks/bench_atlas.py [--model alexnet] [--records FILE] [--tolerance 1e-3] [--scenarios 1000] [--json]

Without --records: those that ship for the network, or synthetic ones where none do. One thread; all seconds are of
processor time. The ranges are those
that `coinfer atlas build` takes by itself. Each random scenario (device speed and rate, both logarithmic) is solved
exactly, too: the answer must be within the tolerance of the proven lower bound.

Answers a second are of --lookups scenarios at once, arrays in and out, the best of five. Beside them the floor that
memory sets: a plain copy of as many bytes as a look-up reads and writes (24 in, 16 out), in the same run. Then the same
for points drawn at random, of which there are more.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from coinfer_kernels import Scenarios, solve_exact
from coinfer_kernels.atlas.lookup import Atlas

from coinfer_ray.cli.scripts import positive_int, run_script

sys.path.insert(0, str(Path(__file__).parents[1]))
DEVICE, SERVER, RATE = (1e8, 1e12), 1.06e13, (1e4, 1e9)
POINTS = (10, 30, 100, 300, 1000)


def random_weights(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    device, rate = (10 ** rng.uniform(np.log10(low), np.log10(high), count) for low, high in (DEVICE, RATE))
    return np.column_stack([1 / device, np.full(count, 1 / SERVER), 1 / rate])


def compared(problem: Any, atlas: Any, count: int, max_nodes: int) -> dict[str, float]:
    """The atlas's answers beside the exact solver's, or what was measured where that is better, as the atlas has it."""
    weights = random_weights(count, seed=1)
    scenarios = Scenarios(weights, np.full(count, atlas.info.accuracy_floor), np.full(count, 25.0))
    tables = *problem.searched, problem.predictor.ensemble.tables
    began = time.process_time()
    exact = solve_exact(*tables, scenarios, max_nodes=max_nodes, threads=1)
    seconds = time.process_time() - began
    info = atlas.info
    holding = problem.measured_bound(info.confidence) >= problem.base_accuracy - info.max_loss
    known = (np.vstack([problem.known_costs, problem.measured.costs[holding]]) @ weights.T).min(axis=0)
    best, bound = np.minimum(exact.objective, known), np.minimum(exact.lower_bound, known)
    objective = atlas.table.lookup(weights)[1]
    return {
        "scenarios": count,
        "worst_above_the_exact_answer": float((objective / best).max() - 1),
        "worst_above_its_lower_bound": float((objective / bound).max() - 1),
        "best_below_the_exact_answer": float(1 - (objective / best).min()),
        "exact_s_each": seconds / count,
        "exact_unproven": int((exact.gap > 1e-3).sum()),
    }


def best_of(repeats: int, work: Any) -> float:
    least = np.inf
    for _ in range(repeats):
        began = time.process_time()
        work()
        least = min(least, time.process_time() - began)
    return least


def lookups(atlas: Atlas, weights: np.ndarray) -> float:
    """Answers a second."""
    atlas.lookup(weights[:1])
    return len(weights) / best_of(5, lambda: atlas.lookup(weights))


def memory_floor(count: int) -> float:
    """Scenarios a second whose bytes can be copied."""
    source = np.ones(count * 5)
    target = np.empty_like(source)
    return count / best_of(5, lambda: np.copyto(target[: 5 * count // 2], source[: 5 * count // 2]))


def random_atlas(like: Atlas, points: int) -> Atlas:
    """More points, over the same region, none of which is far from being the best somewhere."""
    rng = np.random.default_rng(points)
    directions = np.exp(rng.normal(0.0, 2.0, (points, 3)))
    costs = directions / np.cbrt(directions.prod(axis=1, keepdims=True)) * (1e8, 1e9, 1e5)
    return like._replace(costs=costs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="alexnet")
    parser.add_argument("--input-px", type=positive_int)
    parser.add_argument("--records", type=Path)
    parser.add_argument("--max-loss", type=float, default=0.02)
    parser.add_argument("--confidence", type=float)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--max-nodes", type=positive_int, default=200_000)
    parser.add_argument("--scenarios", type=positive_int, default=1000)
    parser.add_argument("--lookups", type=positive_int, default=4_000_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    from benchmarks.bench_exact import assemble
    from coinfer_ray.atlas.atlas import Ranges
    from coinfer_ray.atlas.build import build

    problem = assemble(arguments.model, arguments.input_px, arguments.records)
    began = time.process_time()
    atlas = build(
        problem,
        Ranges.of_speeds(DEVICE, (SERVER, SERVER), RATE),
        max_loss=arguments.max_loss,
        confidence=arguments.confidence,
        snr_db=25.0,
        tolerance=arguments.tolerance,
        max_nodes=arguments.max_nodes,
        threads=1,
    )
    document: dict[str, Any] = {
        "strategies": len(atlas),
        "ratio": atlas.info.ratio,
        "solves": atlas.info.solves,
        "nodes": atlas.info.nodes,
        "build_s": time.process_time() - began,
        **compared(problem, atlas, arguments.scenarios, arguments.max_nodes),
    }
    weights = random_weights(arguments.lookups, seed=2)
    document["lookups_per_s"] = lookups(atlas.table, weights)
    document["memory_floor_per_s"] = memory_floor(arguments.lookups)
    document["lookups_per_s_by_points"] = {
        str(points): lookups(random_atlas(atlas.table, points), weights) for points in POINTS
    }
    if arguments.json:
        print(json.dumps(document, indent=2))
        return
    print(
        f"{document['strategies']} strategies, proven to {document['ratio'] - 1:.4%}, by {document['solves']} exact "
        f"solutions, {document['nodes']:,} boxes, {document['build_s']:.1f} s of processor time"
    )
    print(
        f"{arguments.scenarios} random scenarios: at most {document['worst_above_the_exact_answer']:.4%} above the "
        f"exact solver's answer and {document['worst_above_its_lower_bound']:.4%} above its proven bound, at most "
        f"{document['best_below_the_exact_answer']:.4%} below its answer; {document['exact_s_each'] * 1e3:.1f} ms each "
        f"exactly, {document['exact_unproven']} of them not proven to a thousandth"
    )
    floor = document["memory_floor_per_s"]
    measured = {document["strategies"]: document["lookups_per_s"], **document["lookups_per_s_by_points"]}
    for points, rate in measured.items():
        print(f"{int(points):>5} points: {rate / 1e6:8.1f} million answers/s; memory alone {floor / 1e6:.0f} million/s")


if __name__ == "__main__":
    run_script(main)
