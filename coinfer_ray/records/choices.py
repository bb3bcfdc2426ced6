"""What compared methods were really trained to: networks cut at a point, with costs and measured accuracy.

A method that trains in a way of its own (:mod:`coinfer_ray.training.compared`) leaves **choices**, the rows of a
Parquet file: one for each network, partition point and width of a value on the link. They belong to records: the same
base network, images and recipe, named by the same :class:`coinfer_ray.records.store.RecordsInfo`. One file holds all
methods of a network; it ships beside the records and is written by ``scripts/collect_methods.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coinfer_ray.errors import InputError
from coinfer_ray.records.paired import paired_error
from coinfer_ray.records.store import RecordsInfo, Split, shipped_records
from coinfer_ray.runtime.outputs import check_replaceable
from coinfer_ray.runtime.sealed import read_sealed, write_sealed

if TYPE_CHECKING:
    import pyarrow as pa

CHOICES_FORMAT = 1
SHARDS = "training-*.parquet"
_METADATA_KEY = b"coinfer_ray.choices"
_COLUMNS = {
    "method": "string",  # by its name in coinfer_ray.methods.registry
    "asked": "string",  # JSON: what was asked of the training, by which it and its repeats are one choice
    "training": "int64",  # the number of the training in the method's plan
    "seed": "int64",
    "partition_point": "int64",
    "feature_bits": "int64",  # of a value on the link
    "device_flop": "double",  # a codec's included
    "server_flop": "double",
    "codec_device_flop": "double",  # of which the codec's
    "codec_server_flop": "double",
    "uplink_bit": "double",
    "base_validation_accuracy": "double",
    "base_test_accuracy": "double",
    "validation_accuracy": "double",
    "validation_gained": "int64",  # images that only the candidate gets right, and only the base network
    "validation_lost": "int64",
    "test_accuracy": "double",
    "test_gained": "int64",
    "test_lost": "int64",
    "images": "int64",  # presented in its training
    "kept": "string",  # JSON: channels that remain of each prunable set, where it is pruned
    "variant": "string",  # which of the networks that one training leaves, where it leaves several
    "wall_s": "double",  # of the training that it is from
}
_TRAINING = ("method", "asked", "seed")
_SAME = ("method", "asked", "variant", "partition_point", "feature_bits")
_LATER = ("variant",)  # columns that files of earlier versions lack


@dataclass(frozen=True, eq=False)
class Choices:
    """K choices of one method, repeats of a training as one: arrays (K,).

    ``partition_point``, ``feature_bits`` int64; ``costs`` (K, 3) device FLOPs, server FLOPs and uplink bits with the
    codec's own FLOPs, ``codec_flop`` (K, 2) those alone on either side; ``loss`` what each loses against the network
    that it started from, a share, in the mean over ``trainings``, and ``error`` the standard error of that in one
    training; ``asked`` what the training was asked for, as JSON, with the ``variant`` where it left several networks.
    ``base_accuracy`` and ``base_fingerprint``: of the network that all started from.
    """

    partition_point: np.ndarray
    feature_bits: np.ndarray
    costs: np.ndarray
    codec_flop: np.ndarray
    loss: np.ndarray
    error: np.ndarray
    trainings: np.ndarray
    asked: tuple[str, ...]
    base_accuracy: float
    base_fingerprint: str | None

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def accuracy(self) -> np.ndarray:
        """(K,) 0..1, beside a base network of :attr:`base_accuracy`."""
        reached: np.ndarray = self.base_accuracy - self.loss
        return reached


@dataclass(frozen=True)
class ChoiceTable:
    """All rows of a file of choices, of all methods, and what they share. ``source``: the file, for messages."""

    info: RecordsInfo
    table: pa.Table
    source: str

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that it has choices of."""
        return tuple(sorted(set(self.table["method"].to_pylist())))

    @property
    def trained(self) -> set[tuple[str, str, int]]:
        """Its trainings: method, what was asked as JSON, and seed."""
        return set(zip(*(self.table[name].to_pylist() for name in _TRAINING), strict=True))

    def rows_of(self, method: str) -> list[dict[str, Any]]:
        """The rows of one method.

        Raises:
            InputError: there are none.
        """
        rows = [row for row in self.table.to_pylist() if row["method"] == method]
        if not rows:
            have = ", ".join(self.methods) or "none"
            raise InputError(
                f"{method}: {self.source} has no trainings of it (of: {have}); train some with "
                "scripts/collect_methods.py"
            )
        return rows

    def of(self, method: str, accuracy: Split = "validation") -> Choices:
        """The choices of one method, by the measured accuracy that counts.

        Raises:
            InputError: it has none of that method.
        """
        rows = self.rows_of(method)
        groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for row in rows:
            groups.setdefault(tuple(row[name] for name in _SAME), []).append(row)
        # Repeats of a training may be pruned to other widths: what they cost is what they cost in the mean.
        means = [
            {name: float(np.mean([row[name] or 0.0 for row in group])) for name in _COST_COLUMNS}
            for group in groups.values()
        ]
        names = [f"{which}{accuracy}_accuracy" for which in ("base_", "")] + [f"{accuracy}_{way}" for way in _PAIRED]
        images = self.info.settings.get(f"{accuracy}_images", np.nan)
        losses, variances = [], []
        for group in groups.values():
            # Each against the base network on its own machine: two kinds of them differ in an image or two.
            base, reached, gained, lost = np.array([[row[name] for name in names] for row in group], dtype=float).T
            losses.append((base - reached).mean())
            variances.append((paired_error(gained, lost, images) ** 2).mean())
        return Choices(
            partition_point=np.array([key[3] for key in groups], dtype=np.int64),
            feature_bits=np.array([key[4] for key in groups], dtype=np.int64),
            costs=np.array([[mean[name] for name in _COST_COLUMNS[:3]] for mean in means]),
            codec_flop=np.array([[mean[name] for name in _COST_COLUMNS[3:]] for mean in means]),
            loss=np.array(losses),
            error=np.sqrt(variances),
            trainings=np.array([len({row["seed"] for row in group}) for group in groups.values()], dtype=np.int64),
            asked=tuple(_named(key[1], key[2]) for key in groups),
            base_accuracy=float(rows[0][f"base_{accuracy}_accuracy"]),
            base_fingerprint=self.info.settings.get("base_fingerprint"),
        )


def _named(asked: str, variant: str | None) -> str:
    return asked if variant is None else json.dumps({**json.loads(asked), "variant": variant}, sort_keys=True)


_PAIRED = ("gained", "lost")
_COST_COLUMNS = ("device_flop", "server_flop", "uplink_bit", "codec_device_flop", "codec_server_flop")


def choices_path(model: str, input_px: int | None = None) -> Path:
    """Where the choices that belong to a network's shipped records lie, or belong.

    Raises:
        InputError: no records ship for the network at that input size.
    """
    return shipped_records(model, input_px).with_suffix(".methods.parquet")


@cache
def shipped_choices(model: str, input_px: int | None = None) -> ChoiceTable:
    """The choices that ship for a network.

    Raises:
        InputError: none do.
    """
    return read_choices(choices_path(model, input_px))


def shard_name(method: str, training: int, repeat: int) -> str:
    """The name of the file that holds one training's choices."""
    return f"training-{method}-{training:03d}-{repeat}.parquet"


def write_choices(path: str | Path, rows: Sequence[Mapping[str, Any]], info: RecordsInfo) -> None:
    """Write rows (missing values are null) as one whole file.

    Raises:
        InputError: ``path`` is there and no file of choices.
    """
    import pyarrow as pa

    check_replaceable(path, "choices")
    types = {"int64": pa.int64(), "string": pa.string(), "double": pa.float64()}
    document = json.dumps({"choices_format": CHOICES_FORMAT, **info.to_json()}, sort_keys=True)
    schema = pa.schema(
        [pa.field(name, types[kind]) for name, kind in _COLUMNS.items()], metadata={_METADATA_KEY: document}
    )
    full = [{name: row.get(name) for name in _COLUMNS} for row in rows]
    table = pa.Table.from_pylist(full, schema=schema)
    write_sealed(path, table, compression="zstd")


def read_choices(source: str | Path | Sequence[str | Path]) -> ChoiceTable:
    """Read a file of choices, the shards of a folder, or several of either; a training counts once.

    Raises:
        InputError: nothing there, a file that is none of this format, or choices of different settings.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    paths = [Path(source)] if isinstance(source, str | Path) else [Path(each) for each in source]
    files = [file for path in paths for file in (sorted(path.glob(SHARDS)) if path.is_dir() else [path])]
    named = ", ".join(map(str, paths))
    if not files:
        raise InputError(f"choices: {named} holds none; train some with scripts/collect_methods.py")
    read = [_read_file(file) for file in files]
    for file, (info, _) in zip(files, read, strict=True):
        info.check_same(read[0][0], f"choices: {file}", str(files[0]), "keep them apart")
    seen: set[tuple[Any, ...]] = set()
    parts = []
    for _, table in read:
        keys = list(zip(*(table[name].to_pylist() for name in _TRAINING), strict=True))
        parts.append(table.filter(pa.array([key not in seen for key in keys], pa.bool_())))
        seen |= set(keys)
    table = pa.concat_tables(parts).sort_by([("method", "ascending"), ("training", "ascending"), ("seed", "ascending")])
    return ChoiceTable(read[0][0], table.filter(pc.is_valid(table["partition_point"])), named)


def pack_choices(source: str | Path | Sequence[str | Path], path: str | Path) -> ChoiceTable:
    """Join what :func:`read_choices` reads into one file.

    Raises:
        InputError: see there; or ``path`` is there and no file of choices.
    """
    joined = read_choices(source)
    write_choices(path, joined.table.to_pylist(), joined.info)
    return joined


def _read_file(file: Path) -> tuple[RecordsInfo, pa.Table]:
    import pyarrow as pa

    try:
        table = read_sealed(file)
        document = json.loads((table.schema.metadata or {})[_METADATA_KEY])
        if document.pop("choices_format") != CHOICES_FORMAT:
            raise ValueError(f"not of format {CHOICES_FORMAT}")
        for name in set(_LATER).difference(table.column_names):
            table = table.append_column(name, pa.nulls(len(table), pa.string()))
        return RecordsInfo.from_json(document), table.select(list(_COLUMNS))
    except FileNotFoundError:
        raise InputError(f"choices: {file} does not exist; train some with scripts/collect_methods.py") from None
    except InputError:
        raise
    except (pa.ArrowException, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"choices: {file} is no file of choices ({reason}); train them again") from None
