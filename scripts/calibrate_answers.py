"""Calibrate a predictor on the answers to random scenarios, each trained anew (:mod:`coinfer_ray.refine.calibrate`).

    python scripts/calibrate_answers.py --model alexnet --data DIR --predictor P.npz --records R.parquet --out FOLDER
        --answers A.json --pack A.parquet

The predictor is written back with the new calibration once all is trained; --answers holds every scenario's answers and
what they lost, --pack the trainings as records. Killed, it goes on when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from coinfer_ray.cli.scripts import positive_int, run_script
from coinfer_ray.optimizer.problem import assemble
from coinfer_ray.predictor.predictor import Predictor
from coinfer_ray.records.store import pack, read_records
from coinfer_ray.refine.calibrate import calibrated, needed_margins
from coinfer_ray.refine.cases import DRAWN_LOSSES, drawn_cases
from coinfer_ray.runtime.executors import EXECUTORS, make_executor
from coinfer_ray.runtime.files import run_folder, write_whole
from coinfer_ray.training.data import load_data
from coinfer_ray.training.verifier import Verifier, obtain_base
from coinfer_ray.training.worker import gpu_share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="images as `coinfer collect --data` takes them")
    parser.add_argument("--predictor", type=Path, required=True)
    parser.add_argument("--records", type=Path, required=True, help="those that the predictor was fitted to")
    parser.add_argument("--base", type=Path, help="their base network; default: the one beside them")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--answers", type=Path, required=True)
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--scenarios", type=positive_int, default=40)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--executor", default="ray", choices=EXECUTORS)
    parser.add_argument("--workers", type=positive_int)
    given = parser.parse_args()

    predictor = Predictor.load(given.predictor)
    problem = assemble(given.model, records=predictor, accuracy=predictor.accuracy)
    info, splits = read_records(given.records).info, load_data(given.data)
    base = obtain_base(given.base, given.records, info, splits)
    cases = drawn_cases(given.scenarios, given.seed, DRAWN_LOSSES)
    asked = {"predictor": predictor.records_hash, "accuracy": predictor.accuracy, "seed": given.seed}
    with (
        make_executor(given.executor, workers=given.workers, gpus_per_worker=gpu_share()) as executor,
        run_folder(given.out, "calibrate", asked) as folder,
    ):
        verifier = Verifier(info, splits, base, executor, folder=folder)
        found = needed_margins(problem, cases, verifier.measure)
    document = json.dumps([case.to_json() for case in found], indent=1) + "\n"
    write_whole(given.answers, lambda temporary: temporary.write_text(document))
    pack(given.out, given.pack)
    better = calibrated(predictor, found)
    better.save(given.predictor)
    margins = np.array([case.needed for case in found])
    print(f"{len(found)} scenarios; needed margins {np.sort(margins).tolist()}")
    for confidence in (0.8, 0.9, 0.95):
        if confidence <= better.calibration.highest_confidence:
            print(f"confidence {confidence}: a margin of {better.calibration.factor(confidence):g}")


if __name__ == "__main__":
    run_script(main)
