"""Parquet files that say whether they are as they were written: a CRC-32 of every byte, among their metadata.

Parquet decodes most flipped bits to other numbers without a word. Its own checksums are of pages alone and leave out
the footer, where the settings stand that make numbers comparable. The checksum here is of the whole file, with zeros in
its own place; a second key says that there is one, so that it cannot be lost unseen. Any reader of Parquet reads
such a file. Those of earlier versions, without the keys, are read as they are, and so is what pyarrow makes of a sealed
file: it writes the keys anew as they stand in the schema, with zeros for the checksum, which no damage leaves there.
"""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from coinfer_ray.errors import InputError
from coinfer_ray.runtime.files import write_whole

if TYPE_CHECKING:
    import pyarrow as pa

_SEALED = b"coinfer_ray.sealed"  # says that there is a checksum
_CRC32 = b"coinfer_ray.crc32"  # of the file, where its own eight digits are zeros
_ZEROS = b"0" * 8
_PREFIX = 2  # bytes between a key and its value: the field's header and the value's length


def write_sealed(path: str | Path, table: pa.Table, compression: str = "snappy") -> None:
    """Write one whole file with its checksum (:func:`coinfer_ray.runtime.files.write_whole`).

    Raises:
        OSError: it cannot be written.
    """
    import pyarrow.parquet as pq

    metadata = {**(table.schema.metadata or {}), _SEALED: b"1", _CRC32: _ZEROS}
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), sink, compression=compression)
    content = bytearray(sink.getvalue())
    digits = _digits(content)
    if content[digits] != _ZEROS:
        raise RuntimeError("a Parquet file whose metadata stand otherwise than they are written here")
    content[digits] = b"%08x" % zlib.crc32(content)
    write_whole(path, lambda temporary: temporary.write_bytes(content))


def read_sealed(path: str | Path) -> pa.Table:
    """Read a Parquet file, its checksum first where it has one.

    Raises:
        FileNotFoundError: it is not there.
        InputError: it cannot be read, which says nothing of what it holds.
        pyarrow.ArrowException: it is no whole Parquet file, or not as it was written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        content = bytearray(Path(path).read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); mend that and run again") from None
    if (_SEALED in content) or (_CRC32 in content):
        digits = _digits(content)
        told, content[digits] = bytes(content[digits]), _ZEROS
        anew = _SEALED in content and told == _ZEROS
        if not anew and (_SEALED not in content or told != b"%08x" % zlib.crc32(content)):
            raise pa.ArrowInvalid("its checksum is not that of its bytes: damaged, or changed by another program")
        content[digits] = told
    try:
        # Not pq.read_table: a process that ended right after it sometimes aborted over the threads that it starts.
        return pq.ParquetFile(pa.BufferReader(pa.py_buffer(content))).read(use_threads=False)
    except OSError as error:  # what pyarrow says of some broken files
        raise pa.ArrowInvalid(str(error)) from None


def _digits(content: bytearray) -> slice:
    """Where the checksum stands in a file: behind its key, at the file's start where the key is broken."""
    begin = content.rfind(_CRC32)
    begin = 0 if begin < 0 else begin + len(_CRC32) + _PREFIX
    return slice(begin, begin + len(_ZEROS))
