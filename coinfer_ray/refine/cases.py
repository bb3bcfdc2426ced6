"""The scenarios that a refinement answers, in words and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coinfer_ray.errors import InputError
from coinfer_ray.scenarios.grid import Grid
from coinfer_ray.scenarios.scenario import SERVER_FLOPS_PER_S, Device, Link, Scenario, Server, refuse_times

MAX_CASES = 1_000


@dataclass(frozen=True)
class Case:
    """One scenario: ``weights`` are the seconds of a device FLOP, a server FLOP and an uplink bit, and of a crossing
    where it takes some."""

    name: str
    weights: tuple[float, ...]
    max_loss: float
    confidence: float | None = None
    snr_db: float | None = None

    @classmethod
    def of(cls, scenario: Scenario) -> Case:
        """The case of one scenario, named by its parts.

        Raises:
            InputError: measured times of layers.
        """
        refuse_times("refine", scenario.device, scenario.server)
        parts = scenario.device.name, scenario.server.name, scenario.link.name
        return cls(
            name=_name(parts, scenario.max_loss, scenario.confidence),
            weights=scenario.weights(),
            max_loss=scenario.max_loss,
            confidence=scenario.confidence,
            snr_db=scenario.link.snr_db,
        )


def cases_of(grid: Grid, model: str) -> list[Case]:
    """All scenarios of a grid, in its order.

    Raises:
        InputError: the grid is of other networks than ``model``, has more than :data:`MAX_CASES` scenarios, measured
            times of layers, or another objective than latency.
    """
    refuse_times("refine", grid.device, grid.server)
    if grid.objective != "latency":
        raise InputError(f"refine: looks for the least latency, and the grid asks for {grid.objective}; leave that out")
    if grid.models != (model,):
        raise InputError(f"grid: is of {', '.join(grid.models)}, the search of {model}; give a grid of {model} alone")
    if len(grid) > MAX_CASES:
        raise InputError(f"grid: has {len(grid)} scenarios; each is verified by training, give at most {MAX_CASES}")
    columns = grid.columns(0, len(grid))
    weights = grid.weights(0, len(grid))
    axes = {name: getattr(grid, name).labels for name in ("device", "server", "link")}
    cases = []
    for row in range(len(grid)):
        parts = [labels[columns[name][row]] for name, labels in axes.items()]
        loss = float(columns["max_loss"][row])
        # The default is for answers that nobody trains; here every one is.
        said = "confidence" in grid.document
        confidence = _given(columns["confidence"][row]) if said else None
        snr_db = _given(columns["snr_db"][row])
        cases.append(Case(_name(parts, loss, confidence), tuple(weights[row].tolist()), loss, confidence, snr_db))
    return cases


DRAWN_LOSSES = (0.01, 0.02, 0.05)  # shares: what answers to drawn scenarios are collected, calibrated and judged at


def drawn_cases(count: int, seed: int, max_losses: Sequence[float]) -> list[Case]:
    """``count`` scenarios drawn at random, for each of ``max_losses`` (0..1) in turn.

    Device 0.1 to 1,000 GFLOPS and link 0.1 to 1,000 Mb/s, log-uniform; the server is the paper's P100.
    """
    rng = np.random.default_rng(seed)
    cases = []
    for number in range(count):
        gflops, mbps = (float(f"{10 ** rng.uniform(-1, 3):.4g}") for _ in range(2))
        device, link = Device(f"{gflops:g} GFLOPS", gflops * 1e9), Link(f"{mbps:g} Mb/s", mbps * 1e6)
        loss = max_losses[number % len(max_losses)]
        cases.append(Case.of(Scenario(device, Server("p100", SERVER_FLOPS_PER_S["p100"]), link, loss, confidence=None)))
    return cases


def _name(parts: Sequence[str], max_loss: float, confidence: float | None) -> str:
    sure = "" if confidence is None else f", confidence {confidence:g}"
    return f"{' '.join(parts)}, loss {max_loss:g}{sure}"


def _given(value: float) -> float | None:
    """A grid's number, NaN where it says none."""
    return None if np.isnan(value) else float(value)
