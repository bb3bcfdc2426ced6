"""Accuracy records in Parquet: one row for each candidate that was really trained.

While a collection runs, each finished candidate is a shard of one row; ``pack`` joins the shards into the one
file that ships. The file's metadata says what all rows share: the network, the input size, the data, how
candidates were trained and by which versions. Records of different settings are never mixed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from coinfer_ray.errors import InputError, counted
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.library import load_graph
from coinfer_ray.models.source import ModelLike, graph_from, resolve_model
from coinfer_ray.problem.strategy import FLOAT_BITS, Codec, Strategy
from coinfer_ray.records.paired import paired_error

if TYPE_CHECKING:
    import pyarrow as pa

RECORDS_FORMAT = 1
PAPER_INPUT_PX = 224
SHARD_PATTERN = "candidate-*.parquet"
UNFINISHED = "error"  # the status of a candidate that no worker brought to an end: no result
Split = Literal["validation", "test"]
_METADATA_KEY = b"coinfer_ray.records"
_COLUMNS = {
    "candidate": "int64",  # index in the sampling plan
    "status": "string",  # "ok", or why there is no accuracy: "diverged", "out_of_memory", UNFINISHED
    "error": "string",
    "sparsity": "list<double>",  # realised, in the order of the metadata's prunable_sets
    "partition_point": "int64",
    "codec": "list<double>",  # the eight parameters, in the order of coinfer_ray.problem.strategy.Codec
    "feature_bits": "int64",  # of a value on the link; null: a float
    "snr_db": "double",  # null: noise-free
    "base_validation_accuracy": "double",  # of the base network, on the very images that the candidate is measured on
    "base_test_accuracy": "double",
    "validation_accuracy": "double",
    "test_accuracy": "double",
    "device_flop": "double",  # counted on the pruned modules, the encoder's included
    "server_flop": "double",  # the decoder's included
    "uplink_bit": "double",  # of the encoder's real output; of quantised ones after Huffman coding, where that is less
    "fine_tune_images": "int64",
    "end_to_end_images": "int64",
    "seed": "int64",
    "wall_s": "double",
    "settings_hash": "string",
    # Image by image against the base network: how many the candidate alone gets right, how many the base alone.
    "validation_gained": "int64",
    "validation_lost": "int64",
    "test_gained": "int64",
    "test_lost": "int64",
}
# Absent in files of earlier versions, whose base network was measured on all images, a candidate on the first so many.
# Those of earlier versions have floats alone, too.
_LATER = ("feature_bits", "validation_gained", "validation_lost", "test_gained", "test_lost")
# What makes a row a training of its own; where no strategy was recorded (a lost worker), its number stands for it.
_TRAINING = ("candidate", "sparsity", "partition_point", "codec", "feature_bits", "snr_db", "seed")


@dataclass(frozen=True)
class RecordsInfo:
    """What all rows of a file share. ``settings`` holds everything that decides an accuracy but the strategy.

    ``graph`` is the network's layer graph; None in files of networks whose graph ships, or of earlier versions.
    """

    model: str
    input_px: int
    prunable_sets: tuple[str, ...]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    graph: LayerGraph | None = None

    @property
    def layer_graph(self) -> LayerGraph:
        """The network's layer graph: the file's own, else the one of that name.

        Raises:
            InputError: it has none, and none is known by that name here.
        """
        return self.graph or load_graph(self.model, self.input_px)

    @property
    def settings_hash(self) -> str:
        document = json.dumps(
            [self.model, self.input_px, list(self.prunable_sets), dict(self.settings)], sort_keys=True
        )
        return hashlib.sha256(document.encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        return {
            "format": RECORDS_FORMAT,
            "model": self.model,
            "input_px": self.input_px,
            "prunable_sets": list(self.prunable_sets),
            "settings": dict(self.settings),
            "versions": dict(self.versions),
            **({} if self.graph is None else {"graph": self.graph.to_json(derived=False)}),
        }

    def check_same(self, other: RecordsInfo, mine: str, others: str, remedy: str) -> None:
        """Refuse to mix accuracies measured under different settings.

        Raises:
            InputError: names the first setting that differs, and what to do.
        """
        if self.settings_hash != other.settings_hash:
            raise InputError(f"{mine} differs from {others} in {_first_difference(other, self)}; {remedy}")

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> RecordsInfo:
        return cls(
            model=document["model"],
            input_px=document["input_px"],
            prunable_sets=tuple(document["prunable_sets"]),
            settings=document["settings"],
            versions=document["versions"],
            graph=graph_from(document["graph"], f"that of the records of {document['model']}")
            if "graph" in document
            else None,
        )


@dataclass(frozen=True)
class Records:
    """Rows that ended well, and what they share. ``failed`` counts the others."""

    info: RecordsInfo
    table: pa.Table
    failed: int
    source: str

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], info: RecordsInfo, source: str) -> Records:
        """Of rows by the names of the columns; missing values are null."""
        return cls(info, _table_of(rows, info), 0, source)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def model(self) -> str:
        return self.info.model

    @property
    def input_px(self) -> int:
        return self.info.input_px

    @property
    def graph(self) -> LayerGraph:
        """The network's layer graph (:attr:`RecordsInfo.layer_graph`)."""
        return self.info.layer_graph

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.info.settings

    @property
    def strategies(self) -> list[Strategy]:
        names = self.info.prunable_sets
        columns = ("sparsity", "partition_point", "codec", "feature_bits")
        rows = zip(*(self.table[name].to_pylist() for name in columns), strict=True)
        return [
            Strategy(dict(zip(names, sparsity, strict=True)), point, Codec.from_values(codec), bits or FLOAT_BITS)
            for sparsity, point, codec, bits in rows
        ]

    @property
    def feature_bits(self) -> np.ndarray:
        """(n,) int64: the bits of a value on the link."""
        return np.array([bits or FLOAT_BITS for bits in self.table["feature_bits"].to_pylist()], dtype=np.int64)

    def where(self, rows: np.ndarray) -> Records:
        """The records at ``rows`` (n,) bool alone."""
        import pyarrow as pa

        return replace(self, table=self.table.filter(pa.array(rows, pa.bool_())))

    @property
    def snr_db(self) -> np.ndarray | None:
        """(n,) float64, or None for records of a noise-free channel."""
        if self.table["snr_db"].null_count == len(self):
            return None
        return self._column("snr_db")

    def accuracy(self, which: Split = "validation", base: float | None = None) -> np.ndarray:
        """(n,) measured accuracies, 0..1, beside a base network of that accuracy (default: :meth:`base_accuracy`).

        On another kind of machine it gets an image or two other ones right; a candidate lost what it lost there.
        """
        measured, base = self._column(f"{which}_accuracy"), self.base_accuracy(which) if base is None else base
        moved = base - self._column(f"base_{which}_accuracy")
        return np.where(self.paired(which), measured + moved, measured)

    def base_accuracy(self, which: Split = "validation") -> float:
        """Accuracy of the network before pruning and partition, on the images that the candidates are measured on.

        Rows of earlier versions (:attr:`paired` False) hold it on all images of the split; where rows of both kinds
        meet, the others count.
        """
        paired = self.paired(which)
        return float(self._column(f"base_{which}_accuracy")[int(paired.argmax())])

    def paired(self, which: Split = "validation") -> np.ndarray:
        """(n,) bool: whether a row says image by image how its candidate differs from the base network."""
        return np.asarray(self.table[f"{which}_lost"].is_valid())

    def losses(self, which: Split = "validation") -> tuple[np.ndarray, np.ndarray]:
        """What each candidate loses against the base network, and the standard error of that: (n,) each, 0..1.

        The error is nan in rows that are not :meth:`paired`.
        """
        gained, lost = self._column(f"{which}_gained"), self._column(f"{which}_lost")
        loss = self._column(f"base_{which}_accuracy") - self._column(f"{which}_accuracy")
        return loss, paired_error(gained, lost, self.settings.get(f"{which}_images", math.nan))

    def costs(self) -> np.ndarray:
        """(n, 3) device FLOPs, server FLOPs and uplink bits, counted on the trained modules."""
        return np.column_stack([self._column(name) for name in ("device_flop", "server_flop", "uplink_bit")])

    def _column(self, name: str) -> np.ndarray:
        return np.asarray(self.table[name].to_numpy(), dtype=np.float64)


def schema(info: RecordsInfo) -> pa.Schema:
    """The columns of a records file (:data:`_COLUMNS`), with ``info`` in the metadata.

    A loss is known better than the two accuracies that it is the difference of, since both networks are measured on
    the same images: ``validation_gained`` and ``validation_lost`` count the images that only the candidate, and only
    the base network, gets right; likewise for ``test``. They are null in records of earlier versions.
    """
    import pyarrow as pa

    types = {"int64": pa.int64(), "string": pa.string(), "double": pa.float64(), "list<double>": pa.list_(pa.float64())}
    fields = [pa.field(name, types[kind]) for name, kind in _COLUMNS.items()]
    return pa.schema(fields, metadata={_METADATA_KEY: json.dumps(info.to_json(), sort_keys=True)})


def write_records(path: Path, rows: list[Mapping[str, Any]], info: RecordsInfo) -> None:
    """Write rows (missing values are null) as one whole file, with its checksum."""
    from coinfer_ray.runtime.sealed import write_sealed

    write_sealed(path, _table_of(rows, info))


def _table_of(rows: Sequence[Mapping[str, Any]], info: RecordsInfo) -> pa.Table:
    import pyarrow as pa

    full = [{name: row.get(name) for name in _COLUMNS} | {"settings_hash": info.settings_hash} for row in rows]
    return pa.Table.from_pylist(full, schema=schema(info))


def shard_path(folder: Path, candidate: int, repeat: int = 0) -> Path:
    """The file of a candidate's record. Repeats: the same strategy trained again with another seed."""
    return folder / f"candidate-{candidate:06d}{f'-{repeat}' if repeat else ''}.parquet"


def finished_candidates(folder: Path) -> set[tuple[int, int]]:
    """Candidates and repeats whose shard is on disk, but for those that no worker brought to an end.

    Raises:
        InputError: a shard is not as it was written.
    """
    found = set()
    for path in sorted(folder.glob(SHARD_PATTERN)):
        table = _whole(path, "remove it, and running again trains its candidate anew")
        if "status" in table.column_names and UNFINISHED in table["status"].to_pylist():
            continue
        _, number, *repeat = path.stem.split("-")
        found.add((int(number), int(repeat[0]) if repeat else 0))
    return found


def read_records(source: str | Path | Sequence[str | Path], *, model: str | None = None) -> Records:
    """Read a records file, all shards of a collection's folder, or several of either.

    The bare name of a file that ships, ``alexnet-64px.awgn.parquet`` say, is found wherever the package lies. A
    training that several of them hold, as a packed file and its folder do, counts once.

    Raises:
        InputError: nothing there, a truncated or foreign Parquet file, missing columns, rows of different
            settings, records of a network other than ``model``, or no candidate that ended well.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    paths = [Path(source)] if isinstance(source, str | Path) else [Path(each) for each in source]
    named = ", ".join(map(str, paths))
    files = [file for path in paths for file in _record_files(path)]
    if not files:
        raise InputError("records: none given; give a records file or the folder of `coinfer collect`")
    tables = [_read_file(file) for file in files]
    infos = [RecordsInfo.from_json(json.loads(table.schema.metadata[_METADATA_KEY])) for table in tables]
    for file, info in zip(files, infos, strict=True):
        there = files[0].name if file.parent == files[0].parent else files[0]
        info.check_same(infos[0], f"records: {file}", str(there), "fit them apart")
    if model is not None and infos[0].model != model:
        raise InputError(f"records: {named} are of {infos[0].model}, not of {model}; give records of {model}")
    table = _each_once(pa.concat_tables([part.select(list(_COLUMNS)) for part in tables])).sort_by(
        [("candidate", "ascending"), ("seed", "ascending")]
    )
    ok = table.filter(pc.equal(table["status"], "ok"))
    if not ok.num_rows:
        raise InputError(
            f"records: {named} has {counted(table.num_rows, 'row')}, none with status ok; collect candidates first"
        )
    info = next((each for each in infos if each.graph is not None), infos[0])
    return Records(info, ok, table.num_rows - ok.num_rows, named)


def _record_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path if path.exists() else shipped_file(path) or path]
    shards = sorted(path.glob(SHARD_PATTERN))
    if not shards:
        raise InputError(
            f"records: {path} holds no {SHARD_PATTERN}; give a records file or the folder of `coinfer collect`"
        )
    return shards


def _each_once(table: pa.Table) -> pa.Table:
    """The table without rows that repeat a training: same strategy, channel and seed."""
    columns = [table[name].to_pylist() for name in _TRAINING]
    bits = _TRAINING.index("feature_bits")
    columns[bits] = [value or FLOAT_BITS for value in columns[bits]]  # null and 32 say the same
    first: dict[str, int] = {}
    for row, training in enumerate(zip(*columns, strict=True)):
        first.setdefault(repr(training), row)
    return table if len(first) == len(table) else table.take(list(first.values()))


def pack(source: str | Path | Sequence[str | Path], path: str | Path) -> Records:
    """Join the shards of a collection, or several of such folders and files, into one file, failed candidates included.

    Raises:
        InputError: a folder without records (:func:`read_records`), or ``path`` is there and no file of records.
    """
    import pyarrow as pa

    from coinfer_ray.runtime.outputs import check_replaceable
    from coinfer_ray.runtime.sealed import write_sealed

    path = Path(path)
    check_replaceable(path, "records")
    records = read_records(source)
    folders = [source] if isinstance(source, str | Path) else source
    tables = [_read_file(file) for each in folders for file in _record_files(Path(each))]
    rows = _each_once(pa.concat_tables([part.select(tables[0].column_names) for part in tables]))
    table = rows.sort_by([("candidate", "ascending"), ("seed", "ascending")])
    table = table.replace_schema_metadata(tables[0].schema.metadata)
    write_sealed(path, table, compression="zstd")
    return records


def usual_input_px(model: ModelLike) -> int:
    """The side of a network's input in pixels where none is asked for and no records are given: that of the records
    that ship for it, the largest, or of its graph's file; for other networks the paper's 224."""
    source = resolve_model(model)
    if source.kind == "graph":
        return int(source.given.input_px)
    try:
        return int(shipped_records(source.name).name.rpartition("-")[2].partition("px")[0])
    except InputError:
        return PAPER_INPUT_PX


def shipped_records(model: str, input_px: int | None = None) -> Path:
    """The records that ship for a network: of the given input size, else of the largest.

    Raises:
        InputError: none ship for it; the message says which do.
    """
    found = _shipped()
    sizes = shipped_sizes(model)
    if not sizes or (input_px is not None and input_px not in sizes):
        have = ", ".join(f"{name} at {pixels} px" for name, pixels in sorted(found)) or "none"
        wanted = model if input_px is None else f"{model} at {input_px} px"
        raise InputError(f"records: none ship for {wanted} (shipped: {have}); collect some and pass --records PATH")
    return found[model, input_px or sizes[-1]]


def shipped_parts(model: str, input_px: int | None = None) -> list[Path]:
    """The records that ship for a network, and beside them those of quantised features where there are some.

    Raises:
        InputError: as :func:`shipped_records`.
    """
    return with_few_bits(shipped_records(model, input_px))


def with_few_bits(records: Path) -> list[Path]:
    """``records``, and where that file ships the records of quantised features that ship beside it."""
    ships = shipped_file(records)
    few_bits = None if ships is None else few_bits_beside(ships)
    return [records] if few_bits is None or not few_bits.is_file() else [records, few_bits]


def few_bits_beside(records: Path) -> Path:
    """Where the records of quantised features that belong to shipped ones lie, or belong."""
    return records.with_name(f"{records.stem}.quantised.parquet")


def noisy_beside(records: Path) -> Path:
    """Where the records through noise that belong to shipped ones lie, or belong."""
    return records.with_name(f"{records.stem}.awgn.parquet")


def shipped_sizes(model: str) -> list[int]:
    """Input sizes in pixels, rising, at which noise-free records of the network ship."""
    return sorted(pixels for name, pixels in _shipped() if name == model)


def _shipped() -> dict[tuple[str, int], Path]:
    found = {}
    for path in sorted(_shipped_folder().glob("*-*px.parquet")):
        name, _, pixels = path.stem.rpartition("-")
        found[name, int(pixels.removesuffix("px"))] = path
    return found


def shipped_file(path: str | Path) -> Path | None:
    """The shipped records file that ``path`` names, by its whole path or, where nothing of that name lies in the
    current folder, by its bare name; None where it names none."""
    path = Path(path)
    ships = _shipped_folder() / path.name
    bare = path.name == str(path) and not path.exists()
    return ships if ships.is_file() and (bare or path.resolve() == ships.resolve()) else None


def _shipped_folder() -> Path:
    return Path(str(resources.files("coinfer_ray.records") / "shipped"))


def _whole(path: Path, remedy: str) -> pa.Table:
    """The rows of a file that is as it was written; InputError, with what to do, where it is not."""
    import pyarrow as pa

    from coinfer_ray.runtime.sealed import read_sealed

    try:
        return read_sealed(path)
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"records: {path} is not a whole Parquet file ({reason}); {remedy}") from None


def _read_file(path: Path) -> pa.Table:
    import pyarrow as pa

    if not path.is_file():
        raise InputError(f"records: {path} does not exist; give a records file or the folder of `coinfer collect`")
    table = _whole(path, "collect or copy it again")
    for name in _LATER:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), pa.int64()))
    missing = [name for name in _COLUMNS if name not in table.column_names]
    if missing:
        raise InputError(f"records: {path} lacks the columns {', '.join(missing)}; write it with `coinfer collect`")
    metadata = table.schema.metadata or {}
    if _METADATA_KEY not in metadata or json.loads(metadata[_METADATA_KEY]).get("format") != RECORDS_FORMAT:
        raise InputError(
            f"records: {path} has no metadata of coinfer's records format {RECORDS_FORMAT}; collect it again"
        )
    return table


def _first_difference(a: RecordsInfo, b: RecordsInfo) -> str:
    flat_a, flat_b = _flat(a), _flat(b)
    for name in sorted(flat_a.keys() | flat_b.keys()):
        if flat_a.get(name) != flat_b.get(name):
            return f"{name} ({flat_b.get(name)} against {flat_a.get(name)})"
    return "nothing that is recorded"


def _flat(info: RecordsInfo) -> dict[str, Any]:
    """Everything that the settings' hash covers, under key paths."""
    flat: dict[str, Any] = {"model": info.model, "input_px": info.input_px, "prunable_sets": info.prunable_sets}
    pending = list(info.settings.items())
    while pending:
        name, value = pending.pop()
        if isinstance(value, Mapping):
            pending += [(f"{name}.{key}", each) for key, each in value.items()]
        else:
            flat[name] = value
    return flat
