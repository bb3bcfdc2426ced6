"""torch.fx trace of a classification network into a :class:`~coinfer_ray.models.layers.LayerGraph`.

The trace is walked once. Each tensor carries its channels, the size of a channel, whether it has been flattened,
and the *class* of its channels; classes are merged (union-find) where channels can only fall together: at
residual additions and products, through grouped convolutions, and where one module is called twice. What reaches the
output or comes from the input is never pruned, nor what goes through an operation that the walk cannot follow by
channel: that operation is costed by its own FLOPs.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, replace
from typing import Any

import torch.fx
from torch import nn

from coinfer_ray.errors import InputError
from coinfer_ray.models import operations as known
from coinfer_ray.models.channels import ChannelClasses
from coinfer_ray.models.layers import Layer, LayerGraph, PrunableSet
from coinfer_ray.models.symbolic import Evaluation, fx_trace

_NAMES = {"batch_norm": "bn", "max_pool": "pool", "avg_pool": "avgpool"}


@dataclass(frozen=True)
class _Tensor:
    """What the walk knows of one traced value. ``producer`` is the layer that made it (0: the input).

    ``silent``: a channel whose filter is zeroed is zero here too, so that one may as well leave it out.
    """

    producer: int
    channels: int
    height: int
    width: int
    vector: bool
    channel_class: int
    silent: bool = True

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width


class _Walk:
    """One pass over the fx graph, in execution order."""

    def __init__(self, evaluation: Evaluation, traced: torch.fx.GraphModule, model: str) -> None:
        self.evaluation = evaluation
        self.modules = dict(traced.named_modules())
        self.model = model
        self.classes = ChannelClasses()
        self.layers: list[Layer] = []
        self.in_class: list[int] = []
        self.out_class: list[int] = []
        self.cuttable: list[bool] = []
        self.counts: dict[str, int] = {}
        self.tensors: dict[torch.fx.Node, _Tensor] = {}
        # Classes of channels that a number depends on; where it is a tensor's number of channels itself, their class.
        self.numbers: dict[torch.fx.Node, set[int]] = {}
        self.counted: dict[torch.fx.Node, int] = {}
        # Classes of what the first call of a weight reads and makes.
        self.called: dict[int, tuple[int, int]] = {}
        self.not_understood: str | None = None

    def visit(self, node: torch.fx.Node) -> None:
        """Take a node in, and its layer if it is one."""
        tensors = [self.tensors[argument] for argument in node.all_input_nodes if argument in self.tensors]
        if node not in self.evaluation.shapes:
            self._number(node)
        elif tensors:
            self.tensors[node] = self._tensor(node, tensors)
        else:
            self._fix_counted(node)

    def _number(self, node: torch.fx.Node) -> None:
        """A value that is no tensor, such as a size: which channels does it count?"""
        depends: set[int] = set()
        for argument in node.all_input_nodes:
            depends |= self.numbers.get(argument, set())
            if argument in self.tensors:
                depends.add(self.tensors[argument].channel_class)
        places = self._places(node)
        if places is not None and 1 not in places:
            depends = set()
        elif places == [1]:
            self.counted[node] = next(iter(depends))
        self.numbers[node] = depends

    def _places(self, node: torch.fx.Node) -> list[int] | None:
        """Which dimensions of a tensor ``node`` reads the sizes of; None where it is no plain size of one."""
        source = node.all_input_nodes[0] if node.all_input_nodes else node
        whole = node.op == "call_function" and node.target is getattr and node.args[1] == "shape"
        if node.op == "call_method" and node.target == "size" and source in self.tensors:
            which = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
            whole = which is None
        elif node.target is operator.getitem and self._is_shape(source) and len(node.all_input_nodes) == 1:
            source, which = source.all_input_nodes[0], node.args[1]
        elif not whole:
            return None
        every = list(range(len(self.evaluation.shapes[source])))
        if whole or isinstance(which, torch.fx.Node):
            return every
        picked: Any = every[which]  # type: ignore[index]
        return picked if isinstance(picked, list) else [picked]

    def _is_shape(self, node: torch.fx.Node) -> bool:
        read = node.target == "size" or (node.target is getattr and node.args[1] == "shape")
        return bool(read and isinstance(self.evaluation.values.get(node), torch.Size))

    def _tensor(self, node: torch.fx.Node, tensors: list[_Tensor]) -> _Tensor:
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        operation: Any = node.target if module is None else type(module)
        x = tensors[0]
        if node in self.evaluation.several and operation not in known.MOVES:
            return self._other(node, tensors, operation)
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            return self._weighted(node, module, x)
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            return self._batch_norm(node, module, x)
        if operation in known.ARITHMETIC:
            return self._arithmetic(node, known.ARITHMETIC[operation], tensors)
        if operation in known.CONCATENATIONS:
            self._fix(tensors)
            return self._layer(node, "concat", tensors, self._unfollowed(node))
        if operation == "expand_as" and len(tensors) == 2 and x.channels == tensors[1].channels:
            tied = self.classes.tie(x.channel_class, tensors[1].channel_class)
            return self._layer(node, "expand", tensors, replace(tensors[1], channel_class=tied, silent=x.silent))
        if len(tensors) > 1:
            return self._other(node, tensors, operation)
        if operation in known.ACTIVATIONS:
            return self._activation(node, known.ACTIVATIONS[operation], module, x)
        if operation in known.DROPOUTS:
            return self._layer(node, known.DROPOUTS[operation], [x], x)
        if operation in known.MIXING:
            self._fix(tensors)
            return self._layer(node, known.MIXING[operation], [x], x)
        if operation in known.POOLS:
            return self._pool(node, known.POOLS[operation], module, x)
        if operation in known.MEANS:
            return self._mean(node, x)
        if operation in known.MOVES:
            return self._move(node, operation, module, x)
        return self._other(node, tensors, operation)

    def _weighted(self, node: torch.fx.Node, module: nn.Conv2d | nn.Linear, x: _Tensor) -> _Tensor:
        y = self._unfollowed(node, fixed=False)
        group_width = 0
        plain = "weight" in module._parameters  # else computed from others (weight norm, spectral norm)
        if isinstance(module, nn.Conv2d):
            if (x.channels, y.channels) != (module.in_channels, module.out_channels):  # images folded together
                return self._other(node, [x], type(module))
            kind, area = "conv", known.window(module.kernel_size)
            if module.groups > 1:
                group_width = module.in_channels // module.groups
                # Whole groups fall, on both sides at once. Where the sides differ, neither does.
                self.classes.tie(y.channel_class, self.classes.new(y.channels, unit=group_width))
                self.classes.tie(x.channel_class, y.channel_class)
        else:
            kind, area = "fc", 1
            if not x.vector:
                # On the last of several dimensions: K products and K - 1 sums for an output.
                kind, area, plain = "linear", 2 * module.in_features - 1, False
        if not plain or (not x.silent and not group_width):
            self.classes.fix(x.channel_class)
        if not plain:
            self.classes.fix(y.channel_class)
        self._tie_calls(module, x, y)
        return self._layer(node, kind, [x], y, area, group_width)

    def _tie_calls(self, module: nn.Module, x: _Tensor, y: _Tensor) -> None:
        """Weights that are used twice have one set of inputs and one of outputs."""
        for used in (module, *module.parameters(recurse=False)):
            first = self.called.setdefault(id(used), (x.channel_class, y.channel_class))
            self.classes.tie(first[0], x.channel_class)
            self.classes.tie(first[1], y.channel_class)

    def _batch_norm(self, node: torch.fx.Node, module: nn.BatchNorm1d | nn.BatchNorm2d, x: _Tensor) -> _Tensor:
        if x.channels != module.num_features:  # flattened: a statistic for each value of a channel
            self.classes.fix(x.channel_class)
        self._tie_calls(module, x, x)
        # Without a scale and a shift that fall with the channel, a channel of zeros becomes a constant.
        return self._layer(node, "batch_norm", [x], replace(x, silent=module.affine))

    def _activation(self, node: torch.fx.Node, kind: str, module: nn.Module | None, x: _Tensor) -> _Tensor:
        if kind == "prelu" and (module is None or sum(each.numel() for each in module.parameters()) > 1):
            self.classes.fix(x.channel_class)  # a slope for each channel
        return self._layer(node, kind, [x], replace(x, silent=x.silent and kind not in known.NOT_ZERO_AT_ZERO))

    def _arithmetic(self, node: torch.fx.Node, kind: str, tensors: list[_Tensor]) -> _Tensor:
        shape = self.evaluation.shapes[node]
        if len(tensors) == 1:
            # Times or over a number a channel of zeros stays one; a tensor that is part of the network does not fall.
            x = tensors[0]
            by_number = len(node.all_input_nodes) == 1 and shape == self._shape(node.all_input_nodes[0])
            if not by_number:
                self._fix(tensors)
            scaled = kind == "mul" or (kind == "div" and isinstance(node.args[-1], (int, float)))
            y = replace(x, silent=x.silent and scaled)
            return self._layer(node, kind, tensors, y if by_number else self._unfollowed(node))
        a, b = tensors
        wide = a if a.height * a.width >= b.height * b.width else b
        narrow = b if wide is a else a
        fits = len({len(self._shape(each)) for each in node.all_input_nodes}) == 1 and wide.vector == narrow.vector
        spread = wide.sizes if wide.sizes == narrow.sizes else (wide.channels, 1, 1)
        if not fits or narrow.sizes != spread or kind == "div" or len(node.all_input_nodes) > 2:
            self._fix(tensors)
            if not fits or len(tensors) > 2 or math.prod(shape[1:]) != math.prod(wide.sizes):
                return self._layer(node, kind, tensors, self._unfollowed(node))
        else:
            self.classes.tie(a.channel_class, b.channel_class)
        silent = a.silent or b.silent if kind == "mul" else a.silent and b.silent
        return self._layer(node, kind, tensors, replace(wide, silent=silent))

    def _pool(self, node: torch.fx.Node, kind: str, module: nn.Module | None, x: _Tensor) -> _Tensor:
        shape = self.evaluation.shapes[node]
        if len(shape) != 4 or shape[1] != x.channels:
            return self._other(node, [x], kind)
        kernel: Any = 1
        if kind == "adaptive_max_pool":
            kernel = math.ceil(x.height / shape[2]), math.ceil(x.width / shape[3])
        elif not kind.startswith("adaptive"):
            given = node.args[1] if len(node.args) > 1 else node.kwargs.get("kernel_size", 1)
            kernel = self.evaluation.value(given) if module is None else module.kernel_size
        y = replace(x, height=shape[2], width=shape[3])
        return self._layer(node, kind.removeprefix("adaptive_"), [x], y, known.window(kernel))

    def _mean(self, node: torch.fx.Node, x: _Tensor) -> _Tensor:
        source = self._shape(node.all_input_nodes[0])
        given = self.evaluation.value(node.args[1] if len(node.args) > 1 else node.kwargs.get("dim"))
        dims = {given} if isinstance(given, int) else set(given or ())
        places = {dim % len(source) for dim in dims}
        if not dims or min(places) < 2 or x.channels != source[1]:
            return self._other(node, [x], "mean")
        shape = self.evaluation.shapes[node]
        y = replace(self._unfollowed(node), channel_class=x.channel_class, silent=x.silent, vector=len(shape) == 2)
        return self._layer(node, "avg_pool", [x], y)

    def _move(self, node: torch.fx.Node, operation: Any, module: nn.Module | None, x: _Tensor) -> _Tensor:
        """Values that are only moved about: followed where channels stay whole and no number in it counts them."""
        if operation in known.UNCHANGED:
            return x
        if node in self.evaluation.shapes and node not in self.evaluation.several:
            shape, source = self.evaluation.shapes[node], node.all_input_nodes[0]
            flat = shape == (self.evaluation.batch, math.prod(x.sizes))
            own = self._shape(source)[1:2] == (x.channels,) and source not in self.evaluation.several
            if flat and operation in known.RESHAPES and self._takes_the_rest(node, operation):
                return replace(x, vector=True)
            if own and shape[:2] == self._shape(source)[:2] and math.prod(shape[2:]) == x.height * x.width == 1:
                whole = operation in known.RESHAPES or operation in ("reshape", "unsqueeze", torch.unsqueeze)
                squeezed = operation in ("squeeze", torch.squeeze) and len(node.args) + len(node.kwargs) > 1
                if squeezed or (whole and self._counts_channels(node, operation, x)):
                    return replace(x, vector=len(shape) == 2)
        self._fix([x])
        self._fix_counted(node)
        return replace(self._unfollowed(node), producer=x.producer)

    def _takes_the_rest(self, node: torch.fx.Node, operation: Any) -> bool:
        """Whether a flattening says no number of values: it takes all that is left of an image."""
        if operation in ("flatten", torch.flatten, nn.Flatten):
            return True
        sizes = self._new_sizes(node)
        return len(sizes) == 2 and sizes[1] == -1

    def _counts_channels(self, node: torch.fx.Node, operation: Any, x: _Tensor) -> bool:
        """Whether the second size of a reshape is a tensor's number of channels, whose channels then fall together
        with these, or needs none."""
        if operation not in ("reshape", torch.reshape):
            return True
        second = self._new_sizes(node)[1]
        if isinstance(second, torch.fx.Node) and second in self.counted:
            self.classes.tie(self.counted[second], x.channel_class)
            return True
        return bool(second == -1)

    def _new_sizes(self, node: torch.fx.Node) -> tuple[Any, ...]:
        sizes = node.args[1:] or tuple(node.kwargs.values())
        first: Any = sizes[0]
        return tuple(first) if isinstance(first, (tuple, list)) else sizes

    def _other(self, node: torch.fx.Node, tensors: list[_Tensor], operation: Any) -> _Tensor:
        """An operation without an entry in the cost table: its FLOPs by torch's counter, at least one a value."""
        name = operation if isinstance(operation, str) else getattr(operation, "__name__", str(operation))
        self.not_understood = self.not_understood or f"{name} (at {node.name})"
        self._fix(tensors)
        y = self._unfollowed(node)
        flops = self.evaluation.flops(node)
        return self._layer(node, "other", tensors, y, max(1, math.ceil(flops / math.prod(y.sizes))))

    def _fix(self, tensors: list[_Tensor]) -> None:
        for tensor in tensors:
            self.classes.fix(tensor.channel_class)

    def _fix_counted(self, node: torch.fx.Node) -> None:
        """A number of channels that is reckoned with would be another one after pruning."""
        for argument in node.all_input_nodes:
            for counted in self.numbers.get(argument, ()):
                self.classes.fix(counted)

    def _shape(self, node: torch.fx.Node) -> tuple[int, ...]:
        return self.evaluation.shapes.get(node, ())

    def _unfollowed(self, node: torch.fx.Node, *, fixed: bool = True) -> _Tensor:
        """The tensor of ``node`` with channels of its own: the second dimension's, or all values where the first
        isn't the images."""
        shape = self.evaluation.shapes[node]
        by_image = len(shape) > 1 and shape[0] == self.evaluation.batch
        channels, height, width = math.prod(shape) // self.evaluation.batch, 1, 1
        if by_image:
            channels, height, width = shape[1], math.prod(shape[2:3]), math.prod(shape[3:])
        vector = by_image and len(shape) == 2
        return _Tensor(0, channels, height, width, vector, self.classes.new(channels, fixed=fixed))

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
        self._fix_counted(node)
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
        # What crosses a cut is one tensor of vectors or of maps, the images first.
        shape = self.evaluation.shapes[node]
        one = node not in self.evaluation.several and shape[:1] == (self.evaluation.batch,)
        self.cuttable.append(one and len(shape) in (2, 4))
        return replace(y, producer=layer.index)


def trace_graph(network: nn.Module, input_shape: tuple[int, int, int], model: str) -> LayerGraph:
    """The layer graph of a classification network on inputs of (channels, height, width).

    Operations without an entry in the cost table are costed by torch's own counter, and what they read and make is
    never pruned.

    Raises:
        InputError: it cannot be traced, does not run on such inputs (too small ones, say), does not end in a vector
            for each image, or has no layer boundary that one tensor crosses for an operation that is not understood
            (the message names the operation, and where it is).
    """
    traced = fx_trace(network, model)
    evaluation = Evaluation(traced, input_shape, model)
    walk = _Walk(evaluation, traced, model)
    result: _Tensor | None = None
    images = next(node for node in traced.graph.nodes if node.op == "placeholder")
    channels, height, width = input_shape
    walk.tensors[images] = _Tensor(0, channels, height, width, False, walk.classes.new(channels, fixed=True))
    for node in traced.graph.nodes:
        if node.op == "output":
            scores = node.all_input_nodes
            if node.args[0] not in walk.tensors or len(evaluation.shapes[scores[0]]) != 2:
                raise InputError(
                    f"model: {model} does not end in one vector of class scores; only classifiers are supported"
                )
            result, classes = walk.tensors[scores[0]], evaluation.shapes[scores[0]][1]
        elif node is not images:
            walk.visit(node)
    if result is None or not walk.layers:
        raise InputError(f"model: {model} has no layers to share")
    walk.classes.fix(result.channel_class)
    layers, sets = _name_sets(walk)
    layers = _mark_cuts(layers, walk.cuttable, result.producer)
    graph = LayerGraph(model, input_shape[1], input_shape, classes, tuple(layers), tuple(sets))
    if walk.not_understood and len(graph.cut_points) == 2:
        raise InputError(
            f"model: {model} uses {walk.not_understood}, which has no entry in the cost table, and no layer boundary "
            "is crossed by one tensor alone; build it of convolutions, linear layers, pooling, activations, norms, "
            "sums, products and concatenations"
        )
    return graph


def _name_sets(walk: _Walk) -> tuple[list[Layer], list[PrunableSet]]:
    find, classes = walk.classes.find, walk.classes
    members: dict[int, list[Layer]] = {}
    for layer, out_class in zip(walk.layers, walk.out_class, strict=True):
        root = find(out_class)
        if layer.kind in ("conv", "fc") and not classes.is_fixed(root):
            members.setdefault(root, []).append(layer)
    names = {root: group[0].name for root, group in members.items()}
    layers = [
        replace(layer, in_set=names.get(find(x)), out_set=names.get(find(y)))
        for layer, x, y in zip(walk.layers, walk.in_class, walk.out_class, strict=True)
    ]
    sets = [
        PrunableSet(names[root], group[0].out_channels, classes.unit(root), tuple(layer.name for layer in group))
        for root, group in members.items()
    ]
    return layers, sets


def _mark_cuts(layers: list[Layer], cuttable: list[bool], result: int) -> list[Layer]:
    """A cut after layer j is allowed where only j's own output is read by what lies behind it."""
    last_use = {0: 0} | {layer.index: layer.index for layer in layers}
    for layer in layers:
        for source in layer.inputs:
            last_use[source] = layer.index
    last_use[result] = len(layers)
    crossing = [[source for source, last in last_use.items() if source <= layer.index < last] for layer in layers]
    return [
        replace(layer, cut_allowed=can and sources == [layer.index])
        for layer, can, sources in zip(layers, cuttable, crossing, strict=True)
    ]
