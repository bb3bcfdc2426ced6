"""Collect accuracy records: train the candidates of the sampling plan on the workers of an executor.

The driver writes each finished candidate as a shard of one row, at once; so a killed worker, a killed driver and
Ctrl-C lose at most the candidates in flight, and running again trains what is missing. What a candidate's
accuracy depends on (its strategy, SNR and seed) follows from the plan's seed and the candidate's number alone.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from coinfer_ray.errors import InputError
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.library import check_known, ships
from coinfer_ray.models.source import ModelLike, ModelSource, resolve_model
from coinfer_ray.problem.sampling import plan_levels, plan_snr_db
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.records.store import (
    UNFINISHED,
    Records,
    RecordsInfo,
    finished_candidates,
    read_records,
    shard_path,
    shipped_sizes,
    usual_input_px,
    write_records,
)
from coinfer_ray.runtime.executors.base import Executor
from coinfer_ray.runtime.files import run_folder
from coinfer_ray.runtime.progress import Progress
from coinfer_ray.training.base import (
    BaseNetwork,
    base_beside,
    fingerprint_of,
    load_base,
    save_base,
)
from coinfer_ray.training.data import DataSplits, load_data
from coinfer_ray.training.images import notice
from coinfer_ray.training.near import near_candidates
from coinfer_ray.training.prunable import obtain_trained_base
from coinfer_ray.training.weights import Weights, given_weights
from coinfer_ray.training.worker import (
    CollectSettings,
    Task,
    candidate_seed,
    default_settings,
    graph_for,
    shared_values,
    start_worker,
)

T = TypeVar("T")


@dataclass(frozen=True)
class CollectSummary:
    """What a collection holds at its end.

    ``failed_now`` of those ``trained_now`` have no accuracy; ``unfinished_now`` of these because no worker brought
    them to an end, which is no result: the next run tries them again.
    """

    folder: Path
    candidates: int
    trained_now: int
    failed_now: int
    base_validation_accuracy: float
    base_test_accuracy: float
    unfinished_now: int = 0


def collect(
    model: ModelLike,
    data: str | Path | DataSplits,
    out: str | Path,
    candidates: int,
    *,
    repeats: int = 1,
    minutes: float | None = None,
    executor: Executor,
    input_px: int | None = None,
    snr_db: tuple[float, float] | None = None,
    seed: int = 0,
    settings: CollectSettings | None = None,
    base_images: int | None = None,
    prunable_images: int | None = None,
    base: str | Path | None = None,
    weights: Weights | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    known: str | Path | None = None,
    near: float | None = None,
    quiet: bool = False,
) -> CollectSummary:
    """Train the first ``candidates`` of the plan that are not yet in ``out``.

    ``model`` is what :func:`coinfer_ray.models.source.resolve_model` takes but for a layer graph, ``data`` what
    :func:`coinfer_ray.training.data.load_data` takes or gave.

    ``repeats`` above 1 train each of them so many times from different seeds: their spread is the noise that no
    predictor can see through. A folder may hold more repeats of its first candidates than of the others.
    ``minutes``: begin no candidate later than that, for machines that are lent in slices; run again to go on.

    ``base_images``, ``prunable_images``: what the base network is trained on in its two phases, with repeats
    (:meth:`CollectSettings.with_base_images`); where neither is given, as ``settings`` say, but no more passes over the
    training images than :func:`coinfer_ray.training.recipes.for_images` allows.

    ``input_px``: side of the network's input in pixels, by default :func:`usual_px`.

    ``weights`` are those of the base network: a state dict, the file of one, or ``own`` for those that the network is
    built with, as an ``nn.Module`` always is. It is then measured and not trained, unless ``base_images`` or
    ``prunable_images`` say on how many images. ``mean`` and ``std`` (3 numbers each, of values in 0..1) normalise the
    images, by default by the training images' own.

    ``snr_db`` draws each candidate's channel from that range of dB; None is a noise-free channel. ``base`` names
    trained base weights (``_base.safetensors`` of another collection); without it the base network is trained
    first, and kept in ``out``. ``known``: records of the same settings (what ``pack`` made of a folder since lost);
    their candidates are put into ``out`` instead of being trained again. ``near``: not the plan's first candidates but
    the next that ``known`` predicts to lose at most so much (:func:`coinfer_ray.training.near.near_candidates`); they
    join all that ``known`` holds.

    Raises:
        InputError: an unknown model, a folder without images or of another run, a base network of other data or
            no better than guessing, known records of other settings, too few candidates as near as asked for.
    """
    if candidates < 1:
        raise InputError(f"candidates: {candidates} asked for; at least 1 is needed")
    if repeats < 1:
        raise InputError(f"repeats: {repeats} asked for; 1 trains every candidate once")
    if snr_db is not None and not snr_db[0] <= snr_db[1]:
        raise InputError(f"snr-db: {snr_db[0]}:{snr_db[1]} is an empty range; give LO:HI with LO <= HI")
    if near is not None and known is None:
        raise InputError("near: which candidates lose little is predicted from records; give them as known")
    source = resolve_model(model)
    check_known(source)
    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    splits = (data if isinstance(data, DataSplits) else load_data(data)).normalised_by(mean, std)
    if input_px is None:
        input_px = usual_px(source, splits)
        if not quiet:
            _say_scaled(source, splits, input_px)
    settings = settings or default_settings(source, input_px)
    graph = graph_for(source, input_px, splits)
    state = None if base is not None else given_weights(weights, source, graph.classes)
    if base is not None and weights is not None:
        raise InputError("weights: a base network was given as well; give one of them")
    if state is not None:
        settings = settings.from_weights(base_images, prunable_images)
    elif base_images is None and prunable_images is None:
        settings = settings.for_training_images(len(splits.train))
    else:
        settings = settings.with_base_images(base_images, prunable_images)
    space = SearchSpace(graph)
    apart = _of_own_network(source, graph, splits, mean is not None or std is not None)
    run_settings = _run_settings(graph, splits, snr_db, seed, settings) | apart
    if state is not None:
        run_settings["weights"] = fingerprint_of({name: tensor.cpu().numpy() for name, tensor in state.items()})
    with run_folder(out, "collect", run_settings) as folder:
        network = _obtain_base(folder, base, source, input_px, splits, settings, state, seed, quiet)
        info = _records_info(graph, splits, network, snr_db, settings, apart)
        numbers: Sequence[int] = range(candidates)
        if known is not None:
            packed = read_records(known)
            packed.info.check_same(info, f"known: {packed.source}", "this run", "train its candidates again")
            if near is not None:
                numbers = near_candidates(space, packed, near, candidates, snr_db, seed)
        asked = [(candidate, repeat) for repeat in range(repeats) for candidate in numbers]
        if known is not None:
            _restore(folder, packed, asked if near is None else _attempts_of(packed), seed)
        finished = finished_candidates(folder)
        pending = [attempt for attempt in asked if attempt not in finished]
        shared = shared_values(graph, splits, network, settings)
        tasks = dict(planned_tasks(space, pending, numbers[-1] + 1, snr_db, seed))
        trained = failed = unfinished = 0
        with Progress("candidates", len(asked), done=len(asked) - len(pending), quiet=quiet) as progress:
            for envelope in (
                executor.run(start_worker, shared, _until(deadline, iter(tasks.items()))) if pending else ()
            ):
                attempt = cast(tuple[int, int], envelope.task_id)
                row = envelope.value or failed_row(tasks[attempt], envelope.reason)
                failed += row["status"] != "ok"
                unfinished += row["status"] == UNFINISHED
                write_records(shard_path(folder, *attempt), [row], info)
                trained += 1
                progress.failed = failed
                progress.advance()
        measured = _base_accuracies(folder, network)
    return CollectSummary(folder, candidates, trained, failed, *measured, unfinished)


def usual_px(source: ModelSource, data: DataSplits | str | Path) -> int:
    """The side of the input in pixels where none is asked for: that of the images, where they are loaded, for a user's
    own network, else :func:`coinfer_ray.records.store.usual_input_px`."""
    if source.own and isinstance(data, DataSplits):
        return int(data.train.images.shape[1])
    return usual_input_px(source)


def _say_scaled(source: ModelSource, data: DataSplits, input_px: int) -> None:
    """Say where images are made much larger only because nobody said how large: a training takes that much longer."""
    side = data.train.images.shape[1]
    if not source.own and not shipped_sizes(source.name) and input_px > side:
        notice(f"images of {side} px are scaled to {input_px} px; give --input-px for another size of the input")


def _of_own_network(source: ModelSource, graph: LayerGraph, data: DataSplits, normalised: bool) -> dict[str, Any]:
    """What decides an accuracy beside the rest where a name does not settle the network, or the images' own statistics
    not how they are normalised."""
    found: dict[str, Any] = {"graph_fingerprint": graph.fingerprint} if source.own else {}
    if source.own or normalised:
        found["normalisation"] = {"mean": data.mean.tolist(), "std": data.std.tolist()}
    return found


def failed_row(task: Task, reason: str) -> dict[str, Any]:
    """The record of a task that no worker brought to an end: kept for what it says, tried again by the next run."""
    return task.columns | {"status": UNFINISHED, "error": reason}


def planned_tasks(
    space: SearchSpace, pending: list[tuple[int, int]], candidates: int, snr_db: tuple[float, float] | None, seed: int
) -> Iterator[tuple[tuple[int, int], Task]]:
    """The trainings of ``pending`` (candidate, repeat) in a plan of so many candidates."""
    levels = plan_levels(space, candidates, seed)
    snr = None if snr_db is None else plan_snr_db(candidates, *snr_db, seed)
    for candidate, repeat in pending:
        noise = None if snr is None else float(snr[candidate])
        seeded = candidate_seed(seed, candidate, repeat)
        yield (candidate, repeat), Task(candidate, space.strategy(levels[candidate]), noise, seeded)


def _base_accuracies(folder: Path, base: BaseNetwork) -> tuple[float, float]:
    """Validation and test accuracy on the images that the folder's candidates were measured on; where it has none, on
    all."""
    try:
        records = read_records(folder)
    except InputError:
        return base.validation_accuracy, base.test_accuracy
    return records.base_accuracy("validation"), records.base_accuracy("test")


def _restore(folder: Path, known: Records, attempts: Iterable[tuple[int, int]], seed: int) -> None:
    """Write those shards of ``attempts`` that the folder lacks and ``known`` holds."""
    rows = {(row["candidate"], row["seed"]): row for row in known.table.to_pylist()}
    for candidate, repeat in attempts:
        row = rows.get((candidate, candidate_seed(seed, candidate, repeat)))
        shard = shard_path(folder, candidate, repeat)
        if row is not None and not shard.exists():
            write_records(shard, [row], known.info)


def _attempts_of(known: Records) -> Iterator[tuple[int, int]]:
    """Attempts (candidate, repeat) that include all that ``known`` can hold: repeats that failed are not in it."""
    for candidate, trainings in Counter(known.table["candidate"].to_pylist()).items():
        yield from ((candidate, repeat) for repeat in range(trainings + known.failed))


def _until(deadline: float, tasks: Iterator[T]) -> Iterator[T]:
    """Tasks as long as there is time."""
    return itertools.takewhile(lambda _: time.monotonic() < deadline, tasks)


def _obtain_base(
    folder: Path,
    given: str | Path | None,
    model: ModelSource,
    input_px: int,
    data: DataSplits,
    settings: CollectSettings,
    weights: Mapping[str, torch.Tensor] | None,
    seed: int,
    quiet: bool,
) -> BaseNetwork:
    kept = base_beside(folder)
    if kept.exists():
        base = load_base(kept, model=model, input_px=input_px, data=data)
    elif given is not None:
        base = load_base(Path(given), model=model, input_px=input_px, data=data)
    else:
        base = obtain_trained_base(
            kept,
            model,
            input_px,
            data,
            phase=settings.base,
            prunable=settings.prunable,
            seed=seed,
            weights=weights,
            quiet=quiet,
        )
    if not settings.any_base:
        _check_better_than_guessing(base, data, weights is not None)
    if not kept.exists():
        save_base(base, kept)
    return base


def _check_better_than_guessing(base: BaseNetwork, data: DataSplits, weights: bool) -> None:
    """Records of a base network at chance say nothing of what pruning costs.

    Raises:
        InputError: its validation accuracy is not above 1 / classes by three standard errors.
    """
    chance = 1 / len(data.classes)
    error = math.sqrt(chance * (1 - chance) / len(data.validation))
    if not base.validation_accuracy > chance + 3 * error:
        remedy = "train it on more images (--base-images) in another folder, or give --base"
        if weights:
            remedy = (
                "give the --mean, --std and --input-px that its weights were trained with, or train it further "
                "(--base-images) in another folder; a class instead of its instance is trained from scratch"
            )
        raise InputError(
            f"base: its validation accuracy of {base.validation_accuracy:.4f} is no better than guessing one of "
            f"{len(data.classes)} classes; {remedy}"
        )


def _run_settings(
    graph: LayerGraph,
    data: DataSplits,
    snr_db: tuple[float, float] | None,
    seed: int,
    settings: CollectSettings,
) -> dict[str, Any]:
    return {
        "model": graph.model,
        "input_px": graph.input_px,
        "data_fingerprint": data.fingerprint,
        "snr_db": list(snr_db) if snr_db else None,
        "seed": seed,
        "settings": {name: value for name, value in asdict(settings).items() if name != "any_base"},
    }


def _records_info(
    graph: LayerGraph,
    data: DataSplits,
    base: BaseNetwork,
    snr_db: tuple[float, float] | None,
    settings: CollectSettings,
    apart: Mapping[str, Any],
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
            **{f"base_{name}": base.info[name] for name in ("prunable", "prunable_seed") if name in base.info},
            "candidate_training": candidate,
            "channel": "awgn" if snr_db else "noise-free",
            **apart,
        },
        versions={
            name: importlib.metadata.version(name) for name in ("torch", "torchvision", "nni", "numpy", "scikit-learn")
        },
        graph=None if ships(graph) else graph,
    )
