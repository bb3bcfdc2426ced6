"""Layers as an ONNX model, which :mod:`coinfer_ray.profile.measure` runs on this machine's processor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from coinfer_ray.errors import InputError
from coinfer_ray.models.layers import Layer
from coinfer_ray.profile import measure
from coinfer_ray.profile.geometry import window_of
from coinfer_ray.profile.work import Work

_OPSET, _IR = 17, 8  # old enough for runtimes on boards


version = measure.version


@dataclass(frozen=True)
class Model:
    """An ONNX model but for its ``weights`` (name to shape), which :func:`coinfer_ray.profile.measure.with_weights`
    fills in."""

    content: bytes
    weights: dict[str, tuple[int, ...]]


def prepare(work: Work, threads: int) -> measure.Prepared:
    """The work ready to be run on so many threads of this processor.

    Raises:
        InputError: a kind of layer that has no ONNX form here.
    """
    model = model_of(work)
    return measure.prepare(model.content, model.weights, threads)


def model_of(work: Work) -> Model:
    """The work as an ONNX model, batch norms folded away.

    Raises:
        InputError: a kind of layer that has no ONNX form here.
    """
    builder = _Builder(work)
    for layer in work.layers:
        builder.add(layer)
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, work.input_shape)
    result = helper.make_tensor_value_info(builder.tensors[work.layers[-1].index], TensorProto.FLOAT, None)
    graph = helper.make_graph(builder.nodes, "work", [entry], [result], builder.shapes)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = _IR
    return Model(model.SerializeToString(), builder.weights)


class _Builder:
    """The nodes of a model, and the name of what each layer gives."""

    def __init__(self, work: Work) -> None:
        self.nodes: list[Any] = []
        self.weights: dict[str, tuple[int, ...]] = {}
        self.shapes: list[Any] = []  # tensors of sizes, which a model keeps
        self.tensors: dict[int, str] = {}
        self.inside = {layer.index for layer in work.layers}

    def add(self, layer: Layer) -> None:
        sources = [self.tensors[each] if each in self.inside and each in self.tensors else "x" for each in layer.inputs]
        match layer.kind:
            case "conv":
                self._convolution(layer, sources[0])
            case "fc":
                self._linear(layer, sources[0])
            case "relu" | "relu6" | "leaky_relu":
                self._node("Relu", layer, sources[:1])
            case "max_pool" | "avg_pool":
                self._pool(layer, sources[0])
            case "add":
                self._node("Add", layer, (sources * 2)[:2])
            case "batch_norm" | "dropout" | "stochastic_depth":
                self._node("Identity", layer, sources[:1])
            case kind:
                raise InputError(f"profile: layers of kind {kind} cannot be measured; leave {layer.name}'s network out")

    def _node(self, operation: str, layer: Layer, inputs: list[str], **attributes: Any) -> None:
        result = f"t{layer.index}"
        self.nodes.append(helper.make_node(operation, inputs, [result], **attributes))
        self.tensors[layer.index] = result

    def _weight(self, name: str, *shape: int) -> str:
        self.weights[name] = shape
        return name

    def _convolution(self, layer: Layer, source: str) -> None:
        own, ci = window_of(layer), layer.group_width or layer.in_channels
        weight = self._weight(f"w{layer.index}", layer.out_channels, ci, own.side, own.side)
        bias = self._weight(f"b{layer.index}", layer.out_channels)
        self._node(
            "Conv",
            layer,
            [source, weight, bias],
            kernel_shape=[own.side] * 2,
            strides=[own.stride] * 2,
            pads=[own.padding] * 4,
            group=layer.in_channels // layer.group_width if layer.group_width else 1,
        )

    def _linear(self, layer: Layer, source: str) -> None:
        width = layer.in_channels * layer.in_height * layer.in_width
        flat = f"f{layer.index}"
        self.nodes.append(helper.make_node("Flatten", [source], [flat], axis=1))
        weight = self._weight(f"w{layer.index}", layer.out_channels, width)
        self._node("Gemm", layer, [flat, weight, self._weight(f"b{layer.index}", layer.out_channels)], transB=1)

    def _pool(self, layer: Layer, source: str) -> None:
        if layer.kind == "max_pool":
            own = window_of(layer)
            sizes = {"kernel_shape": [own.side] * 2, "strides": [own.stride] * 2, "pads": [own.padding] * 4}
            self._node("MaxPool", layer, [source], **sizes)
        elif layer.out_height * layer.out_width == 1:
            self._node("GlobalAveragePool", layer, [source])
        elif layer.in_height <= layer.out_height:  # adaptive, and nothing to average: values are repeated
            name = f"s{layer.index}"
            shape = np.array([1, layer.out_channels, layer.out_height, layer.out_width], dtype=np.int64)
            self.shapes.append(numpy_helper.from_array(shape, name))
            self._node(
                "Expand" if layer.in_height == 1 else "Identity", layer, [source, name][: 1 + (layer.in_height == 1)]
            )
        else:
            stride = layer.in_height // layer.out_height
            side = layer.in_height - (layer.out_height - 1) * stride
            self._node("AveragePool", layer, [source], kernel_shape=[side] * 2, strides=[stride] * 2)
