"""What every method answers in the scenarios of the paper's figures, as plain rows.

Two settings. In **the paper's** a network is cut within (points 1..N-1), features are floats of 32 bits and a codec's
own FLOPs are neglected. In **ours** every cut counts, the two ends included, so do the codec's FLOPs, and methods that
send fewer bits may. In both every method is held to the bound by the same means: what was measured of a trained
strategy counts less the same margin (:mod:`coinfer_ray.methods.trained`), so every point was really trained, or is
the network as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from coinfer_ray.errors import InputError
from coinfer_ray.methods.registry import METHODS, Method
from coinfer_ray.methods.trained import Trained
from coinfer_ray.optimizer.problem import FeatureBits, Problem, ProblemOptions, assemble
from coinfer_ray.problem.costs import parts
from coinfer_ray.problem.space import Cuts
from coinfer_ray.scenarios.batch import ScenarioBatch, weight_rows
from coinfer_ray.scenarios.read import resolve
from coinfer_ray.scenarios.scenario import LINK_RATE_BPS, Scenario

DEVICES = ("rpi3b+", "rpi4b", "tk1")
SWEPT_DEVICES = ("rpi3b+", "tk1")  # of Figs. 7 and 8
SERVER = "p100"
MAX_LOSS = 0.02
RATES_MBPS = (0.01, 100.0)  # the ends of Figs. 7 and 8


@dataclass(frozen=True)
class Setting:
    """What is counted and allowed. ``floats_only``: no method sends fewer bits of a value than a float has."""

    name: str
    title: str
    cuts: Cuts
    codec_flops: bool
    floats_only: bool

    @property
    def options(self) -> ProblemOptions:
        """Of a problem in this setting."""
        bits: FeatureBits = 32 if self.floats_only else "any"
        return {"cuts": self.cuts, "codec_flops": self.codec_flops, "feature_bits": bits}


PAPER = Setting("paper", "the paper's setting", cuts="inner", codec_flops=False, floats_only=True)
OURS = Setting("ours", "every cut, every cost", cuts="all", codec_flops=True, floats_only=False)
SETTINGS = (PAPER, OURS)


@dataclass(frozen=True)
class Row:
    """One method's answer to one scenario. Seconds, bits, shares; ``accuracy`` is None where nothing is known of it,
    ``trainings`` are behind it (0: the network as it is, or predicted), ``bits`` those of a value on the link."""

    setting: str
    model: str
    device: str
    link: str
    rate_mbps: float
    max_loss: float
    method: str
    title: str
    latency_s: float
    device_s: float
    server_s: float
    uplink_s: float
    uplink_bit: float
    cut_after: str
    accuracy: float | None
    base_accuracy: float | None
    trainings: int
    bits: int
    snr_db: float | None = None

    @property
    def verified(self) -> bool:
        """Whether the accuracy was measured: by training, or on the network as it is."""
        return self.trainings > 0 or self.accuracy == self.base_accuracy

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Problems:
    """One problem for each network and setting, assembled when it is first asked for."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, str], Problem] = {}

    def of(self, model: str, setting: Setting) -> Problem:
        key = model, setting.name
        if key not in self._made:
            self._made[key] = assemble(model, **setting.options)
        return self._made[key]


def methods_of(setting: Setting, model: str, input_px: int) -> list[Method]:
    """The methods that can answer there, those whose choices do not ship left out."""
    found: list[Method] = []
    for method in METHODS.values():
        if isinstance(method, Trained):
            own = replace(method, floats_only=setting.floats_only)
            if own.available(model, input_px):
                found.append(own)
        elif method.name not in _OPTIMIZERS_ONLY:
            found.append(method)
    return found


# With a confidence they choose among the same measured strategies as the proposed method: their own row is a
# comparison of optimizers (:mod:`coinfer_ray.reproduce.optimizers`).
_OPTIMIZERS_ONLY = ("genetic",)


def rows_of(
    problem: Problem, setting: Setting, scenarios: Sequence[Scenario], names: Sequence[str] | None = None
) -> Iterator[Row]:
    """A row of every method (or of those ``names``) for each scenario that it can answer within the bound."""
    model = problem.graph.model
    batch = ScenarioBatch.of(scenarios)
    latency = weight_rows([scenario.weights("latency") for scenario in scenarios])
    for method in methods_of(setting, model, problem.graph.input_px):
        if names is not None and method.name not in names:
            continue
        try:
            found = method.solve(problem, batch)
        except InputError:
            continue  # this problem is beyond it: a row that is missing, not a run that fails
        seconds = parts(found.costs, latency)
        for s in np.flatnonzero(found.feasible).tolist():
            scenario = scenarios[s]
            device_s, server_s, uplink_s, crossing_s = seconds[s].tolist()
            bits = int(found.extra["bits"][s]) if "bits" in found.extra else 0
            yield Row(
                setting=setting.name,
                model=model,
                device=scenario.device.name,
                link=scenario.link.name,
                rate_mbps=scenario.link.rate_bps / 1e6,
                max_loss=scenario.max_loss,
                method=method.name,
                title=method.title,
                latency_s=device_s + server_s + uplink_s + crossing_s,
                device_s=device_s,
                server_s=server_s,
                uplink_s=uplink_s,
                uplink_bit=float(found.costs[s, 2]),
                cut_after=problem.graph.cut_name(int(found.partition_point[s])),
                accuracy=_number(found.accuracy[s]),
                base_accuracy=_number(problem.base_accuracy),
                snr_db=scenario.link.snr_db,
                trainings=0 if found.trainings is None else int(found.trainings[s]),
                bits=bits or 32,
            )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def by_link(devices: Sequence[str] = DEVICES) -> list[Scenario]:
    """The paper's devices and links (Fig. 6)."""
    return [
        resolve(device=device, server=SERVER, link=link, max_loss=MAX_LOSS)
        for device in devices
        for link in LINK_RATE_BPS
    ]


def by_rate(points: int, devices: Sequence[str] = SWEPT_DEVICES) -> list[Scenario]:
    """The rates of Figs. 7 and 8, evenly spaced in their logarithm."""
    rates = np.geomspace(*RATES_MBPS, points)
    return [
        resolve(device=device, server=SERVER, rate_mbps=float(rate), max_loss=MAX_LOSS)
        for device in devices
        for rate in rates
    ]


def at_one_place() -> list[Scenario]:
    """The scenario of Figs. 9 and 10."""
    return [resolve(device="rpi3b+", server=SERVER, link="4g", max_loss=MAX_LOSS)]


def by_loss(losses: Sequence[float]) -> list[Scenario]:
    """The paper's devices on 4G, with other losses allowed."""
    return [resolve(device=device, server=SERVER, link="4g", max_loss=loss) for device in DEVICES for loss in losses]


def everywhere(points: int) -> list[Scenario]:
    """A map of device speeds (0.1 to 1000 GFLOPS) by uplink rates (0.1 to 1000 Mb/s), evenly spaced in their
    logarithms."""
    axis = [float(value) for value in np.geomspace(0.1, 1000, points)]
    return [
        resolve(device_gflops=speed, server=SERVER, rate_mbps=rate, max_loss=MAX_LOSS)
        for speed in axis
        for rate in axis
    ]
