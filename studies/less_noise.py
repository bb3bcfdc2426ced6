"""Does what was trained through noise hold where there is less of it? One network, measured at every higher ratio.

    python studies/less_noise.py --data DIR [--model alexnet] [--strategies 2]

The records through noise count at their ratio and at all above (:meth:`coinfer_ray.optimizer.problem.Problem.by_snr`).
Here some of their strategies, of different cuts, are trained once more at each ratio of --ratios by the recipe of the
records, and the same weights are measured there and at every higher one. Prints points lost against the base network
on the same images, a row a training; they should fall from left to right, up to the noise of measuring.
"""

from __future__ import annotations

import argparse
from typing import cast

from coinfer_ray.cli.scripts import positive_int, run_script
from coinfer_ray.compression.channel import AWGNChannel
from coinfer_ray.problem.strategy import Strategy
from coinfer_ray.records.store import Records, noisy_beside, read_records, shipped_records
from coinfer_ray.training.data import load_data
from coinfer_ray.training.verifier import trainer_of
from coinfer_ray.training.worker import candidate_seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="alexnet")
    parser.add_argument("--data", required=True, help="images as `coinfer collect --data` takes them")
    parser.add_argument("--strategies", type=positive_int, default=2)
    parser.add_argument("--ratios", default="5,10,20,30", help="dB, rising")
    parser.add_argument("--repeat", type=positive_int, default=1, help="another seed for each")
    given = parser.parse_args()
    path = noisy_beside(shipped_records(given.model))
    records = read_records(path)
    trainer, graph = trainer_of(path, load_data(given.data)), records.graph
    ratios = [float(each) for each in given.ratios.split(",")]
    print("validation, test: points lost" + "".join(f"{ratio:>14g} dB" for ratio in ratios))
    for number, strategy in enumerate(often_trained(records, given.strategies)):
        for ratio in ratios[:-1]:
            seed = candidate_seed(0, number, given.repeat)
            network = trainer.train(strategy, snr_db=ratio, seed=seed).network
            cells = [""] * ratios.index(ratio)
            for higher in ratios[ratios.index(ratio) :]:
                cast(AWGNChannel, network.channel).snr_db = higher
                found = trainer.measure(network, seed + 3)
                lost = [100 * (found[f"base_{name}_accuracy"] - found[f"{name}_accuracy"]) for name in DATA]
                cells.append(", ".join(f"{points:.2f}" for points in lost))
            name = graph.cut_name(strategy.partition_point)
            print(f"cut after {name}, at {ratio:g} dB".ljust(29) + "".join(f"{cell:>17}" for cell in cells), flush=True)


DATA = ("validation", "test")


def often_trained(records: Records, count: int) -> list[Strategy]:
    """Strategies that were trained at the most ratios, each of another cut."""
    ratios: dict[str, set[float]] = {}
    known: dict[str, Strategy] = {}
    for strategy, snr_db in zip(records.strategies, records.table["snr_db"].to_pylist(), strict=True):
        if snr_db is not None:
            ratios.setdefault(repr(strategy), set()).add(snr_db)
            known[repr(strategy)] = strategy
    found: dict[int, Strategy] = {}
    for name in sorted(ratios, key=lambda name: -len(ratios[name])):
        found.setdefault(known[name].partition_point, known[name])
    return list(found.values())[:count]


if __name__ == "__main__":
    run_script(main)
