"""Times of ResNet-50's blocks that others measured and published, as a table that ``coinfer devices --import`` reads.

From gabrielecastellano/Scission on GitHub, models_profiling/*.csv: ``raspberrypi-2`` at commit 8ec1658, ``jetsonnano``
and ``bonarda(GPU)`` at 442a4ea. Keras, 224 pixels, 1,000 classes; milliseconds, rounded to four digits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from coinfer_ray.models.layers import LayerGraph

DEVICES = ("raspberrypi-2", "jetsonnano")
SERVER = "bonarda(GPU)"
# By block: input, padding, convolution, batch norm, ReLU, padding; max pooling with the first bottleneck up to its
# addition; 15 times a ReLU with the next bottleneck up to its own; the last ReLU, average pooling, linear layer.
_PRINTED = {
    "raspberrypi-2": """
        7.775 4.233 66.83 13.05 8.259 8.056 182.0 153.9 157.2 170.1 120.5 119.6 119.1 176.0 121.2 123.8 121.4 120.5
        121.1 182.6 138.6 136.1 2.391 3.597 22.52""",
    "jetsonnano": """
        1.869 0.8857 1.416 1.433 0.6412 0.8264 12.47 11.46 9.796 12.99 10.36 10.76 10.12 12.92 10.17 10.16 10.87 10.44
        10.12 16.29 11.15 21.50 0.5941 0.8490 1.845""",
    "bonarda(GPU)": """
        0.6186 0.4231 0.6274 0.6342 0.3004 0.4125 4.031 3.254 3.241 4.126 3.268 3.294 3.307 4.100 3.253 3.269 3.267
        3.257 3.292 4.120 3.270 3.274 0.2991 0.4028 0.4766""",
}
BLOCK_MS = {machine: tuple(map(float, printed.split())) for machine, printed in _PRINTED.items()}
SET_UP = (0, 1, 5)  # input and paddings, which are no layers in torchvision: they belong to the layer after them


def layers_ms(machine: str) -> list[float]:
    """(22,) milliseconds of the blocks that torchvision's ResNet-50 has."""
    found, waiting = [], 0.0
    for block, milliseconds in enumerate(BLOCK_MS[machine]):
        waiting += milliseconds
        if block not in SET_UP:
            found.append(waiting)
            waiting = 0.0
    return found


def last_layers(graph: LayerGraph) -> list[int]:
    """(22,) the number of the last layer of each block in torchvision's ResNet-50."""
    additions = [layer.index for layer in graph.layers if layer.kind == "add"]
    return [1, 2, 3, *additions, *range(additions[-1] + 1, len(graph.layers) + 1)]


def write_table(path: Path, graph: LayerGraph) -> Path:
    """The table of all machines (CSV: network, side, layer, ms)."""
    names, ends = [layer.name for layer in graph.layers], last_layers(graph)
    ranges = [f"{names[first]}..{names[last - 1]}" for first, last in zip([0, *ends[:-1]], ends, strict=True)]
    rows = [
        f"resnet50,{machine},{layers},{milliseconds!r}"
        for machine in BLOCK_MS
        for layers, milliseconds in zip(ranges, layers_ms(machine), strict=True)
    ]
    path.write_text("\n".join(["network,side,layer,ms", *rows]) + "\n")
    return path


def measured_splits(
    graph: LayerGraph, machine: str, rates_bps: np.ndarray, round_trip_s: float
) -> tuple[list[int], np.ndarray]:
    """The cuts between blocks, and (rates, cuts) the seconds that the table says for them, and nothing else does.

    A cut sends what the layer before it gives, in floats; the first sends the image, the last nothing.
    """
    cuts = [0, *last_layers(graph)]
    device, server = (np.cumsum([0.0, *layers_ms(each)]) / 1e3 for each in (machine, SERVER))
    sent = np.array([graph.input_elements, *(graph.layers[cut - 1].output_elements for cut in cuts[1:-1]), 0])
    computed = device + server[-1] - server + round_trip_s * (sent > 0)
    return cuts, computed + 32.0 * sent / rates_bps[:, None]
