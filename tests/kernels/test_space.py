import numpy as np
import pytest
from coinfer_kernels import canonicalize, decode, features
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.random_tables import random_levels, random_tables
from tests.reference import space as reference


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_decode_equals_the_oracle(seed):
    rng = np.random.default_rng(seed)
    space, _ = random_tables(rng)
    variables = len(space.n_levels)
    cube = rng.random((8, variables))
    # Exactly on the border between two levels, and at both ends.
    cube[1] = rng.integers(0, space.n_levels + 1) / space.n_levels
    cube[2], cube[3] = 0.0, 1.0
    levels = decode(space, cube)
    assert levels.dtype == np.int64
    assert levels.tolist() == [reference.decode(space, point) for point in cube]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_canonical_levels_and_features_equal_the_oracle(seed):
    rng = np.random.default_rng(seed)
    space, _ = random_tables(rng)
    levels = random_levels(rng, space, 5)
    before = levels.copy()
    canonical = canonicalize(space, levels)
    assert (levels == before).all()
    assert canonical.tolist() == [reference.canonical(space, row) for row in levels]
    assert (canonicalize(space, canonical) == canonical).all()

    snr = rng.random(5)
    assert features(space, canonical).tolist() == [reference.features(space, row) for row in canonical]
    assert features(space, canonical, snr).tolist() == [
        reference.features(space, row, s) for row, s in zip(canonical, snr, strict=True)
    ]
    assert (features(space, canonical, 7.5)[:, -1] == 7.5).all()


def test_no_strategies_is_a_batch_too():
    space, _ = random_tables(np.random.default_rng(0))
    variables = len(space.n_levels)
    assert decode(space, np.empty((0, variables))).shape == (0, variables)
    assert features(space, np.empty((0, variables), dtype=np.int64), 1.0).shape == (0, variables + 1)


def test_read_only_arrays_are_taken():
    space, _ = random_tables(np.random.default_rng(0))
    for array in (space.n_levels, space.values, space.active, space.canonical):
        array.setflags(write=False)
    cube = np.full((1, len(space.n_levels)), 0.5)
    cube.setflags(write=False)
    assert decode(space, cube).tolist() == [reference.decode(space, cube[0])]


def test_bad_input_is_named():
    space, _ = random_tables(np.random.default_rng(0))
    variables = len(space.n_levels)
    cube, levels = np.zeros((2, variables)), np.zeros((2, variables), dtype=np.int64)
    wrong = levels.copy()
    wrong[1, 0] = space.n_levels[0]
    negative = levels.copy()
    negative[1, 0] = -1
    for call, message in (
        (lambda: decode(space, cube[0]), "cube: has 1 dimensions"),
        (lambda: decode(space, cube[:, 1:]), "cube: has"),
        (lambda: decode(space, cube + 1.1), "cube: holds coordinates outside"),
        (lambda: decode(space, cube * np.nan), "cube: holds coordinates outside"),
        (lambda: canonicalize(space, wrong), "levels: row 1, variable 0"),
        (lambda: features(space, negative), "levels: row 1, variable 0 is -1"),
        (lambda: features(space, levels + 0.5), "not whole numbers"),
        (lambda: features(space, [["a"] * variables]), "levels: "),
        (lambda: features(space, levels, [1.0, 2.0, 3.0]), "snr_db"),
        (lambda: decode(space._replace(canonical=space.n_levels), cube), "space.canonical"),
        (lambda: decode(space._replace(active=~space.active), cube), "space.active"),
        (lambda: decode(space._replace(cut_variable=variables), cube), "space.cut_variable"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
