"""The exact solver and the atlas by cost model and objective: processor seconds, as ratios to those by operations.

    python benchmarks/bench_costs.py --profile me.yaml [--model alexnet] [--max-nodes N] [--repeats 2] [--json]
    python benchmarks/bench_costs.py --profile small.yaml --model alexnet --minutes 1 --threads 1

``--profile`` is the file of `coinfer profile --network MODEL`; where there is none it is written first, in
``--minutes``. The paper's 3 devices x 4 links x 3 losses are asked by each cost model: ``flops``, ``layers`` and
``profile``. The last two count the file's seconds, scaled so that the whole network takes as long on each device and
the server as the paper's speed says: scenarios stay what they are, how seconds fall with what is pruned is as it was
measured. Objectives are latency, energy (of a Raspberry Pi 4B: 6.4 W computing, 2.7 W waiting; a radio of 2 W) and the
weighted sum of both (0.5 s for a joule); with a round trip each as well.

Seconds are those of the exact solver, one thread, started from what ``quantum`` finds, the least of ``--repeats``; with
``--confidence`` those of a whole answer of `coinfer optimize`, which then is the best of what was measured.
"Proven": to a thousandth within ``--max-nodes``. Atlases are for devices from 0.1 to 1000 GFLOPS beside a P100 and
links from 0.01 to 1000 Mb/s at a loss of 2 points, scaled likewise, built once. Without records that ship synthetic
ones stand in.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from coinfer_kernels import Scenarios, solve_quantum
from coinfer_kernels.exact.solve import solve_exact

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.bench_exact import assemble, paper_scenarios, row
from coinfer_ray.cli.scripts import positive_int, run_script

COST_MODELS = ("flops", "layers", "profile")
OBJECTIVES = ("latency", "energy", "weighted")
COMPUTE_W, IDLE_W, RADIO_W, SECONDS_PER_JOULE = 6.4, 2.7, 2.0, 0.5
GAP, LOSS = 1e-3, 0.02
DEVICE_RANGE, SERVER, RATE_RANGE = (1e8, 1e12), 1.06e13, (1e4, 1e9)


def problems_of(model: str, records: Path | None, profile: Path) -> dict[str, Any]:
    """The network's problem by each cost model, both sides being the machine of the file."""
    from coinfer_ray.problem.costs import DelayCalculator
    from coinfer_ray.scenarios.read import device_of

    flops, found = assemble(model, None, records), {}
    for cost_model in COST_MODELS:
        times = None if cost_model == "flops" else device_of(str(profile), cost_model=cost_model).times
        found[cost_model] = replace(flops, delay=DelayCalculator(flops.space, times=(times, times)))
    return found


def units_per_flop(problem: Any) -> np.ndarray:
    """(2,) what the unmodified network costs on the device and on the server, over its operations."""
    units: np.ndarray = problem.delay.layer_costs().sum(axis=0) / problem.graph.flops
    return units


def scenarios_of(problem: Any, objective: str, round_trip_s: float) -> Scenarios:
    """The paper's 36 scenarios in the units of a problem's costs; with a round trip of four weights."""
    scenarios, _ = paper_scenarios(problem.base_accuracy)
    seconds = scenarios.weights.copy()
    seconds[:, :2] /= units_per_flop(problem)
    if round_trip_s:
        seconds = np.column_stack([seconds, np.full(len(seconds), round_trip_s)])
    joules = seconds * np.array([COMPUTE_W, IDLE_W, RADIO_W, IDLE_W])[: seconds.shape[1]]
    weights = {"latency": seconds, "energy": joules, "weighted": seconds + SECONDS_PER_JOULE * joules}
    return scenarios._replace(weights=weights[objective])


def measure(
    problem: Any, scenarios: Scenarios, max_nodes: int, repeats: int, confidence: float | None
) -> dict[str, float]:
    """Median and 95th percentile of the exact solver's seconds and boxes, and the share that it proves."""
    from coinfer_ray.optimizer.solve import solve

    tables = *problem.searched, problem.predictor.ensemble.tables
    seconds, nodes, proven = [], [], []
    for s in range(len(scenarios.accuracy_floor)):
        one = row(scenarios, s)
        begun = None if confidence else solve_quantum(*tables, one, threads=1)
        taken = np.inf
        for _ in range(repeats):
            began = time.process_time()
            if begun is None:
                answer = solve(problem, one, confidence=confidence)
            else:
                answer = solve_exact(*tables, one, incumbents=begun, gap=GAP, max_nodes=max_nodes, threads=1)
            taken = min(taken, time.process_time() - began)
        seconds.append(taken)
        nodes.append(float(answer.evaluations[0]))
        proven.append(bool(answer.gap[0] <= GAP))
    return {
        "median_s": float(np.median(seconds)),
        "p95_s": float(np.percentile(seconds, 95)),
        "median_nodes": float(np.median(nodes)),
        "p95_nodes": float(np.percentile(nodes, 95)),
        "node_s": sum(seconds) / max(1.0, sum(nodes)),
        "proven": float(np.mean(proven)),
    }


def build_seconds(problem: Any, crossings: bool, max_nodes: int) -> dict[str, float]:
    """What building the atlas of a problem takes, and what came of it."""
    from coinfer_ray.atlas.atlas import Ranges
    from coinfer_ray.atlas.build import build

    device, server = units_per_flop(problem)
    speeds = DEVICE_RANGE[0] * device, DEVICE_RANGE[1] * device
    ranges = Ranges.of_speeds(speeds, (SERVER * server, SERVER * server), RATE_RANGE)
    began = time.process_time()
    atlas = build(
        problem, ranges, max_loss=LOSS, snr_db=25.0, crossings=crossings, max_nodes=max_nodes, threads=1, quiet=True
    )
    taken = time.process_time() - began
    return {"build_s": taken, "ratio": atlas.info.ratio, "strategies": float(len(atlas)), "solves": atlas.info.solves}


def compared(problems: dict[str, Any], arguments: argparse.Namespace) -> tuple[list[Any], list[Any]]:
    """Rows of the solver and of the atlas, those by operations first for each question."""
    solver: list[dict[str, Any]] = []
    for round_trip_s in (0.0, arguments.round_trip_ms / 1e3):
        for objective in OBJECTIVES:
            for cost_model, problem in problems.items():
                scenarios = scenarios_of(problem, objective, round_trip_s)
                measure(problem, row(scenarios, 0), 1, 1, arguments.confidence)  # compiled, or read from the cache
                found = measure(problem, scenarios, arguments.max_nodes, arguments.repeats, arguments.confidence)
                asked = {"objective": objective, "round_trip_ms": round_trip_s * 1e3, "cost_model": cost_model}
                solver.append({**asked, **found})
    atlases = [
        {"crossings": crossings, "cost_model": cost_model, **build_seconds(problem, crossings, arguments.max_nodes)}
        for crossings in (False, True)
        for cost_model, problem in problems.items()
    ]
    return solver, atlases


def ratios(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    """Add to each row its ``columns`` over those of the row by operations that stands before it."""
    for each in rows:
        if each["cost_model"] == "flops":
            base = each
        for column in columns:
            each[f"{column}_ratio"] = each[column] / base[column]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", type=Path, required=True)
    parser.add_argument("--model", default="alexnet")
    parser.add_argument("--records", type=Path)
    parser.add_argument("--confidence", type=float, help="as `coinfer optimize` answers; default: by predictions")
    parser.add_argument("--max-nodes", type=positive_int, default=100_000)
    parser.add_argument("--round-trip-ms", type=float, default=20.0)
    parser.add_argument("--repeats", type=positive_int, default=2)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--threads", type=positive_int, default=1)
    parser.add_argument("--backend", choices=("auto", "onnxruntime", "torch"), default="auto")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not arguments.profile.exists():
        from coinfer_ray.profile.profile import profile

        shared: dict[str, Any] = {"threads": arguments.threads, "backend": arguments.backend}
        profile(arguments.profile, networks=[arguments.model], minutes=arguments.minutes, **shared)
    solver, atlases = compared(problems_of(arguments.model, arguments.records, arguments.profile), arguments)
    ratios(solver, ("median_s", "p95_s"))
    ratios(atlases, ("build_s",))
    if arguments.json:
        print(json.dumps({"model": arguments.model, "solver": solver, "atlas": atlases}, indent=2))
        return
    print(f"{'objective':<10}{'trip':>8} {'counted by':<12}{'median':>10}{'95 %':>17}{'proven':>16}{'boxes, 95 %':>13}")
    for each in solver:
        print(
            f"{each['objective']:<10}{each['round_trip_ms']:>5.0f} ms {each['cost_model']:<12}"
            f"{1e3 * each['median_s']:>7.1f} ms{each['median_s_ratio']:>6.2f}x"
            f"{1e3 * each['p95_s']:>7.0f} ms{each['p95_s_ratio']:>6.2f}x{each['proven']:>9.0%}"
            f"{each['p95_nodes']:>8,.0f} of {1e6 * each['node_s']:.0f} us"
        )
    for each in atlases:
        print(
            f"atlas {'with' if each['crossings'] else 'without'} crossings, {each['cost_model']}: "
            f"{each['build_s']:.1f} s, {each['build_s_ratio']:.2f}x, {each['strategies']:.0f} strategies, "
            f"{each['solves']} solved, proven to {each['ratio'] - 1:.3%}"
        )


if __name__ == "__main__":
    run_script(main)
