"""torch.fx trace of a classification network into a :class:`~coinfer_ray.models.layers.LayerGraph`.

The trace is walked once. Each tensor carries its channels, the size of a channel, whether it has been flattened,
and the *class* of its channels; classes are merged (union-find) where channels can only fall together: at
residual additions, and through grouped convolutions. What reaches the output or comes from the input is never
pruned.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import nn
from torch.fx.passes.shape_prop import ShapeProp

from coinfer_ray.errors import InputError
from coinfer_ray.models.layers import Layer, LayerGraph, PrunableSet
from coinfer_ray.models.pointwise import StridedPointwise

_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.LeakyReLU: "leaky_relu",
    nn.SiLU: "silu",
    nn.GELU: "gelu",
    nn.Hardswish: "hardswish",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
}
_ACTIVATION_CALLS: dict[Any, str] = {
    F.relu: "relu",
    torch.relu: "relu",
    F.relu6: "relu6",
    F.silu: "silu",
    F.gelu: "gelu",
}
_ADDITIONS = {operator.add, operator.iadd, torch.add}
_POOL_CALLS: dict[Any, str] = {
    F.max_pool2d: "max_pool",
    F.avg_pool2d: "avg_pool",
    F.adaptive_avg_pool2d: "avg_pool",
}
_FLATTENINGS = {torch.flatten}
_NAMES = {"batch_norm": "bn", "max_pool": "pool", "avg_pool": "avgpool"}


@dataclass(frozen=True)
class _Tensor:
    """What the walk knows of one traced value. ``producer`` is the layer that made it (0: the input)."""

    producer: int
    channels: int
    height: int
    width: int
    vector: bool
    channel_class: int


class _ChannelClasses:
    """Union-find over channel classes, with what each class is bound by."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.channels: list[int] = []
        self.unit: list[int] = []
        self.fixed: list[bool] = []

    def new(self, channels: int, *, unit: int = 1, fixed: bool = False) -> int:
        self.parent.append(len(self.parent))
        self.channels.append(channels)
        self.unit.append(unit)
        self.fixed.append(fixed)
        return len(self.parent) - 1

    def find(self, item: int) -> int:
        while self.parent[item] != item:
            item = self.parent[item]
        return item

    def tie(self, a: int, b: int) -> int:
        a, b = sorted((self.find(a), self.find(b)))
        if a != b:
            self.parent[b] = a
            self.unit[a] = max(self.unit[a], self.unit[b])
            self.fixed[a] = self.fixed[a] or self.fixed[b] or self.channels[a] != self.channels[b]
        return a


class _Walk:
    """One pass over the fx graph, in execution order."""

    def __init__(self, traced: torch.fx.GraphModule, model: str) -> None:
        self.modules = dict(traced.named_modules())
        self.model = model
        self.classes = _ChannelClasses()
        self.layers: list[Layer] = []
        self.in_class: list[int] = []
        self.out_class: list[int] = []
        self.counts: dict[str, int] = {}

    def unknown(self, operation: str, node: torch.fx.Node) -> InputError:
        return InputError(
            f"model: {self.model} uses {operation} (at {node.name}), which has no entry in the cost table; "
            "use a network of convolutions, linear layers, pooling, activations, batch norms and residual additions"
        )

    def visit(self, node: torch.fx.Node, values: dict[torch.fx.Node, _Tensor]) -> _Tensor | None:
        arguments = [values[argument] for argument in node.all_input_nodes if argument in values]
        if node.op == "call_module":
            return self._module(node, self.modules[str(node.target)], arguments[0])
        if node.op == "call_function":
            return self._function(node, arguments)
        if node.op == "call_method":
            if node.target in ("flatten", "view", "reshape"):
                return self._flattened(node, arguments[0])
            if node.target in ("contiguous", "size"):
                return arguments[0]
        raise self.unknown(f"{node.op} {node.target}", node)

    def _module(self, node: torch.fx.Node, module: nn.Module, x: _Tensor) -> _Tensor:
        kind = _ACTIVATIONS.get(type(module))
        if isinstance(module, nn.Conv2d):
            return self._convolution(node, module, x)
        if isinstance(module, nn.Linear):
            if not x.vector:
                raise self.unknown("a linear layer on a tensor that is not flat", node)
            out_class = self.classes.new(module.out_features)
            y = _Tensor(0, module.out_features, 1, 1, True, out_class)
            return self._layer(node, "fc", [x], y)
        if isinstance(module, nn.BatchNorm2d):
            return self._layer(node, "batch_norm", [x], x)
        if isinstance(module, (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)):
            pooling = "max_pool" if isinstance(module, nn.MaxPool2d) else "avg_pool"
            kernel = getattr(module, "kernel_size", 1)
            return self._pool(node, pooling, kernel, x)
        if isinstance(module, (nn.Dropout, nn.Dropout2d)):
            return self._layer(node, "dropout", [x], x)
        if kind is not None:
            return self._layer(node, kind, [x], x)
        if isinstance(module, nn.Flatten):
            return self._flattened(node, x)
        if isinstance(module, nn.Identity):
            return x
        raise self.unknown(f"the module {type(module).__name__}", node)

    def _function(self, node: torch.fx.Node, arguments: list[_Tensor]) -> _Tensor:
        target: Any = node.target
        if target in _FLATTENINGS:
            return self._flattened(node, arguments[0])
        if target in _ACTIVATION_CALLS:
            return self._layer(node, _ACTIVATION_CALLS[target], arguments, arguments[0])
        if target is F.dropout:
            return self._layer(node, "dropout", arguments, arguments[0])
        if target in _POOL_CALLS:
            kernel = node.args[1] if len(node.args) > 1 else node.kwargs.get("kernel_size", 1)
            return self._pool(node, _POOL_CALLS[target], kernel, arguments[0])
        if target in _ADDITIONS and len(arguments) == 2:
            a, b = arguments
            if (a.channels, a.height, a.width) != (b.channels, b.height, b.width):
                raise self.unknown("an addition of tensors of different shapes", node)
            tied = self.classes.tie(a.channel_class, b.channel_class)
            return self._layer(node, "add", arguments, replace(a, channel_class=tied))
        raise self.unknown(getattr(target, "__name__", str(target)), node)

    def _convolution(self, node: torch.fx.Node, module: nn.Conv2d, x: _Tensor) -> _Tensor:
        _, channels, height, width = node.meta["tensor_meta"].shape
        group_width = 0
        if module.groups == 1:
            out_class = self.classes.new(channels)
        else:
            # Whole groups fall, on both sides at once; a channel multiplier other than 1 is left alone.
            group_width = module.in_channels // module.groups
            own = self.classes.new(channels, unit=group_width)
            out_class = self.classes.tie(x.channel_class, own)
        y = _Tensor(0, channels, height, width, False, out_class)
        return self._layer(node, "conv", [x], y, _area(module.kernel_size), group_width)

    def _pool(self, node: torch.fx.Node, kind: str, kernel: Any, x: _Tensor) -> _Tensor:
        _, _, height, width = node.meta["tensor_meta"].shape
        return self._layer(node, kind, [x], replace(x, height=height, width=width), _area(kernel))

    def _flattened(self, node: torch.fx.Node, x: _Tensor) -> _Tensor:
        shape = tuple(node.meta["tensor_meta"].shape)
        if len(shape) != 2 or shape[1] != x.channels * x.height * x.width:
            raise self.unknown(f"a reshape to {shape}", node)
        return replace(x, vector=True)

    def _layer(
        self,
        node: torch.fx.Node,
        kind: str,
        inputs: list[_Tensor],
        y: _Tensor,
        kernel_area: int = 1,
        group_width: int = 0,
    ) -> _Tensor:
        prefix = _NAMES.get(kind, kind)
        self.counts[prefix] = self.counts.get(prefix, 0) + 1
        x = inputs[0]
        layer = Layer(
            index=len(self.layers) + 1,
            name=f"{prefix}{self.counts[prefix]}",
            module=str(node.target) if node.op == "call_module" else node.name,
            kind=kind,
            inputs=tuple(tensor.producer for tensor in inputs),
            in_channels=x.channels,
            in_height=x.height,
            in_width=x.width,
            out_channels=y.channels,
            out_height=y.height,
            out_width=y.width,
            kernel_area=kernel_area,
            group_width=group_width,
            vector=y.vector,
            cut_allowed=False,
            in_set=None,
            out_set=None,
        )
        self.layers.append(layer)
        self.in_class.append(x.channel_class)
        self.out_class.append(y.channel_class)
        return replace(y, producer=layer.index)


def _area(kernel: Any) -> int:
    if isinstance(kernel, (tuple, list)):
        return int(kernel[0]) * int(kernel[1])
    return int(kernel) ** 2


class _Tracer(torch.fx.Tracer):
    """torch's own, to which our form of a torch layer is a layer too."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, StridedPointwise) or super().is_leaf_module(m, module_qualified_name)


def fx_trace(network: nn.Module, model: str) -> torch.fx.GraphModule:
    """Symbolic trace in evaluation mode.

    Raises:
        InputError: the network's forward depends on its data; the message has torch.fx's reason.
    """
    try:
        return torch.fx.GraphModule(network, _Tracer().trace(network))
    except Exception as error:  # torch.fx raises whatever the network's own forward runs into
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"model: {model} cannot be traced by torch.fx ({reason[0]}); its forward must not branch on tensor values"
        ) from None


def trace_graph(network: nn.Module, input_shape: tuple[int, int, int], model: str) -> LayerGraph:
    """The layer graph of a torchvision-style classification network on inputs of (channels, height, width).

    Raises:
        InputError: it cannot be traced, the input is too small for it, or it uses an operation without an entry
            in the cost table (the message names the operation).
    """
    mode = network.training
    network.eval()
    try:
        traced = fx_trace(network, model)
        try:
            with torch.no_grad():
                ShapeProp(traced).propagate(torch.zeros(1, *input_shape, device=next(network.parameters()).device))
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"model: {model} does not run on inputs of {input_shape[1]} px ({reason}); use larger ones"
            ) from None
    finally:
        network.train(mode)
    walk = _Walk(traced, model)
    values: dict[torch.fx.Node, _Tensor] = {}
    result: _Tensor | None = None
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            channels, height, width = input_shape
            values[node] = _Tensor(0, channels, height, width, False, walk.classes.new(channels, fixed=True))
        elif node.op == "output":
            outputs = node.all_input_nodes
            if len(outputs) != 1 or not values[outputs[0]].vector:
                raise InputError(
                    f"model: {model} does not end in one vector of class scores; only classifiers are supported"
                )
            result = values[outputs[0]]
        else:
            value = walk.visit(node, values)
            if value is not None:
                values[node] = value
    if result is None or not walk.layers:
        raise InputError(f"model: {model} has no layers to share")
    walk.classes.fixed[walk.classes.find(result.channel_class)] = True
    layers, sets = _name_sets(walk)
    layers = _mark_cuts(layers)
    return LayerGraph(model, input_shape[1], input_shape, result.channels, tuple(layers), tuple(sets))


def _name_sets(walk: _Walk) -> tuple[list[Layer], list[PrunableSet]]:
    find, classes = walk.classes.find, walk.classes
    members: dict[int, list[Layer]] = {}
    for layer, out_class in zip(walk.layers, walk.out_class, strict=True):
        root = find(out_class)
        if layer.kind in ("conv", "fc") and not classes.fixed[root]:
            members.setdefault(root, []).append(layer)
    names = {root: group[0].name for root, group in members.items()}
    layers = [
        replace(layer, in_set=names.get(find(x)), out_set=names.get(find(y)))
        for layer, x, y in zip(walk.layers, walk.in_class, walk.out_class, strict=True)
    ]
    sets = [
        PrunableSet(names[root], group[0].out_channels, classes.unit[root], tuple(layer.name for layer in group))
        for root, group in members.items()
    ]
    return layers, sets


def _mark_cuts(layers: list[Layer]) -> list[Layer]:
    """A cut after layer j is allowed where only j's own output is read by the layers behind it."""
    last_use = {0: 0} | {layer.index: layer.index for layer in layers}
    for layer in layers:
        for source in layer.inputs:
            last_use[source] = layer.index
    crossing = [[source for source, last in last_use.items() if source <= layer.index < last] for layer in layers]
    return [
        replace(layer, cut_allowed=sources == [layer.index]) for layer, sources in zip(layers, crossing, strict=True)
    ]
