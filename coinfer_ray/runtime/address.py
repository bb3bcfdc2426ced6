"""Addresses of stores beside paths: which is which, and who takes which."""

from __future__ import annotations

import re
from pathlib import Path

from coinfer_ray.errors import InputError

SCHEMES = ("s3", "gs", "gcs", "hdfs", "viewfs", "file")
Place = str | Path
_ADDRESS = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):/(/?)(.*)", re.DOTALL)


def as_address(place: Place) -> str | None:
    """The address that ``place`` is (``s3://bucket/prefix``), None for a path.

    ``pathlib`` makes one slash of two; of the schemes that we know it is taken back.
    """
    found = _ADDRESS.fullmatch(str(place))
    if found is None or not (found[2] or (isinstance(place, Path) and found[1].lower() in SCHEMES)):
        return None
    return f"{found[1].lower()}://{found[3]}"


def refuse_address(path: Place) -> None:
    """Raise InputError where the output of a command that writes to this machine's folders alone is an address, of
    which pathlib would make a folder called ``s3:``."""
    address = as_address(path)
    if address is not None:
        raise InputError(
            f"out: {address} is an address, and only `coinfer sweep --out {address}` writes to one; give a path"
        )
