"""Records where the solvers go: what they choose in random scenarios is trained, in rounds, until nothing surprises.

    python scripts/collect_answers.py --model alexnet --data DIR --records R.parquet --base B.safetensors --out FOLDER
        --pack ALL.parquet

The scenarios are drawn from --seed (:func:`coinfer_ray.refine.cases.drawn_cases`), the loop is that of `coinfer
refine`: fit, solve all of them, train every answer that is not known yet, fit again with what was learned. It ends when
no scenario's answer is new, or after --budget trainings; --pack then holds the records that it began with and all that
it trained. Killed, it goes on when the same command is given again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from coinfer_ray.cli.scripts import positive_int, run_script
from coinfer_ray.records.store import pack, read_records
from coinfer_ray.refine.cases import DRAWN_LOSSES, drawn_cases
from coinfer_ray.refine.run import refine
from coinfer_ray.runtime.executors import EXECUTORS, make_executor
from coinfer_ray.training.worker import gpu_share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="images as `coinfer collect --data` takes them")
    parser.add_argument("--records", type=Path, nargs="+", required=True, help="to begin with; several are joined")
    parser.add_argument("--base", type=Path, required=True, help="their base network")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--scenarios", type=positive_int, default=60)
    parser.add_argument("--budget", type=int, default=200, help="trainings")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--optimizer", default="exact")
    parser.add_argument("--executor", default="ray", choices=EXECUTORS)
    parser.add_argument("--workers", type=positive_int)
    given = parser.parse_args()
    cases = drawn_cases(given.scenarios, given.seed, DRAWN_LOSSES)
    with make_executor(given.executor, workers=given.workers, gpus_per_worker=gpu_share()) as executor:
        result = refine(
            given.model,
            cases,
            given.data,
            given.out,
            budget=given.budget,
            executor=executor,
            records=read_records(given.records),
            base=given.base,
            optimizer=given.optimizer,
        )
    pack([*given.records, given.out], given.pack)
    print(f"{result.trained} trainings in {result.rounds} rounds, {result.stopped}; ", end="")
    print(f"{len(read_records(given.pack).table)} records in {given.pack}")


if __name__ == "__main__":
    run_script(main)
