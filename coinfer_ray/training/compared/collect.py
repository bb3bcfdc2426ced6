"""Train what compared methods choose from, in parallel, resumable: one file for each training, as it ends."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from coinfer_ray.errors import check_name, counted
from coinfer_ray.records.choices import ChoiceTable, shard_name, write_choices
from coinfer_ray.records.store import RecordsInfo
from coinfer_ray.runtime.executors.base import Executor, WorkerContext
from coinfer_ray.runtime.files import run_folder
from coinfer_ray.runtime.progress import Progress
from coinfer_ray.training.base import BaseNetwork
from coinfer_ray.training.compared.bottlenetpp import BottlenetppTraining
from coinfer_ray.training.compared.common import Training
from coinfer_ray.training.compared.edgent import Edgent
from coinfer_ray.training.compared.fpgm import FpgmTraining
from coinfer_ray.training.compared.jalad import Jalad
from coinfer_ray.training.compared.two_step import TwoStep
from coinfer_ray.training.data import DataSplits
from coinfer_ray.training.memory import release_freed_memory
from coinfer_ray.training.trainer import Diverged
from coinfer_ray.training.verifier import collect_settings, images_of
from coinfer_ray.training.worker import candidate_seed, graph_for, make_trainer, shared_values

_KINDS: tuple[Callable[[], Training], ...] = (TwoStep, FpgmTraining, BottlenetppTraining, Jalad, Edgent)
TRAININGS = {kind().name: kind for kind in _KINDS}


@dataclass(frozen=True)
class Asked:
    """One training: of which method, its number in the method's plan, what is asked of it, its repeat and seed."""

    method: str
    training: int
    asked: Mapping[str, Any]
    repeat: int
    seed: int

    @property
    def document(self) -> str:
        """``asked`` as a choice's row holds it."""
        return json.dumps(dict(self.asked), sort_keys=True)


def collect_choices(
    methods: Sequence[str],
    info: RecordsInfo,
    data: DataSplits,
    base: BaseNetwork,
    executor: Executor,
    folder: Path,
    *,
    known: ChoiceTable | None = None,
    most: int | None = None,
    repeats: int = 1,
    seconds: float | None = None,
    quiet: bool = False,
) -> int:
    """Do the trainings of ``methods`` that ``folder`` and ``known`` lack, the first ``most`` of each method's plan in
    turns, each ``repeats`` times from other seeds; return how many were done.

    ``info``, ``data`` and ``base`` are those of the records that the choices belong to. None starts after ``seconds``.
    A training that diverges leaves an empty file; one whose worker is lost leaves none, and is done the next time.

    Raises:
        InputError: an unknown method, ``known`` choices of other settings, or records whose settings this version does
            not know.
    """
    for method in methods:
        check_name("method", method, tuple(TRAININGS))
    if known is not None:
        known.info.check_same(info, f"choices: {known.source}", "the records", "keep them apart")
    data = images_of(info, data)
    graph = graph_for(base.source or info.model, info.input_px, data)
    plans = {method: TRAININGS[method]().plan(graph)[:most] for method in methods}
    # In turns, so that whatever time there is serves all methods alike. One seed for all: what several trainings of a
    # method have in common is then the same, and is done once.
    wanted = [
        Asked(method, number, plans[method][number], repeat, candidate_seed(0, repeat))
        for repeat in range(repeats)
        for number in range(max(map(len, plans.values()), default=0))
        for method in methods
        if number < len(plans[method])
    ]
    with run_folder(folder, "compared methods", {"settings": info.settings_hash}) as out:
        done_before = set() if known is None else known.trained
        missing = [
            each
            for each in wanted
            if not (out / _shard(each)).exists() and (each.method, each.document, each.seed) not in done_before
        ]
        shared = shared_values(graph, data, base, collect_settings(info))
        done, lost = 0, []
        with Progress("trainings", len(missing), quiet=quiet) as progress:
            for envelope in executor.run(start_worker, shared, enumerate(_until(seconds, missing))):
                each = missing[cast(int, envelope.task_id)]
                progress.advance()
                if envelope.value is None:
                    lost.append(f"{each.method} {json.dumps(dict(each.asked))}: {envelope.reason}")
                    continue
                rows = [row | _columns(each, envelope.seconds) for row in envelope.value]
                write_choices(out / _shard(each), rows, info)
                done += 1
    if lost:
        print(f"{len(lost)} of {counted(len(missing), 'training')} failed, one so: {lost[0]}", file=sys.stderr)
    return done


def start_worker(shared: Mapping[str, Any], context: WorkerContext) -> Callable[[Asked], list[dict[str, Any]]]:
    """One worker's trainer; the returned function does one training and gives its rows, none if it diverged."""
    trainer = make_trainer(shared, context)
    trainings = {name: training() for name, training in TRAININGS.items()}

    def work(asked: Asked) -> list[dict[str, Any]]:
        torch.manual_seed(asked.seed)
        try:
            return trainings[asked.method].train(trainer, asked.asked, asked.seed)
        except Diverged:
            return []
        finally:
            release_freed_memory()

    return work


def _columns(asked: Asked, seconds: float) -> dict[str, Any]:
    named = {"method": asked.method, "training": asked.training, "asked": asked.document, "seed": asked.seed}
    return named | {"wall_s": seconds}


def _shard(asked: Asked) -> str:
    return shard_name(asked.method, asked.training, asked.repeat)


def _until(seconds: float | None, tasks: Sequence[Asked]) -> Iterator[Asked]:
    began = time.monotonic()
    for task in tasks:
        if seconds is not None and time.monotonic() - began >= seconds:
            return
        yield task
