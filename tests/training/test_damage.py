"""Damage before training: closed forms, and the file that it is kept in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from coinfer_ray.problem.strategy import Codec, Strategy
from coinfer_ray.training.candidate import CandidateTrainer
from coinfer_ray.training.damage import Damage, DamageMeter, Damages
from tests.training.test_verify import a_strategy, collection, space, trainer

__all__ = ["collection", "trainer"]  # fixtures


@pytest.fixture
def meter(trainer: CandidateTrainer) -> DamageMeter:
    return DamageMeter(trainer, images=200)


def pruned_by(share: float, point: int | None = None, codec: Codec | None = None) -> Strategy:
    sets = space().graph.prunable_sets
    point = len(space().graph.layers) if point is None else point
    return Strategy({one.name: share for one in sets}, point, Codec() if codec is None else codec)


def test_nothing_is_damaged_where_nothing_is_pruned(meter: DamageMeter) -> None:
    assert meter.measure(pruned_by(0.0)) == Damage(pytest.approx(0, abs=1e-6), pytest.approx(0, abs=1e-6), 0.0, 0.0)


def test_a_divergence_is_that_of_the_pruned_networks_outputs(meter: DamageMeter, trainer: CandidateTrainer) -> None:
    strategy = pruned_by(0.5)
    network = trainer.assemble(_shrunk(trainer, strategy), strategy, None).network.eval()
    images = trainer.data.preprocess(torch.from_numpy(trainer.data.validation.images[:200]))
    with torch.no_grad():
        base, found = (one(images).double() for one in (trainer.base.eval(), network))
    p, q = base.softmax(1), found.softmax(1)
    expected = float((p * (p.log() - q.log())).sum(1).mean())
    damage = meter.measure(strategy)
    assert damage.divergence == damage.pruned == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert damage.changed == pytest.approx(float((base.argmax(1) != found.argmax(1)).double().mean()), abs=1e-6)
    assert damage.error == 0.0


def test_the_same_wherever_a_network_without_a_codec_is_cut(meter: DamageMeter) -> None:
    assert meter.measure(pruned_by(0.25, 3)) == meter.measure(pruned_by(0.25))


def test_a_narrower_codec_loses_more_of_the_feature(meter: DamageMeter) -> None:
    errors = [meter.measure(pruned_by(0.0, 3, Codec(ratio_1=ratio))).error for ratio in (0.75, 0.25, 0.0625)]
    assert 0 <= errors[0] < errors[1] < errors[2] < 1
    whole = meter.measure(pruned_by(0.25, 3, Codec(ratio_1=0.0625)))
    assert whole.pruned == meter.measure(pruned_by(0.25)).pruned


def test_more_pruning_does_more_damage(meter: DamageMeter) -> None:
    found = [meter.measure(pruned_by(share)).divergence for share in (0.0, 0.25, 0.5, 0.75)]
    assert np.all(np.diff(found) > 0)


def test_what_was_measured_is_kept_and_not_measured_again(meter: DamageMeter, tmp_path: Path) -> None:
    path = tmp_path / "new" / "damages.parquet"
    damages = Damages(path, space())
    strategies = [pruned_by(0.25), pruned_by(0.25, 3), pruned_by(0.5)]
    assert len(damages.missing(strategies)) == 2
    damages.measure(strategies, meter)
    again = Damages(path, space())
    assert not again.missing(strategies)
    np.testing.assert_array_equal(again.of(strategies), damages.of(strategies))
    np.testing.assert_array_equal(again.of(strategies)[0], again.of(strategies)[1])

    class Never(DamageMeter):
        def __init__(self) -> None:
            pass

        def measure(self, strategy: Strategy) -> Damage:
            raise AssertionError(strategy)

    again.measure(strategies, Never())


def test_quantising_is_left_out(meter: DamageMeter) -> None:
    floats = a_strategy(3)
    eight = Strategy(floats.sparsity, floats.partition_point, floats.codec, 8)
    assert Damages(Path("none"), space()).name_of(floats) == Damages(Path("none"), space()).name_of(eight)
    assert meter.measure(floats) == meter.measure(eight)


def _shrunk(trainer: CandidateTrainer, strategy: Strategy) -> torch.nn.Module:
    from coinfer_ray.compression.pruning import shrink

    keep = trainer.ranking.keep(trainer.space.kept_channels(strategy))
    return shrink(trainer.base, trainer.graph, keep)
