"""torch.fx traces that hold for any batch, memory layout and mode, and what each value of one is on real inputs."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.fx
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from coinfer_ray.errors import InputError
from coinfer_ray.models.norms import BatchNormThen, with_norms_apart
from coinfer_ray.models.pointwise import StridedPointwise

BATCH = 2  # of the inputs that a trace is evaluated on: with one image a constant 1 and a batch look alike
MODE = "training"  # the attribute of a module that says its mode


class _Tracer(torch.fx.Tracer):
    """torch's own, to which our form of a torch layer is a layer too and a module's mode is a value.

    A mode that is handed on (``F.dropout(x, training=self.training)``) is read anew each time that the trace runs; one
    that decides a branch takes that of evaluation.
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (StridedPointwise, BatchNormThen)) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not isinstance(m, BatchNormThen) or "alone" in kwargs:
            return super().call_module(m, forward, args, kwargs)
        y = self.create_proxy("call_module", self.path_of_module(m), (*args, *kwargs.values()), {"alone": True})
        for follower in m.children():
            y = follower(y)
        return y

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        made = super().create_args_for_root(root_fn, is_module, concrete_args)
        mode = self.create_proxy("get_attr", MODE, (), {})
        self.mode = mode.node
        for name, module in self.root.named_modules():
            if not name or not self.is_leaf_module(module, name):
                module.__dict__[MODE] = mode
        return made

    def to_bool(self, obj: torch.fx.Proxy) -> bool:
        return False if obj.node is self.mode else super().to_bool(obj)


@contextmanager
def _modes_kept(network: nn.Module) -> Iterator[None]:
    """Leave each module of ``network`` in the mode that it was in: some may be frozen in evaluation mode."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.__dict__[MODE] = mode


def fx_trace(network: nn.Module, model: str) -> torch.fx.GraphModule:
    """Symbolic trace along the branches of evaluation mode; what follows the mode follows the trace's own.

    ``Tensor.view`` becomes ``reshape``, which computes the same in any memory format.

    Raises:
        InputError: the network's forward depends on its data; the message has torch.fx's reason.
    """
    tracer = _Tracer()
    try:
        with _modes_kept(network):
            graph = tracer.trace(with_norms_apart(network))
    except Exception as error:  # torch.fx raises whatever the network's own forward runs into
        raise InputError(
            f"model: {model} cannot be traced by torch.fx ({_first_line(error)}); "
            "its forward must not branch on tensor values"
        ) from None
    if not tracer.mode.users:
        graph.erase_node(tracer.mode)
    for node in graph.nodes:
        if node.op == "call_method" and node.target == "view" and not isinstance(node.args[-1], torch.dtype):
            node.target, node.meta["view"] = "reshape", True
    return torch.fx.GraphModule(network, graph)


def with_reshapes(network: nn.Module, model: str) -> nn.Module:
    """``network`` itself, or, where it uses ``Tensor.view``, its trace: the same modules, names and results, but in
    every memory format (``view`` cannot flatten channels_last tensors).

    Raises:
        InputError: it cannot be traced.
    """
    traced = fx_trace(network, model)
    return traced if any("view" in node.meta for node in traced.graph.nodes) else network


class Evaluation(torch.fx.Interpreter):
    """What the nodes of a trace are on zeros of (batch, channels, height, width), in evaluation mode.

    ``shapes`` has the shape of each tensor (of the first one where a node gives several, which ``several`` lists),
    ``values`` all that is no tensor: sizes, numbers made of them, modes.

    Raises:
        InputError: the network does not run on such inputs.
    """

    def __init__(
        self, traced: torch.fx.GraphModule, input_shape: tuple[int, int, int], model: str, batch: int = BATCH
    ) -> None:
        super().__init__(traced)
        self.shapes: dict[torch.fx.Node, tuple[int, ...]] = {}
        self.several: set[torch.fx.Node] = set()
        self.values: dict[torch.fx.Node, Any] = {}
        self.batch = batch
        self._counter: FlopCounterMode | None = None
        self._flops: dict[torch.fx.Node, int] = {}
        self._input_shape, self._model = input_shape, model
        self._evaluate()

    def _evaluate(self) -> None:
        traced = self.module
        assert isinstance(traced, nn.Module)
        parameter = next(traced.parameters(), torch.zeros(()))
        images = torch.zeros(self.batch, *self._input_shape, device=parameter.device, dtype=parameter.dtype)
        with _modes_kept(traced), torch.no_grad():
            traced.eval()
            try:
                self.run(images)
            except InputError:
                raise
            except Exception as error:  # whatever the network's operations run into
                raise InputError(
                    f"model: {self._model} does not run on inputs of {self._input_shape[1]} px: {self._failed} fails "
                    f"({_first_line(error)}); use larger ones if they are too small for it, those that it is made "
                    "for (--input-px), or mend that operation"
                ) from None

    def run_node(self, n: torch.fx.Node) -> Any:
        self._failed = f"{n.op} {getattr(n.target, '__name__', n.target)} (at {n.name})"
        before = self._counter.get_total_flops() if self._counter else 0
        result = super().run_node(n)
        if self._counter:
            self._flops[n] = self._counter.get_total_flops() - before
        first = result
        while isinstance(first, (tuple, list)) and first and any(isinstance(one, torch.Tensor) for one in first):
            self.several.add(n)
            first = next(one for one in first if isinstance(one, torch.Tensor))
        if isinstance(first, torch.Tensor):
            self.shapes[n] = tuple(first.shape)
        else:
            self.values[n] = copy.copy(result)
        return result

    def flops(self, node: torch.fx.Node) -> int:
        """FLOPs of one image in ``node`` by torch's own counter, which knows matrix products, convolutions and
        attention."""
        if not self._flops:
            # Attention's fused forms are not all known to the counter: its parts are.
            fast = torch.backends.mha.get_fastpath_enabled()
            torch.backends.mha.set_fastpath_enabled(False)
            try:
                with FlopCounterMode(display=False) as self._counter, sdpa_kernel(SDPBackend.MATH):
                    self._evaluate()
            finally:
                self._counter = None
                torch.backends.mha.set_fastpath_enabled(fast)
        return self._flops[node] // self.batch

    def value(self, argument: Any) -> Any:
        """An argument of a node with the numbers in place of the nodes that compute them."""
        return torch.fx.node.map_arg(argument, self.values.__getitem__)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
