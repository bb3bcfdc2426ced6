"""Grids of scenarios: the product of their axes, never held whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from coinfer_ray.errors import InputError
from coinfer_ray.scenarios.scenario import check_confidence

if TYPE_CHECKING:
    from coinfer_ray.problem.costs import Times
    from coinfer_ray.problem.network_times import SideTimes
    from coinfer_ray.problem.space import Cuts

SPEEDS = {"device": "device_flops_per_s", "server": "server_flops_per_s", "link": "rate_bps"}
GridObjective = Literal["latency", "energy"]
AXES = ("model", "device", "server", "link", "max_loss", "confidence")  # the last varies fastest


@dataclass(frozen=True, eq=False)
class Axis:
    """n entries of one axis of a grid: ``labels[label[i]]`` names entry i, ``columns[name][i]`` is its number, or
    ``columns[name][m, i]`` where network m of the grid has its own. ``times[i]``, where it is there, are the measured
    times of layers on entry i, whose costs are seconds (:mod:`coinfer_ray.problem.layer_times`,
    :mod:`coinfer_ray.problem.network_times`)."""

    labels: tuple[str, ...]
    label: NDArray[np.int32]
    columns: dict[str, NDArray[np.float64]]
    times: Mapping[int, SideTimes] = field(default_factory=dict)
    powers: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)  # (n,) each, NaN where not known

    def only(self, times: SideTimes | None) -> Axis:
        """The entries with these times alone."""
        rows = [row for row in range(len(self)) if self.times.get(row) == times]
        columns = {name: values[..., rows] for name, values in self.columns.items()}
        kept = {} if times is None else dict.fromkeys(range(len(rows)), times)
        powers = {name: values[rows] for name, values in self.powers.items()}
        return Axis(self.labels, self.label[rows], columns, kept, powers)

    def numbers(
        self, column: str, model: NDArray[np.int32], entry: NDArray[np.int32], *, invert: bool = False
    ) -> NDArray[np.float64]:
        """(S,) the column's number, or its inverse, for each scenario's network and entry (S,)."""
        values = 1 / self.columns[column] if invert else self.columns[column]
        return values[entry] if values.ndim == 1 else values[model, entry]

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True, eq=False)
class Grid:
    """All combinations of its axes. Scenario numbers run from 0 to ``len(grid) - 1``.

    ``document`` is the grid as JSON can say it, with files and presets resolved: two grids with equal documents
    hold the same scenarios under the same numbers. ``objective``: what the best strategy has least of.
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
    objective: GridObjective = "latency"

    def __len__(self) -> int:
        return len(self.models) * self.per_model

    @property
    def per_model(self) -> int:
        """Scenarios of one model; model m owns the numbers from ``m * per_model``."""
        return len(self.device) * len(self.server) * len(self.link) * len(self.max_loss) * len(self.confidence)

    def asking(self, confidence: float) -> Grid:
        """The same scenarios with that confidence instead of the grid's own; 0: predictions as they are.

        Raises:
            InputError: it is no probability.
        """
        if confidence:
            check_confidence(confidence)
        asked = np.array([confidence or np.nan])
        if np.array_equal(asked, self.confidence, equal_nan=True):
            return self
        return replace(self, confidence=asked, document=self.document | {"confidence": [confidence or None]})

    def with_round_trip(self, round_trip_s: float) -> Grid:
        """The same scenarios with that round trip (s) on every link."""
        columns = {**self.link.columns, "round_trip_s": np.full(len(self.link), round_trip_s)}
        document = self.document | {"round_trip_ms": round_trip_s * 1e3}
        return replace(self, link=replace(self.link, columns=columns), document=document)

    @property
    def pairs_of_times(self) -> list[Times]:
        """The pairs of measured times of a device's layers and a server's (None: operations count) that occur."""
        sides = [
            list(dict.fromkeys([*axis.times.values(), *([None] if len(axis.times) < len(axis) else [])]))
            for axis in (self.device, self.server)
        ]
        return [(device, server) for device in sides[0] for server in sides[1]]

    def times(self, scenario: int) -> Times:
        """The pair of one scenario."""
        rest = scenario % self.per_model // (self.per_model // (len(self.device) * len(self.server)))
        device, server = divmod(rest, len(self.server))
        return self.device.times.get(device), self.server.times.get(server)

    def stretches_of_times(self, model: int) -> list[tuple[int, int]]:
        """The scenarios of network ``model`` (an index) as ranges (first, stop), each of one pair throughout."""
        first, size = model * self.per_model, self.per_model // (len(self.device) * len(self.server))
        if not (self.device.times or self.server.times):
            return [(first, first + self.per_model)]
        starts = range(first, first + self.per_model, size)
        changes = [start for start in starts if start == first or self.times(start) != self.times(start - 1)]
        return list(zip(changes, [*changes[1:], first + self.per_model], strict=True))

    def of_times(self, times: Times) -> Grid:
        """The scenarios of one pair, under other numbers."""
        if not (self.device.times or self.server.times):
            return self
        return replace(self, device=self.device.only(times[0]), server=self.server.only(times[1]))

    @property
    def crossing_takes_time(self) -> bool:
        """Whether crossing the link takes time by itself in any of the scenarios."""
        return bool(self.link.columns["round_trip_s"].any() or self.server.columns["per_crossing_s"].any())

    def columns(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """The scenarios ``start`` to ``stop - 1`` as arrays (stop - start,).

        ``scenario`` int64 is their number; ``model``, ``device``, ``server`` and ``link`` int32 index ``self.models``
        and the axes' labels; ``device_flops_per_s``, ``server_flops_per_s``, ``per_crossing_s``, ``rate_bps``,
        ``round_trip_s``, ``snr_db`` (NaN where there is none), ``max_loss`` and ``confidence`` (NaN where none is
        asked) are float64.

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
            columns |= {column: axis.numbers(column, entries["model"], entries[name]) for column in axis.columns}
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
        """(stop - start, 3): the latency weights (:meth:`Scenario.weights`) of each scenario; (stop - start, 4) where
        :attr:`crossing_takes_time`."""
        entries, weights = self.entries(start, stop), np.empty((stop - start, 4 if self.crossing_takes_time else 3))
        for column, (name, speed) in enumerate(SPEEDS.items()):
            axis: Axis = getattr(self, name)
            weights[:, column] = axis.numbers(speed, entries["model"], entries[name], invert=True)
        if self.crossing_takes_time:
            trip = self.link.columns["round_trip_s"][entries["link"]]
            weights[:, 3] = trip + self.server.columns["per_crossing_s"][entries["server"]]
        return weights

    @property
    def knows_energy(self) -> bool:
        """Whether the energy of any scenario is known."""
        known = ~np.isnan(self.device.powers["compute_w"])
        own = known & ~np.isnan(self.device.powers["radio_w"])
        return bool(own.any() or (known.any() and not np.isnan(self._radio_w()).all()))

    def _radio_w(self) -> NDArray[np.float64]:
        """(links,) what sending over each draws of a device that does not say so itself (W); NaN beyond the rates at
        which it is known (:class:`coinfer_ray.scenarios.scenario.RadioPower`)."""
        link, rate = self.link.powers, self.link.columns["rate_bps"]
        power = link["base_w"] + link["w_per_mbps"] * rate / 1e6
        return np.where(rate > link["up_to_mbps"] * 1e6, np.nan, power)

    def energy_weights(self, start: int, stop: int) -> NDArray[np.float64]:
        """(stop - start, 3) or (stop - start, 4): the weights of each scenario in joules (:meth:`Scenario.weights`),
        NaN where powers are not known."""
        entries, weights = self.entries(start, stop), self.weights(start, stop)
        device = {name: values[entries["device"]] for name, values in self.device.powers.items()}
        radio = np.where(np.isnan(device["radio_w"]), self._radio_w()[entries["link"]], device["radio_w"])
        idle = np.nan_to_num(device["idle_w"])
        weights[:, 0] *= device["compute_w"]
        weights[:, 1] *= idle
        weights[:, 2] *= radio
        if self.crossing_takes_time:
            weights[:, 3] *= idle
        return weights

    def objective_weights(self, start: int, stop: int) -> NDArray[np.float64]:
        """The weights of what the grid asks for."""
        return self.weights(start, stop) if self.objective == "latency" else self.energy_weights(start, stop)

    def energy_ratios(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Least and greatest weight in joules of the device, and of the uplink, over the server's, within which those
        of all scenarios lie.

        Raises:
            InputError: a device draws nothing while it waits, or what it draws is not known.
        """
        idle = self.device.powers["idle_w"]
        if not (idle > 0).all():
            name = self.device.labels[self.device.label[np.flatnonzero(~(idle > 0))[0]]]
            raise InputError(
                f"solver: an atlas of energies needs what {name} draws while it waits, above 0; give it an idle_w, or "
                "take exact"
            )
        radio, rate, speeds = self.device.powers["radio_w"], self.link.columns["rate_bps"], self.device.columns
        own = ~np.isnan(radio)
        pairs = [(radio[own] / idle[own], 1 / rate), (1 / idle[~own], self._radio_w() / rate)]
        products = [_products(_ends(of_device), _ends(of_link)) for of_device, of_link in pairs if len(of_device)]
        uplink = min(low for low, _ in products), max(high for _, high in products)
        server = _ends(self.server.columns["server_flops_per_s"])
        device = _ends(self.device.powers["compute_w"] / idle / speeds["device_flops_per_s"])
        return _products(device, server), _products(uplink, server)

    def check_powers(self) -> None:
        """Raise InputError where the energy of a scenario is not known, naming its device or its link."""
        compute_w, radio_w = (self.device.powers[name] for name in ("compute_w", "radio_w"))
        power, rates = self._radio_w(), self.link.columns["rate_bps"]
        needs_link = np.isnan(radio_w)
        silent = np.isnan(self.link.powers["base_w"])
        for unknown in (np.isnan(compute_w), needs_link & silent.any()):
            if not unknown.any():
                continue
            name = self.device.labels[self.device.label[np.flatnonzero(unknown)[0]]]
            if np.isnan(compute_w).any():
                raise InputError(
                    f"device: the powers of {name} are not known; for energy give it compute_w and radio_w in a file"
                )
            link = self.link.labels[self.link.label[np.flatnonzero(silent)[0]]]
            raise InputError(
                f"link: what sending draws is known neither of {name} nor of {link}; for energy give the device a "
                "radio_w, or take links with a radio such as 4g-typical"
            )
        if needs_link.any() and np.isnan(power).any():
            link = int(np.flatnonzero(np.isnan(power))[0])
            raise InputError(
                f"link: the radio's power of {self.link.labels[self.link.label[link]]} is known up to "
                f"{self.link.powers['up_to_mbps'][link]:g} Mb/s, and it has {rates[link] / 1e6:g}; give the device a "
                "radio_w, or a slower link"
            )


def _ends(values: NDArray[np.float64]) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _products(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    """The ends of the products of two ranges above 0."""
    return a[0] * b[0], a[1] * b[1]
