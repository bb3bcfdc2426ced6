"""Vector code against plain loops over the same numbers, in the form for this processor and in the one for any."""

import bisect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from coinfer_kernels.machine_code import processor
from coinfer_kernels.trees import llvm as lanes
from numba import njit

from tests.reference import trees as reference

KINDS = (np.float32, np.float64, np.uint8)
# A processor runs its own form and those below.
FORMS = list(lanes.Form)[list(lanes.Form).index(lanes.form()) :]


def complete_trees(rng, kind, features, count):
    trees = np.zeros(count, lanes.tree_record(np.dtype(kind)))
    trees["feature"] = rng.integers(0, features, (count, 7))
    trees["threshold"] = rng.integers(0, 6, (count, 7))
    trees["value"] = rng.normal(size=(count, 8))
    return trees


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [lanes.NARROW, lanes.WIDE])
def test_trees_are_added_as_by_walking_them(kind, width, form):
    add_trees = lanes.make_add_trees(width, form)

    @njit
    def added(columns, trees, total, begin):
        add_trees(columns, trees, total, begin)

    rng = np.random.default_rng(width)
    trees, rows = complete_trees(rng, kind, 5, 9), rng.integers(0, 6, (width, 5)).astype(kind)
    order = lanes.samples(width, 8 * np.dtype(kind).itemsize, form)
    total = rng.normal(size=width + 3)
    before = total.copy()
    added(rows[order].T.ravel().copy(), trees.view(np.uint8).view(kind), total, 2)
    for i, row in enumerate(rows.tolist()):
        before[2 + i] = reference.add_complete(before[2 + i], trees, row)
    assert (total == before).all()


@pytest.mark.parametrize("width", [lanes.NARROW, lanes.WIDE])
@pytest.mark.parametrize("bits", [8, 32, 64])
@pytest.mark.parametrize("form", lanes.Form)
def test_every_sample_has_one_place(width, bits, form):
    assert sorted(lanes.samples(width, bits, form)) == list(range(width))


@pytest.mark.parametrize(
    ("source", "column"),
    [(np.float64, np.float32), (np.float32, np.float32), (np.float64, np.float64), (np.uint8, np.uint8)],
)
def test_rows_become_columns(source, column):
    @njit
    def transposed(x, begin, first, rows, place, columns, width):
        return lanes.transpose(x, begin, first, rows, place, columns, width)

    rng = np.random.default_rng(0)
    x = rng.integers(0, 99, (20, 11)).astype(source)
    starts = rng.permutation(16).astype(np.int64)
    columns, expected = np.zeros(11 * 16, column), np.zeros((11, 16), column)
    assert transposed(x.ravel(), 2 * 11, 3, starts * 11, 8, columns, 16)
    expected[3:11, 8:] = x[2 + starts[8:], 3:11].T
    assert (columns.reshape(11, 16) == expected).all()
    if source != np.uint8:
        for bad in (np.nan, np.inf, -np.inf):
            odd = x.copy()
            odd[2 + starts[13], 7] = bad
            assert not transposed(odd.ravel(), 2 * 11, 3, starts * 11, 8, columns, 16)


@pytest.mark.skipif(lanes.form() is not lanes.Form.AVX512, reason="this processor does not look up 8 values by number")
@pytest.mark.parametrize("levels", [6, 7])
def test_ranks_count_the_edges_that_a_number_exceeds(levels):
    rank = lanes.make_rank(levels)

    @njit
    def ranked(columns, edges, start, codes, column):
        rank(columns, edges, start, codes, column)

    rng = np.random.default_rng(levels)
    for count in (0, 1, 5, 40, (1 << levels) - 1):
        edges = np.sort(rng.normal(size=count).astype(np.float32))
        padded = np.concatenate([edges, np.full((1 << levels) - 1 - count, np.inf, np.float32)])
        table = np.full(2 * lanes.EDGE_ROOM, np.nan, np.float32)
        for start, places in zip(lanes.EDGE_START, lanes.edge_places(levels), strict=False):
            table[lanes.EDGE_ROOM + start :][: len(places)] = padded[places]
        columns = rng.normal(size=3 * lanes.WIDE).astype(np.float32)
        if count:
            columns[::3] = rng.choice(edges, lanes.WIDE)
        codes = np.zeros(3 * lanes.WIDE, np.uint8)
        ranked(columns, table, lanes.EDGE_ROOM, codes, 1)
        expected = [bisect.bisect_left(edges.tolist(), x) << (8 - levels) for x in columns.tolist()]
        assert codes[lanes.WIDE : -lanes.WIDE].tolist() == expected[lanes.WIDE : -lanes.WIDE]
        assert not codes[: lanes.WIDE].any()


# Sums of predictions in every form of rows, by trees that every form of the kernels takes.
PREDICTIONS = """
import numpy as np
from coinfer_kernels import TreeEnsemble
from coinfer_kernels.trees import llvm as lanes
from tests.kernels.random_tables import random_ensemble
rng = np.random.default_rng(0)
for features in (5, 11):
    tables = random_ensemble(rng, features, trees=40, depth=3)
    tables = tables._replace(threshold=np.floor(tables.threshold * 32) / 32)
    ensemble = TreeEnsemble(tables)
    coded = TreeEnsemble(tables._replace(coefficients=np.zeros(features))).code_levels(
        np.tile(np.arange(64) / 64, (features, 1)))
    for rows in (1, 5, 33, 200):
        levels = rng.integers(0, 64, (rows, features)).astype(np.uint8)
        for x in (levels / 64, (levels / 64).astype(np.float32)):
            print(ensemble.predict(x).tobytes().hex())
        print(coded.predict(levels).tobytes().hex())
    wide = TreeEnsemble(tables._replace(threshold=rng.random(len(tables.threshold))))  # not float32's numbers
    print(wide.predict(rng.random((200, features))).tobytes().hex())
print(lanes.form().name)
"""
OLDER = {
    "AVX2": ("haswell", "+avx2,+fma,+bmi,+bmi2"),
    "ANY": ("nehalem", "+sse4.2,+popcnt"),
}


def predictions(tmp_path, **environment):
    root = Path(__file__).parents[2]
    found = subprocess.run(
        [sys.executable, "-c", PREDICTIONS],
        env=os.environ
        | {"PYTHONPATH": f"{root}:{root / 'kernels'}", "COINFER_CACHE_DIR": str(tmp_path), "NUMBA_NUM_THREADS": "1"}
        | environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return found.stdout.split()


@pytest.mark.skipif(not processor()[0].startswith("x86_64"), reason="compiles for older processors of this kind")
@pytest.mark.parametrize("form", OLDER)
def test_an_older_processor_gives_the_same_answers_to_the_last_bit(form, tmp_path):
    name, features = OLDER[form]
    if form == "AVX2" and lanes.form() is lanes.Form.ANY:
        pytest.skip("this processor has no AVX2")
    here = predictions(tmp_path)
    there = predictions(tmp_path, NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=features)
    assert there[-1] == form
    assert len(there) == 2 * (4 * 3 + 1) + 1
    assert there[:-1] == here[:-1]
    # Each processor's machine code has a folder of its own.
    assert len({each.name for each in tmp_path.iterdir()}) == (1 if lanes.form().name == form else 2)
