"""Scenarios: a device, a server, a link and an allowed loss of accuracy; grids of many of them.

The presets are the paper's Tables II (computing speeds) and III (uplink rates). A link is given by its rate, or by
bandwidth and signal-to-noise ratio through Shannon's R = B log2(1 + SNR) (the paper's equation for the uplink).
A grid is the product of its axes and is never materialised: any range of its scenarios is computed from their
numbers (mixed radix, the model slowest, then device, server, link and allowed loss; the confidence fastest).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from coinfer_ray.errors import InputError

if TYPE_CHECKING:
    from coinfer_ray.space import Cuts

Objective = Literal["latency", "energy"]
Given: TypeAlias = "str | Path | Mapping[str, Any]"  # a preset's name, a YAML file, or what such a file holds
T = TypeVar("T")

# Table II, FLOP/s. Table III, bit/s.
DEVICE_FLOPS_PER_S = {"rpi3b+": 0.2e9, "rpi4b": 3e9, "tk1": 326.4e9}
SERVER_FLOPS_PER_S = {"p100": 10_600e9}
LINK_RATE_BPS = {"3g": 1.19e6, "4g": 11.22e6, "5g": 52.24e6, "wifi": 54.19e6}


@dataclass(frozen=True)
class Device:
    """Where the first half runs. Powers are drawn while it computes, sends, and waits for the server."""

    name: str
    flops_per_s: float
    compute_w: float | None = None
    radio_w: float | None = None
    idle_w: float | None = None

    @classmethod
    def of(cls, given: Device | Given | None = None, gflops: float | None = None) -> Device:
        """A device from a preset's name, a YAML file, a mapping with the file's keys, or its speed alone.

        Raises:
            InputError: an unknown name (the nearest are named), an unusable file, a speed that is not above 0,
                or not exactly one of the two arguments.
        """
        from coinfer_ray.grid_file import one_device

        chosen = _one_of("device", given, {"gflops": gflops})
        return chosen if isinstance(chosen, Device) else one_device(chosen)


@dataclass(frozen=True)
class Server:
    """Where the second half runs."""

    name: str
    flops_per_s: float

    @classmethod
    def of(cls, given: Server | Given | None = None, gflops: float | None = None) -> Server:
        """A server, as :meth:`Device.of` finds a device."""
        from coinfer_ray.grid_file import one_server

        chosen = _one_of("server", given, {"gflops": gflops})
        return chosen if isinstance(chosen, Server) else one_server(chosen)


@dataclass(frozen=True)
class Link:
    """The uplink. ``snr_db`` is None where the rate is given and no noise is known of."""

    name: str
    rate_bps: float
    snr_db: float | None = None

    @classmethod
    def of(
        cls,
        given: Link | Given | None = None,
        rate_mbps: float | None = None,
        bandwidth_mhz: float | None = None,
        snr_db: float | None = None,
    ) -> Link:
        """A link, as :meth:`Device.of` finds a device; its numbers are a rate, or bandwidth and SNR together."""
        from coinfer_ray.grid_file import one_link

        numbers = {"rate_mbps": rate_mbps, "bandwidth_mhz": bandwidth_mhz, "snr_db": snr_db}
        chosen = _one_of("link", given, numbers)
        return chosen if isinstance(chosen, Link) else one_link(chosen)


@dataclass(frozen=True)
class Scenario:
    """One question: the best strategy for these, losing at most ``max_loss`` of the base accuracy (a share).

    With a ``confidence`` the predictor must be that sure of it; None takes its predictions as they are.
    """

    device: Device
    server: Server
    link: Link
    max_loss: float = 0.02
    confidence: float | None = None

    def weights(self, objective: Objective = "latency") -> tuple[float, float, float]:
        """Cost of a device FLOP, a server FLOP and an uplink bit, in seconds or in joules of the device's battery.

        Raises:
            InputError: energy is asked of a device whose powers are not known.
        """
        seconds = 1 / self.device.flops_per_s, 1 / self.server.flops_per_s, 1 / self.link.rate_bps
        if objective == "latency":
            return seconds
        compute_w, radio_w = self.device.compute_w, self.device.radio_w
        if compute_w is None or radio_w is None:
            raise InputError(
                f"device: the powers of {self.device.name} are not known; "
                "for energy give a YAML file with gflops, compute_w and radio_w"
            )
        return seconds[0] * compute_w, seconds[1] * (self.device.idle_w or 0.0), seconds[2] * radio_w


def shannon_rate_bps(bandwidth_hz: float, snr_db: float) -> float:
    """R = B log2(1 + SNR), where SNR = 10^(snr_db / 10) is a ratio of powers; no SNR in dB overflows."""
    return bandwidth_hz * float(np.logaddexp2(0.0, snr_db / 10 * math.log2(10)))


def resolve(
    *,
    device: Device | Given | None = None,
    device_gflops: float | None = None,
    server: Server | Given | None = None,
    server_gflops: float | None = None,
    link: Link | Given | None = None,
    rate_mbps: float | None = None,
    bandwidth_mhz: float | None = None,
    snr_db: float | None = None,
    max_loss: float = 0.02,
    confidence: float | None = None,
) -> Scenario:
    """One scenario from names, files, objects or numbers (see :meth:`Device.of`, :meth:`Link.of`).

    Raises:
        InputError: the first of them that cannot be used.
    """
    if not -1 < max_loss < 1:  # a negative loss asks for a strategy that is better than the base network
        raise InputError(f"max loss: {max_loss} must be in (-1, 1); it is a share of all images, 0.02 for 2 points")
    if confidence is not None:
        check_confidence(confidence)
    return Scenario(
        device=Device.of(device, device_gflops),
        server=Server.of(server, server_gflops),
        link=Link.of(link, rate_mbps, bandwidth_mhz, snr_db),
        max_loss=max_loss,
        confidence=confidence,
    )


def check_confidence(confidence: float) -> None:
    """Raise InputError unless the confidence is a probability."""
    if not 0 < confidence < 1:
        raise InputError(f"confidence: {confidence} must be in (0, 1); it is a probability, 0.95 for 95 %")


def _one_of(what: str, given: T | None, numbers: Mapping[str, float | None]) -> T | dict[str, float]:
    """The named thing or the numbers that describe one, whichever was given."""
    known = {name: value for name, value in numbers.items() if value is not None}
    if given is None and not known:
        raise InputError(f"{what}: missing; give a name, a YAML file, or numbers ({', '.join(numbers)})")
    if given is not None and known:
        raise InputError(f"{what}: {given} and {', '.join(known)} were both given; give one of them")
    return known if given is None else given


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

    @classmethod
    def load(cls, path: str | Path) -> Grid:
        """Read a grid file (the project's interface shows one).

        Raises:
            InputError: the file cannot be read, or the first thing wrong in it with its key path.
        """
        from coinfer_ray.grid_file import parse_grid, read_yaml

        return parse_grid(read_yaml(path), str(path))

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Grid:
        """The same from the mapping that a grid file holds."""
        from coinfer_ray.grid_file import parse_grid

        return parse_grid(document, "grid")

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
        if not 0 <= start <= stop <= len(self):
            raise ValueError(f"scenarios {start}..{stop} do not lie within 0..{len(self)}")
        scenario = np.arange(start, stop, dtype=np.int64)
        rest, confidence = np.divmod(scenario, len(self.confidence))
        rest, loss = np.divmod(rest, len(self.max_loss))
        columns: dict[str, NDArray[Any]] = {
            "scenario": scenario,
            "max_loss": self.max_loss[loss],
            "confidence": self.confidence[confidence],
        }
        for name, axis in (("link", self.link), ("server", self.server), ("device", self.device)):
            rest, entry = np.divmod(rest, len(axis))
            columns[name] = axis.label[entry]
            columns |= {column: values[entry] for column, values in axis.columns.items()}
        return columns | {"model": rest.astype(np.int32)}

    def weights(self, start: int, stop: int) -> NDArray[np.float64]:
        """(stop - start, 3): the latency weights (:meth:`Scenario.weights`) of each scenario."""
        columns = self.columns(start, stop)
        speeds = [columns[name] for name in ("device_flops_per_s", "server_flops_per_s", "rate_bps")]
        return 1 / np.stack(speeds, axis=1)
