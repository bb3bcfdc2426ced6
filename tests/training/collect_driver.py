"""A collection of tiny candidates, run as a process of its own so that a test can kill it.

python collect_driver.py DATA OUT CANDIDATES ray|local [BASE]
"""

from __future__ import annotations

import sys
from dataclasses import replace

from coinfer_ray.runtime.executors import make_executor
from coinfer_ray.training.candidate import CandidateSettings
from coinfer_ray.training.collect import collect
from coinfer_ray.training.trainer import Phase
from coinfer_ray.training.worker import CollectSettings


def quick(settings: CandidateSettings, images: int) -> CandidateSettings:
    """The same settings with every phase cut to ``images`` images: for trials and tests."""
    return replace(
        settings,
        fine_tune=replace(settings.fine_tune, images=images),
        end_to_end=replace(settings.end_to_end, images=images),
        codec=replace(settings.codec, images=images, passes=1),
    )


SETTINGS = CollectSettings(
    base=Phase(images=128, batch_size=64, learning_rate=3e-4, optimizer="adamw"),
    candidate=quick(CandidateSettings(), 64),
    validation_images=50,
    test_images=50,
    any_base=True,  # 128 images teach it nothing
)

if __name__ == "__main__":
    data, out, candidates, kind, *base = sys.argv[1:]
    with make_executor(kind, workers=2 if kind == "ray" else None) as executor:
        summary = collect(
            "alexnet", data, out, int(candidates), executor=executor, settings=SETTINGS, base=base[0] if base else None
        )
    print(summary)
