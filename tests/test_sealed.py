"""A flipped bit anywhere in a file of ours ends in one line that names the file."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coinfer_ray.atlas.atlas import load_atlas
from coinfer_ray.errors import InputError
from coinfer_ray.records import choices, store
from coinfer_ray.runtime.sealed import read_sealed, write_sealed
from tests.synthetic import write_synthetic_records


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of a collection."""
    place = tmp_path_factory.mktemp("shards")
    records = store.read_records(write_synthetic_records(tmp_path_factory.mktemp("records") / "alexnet.parquet"))
    for number, row in enumerate(records.table.slice(0, 3).to_pylist()):
        store.write_records(store.shard_path(place, number), [row], records.info)
    return place


def flips(content: bytes, count: int | None, seed: int = 0) -> list[tuple[int, int]]:
    """Bytes and a bit of each: all bytes, or so many."""
    drawn = random.Random(seed)
    places = range(len(content)) if count is None else sorted(drawn.sample(range(len(content)), count))
    return [(place, drawn.randrange(8)) for place in places]


def silent(path: Path, count: int | None, read: Callable[[], Any]) -> list[tuple[int, int]]:
    """The flipped bits that ``read`` takes no notice of; whoever notices names the file in one line."""
    content = path.read_bytes()
    unseen = []
    with path.open("r+b", buffering=0) as file:  # in place: to write it anew each time would wait for the disk
        for place, bit in flips(content, count):
            os.pwrite(file.fileno(), bytes([content[place] ^ 1 << bit]), place)
            try:
                read()
                unseen.append((place, bit))
            except InputError as error:
                assert str(path) in str(error) and "\n" not in str(error)
            os.pwrite(file.fileno(), content[place : place + 1], place)
    return unseen


def test_every_byte_of_a_shard_is_checked(folder: Path) -> None:
    path = store.shard_path(folder, 1)
    assert silent(path, None, lambda: store.read_records(path)) == []


def test_a_damaged_shard_ends_what_reads_the_collection_and_what_goes_on_with_it(folder: Path) -> None:
    path = store.shard_path(folder, 1)
    assert silent(path, 100, lambda: store.finished_candidates(folder)) == []
    assert silent(path, 100, lambda: store.read_records(folder)) == []
    assert store.finished_candidates(folder) == {(0, 0), (1, 0), (2, 0)}
    content = path.read_bytes()
    path.write_bytes(content[:1000])
    told = r"candidate-000001.parquet is not a whole Parquet file .*; remove it, and running again trains its candidate"
    with pytest.raises(InputError, match=told):
        store.finished_candidates(folder)
    path.write_bytes(content)


def test_packed_records_and_choices_are_checked(folder: Path, tmp_path: Path) -> None:
    for number in (0, 2):  # whatever was done to the other
        store.write_records(
            tmp_path / f"candidate-{number:06d}.parquet",
            store.read_records(store.shard_path(folder, number)).table.to_pylist(),
            store.read_records(store.shard_path(folder, number)).info,
        )
    packed = tmp_path / "packed.parquet"
    store.pack(tmp_path, packed)
    assert silent(packed, 300, lambda: store.read_records(packed)) == []

    shipped = choices.shipped_choices("alexnet")
    path = tmp_path / "methods.parquet"
    choices.write_choices(path, shipped.table.to_pylist(), shipped.info)
    assert choices.read_choices(path).table.equals(shipped.table)
    assert silent(path, 300, lambda: choices.read_choices(path)) == []


def test_any_reader_of_parquet_reads_a_sealed_file_and_we_read_others(tmp_path: Path) -> None:
    table = pa.table({"a": [1, 2, 3], "b": ["x", None, "z"]}).replace_schema_metadata({"kept": "yes"})
    sealed, plain = tmp_path / "sealed.parquet", tmp_path / "plain.parquet"
    write_sealed(sealed, table)
    again = pq.read_table(sealed)
    assert again.equals(table) and again.schema.metadata[b"kept"] == b"yes"
    write_sealed(sealed, again)  # its own checksum is no part of what it holds
    assert read_sealed(sealed).equals(table)
    pq.write_table(table, plain)
    assert read_sealed(plain).equals(table)


def test_what_pyarrow_makes_of_a_sealed_file_is_read_as_one_without_a_checksum(folder: Path, tmp_path: Path) -> None:
    records = store.read_records(folder)
    packed, fewer = tmp_path / "packed.parquet", tmp_path / "fewer.parquet"
    store.pack(folder, packed)
    pq.write_table(pq.read_table(packed).slice(0, 2), fewer)
    assert store.read_records(fewer).table.equals(records.table.slice(0, 2))
    again = tmp_path / "again.parquet"
    store.pack(fewer, again)  # and is sealed again where we write it
    assert silent(again, 50, lambda: store.read_records(again)) == []

    content = packed.read_bytes()
    place = content.rfind(b"coinfer_ray.crc32") + len(b"coinfer_ray.crc32") + 2
    other = b"12345678" if content[place : place + 8] != b"12345678" else b"87654321"
    packed.write_bytes(content[:place] + other + content[place + 8 :])
    with pytest.raises(InputError, match=r"is not that of its bytes: damaged, or changed by another program\)"):
        store.read_records(packed)


def test_a_file_that_cannot_be_read_is_not_called_broken(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a disk refuses now it may give later: nobody is told to remove a good file."""

    def refused(path: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    path = tmp_path / "methods.parquet"
    path.touch()
    monkeypatch.setattr(Path, "read_bytes", refused)
    for read in (
        lambda: store.finished_candidates(folder),
        lambda: store.read_records(folder),
        lambda: choices.read_choices(path),
        lambda: load_atlas(path),
    ):
        with pytest.raises(InputError) as caught:
            read()
        assert str(caught.value).endswith(".parquet: cannot be read (Input/output error); mend that and run again")


def test_what_is_written_is_the_same_each_time(tmp_path: Path) -> None:
    table = pa.table({"a": [1.5, None]})
    for name in ("a", "b"):
        write_sealed(tmp_path / name, table, compression="zstd")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
