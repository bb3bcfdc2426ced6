"""What a network's damage before training says of what training makes of it: features that cost seconds.

    python studies/damage.py --model alexnet --data DIR     measure what is not measured yet, and print the table
    python studies/damage.py --model alexnet                print it from what is there

Of every strategy of the shipped records that was trained, with 8 bits a value or more, and of each prunable set alone
at some levels, the damage (:class:`coinfer_ray.training.damage.Damage`) is kept in studies/damage; stopped, it goes on
when it is run again.

The table: a teacher (boosted trees and a Gaussian process, as behind the shipped predictors) sees the variables and
their sums, and one group of further features after the other: *sensitivity*, the sum of what each set alone does when
it is pruned so far, which costs a strategy nothing; *pruned*, the divergence of the pruned network without a codec;
*whole*, that with the codec in place, and its reconstruction error. Out of fold: folds of strategies, all records. At
answers: fitted to what was drawn all over the space alone, judged by what solvers chose and was then trained, where a
prediction errs most, for they look for its errors. Errors are in points of accuracy, of strategies that lose at most 5.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from coinfer_kernels import features
from scipy.stats import spearmanr
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import GroupKFold

from coinfer_ray.cli.scripts import run_script
from coinfer_ray.predictor.distillation import Aggregates
from coinfer_ray.predictor.gaussian_process import GaussianProcess
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.problem.strategy import FLOAT_BITS, Codec, Strategy
from coinfer_ray.records.store import Records, read_records, shipped_parts, shipped_records
from coinfer_ray.training.damage import DamageMeter, Damages
from coinfer_ray.training.data import load_data
from coinfer_ray.training.verifier import trainer_of

FOLDER = Path(__file__).parent / "damage"
ALONE = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75)  # of a set's channels, pruned by itself
NEAR = 0.05
LEAST_BITS = 8
FIRST_CHOSEN = 1 << 40  # numbers of what no plan drew (coinfer_ray.training.verifier.FIRST_VERIFIED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", help="images as `coinfer collect --data` takes them")
    given = parser.parse_args()
    records = trained(read_records(shipped_parts(given.model)))
    space = SearchSpace(records.graph, feature_bits=(FLOAT_BITS, LEAST_BITS))
    damages = Damages(FOLDER / f"{given.model}.parquet", space)
    wanted = [*alone(space), *records.strategies]
    if given.data is not None and damages.missing(wanted):
        damages.measure(wanted, DamageMeter(trainer_of(shipped_records(given.model), load_data(given.data))))
    print_table(records, damages)


def trained(records: Records) -> Records:
    """Those that are not the network as it is, with 8 bits or more: what fewer bits cost is not measured here."""
    touched = [any(one.sparsity.values()) or one.codec != Codec() for one in records.strategies]
    return records.where(np.array(touched) & (records.feature_bits >= LEAST_BITS))


def alone(space: SearchSpace) -> Iterable[Strategy]:
    """Each prunable set pruned by itself, whole on the device."""
    names = [prunable.name for prunable in space.graph.prunable_sets]
    for own, variable in zip(names, space.variables, strict=False):
        values = np.asarray(variable.values)
        for share in np.unique([values[np.abs(values - one).argmin()] for one in ALONE]):
            sparsity = dict.fromkeys(names, 0.0) | {own: float(share)}
            yield Strategy(sparsity, len(space.graph.layers))


class Sensitivity:
    """What each set does when it is pruned by itself, between the levels that were measured, summed over the sets."""

    def __init__(self, damages: Damages) -> None:
        self._curves = []
        there = [one for one in alone(damages.space) if not damages.missing([one])]
        divergence = damages.of(there)[:, 0] if there else []
        for own in (prunable.name for prunable in damages.space.graph.prunable_sets):
            points = [
                (one.sparsity[own], does) for one, does in zip(there, divergence, strict=True) if one.sparsity[own]
            ]
            self._curves.append(np.array([(0.0, 0.0), *points]).T)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(n,) of strategies with the variables ``x`` (n, V)."""
        return np.sum([np.interp(own, *curve) for own, curve in zip(x.T, self._curves, strict=False)], axis=0)


def logarithm(values: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(values, 0.0) + 1e-3)


def columns(strategies: list[Strategy], damages: Damages) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The variables (n, V) of strategies, and the groups of features beside them."""
    space = damages.space
    levels = np.array([space.levels(one) for one in strategies])
    x = features(space.tables, levels)
    damage = damages.of(strategies)
    sensitivity = logarithm(Sensitivity(damages)(x))[:, None]
    pruned = logarithm(damage[:, 1:2])
    whole = np.column_stack([logarithm(damage[:, :1]), damage[:, 2:]])
    return x, {"": np.empty((len(x), 0)), "sensitivity": sensitivity, "pruned": pruned, "whole": whole}


GROUPS = (("",), ("sensitivity",), ("sensitivity", "pruned"), ("sensitivity", "pruned", "whole"))


def teacher(space: SearchSpace, x: np.ndarray, more: np.ndarray, y: np.ndarray) -> Callable[..., np.ndarray]:
    """Trees and a Gaussian process, half each, of the losses' logarithms; gives losses of other strategies."""
    aggregates = Aggregates(space)
    target = np.log(np.maximum(y, -0.005) + 0.01)

    def seen(x: np.ndarray, more: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sums = aggregates(x)
        return np.column_stack([x, sums, more]), np.column_stack([x[:, space.cut_variable], sums, more])

    trees_see, process_sees = seen(x, more)
    trees = [
        HistGradientBoostingRegressor(
            max_iter=150, learning_rate=0.06, max_leaf_nodes=8, min_samples_leaf=8, max_features=0.5, random_state=seed
        ).fit(trees_see, target)
        for seed in range(4)
    ]
    process = GaussianProcess(0).fit(process_sees, target)

    def predict(x: np.ndarray, more: np.ndarray) -> np.ndarray:
        trees_see, process_sees = seen(x, more)
        found = np.mean([tree.predict(trees_see) for tree in trees], axis=0)
        return np.asarray(np.exp((found + process.predict(process_sees)) / 2) - 0.01)

    return predict


def print_table(records: Records, damages: Damages) -> None:
    rows = np.array([row for row, one in enumerate(records.strategies) if not damages.missing([one])], dtype=int)
    if len(rows) < len(records.strategies):
        print(f"measured of {len(rows)} records of {len(records.strategies)}; --data measures the others")
    if not len(rows):
        return
    strategies, space = [records.strategies[row] for row in rows], damages.space
    x, groups = columns(strategies, damages)
    loss = records.losses()[0][rows]
    names = [damages.name_of(one) for one in strategies]
    folds = np.unique(names, return_inverse=True)[1]
    chosen = records.table["candidate"].to_numpy()[rows] >= FIRST_CHOSEN
    print(f"{len(rows)} records of {len(set(names))} strategies, {chosen.sum()} of them chosen by solvers")
    print(f"{'':14}{'features':34}{'R^2':>7}{'rank':>7}{'error':>8}{'bias':>8}")
    for group in GROUPS:
        more = np.column_stack([groups[name] for name in group])
        found = np.empty(len(loss))
        for train, test in GroupKFold(5).split(x, loss, folds):
            found[test] = teacher(space, x[train], more[train], loss[train])(x[test], more[test])
        print_row("out of fold", group, loss, found)
        free = ~chosen & ~np.isin(folds, folds[chosen])
        found = teacher(space, x[free], more[free], loss[free])(x[chosen], more[chosen])
        print_row("at answers", group, loss[chosen], found)


def print_row(where: str, group: tuple[str, ...], loss: np.ndarray, found: np.ndarray) -> None:
    near = loss <= NEAR
    r2 = 1 - ((found - loss) ** 2).sum() / ((loss - loss.mean()) ** 2).sum()
    rank = spearmanr(found, loss).statistic
    apart = 100 * (found - loss)[near]
    name = ", ".join(each for each in group if each) or "variables and their sums"
    print(f"{where:14}{name:34}{r2:7.3f}{rank:7.3f}{np.abs(apart).mean():8.2f}{apart.mean():+8.2f}")


if __name__ == "__main__":
    run_script(main)
