"""Structured pruning: NNI ranks the channels, our own rebuild removes them.

NNI's pruner scores every filter once for a set of weights; masks for any vector of sparsity ratios follow from
the scores. ``shrink`` then cuts the weights by the masks. (NNI's own ModelSpeedup does the same in seconds where
this takes milliseconds; the tests hold the two against each other.)
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Literal

import torch
from nni.compression.pruning import FPGMPruner, L1NormPruner
from torch import nn

from coinfer_ray.models.layers import Layer, LayerGraph, PrunableSet
from coinfer_ray.models.symbolic import with_reshapes

Criterion = Literal["l1", "fpgm"]


class _FastFPGMPruner(FPGMPruner):  # type: ignore[misc]
    """NNI's FPGM with its Python loop over filters (minutes on AlexNet's linear layers) as one distance matrix."""

    def _calculate_metrics(self, data: dict[str, dict[str, torch.Tensor]]) -> dict[str, dict[str, torch.Tensor]]:
        metrics: dict[str, dict[str, torch.Tensor]] = {}
        for module, targets in data.items():
            metrics[module] = {}
            for target, weight in targets.items():
                scaler = self._target_spaces[module][target]._scaler
                metrics[module][target] = scaler.shrink(weight, _distance_sums, keepdim=True)
        return metrics


def _distance_sums(blocks: torch.Tensor) -> torch.Tensor:
    flat = blocks.reshape(-1, blocks.shape[-1])
    return torch.cdist(flat, flat).sum(1).reshape(blocks.shape[:-1])


class ChannelRanking:
    """Which channels of each prunable set matter least, by NNI's L1 norm or FPGM (geometric median) pruner.

    The scores are computed once, from the weights that ``network`` has now; tied layers share their mean score,
    and a grouped convolution's channels are ranked in whole groups.
    """

    def __init__(self, network: nn.Module, graph: LayerGraph, criterion: Criterion = "l1") -> None:
        self.graph = graph
        modules = {layer.name: layer.module for layer in graph.layers}
        weights = dict(network.named_modules())
        config = []
        # A module that is called several times is one for NNI, and has one vote on what falls.
        self._members = {
            prunable.name: list(dict.fromkeys(modules[name] for name in prunable.layers))
            for prunable in graph.prunable_sets
        }
        for prunable in graph.prunable_sets:
            for name in self._members[prunable.name]:
                module = weights[name]
                block = [prunable.unit] + [-1] * (module.weight.dim() - 1)
                config.append(
                    {
                        "op_names": [name],
                        "target_names": ["weight"],
                        "sparse_ratio": 0.5,
                        # NNI cannot add the scores of convolutions to those of linear layers.
                        "dependency_group_id": f"{prunable.name}, {module.weight.dim()}",
                        "target_settings": {"weight": {"granularity": block}},
                    }
                )
        # NNI wraps the modules of the network that it is given, so it gets its own.
        pruner_class = L1NormPruner if criterion == "l1" else _FastFPGMPruner
        self._pruner = pruner_class(copy.deepcopy(network), config)
        self._metrics = self._pruner._calculate_metrics(self._pruner._collect_data())

    def keep(self, kept_channels: Mapping[str, int]) -> dict[str, torch.Tensor]:
        """Indices (ascending) of the channels that each set keeps, given how many of them remain."""
        for prunable in self.graph.prunable_sets:
            ratio = _nni_ratio(prunable, kept_channels[prunable.name])
            for module in self._members[prunable.name]:
                self._pruner._target_spaces[module]["weight"].sparse_ratio = ratio
        masks = self._pruner._generate_sparsity(self._metrics)
        keep = {}
        for name, members in self._members.items():
            if len({masks[member]["weight"].dim() for member in members}) > 1:
                keep[name] = self.order()[name][: kept_channels[name]].sort().values
                continue
            mask = masks[members[0]]["weight"]
            rows = mask.reshape(mask.shape[0], -1)[:, 0]
            unit = self.graph.set_named(name).channels // len(rows)
            channels = rows.repeat_interleave(unit) if unit > 1 else rows
            keep[name] = channels.nonzero().flatten()
        return keep

    def order(self) -> dict[str, torch.Tensor]:
        """All channels of each set, the most important first; those of one group stay together, ascending."""
        order = {}
        for prunable in self.graph.prunable_sets:
            scores = [self._metrics[name]["weight"].flatten() for name in self._members[prunable.name]]
            first = torch.stack(scores).mean(0).argsort(descending=True) * prunable.unit
            order[prunable.name] = (first[:, None] + torch.arange(prunable.unit)).flatten()
        return order


def _nni_ratio(prunable: PrunableSet, kept: int) -> float:
    """A ratio that makes NNI remove exactly ``channels - kept``: it truncates, and a float may fall just short."""
    removed = (prunable.channels - kept) // prunable.unit
    return (removed + 0.5) / (prunable.channels // prunable.unit) if removed else 0.0


def shrink(network: nn.Module, graph: LayerGraph, keep: Mapping[str, torch.Tensor]) -> nn.Module:
    """A copy of ``network`` without the channels that ``keep`` (indices by prunable set) leaves out.

    Parameters that modules share are shared by the copy's too. A network that uses ``Tensor.view`` comes back as its
    trace, since its tensors are channels_last, which ``view`` cannot flatten.
    """
    # Parameters are shared by the copy until each is replaced below: AlexNet's 230 MB are moved once, not twice.
    shrunk = copy.deepcopy(network, memo={id(parameter): parameter for parameter in network.parameters()})
    own: dict[nn.Parameter, nn.Parameter] = {}
    done: set[str] = set()
    for layer in graph.layers:
        # A module that is called several times is a layer each time, with the same sets.
        if layer.kind not in ("conv", "fc", "batch_norm") or layer.module in done:
            continue
        done.add(layer.module)
        module = shrunk.get_submodule(layer.module)
        rows = keep.get(layer.out_set) if layer.out_set else None
        columns = keep.get(layer.in_set) if layer.in_set else None
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            _shrink_batch_norm(module, rows, own)
        elif "weight" in module._parameters:  # else it is computed from others, and nothing falls
            _shrink_weighted(module, layer, rows, columns, own)
    made = set(own.values())
    for parent in shrunk.modules():
        for name, parameter in parent.named_parameters(recurse=False):
            if parameter not in made:
                _replace(parent, name, parameter.detach().clone(), own)
    return with_reshapes(shrunk, graph.model)


def _replace(module: nn.Module, name: str, value: torch.Tensor, own: dict[nn.Parameter, nn.Parameter]) -> None:
    """Give ``module`` a parameter of its own in place of the network's, ``own`` where another module shares it."""
    parameter = module._parameters[name]
    assert parameter is not None
    if parameter not in own:
        own[parameter] = nn.Parameter(value, requires_grad=parameter.requires_grad)
    setattr(module, name, own[parameter])


def _shrink_batch_norm(
    module: nn.BatchNorm1d | nn.BatchNorm2d, rows: torch.Tensor | None, own: dict[nn.Parameter, nn.Parameter]
) -> None:
    rows = torch.arange(module.num_features) if rows is None else rows
    module.num_features = len(rows)
    if module.affine:
        for name in ("weight", "bias"):
            _replace(module, name, getattr(module, name).detach()[rows], own)
    if module.track_running_stats:
        for name in ("running_mean", "running_var"):
            setattr(module, name, getattr(module, name)[rows])


def _shrink_weighted(
    module: nn.Module,
    layer: Layer,
    rows: torch.Tensor | None,
    columns: torch.Tensor | None,
    own: dict[nn.Parameter, nn.Parameter],
) -> None:
    assert isinstance(module, (nn.Conv2d, nn.Linear))
    shared = weight = module.weight.detach()
    if module.bias is not None:
        bias = module.bias.detach()
        _replace(module, "bias", bias.clone() if rows is None else bias[rows], own)
    if rows is not None:
        weight = weight[rows]
    # A filter of a grouped convolution keeps its inputs: they fall with it, in whole groups.
    if columns is not None and not layer.group_width:
        area = layer.in_height * layer.in_width if isinstance(module, nn.Linear) else 1
        inputs = (columns[:, None] * area + torch.arange(area)).flatten()
        weight = weight[:, inputs]
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    else:
        module.out_channels = weight.shape[0]
        if not layer.group_width:
            module.in_channels = weight.shape[1]
        elif rows is not None:
            module.groups = weight.shape[0] // layer.group_width
            module.in_channels = weight.shape[0]
        weight = weight.contiguous(memory_format=torch.channels_last)
    _replace(module, "weight", weight.clone() if weight.data_ptr() == shared.data_ptr() else weight, own)
