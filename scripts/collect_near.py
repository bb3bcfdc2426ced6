"""Train what lies near the answers and may beat them, in rounds, and join it to the records that ship.

    python scripts/collect_near.py --model alexnet --data DIR --out FOLDER [--budget 100] [--seconds S] [--no-pack]

Each round draws moves from the strategies that answer --scenarios random ones (drawn from --seed,
:func:`coinfer_ray.refine.cases.drawn_cases`), keeps those of the largest expected improvement, measures their damage
before training, and trains the best --batch of them by what that says (:mod:`coinfer_ray.refine.moves`). It ends when
nothing is expected to gain, after --budget networks trained in this run, or when --seconds have passed. Killed, it goes
on from what it trained when the same command is given again. --blind: so many of a batch are chosen before their damage
is measured. --emptied-from SET ...: before the rounds, and beside the budget, the network as it is is trained with all
sets within its blocks from that one on emptied, as if it ended there. What was expected and what came of it is printed
round by round, the latency of the answers as the geometric mean over the scenarios. At the end the trainings join the
shipped records (--no-pack: they don't); fit the predictors again then (scripts/fit_shipped.sh).
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from coinfer_kernels import Scenarios

from coinfer_ray.cli.scripts import positive_int, run_script
from coinfer_ray.optimizer.problem import assemble
from coinfer_ray.records.request import Request
from coinfer_ray.records.store import read_records, shipped_parts, shipped_records
from coinfer_ray.refine.cases import drawn_cases
from coinfer_ray.refine.joined import join_shipped, with_trainings
from coinfer_ray.refine.moves import Move, Name, Neighbourhood
from coinfer_ray.runtime.executors import EXECUTORS, make_executor
from coinfer_ray.runtime.files import run_folder
from coinfer_ray.training.damage import DamageMeter, Damages
from coinfer_ray.training.data import load_data
from coinfer_ray.training.verifier import Verifier, obtain_base, trainer_of
from coinfer_ray.training.worker import gpu_share

MEASURED = Path(__file__).parents[1] / "studies" / "damage"
LOSSES = (0.01, 0.015, 0.02, 0.03, 0.05)
DRAWN, LOOKED_AT = 6_000, 24  # moves of a round: those that are drawn, and those whose damage is measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="images as `coinfer collect --data` takes them")
    parser.add_argument("--out", type=Path, required=True, help="folder: one file for each training")
    parser.add_argument("--scenarios", type=int, default=300)
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--losses", type=float, nargs="+", default=LOSSES, help="bounds of each scenario")
    parser.add_argument("--confidence", type=float, default=0.9)
    parser.add_argument("--batch", type=positive_int, default=6)
    parser.add_argument("--blind", type=int, default=0, help="of a batch: taken before their damage is measured")
    parser.add_argument("--budget", type=positive_int, default=100, help="networks to train in this run")
    parser.add_argument("--seconds", type=float, default=np.inf, help="start no round later")
    parser.add_argument(
        "--emptied-from",
        nargs="*",
        default=[],
        metavar="SET",
        help="train the network emptied from these sets on first",
    )
    parser.add_argument("--damages", type=Path, help="file of what was measured (default: that of studies/damage.py)")
    parser.add_argument("--no-pack", action="store_true", help="leave the shipped records as they are")
    parser.add_argument("--executor", default="ray", choices=EXECUTORS)
    parser.add_argument("--workers", type=int)
    given = parser.parse_args()
    started = time.monotonic()
    path = shipped_records(given.model)
    problem = assemble(given.model)
    cases = drawn_cases(given.scenarios, given.seed, (0.0,))
    cases = [replace(case, max_loss=loss) for case in cases for loss in given.losses]
    floor = problem.base_accuracy - np.array([case.max_loss for case in cases])
    scenarios = Scenarios(np.array([case.weights for case in cases]), floor, np.full(len(cases), np.nan))
    first = Neighbourhood(problem, scenarios, confidence=given.confidence or None)
    emptied = [first.emptied_from(name) for name in given.emptied_from]
    info, data = read_records(path).info, load_data(given.data)
    base = obtain_base(None, path, info, data)
    meter = DamageMeter(trainer_of(path, data))
    with (
        make_executor(given.executor, workers=given.workers, gpus_per_worker=gpu_share()) as executor,
        run_folder(given.out, "near", {"records": info.settings_hash}) as folder,
    ):
        verifier = Verifier(info, data, base, executor, folder=folder)
        damages = Damages(given.damages or MEASURED / f"{given.model}.parquet", problem.space)
        for _ in verifier.measure([Request(strategy) for strategy in emptied]):
            pass
        trained, tried = 0, set[Name]()
        expected: list[Move] = []
        for number in itertools.count():
            near = Neighbourhood(
                with_trainings(problem, [*shipped_parts(given.model), folder]),
                scenarios,
                confidence=given.confidence or None,
            )
            print(told(number, near, expected), flush=True)
            left = given.budget - trained
            if left <= 0 or time.monotonic() - started > given.seconds:
                break
            count = min(given.batch, left)
            expected = chosen(near, damages, meter, given.seed + number, tried, count, min(max(given.blind, 0), count))
            if not expected:
                print("no move is expected to gain anything")
                break
            requests = [Request(strategy) for move in expected for strategy in move.strategies]
            for _ in verifier.measure(requests):
                pass
            trained += len(expected)
            tried |= {move.name for move in expected}
    if not given.no_pack:
        join_shipped(given.model, [given.out])


def chosen(
    near: Neighbourhood,
    damages: Damages,
    meter: DamageMeter,
    seed: int,
    tried: set[Name],
    count: int,
    blind: int,
) -> list[Move]:
    """The moves to train in a round: ``blind`` of them by what is known of all, the others by their damage as well.

    Damage says little of a kind of move that none was trained of yet.
    """
    names = [name for name in near.moves(DRAWN, seed) if name not in tried]
    if not names:
        return []
    best = near.best(names, near.outlook(names), max(LOOKED_AT, blind))
    if len(best) <= blind or blind == count:
        return best[:count]
    first, looked_at = best[:blind], [move.name for move in best[blind:]]

    def damage(names: Sequence[Name]) -> np.ndarray:
        strategies = [near.space.strategy(np.array(name)) for name in names]
        damages.measure(strategies, meter)
        return damages.of(strategies)

    return first + near.best(looked_at, near.outlook(looked_at, damage), count - blind, after=first)


def told(number: int, near: Neighbourhood, expected: list[Move]) -> str:
    """How the answers stand, and what became of the round before."""
    latency = 1e3 * np.exp(np.log(near.latency_s).mean())
    line = f"round {number}: the answers take {latency:.4g} ms in the mean, by {len(near.winners)} strategies"
    if not expected:
        return line
    won = sum(move.name in near.winners for move in expected)
    hoped = 100 * sum(move.expected for move in expected)
    return f"{line}; of {len(expected)} trained {won} answer something, {hoped:.2f} % were expected"


if __name__ == "__main__":
    run_script(main)
