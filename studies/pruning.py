"""What pruning alone costs once it is trained: the records' networks without a codec, by their share of the FLOPs.

    python studies/pruning.py [--model alexnet]

Nothing is trained. Printed for each tenth: how many such networks the shipped records hold, and what these lose on all
validation and all test images against the base network on the same images, in the median and the least of them;
trainings of one network count as their mean. What the records hold was chosen all over the space and by solvers, not by
what is lost: the least is what the records know how to do, and the median what a choice without that knowledge costs.
"""

from __future__ import annotations

import argparse

import numpy as np

from coinfer_ray.cli.scripts import run_script
from coinfer_ray.problem.strategy import FLOAT_BITS, Codec
from coinfer_ray.records.store import Records, read_records, shipped_records

EDGES = np.arange(0.0, 1.0, 0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="default: alexnet and regnet_x_400mf")
    given = parser.parse_args()
    print(f"{'network':16}{'FLOPs left':>14}{'networks':>10}{'validation: median, least':>28}{'test':>16}")
    for model in given.model or ["alexnet", "regnet_x_400mf"]:
        share, lost = pruned(read_records(shipped_records(model)))
        for low in EDGES[::-1]:
            rows = (share >= low) & (share < low + 0.1)
            if rows.any():
                middle, least = 100 * np.median(lost[rows], axis=0), 100 * lost[rows].min(axis=0)
                print(
                    f"{model:16}{f'{low:.1f} to {low + 0.1:.1f}':>14}{rows.sum():10}"
                    f"{middle[0]:20.2f}{least[0]:8.2f}{middle[1]:8.2f}{least[1]:8.2f}"
                )


def pruned(records: Records) -> tuple[np.ndarray, np.ndarray]:
    """Of each pruned network without a codec that sends floats: its share of the FLOPs (n,), and what it loses on
    validation and test images (n, 2)."""
    total = sum(layer.flops for layer in records.graph.layers)
    losses = np.column_stack([records.losses("validation")[0], records.losses("test")[0]])
    found: dict[tuple[float, ...], list[int]] = {}
    for row, strategy in enumerate(records.strategies):
        plain = strategy.codec == Codec() and strategy.feature_bits == FLOAT_BITS
        if plain and any(strategy.sparsity.values()):
            found.setdefault(tuple(strategy.sparsity.values()), []).append(row)
    share = records.costs()[:, :2].sum(axis=1) / total
    return np.array([share[rows[0]] for rows in found.values()]), np.array(
        [losses[rows].mean(axis=0) for rows in found.values()]
    )


if __name__ == "__main__":
    run_script(main)
