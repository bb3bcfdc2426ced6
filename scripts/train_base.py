"""Train a base network to be pruned, and say what pruning it costs before and after a short fine-tuning.

    python scripts/train_base.py --model regnet_x_400mf --data DIR --out base.safetensors [--from PLAIN] [--minutes N]

The recipe is the network's own (coinfer_ray/training/recipes.py), that of `coinfer collect`; --images and
--prunable-images shorten its two phases. --from takes a base network that was trained before for the first of them.
Killed or out of minutes, it goes on where it was when the same command is given again; where OUT is there already, it
is only measured.

What is measured: the whole network, and ten sub-networks that keep the first channels of the L1 ranking, three with
0.75 of its FLOPs, three with 0.6, four with 0.5, the same ones every time. "before": pruned, batch norms measured on
training images; "after": fine-tuned as `coinfer collect` fine-tunes a candidate (--fine-tune-images: that many).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from coinfer_ray.cli.scripts import positive_int, run_script
from coinfer_ray.compression.pruning import ChannelRanking, shrink
from coinfer_ray.errors import InputError
from coinfer_ray.models.layout import channels_last
from coinfer_ray.models.trace import trace_graph
from coinfer_ray.training.base import BaseNetwork, build_base, load_base
from coinfer_ray.training.data import DataSplits, load_data
from coinfer_ray.training.memory import keep_freed_memory, pick_precision
from coinfer_ray.training.prunable import measure_batch_norms, obtain_trained_base
from coinfer_ray.training.recipes import recipe_for
from coinfer_ray.training.subnetworks import flops_left, kept_of_flops
from coinfer_ray.training.trainer import Preprocess, ResidentImages, accuracy, train
from coinfer_ray.training.worker import graph_for

SHARES = (0.75,) * 3 + (0.6,) * 3 + (0.5,) * 4
SPREAD = 0.12
NORM_IMAGES = 2_048
BOTH_PHASES = ("batch_size", "learning_rate", "erase")  # options that are said of both


class OutOfTime(Exception):
    """The minutes are over."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="regnet_x_400mf")
    parser.add_argument("--data", type=Path, required=True, help="images as `coinfer collect --data` takes them")
    parser.add_argument("--input-px", type=positive_int, default=64)
    parser.add_argument("--out", type=Path, required=True, help="base.safetensors to write, or to measure")
    parser.add_argument("--from", dest="start", type=Path, help="a plainly trained base network to go on from")
    parser.add_argument("--images", type=positive_int, help="of the first phase")
    parser.add_argument("--prunable-images", type=positive_int, help="of the second phase")
    parser.add_argument("--batch-size", type=positive_int, help="of both phases")
    parser.add_argument("--learning-rate", type=float, help="of both phases")
    parser.add_argument("--erase", type=float, help="of both phases: the side of the square that is blanked out, 0..1")
    parser.add_argument("--minutes", type=float, help="stop then; the same command goes on")
    parser.add_argument("--fine-tune-images", type=int, help="of each sub-network; 0: measure before only")
    parser.add_argument("--threads", type=positive_int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    try:
        base, data = trained(given)
        report(base, data, given.fine_tune_images)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OutOfTime:
        print("out of minutes; give the same command to go on")


def trained(given: argparse.Namespace) -> tuple[BaseNetwork, DataSplits]:
    """The base network that was asked for, and its images."""
    data = load_data(given.data)
    recipe = recipe_for(graph_for(given.model, given.input_px, data))
    phase, prunable = recipe.base, recipe.prunable
    if prunable is None:
        raise InputError(f"model: {given.model} has no recipe for a base network that is trained to be pruned")
    both = {name: value for name in BOTH_PHASES if (value := getattr(given, name)) is not None}
    first = {} if given.images is None else {"images": given.images}
    second = {} if given.prunable_images is None else {"images": given.prunable_images}
    phase, prunable = replace(phase, **both, **first), replace(prunable, **both, **second)
    start = None
    if given.start is not None:
        start = load_base(given.start, model=given.model, input_px=given.input_px, data=data)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    base = obtain_trained_base(
        given.out,
        given.model,
        given.input_px,
        data,
        phase=phase,
        prunable=prunable,
        seed=given.seed,
        start=start,
        on_images=None if given.minutes is None else until(time.monotonic() + 60 * given.minutes),
    )
    return base, data


def until(deadline: float) -> Callable[[int], None]:
    """Raises once the deadline is over."""

    def check(_: int) -> None:
        if time.monotonic() >= deadline:
            raise OutOfTime

    return check


def report(base: BaseNetwork, data: DataSplits, fine_tune_images: int | None) -> None:
    """Print the accuracies of the whole network and of the sub-networks."""
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = pick_precision(device)
    preprocess = Preprocess.of(data, int(base.info["input_px"]))
    images = ResidentImages.of(data.train, device)
    network = build_base(base, len(data.classes))
    graph = trace_graph(network, (3, preprocess.input_px, preprocess.input_px), str(base.info["model"]))
    fine_tune = recipe_for(graph).candidate.fine_tune
    if fine_tune_images is not None:
        fine_tune = replace(fine_tune, images=fine_tune_images)
    ranking = ChannelRanking(network, graph)
    print(f"{base.info['model']}, {base.info['input_px']} px, fingerprint {base.fingerprint}")
    print(f"whole network: validation {base.validation_accuracy:.4f}, test {base.test_accuracy:.4f}")
    print(f"sub-networks, validation accuracy before and after fine-tuning on {fine_tune.images} images:")
    rng = np.random.default_rng(0)
    for number, share in enumerate(SHARES):
        kept = kept_of_flops(graph, share, SPREAD, rng)
        pruned = channels_last(shrink(network, graph, ranking.keep(kept)).to(device))
        measure_batch_norms(pruned, images, preprocess, NORM_IMAGES, device=device, precision=precision)
        found = [accuracy(pruned, data.validation, preprocess, device=device, precision=precision)]
        if fine_tune.images:
            train(pruned, images, preprocess, fine_tune, seed=number, device=device, precision=precision)
            found.append(accuracy(pruned, data.validation, preprocess, device=device, precision=precision))
        lost = 100 * (base.validation_accuracy - found[-1])
        shown = ", ".join(f"{value:.4f}" for value in found)
        print(f"  {flops_left(graph, kept):.3f} of the FLOPs: {shown} ({lost:+.1f} points lost)", flush=True)


if __name__ == "__main__":
    run_script(main)
