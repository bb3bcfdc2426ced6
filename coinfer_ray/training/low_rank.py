"""Base networks whose large linear layers are kept as two thin matrices.

AlexNet's two hidden linear layers are 109 MB of its 114 (bfloat16), and hardly more than some dozen directions of
either matter to ten classes. So a base network may end with the best approximation of a given rank in their place (C.
Eckart and G. Young, "The approximation of one matrix by another of lower rank", Psychometrika 1, 1936): it is measured,
pruned and handed over as that, a layer as large as any other, and its file holds the factors.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from coinfer_ray.models.trace import trace_graph
from coinfer_ray.training.base import BaseNetwork, build_base, product, round_weights
from coinfer_ray.training.data import DataSplits
from coinfer_ray.training.ordering import keep_order
from coinfer_ray.training.trainer import Preprocess, accuracy

OVERSAMPLED, ROUNDS = 16, 6  # directions beyond the rank, and rounds of the subspace iteration


def factors_of(weight: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The factors (m, rank) and (rank, n) of ``weight``'s best approximation of that rank, as nearly as a few rounds of
    subspace iteration find it: the whole decomposition of AlexNet's takes a processor a minute.
    """
    with torch.random.fork_rng(devices=[weight.device] if weight.is_cuda else []):
        torch.manual_seed(0)
        u, s, v = torch.svd_lowrank(weight.float(), q=min(rank + OVERSAMPLED, *weight.shape), niter=ROUNDS)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * v[:, :rank].T


def saves_space(shape: tuple[int, ...], rank: int) -> bool:
    """Whether factors of that rank are smaller than a weight of ``shape``, which must be a matrix."""
    return len(shape) == 2 and rank * sum(shape) < shape[0] * shape[1]


def with_low_rank(
    base: BaseNetwork, data: DataSplits, rank: int, *, device: torch.device, precision: torch.dtype
) -> BaseNetwork:
    """``base`` with every matrix that this makes smaller replaced by one of ``rank``, measured anew.

    Filters are scaled once more, so that the L1 norms keep their order (:func:`keep_order`).
    """
    names = [name for name, array in base.weights.items() if saves_space(array.shape, rank)]
    network = build_base(base, len(data.classes))
    preprocess = Preprocess.of(data, int(base.info["input_px"]))
    shape = (3, preprocess.input_px, preprocess.input_px)
    state = network.state_dict()
    with torch.no_grad():
        for name in names:
            left, right = factors_of(state[name].to(device), rank)
            state[name].copy_(left @ right)
        keep_order(network, trace_graph(network, shape, str(base.info["model"])))
        round_weights(network)
        factors = {}
        for name in names:  # scaled rows and columns have left the rank as it was
            thin = [factor.bfloat16().float().cpu().numpy() for factor in factors_of(state[name].to(device), rank)]
            factors[name] = thin[0], thin[1]
            state[name].copy_(torch.from_numpy(product(*factors[name])))
    weights = base.weights | {name: tensor.cpu().contiguous().numpy().copy() for name, tensor in state.items()}
    network = network.to(device)
    validation, test = [
        accuracy(network, part, preprocess, device=device, precision=precision) for part in (data.validation, data.test)
    ]
    return replace(base, weights=weights, validation_accuracy=validation, test_accuracy=test, factors=factors)
