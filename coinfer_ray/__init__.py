"""Latency-optimal splitting, pruning and feature compression of neural networks over a wireless link.

The names below are imported when they are first used, so that ``import coinfer_ray`` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from coinfer_ray.atlas.replay import replay as replay
    from coinfer_ray.errors import InputError as InputError
    from coinfer_ray.methods.compare import compare as compare
    from coinfer_ray.optimizer.optimize import Answer as Answer
    from coinfer_ray.optimizer.optimize import optimize as optimize
    from coinfer_ray.optimizer.pareto import pareto as pareto
    from coinfer_ray.optimizer.robust import robust as robust
    from coinfer_ray.predictor.fit import fit as fit
    from coinfer_ray.predictor.predictor import Predictor as Predictor
    from coinfer_ray.problem.strategy import Strategy as Strategy
    from coinfer_ray.sweeps.reader import open_sweep as open_sweep
    from coinfer_ray.sweeps.sweep import sweep as sweep

_HOMES = {
    "Answer": "coinfer_ray.optimizer.optimize",
    "InputError": "coinfer_ray.errors",
    "Predictor": "coinfer_ray.predictor.fit",
    "Strategy": "coinfer_ray.problem.space",
    "compare": "coinfer_ray.methods.compare",
    "fit": "coinfer_ray.predictor.fit",
    "optimize": "coinfer_ray.optimizer.optimize",
    "open_sweep": "coinfer_ray.sweeps.reader",
    "pareto": "coinfer_ray.optimizer.pareto",
    "replay": "coinfer_ray.atlas.replay",
    "robust": "coinfer_ray.optimizer.robust",
    "sweep": "coinfer_ray.sweeps.sweep",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from coinfer_ray.version import __version__

        return __version__
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
