"""Seconds of one network's layers, each layer with coefficients of its own: the cost model ``profile``.

Five coefficients for all layers (:mod:`coinfer_ray.problem.layer_times`) miss the halves of a network by 30 to 40 %:
what a runtime does with one layer, it does otherwise with the next. :class:`NetworkTimes` belongs to one network and
one size of its input, and is fitted to its measured halves (:mod:`coinfer_ray.profile.fit_network`), or made of what
others measured. None of its numbers is below 0, so a layer never gets slower as channels go, which the exact solver's
proof and the atlas rest on.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from coinfer_ray.errors import InputError
from coinfer_ray.models.layers import Layer, LayerGraph
from coinfer_ray.problem.layer_times import LayerTimes

Coefficients = tuple[float, float, float, float]


@dataclass(frozen=True)
class NetworkTimes:
    """Seconds of the layers of ``network`` at ``input_px`` pixels, whose graph has that ``fingerprint``.

    ``rows`` (N,): (q, o, i, c) of each layer, by ``names`` (N,), such that its seconds are q * kept inputs * kept
    outputs + o * kept outputs + i * kept inputs + c. They may be asked once they stand in the network's order
    (:meth:`ordered`). ``call_s``: what a side takes besides, however many layers it runs, unless
    it runs none. ``layers`` is what the codec's stages are counted by.
    """

    network: str
    input_px: int
    fingerprint: str
    names: tuple[str, ...]
    rows: tuple[Coefficients, ...]
    call_s: float
    layers: LayerTimes

    def ordered(self, graph: LayerGraph) -> NetworkTimes:
        """The same, its rows in the order of the network's layers: that of a file's keys is its own.

        Raises:
            InputError: a layer is missing, or is none of the network's.
        """
        names = tuple(layer.name for layer in graph.layers)
        odd = sorted(set(names) ^ set(self.names))
        if odd:
            wrong = "is missing" if odd[0] in names else f"is no layer of {graph.model}"
            raise InputError(f"network_seconds: layers: {odd[0]} {wrong}; give each of its {len(names)} layers once")
        found = dict(zip(self.names, self.rows, strict=True))
        return replace(self, names=names, rows=tuple(found[name] for name in names))

    def coefficients(self, layer: Layer) -> Coefficients:
        """(q, o, i, c) of a layer of the network."""
        return self.rows[layer.index - 1]

    def seconds(self, layer: Layer, in_channels: int, out_channels: int) -> float:
        """Seconds of a layer of the network with that many channels kept."""
        quadratic, out, own, constant = self.coefficients(layer)
        return quadratic * in_channels * out_channels + out * out_channels + own * in_channels + constant

    def to_json(self) -> dict[str, Any]:
        """What tells it from others: a digest stands for the rows, in whatever order they are."""
        numbers = json.dumps([sorted(zip(self.names, self.rows, strict=True)), self.call_s, self.layers.to_json()])
        digest = hashlib.sha256(numbers.encode()).hexdigest()[:16]
        return {
            "network": self.network,
            "input_px": self.input_px,
            "fingerprint": self.fingerprint,
            "digest": digest,
        }


@dataclass(frozen=True)
class MeasuredSide:
    """All that was measured on one device or server: any network by its ``layers``, some by times of their own.

    ``required``: a network that is not among ``networks`` is refused, and not counted by its layers.
    """

    name: str
    layers: LayerTimes
    networks: tuple[NetworkTimes, ...]
    required: bool

    def to_json(self) -> dict[str, Any]:
        return {"layers": self.layers.to_json(), "networks": [each.to_json() for each in self.networks]}


SideTimes: TypeAlias = LayerTimes | MeasuredSide  # of a device or a server
NetworkSeconds: TypeAlias = LayerTimes | NetworkTimes  # the same for one network


def said_of(side: SideTimes | None) -> list[dict[str, Any] | None]:
    """What a problem's provenance may say of a ``side``: of a network's own times, or of those of all layers."""
    if side is None:
        return [None]
    if isinstance(side, MeasuredSide):
        return [*(each.to_json() for each in side.networks), *([] if side.required else [side.layers.to_json()])]
    return [side.to_json()]


def times_for(side: SideTimes | None, graph: LayerGraph) -> NetworkSeconds | None:
    """What the layers of a network are counted by on a ``side``: its own times, else those of all layers; None:
    operations.

    Raises:
        InputError: its own times are required and were not measured, or are those of another network of that name and
            size.
    """
    if not isinstance(side, MeasuredSide):
        return side
    for each in side.networks:
        if each.fingerprint == graph.fingerprint:
            return each.ordered(graph)
    same = any((each.network, each.input_px) == (graph.model, graph.input_px) for each in side.networks)
    if not (side.required or same):
        return side.layers
    known = ", ".join(f"{each.network} at {each.input_px} px" for each in side.networks)
    wrong = "has other layers now than the one that was measured" if same else f"was not measured, only {known}"
    raise InputError(
        f"cost model: on {side.name} {graph.model} at {graph.input_px} px {wrong}; measure it with "
        "`coinfer profile --network`, or take --cost-model layers"
    )
