"""How must a candidate be trained? Which setting ranks strategies most like much longer training does.

    python studies/study_settings.py --data DIR --out DIR --model alexnet --base base.safetensors [--strategies 12]
        [--known RECORDS]

The first strategies of the plan are trained with the recipe, with half and four times its images, with a fifth and five
times the network's learning rate (the codec keeps its own), and by the labels without the base network's outputs. The
yardstick is four times the images: Spearman's rank correlation with it, the mean accuracy that longer training adds,
what is left of the differences when that mean is taken off, and the mean error at the strategies that the yardstick
finds within five points of the base network, where accuracy bounds lie. Each setting is a collection of its own in
--out: stop it, run it again, and it goes on. --known: records that were trained with the recipe itself, so that these
need not be trained again.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from coinfer_ray.cli.scripts import positive_int, run_script
from coinfer_ray.records.store import Records, read_records
from coinfer_ray.runtime.executors import make_executor
from coinfer_ray.training.candidate import CandidateSettings
from coinfer_ray.training.collect import collect
from coinfer_ray.training.trainer import Phase
from coinfer_ray.training.worker import default_settings

RECIPE, YARDSTICK = "recipe", "images x 4"
# Multiples of the recipe's images for fine-tuning and end-to-end training, of their learning rate, and of the weight
# of the base network's outputs in the loss.
SETTINGS = {
    "images x 0.5": (0.5, 1.0, 1.0),
    RECIPE: (1.0, 1.0, 1.0),
    "rate x 0.2": (1.0, 0.2, 1.0),
    "rate x 5": (1.0, 5.0, 1.0),
    "labels alone": (1.0, 1.0, 0.0),
    YARDSTICK: (4.0, 1.0, 1.0),
}
NEAR = 0.05


def varied(settings: CandidateSettings, images: float, rate: float, taught: float) -> CandidateSettings:
    def of(phase: Phase) -> Phase:
        return replace(phase, images=int(phase.images * images), learning_rate=phase.learning_rate * rate)

    return replace(
        settings,
        fine_tune=of(settings.fine_tune),
        end_to_end=of(settings.end_to_end),
        distillation=settings.distillation * taught,
    )


def accuracies(records: Records) -> dict[int, float]:
    return dict(zip(records.table["candidate"].to_pylist(), records.accuracy(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="alexnet")
    parser.add_argument("--input-px", type=positive_int, default=64)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--strategies", type=positive_int, default=12)
    parser.add_argument("--known", type=Path)
    parser.add_argument("--validation-images", type=positive_int, default=2000)
    parser.add_argument("--test-images", type=positive_int, default=1000)
    parser.add_argument("--executor", default="ray", choices=("ray", "local"))
    parser.add_argument("--workers", type=positive_int, default=1)
    given = parser.parse_args()

    settings = replace(
        default_settings(given.model), validation_images=given.validation_images, test_images=given.test_images
    )
    found, seconds = {}, {}
    with make_executor(given.executor, workers=given.workers) as executor:
        for name, varies in SETTINGS.items():
            folder = given.out / f"{given.model}-{name.replace(' ', '-')}"
            collect(
                given.model,
                given.data,
                folder,
                given.strategies,
                executor=executor,
                input_px=given.input_px,
                settings=replace(settings, candidate=varied(settings.candidate, *varies)),
                base=given.base,
                known=given.known if name == RECIPE else None,
            )
            records = read_records(folder)
            found[name] = accuracies(records)
            seconds[name] = float(np.mean(records.table["wall_s"].to_numpy()))
    everywhere = sorted(set.intersection(*(set(measured) for measured in found.values())))
    yardstick = np.array([found[YARDSTICK][candidate] for candidate in everywhere])
    near = yardstick >= records.base_accuracy() - NEAR
    fine_tune, end_to_end = settings.candidate.fine_tune, settings.candidate.end_to_end
    print(f"{given.model}, {given.input_px} px, {len(everywhere)} strategies that ended well in every setting;")
    print(f"recipe: {fine_tune.images:,} + {end_to_end.images:,} images, rate {end_to_end.learning_rate:g};")
    print(f"{near.sum()} of them near the base network's {records.base_accuracy():.4f}")
    print("| setting | seconds | rank correlation | longer adds | left after that | near the base adds |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, measured in found.items():
        added = yardstick - np.array([measured[candidate] for candidate in everywhere])
        rank = spearmanr(yardstick - added, yardstick).statistic
        there = f"{added[near].mean():+.3f}" if near.any() else "-"
        print(f"| {name} | {seconds[name]:.0f} | {rank:.3f} | {added.mean():+.3f} | {added.std():.3f} | {there} |")


if __name__ == "__main__":
    run_script(main)
