"""Training candidates: where the time goes, beside a plain loop, and what Ray costs. One run, this machine.

    python benchmarks/bench_training.py --data DIR [--model alexnet] [--base base.safetensors] [--candidates 4] [--json]

Three figures:

1. the share of a candidate's wall time that is spent outside its training and evaluation (pruning, tracing, splitting,
   drawing and scaling images, clipping gradients, counting hits). Training: forward pass, backward pass, optimizer
   step, and the closed-form start of its codec, whose share is also told apart;
2. images a second of our loop beside a plain one: a DataLoader that decodes the same JPEG files, torchvision's
   transforms, float32, one thread each;
3. candidates a second of two one-thread Ray actors beside two bare processes, as the ratio of their seconds a
   candidate (start-up apart on both sides).

Without --base the network starts from random weights: the time is the same. On a machine with a CUDA GPU the
candidates of 1 and the loops of 2 run on it.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn

from coinfer_ray.cli.scripts import positive_int, run_script
from coinfer_ray.models.layout import channels_last
from coinfer_ray.models.library import load_graph
from coinfer_ray.models.zoo import build
from coinfer_ray.problem.sampling import plan_levels
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.problem.strategy import Strategy
from coinfer_ray.runtime.executors import LocalExecutor, make_executor
from coinfer_ray.training import candidate
from coinfer_ray.training.base import BaseNetwork, build_base, load_base
from coinfer_ray.training.candidate import CandidateData, CandidateTrainer
from coinfer_ray.training.collect import planned_tasks
from coinfer_ray.training.data import DataSplits, load_data
from coinfer_ray.training.memory import keep_freed_memory, pick_precision
from coinfer_ray.training.trainer import Phase, Preprocess, train
from coinfer_ray.training.worker import default_settings, shared_values, start_worker

START = "start_from_components"


class Inside:
    """Seconds in forward passes, backward passes, optimizer steps and codecs' starts, outermost calls only.

    ``start_seconds``: those in the starts alone.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = self.start_seconds = 0.0
        self._depth = 0

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            self._depth += 1
            began = self._now()
            try:
                return call(*arguments, **named)
            finally:
                self._depth -= 1
                if not self._depth:
                    took = self._now() - began
                    self.seconds += took
                    self.start_seconds += took if name == START else 0.0

        return timed

    def _now(self) -> float:
        if self.device.type == "cuda" and self._depth <= 1:
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def watch(self) -> Iterator[None]:
        places: list[tuple[Any, str]] = [
            (nn.Module, "__call__"),
            (torch.Tensor, "backward"),
            (torch.optim.AdamW, "step"),
            (torch.optim.SGD, "step"),
            (nn.functional, "cross_entropy"),
            (nn.functional, "mse_loss"),
            (candidate, START),
        ]
        before = [getattr(owner, name) for owner, name in places]
        for (owner, name), call in zip(places, before, strict=True):
            setattr(owner, name, self._timed(name, call))
        try:
            yield
        finally:
            for (owner, name), call in zip(places, before, strict=True):
                setattr(owner, name, call)


def shares_of_time(trainer: CandidateTrainer, strategies: list[Strategy]) -> tuple[list[float], list[float]]:
    """Shares of each candidate's wall time: outside training and evaluation, and in its codec's start."""
    outside, starts = [], []
    for number, strategy in enumerate(strategies):
        inside = Inside(trainer.device)
        began = time.perf_counter()
        with inside.watch():
            trainer.train(strategy, snr_db=None, seed=number)
        took = time.perf_counter() - began
        outside.append(1 - inside.seconds / took)
        starts.append(inside.start_seconds / took)
    return outside, starts


class JpegFiles(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """CIFAR-10's JPEG files, decoded one by one as a plain loop does it."""

    def __init__(self, folder: Path, px: int, rows: int) -> None:
        import pyarrow.parquet as pq
        from torchvision import transforms

        table = pq.read_table(folder / "train.parquet").slice(0, rows)
        image, label = table.column_names[:2]
        self.files = [entry["bytes"] for entry in table[image].to_pylist()]
        self.labels = table[label].to_pylist()
        self.transform = transforms.Compose(
            [
                transforms.RandomHorizontalFlip(),
                transforms.RandomCrop(32, padding=4, padding_mode="reflect"),
                transforms.Resize(px),
                transforms.ToTensor(),
                transforms.Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        return self.transform(Image.open(io.BytesIO(self.files[row])).convert("RGB")), self.labels[row]


def plain_loop(model: str, folder: Path, px: int, phase: Phase, device: torch.device) -> float:
    """Images a second of the loop that most tutorials show."""
    loader = torch.utils.data.DataLoader(JpegFiles(folder, px, phase.images), phase.batch_size, shuffle=True)
    network = build(model, 10).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=phase.learning_rate)
    network.train()
    began = time.perf_counter()
    for x, y in loader:
        loss = nn.functional.cross_entropy(network(x.to(device)), y.to(device))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    float(loss.detach())
    return len(loader.dataset) / (time.perf_counter() - began)  # type: ignore[arg-type]


def our_loop(model: str, data: DataSplits, px: int, phase: Phase, device: torch.device) -> float:
    """Images a second of :func:`coinfer_ray.training.trainer.train`."""
    network = channels_last(build(model, 10).to(device))
    began = time.perf_counter()
    train(network, data.train, Preprocess.of(data, px), phase, seed=0, device=device, precision=pick_precision(device))
    return phase.images / (time.perf_counter() - began)


def bare_process(shared: dict[str, Any], tasks: list[Any], queue: Any) -> None:
    """One process that trains its tasks one after the other, without Ray."""
    with LocalExecutor(threads=1) as executor:
        queue.put([envelope.seconds for envelope in executor.run(start_worker, shared, tasks)])


def bare_seconds(shared: dict[str, Any], tasks: list[Any]) -> list[float]:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    halves = [
        context.Process(target=bare_process, args=(shared, tasks[half::2], queue), daemon=True) for half in range(2)
    ]
    for half in halves:
        half.start()
    seconds = [second for _ in halves for second in queue.get()]
    for half in halves:
        half.join()
    return seconds


def ray_seconds(shared: dict[str, Any], tasks: list[Any]) -> list[float]:
    with make_executor("ray", workers=2) as executor:
        return [envelope.seconds for envelope in executor.run(start_worker, shared, tasks)]


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All figures by name."""
    torch.set_num_threads(1)
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = load_data(given.data)
    graph = load_graph(given.model, given.input_px)
    space = SearchSpace(graph)
    # As many images as the records that ship are measured on.
    settings = replace(default_settings(given.model), test_images=2000)
    if given.base is None:
        weights = {name: tensor.numpy() for name, tensor in build(given.model, 10).state_dict().items()}
        base = BaseNetwork(weights, 0.0, 0.0, {"model": given.model, "phase": {}, "seed": 0})
    else:
        base = load_base(given.base, model=given.model, input_px=given.input_px, data=data)
    preprocess = Preprocess.of(data, graph.input_px)
    trainer = CandidateTrainer(
        build_base(base, graph.classes),
        space,
        CandidateData(data.train, data.validation, data.test.take(slice(0, 2000)), preprocess),
        settings.candidate,
        device=device,
        precision=pick_precision(device),
    )
    strategies = [space.strategy(levels) for levels in plan_levels(space, given.candidates, seed=0)]
    outside, starts = shares_of_time(trainer, strategies)
    phase = replace(settings.base, images=given.loop_images)
    ours, plain = 0.0, 0.0
    for _ in range(3):  # in turns, so that both see the same machine
        ours = max(ours, our_loop(given.model, data, given.input_px, phase, device))
        plain = max(plain, plain_loop(given.model, given.data, given.input_px, phase, device))
    shared = shared_values(graph, data, base, settings)
    tasks = list(planned_tasks(space, [(number, 0) for number in range(given.candidates)], given.candidates, None, 0))
    return {
        "model": given.model,
        "input_px": given.input_px,
        "device": str(device),
        "share_outside": outside,
        "share_start": starts,
        "our_images_per_s": ours,
        "plain_images_per_s": plain,
        "bare_s": statistics.fmean(bare_seconds(shared, tasks)),
        "ray_s": statistics.fmean(ray_seconds(shared, tasks)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with CIFAR-10's train and test.parquet")
    parser.add_argument("--model", default="alexnet")
    parser.add_argument("--input-px", type=positive_int, default=64)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--loop-images", type=positive_int, default=2048)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()

    found = measure(given)
    if given.json:
        json.dump(found, sys.stdout)
        return
    outside = np.array(found["share_outside"])
    print(f"{given.model}, {given.input_px} px, {found['device']}, one thread; {given.candidates} candidates")
    print(f"outside training and evaluation: {outside.mean():.1%} of a candidate (worst {outside.max():.1%})")
    print(f"the codec's start in closed form, which is training: {np.mean(found['share_start']):.1%}")
    ours, plain = found["our_images_per_s"], found["plain_images_per_s"]
    print(f"images/s: ours {ours:.0f}, plain DataLoader loop {plain:.0f}: {ours / plain:.2f} times")
    print(
        f"two at a time, seconds a candidate: bare processes {found['bare_s']:.1f}, Ray actors {found['ray_s']:.1f}: "
        f"Ray reaches {found['bare_s'] / found['ray_s']:.3f} of the bare throughput"
    )


if __name__ == "__main__":
    run_script(main)
