"""How long must a candidate be trained? Which setting ranks strategies most like much longer training does.

    python scripts/study_settings.py --data DIR --out DIR --model alexnet --base base.safetensors [--strategies 12]
        [--known RECORDS]

The first strategies of the plan are trained with multiples of the recipe's images, of which the longest is the
yardstick: Spearman's rank correlation with it, the mean accuracy that longer training adds, and what is left of the
differences when that mean is taken off. Each setting is a collection of its own in --out: stop it, run it again, and
it goes on. --known: records that were trained with the recipe itself, so that these need not be trained again.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from coinfer_ray.executors import make_executor
from coinfer_ray.store import Records, read_records
from coinfer_ray.training.collect import CollectSettings, collect, default_settings

# Multiples of the recipe's images for fine-tuning and end-to-end training; the last one is the yardstick.
MULTIPLES = (0.5, 1, 4)


def stretched(settings: CollectSettings, multiple: float) -> CollectSettings:
    candidate = settings.candidate
    return replace(
        settings,
        candidate=replace(
            candidate,
            fine_tune=replace(candidate.fine_tune, images=int(candidate.fine_tune.images * multiple)),
            end_to_end=replace(candidate.end_to_end, images=int(candidate.end_to_end.images * multiple)),
        ),
    )


def accuracies(records: Records) -> dict[int, float]:
    return dict(zip(records.table["candidate"].to_pylist(), records.accuracy(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="alexnet")
    parser.add_argument("--input-px", type=int, default=64)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--strategies", type=int, default=12)
    parser.add_argument("--known", type=Path)
    parser.add_argument("--validation-images", type=int, default=2000)
    parser.add_argument("--test-images", type=int, default=1000)
    parser.add_argument("--executor", default="ray", choices=("ray", "local"))
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()

    settings = replace(
        default_settings(given.model), validation_images=given.validation_images, test_images=given.test_images
    )
    found, seconds = {}, {}
    with make_executor(given.executor, workers=given.workers) as executor:
        for multiple in MULTIPLES:
            folder = given.out / f"{given.model}-{multiple:g}"
            collect(
                given.model,
                given.data,
                folder,
                given.strategies,
                executor=executor,
                input_px=given.input_px,
                settings=stretched(settings, multiple),
                base=given.base,
                known=given.known if multiple == 1 else None,
            )
            records = read_records(folder)
            found[multiple] = accuracies(records)
            seconds[multiple] = float(np.mean(records.table["wall_s"].to_numpy()))
    everywhere = sorted(set.intersection(*(set(measured) for measured in found.values())))
    yardstick = np.array([found[MULTIPLES[-1]][candidate] for candidate in everywhere])
    candidate = settings.candidate
    print(f"{given.model}, {given.input_px} px, {len(everywhere)} strategies that ended well in every setting")
    print("| images (fine-tune + end to end) | seconds | rank correlation | longer adds | left after that |")
    print("| --- | --- | --- | --- | --- |")
    for multiple in MULTIPLES:
        measured = np.array([found[multiple][number] for number in everywhere])
        images = " + ".join(
            f"{int(phase.images * multiple):,}" for phase in (candidate.fine_tune, candidate.end_to_end)
        )
        added = yardstick - measured
        rank = spearmanr(measured, yardstick).statistic
        print(f"| {images} | {seconds[multiple]:.0f} | {rank:.3f} | {added.mean():+.3f} | {added.std():.3f} |")


if __name__ == "__main__":
    main()
