"""Scenarios: a device, a server, a link and an allowed loss of accuracy; grids of many of them.

The presets are the paper's Tables II (computing speeds) and III (uplink rates). A link is given by its rate, or by
bandwidth and signal-to-noise ratio through Shannon's R = B log2(1 + SNR) (the paper's equation 5).
A grid is the product of its axes and is never materialised: any range of its scenarios is computed from their
numbers (mixed radix, the model slowest, then device, server, link and allowed loss; the confidence fastest).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from coinfer_ray.errors import InputError, check_name

if TYPE_CHECKING:
    from coinfer_ray.problem.network_times import SideTimes

DEFAULT_CONFIDENCE = 0.9

Objective = Literal["latency", "energy", "weighted"]  # weighted sums of a strategy's costs
Goal = Literal["latency", "energy", "weighted", "throughput"]  # the last is no sum: a stream's slowest stage counts
CostModel = Literal["flops", "layers", "profile"]  # operations over a speed; measured times of layers, of the network
Given: TypeAlias = "str | Path | Mapping[str, Any]"  # a preset's name, a YAML file, or what such a file holds

# Table II, FLOP/s. Table III, bit/s.
DEVICE_FLOPS_PER_S = {"rpi3b+": 0.2e9, "rpi4b": 3e9, "tk1": 326.4e9}
SERVER_FLOPS_PER_S = {"p100": 10_600e9}
LINK_RATE_BPS = {"3g": 1.19e6, "4g": 11.22e6, "5g": 52.24e6, "wifi": 54.19e6}


@dataclass(frozen=True)
class Device:
    """Where the first half runs. Powers are drawn while it computes, sends, and waits for the server (W).

    With ``times`` of its layers, which were measured, its costs are seconds already, and ``flops_per_s`` is 1.
    """

    name: str
    flops_per_s: float
    compute_w: float | None = None
    radio_w: float | None = None
    idle_w: float | None = None
    times: SideTimes | None = None


@dataclass(frozen=True)
class Server:
    """Where the second half runs. ``per_crossing_s`` is what it takes to take in a request and to answer it (s).

    Other work on it is in ``flops_per_s``, which is then less, and less than 1 where its costs are seconds. ``times``
    as a :class:`Device` has them.
    """

    name: str
    flops_per_s: float
    per_crossing_s: float = 0.0
    times: SideTimes | None = None


@dataclass(frozen=True)
class RadioPower:
    """What a device's radio draws while it sends: ``base_w`` + ``w_per_mbps`` times the rate in Mb/s (W).

    Measured up to ``up_to_mbps``. Beyond that the line says nothing: at 50 Mb/s one of 2012 would draw 15 W.
    """

    base_w: float
    w_per_mbps: float
    up_to_mbps: float

    def at(self, rate_bps: float) -> float:
        """The power at a rate (W).

        Raises:
            InputError: the rate lies beyond what was measured.
        """
        if rate_bps > self.up_to_mbps * 1e6:
            raise InputError(
                f"link: the radio's power is known up to {self.up_to_mbps:g} Mb/s, and this link has "
                f"{rate_bps / 1e6:g}; give the device's file a radio_w, or a slower link"
            )
        return self.base_w + self.w_per_mbps * rate_bps / 1e6


@dataclass(frozen=True)
class Link:
    """The uplink. ``snr_db`` is None where the rate is given and no noise is known of.

    ``round_trip_s`` is the time that a request and its answer are on their way, whatever their size (s). ``radio`` is
    what sending draws of a device that does not say so itself.
    """

    name: str
    rate_bps: float
    snr_db: float | None = None
    round_trip_s: float = 0.0
    radio: RadioPower | None = None


@dataclass(frozen=True)
class Scenario:
    """One question: the best strategy for these, losing at most ``max_loss`` of the base accuracy (a share).

    Of the answers that a ``confidence`` is asked of, at least that share keeps the bound
    (:mod:`coinfer_ray.predictor.calibration`); None takes predictions as they are. ``seconds_per_joule``: the price of
    the device's energy in the weighted objective, None where that is not asked for.
    """

    device: Device
    server: Server
    link: Link
    max_loss: float = 0.02
    confidence: float | None = DEFAULT_CONFIDENCE
    seconds_per_joule: float | None = None

    def priced(self, objective: Goal, seconds_per_joule: float | None) -> Scenario:
        """The scenario with that price of energy, which the ``weighted`` objective needs and no other has.

        Raises:
            InputError: an unknown objective; a price that is missing, not above 0, or of no use.
        """
        check_name("objective", objective, get_args(Goal))
        if objective != "weighted":
            if seconds_per_joule is not None:
                raise InputError(
                    f"seconds per joule: is the price of energy in the weighted objective, and {objective} was asked "
                    "for; give --objective weighted, or leave it out"
                )
            return self
        if seconds_per_joule is None:
            raise InputError(
                "objective: weighted is seconds and a price for energy; give the price by --seconds-per-joule"
            )
        if not 0 < seconds_per_joule < math.inf:
            raise InputError(f"seconds per joule: {seconds_per_joule:g} must be above 0, and finite")
        return replace(self, seconds_per_joule=seconds_per_joule)

    @property
    def times(self) -> tuple[SideTimes | None, SideTimes | None]:
        """The measured times of the device's layers and of the server's, for the problem that it is of."""
        return self.device.times, self.server.times

    @property
    def crossing_s(self) -> float:
        """What crossing the link takes, however little is sent: one round trip, and the server's own time for it."""
        return self.link.round_trip_s + self.server.per_crossing_s

    def weights(self, objective: Objective = "latency") -> tuple[float, ...]:
        """Cost of a device FLOP, a server FLOP and an uplink bit, in seconds or in joules of the device's battery, or
        (``weighted``) in seconds and ``seconds_per_joule`` more for each joule.

        A fourth is that of a crossing, where it takes time. While it lasts the device waits. Energy is
        ``compute_w`` times the device's seconds, the radio's power (``radio_w``, or else the link's at its rate) times
        the uplink's, and ``idle_w`` (0 where it is not known) times those of the server and the crossing.

        Raises:
            InputError: energy is asked of a device whose powers are not known, or at a rate at which the radio's is
            not.
        """
        if objective == "weighted":
            priced = self.priced(objective, self.seconds_per_joule)
            pairs = zip(self.weights("latency"), self.weights("energy"), strict=True)
            return tuple(second + (priced.seconds_per_joule or 0.0) * joule for second, joule in pairs)
        seconds = 1 / self.device.flops_per_s, 1 / self.server.flops_per_s, 1 / self.link.rate_bps
        crossing = (self.crossing_s,) if self.crossing_s else ()
        if objective == "latency":
            return seconds + crossing
        compute_w, radio_w = self.device.compute_w, self.device.radio_w
        if radio_w is None and self.link.radio is not None:
            radio_w = self.link.radio.at(self.link.rate_bps)
        if compute_w is None:
            raise InputError(
                f"device: the powers of {self.device.name} are not known; for energy give it compute_w and radio_w in "
                "a file"
            )
        if radio_w is None:
            raise InputError(
                f"link: what sending draws is known neither of {self.device.name} nor of {self.link.name}; for energy "
                "give the device a radio_w, or take a link with a radio such as 4g-typical"
            )
        idle_w = self.device.idle_w or 0.0
        return seconds[0] * compute_w, seconds[1] * idle_w, seconds[2] * radio_w, *(idle_w * each for each in crossing)


def shannon_rate_bps(bandwidth_hz: float, snr_db: float) -> float:
    """R = B log2(1 + SNR), where SNR = 10^(snr_db / 10) is a ratio of powers; no SNR in dB overflows."""
    return bandwidth_hz * float(np.logaddexp2(0.0, snr_db / 10 * math.log2(10)))


def refuse_times(what: str, *sides: object) -> None:
    """Raise InputError where any of ``sides``, devices or servers, has measured times of layers, which ``what`` cannot
    count."""
    for side in sides:
        if getattr(side, "times", None):
            name = getattr(side, "name", "a device or server of the grid")
            raise InputError(
                f"{what}: counts operations, and {name} has measured times of layers; give its speed instead"
            )


def check_max_loss(max_loss: float) -> None:
    """Raise InputError unless the loss is a share; a negative one asks for better than the base network."""
    if not -1 < max_loss < 1:
        raise InputError(f"max_loss: {max_loss:g} must be in (-1, 1); it is a share of all images, 0.02 for 2 points")


def check_confidence(confidence: float) -> None:
    """Raise InputError unless the confidence is a probability."""
    if not 0 < confidence < 1:
        raise InputError(f"confidence: {confidence} must be in (0, 1); it is a probability, 0.95 for 95 %")
