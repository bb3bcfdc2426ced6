"""Verification: a strategy's predicted accuracy is a claim until the strategy has really been trained.

Strategies are trained exactly as the candidates behind the prediction were: from the same base network, on the same
images, with the settings that the records carry. A measurement is therefore one more record of the same kind; as
a shard it can join them.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from coinfer_ray.compression.quantize import LEAST_BITS, MOST_BITS
from coinfer_ray.errors import InputError
from coinfer_ray.executors.base import Executor
from coinfer_ray.files import RUN_FILE, claim_folder, single_writer
from coinfer_ray.loop import Request
from coinfer_ray.models.layers import load_graph
from coinfer_ray.predictor import Predictor, fit_predictor
from coinfer_ray.progress import Progress
from coinfer_ray.space import Codec, SearchSpace, Strategy
from coinfer_ray.store import (
    SHARD_PATTERN,
    Records,
    RecordsInfo,
    Split,
    read_records,
    shard_path,
    shipped_records,
    write_records,
)
from coinfer_ray.training.base import BASE_FILE, BaseNetwork, base_beside, load_base
from coinfer_ray.training.candidate import CandidateSettings, CodecPhase
from coinfer_ray.training.collect import (
    CollectSettings,
    Task,
    candidate_seed,
    graph_for,
    shared_values,
    start_worker,
)
from coinfer_ray.training.data import DataSplits, load_data
from coinfer_ray.training.loop import Phase

# Shards of strategies that no sampling plan has numbered are numbered by what they are, from here on.
FIRST_VERIFIED = 1 << 40
TRAINED_WITH = ("torch", "torchvision", "nni", "numpy", "scikit-learn")
SPLITS: tuple[Split, ...] = ("validation", "test")
CLAIM_KEYS = ("predicted_accuracy", "accuracy_bound", "confidence", "accuracy_floor", "base_accuracy")


@dataclass(frozen=True)
class Claim:
    """A strategy and what its document says of it; None where it does not say."""

    strategy: Strategy
    model: str
    input_px: int
    predicted_accuracy: float | None = None
    accuracy_bound: float | None = None
    confidence: float | None = None
    accuracy_floor: float | None = None
    base_accuracy: float | None = None

    @classmethod
    def load(cls, path: str | Path) -> Claim:
        """Read the output of ``coinfer optimize --json``, or a strategy with ``model`` and ``input_px`` beside it.

        Raises:
            InputError: no readable JSON, or a key that is missing or no number.
        """
        try:
            document = json.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"strategy: {path} cannot be read as JSON ({' '.join(str(error).split())})") from None
        if not isinstance(document, Mapping):
            raise InputError(f"strategy: {path} holds no JSON object; give the output of `coinfer optimize --json`")
        try:
            strategy = Strategy.from_json(document)
            numbers = {name: document.get(name) for name in CLAIM_KEYS}
            claimed = {name: None if value is None else float(value) for name, value in numbers.items()}
            return cls(strategy, str(document["model"]), int(document["input_px"]), **claimed)
        except KeyError as error:
            raise InputError(
                f"strategy: {path} lacks {error}; `coinfer optimize --json` writes model, input_px and strategy"
            ) from None
        except (TypeError, ValueError, OverflowError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"strategy: a value in {path} is no number ({error}); see `coinfer optimize`") from None


@dataclass(frozen=True)
class Verification:
    """What was claimed of a strategy and what training it gave.

    Accuracies are means over the trainings that ended well, None where none did; ``rows`` are all of them by the
    columns of ``coinfer_ray.store``. ``floor_met``: whether the mean ``split`` accuracy keeps to the floor (None
    where no floor is given; False where every training failed).
    """

    claim: Claim
    split: Split
    measured_validation_accuracy: float | None
    measured_test_accuracy: float | None
    base_validation_accuracy: float
    base_test_accuracy: float
    floor_met: bool | None
    rows: tuple[Mapping[str, Any], ...]
    shards: tuple[str, ...]

    @property
    def measured_accuracy(self) -> float | None:
        """The mean accuracy of the split that the claim speaks of."""
        return self.measured_validation_accuracy if self.split == "validation" else self.measured_test_accuracy

    def to_json(self) -> dict[str, Any]:
        """The object that ``coinfer verify --json`` prints."""
        claim, measured = self.claim, self.measured_accuracy
        predicted = claim.predicted_accuracy
        costs = {name: self.rows[0].get(name) for name in ("device_flop", "server_flop", "uplink_bit", "coded_bit")}
        per_seed = ("seed", "status", "error", "validation_accuracy", "test_accuracy", "wall_s")
        return {
            "model": claim.model,
            "input_px": claim.input_px,
            "accuracy": self.split,
            **{name: getattr(claim, name) for name in CLAIM_KEYS if name != "base_accuracy"},
            "measured_accuracy": measured,
            "error": None if measured is None or predicted is None else measured - predicted,
            "floor_met": self.floor_met,
            "measured_validation_accuracy": self.measured_validation_accuracy,
            "measured_test_accuracy": self.measured_test_accuracy,
            "base_validation_accuracy": self.base_validation_accuracy,
            "base_test_accuracy": self.base_test_accuracy,
            **costs,
            "trainings": [{name: row.get(name) for name in per_seed} for row in self.rows],
            "shards": list(self.shards),
            "strategy": claim.strategy.to_json(),
        }


class Verifier:
    """Trains strategies as the candidates of ``info`` were trained, on the workers of ``executor``.

    ``base`` is their base network and ``data`` their images (:func:`obtain_base` checks both). With a ``folder``
    every measurement is kept there as a shard the moment it ends, under a number that follows from the strategy
    and the channel alone; what is there is not trained again. The caller holds the folder
    (:func:`coinfer_ray.files.single_writer`). ``feature_bits`` sends quantised features, which the records don't: such
    measurements are of another kind and have no place in a folder.

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
        feature_bits: int | None = None,
        quiet: bool = False,
    ) -> None:
        self.info = replace(info, versions={name: importlib.metadata.version(name) for name in TRAINED_WITH})
        self.base = base
        self.executor = executor
        self.folder = folder
        self.feature_bits = feature_bits
        self.quiet = quiet
        graph = graph_for(info.model, info.input_px, data)
        self.space = SearchSpace(graph)
        self._shared = shared_values(graph, data, base, collect_settings(info))

    def measure(self, requests: Sequence[Request]) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Yield (position in ``requests``, row) for each of them, which must all differ; those at hand come first.

        A row has the columns of ``coinfer_ray.store``; a training that fails is a row whose ``status`` says so.

        Raises:
            InputError: a strategy that this network does not have, or a shard of other settings in the folder.
        """
        tasks: dict[int, Task] = {}
        for position, request in enumerate(requests):
            strategy = realised(self.space, request.strategy)
            number = strategy_number(self.space, strategy, request.snr_db)
            kept = self._kept(number, request.repeat)
            if kept is None:
                seed = candidate_seed(0, number, request.repeat)
                tasks[position] = Task(number, strategy, request.snr_db, seed, self.feature_bits)
            else:
                yield position, kept
        if not tasks:
            return
        with Progress("strategies trained", len(tasks), quiet=self.quiet) as progress:
            for envelope in self.executor.run(start_worker, self._shared, tasks.items()):
                position = cast(int, envelope.task_id)
                row = self._row(tasks[position], envelope.value, envelope.reason)
                if self.folder is not None:
                    path = shard_path(self.folder, tasks[position].candidate, requests[position].repeat)
                    write_records(path, [row], self.info)
                progress.advance()
                yield position, row

    def _row(self, task: Task, value: Mapping[str, Any] | None, reason: str) -> dict[str, Any]:
        row = {
            "candidate": task.candidate,
            "sparsity": list(task.strategy.sparsity.values()),
            "partition_point": task.strategy.partition_point,
            "codec": list(task.strategy.codec.values()),
            "snr_db": task.snr_db,
            "seed": task.seed,
            "base_validation_accuracy": self.base.validation_accuracy,
            "base_test_accuracy": self.base.test_accuracy,
        }
        return row | ({"status": "error", "error": reason} if value is None else dict(value))

    def _kept(self, number: int, repeat: int) -> dict[str, Any] | None:
        if self.folder is None:
            return None
        path = shard_path(self.folder, number, repeat)
        if not path.exists():
            return None
        row = _read_shard(path)
        if row.get("settings_hash") != self.info.settings_hash:
            raise InputError(f"records: {path} was trained with other settings; give another folder")
        return row


def verify(
    claim: Claim,
    data: str | Path,
    *,
    executor: Executor,
    records: Predictor | Records | str | Path | None = None,
    base: str | Path | None = None,
    seeds: int = 1,
    max_loss: float | None = None,
    accuracy: Split = "validation",
    snr_db: float | None = None,
    append: str | Path | None = None,
    feature_bits: int | None = None,
    quiet: bool = False,
) -> Verification:
    """Train the claimed strategy ``seeds`` times from different seeds and compare.

    ``records`` (default: the shipped ones) say how to train; where the claim holds no prediction, they make one.
    ``base`` is the base network that they started from, by default the one in the records' own folder.
    ``max_loss`` replaces the claim's accuracy floor. ``append`` keeps the measurements as shards in a folder, which
    may be that of the records; a training that is there is not done again. ``feature_bits`` (1..8) trains it with its
    feature quantised to so many bits a value: no record of theirs, so it can't be appended.

    Raises:
        InputError: a claim that does not belong to the records, images or a base network that are not theirs.
    """
    if seeds < 1:
        raise InputError(f"seeds: {seeds} asked for; at least 1 is needed")
    if feature_bits is not None:
        _check_feature_bits(feature_bits, snr_db, append)
    source = open_source(records, claim.model, claim.input_px)
    info = info_of(source)
    claim = _checked(claim, source, info, max_loss, accuracy, snr_db)
    splits = load_data(data)
    network = obtain_base(base, records, info, splits)
    requests = [Request(claim.strategy, snr_db, repeat) for repeat in range(seeds)]
    with nullcontext(None) if append is None else single_writer(append) as folder:
        if folder is not None:
            claim_for(folder, info)
        verifier = Verifier(info, splits, network, executor, folder=folder, feature_bits=feature_bits, quiet=quiet)
        found = dict(verifier.measure(requests))
    rows = [found[position] for position in range(seeds)]
    shards = [shard_path(folder, row["candidate"], repeat) for repeat, row in enumerate(rows)] if folder else []
    means = {split: mean_accuracy(rows, split) for split in SPLITS}
    floor, measured = claim.accuracy_floor, means[accuracy]
    return Verification(
        claim=claim,
        split=accuracy,
        measured_validation_accuracy=means["validation"],
        measured_test_accuracy=means["test"],
        base_validation_accuracy=network.validation_accuracy,
        base_test_accuracy=network.test_accuracy,
        floor_met=None if floor is None else measured is not None and measured >= floor,
        rows=tuple(rows),
        shards=tuple(map(str, shards)),
    )


def open_source(
    records: Predictor | Records | str | Path | None, model: str, input_px: int | None
) -> Predictor | Records:
    """The records (None: the shipped ones) or the saved predictor at a path, of this network and input size.

    Raises:
        InputError: unreadable ones, or those of another network or input size.
    """
    if records is None:
        records = shipped_records(model, input_px)
    if isinstance(records, str | Path):
        saved = Path(records).suffix == ".npz"
        records = Predictor.load(records) if saved else read_records(records, model=model)
    if records.model != model or input_px not in (None, records.input_px):
        raise InputError(
            f"records: are of {records.model} at {records.input_px} px, the strategy is for {model} at {input_px} px; "
            "give the records that it was found with"
        )
    return records


def info_of(source: Predictor | Records) -> RecordsInfo:
    """What all records behind ``source`` share."""
    if isinstance(source, Records):
        return source.info
    sets = tuple(prunable.name for prunable in load_graph(source.model, source.input_px).prunable_sets)
    return RecordsInfo(source.model, source.input_px, sets, source.settings, source.versions)


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
            candidate=CandidateSettings(**training),
            validation_images=info.settings["validation_images"],
            test_images=info.settings["test_images"],
        )
    except KeyError as error:
        wrong = f"do not say how their candidates were trained ({error})"
    except (TypeError, ValueError):
        wrong = "were trained by the recipe of another version"
    raise InputError(f"records: {wrong}, so no other can be trained like them; collect them with this version")


def obtain_base(given: str | Path | None, records: object, info: RecordsInfo, data: DataSplits) -> BaseNetwork:
    """The base network of the records: the file ``given``, or the one that lies beside ``records``.

    ``records`` is the folder or the file that they came from; None: those that ship.

    Raises:
        InputError: there is none, or images or weights are not those behind the records.
    """
    wanted = info.settings.get("data_fingerprint")
    if data.fingerprint != wanted:
        raise InputError(
            f"data: {data.name} has the fingerprint {data.fingerprint}, the records' images "
            f"({info.settings.get('data')}) have {wanted}; give --data with the same images"
        )
    if given is None:
        source = shipped_records(info.model, info.input_px) if records is None else records
        beside = base_beside(Path(source)) if isinstance(source, str | Path) else None
        if beside is None or not beside.is_file():
            raise InputError(
                f"base: the records' base network (fingerprint {info.settings.get('base_fingerprint')}) is needed; "
                f"give --base FILE, the {BASE_FILE} of their collection"
            )
        given = beside
    base = load_base(Path(given), model=info.model, input_px=info.input_px, data=data)
    wanted = info.settings.get("base_fingerprint")
    if base.fingerprint != wanted:
        raise InputError(
            f"base: {given} has the fingerprint {base.fingerprint}, the records started from {wanted}; "
            f"give the {BASE_FILE} of their collection"
        )
    return base


def claim_for(folder: Path, info: RecordsInfo) -> None:
    """Take ``folder`` for shards of these settings: a new one, or one that holds such already.

    Raises:
        InputError: it holds something else.
    """
    shards = sorted(folder.glob(SHARD_PATTERN))
    if not (folder / RUN_FILE).exists() or not shards:
        settings = {"model": info.model, "input_px": info.input_px, "settings_hash": info.settings_hash}
        claim_folder(folder, "verify", settings)
    elif _read_shard(shards[0]).get("settings_hash") != info.settings_hash:
        raise InputError(f"append: {folder} holds records of other settings; give another folder")


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
    return Strategy(sparsity, strategy.partition_point, Codec.from_values(codec.values()))


def strategy_number(space: SearchSpace, strategy: Strategy, snr_db: float | None) -> int:
    """A number for a realised strategy's record that follows from the strategy and the channel alone."""
    digest = hashlib.sha256(space.values(strategy).tobytes())
    if snr_db is not None:
        digest.update(np.float64(snr_db).tobytes())
    return FIRST_VERIFIED + int.from_bytes(digest.digest()[:5], "big")


def mean_accuracy(rows: Sequence[Mapping[str, Any]], split: Split) -> float | None:
    """Mean over the rows that ended well; None where none did."""
    measured = [float(row[f"{split}_accuracy"]) for row in rows if row["status"] == "ok"]
    return float(np.mean(measured)) if measured else None


def _checked(
    claim: Claim,
    source: Predictor | Records,
    info: RecordsInfo,
    max_loss: float | None,
    accuracy: Split,
    snr_db: float | None,
) -> Claim:
    """The claim as it will be trained, with the records' prediction and the floor filled in."""
    noisy = info.settings.get("channel") == "awgn"
    if noisy != (snr_db is not None):
        raise InputError(
            "snr-db: the records come from a noisy channel; say at which signal-to-noise ratio to train"
            if noisy
            else "snr-db: the records come from a noise-free channel; leave it out"
        )
    space = SearchSpace(load_graph(claim.model, claim.input_px))
    claim = replace(claim, strategy=realised(space, claim.strategy))
    if isinstance(source, Records):
        known = source.base_accuracy(accuracy)
    elif source.accuracy == accuracy:
        known = source.base_accuracy
    else:
        raise InputError(f"accuracy: the predictor was fitted to {source.accuracy} accuracy; give --accuracy that")
    if claim.base_accuracy is not None and not np.isclose(claim.base_accuracy, known, rtol=0, atol=1e-9):
        raise InputError(
            f"strategy: was found for a base accuracy of {claim.base_accuracy:.4f}, the records' {accuracy} accuracy "
            f"is {known:.4f}; give the --records and --accuracy that it was found with"
        )
    if max_loss is not None:
        claim = replace(claim, accuracy_floor=known - max_loss)
    if claim.predicted_accuracy is None:
        predictor = fit_predictor(source, accuracy=accuracy) if isinstance(source, Records) else source
        x = space.values(claim.strategy)
        seen = x if snr_db is None else np.append(x, snr_db)
        claim = replace(claim, predicted_accuracy=float(predictor.predict(seen[None])[0]))
    return replace(claim, base_accuracy=known)


def _check_feature_bits(feature_bits: int, snr_db: float | None, append: str | Path | None) -> None:
    if not LEAST_BITS <= feature_bits <= MOST_BITS:
        raise InputError(
            f"feature bits: {feature_bits} must be within {LEAST_BITS}..{MOST_BITS}; without, floats are sent"
        )
    if snr_db is not None:
        raise InputError("feature bits: quantised features arrive as they were sent; leave --snr-db out")
    if append is not None:
        raise InputError("append: records send 32-bit floats, a quantised measurement can't join them; leave it out")


def _read_shard(path: Path) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        row: dict[str, Any] = pq.read_table(path).to_pylist()[0]
    except (pa.ArrowException, OSError, IndexError):
        raise InputError(f"records: {path} is no whole record; remove it and run again") from None
    return row
