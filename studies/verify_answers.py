"""Is it true? Answers to random scenarios, each trained anew from fresh seeds and measured on all images.

    python studies/verify_answers.py --model alexnet --data DIR --out DIR [--scenarios 40] [--seeds 2]

The scenarios are drawn from --seed (:func:`coinfer_ray.refine.cases.drawn_cases`: device 0.1 to 1,000 GFLOPS, rate 0.1
to 1,000 Mb/s, a P100), each at a loss of 1, 2 and 5 points, and answered as `coinfer optimize` answers them at
--confidence. Every compressed strategy among the answers is trained by its records' recipe from each fresh seed, and
compared with the base network on the same images. Printed for each loss: how many answers keep the bound in the mean of
their trainings (the network as it is always does), what they lose beyond what was said, and how much faster they are
than the best plain cut, with a feature of floats and with one that is quantised without any training. Trainings are
kept in --out: stop it, run it again, and it goes on.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from coinfer_kernels import Scenarios, Solutions, cheapest_feasible

from coinfer_ray.cli.scripts import positive_int, run_script
from coinfer_ray.optimizer.optimize import TIME_LIMIT_S
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.optimizer.solve import DEFAULT_OPTIMIZER, solve
from coinfer_ray.problem.costs import objective
from coinfer_ray.records.request import Request
from coinfer_ray.records.store import pack, read_records, shipped_records
from coinfer_ray.refine.cases import DRAWN_LOSSES, drawn_cases
from coinfer_ray.runtime.executors import EXECUTORS, make_executor
from coinfer_ray.runtime.files import run_folder
from coinfer_ray.training.data import load_data
from coinfer_ray.training.verifier import Verifier, obtain_base
from coinfer_ray.training.worker import gpu_share

SPLITS = ("validation", "test")
FRESH = 12  # repeats before this one have been trained for records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenarios", type=positive_int, default=40)
    parser.add_argument("--seeds", type=positive_int, default=2)
    parser.add_argument("--seed", type=int, default=78, help="of the scenarios; no records were collected with 78")
    parser.add_argument("--confidence", type=float, default=0.9)
    parser.add_argument("--pack", type=Path, help="the trainings as one file; default: beside the shipped records")
    parser.add_argument("--executor", default="ray", choices=EXECUTORS)
    parser.add_argument("--workers", type=positive_int)
    given = parser.parse_args()

    problem = assemble(given.model)
    records = read_records(shipped_records(given.model))
    data = load_data(given.data)
    base = obtain_base(None, None, records.info, data)
    found, scenarios, distinct = drawn_answers(problem, given.scenarios, given.seed, given.confidence or None)
    weights, losses = scenarios.weights, problem.base_accuracy - scenarios.accuracy_floor
    plain = objective(problem.known_costs, weights).min(axis=0)
    gain = plain / found.objective
    gain_quantised = np.minimum(plain, quantised_alone(problem, scenarios, given.confidence or None)) / found.objective
    requests = [
        Request(problem.space.strategy(np.array(levels)), None, repeat)
        for levels in distinct
        for repeat in range(FRESH, FRESH + given.seeds)
    ]
    lost: dict[tuple[int, ...], dict[str, list[float]]] = {levels: {name: [] for name in SPLITS} for levels in distinct}
    with (
        make_executor(given.executor, workers=given.workers, gpus_per_worker=gpu_share()) as executor,
        run_folder(given.out, "verify-answers", {"records": records.info.settings_hash}) as folder,
    ):
        for position, row in Verifier(records.info, data, base, executor, folder=folder).measure(requests):
            for name in SPLITS:
                value = row[f"base_{name}_accuracy"] - row[f"{name}_accuracy"] if row["status"] == "ok" else 1.0
                lost[distinct[position // given.seeds]][name].append(value)

    pack(given.out, given.pack or shipped_records(given.model).with_suffix(".verified.parquet"))
    print(f"{given.model}: {given.scenarios} scenarios, confidence {given.confidence:g}, {given.seeds} fresh trainings")
    print(f"{len(distinct)} different compressed strategies among {len(losses)} answers")
    print(
        "loss   compressed  kept: validation  test  both   lost beyond what was said   "
        "gain, median: over floats; over a quantised plain cut"
    )
    kept_all = []
    for loss in DRAWN_LOSSES:
        rows = np.flatnonzero(np.isclose(losses, loss))
        own = [tuple(found.levels[row].tolist()) for row in rows]
        means = {name: np.array([np.mean(lost[one][name]) if one in lost else 0.0 for one in own]) for name in SPLITS}
        kept = {name: means[name] <= loss for name in SPLITS}
        both = kept["validation"] & kept["test"]
        kept_all.append(both)
        said = problem.base_accuracy - found.accuracy[rows]
        compressed = np.array([one in lost for one in own])
        beyond = (means["validation"] - said)[compressed].mean() if compressed.any() else 0.0
        print(
            f"{loss:4.0%}   {compressed.sum():3d} of {len(rows)}   {kept['validation'].mean():8.0%} "
            f"{kept['test'].mean():10.0%} {both.mean():6.0%}   {100 * beyond:+8.2f} points"
            f"{np.median(gain[rows]):19.2f}x {np.median(gain_quantised[rows]):9.2f}x"
        )
    print(f"all: {np.concatenate(kept_all).mean():.1%} of the answers keep their bound on both")


def drawn_answers(
    problem: Problem, count: int, seed: int, confidence: float | None
) -> tuple[Solutions, Scenarios, list[tuple[int, ...]]]:
    """What ``count`` scenarios drawn from ``seed`` are answered at each loss, and the levels of the compressed
    strategies among the answers, each once."""
    drawn = drawn_cases(count, seed, (0.0,))
    cases = [replace(case, max_loss=loss) for case in drawn for loss in DRAWN_LOSSES]
    weights, losses = np.array([case.weights for case in cases]), np.array([case.max_loss for case in cases])
    scenarios = Scenarios(weights, problem.base_accuracy - losses, np.full(len(cases), np.nan))
    found = solve(problem, scenarios, DEFAULT_OPTIMIZER, confidence=confidence, time_limit_s=TIME_LIMIT_S)
    known = problem.answers(found).known
    compressed = {tuple(row) for row, base in zip(found.levels.tolist(), known, strict=True) if not base}
    return found, scenarios, sorted(compressed)


def quantised_alone(problem: Problem, scenarios: Scenarios, confidence: float | None) -> np.ndarray:
    """(S,) the least latency of the network as it is, cut within and its feature quantised, that keeps the bound."""
    measured, space = problem.measured, problem.space
    others = np.delete(measured.levels, space.cut_variable, axis=1)
    untouched = (others == np.delete(space.tables.canonical, space.cut_variable)).all(axis=1)
    bound = np.where(untouched, problem.measured_bound(confidence), -1.0)
    _, objective = cheapest_feasible(measured.costs, bound, scenarios)
    return objective


if __name__ == "__main__":
    run_script(main)
