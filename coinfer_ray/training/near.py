"""Which candidates of the plan lie near the base network, where accuracy bounds are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from coinfer_kernels import features

from coinfer_ray.errors import InputError
from coinfer_ray.predictor.fit import fit_predictor
from coinfer_ray.problem.sampling import plan_levels, plan_snr_db
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.records.store import Records

MAX_LOOKED_AT = 1 << 16  # candidates of the plan


def near_candidates(
    space: SearchSpace, known: Records, near: float, candidates: int, snr_db: tuple[float, float] | None, seed: int
) -> list[int]:
    """Numbers of the plan's next so many candidates that ``known`` predicts to lose at most ``near``.

    An accuracy bound is kept or broken by few points, and of candidates that cover the whole space few are so near the
    base network. These are drawn as the others are, not optimised, so errors of the prediction move where the
    candidates lie but do not gather in them.

    Predicted from the plan's first candidates alone, as far as ``known`` has them without a gap, whatever it holds
    beyond: so the choice stays the same when those that were chosen have joined the records.

    Raises:
        InputError: ``known`` does not begin with the plan's first candidates, or too few such candidates among the
            plan's first :data:`MAX_LOOKED_AT`.
    """
    numbers = known.table["candidate"].to_numpy()
    present = np.unique(numbers)
    first = present[present - np.arange(len(present)) <= known.failed]  # those that failed are not in the table
    if not len(first):
        raise InputError(f"known: {known.source} lacks the plan's first candidates, which the choice is made from")
    predictor = fit_predictor(replace(known, table=known.table.filter(numbers <= first[-1])))
    levels = plan_levels(space, MAX_LOOKED_AT, seed)
    snr = None if snr_db is None else plan_snr_db(MAX_LOOKED_AT, *snr_db, seed)
    predicted = predictor.predict(features(space.tables, levels, snr))
    wanted = predicted >= predictor.base_accuracy - near
    # The very next one would close the gap that tells the first candidates from those that are chosen here.
    wanted[: first[-1] + 2] = False
    found: list[int] = np.flatnonzero(wanted)[:candidates].tolist()
    if len(found) < candidates:
        raise InputError(
            f"near: only {len(found)} of the plan's first {MAX_LOOKED_AT:,} candidates are predicted to lose at most "
            f"{near:g}; ask for fewer candidates or a larger loss"
        )
    return found
