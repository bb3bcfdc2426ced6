"""Train the best of the records' strategies through noise, and pack them as records of a noisy channel.

    python scripts/collect_noisy.py --model alexnet --data DIR --out FOLDER [--budget 150] [--trainings 2]
        [--join OTHERS] [--pack FILE]

Which ones, and at which signal-to-noise ratios, is said by scenarios drawn from --seed
(:func:`coinfer_ray.refine.noisy.next_noisy`): it ends when nothing that answers one of them is a guess and what does
rests on --trainings each, from other seeds, or after --budget trainings. Base network, images and recipe are those of
the shipped records. Killed, it goes on when the same command is given again; what ships already is not trained again.
--join: trainings through noise that were made elsewhere, by `coinfer collect --snr-db`. The packed file also holds the
records of pruned networks that have no codec: their features are sent as bits, which no noise reaches. Prints what
noise costs.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
from coinfer_kernels import Scenarios

from coinfer_ray.cli.scripts import positive_int, run_script
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.problem.strategy import FLOAT_BITS, Codec, Strategy
from coinfer_ray.records.request import Request
from coinfer_ray.records.store import (
    SHARD_PATTERN,
    Records,
    noisy_beside,
    pack,
    read_records,
    shipped_records,
    write_records,
)
from coinfer_ray.refine.noisy import Levels, next_noisy
from coinfer_ray.runtime.executors import EXECUTORS, make_executor
from coinfer_ray.runtime.files import run_folder
from coinfer_ray.scenarios.scenario import SERVER_FLOPS_PER_S, shannon_rate_bps
from coinfer_ray.training.data import load_data
from coinfer_ray.training.verifier import Verifier, obtain_base
from coinfer_ray.training.worker import gpu_share

LOSSES = (0.01, 0.02, 0.03, 0.05)
LADDER_DB = (0.0, 5.0, 10.0, 15.0, 20.0, 30.0)
JOINED_FILE = "joined.parquet"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="images as `coinfer collect --data` takes them")
    parser.add_argument("--out", type=Path, required=True, help="folder: one file for each training")
    parser.add_argument("--scenarios", type=positive_int, default=400)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--confidence", type=float, default=0.9)
    parser.add_argument("--budget", type=int, default=150, help="trainings, those at hand included")
    parser.add_argument("--trainings", type=positive_int, default=1, help="of what answers a scenario")
    parser.add_argument("--batch", type=positive_int, default=8, help="trainings between two looks at what is wanted")
    parser.add_argument("--join", type=Path, nargs="*", default=[])
    parser.add_argument("--pack", type=Path, help="default: beside the shipped records")
    parser.add_argument("--executor", default="ray", choices=EXECUTORS)
    parser.add_argument("--workers", type=positive_int)
    given = parser.parse_args()
    floats = shipped_records(given.model)
    problem = assemble(given.model, records=read_records(floats), feature_bits=32)
    scenarios = drawn(problem, given.scenarios, given.seed)
    noise_free = read_records(floats)
    info = replace(noise_free.info, settings={**noise_free.info.settings, "channel": "awgn"})
    shipped = noisy_beside(floats)
    path = given.pack or shipped
    data = load_data(given.data)
    base = obtain_base(None, None, noise_free.info, data)
    with (
        make_executor(given.executor, workers=given.workers, gpus_per_worker=gpu_share()) as executor,
        run_folder(given.out, "noisy", {"records": info.settings_hash}) as folder,
    ):
        verifier = Verifier(info, data, base, executor, folder=folder)
        there = [each for each in dict.fromkeys((shipped, path)) if each.exists()]
        sources = [each for each in there if read_records(each).info.settings_hash == info.settings_hash]
        sources += given.join
        read_records(sources or floats)  # before anything is trained: what is joined must be there
        tried: Counter[tuple[Levels, float]] = Counter()
        while True:
            found = accuracies(problem, [*sources, folder])
            measured = {**dict.fromkeys(tried, 0.0), **{key: float(np.mean(each)) for key, each in found.items()}}
            wanted = next_noisy(problem, scenarios, LADDER_DB, measured, confidence=given.confidence or None)
            # One that fails reaches nothing, and counts.
            behind = {key: max(tried[key], len(found.get(key, ()))) for key in measured}
            often = [key for key in wanted.measured if behind[key] < given.trainings]
            done = sum(behind.values())
            batch = (wanted.guesses or often)[: max(0, min(given.batch, given.budget - done))]
            print(f"{done} trainings through noise; {len(batch)} to do next", flush=True)
            if not batch:
                break
            requests = [
                Request(problem.space.strategy(np.array(key[0])), key[1], _repeat(behind.get(key, 0))) for key in batch
            ]
            for _ in verifier.measure(requests):
                pass
            tried.update({key: behind.get(key, 0) + 1 - tried[key] for key in batch})
        through = [*sources, *sorted(folder.glob(SHARD_PATTERN))]
        rows = [*encoded(read_records(through)), *silent(noise_free)] if through else silent(noise_free)
        write_records(folder / JOINED_FILE, rows, info)
        packed = pack([folder / JOINED_FILE], path)
    print(f"{len(packed)} records in {path}; fit the predictor again (scripts/fit_shipped.sh)")
    print_costs(packed, noise_free)


def drawn(problem: Problem, count: int, seed: int) -> Scenarios:
    """Random links and devices, each with every allowed loss: device 0.1 to 1,000 GFLOPS, bandwidth 0.1 to 100 MHz,
    log-uniform, SNR 0 to 50 dB; the server is the paper's P100."""
    rng = np.random.default_rng(seed)
    device, bandwidth = 1e9 * 10 ** rng.uniform(-1, 3, count), 1e6 * 10 ** rng.uniform(-1, 2, count)
    snr_db = rng.uniform(0, 50, count)
    rate = np.array([shannon_rate_bps(hertz, ratio) for hertz, ratio in zip(bandwidth, snr_db, strict=True)])
    weights = np.column_stack([1 / device, np.full(count, 1 / SERVER_FLOPS_PER_S["p100"]), 1 / rate])
    repeated = np.repeat(weights, len(LOSSES), axis=0)
    floor = problem.base_accuracy - np.tile(LOSSES, count)
    return Scenarios(repeated, floor, np.repeat(snr_db, len(LOSSES)))


def _repeat(trainings: int) -> int:
    """Which repeat the next training is, after so many: repeats below 100 are for verification."""
    return 100 + trainings if trainings else 0


def accuracies(problem: Problem, sources: Sequence[Path]) -> dict[tuple[Levels, float], list[float]]:
    """What the trainings through noise reached, by strategy and step of the ladder: the first that is not below the
    training's ratio, for it holds there."""
    there = [path for path in sources if not path.is_dir() or any(path.glob(SHARD_PATTERN))]
    found: dict[tuple[Levels, float], list[float]] = {}
    if not there:
        return found
    records = read_records(there)  # together: what a folder and a packed file both hold counts once
    rows = records.table["snr_db"].to_pylist()
    reached = records.accuracy(problem.accuracy, problem.base_accuracy)
    for strategy, snr_db, value in zip(records.strategies, rows, reached, strict=True):
        steps = [] if snr_db is None else [step for step in LADDER_DB if step >= snr_db]
        if steps:
            found.setdefault((levels_of(problem, strategy), steps[0]), []).append(value)
    return found


def levels_of(problem: Problem, strategy: Strategy) -> Levels:
    return tuple(problem.space.levels(strategy).tolist())


def silent(noise_free: Records) -> list[dict[str, object]]:
    """The rows of pruned networks that have no codec and send floats."""
    rows = zip(noise_free.table.to_pylist(), noise_free.strategies, strict=True)
    return [row for row, strategy in rows if strategy.codec == Codec() and strategy.feature_bits == FLOAT_BITS]


def encoded(noisy: Records) -> list[dict[str, object]]:
    """The rows of trainings through noise, which have a codec."""
    rows = zip(noisy.table.to_pylist(), noisy.strategies, strict=True)
    return [row for row, strategy in rows if strategy.codec != Codec() and row["snr_db"] is not None]


def print_costs(noisy: Records, noise_free: Records) -> None:
    """What strategies lose more through noise, by ratio."""
    alone: dict[str, list[float]] = {}
    for strategy, loss in zip(noise_free.strategies, noise_free.losses()[0], strict=True):
        alone.setdefault(repr(strategy), []).append(loss)
    rows = zip(noisy.table["snr_db"].to_pylist(), noisy.strategies, noisy.losses()[0], strict=True)
    pairs = sorted(
        (snr_db, loss - float(np.mean(alone[repr(strategy)])))
        for snr_db, strategy, loss in rows
        if snr_db is not None and repr(strategy) in alone
    )
    for snr_db, group in groupby(pairs, key=lambda pair: pair[0]):
        more = 100 * np.array([value for _, value in group])
        print(f"{snr_db:g} dB: {len(more)} trained both ways; they lose {more.mean():+.2f} points more in the mean")


if __name__ == "__main__":
    run_script(main)
