"""The two halves together are the whole network, at every allowed cut; codecs fit every feature."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from coinfer_ray.compression.channel import AWGNChannel
from coinfer_ray.compression.codec import Feature, build_codec, sent_elements
from coinfer_ray.models import trace, zoo
from coinfer_ray.models.split import split
from coinfer_ray.problem.strategy import Codec
from tests.models.test_trace import TRACED


@pytest.mark.parametrize("model", TRACED)
def test_halves_compose_to_the_network(model: str) -> None:
    network = zoo.build(model, 10).eval()
    graph = trace.trace_graph(network, (3, 64, 64), model)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        whole = network(images)
        every = 1 if model == "alexnet" else 6  # a trace for each cut: the larger networks take some of them
        for point in (*graph.cut_points[::every], graph.cut_points[-1]):
            device, server = split(network, graph, point)
            feature = device(images)
            if 0 < point < len(graph.layers):
                assert feature[0].numel() == graph.layers[point - 1].output_elements
            assert torch.equal(server(feature), whole)


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (7, 5), (15, 15)])
def test_convolutional_codec_restores_the_shape_and_its_flops_are_torchs(size: tuple[int, int]) -> None:
    height, width = size
    feature = Feature(12, height, width, flat=False)
    stages = list(itertools.product((1.0, 0.5), (1, 3, 5), (1, 2, 3)))
    for (ratio_1, kernel_1, stride_1), (ratio_2, kernel_2, stride_2) in itertools.product(stages[::3], stages[1::4]):
        codec = Codec(ratio_1, kernel_1, stride_1, ratio_2, kernel_2, stride_2)
        pair = build_codec(codec, feature, "spatial")
        check_codec(pair.encoder, pair.decoder, torch.randn(2, 12, height, width))
        flops, biases = torch_flops(pair.encoder, torch.zeros(1, 12, height, width))
        assert pair.encoder_flops == flops + biases


@pytest.mark.parametrize("flat", [True, False])
def test_linear_codec_restores_the_shape(flat: bool) -> None:
    feature = Feature(40, 1, 1, flat=flat)
    x = torch.randn(4, 40) if flat else torch.randn(4, 40, 1, 1)
    for width_1, width_2 in itertools.product((1.0, 0.5, 0.0625), repeat=2):
        pair = build_codec(Codec(width_1=width_1, width_2=width_2), feature, "vector")
        check_codec(pair.encoder, pair.decoder, x)
        assert sent_elements(pair.encoder, feature) == max(1, int(width_2 * max(1, int(width_1 * 40 + 0.5)) + 0.5))


def check_codec(encoder: torch.nn.Module, decoder: torch.nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        sent = encoder.eval()(x)
        assert decoder.eval()(sent).shape == x.shape


def torch_flops(encoder: torch.nn.Module, x: torch.Tensor) -> tuple[int, int]:
    """FLOPs by torch's counter, and what Table I adds: a (folded) bias for each output and the ReLUs."""
    extra = 0

    def count(module: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal extra
        if isinstance(module, torch.nn.Conv2d):
            extra += 2 * output.numel()
        elif isinstance(module, torch.nn.ReLU):
            extra += output.numel()

    hooks = [module.register_forward_hook(count) for module in encoder.modules()]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(x)
    for hook in hooks:
        hook.remove()
    return counter.get_total_flops(), extra


def test_a_codec_of_ones_is_no_codec() -> None:
    pair = build_codec(Codec(), Feature(8, 4, 4, flat=False), "spatial")
    assert (len(pair.encoder), len(pair.decoder), pair.encoder_flops, pair.decoder_flops) == (0, 0, 0, 0)


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 30.0])
def test_awgn_has_the_snr_that_it_was_given_whatever_the_features_power(snr_db: float) -> None:
    torch.manual_seed(0)
    feature = torch.randn(64, 16, 8, 8) * torch.logspace(-3, 3, 64).view(-1, 1, 1, 1)
    noise = AWGNChannel(snr_db)(feature) - feature
    measured = 10 * torch.log10(feature.square().mean((1, 2, 3)) / noise.square().mean((1, 2, 3)))
    assert measured.mean().item() == pytest.approx(snr_db, abs=0.1)
    assert (measured - snr_db).abs().max() < 1.0


@pytest.mark.parametrize(("size", "kernel", "stride"), [(2, 5, 3), (1, 3, 2), (1, 5, 3), (3, 5, 2)])
def test_gradients_of_a_codec_larger_than_its_feature_are_whole_under_bfloat16(
    size: int, kernel: int, stride: int
) -> None:
    codec = Codec(ratio_1=0.75, kernel_1=kernel, stride_1=stride)
    for _ in range(8):
        pair = build_codec(codec, Feature(64, size, size, flat=False), "spatial")
        both = torch.nn.Sequential(pair.encoder, pair.decoder).to(memory_format=torch.channels_last)
        # Freed memory full of NaN: a gradient that is left unwritten shows.
        full = [torch.full((48, 64, kernel, kernel), float("nan")) for _ in range(4)]
        del full
        with torch.autocast("cpu", torch.bfloat16):
            restored = both(torch.randn(64, 64, size, size).contiguous(memory_format=torch.channels_last))
        restored.float().square().sum().backward()
        assert all(
            torch.isfinite(parameter.grad).all() for parameter in both.parameters() if parameter.grad is not None
        )
