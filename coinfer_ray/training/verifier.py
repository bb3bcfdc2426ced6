"""Trains chosen strategies by the settings of their records, for `verify` and `search`."""

from __future__ import annotations

import hashlib
import importlib.metadata
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from coinfer_ray.errors import InputError, counted
from coinfer_ray.models.library import check_same_network
from coinfer_ray.models.source import ModelLike, resolve_model
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.problem.strategy import FLOAT_BITS, Codec, Strategy
from coinfer_ray.records.request import Request
from coinfer_ray.records.store import (
    UNFINISHED,
    RecordsInfo,
    read_records,
    shard_path,
    shipped_file,
    shipped_records,
    write_records,
)
from coinfer_ray.runtime.executors.base import Executor, WorkerContext
from coinfer_ray.runtime.executors.local import allowed_threads
from coinfer_ray.runtime.progress import Progress
from coinfer_ray.runtime.sealed import read_sealed
from coinfer_ray.training.base import BASE_FILE, BaseNetwork, base_beside, load_base
from coinfer_ray.training.candidate import CandidateSettings, CandidateTrainer, CodecPhase
from coinfer_ray.training.collect import failed_row
from coinfer_ray.training.data import DataSplits
from coinfer_ray.training.prunable import PrunablePhase
from coinfer_ray.training.trainer import Phase
from coinfer_ray.training.worker import (
    CollectSettings,
    Task,
    candidate_seed,
    graph_for,
    make_trainer,
    shared_values,
    start_worker,
)

# Shards of strategies that no sampling plan has numbered are numbered by what they are, from here on.
FIRST_VERIFIED = 1 << 40


TRAINED_WITH = ("torch", "torchvision", "nni", "numpy", "scikit-learn")


class Verifier:
    """Trains strategies as the candidates of ``info`` were trained, on the workers of ``executor``.

    ``base`` is their base network and ``data`` their images (:func:`obtain_base` checks both), which are normalised as
    the settings of ``info`` say. With a ``folder``
    every measurement is kept there as a shard the moment it ends, under a number that follows from the strategy
    and the channel alone; what is there is not trained again. The caller holds the folder
    (:func:`coinfer_ray.runtime.files.run_folder`).

    Raises:
        InputError: records whose training settings this version does not know.
    """

    def __init__(
        self,
        info: RecordsInfo,
        data: DataSplits,
        base: BaseNetwork,
        executor: Executor,
        *,
        folder: Path | None = None,
        quiet: bool = False,
    ) -> None:
        source = base.source or resolve_model(info.model)
        self.info = replace(info, versions={name: importlib.metadata.version(name) for name in TRAINED_WITH})
        self.base = base
        self.executor = executor
        self.folder = folder
        self.quiet = quiet
        data = images_of(info, data)
        graph = graph_for(source, info.input_px, data)
        self.space = SearchSpace(graph)
        self._shared = shared_values(graph, data, base, collect_settings(info))

    def measure(self, requests: Sequence[Request]) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Yield (position in ``requests``, row) for each of them, which must all differ; those at hand come first.

        A row has the columns of ``coinfer_ray.records.store``; a training that fails is a row whose ``status`` says so.
        Where it failed with ``error`` (its worker died or raised) that is no result of training: the row is kept, is
        said on stderr, and the next call trains the strategy again.

        Raises:
            InputError: a strategy that this network does not have, or a shard of other settings in the folder.
        """
        tasks: dict[int, Task] = {}
        for position, request in enumerate(requests):
            strategy = realised(self.space, request.strategy)
            number = strategy_number(self.space, strategy, request.snr_db)
            kept = self._kept(number, request.repeat)
            if kept is None:
                seed = candidate_seed(0, self._seeded_by(strategy, request.snr_db), request.repeat)
                tasks[position] = Task(number, strategy, request.snr_db, seed)
            else:
                yield position, kept
        if not tasks:
            return
        lost: list[str] = []
        with Progress("strategies trained", len(tasks), quiet=self.quiet) as progress:
            for envelope in self.executor.run(start_worker, self._shared, tasks.items()):
                position = cast(int, envelope.task_id)
                row = envelope.value or failed_row(tasks[position], envelope.reason)
                if self.folder is not None:
                    path = shard_path(self.folder, tasks[position].candidate, requests[position].repeat)
                    write_records(path, [row], self.info)
                if row["status"] == UNFINISHED:
                    lost.append(row["error"])
                progress.advance()
                yield position, row
        if lost and not self.quiet:
            print(f"{len(lost)} of {counted(len(tasks), 'training')} failed, one so: {lost[0]}", file=sys.stderr)

    def _seeded_by(self, strategy: Strategy, snr_db: float | None) -> int:
        """The number that a training's seed follows from: a network without a codec is quantised after its training,
        which is the same one, then, at every cut."""
        if strategy.feature_bits != FLOAT_BITS and self.space.canonical_codec(strategy) == Codec():
            strategy = Strategy(strategy.sparsity, len(self.space.graph.layers))
        return strategy_number(self.space, strategy, snr_db)

    def _kept(self, number: int, repeat: int) -> dict[str, Any] | None:
        if self.folder is None:
            return None
        path = shard_path(self.folder, number, repeat)
        if not path.exists():
            return None
        row = _read_shard(path)
        if row.get("settings_hash") != self.info.settings_hash:
            raise InputError(f"records: {path} was trained with other settings; give another folder")
        return None if row["status"] == UNFINISHED else row


def collect_settings(info: RecordsInfo) -> CollectSettings:
    """How the records' candidates were trained and measured.

    Raises:
        InputError: settings that this version does not know, or lacks.
    """
    phases = {"fine_tune": Phase, "end_to_end": Phase, "codec": CodecPhase}
    try:
        training = dict(info.settings["candidate_training"])
        training |= {name: phase(**training[name]) for name, phase in phases.items()}
        return CollectSettings(
            base=Phase(**info.settings["base_training"]),
            prunable=PrunablePhase(**prunable) if (prunable := info.settings.get("base_prunable")) else None,
            candidate=CandidateSettings(**training),
            validation_images=info.settings["validation_images"],
            test_images=info.settings["test_images"],
        )
    except KeyError as error:
        wrong = f"do not say how their candidates were trained ({error})"
    except (TypeError, ValueError):
        wrong = "were trained by the recipe of another version"
    raise InputError(f"records: {wrong}, so no other can be trained like them; collect them with this version")


def images_of(info: RecordsInfo, data: DataSplits) -> DataSplits:
    """``data`` as the records' networks saw it: normalised by what their settings say."""
    return data.normalised_by(**info.settings.get("normalisation", {"mean": None, "std": None}))


def obtain_base(
    given: str | Path | None,
    records: object,
    info: RecordsInfo,
    data: DataSplits,
    model: ModelLike | None = None,
) -> BaseNetwork:
    """The base network of the records: the file ``given``, or the one that lies beside ``records``.

    ``records`` is the folder or the file that they came from; None: those that ship. ``model`` builds the network,
    by default the records' name of it does.

    Raises:
        InputError: there is none, or images, network or weights are not those behind the records.
    """
    source = resolve_model(info.model if model is None else model)
    check_same_network(source, info.layer_graph, "records: are")
    if source.name != info.model:  # the same network by another name
        source = replace(source, name=info.model)
    wanted = info.settings.get("data_fingerprint")
    if data.fingerprint != wanted:
        raise InputError(
            f"data: {data.name} has the fingerprint {data.fingerprint}, the records' images "
            f"({info.settings.get('data')}) have {wanted}; give --data with the same images"
        )
    if given is None:
        origin = shipped_records(info.model, info.input_px) if records is None else records
        beside = base_beside(shipped_file(origin) or Path(origin)) if isinstance(origin, str | Path) else None
        if beside is None or not beside.is_file():
            raise InputError(
                f"base: the records' base network (fingerprint {info.settings.get('base_fingerprint')}) is needed; "
                f"give --base FILE, the {BASE_FILE} of their collection"
            )
        given = beside
    base = load_base(Path(given), model=source, input_px=info.input_px, data=data)
    wanted = info.settings.get("base_fingerprint")
    if base.fingerprint != wanted:
        raise InputError(
            f"base: {given} has the fingerprint {base.fingerprint}, the records started from {wanted}; "
            f"give the {BASE_FILE} of their collection"
        )
    return base


def trainer_of(path: Path, data: DataSplits) -> CandidateTrainer:
    """A trainer in this process, of the recipe and the base network of the records file ``path``, on the images
    ``data`` behind them.

    Raises:
        InputError: as :func:`obtain_base`.
    """
    info = read_records(path).info
    base = obtain_base(None, path, info, data)
    data = images_of(info, data)
    graph = graph_for(base.source or info.model, info.input_px, data)
    shared = shared_values(graph, data, base, collect_settings(info))
    return make_trainer(shared, WorkerContext(allowed_threads(), None))


def realised(space: SearchSpace, strategy: Strategy) -> Strategy:
    """The strategy as training realises it: whole channels removed, meaningless codec parameters at 1.

    Raises:
        InputError: prunable sets, a cut or a codec that this network cannot have.
    """
    space.values(strategy)
    kept = space.kept_channels(strategy)
    sparsity = {
        # Counted in whole units, as the space's own levels are, so that equal strategies have equal numbers.
        prunable.name: (prunable.channels - kept[prunable.name]) // prunable.unit * prunable.unit / prunable.channels
        for prunable in space.graph.prunable_sets
    }
    codec = space.canonical_codec(strategy)
    for name, value in vars(codec).items():
        kind = name.partition("_")[0]
        fits = 0 < value <= 1 if kind in ("ratio", "width") else value >= 1 and (kind != "kernel" or value % 2 == 1)
        if not fits:
            allowed = {"kernel": "an odd number from 1", "stride": "1 or more"}.get(kind, "above 0 and at most 1")
            raise InputError(f"strategy: codec.{name} is {value:g}; it must be {allowed}")
    bits = strategy.feature_bits if 0 < strategy.partition_point < len(space.graph.layers) else FLOAT_BITS
    return Strategy(sparsity, strategy.partition_point, Codec.from_values(codec.values()), bits)


def strategy_number(space: SearchSpace, strategy: Strategy, snr_db: float | None) -> int:
    """A number for a realised strategy's record that follows from the strategy and the channel alone."""
    digest = hashlib.sha256(space.values(strategy).tobytes())
    if strategy.feature_bits != FLOAT_BITS:
        digest.update(strategy.feature_bits.to_bytes(1, "big"))
    if snr_db is not None:
        digest.update(np.float64(snr_db).tobytes())
    return FIRST_VERIFIED + int.from_bytes(digest.digest()[:5], "big")


def _read_shard(path: Path) -> dict[str, Any]:
    import pyarrow as pa

    try:
        row: dict[str, Any] = read_sealed(path).to_pylist()[0]
    except (pa.ArrowException, IndexError):
        raise InputError(f"records: {path} is no whole record; remove it and run again") from None
    return row
