"""Train the best of the records' strategies again, with features of 8 bits and fewer, and pack them beside the records.

    python scripts/collect_few_bits.py --model alexnet --data DIR --out FOLDER [--rounds 2] [--pack FILE]

Which ones is said by scenarios drawn from --seed (:func:`coinfer_ray.refine.few_bits.few_bits_plan`,
:func:`coinfer_ray.refine.cases.drawn_cases`). Base network, images and recipe are those of the shipped records; an
answer may rest on these trainings as on the others. Killed, it goes on when the same command is given again; what ships
already is not trained again. --plan prints what would be trained. What the network as it is loses with few bits is
taken from JALAD's measurements, which ship, and joins the records. Prints what each width costs in accuracy, over the
strategies that were trained both ways, and (--plan) how much faster the answers to these scenarios are for widths below
8 bits.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from coinfer_kernels import Scenarios, cheapest_feasible

from coinfer_ray.cli.scripts import positive_int, run_script
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.problem.strategy import FLOAT_BITS, Codec, Strategy
from coinfer_ray.records.choices import shipped_choices
from coinfer_ray.records.request import Request
from coinfer_ray.records.store import (
    SHARD_PATTERN,
    Records,
    few_bits_beside,
    pack,
    read_records,
    shard_path,
    shipped_records,
    write_records,
)
from coinfer_ray.refine.cases import drawn_cases
from coinfer_ray.refine.few_bits import base_records, few_bits_plan, knowing_widths
from coinfer_ray.runtime.executors import EXECUTORS, make_executor
from coinfer_ray.runtime.files import run_folder
from coinfer_ray.training.data import load_data
from coinfer_ray.training.verifier import Verifier, obtain_base
from coinfer_ray.training.worker import gpu_share

LOSSES = (0.01, 0.015, 0.02, 0.03, 0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", help="images as `coinfer collect --data` takes them")
    parser.add_argument("--out", type=Path, help="folder: one file for each training")
    parser.add_argument("--scenarios", type=positive_int, default=400)
    parser.add_argument("--rounds", type=positive_int, default=2)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--confidence", type=float, default=0.9)
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--pack", type=Path, help="default: beside the shipped records")
    parser.add_argument(
        "--join", type=Path, nargs="*", default=[], help="others' trainings: their quantised ones count too"
    )
    parser.add_argument("--executor", default="ray", choices=EXECUTORS)
    parser.add_argument("--workers", type=positive_int)
    given = parser.parse_args()
    floats = shipped_records(given.model)
    records, whole = read_records(floats), assemble(given.model)
    as_it_is = base_records(shipped_choices(given.model), records.info, whole.space)
    # By records of floats and the network as it is, so that the plan stays the same as its trainings come in.
    problem = knowing_widths(whole, records, as_it_is)
    drawn = drawn_cases(given.scenarios, given.seed, (0.0,))
    cases = [replace(case, max_loss=loss) for case in drawn for loss in LOSSES]
    floor = problem.base_accuracy - np.array([case.max_loss for case in cases])
    scenarios = Scenarios(np.array([case.weights for case in cases]), floor, np.full(len(cases), np.nan))
    plan = few_bits_plan(problem, scenarios, confidence=given.confidence, rounds=given.rounds)
    shipped = few_bits_beside(floats)
    path = given.pack or shipped
    trained = [each for each in dict.fromkeys((shipped, path)) if each.exists()]
    there = {repr(strategy) for each in trained for strategy in read_records(each).strategies}
    plan = [strategy for strategy in plan if repr(strategy) not in there]
    if given.plan:
        for strategy in plan:
            print(strategy.to_json())
        if there:
            print_lost_more(records, read_records(trained))
            print_gained(whole, scenarios, given.confidence)
        return
    if given.data is None or given.out is None:
        parser.error("--data and --out are needed to train")
    data = load_data(given.data)
    base = obtain_base(None, None, records.info, data)
    with (
        make_executor(given.executor, workers=given.workers, gpus_per_worker=gpu_share()) as executor,
        run_folder(given.out, "few-bits", {"records": records.info.settings_hash}) as folder,
    ):
        for strategy, row in zip(as_it_is.strategies, as_it_is.table.to_pylist(), strict=True):
            if repr(strategy) not in there:
                write_records(shard_path(folder, row["candidate"]), [row], records.info)
        for _ in Verifier(records.info, data, base, executor, folder=folder).measure([Request(one) for one in plan]):
            pass
    packed = pack([*trained, *quantised(given.join), *quantised([given.out])], path)
    print(f"{len(packed)} records of quantised features in {path}; fit the predictor to both files again")
    print_lost_more(records, packed)


def quantised(sources: Sequence[Path]) -> list[Path]:
    """The files of ``sources``, files or folders, that hold records of quantised features alone."""
    files = [
        file for source in sources for file in (sorted(source.glob(SHARD_PATTERN)) if source.is_dir() else [source])
    ]
    return [file for file in files if (read_records(file).feature_bits < FLOAT_BITS).all()]


def print_lost_more(floats: Records, few: Records) -> None:
    for name, more in lost_more(floats, few).items():
        print(
            f"{name}: {len(more)} measured both ways; they lose {100 * more.mean():+.2f} points more in the mean "
            f"(standard deviation {100 * more.std(ddof=min(1, len(more) - 1)):.2f}, {100 * more.min():+.2f} to "
            f"{100 * more.max():+.2f})"
        )


def print_gained(problem: Problem, scenarios: Scenarios, confidence: float | None) -> None:
    """By how much answers are faster than without widths below 8 bits, at each bound."""
    known, measured = problem.known_levels, problem.measured
    bits = problem.space.cut_bits[np.concatenate([known, measured.levels])[:, problem.space.cut_variable]]
    costs = np.concatenate([problem.known_costs, measured.costs])
    reached = np.concatenate([np.full(len(known), problem.base_accuracy), problem.measured_bound(confidence)])
    _, without = cheapest_feasible(costs, np.where(bits < 8, -1.0, reached), scenarios)
    _, latency = cheapest_feasible(costs, reached, scenarios)
    gain = np.log(without / latency)
    for loss in LOSSES:
        own = gain[np.isclose(scenarios.accuracy_floor, problem.base_accuracy - loss)]
        print(
            f"{100 * loss:g} points: with 6, 4 and 2 bits as well {np.exp(own.mean()):.2f}x as fast (geometric mean of "
            f"{len(own)} scenarios), {np.exp(own.max()):.2f}x at most"
        )


def lost_more(floats: Records, few: Records) -> dict[str, np.ndarray]:
    """What strategies lose against the base network with quantised features, less what they lose with floats: by
    width and by whether there is a codec. The network as it is loses nothing with floats."""

    def lost(records: Records) -> dict[str, tuple[Strategy, float]]:
        losses: dict[str, tuple[Strategy, list[float]]] = {}
        for strategy, value in zip(records.strategies, records.losses()[0], strict=True):
            if strategy.codec == Codec() and strategy.feature_bits == FLOAT_BITS:
                strategy = replace(strategy, partition_point=0)  # the same network wherever it is cut
            losses.setdefault(repr(strategy), (strategy, []))[1].append(value)
        return {name: (strategy, float(np.mean(values))) for name, (strategy, values) in losses.items()}

    before, pairs = lost(floats), dict[str, list[float]]()
    for strategy, value in lost(few).values():
        coded, touched = strategy.codec != Codec(), any(strategy.sparsity.values())
        point = strategy.partition_point if coded else 0
        other = before.get(repr(replace(strategy, partition_point=point, feature_bits=FLOAT_BITS)))
        kind = "with a codec" if coded else "without a codec" if touched else "the network as it is"
        if other is not None or kind == "the network as it is":
            pairs.setdefault(f"{kind}, {strategy.feature_bits} bits", []).append(value - (other[1] if other else 0.0))
    return {name: np.array(pairs[name]) for name in sorted(pairs)}


if __name__ == "__main__":
    run_script(main)
