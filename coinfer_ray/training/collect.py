"""Collect accuracy records: train the candidates of the sampling plan on the workers of an executor.

The driver writes each finished candidate as a shard of one row, at once; so a killed worker, a killed driver and
Ctrl-C lose at most the candidates in flight, and running again trains what is missing. What a candidate's
accuracy depends on (its strategy, SNR and seed) follows from the plan's seed and the candidate's number alone.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coinfer_ray.errors import InputError
from coinfer_ray.executors.base import Envelope, Executor, WorkerContext
from coinfer_ray.files import claim_folder, single_writer
from coinfer_ray.models import zoo
from coinfer_ray.models.layers import LayerGraph, load_graph
from coinfer_ray.progress import Progress
from coinfer_ray.space import SearchSpace, Strategy
from coinfer_ray.store import RecordsInfo, finished_candidates, shard_path, write_records
from coinfer_ray.training.base import BASE_PHASE, BaseNetwork, build_base, load_base, save_base, train_base
from coinfer_ray.training.candidate import CandidateData, CandidateSettings, CandidateTrainer
from coinfer_ray.training.data import DataSplits, ImageSet, load_data
from coinfer_ray.training.loop import (
    Diverged,
    Phase,
    Preprocess,
    keep_freed_memory,
    pick_precision,
    release_freed_memory,
)
from coinfer_ray.training.plan import plan_levels, plan_snr_db

SPLITS = ("train", "validation", "test")
BASE_FILE = "base.safetensors"
BASE_CHECKPOINT = ".base.checkpoint"


@dataclass(frozen=True)
class CollectSettings:
    """How a collection trains. ``validation_images`` and ``test_images`` cap what a candidate is measured on
    (None: all): an accuracy of 0.8 on 2,000 images has a standard error of 0.9 points, on 5,000 of 0.57."""

    base: Phase = BASE_PHASE
    candidate: CandidateSettings = field(default_factory=CandidateSettings)
    validation_images: int | None = None
    test_images: int | None = None


@dataclass(frozen=True)
class CollectSummary:
    """What a collection holds at its end."""

    folder: Path
    candidates: int
    trained_now: int
    failed_now: int
    base_validation_accuracy: float
    base_test_accuracy: float


def collect(
    model: str,
    data: str | Path,
    out: str | Path,
    candidates: int,
    *,
    executor: Executor,
    input_px: int = 64,
    snr_db: tuple[float, float] | None = None,
    seed: int = 0,
    settings: CollectSettings | None = None,
    base: str | Path | None = None,
    quiet: bool = False,
) -> CollectSummary:
    """Train the first ``candidates`` of the plan that are not yet in ``out``.

    ``snr_db`` draws each candidate's channel from that range of dB; None is a noise-free channel. ``base`` names
    trained base weights (``base.safetensors`` of another collection); without it the base network is trained
    first, and kept in ``out``.

    Raises:
        InputError: an unknown model, a folder without images or of another run, a base network of other data.
    """
    settings = settings or CollectSettings()
    if candidates < 1:
        raise InputError(f"candidates: {candidates} asked for; at least 1 is needed")
    if snr_db is not None and not snr_db[0] <= snr_db[1]:
        raise InputError(f"snr-db: {snr_db[0]}:{snr_db[1]} is an empty range; give LO:HI with LO <= HI")
    zoo.check_model(model)
    graph = load_graph(model, input_px)
    space = SearchSpace(graph)
    splits = load_data(data)
    if len(splits.classes) != graph.classes:
        graph = _retrace(model, input_px, len(splits.classes))
        space = SearchSpace(graph)
    with single_writer(out) as folder:
        claim_folder(folder, "collect", _run_settings(model, input_px, splits, snr_db, seed, settings))
        network = _obtain_base(folder, base, model, input_px, splits, settings, seed, quiet)
        info = _records_info(graph, splits, network, snr_db, settings)
        finished = finished_candidates(folder)
        pending = [candidate for candidate in range(candidates) if candidate not in finished]
        shared = _shared(graph, splits, network, settings)
        tasks = _tasks(space, pending, candidates, snr_db, seed)
        failed = 0
        with Progress("candidates", candidates, done=candidates - len(pending), quiet=quiet) as progress:
            for envelope in executor.run(start_worker, shared, tasks) if pending else ():
                row = _row(envelope, network)
                failed += row["status"] != "ok"
                write_records(shard_path(folder, row["candidate"]), [row], info)
                progress.advance()
    return CollectSummary(folder, candidates, len(pending), failed, network.validation_accuracy, network.test_accuracy)


@dataclass(frozen=True)
class _Task:
    candidate: int
    strategy: Strategy
    snr_db: float | None
    seed: int


def start_worker(shared: Mapping[str, Any], context: WorkerContext) -> Callable[[_Task], dict[str, Any]]:
    """Build one worker's trainer from the shared arrays; the returned function trains one candidate."""
    keep_freed_memory()
    torch.set_num_threads(context.threads)
    device = torch.device("cpu") if context.gpu is None else torch.device("cuda", context.gpu)
    graph: LayerGraph = shared["graph"]
    settings: CollectSettings = shared["settings"]
    sets = {
        name: ImageSet(shared[f"{name}_images"], shared[f"{name}_labels"]) for name in ("train", "validation", "test")
    }
    network = build_base(BaseNetwork(shared["weights"], 0.0, 0.0, {"model": graph.model}), graph.classes)
    trainer = CandidateTrainer(
        network,
        SearchSpace(graph),
        CandidateData(
            train=sets["train"],
            validation=sets["validation"].take(slice(0, settings.validation_images)),
            test=sets["test"].take(slice(0, settings.test_images)),
            preprocess=shared["preprocess"],
        ),
        settings.candidate,
        device=device,
        precision=pick_precision(device),
    )

    def work(task: _Task) -> dict[str, Any]:
        row: dict[str, Any] = {
            "candidate": task.candidate,
            "sparsity": list(task.strategy.sparsity.values()),
            "partition_point": task.strategy.partition_point,
            "codec": list(task.strategy.codec.values()),
            "snr_db": task.snr_db,
            "seed": task.seed,
        }
        try:
            trained = trainer.train(task.strategy, snr_db=task.snr_db, seed=task.seed)
            return row | {"status": "ok"} | dict(trained.measured)
        except Diverged as error:
            return row | {"status": "diverged", "error": str(error)}
        except (torch.OutOfMemoryError, MemoryError) as error:
            return row | {"status": "out_of_memory", "error": str(error).splitlines()[0]}
        finally:
            release_freed_memory()

    return work


def gpu_share() -> float:
    """GPUs that a worker takes where nothing is said: a quarter, for one small network leaves most of a GPU idle;
    0 where this machine has none."""
    return 0.25 if torch.cuda.is_available() else 0.0


def candidate_seed(seed: int, candidate: int) -> int:
    """The seed of a candidate's training: the plan's seed and the candidate's number, mixed."""
    return int(np.random.SeedSequence([seed, candidate]).generate_state(1)[0])


def _tasks(
    space: SearchSpace, pending: list[int], candidates: int, snr_db: tuple[float, float] | None, seed: int
) -> Iterator[tuple[int, _Task]]:
    levels = plan_levels(space, candidates, seed)
    snr = None if snr_db is None else plan_snr_db(candidates, *snr_db, seed)
    for candidate in pending:
        noise = None if snr is None else float(snr[candidate])
        yield candidate, _Task(candidate, space.strategy(levels[candidate]), noise, candidate_seed(seed, candidate))


def _row(envelope: Envelope[dict[str, Any]], base: BaseNetwork) -> dict[str, Any]:
    row = envelope.value
    if row is None:
        row = {"candidate": envelope.task_id, "status": "error", "error": envelope.reason}
    return row | {"base_validation_accuracy": base.validation_accuracy, "base_test_accuracy": base.test_accuracy}


def _shared(graph: LayerGraph, data: DataSplits, base: BaseNetwork, settings: CollectSettings) -> dict[str, Any]:
    arrays = {}
    for name in SPLITS:
        part: ImageSet = getattr(data, name)
        arrays[f"{name}_images"] = part.images
        arrays[f"{name}_labels"] = part.labels
    return arrays | {
        "graph": graph,
        "settings": settings,
        "weights": base.weights,
        "preprocess": Preprocess.of(data, graph.input_px),
    }


def _obtain_base(
    folder: Path,
    given: str | Path | None,
    model: str,
    input_px: int,
    data: DataSplits,
    settings: CollectSettings,
    seed: int,
    quiet: bool,
) -> BaseNetwork:
    kept = folder / BASE_FILE
    if kept.exists():
        return load_base(kept, model=model, input_px=input_px, data=data)
    if given is not None:
        base = load_base(Path(given), model=model, input_px=input_px, data=data)
    else:
        keep_freed_memory()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with Progress("base network, images", settings.base.images, quiet=quiet) as progress:
            base = train_base(
                model,
                input_px,
                data,
                phase=settings.base,
                seed=seed,
                device=device,
                precision=pick_precision(device),
                checkpoint=folder / BASE_CHECKPOINT,
                on_images=progress.advance,
            )
    save_base(base, kept)
    return base


def _run_settings(
    model: str,
    input_px: int,
    data: DataSplits,
    snr_db: tuple[float, float] | None,
    seed: int,
    settings: CollectSettings,
) -> dict[str, Any]:
    return {
        "model": model,
        "input_px": input_px,
        "data_fingerprint": data.fingerprint,
        "snr_db": list(snr_db) if snr_db else None,
        "seed": seed,
        "settings": asdict(settings),
    }


def _records_info(
    graph: LayerGraph,
    data: DataSplits,
    base: BaseNetwork,
    snr_db: tuple[float, float] | None,
    settings: CollectSettings,
) -> RecordsInfo:
    candidate = asdict(settings.candidate)
    return RecordsInfo(
        model=graph.model,
        input_px=graph.input_px,
        prunable_sets=tuple(prunable.name for prunable in graph.prunable_sets),
        settings={
            "data": data.name,
            "data_fingerprint": data.fingerprint,
            "train_images": len(data.train),
            "validation_images": settings.validation_images or len(data.validation),
            "test_images": settings.test_images or len(data.test),
            "base_fingerprint": base.fingerprint,
            "base_training": base.info["phase"],
            "base_seed": base.info["seed"],
            "candidate_training": candidate,
            "channel": "awgn" if snr_db else "noise-free",
        },
        versions={
            name: importlib.metadata.version(name) for name in ("torch", "torchvision", "nni", "numpy", "scikit-learn")
        },
    )


def _retrace(model: str, input_px: int, classes: int) -> LayerGraph:
    from coinfer_ray.models.trace import trace_graph

    return trace_graph(zoo.build(model, classes), (3, input_px, input_px), model)
