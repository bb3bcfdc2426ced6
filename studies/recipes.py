"""How must a candidate be trained? What other recipes make of the strategies that are answers, beside longer training.

    python studies/recipes.py --model alexnet --data DIR --out DIR [--strategies 6] [--recipes NAMES] [--known FOLDER]

The strategies are answers to the scenarios of `verify_answers.py`, spread evenly over the accuracy that was said of
them. Each is trained from a fresh seed with the records' recipe, with half of its images, with a fifth and five times
its learning rates (the codec keeps its own), by the labels without the base network's outputs, and with four times its
images, which is the yardstick: what a longer training makes of an answer. Printed of each recipe: its images, points
lost on all validation and all test images in the mean, how much longer training adds and how much that differs between
strategies, and the rank correlation with the yardstick. --recipes names others than all of them, by commas; "recipe"
and "images x 4" always are among them. Trainings are kept in --out: stop it, run it again, and it goes on. --known: a
folder of `verify_answers.py`, whose trainings by the recipe itself are not done again.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from verify_answers import FRESH, SPLITS, drawn_answers

from coinfer_ray.cli.scripts import positive_int, run_script
from coinfer_ray.errors import InputError, check_name
from coinfer_ray.optimizer.problem import assemble
from coinfer_ray.records.request import Request
from coinfer_ray.records.store import RecordsInfo, read_records, shipped_records
from coinfer_ray.runtime.executors import EXECUTORS, make_executor
from coinfer_ray.runtime.files import run_folder
from coinfer_ray.training.data import load_data
from coinfer_ray.training.verifier import Verifier, obtain_base

RECIPE, YARDSTICK = "recipe", "images x 4"
# Multiples of the recipe's images for fine-tuning and end-to-end training, of their learning rate, and of the weight
# of the base network's outputs in the loss.
SETTINGS = {
    RECIPE: (1.0, 1.0, 1.0),
    YARDSTICK: (4.0, 1.0, 1.0),
    "images x 0.5": (0.5, 1.0, 1.0),
    "labels alone": (1.0, 1.0, 0.0),
    "rate x 0.2": (1.0, 0.2, 1.0),
    "rate x 5": (1.0, 5.0, 1.0),
}


def varied(info: RecordsInfo, images: float, rate: float, taught: float) -> RecordsInfo:
    """Records whose candidates are trained otherwise."""

    def of(phase: Mapping[str, Any]) -> dict[str, Any]:
        return {**phase, "images": int(phase["images"] * images), "learning_rate": phase["learning_rate"] * rate}

    training = dict(info.settings["candidate_training"])
    training |= {name: of(training[name]) for name in ("fine_tune", "end_to_end")}
    training["distillation"] *= taught
    return replace(info, settings={**info.settings, "candidate_training": training})


def images_of(info: RecordsInfo, name: str) -> int:
    """Images that a strategy is trained on, which its core-seconds are in proportion to."""
    training = varied(info, *SETTINGS[name]).settings["candidate_training"]
    return sum(int(training[phase]["images"]) for phase in ("fine_tune", "end_to_end"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--strategies", type=positive_int, default=6)
    parser.add_argument("--scenarios", type=positive_int, default=40)
    parser.add_argument("--seed", type=int, default=78, help="of the scenarios")
    parser.add_argument("--confidence", type=float, default=0.9)
    parser.add_argument("--recipes", default=",".join(SETTINGS))
    parser.add_argument("--known", type=Path)
    parser.add_argument("--executor", default="ray", choices=EXECUTORS)
    parser.add_argument("--workers", type=positive_int)
    given = parser.parse_args()
    for name in given.recipes.split(","):
        check_name("recipe", name, tuple(SETTINGS))
    asked = {RECIPE, YARDSTICK, *given.recipes.split(",")}
    settings = {name: varies for name, varies in SETTINGS.items() if name in asked}

    problem = assemble(given.model)
    info = read_records(shipped_records(given.model)).info
    data = load_data(given.data)
    base = obtain_base(None, None, info, data)
    found, _, distinct = drawn_answers(problem, given.scenarios, given.seed, given.confidence or None)
    said = {tuple(row): accuracy for row, accuracy in zip(found.levels.tolist(), found.accuracy, strict=True)}
    distinct.sort(key=lambda levels: said[levels])
    places = np.unique(np.linspace(0, len(distinct) - 1, given.strategies).round().astype(int))
    requests = [Request(problem.space.strategy(np.array(distinct[place])), None, FRESH) for place in places]
    lost = {name: np.full((len(requests), len(SPLITS)), np.nan) for name in settings}
    with make_executor(given.executor, workers=given.workers) as executor:
        for name, varies in settings.items():
            own = varied(info, *varies)
            with run_folder(given.out / name.replace(" ", "-"), "recipes", {"records": own.settings_hash}) as folder:
                if name == RECIPE and given.known:
                    shards = sorted(given.known.glob(f"candidate-*-{FRESH}.parquet"))
                    if not shards:
                        raise InputError(f"known: {given.known} holds no trainings of verify_answers.py; give its out")
                    for shard in shards:
                        shutil.copy(shard, folder)
                rows = dict(Verifier(own, data, base, executor, folder=folder).measure(requests))
            for place, row in rows.items():
                if row["status"] == "ok":
                    lost[name][place] = [row[f"base_{split}_accuracy"] - row[f"{split}_accuracy"] for split in SPLITS]
            print(f"{name}: {np.round(100 * lost[name][:, 0], 2).tolist()} points lost on validation", flush=True)

    points = {name: 100 * each for name, each in lost.items()}
    print(f"{given.model}: {len(requests)} answers, points lost on all validation and all test images")
    print("| recipe | images | lost: validation, test | longer adds: mean, spread | rank correlation |")
    print("| --- | --- | --- | --- | --- |")
    for name, each in points.items():
        adds = (each - points[YARDSTICK]).mean(axis=1)
        rank = spearmanr(each.mean(axis=1), points[YARDSTICK].mean(axis=1)).statistic if len(each) > 1 else np.nan
        means = ", ".join(f"{mean:.2f}" for mean in each.mean(axis=0))
        print(f"| {name} | {images_of(info, name):,} | {means} | {adds.mean():+.2f}, {adds.std():.2f} | {rank:.2f} |")


if __name__ == "__main__":
    run_script(main)
