"""From the measured halves of a network to :class:`coinfer_ray.problem.network_times.NetworkTimes`.

The five coefficients that hold for all layers say how a layer's time falls with its channels: a part with the product
of those that come and those that go, a part with either alone, and a part that stays. Between two measured cuts each of
the three is multiplied by a factor from 0 on, the same for all layers there, so that the sums give the halves as they
were measured. What is minimised is the sum of squared relative errors and, weakly, how far the factors lie from common
ones: the difference of two long halves says little of the layer between them, and without that it would be noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from coinfer_ray.errors import InputError, counted
from coinfer_ray.models.layers import Layer, LayerGraph
from coinfer_ray.problem.layer_times import FREE, LayerTimes
from coinfer_ray.problem.network_times import Coefficients, NetworkTimes
from coinfer_ray.profile.halves import Half, measured_cuts

LEAST_FITTED, LEAST_HELD_OUT = 12, 2  # halves, below which nothing is said
WEIGHT = 0.003  # of a factor's distance from the common one, beside a relative error's
PIECES = 3  # of a layer's time: of products of channels, of channels, and what stays
LEAST_SHARE = 0.01  # of the median half, that stays of all layers together: where the five say 0, it can be scaled


@dataclass(frozen=True)
class FittedNetwork:
    """What was fitted, and how far halves that were kept out of the fit are from it: means of the amounts by which
    predicted over measured differs from 1. ``layer_error``: the same by the five coefficients for all layers."""

    times: NetworkTimes
    error: float
    layer_error: float
    fitted: int
    held_out: int


def fit_network(
    graph: LayerGraph, layers: LayerTimes, call_s: float, measured: Sequence[tuple[Half, float]]
) -> FittedNetwork:
    """Fit the halves that are ``measured`` (s), and judge by those that are held out.

    ``layers`` and ``call_s`` are what was fitted for all layers (:func:`coinfer_ray.profile.fit.fit_times`).

    Raises:
        InputError: too few halves.
    """
    inside = [(half, seconds) for half, seconds in measured if half.pruned is not None]
    outside = [(half, seconds) for half, seconds in measured if half.pruned is None]
    if len(inside) < LEAST_FITTED or len(outside) < LEAST_HELD_OUT:
        raise InputError(
            f"profile: {counted(len(inside), 'half', 'halves')} of {graph.model} {'is' if len(inside) == 1 else 'are'} "
            f"measured to fit and {len(outside)} to judge by, {LEAST_FITTED} and {LEAST_HELD_OUT} are needed; allow "
            "more --minutes (what is measured is kept)"
        )
    base = _Base(graph, layers, float(np.median([seconds for _, seconds in inside])))
    factors, call = _solve(base, inside, call_s)
    rows, names = base.scaled(factors.reshape(-1, PIECES)), tuple(layer.name for layer in graph.layers)
    times = NetworkTimes(graph.model, graph.input_px, graph.fingerprint, names, rows, call, layers)
    return FittedNetwork(
        times,
        error=half_error(times, call, outside),
        layer_error=half_error(layers, call_s, outside),
        fitted=len(inside),
        held_out=len(outside),
    )


def half_seconds(times: LayerTimes | NetworkTimes, call_s: float, layers: Iterable[Layer]) -> float:
    """Predicted seconds of a half whose ``layers`` have the channels that they are left with."""
    return call_s + sum(times.seconds(layer, layer.in_channels, layer.out_channels) for layer in layers)


def half_error(times: LayerTimes | NetworkTimes, call_s: float, measured: Sequence[tuple[Half, float]]) -> float:
    """Mean amount by which predicted over measured differs from 1."""
    return float(np.mean([abs(half_seconds(times, call_s, half.work.layers) / real - 1) for half, real in measured]))


class _Base:
    """What the five coefficients say of each layer, and between which measured cuts it lies (``segment``)."""

    def __init__(self, graph: LayerGraph, layers: LayerTimes, median_s: float) -> None:
        self.counted = np.array([layer.kind not in FREE for layer in graph.layers])
        self.rows = np.array([layers.coefficients(layer) for layer in graph.layers])
        least = LEAST_SHARE * median_s / max(1, int(self.counted.sum()))
        self.rows[self.counted, 3] = np.maximum(self.rows[self.counted, 3], least)
        cuts = measured_cuts(graph)
        self.segment = np.searchsorted(cuts, np.arange(1, len(graph.layers) + 1))
        self.segments = len(cuts)

    def pieces(self, layers: Iterable[Layer]) -> np.ndarray:
        """(segments * 3,) seconds of a half's layers, by segment and by piece."""
        found = np.zeros((self.segments, PIECES))
        for layer in layers:
            quadratic, out, own, constant = self.rows[layer.index - 1]
            ci, co = layer.in_channels, layer.out_channels
            found[self.segment[layer.index - 1]] += quadratic * ci * co, out * co + own * ci, constant
        return found.ravel()

    def scaled(self, factors: np.ndarray) -> tuple[Coefficients, ...]:
        """(N,) coefficients of the layers under ``factors`` (segments, 3)."""
        own = factors[self.segment]
        rows = self.rows * np.column_stack([own[:, 0], own[:, 1], own[:, 1], own[:, 2]])
        return tuple((float(q), float(o), float(i), float(c)) for q, o, i, c in rows)


def _solve(base: _Base, measured: Sequence[tuple[Half, float]], call_s: float) -> tuple[np.ndarray, float]:
    """(segments * 3,) factors and the seconds of a call, from 0 on."""
    from scipy.optimize import nnls

    seconds = np.array([real for _, real in measured])
    x = np.array([base.pieces(half.work.layers) for half, _ in measured]) / seconds[:, None]
    call = max(call_s, LEAST_SHARE * float(np.min(seconds)))  # the unit in which the call is sought
    ones = np.ones(len(seconds))
    common = nnls(np.column_stack([x.reshape(len(x), -1, PIECES).sum(axis=1), call / seconds]), ones)[0]
    towards = np.append(np.tile(common[:PIECES], base.segments), common[PIECES])
    pull = np.sqrt(WEIGHT) * np.eye(len(towards))
    pull[-1] = 0.0  # all halves have a call: they say it themselves
    rows = np.vstack([np.column_stack([x, call / seconds]), pull])
    found = nnls(rows, np.concatenate([ones, pull @ towards]))[0]
    return found[:-1], float(found[-1] * call)
