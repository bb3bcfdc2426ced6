"""The user's cache folder: what can be made again at any time, kept so that it need not be."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "COINFER_CACHE_DIR"


def cache_folder(part: str) -> Path | None:
    """Where ``part`` of the cache belongs: in ``$COINFER_CACHE_DIR``, else in ``$XDG_CACHE_HOME`` or ``~/.cache``.

    The folder need not exist. None where there is no home folder either, or where the variable is set to nothing,
    which turns the cache off.
    """
    given = os.environ.get(CACHE_VARIABLE)
    if given is not None:
        return Path(given) / part if given else None
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return root / "coinfer-ray" / part
