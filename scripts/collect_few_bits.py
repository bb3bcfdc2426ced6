"""Train the best of the records' strategies again, with features of eight bits, and pack them beside the records.

    python scripts/collect_few_bits.py --model alexnet --data DIR --out FOLDER [--rounds 2] [--pack FILE]

Which ones is said by scenarios drawn from --seed (:func:`coinfer_ray.refine.few_bits.few_bits_plan`,
:func:`coinfer_ray.refine.cases.drawn_cases`). Base network, images and recipe are those of the shipped records; an
answer may rest on these trainings as on the others. Killed, it goes on when the same command is given again; what ships
already is not trained again. --plan prints what would be trained. Prints what eight bits cost in accuracy, over the
strategies that were trained both ways.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from coinfer_kernels import Scenarios

from coinfer_ray.cli.scripts import positive_int, run_script
from coinfer_ray.optimizer.problem import assemble
from coinfer_ray.problem.strategy import FLOAT_BITS, Codec
from coinfer_ray.records.request import Request
from coinfer_ray.records.store import SHARD_PATTERN, Records, few_bits_beside, pack, read_records, shipped_records
from coinfer_ray.refine.cases import drawn_cases
from coinfer_ray.refine.few_bits import few_bits_plan
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
    # By records of floats alone, so that the plan stays the same as its trainings come in.
    floats = shipped_records(given.model)
    problem = assemble(given.model, records=read_records(floats))
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
    records = read_records(floats)
    if given.plan:
        for strategy in plan:
            print(strategy.to_json())
        if there:
            print_lost_more(records, read_records(trained))
        return
    if given.data is None or given.out is None:
        parser.error("--data and --out are needed to train")
    data = load_data(given.data)
    base = obtain_base(None, None, records.info, data)
    with (
        make_executor(given.executor, workers=given.workers, gpus_per_worker=gpu_share()) as executor,
        run_folder(given.out, "few-bits", {"records": records.info.settings_hash}) as folder,
    ):
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
            f"{name}: {len(more)} trained both ways; with quantised features they lose {100 * more.mean():+.2f} points "
            f"more in the mean (standard deviation {100 * more.std(ddof=1):.2f})"
        )


def lost_more(floats: Records, few: Records) -> dict[str, np.ndarray]:
    """What strategies lose against the base network with quantised features, less what they lose with floats."""

    def lost(records: Records) -> dict[tuple[Any, ...], float]:
        losses: dict[tuple[Any, ...], list[float]] = {}
        for strategy, value in zip(records.strategies, records.losses()[0], strict=True):
            coded = strategy.codec != Codec()
            # Without a codec a network of floats is the same wherever it is cut.
            point = strategy.partition_point if coded or strategy.feature_bits < FLOAT_BITS else None
            losses.setdefault((*strategy.sparsity.values(), strategy.codec, coded, point), []).append(value)
        return {name: float(np.mean(values)) for name, values in losses.items()}

    before, pairs = lost(floats), dict[str, list[float]]()
    for name, value in lost(few).items():
        coded = name[-2]
        other = before.get(name if coded else (*name[:-1], None))
        if other is not None:
            pairs.setdefault("with a codec" if coded else "without a codec", []).append(value - other)
    return {name: np.array(values) for name, values in pairs.items()}


if __name__ == "__main__":
    run_script(main)
