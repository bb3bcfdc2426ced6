"""Grids of scenarios: the product of their axes, never held whole."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coinfer_ray.scenarios.scenario import check_confidence

if TYPE_CHECKING:
    from coinfer_ray.problem.space import Cuts

SPEEDS = {"device": "device_flops_per_s", "server": "server_flops_per_s", "link": "rate_bps"}
AXES = ("model", "device", "server", "link", "max_loss", "confidence")  # the last varies fastest


@dataclass(frozen=True, eq=False)
class Axis:
    """n entries of one axis of a grid: ``labels[label[i]]`` names entry i, ``columns[name][i]`` is its number."""

    labels: tuple[str, ...]
    label: NDArray[np.int32]
    columns: dict[str, NDArray[np.float64]]

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True, eq=False)
class Grid:
    """All combinations of its axes. Scenario numbers run from 0 to ``len(grid) - 1``.

    ``document`` is the grid as JSON can say it, with files and presets resolved: two grids with equal documents
    hold the same scenarios under the same numbers.
    """

    models: tuple[str, ...]
    device: Axis
    server: Axis
    link: Axis
    max_loss: NDArray[np.float64]
    confidence: NDArray[np.float64]  # NaN where predictions are taken as they are
    seed: int
    cuts: Cuts
    document: dict[str, Any]

    def __len__(self) -> int:
        return len(self.models) * self.per_model

    @property
    def per_model(self) -> int:
        """Scenarios of one model; model m owns the numbers from ``m * per_model``."""
        return len(self.device) * len(self.server) * len(self.link) * len(self.max_loss) * len(self.confidence)

    def asking(self, confidence: float) -> Grid:
        """The same scenarios with that confidence instead of the grid's own.

        Raises:
            InputError: it is no probability.
        """
        check_confidence(confidence)
        document = self.document | {"confidence": [confidence]}
        return replace(self, confidence=np.array([confidence]), document=document)

    def columns(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """The scenarios ``start`` to ``stop - 1`` as arrays (stop - start,).

        ``scenario`` int64 is their number; ``model``, ``device``, ``server`` and ``link`` int32 index
        ``self.models`` and the axes' labels; ``device_flops_per_s``, ``server_flops_per_s``, ``rate_bps``,
        ``snr_db`` (NaN where there is none), ``max_loss`` and ``confidence`` (NaN where none is asked) are float64.

        Raises:
            ValueError: the range does not lie within the grid.
        """
        entries = self.entries(start, stop)
        columns: dict[str, NDArray[Any]] = {
            "scenario": np.arange(start, stop, dtype=np.int64),
            "model": entries["model"],
            "max_loss": self.max_loss[entries["max_loss"]],
            "confidence": self.confidence[entries["confidence"]],
        }
        for name in ("link", "server", "device"):
            axis: Axis = getattr(self, name)
            columns[name] = axis.label[entries[name]]
            columns |= {column: values[entries[name]] for column, values in axis.columns.items()}
        return columns

    def entries(self, start: int, stop: int) -> dict[str, NDArray[np.int32]]:
        """Which entry of each axis (``model``, ``device``, ``server``, ``link``, ``max_loss``, ``confidence``) the
        scenarios ``start`` to ``stop - 1`` have, (stop - start,) each.

        Raises:
            ValueError: the range does not lie within the grid.
        """
        if not 0 <= start <= stop <= len(self):
            raise ValueError(f"scenarios {start}..{stop} do not lie within 0..{len(self)}")
        found, stride = {}, 1
        for name in reversed(AXES):
            size = len(self.models if name == "model" else getattr(self, name))
            # An axis repeats each of its entries so often: runs are copied, where a division for each scenario costs
            # several times as much.
            first, last = start // stride, max(start, stop - 1) // stride
            codes = (np.arange(first, last + 1) % size).astype(np.int32) if size > 1 else np.zeros(1, dtype=np.int32)
            if size == 1:
                found[name] = np.repeat(codes, stop - start)
            elif stride <= stop - start:
                found[name] = np.repeat(codes, stride)[start - first * stride :][: stop - start]
            else:  # a run or two, of which each may be far longer than what is asked for
                runs = np.full(len(codes), stride, dtype=np.int64)
                runs[0] -= start - first * stride
                runs[-1] -= (last + 1) * stride - stop
                found[name] = np.repeat(codes, runs)
            stride *= size
        return found

    def weights(self, start: int, stop: int) -> NDArray[np.float64]:
        """(stop - start, 3): the latency weights (:meth:`Scenario.weights`) of each scenario."""
        entries, weights = self.entries(start, stop), np.empty((stop - start, 3))
        for column, (name, speed) in enumerate(SPEEDS.items()):
            axis: Axis = getattr(self, name)
            weights[:, column] = (1 / axis.columns[speed])[entries[name]]
        return weights
