"""A network as the search sees it: layers in order, what each costs, which channels are tied, where to cut.

Nothing here needs torch: the graphs of the known networks ship as JSON (``graphs/``), written by
``coinfer models --write`` from a fresh trace (``coinfer_ray.models.trace``).

A tensor is ``channels`` x ``height`` x ``width``; a flattened one keeps its channels, so that a layer after the
flattening still knows how many of its inputs disappear with a pruned channel. FLOPs and output elements follow
the paper's Table I.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

GRAPH_FORMAT = 1


@dataclass(frozen=True)
class PrunableSet:
    """Output channels that only fall together: one sparsity ratio for all of ``layers``.

    ``channels`` is their number, ``unit`` the group in which they are removed (1, or the group width of a
    grouped convolution).
    """

    name: str
    channels: int
    unit: int
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Layer:
    """One leaf layer. ``index`` counts from 1, so partition point c leaves layers 1..c on the device.

    ``inputs`` are the indices of the layers that it reads (0: the network's input). ``in_set`` and ``out_set``
    name the prunable sets of its input and output channels (None: never pruned). ``group_width`` is the number
    of input channels that one filter of a grouped convolution sees (0: all of them); it stays as channels go.
    ``kernel_area`` is that of a convolution's or a pooling's window; of ``linear`` (a linear layer on the last of
    several dimensions) and ``other`` (what has no entry in Table I) it is the FLOPs for one output value.
    """

    index: int
    name: str
    module: str
    kind: str
    inputs: tuple[int, ...]
    in_channels: int
    in_height: int
    in_width: int
    out_channels: int
    out_height: int
    out_width: int
    kernel_area: int
    group_width: int
    vector: bool
    cut_allowed: bool
    in_set: str | None
    out_set: str | None

    @property
    def output_elements(self) -> int:
        return self.out_channels * self.out_height * self.out_width

    @property
    def flops(self) -> int:
        return self.flops_at(self.in_channels, self.out_channels)

    def flops_at(self, in_channels: int, out_channels: int) -> int:
        """FLOPs with that many channels kept (the paper's Table I)."""
        quadratic, linear = self.flop_coefficients
        return quadratic * in_channels * out_channels + linear * out_channels

    @property
    def flop_coefficients(self) -> tuple[int, int]:
        """(q, l) such that FLOPs = q * kept input channels * kept output channels + l * kept output channels."""
        in_area, out_area = self.in_height * self.in_width, self.out_height * self.out_width
        if self.kind == "conv":  # 2 Ho Wo (Ci K^2 / groups + 1) Co
            if self.group_width:
                return 0, 2 * out_area * (self.group_width * self.kernel_area + 1)
            return 2 * out_area * self.kernel_area, 2 * out_area
        if self.kind == "fc":  # (2 Ci - 1) Co
            return 2 * in_area, -1
        if self.kind == "max_pool":  # K^2 Ho Wo Ci
            return 0, self.kernel_area * out_area
        if self.kind == "avg_pool":  # Hi Wi Ci
            return 0, in_area
        if self.kind in ("batch_norm", "concat", "expand"):  # folded into the convolution before it; moved about
            return 0, 0
        if self.kind in ("linear", "other"):
            return 0, self.kernel_area * out_area
        return 0, out_area  # activations, other norms, dropout, sums and products of tensors: Hi Wi Ci


@dataclass(frozen=True)
class LayerGraph:
    """A traced classification network. ``input_shape`` is (channels, height, width)."""

    model: str
    input_px: int
    input_shape: tuple[int, int, int]
    classes: int
    layers: tuple[Layer, ...]
    prunable_sets: tuple[PrunableSet, ...]

    @property
    def flops(self) -> int:
        return sum(layer.flops for layer in self.layers)

    @property
    def input_elements(self) -> int:
        channels, height, width = self.input_shape
        return channels * height * width

    @cached_property
    def cut_points(self) -> tuple[int, ...]:
        """Partition points at which exactly one tensor crosses, both endpoints included."""
        inner = [layer.index for layer in self.layers[:-1] if layer.cut_allowed]
        return (0, *inner, len(self.layers))

    def set_named(self, name: str) -> PrunableSet:
        return next(prunable for prunable in self.prunable_sets if prunable.name == name)

    def cut_name(self, partition_point: int) -> str:
        """What the device runs last: a layer's name, or ``input`` where it runs nothing."""
        return "input" if partition_point == 0 else self.layers[partition_point - 1].name

    @cached_property
    def fingerprint(self) -> str:
        """Of all that the search sees of the network: equal graphs have equal ones, whatever the network is called."""
        document = self.to_json(derived=False)
        del document["model"]
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]

    def check(self) -> None:
        """Raise ValueError where the graph does not hold together."""
        sets = {prunable.name: prunable for prunable in self.prunable_sets}
        if not self.layers or "/" in self.model:
            raise ValueError("it has no layers" if not self.layers else f"{self.model!r} is no network's name")
        if self.input_px != self.input_shape[1] or len(self.input_shape) != 3:
            raise ValueError(f"inputs of {self.input_px} px with the shape {self.input_shape}")
        for index, layer in enumerate(self.layers, 1):
            if layer.index != index or not all(0 <= source < index for source in layer.inputs):
                raise ValueError(f"layer {index} is out of order")
            for name, channels in ((layer.in_set, layer.in_channels), (layer.out_set, layer.out_channels)):
                if name is not None and (name not in sets or sets[name].channels != channels):
                    raise ValueError(f"the set {name} of layer {layer.name} has other channels, or is none")

    def to_json(self, *, derived: bool = True) -> dict[str, Any]:
        """The document of ``coinfer models MODEL --json``, from which :meth:`from_json` rebuilds the graph; without
        what is ``derived`` from the rest it is what files carry."""
        sets = {layer: prunable.name for prunable in self.prunable_sets for layer in prunable.layers}
        layers = [asdict(layer) for layer in self.layers]
        if derived:
            for row, layer in zip(layers, self.layers, strict=True):
                row |= {
                    "flops": layer.flops,
                    "output_elements": layer.output_elements,
                    "prunable_set": sets.get(layer.name),
                }
        return {
            "format": GRAPH_FORMAT,
            "model": self.model,
            "input_px": self.input_px,
            "input_shape": list(self.input_shape),
            "classes": self.classes,
            "flops": self.flops,
            "layers": layers,
            "prunable_sets": [asdict(prunable) for prunable in self.prunable_sets],
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> LayerGraph:
        derived = ("flops", "output_elements", "prunable_set")
        layers = []
        for row in document["layers"]:
            fields = {key: value for key, value in row.items() if key not in derived}
            layers.append(Layer(**(fields | {"inputs": tuple(fields["inputs"])})))
        sets = [PrunableSet(**(row | {"layers": tuple(row["layers"])})) for row in document["prunable_sets"]]
        return cls(
            model=document["model"],
            input_px=document["input_px"],
            input_shape=tuple(document["input_shape"]),
            classes=document["classes"],
            layers=tuple(layers),
            prunable_sets=tuple(sets),
        )
