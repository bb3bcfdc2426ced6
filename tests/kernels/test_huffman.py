"""The length of a Huffman-coded stream, bit for bit that of the stream that zlib makes."""

import zlib

import numpy as np
import pytest
from coinfer_kernels.huffman import BLOCK, deflate_bits
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import deflate

pytestmark = pytest.mark.skipif("ng" in zlib.ZLIB_RUNTIME_VERSION, reason="zlib-ng cuts streams into other blocks")

# One symbol is enough; a buffer of zlib's is full, and one more; two are.
SIZES = (0, 1, 2, 3, 100, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 70_000)


def draws(kind, size, bits, rng):
    """Symbols as features have them, and as few have them."""
    top = 2**bits - 1
    if kind == "uniform":  # sent as it is, where all eight bits are used
        return rng.integers(0, top + 1, size)
    if kind == "geometric":
        return np.minimum(rng.geometric(rng.uniform(0.02, 0.95), size) - 1, top)
    if kind == "normal":
        return np.clip(rng.normal(top / 2, top / rng.uniform(4, 20), size), 0, top)
    if kind == "relu":  # long runs of unused symbols, most values zero
        return np.where(rng.random(size) < rng.random(), 0, rng.integers(0, top + 1, size))
    return rng.permutation(256)[rng.integers(0, 2, size)]  # "few": two symbols, anywhere


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(["uniform", "geometric", "normal", "relu", "few"]),
    size=st.integers(1, 6000) | st.sampled_from(SIZES),
    bits=st.integers(1, 8),
    seed=st.integers(0, 2**32),
)
def test_it_is_as_long_as_the_stream_that_zlib_makes(kind, size, bits, seed):
    rng = np.random.default_rng(seed)
    rows = np.stack([draws(kind, size, bits, rng) for _ in range(3)]).astype(np.uint8)
    assert deflate_bits(rows).tolist() == deflate.deflate_bits(rows)


@pytest.mark.parametrize("step", [1, 7, 11])
def test_codes_that_would_be_longer_than_fifteen_bits_are_shortened(step):
    """Frequencies that grow as Fibonacci's numbers make the deepest trees (a word of 21 bits here)."""
    often = [1, 1]
    while sum(often) < BLOCK // 3:
        often.append(often[-1] + often[-2])
    rows = np.repeat(np.arange(len(often)) * step, often).astype(np.uint8)[None]
    assert len(often) > 17
    assert deflate_bits(rows).tolist() == deflate.deflate_bits(rows)


def test_rows_do_not_depend_on_each_other():
    rows = np.random.default_rng(0).integers(0, 40, (5, 500)).astype(np.uint8)
    assert deflate_bits(rows).tolist() == [int(deflate_bits(rows[[i]])[0]) for i in range(5)]
    assert deflate_bits(rows[:0]).tolist() == []


@pytest.mark.parametrize("wrong", [np.zeros(3, np.uint8), np.zeros((2, 3)), np.zeros((2, 3, 1), np.uint8)])
def test_what_is_no_table_of_bytes_is_refused(wrong):
    with pytest.raises(ValueError, match="must be uint8 of two dimensions"):
        deflate_bits(wrong)
