"""Latency-optimal splitting, pruning and feature compression of neural networks over a wireless link.

The names below are imported when they are first used, so that ``import coinfer_ray`` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from coinfer_ray.comparison import compare as compare
    from coinfer_ray.errors import InputError as InputError
    from coinfer_ray.predictor import Predictor as Predictor
    from coinfer_ray.predictor import fit as fit
    from coinfer_ray.search import Answer as Answer
    from coinfer_ray.search import optimize as optimize
    from coinfer_ray.space import Strategy as Strategy
    from coinfer_ray.sweeps import sweep as sweep

_HOMES = {
    "Answer": "coinfer_ray.search",
    "InputError": "coinfer_ray.errors",
    "Predictor": "coinfer_ray.predictor",
    "Strategy": "coinfer_ray.space",
    "compare": "coinfer_ray.comparison",
    "fit": "coinfer_ray.predictor",
    "optimize": "coinfer_ray.search",
    "sweep": "coinfer_ray.sweeps",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("coinfer-ray")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
