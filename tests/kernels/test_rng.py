import numpy as np
import pytest
from coinfer_kernels.rng import normal, seed_stream, uniform

from tests.reference.random_stream import Stream


def stream_of(seed, scenario, solution):
    state = np.empty(4, dtype=np.uint64)
    seed_stream(state, seed, scenario, solution)
    return state


def test_xoshiro_gives_the_published_first_numbers():
    state = np.array([1, 2, 3, 4], dtype=np.uint64)
    drawn = [uniform(state) for _ in range(4)]
    assert drawn == [(bits >> 11) / 2**53 for bits in (11520, 0, 1509978240, 1215971899390074240)]


@pytest.mark.parametrize("key", [(0, 0, 0), (1, 2, 3), (2**63 - 1, 2**62, 19)])
def test_streams_equal_the_oracle(key):
    state, reference = stream_of(*key), Stream(*key)
    assert state.tolist() == reference.state
    assert [uniform(state) for _ in range(50)] == [reference.uniform() for _ in range(50)]
    assert [normal(state) for _ in range(50)] == [reference.normal() for _ in range(50)]


def test_streams_differ_in_every_part_of_the_key():
    keys = [(a, b, c) for a in range(4) for b in range(4) for c in range(4)]
    assert len({uniform(stream_of(*key)) for key in keys}) == len(keys)


def test_moments():
    state = stream_of(5, 0, 0)
    drawn = np.array([normal(state) for _ in range(20_000)])
    assert abs(drawn.mean()) < 0.03
    assert abs(drawn.std() - 1) < 0.03
    level = np.array([uniform(state) for _ in range(20_000)])
    assert ((level >= 0) & (level < 1)).all()
    assert abs(level.mean() - 0.5) < 0.01
