"""The networks that can be named on the command line, as torchvision builds them."""

from __future__ import annotations

from torch import nn
from torchvision import models as torchvision_models

from coinfer_ray.errors import check_name


def known_models() -> list[str]:
    """Classification networks of torchvision, by name."""
    return list(torchvision_models.list_models(module=torchvision_models))


def check_model(model: str) -> None:
    """Raises InputError, with the nearest names, unless torchvision builds ``model``."""
    check_name("model", model, known_models())


def build(model: str, classes: int) -> nn.Module:
    """A freshly initialised network with ``classes`` outputs.

    Raises:
        InputError: torchvision has no classification network of that name.
    """
    check_model(model)
    network: nn.Module = torchvision_models.get_model(model, weights=None, num_classes=classes)
    return network
