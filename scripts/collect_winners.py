"""Train again what answers rest on, from other seeds, until each rests on so many trainings, and pack it all.

    python scripts/collect_winners.py --model alexnet --data DIR --out FOLDER [--trainings 2] [--join OTHERS]

The best of many measurements is the one that was luckiest, too. So scenarios are drawn from --seed
(:func:`coinfer_ray.refine.cases.drawn_cases`) and answered as `coinfer optimize` answers them; each strategy among the
answers that has fewer than --trainings is trained once more by the recipe of its records, its accuracy is the mean from
then on, and all is answered anew until nothing is missing. --join: trainings made elsewhere that count too. Killed, it
goes on when the same command is given again. At the end the trainings join the shipped records, those of quantised
features the file beside them; fit the predictors again then (scripts/fit_shipped.sh).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from coinfer_kernels import Scenarios

from coinfer_ray.cli.scripts import positive_int, run_script
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.optimizer.solve import solve
from coinfer_ray.problem.strategy import FLOAT_BITS
from coinfer_ray.records.request import Request
from coinfer_ray.records.store import read_records, shipped_parts, shipped_records
from coinfer_ray.refine.cases import drawn_cases
from coinfer_ray.refine.joined import join_shipped, with_trainings
from coinfer_ray.runtime.executors import EXECUTORS, make_executor
from coinfer_ray.runtime.files import run_folder
from coinfer_ray.training.data import load_data
from coinfer_ray.training.verifier import Verifier, obtain_base
from coinfer_ray.training.worker import gpu_share

LOSSES = (0.01, 0.015, 0.02, 0.03, 0.05)
FIRST_REPEAT = 100  # repeats below have been trained, or are for verification


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="images as `coinfer collect --data` takes them")
    parser.add_argument("--out", type=Path, required=True, help="folder: one file for each training")
    parser.add_argument("--trainings", type=positive_int, default=2)
    parser.add_argument("--scenarios", type=positive_int, default=200)
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--confidence", type=float, default=0.9)
    parser.add_argument("--join", type=Path, nargs="*", default=[], help="records of other trainings that count too")
    parser.add_argument("--no-pack", action="store_true", help="leave the shipped records as they are")
    parser.add_argument("--executor", default="ray", choices=EXECUTORS)
    parser.add_argument("--workers", type=positive_int)
    given = parser.parse_args()
    problem = assemble(given.model)
    drawn = drawn_cases(given.scenarios, given.seed, (0.0,))
    cases = [replace(case, max_loss=loss) for case in drawn for loss in LOSSES]
    floor = problem.base_accuracy - np.array([case.max_loss for case in cases])
    scenarios = Scenarios(np.array([case.weights for case in cases]), floor, np.full(len(cases), np.nan))
    info = read_records(shipped_records(given.model)).info
    data = load_data(given.data)
    base = obtain_base(None, None, info, data)
    sources = [*shipped_parts(given.model), *given.join]
    with (
        make_executor(given.executor, workers=given.workers, gpus_per_worker=gpu_share()) as executor,
        run_folder(given.out, "winners", {"records": info.settings_hash}) as folder,
    ):
        verifier = Verifier(info, data, base, executor, folder=folder)
        tried: list[Request] = []
        while requests := missing(with_trainings(problem, [*sources, folder]), scenarios, given):
            if requests == tried:
                print("what is missing still could not be trained; its answers rest on what they had")
                break
            for _ in verifier.measure(requests):
                pass
            tried = requests
    if not given.no_pack:
        join_shipped(given.model, [*given.join, given.out])


def missing(problem: Problem, scenarios: Scenarios, given: argparse.Namespace) -> list[Request]:
    """One more training of each answer that rests on too few."""
    space = problem.space
    answers = problem.answers(solve(problem, scenarios, confidence=given.confidence or None))
    assert answers.trainings is not None
    as_it_is = answers.levels.copy()
    as_it_is[:, space.cut_variable] = problem.known_levels[0, space.cut_variable]
    trained = ~problem.is_known(as_it_is)  # the network as it is with few bits has no seed: once is enough
    rows = np.flatnonzero(trained & (answers.trainings > 0) & (answers.trainings < given.trainings))
    wanted = {}
    for row in rows:
        levels = answers.levels[row].copy()
        floats = space.cut_bits[levels[space.cut_variable]] == FLOAT_BITS
        if floats and (levels[space.codec_variable :] == space.tables.canonical[space.codec_variable :]).all():
            levels[space.cut_variable] = space.searched_cuts - 1  # the same network wherever it is cut: trained whole
        wanted[tuple(levels.tolist())] = int(answers.trainings[row])
    print(f"{len(wanted)} strategies among {len(answers)} answers rest on fewer than {given.trainings} trainings")
    return [
        Request(space.strategy(np.array(levels)), None, FIRST_REPEAT + trainings)
        for levels, trainings in sorted(wanted.items())
    ]


if __name__ == "__main__":
    run_script(main)
