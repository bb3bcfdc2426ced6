"""Verification: a strategy's predicted accuracy is a claim until the strategy has really been trained.

Strategies are trained exactly as the candidates behind the prediction were: from the same base network, on the same
images, with the settings that the records carry. A measurement is therefore one more record of the same kind; as
a shard it can join them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from coinfer_ray.errors import InputError
from coinfer_ray.models.source import ModelLike
from coinfer_ray.predictor.obtain import kept_fit
from coinfer_ray.predictor.predictor import Predictor
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.problem.strategy import FLOAT_BITS, Strategy, check_feature_bits
from coinfer_ray.records.request import Request
from coinfer_ray.records.store import (
    SHARD_PATTERN,
    Records,
    RecordsInfo,
    Split,
    read_records,
    shard_path,
    shipped_records,
)
from coinfer_ray.runtime.executors.base import Executor
from coinfer_ray.runtime.files import run_folder
from coinfer_ray.scenarios.scenario import check_max_loss
from coinfer_ray.training.data import load_data
from coinfer_ray.training.verifier import Verifier, _read_shard, obtain_base, realised

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
    graph_fingerprint: str | None = None

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
            graph = document.get("graph_fingerprint")
            model, pixels = str(document["model"]), int(document["input_px"])
            return cls(strategy, model, pixels, **claimed, graph_fingerprint=None if graph is None else str(graph))
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
    columns of ``coinfer_ray.records.store``. ``floor_met``: whether the mean ``split`` accuracy keeps to the floor
    (None where no floor is given; False where every training failed).
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
        costs = {name: self.rows[0].get(name) for name in ("device_flop", "server_flop", "uplink_bit")}
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
    model: ModelLike | None = None,
    quiet: bool = False,
) -> Verification:
    """Train the claimed strategy ``seeds`` times from different seeds and compare.

    ``records`` (default: the shipped ones) say how to train; where the claim holds no prediction, they make one.
    ``base`` is the base network that they started from, by default the one in the records' own folder.
    ``max_loss`` replaces the claim's accuracy floor. ``append`` keeps the measurements as shards in a folder, which
    may be that of the records; a training that is there is not done again. ``feature_bits`` (1..8: quantised to so many
    bits a value, or 32: floats) replaces the claim's own. ``model`` builds the network, by default what the claim calls
    it does; an ``nn.Module`` has to be given again.

    Raises:
        InputError: a claim that does not belong to the records, images or a base network that are not theirs.
    """
    if seeds < 1:
        raise InputError(f"seeds: {seeds} asked for; at least 1 is needed")
    if feature_bits is not None:
        check_feature_bits(feature_bits)
        claim = replace(claim, strategy=replace(claim.strategy, feature_bits=feature_bits))
    if snr_db is not None and claim.strategy.feature_bits != FLOAT_BITS:
        raise InputError("feature bits: quantised features arrive as they were sent; give 32, or leave --snr-db out")
    source = open_source(records, claim.model, claim.input_px)
    info = info_of(source)
    claim = _checked(claim, source, info, max_loss, accuracy, snr_db)
    splits = load_data(data)
    network = obtain_base(base, records, info, splits, model)
    requests = [Request(claim.strategy, snr_db, repeat) for repeat in range(seeds)]
    with nullcontext(None) if append is None else shard_folder(append, info) as folder:
        verifier = Verifier(info, splits, network, executor, folder=folder, quiet=quiet)
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
        base_validation_accuracy=rows[0].get("base_validation_accuracy") or network.validation_accuracy,
        base_test_accuracy=rows[0].get("base_test_accuracy") or network.test_accuracy,
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
    sets = tuple(prunable.name for prunable in source.layer_graph.prunable_sets)
    return RecordsInfo(source.model, source.input_px, sets, source.settings, source.versions, source.graph)


def shard_folder(folder: str | Path, info: RecordsInfo) -> AbstractContextManager[Path]:
    """Hold ``folder`` for shards of these settings: a new one, or one of any run that holds such already.

    Raises (on entering):
        InputError: it holds something else.
    """

    def joins(place: Path) -> bool:
        shards = sorted(place.glob(SHARD_PATTERN))
        if shards and _read_shard(shards[0]).get("settings_hash") != info.settings_hash:
            raise InputError(f"append: {place} holds records of other settings; give another folder")
        return bool(shards)

    settings = {"model": info.model, "input_px": info.input_px, "settings_hash": info.settings_hash}
    return run_folder(folder, "verify", settings, joins=joins)


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
    if claim.graph_fingerprint not in (None, info.layer_graph.fingerprint):
        raise InputError(
            f"strategy: was found for another layer graph than the records' of {info.model}; give the --records that "
            "it was found with"
        )
    space = SearchSpace(info.layer_graph)
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
        check_max_loss(max_loss)
        claim = replace(claim, accuracy_floor=known - max_loss)
    if claim.predicted_accuracy is None:
        predictor = kept_fit(source, accuracy=accuracy) if isinstance(source, Records) else source
        x = space.values(claim.strategy)
        seen = x if snr_db is None else np.append(x, snr_db)
        claim = replace(claim, predicted_accuracy=float(predictor.predict(seen[None])[0]))
    return replace(claim, base_accuracy=known)
