"""How much a channel matters by the first-order Taylor expansion of the loss around its output.

The criterion is that of P. Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference"
(ICLR 2017, equations 6 to 8), as the code of 2-Step Pruning uses it: on a convolution's output z, before batch norm and
activation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from coinfer_ray.models.layers import LayerGraph, PrunableSet
from coinfer_ray.training.trainer import Diverged, Preprocess, ResidentImages


def convolutional_sets(graph: LayerGraph) -> list[PrunableSet]:
    """The prunable sets whose layers are all convolutions, in their order."""
    kinds = {layer.name: layer.kind for layer in graph.layers}
    return [each for each in graph.prunable_sets if all(kinds[name] == "conv" for name in each.layers)]


def taylor_scores(
    network: nn.Module,
    graph: LayerGraph,
    images: ResidentImages,
    preprocess: Preprocess,
    *,
    batch_size: int,
    device: torch.device,
    precision: torch.dtype,
) -> dict[str, torch.Tensor]:
    """The score of every removable unit of each convolutional set: (units,) float64 on the CPU, least important first
    to go.

    ``network`` may be a pruned one of ``graph``; it is left as it is, in evaluation mode. A layer's channel has the
    score \\|sum of z * dL/dz over a batch and its positions, divided by batch * height * width, summed over batches|,
    over the L2 norm of all of the layer's scores; L is the cross-entropy with the labels. A unit has the mean score of
    all filters that fall with it, in the layers of its set and in its group. (Their sum would make a channel of 13 tied
    layers 13 times as dear as one of a first layer: in five iterations RegNetX-400MF then loses its first convolution,
    and 40 points where the mean loses one.)

    Raises:
        Diverged: a score is no number.
    """
    sets = convolutional_sets(graph)
    modules = {layer.name: layer.module for layer in graph.layers}
    # Each output is multiplied by a gate of ones: the loss's derivative by it is the sum of z * dL/dz, and no
    # activation that works in place can overwrite z before it is read.
    gates = {
        modules[name]: torch.ones(_width(network, modules[name]), device=device, requires_grad=True)
        for each in sets
        for name in each.layers
    }
    areas: dict[str, int] = {}
    sums = {module: torch.zeros(len(gate), dtype=torch.float64, device=device) for module, gate in gates.items()}
    network.eval()
    with _gated(network, gates, areas):
        for start in range(0, len(images), batch_size):
            part = images.take(slice(start, start + batch_size))
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
                loss = F.cross_entropy(network(preprocess(part.images)).float(), part.labels)
            found = torch.autograd.grad(loss, list(gates.values()))
            for module, gradient in zip(gates, found, strict=True):
                sums[module] += gradient.double() / (len(part) * areas[module])
    scores = {}
    for each in sets:
        total = torch.zeros(len(gates[modules[each.name]]), dtype=torch.float64)
        for name in each.layers:
            of_layer = sums[modules[name]].abs().cpu()
            norm = of_layer.norm()
            total += of_layer / norm if norm != 0 else of_layer
        scores[each.name] = total.reshape(-1, each.unit).mean(1) / len(each.layers)
        if not torch.isfinite(total).all():
            raise Diverged(f"the Taylor scores of {each.name} are no numbers")
    return scores


def _width(network: nn.Module, module: str) -> int:
    found = network.get_submodule(module)
    assert isinstance(found, nn.Conv2d)
    return found.out_channels


@contextmanager
def _gated(network: nn.Module, gates: Mapping[str, torch.Tensor], areas: dict[str, int]) -> Iterator[None]:
    """Multiply the outputs of convolutions by their gates, and note the height * width of each in ``areas``."""

    def hook(name: str, gate: torch.Tensor) -> torch.utils.hooks.RemovableHandle:
        def gated(module: nn.Module, inputs: tuple[torch.Tensor, ...], z: torch.Tensor) -> torch.Tensor:
            areas[name] = z.shape[2] * z.shape[3]
            return z * gate.view(-1, 1, 1)

        return network.get_submodule(name).register_forward_hook(gated)

    handles = [hook(name, gate) for name, gate in gates.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
