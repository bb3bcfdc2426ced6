"""Windows of layers, which a layer graph has by their area alone: side, stride and padding from the sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from coinfer_ray.errors import InputError
from coinfer_ray.models.layers import Layer


@dataclass(frozen=True)
class Window:
    """A square window: ``side``, ``stride`` and ``padding`` on every edge."""

    side: int
    stride: int
    padding: int


def window_of(layer: Layer) -> Window:
    """The window of a convolution or a pooling that gives the layer's output size.

    Raises:
        InputError: no square window does.
    """
    side = math.isqrt(layer.kernel_area)
    most = max(1, -(-layer.in_height // layer.out_height))
    if side * side == layer.kernel_area:
        for padding in range(side):
            for stride in range(most, 0, -1):
                sizes = (layer.in_height, layer.out_height), (layer.in_width, layer.out_width)
                if all((into + 2 * padding - side) // stride + 1 == out for into, out in sizes):
                    return Window(side, stride, padding)
    raise InputError(
        f"profile: the window of {layer.name} cannot be told from its sizes; measure networks with square windows"
    )
