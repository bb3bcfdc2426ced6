"""All strategies of a small space, and the best one for a scenario: full enumeration in plain Python."""

from itertools import product
from math import inf

from tests.reference import latency, space, trees


def strategies(tables):
    """Every canonical strategy once."""
    cuts = range(int(tables.n_levels[tables.cut_variable]))
    for cut in cuts:
        choices = [range(int(n)) if tables.active[cut][v] else [0] for v, n in enumerate(tables.n_levels)]
        choices[tables.cut_variable] = [cut]
        for levels in product(*choices):
            yield space.canonical(tables, levels)


def enumerate_all(tables, cost, ensemble, snr_db=None):
    """[(levels, costs, accuracy)] of every strategy."""
    return [
        (
            levels,
            latency.costs(cost, tables.cut_variable, levels),
            trees.predict(ensemble, space.features(tables, levels, snr_db)),
        )
        for levels in strategies(tables)
    ]


def cheapest(rows, weights, floor):
    """The least objective of the rows that are accurate enough; infinite where none is."""
    return min((latency.objective(weights, costs) for _, costs, accuracy in rows if accuracy >= floor), default=inf)
