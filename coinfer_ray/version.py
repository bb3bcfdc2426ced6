"""The installed version of the package."""

from __future__ import annotations

from importlib import metadata


def _version() -> str:
    try:
        return metadata.version("coinfer-ray")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


__version__ = _version()
