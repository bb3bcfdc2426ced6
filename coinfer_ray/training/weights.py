"""Weights that a user brings for a base network: read, and held against the network that they are for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from coinfer_ray.errors import InputError
from coinfer_ray.models import zoo
from coinfer_ray.models.source import ModelSource

OWN = "own"  # in place of a file: the weights that the network has when it is built
SHOWN = 3  # names in an error message
_COUNTERS = "num_batches_tracked"  # of batch norms; files of other tools lack them
_WRAPPED = ("state_dict", "model_state_dict", "model")  # keys under which checkpoints keep the state

Weights: TypeAlias = "str | Path | Mapping[str, torch.Tensor]"


def given_weights(weights: Weights | None, source: ModelSource, classes: int) -> dict[str, torch.Tensor] | None:
    """The weights that the base network of ``source`` is to have, by name and as float32; None where it is trained from
    scratch.

    ``weights`` is a state dict, the file of one, or :data:`OWN`; an ``nn.Module`` has its own unless others are given.
    What a wrapper puts before every name is left out (:func:`unwrapped`).

    Raises:
        InputError: a file that cannot be read, or weights of another network: the first few names say so.
    """
    if weights is None and source.own:
        weights = OWN if isinstance(zoo.given(source), nn.Module) else None
    if weights is None:
        return None
    network = zoo.build(source, classes)
    if weights == OWN:
        return network.state_dict()
    state = dict(weights) if isinstance(weights, Mapping) else read_weights(weights)
    state = unwrapped(network, state)
    where = "given" if isinstance(weights, Mapping) else weights
    check_weights(network, state, f"weights: {where} are not those of {source.name}")
    return {name: each.detach().float() if each.is_floating_point() else each for name, each in state.items()}


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """The state dict in a ``.safetensors`` file, or in one of ``torch.save``, which is read without running anything.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"weights: {path} does not exist; give a .safetensors file or a saved state dict")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        raise InputError(f"weights: {path} is no readable safetensors file ({_first_line(error)})") from None
    except Exception as error:  # pickle, zipfile and torch each have their own
        raise InputError(
            f"weights: {path} holds no plain state dict ({_first_line(error)}); save network.state_dict()"
        ) from None
    for key in _WRAPPED:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise InputError(f"weights: {path} holds no state dict of tensors; save network.state_dict()")
    return dict(state)


def unwrapped(network: nn.Module, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """``weights`` without what a wrapper put before each of their names and no name of ``network`` begins with:
    ``module.`` of DataParallel, ``_orig_mod.`` of torch.compile, the attribute of a Lightning module."""
    own = {name.partition(".")[0] for name in network.state_dict()}
    found = dict(weights)
    while True:
        heads = {name.partition(".")[0] for name in found}
        if len(heads) != 1 or heads <= own or not all("." in name for name in found):
            return found
        found = {name.partition(".")[2]: each for name, each in found.items()}


def check_weights(network: nn.Module, weights: Mapping[str, torch.Tensor], wrong: str) -> None:
    """Raise InputError, which begins with ``wrong``, unless ``weights`` are all of the network's, in its shapes."""
    wanted = network.state_dict()
    missing = [name for name in wanted if name not in weights and not name.endswith(_COUNTERS)]
    unexpected = [name for name in weights if name not in wanted]
    shapes = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in weights and weights[name].shape != value.shape
    ]
    faults = [
        f"{what} {', '.join(names[:SHOWN])}{f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of other shapes", shapes))
        if names
    ]
    if faults:
        raise InputError(f"{wrong} ({'; '.join(faults)})")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
