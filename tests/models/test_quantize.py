"""Quantised features: as close as the levels allow, trainable, and as small as a Huffman code makes them."""

from __future__ import annotations

import heapq
import zlib
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from coinfer_ray.compression.quantize import Quantizer, huffman_bits


def calibrated(bits: int, feature: torch.Tensor) -> Quantizer:
    quantizer = Quantizer(bits).eval()
    quantizer.calibrate(feature)
    return quantizer


@settings(max_examples=40, deadline=None)
@given(bits=st.integers(1, 8), scale=st.floats(1e-3, 1e3), shift=st.floats(-1e2, 1e2), seed=st.integers(0, 99))
def test_no_value_moves_by_more_than_half_a_step(bits: int, scale: float, shift: float, seed: int) -> None:
    feature = torch.randn(4, 5, 3, 3, generator=torch.Generator().manual_seed(seed)) * scale + shift
    quantizer = calibrated(bits, feature)
    rebuilt = quantizer(feature)
    step = (feature.max() - feature.min()).item() / (2**bits - 1)
    assert (rebuilt - feature).abs().max().item() <= step / 2 * (1 + 1e-3) + 1e-6 * (abs(shift) + scale)
    codes = quantizer.codes(feature)
    assert codes.dtype == torch.uint8
    assert codes.min() == 0 and codes.max() == 2**bits - 1
    assert torch.allclose(quantizer.rebuild(codes), rebuilt, rtol=1e-6, atol=1e-6 * (abs(shift) + scale))
    assert torch.equal(quantizer.codes(rebuilt), codes), "what was sent changes when it is sent again"


def test_values_beyond_the_range_are_clipped_and_a_flat_feature_stays() -> None:
    quantizer = calibrated(2, torch.tensor([0.0, 3.0]))
    assert quantizer(torch.tensor([-5.0, 0.4, 1.6, 9.0])).tolist() == [0.0, 0.0, 2.0, 3.0]
    flat = calibrated(4, torch.full((3, 2), 7.5))
    assert flat(torch.full((3, 2), 7.5)).tolist() == [[7.5, 7.5]] * 3


def test_gradients_pass_straight_through_within_the_range_only() -> None:
    quantizer = calibrated(2, torch.tensor([0.0, 3.0]))
    x = torch.tensor([-1.0, 0.4, 2.7, 4.0], requires_grad=True)
    (quantizer(x) * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 2.0, 3.0, 0.0]


def test_training_widens_the_range_and_evaluation_does_not() -> None:
    quantizer = Quantizer(8)
    quantizer(torch.tensor([1.0, 2.0]))
    quantizer(torch.tensor([-3.0, 0.0]))
    quantizer.eval()(torch.tensor([100.0]))
    assert (quantizer.low.item(), quantizer.high.item()) == (-3.0, 2.0)


def test_an_autoencoder_learns_through_two_bits() -> None:
    """Without a gradient through the rounding the encoder would keep its first, random weights."""
    torch.manual_seed(0)
    data = torch.randn(256, 8) * torch.tensor([4.0, 2.0, 1, 1, 0.1, 0.1, 0.1, 0.1])
    encoder, quantizer, decoder = nn.Linear(8, 4), Quantizer(2), nn.Linear(4, 8)
    before = encoder.weight.detach().clone()
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=0.01)
    losses = []
    for _ in range(300):
        loss = (decoder(quantizer(torch.tanh(encoder(data)))) - data).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert not torch.allclose(before, encoder.weight)
    assert losses[-1] < 0.35 * losses[0]


@pytest.mark.parametrize("bits", [0, 9])
def test_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=r"must be within 1\.\.8"):
        Quantizer(bits)


def huffman_length(symbols: np.ndarray) -> int:
    """Bits of the optimal prefix code for these symbols, without its table (D. Huffman 1952)."""
    heap = sorted(Counter(symbols.tolist()).values())
    if len(heap) == 1:
        return len(symbols)
    total = 0
    while len(heap) > 1:
        joined = heapq.heappop(heap) + heapq.heappop(heap)
        total += joined
        heapq.heappush(heap, joined)
    return total


@settings(max_examples=30, deadline=None)
@given(bits=st.integers(1, 8), rate=st.floats(0.02, 0.9), size=st.integers(200, 4000), seed=st.integers(0, 99))
def test_coded_bits_are_those_of_the_best_prefix_code_and_its_table(
    bits: int, rate: float, size: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    codes = np.minimum(rng.geometric(rate, size) - 1, 2**bits - 1).astype(np.uint8)
    [coded] = huffman_bits(codes[None])
    # DEFLATE has one more symbol, for the end of the stream; it stores its codes' lengths and rounds up to a byte.
    best = huffman_length(np.append(codes.astype(np.int64), 256))
    assert huffman_length(codes) <= coded <= best + 14 * 2**bits + 200


def test_each_image_is_a_stream_of_its_own() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, (3, 2, 8, 8)).astype(np.uint8)
    together = huffman_bits(codes)
    assert together.tolist() == [int(huffman_bits(codes[[row]])[0]) for row in range(3)]
    assert huffman_bits(np.zeros((1, 4096), dtype=np.uint8))[0] < 4096 + 200 < 8 * 4096
    stream = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    coded = stream.compress(codes[0].tobytes()) + stream.flush()
    assert zlib.decompress(coded, wbits=-15) == codes[0].tobytes()
