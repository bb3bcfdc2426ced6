"""Which classification networks of torchvision or timm are taken, and whether all that is said of them is true.

    python scripts/model_coverage.py [--timm] [--models NAME,NAME] [--largest 30] [--prunings 2]

For each network with at most --largest million parameters: the input that it was tried at, its prunable sets and cuts;
the FLOPs of its convolutions and linear layers over those of torch's own counter (which leaves out biases, so a little
above 1; below where there is attention, which is costed by that counter itself); and whether random prunings equal the
masked network, and halves the whole at a sample of its cuts, to 1e-5.
Untrained weights.

``--timm`` (``pip install timm``) takes fourteen of timm's without ``--models``: a small member of each family that is
used most, from residual networks to transformers, so that the blocks that timm writes in its own way are all there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from coinfer_ray.cli.scripts import positive_int, run_script
from coinfer_ray.errors import InputError
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.trace import trace_graph
from coinfer_ray.models.zoo import build, known_models

sys.path.insert(0, str(Path(__file__).parents[1]))  # what must hold of a network is said by the tests
from tests.models.agreement import check_network

SIDES = (64, 224, 299)  # the first that a network runs on
TIMM = (
    *("resnet18", "resnet50", "efficientnet_b0", "mobilenetv3_large_100", "mnasnet_100", "ghostnet_100", "mixnet_s"),
    *("regnety_004", "densenet121", "repvgg_a0", "hrnet_w18_small", "convnext_tiny", "vit_tiny_patch16_224"),
    "swin_tiny_patch4_window7_224",
)
CUTS = 6  # that are tried of each network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timm", action="store_true", help="of timm instead of torchvision")
    parser.add_argument("--models", help="default: all of torchvision, fourteen of timm")
    parser.add_argument("--largest", type=float, default=30, help="million parameters")
    parser.add_argument("--prunings", type=positive_int, default=2)
    given = parser.parse_args()
    names = given.models.split(",") if given.models else TIMM if given.timm else known_models()
    print(f"{'network':28} {'px':>4} {'sets':>5} {'cuts':>5} {'FLOPs':>6}  pruned and cut rightly", flush=True)
    taken = right = tried = 0
    for name in names:
        torch.manual_seed(0)
        network = (timm_network if given.timm else build)(name, 10).eval()
        if sum(each.numel() for each in network.parameters()) > given.largest * 1e6:
            continue
        tried += 1
        try:
            graph, side = traced(network, name)
        except InputError as error:
            print(f"{name:28} {error}", flush=True)
            continue
        taken += 1
        try:
            check_network(
                network, (3, side, side), prunings=given.prunings, every_cut=-(-len(graph.cut_points) // CUTS)
            )
            verdict = "yes"
            right += 1
        except (AssertionError, InputError) as error:
            verdict = f"no: {next(iter(str(error).splitlines()), 'outputs differ')}"
        row = f"{len(graph.prunable_sets):5} {len(graph.cut_points):5} {counted(network, graph, side):6.3f}"
        print(f"{name:28} {side:4} {row}  {verdict}", flush=True)
    print(f"{taken} of {tried} are taken, {right} of them pruned and cut rightly")


def timm_network(name: str, classes: int) -> torch.nn.Module:
    """A network of timm's by name, with random weights."""
    import timm

    network: torch.nn.Module = timm.create_model(name, num_classes=classes)
    return network


def traced(network: torch.nn.Module, name: str) -> tuple[LayerGraph, int]:
    """The network's graph at the first input that it runs on, and that input's side.

    Raises:
        InputError: it is refused at the largest.
    """
    for side in SIDES[:-1]:
        try:
            return trace_graph(network, (3, side, side), name), side
        except InputError:
            continue
    return trace_graph(network, (3, SIDES[-1], SIDES[-1]), name), SIDES[-1]


def counted(network: torch.nn.Module, graph: LayerGraph, side: int) -> float:
    """FLOPs of the graph's convolutions and linear layers over those of torch's counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, side, side))
    own = sum(layer.flops for layer in graph.layers if layer.kind in ("conv", "fc", "linear"))
    return own / counter.get_total_flops()


if __name__ == "__main__":
    run_script(main)
