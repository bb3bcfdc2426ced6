"""What `--confidence` is worth: of the answers given at C, how many keep their bound when they are trained once more.

    python studies/coverage.py [--model alexnet] [--confidences 0.8,0.9,0.95] [--repeats 200]

Nothing is trained. Of every strategy that was trained twice or more, for the records or for studies/verify_answers.py,
one training is held out at random, and what the others measured is all that is known of it; strategies that were
trained once are left out. Random scenarios (:func:`coinfer_ray.refine.cases.drawn_cases`) are then answered as `coinfer
optimize` answers them, and each answer is judged by the training that was held out, against the base network on the
same images. --repeats draws trainings and scenarios anew. The network as it is keeps every bound, so only compressed
answers are counted. How wide the margins behind a confidence are was simulated (studies/margin.py); what they are too
narrow or too wide for shows here.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from coinfer_kernels import Scenarios

from coinfer_ray.cli.scripts import positive_int, run_script
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.optimizer.solve import solve
from coinfer_ray.predictor.fit import measured_of
from coinfer_ray.problem.strategy import FLOAT_BITS, Codec, Strategy
from coinfer_ray.records.store import Records, Split, read_records, shipped_parts, shipped_records
from coinfer_ray.refine.cases import DRAWN_LOSSES, drawn_cases

SPLITS: tuple[Split, ...] = ("validation", "test")


@dataclass
class Count:
    """Compressed answers at one confidence: how many, how many of them kept the bound on each split, of how many
    scenarios, and which strategies they were."""

    scenarios: int
    answers: int
    kept: dict[str, int]
    strategies: set[Any]

    def add(self, name: Any, lost: dict[str, float], allowed: float) -> None:
        self.answers += 1
        self.strategies.add(name)
        for split, loss in lost.items():
            self.kept[split] += loss <= allowed + 1e-9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="default: alexnet and regnet_x_400mf")
    parser.add_argument("--confidences", default="0.8,0.9,0.95")
    parser.add_argument("--repeats", type=positive_int, default=200)
    parser.add_argument(
        "--scenarios", type=positive_int, default=40, help="of each repeat, every one at 1, 2 and 5 points"
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    confidences = [float(each) for each in given.confidences.split(",")]
    print(f"{'network':16}{'confidence':>11}{'compressed':>12}{'strategies':>12}{'validation':>12}{'test':>9}")
    for model in given.model or ["alexnet", "regnet_x_400mf"]:
        problem, records = assemble(model), trainings_of(model)
        for confidence, count in coverage(problem, records, confidences, given).items():
            shares = [f"{count.kept[split] / count.answers:.1%}" if count.answers else "-" for split in SPLITS]
            compressed = f"{count.answers / count.scenarios:.1%}"
            print(
                f"{model:16}{confidence:11g}{compressed:>12}{len(count.strategies):12}{shares[0]:>12}{shares[1]:>9}",
                flush=True,
            )


def trainings_of(model: str) -> Records:
    """All trainings of the shipped records' recipe and base network, those of studies/verify_answers.py among them."""
    verified = shipped_records(model).with_suffix(".verified.parquet")
    return read_records([*shipped_parts(model), *([verified] if verified.exists() else [])])


def coverage(
    problem: Problem, records: Records, confidences: list[float], given: argparse.Namespace
) -> dict[float, Count]:
    rng = np.random.default_rng(given.seed)
    names = [name_of(strategy, len(problem.graph.layers)) for strategy in records.strategies]
    rows: dict[Any, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    repeated = {name: own for name, own in rows.items() if len(own) > 1}
    losses = {split: records.losses(split)[0] for split in SPLITS}
    counts = {confidence: Count(0, 0, dict.fromkeys(SPLITS, 0), set()) for confidence in confidences}
    for _ in range(given.repeats):
        held = {name: int(rng.choice(own)) for name, own in repeated.items()}
        known = np.zeros(len(names), dtype=np.bool_)
        known[[row for own in repeated.values() for row in own]] = True
        known[list(held.values())] = False
        measured = measured_of(records.where(known), problem.accuracy, problem.base_accuracy)
        told = replace(problem, fitted=replace(problem.predictor, measured=measured))
        seed = int(rng.integers(1 << 32))
        for loss in DRAWN_LOSSES:
            cases = drawn_cases(given.scenarios, seed, (loss,))
            floor = np.full(len(cases), problem.base_accuracy - loss)
            scenarios = Scenarios(np.array([case.weights for case in cases]), floor, np.full(len(cases), np.nan))
            for confidence, count in counts.items():
                found = solve(told, scenarios, confidence=confidence)
                count.scenarios += len(cases)
                for levels in found.levels[~told.is_known(found.levels)]:
                    name = name_of(problem.space.strategy(levels), len(problem.graph.layers))
                    count.add(name, {split: float(losses[split][held[name]]) for split in SPLITS}, loss)
    return counts


def name_of(strategy: Strategy, layers: int) -> Any:
    """What trainings of one strategy share: without a codec, floats are the same network wherever it is cut."""
    plain = strategy.codec == Codec() and strategy.feature_bits == FLOAT_BITS
    point = layers if plain else strategy.partition_point
    return tuple(strategy.sparsity.values()), point, tuple(strategy.codec.values()), strategy.feature_bits


if __name__ == "__main__":
    run_script(main)
