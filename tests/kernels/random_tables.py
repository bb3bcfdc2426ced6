"""Random spaces, networks, ensembles and scenarios: small, and odd in every way that the tables allow."""

import numpy as np
from coinfer_kernels import CostTables, EnsembleTables, Scenarios, SpaceTables
from coinfer_kernels.notation import CODEC_VARIABLES, CUT_NONE, CUT_RAW, CUT_SPATIAL, CUT_VECTOR


def random_tables(rng: np.random.Generator) -> tuple[SpaceTables, CostTables]:
    """A space and the costs of a network on it: 0..4 prunable sets, 1..7 layers, 1..6 cuts."""
    sets, layers, cuts = int(rng.integers(0, 5)), int(rng.integers(1, 8)), int(rng.integers(1, 7))
    variables = sets + 1 + CODEC_VARIABLES
    cut_first = bool(rng.integers(2))
    cut_variable = sets if cut_first else sets + CODEC_VARIABLES
    codec_variable = sets + 1 if cut_first else sets
    most = 6

    n_levels = rng.integers(1, most + 1, variables)
    n_levels[cut_variable] = cuts
    values = np.sort(rng.random((variables, most)), axis=1)
    for v in range(variables):
        values[v, n_levels[v] :] = values[v, n_levels[v] - 1]
    for v in range(CODEC_VARIABLES):
        row = codec_variable + v
        choices = ([1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 3.0])[v % 3 == 2] if v < 6 and v % 3 else None
        if choices is None:
            values[row] = np.linspace(1.0, 0.05, most)
        else:
            values[row] = np.resize(choices, most)

    kinds = rng.choice([CUT_RAW, CUT_SPATIAL, CUT_VECTOR, CUT_NONE], cuts)
    active = np.ones((cuts, variables), dtype=bool)
    active[:, codec_variable : codec_variable + 6] = (kinds == CUT_SPATIAL)[:, None]
    active[:, codec_variable + 6 : codec_variable + 8] = (kinds == CUT_VECTOR)[:, None]
    space = SpaceTables(n_levels, values, cut_variable, active, rng.integers(0, n_levels))

    kept = np.ones((sets + 1, most))
    for row in range(sets):
        channels = int(rng.integers(2, 33))
        kept[row] = np.sort(rng.integers(1, channels + 1, most))[::-1]
    cost = CostTables(
        in_set=rng.integers(0, sets + 1, layers),
        out_set=rng.integers(0, sets + 1, layers),
        quadratic=rng.integers(0, 1000, layers).astype(float),
        linear=rng.integers(-1, 1000, layers).astype(float),
        kept=kept,
        cut_layers=np.sort(rng.integers(0, layers + 1, cuts)),
        cut_kind=kinds,
        cut_set=rng.integers(0, sets + 1, cuts),
        cut_channels=rng.integers(1, 6, cuts).astype(float),
        cut_height=rng.integers(1, 10, cuts),
        cut_width=rng.integers(1, 10, cuts),
        codec_variable=codec_variable,
        ratio=values[codec_variable : codec_variable + CODEC_VARIABLES].copy(),
        cut_bits=rng.choice([8.0, 32.0], cuts),
        input_bits=8.0,
        codec_flops=bool(rng.integers(2)),
    )
    return space, cost


def random_levels(rng: np.random.Generator, space: SpaceTables, n: int) -> np.ndarray:
    return rng.integers(0, space.n_levels, (n, len(space.n_levels)))


def random_ensemble(
    rng: np.random.Generator, features: int, *, trees: int = 6, depth: int = 4, median: bool = False
) -> EnsembleTables:
    """Trees of random shape with a threshold drawn among float32's neighbours of plausible features."""
    feature: list[int] = []
    threshold: list[float] = []
    left: list[int] = []
    right: list[int] = []
    value: list[float] = []

    def grow(levels: int) -> int:
        node = len(feature)
        inner = levels > 0 and rng.random() < 0.8
        feature.append(int(rng.integers(features)) if inner else -1)
        threshold.append(float(rng.random()) if inner else 0.0)
        value.append(float(rng.normal()))
        left.append(node)
        right.append(node)
        if inner:
            left[node] = grow(levels - 1)
            right[node] = grow(levels - 1)
        return node

    roots = [grow(depth) for _ in range(trees)]
    return EnsembleTables(
        np.array(feature),
        np.array(threshold),
        np.array(left),
        np.array(right),
        np.array(value),
        np.array(roots),
        rng.random(trees),
        median,
        0.0 if median else float(rng.normal()),
        np.zeros(features) if median else rng.normal(size=features),
    )


def random_scenarios(rng: np.random.Generator, count: int, floor: float) -> Scenarios:
    return Scenarios(rng.random((count, 3)), np.full(count, floor), rng.random(count))
