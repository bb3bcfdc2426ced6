"""Which candidates of the plan lie near the base network, where accuracy bounds are."""

from __future__ import annotations

import numpy as np
from coinfer_kernels import features

from coinfer_ray.errors import InputError
from coinfer_ray.predictor import fit_predictor
from coinfer_ray.space import SearchSpace
from coinfer_ray.store import Records
from coinfer_ray.training.plan import plan_levels, plan_snr_db

MOST_LOOKED_AT = 1 << 16  # candidates of the plan


def near_candidates(
    space: SearchSpace, known: Records, near: float, candidates: int, snr_db: tuple[float, float] | None, seed: int
) -> list[int]:
    """Numbers of the plan's first so many candidates that ``known`` lacks and predicts to lose at most ``near``.

    An accuracy bound is kept or broken by few points, and of candidates that cover the whole space few are so near the
    base network: 15 % of RegNetX-400MF's lose at most 5 points. These are drawn as the others are, not optimised, so
    errors of the prediction move where the candidates lie but do not gather in them.

    Raises:
        InputError: too few such candidates among the plan's first :data:`MOST_LOOKED_AT`.
    """
    predictor = fit_predictor(known)
    levels = plan_levels(space, MOST_LOOKED_AT, seed)
    snr = None if snr_db is None else plan_snr_db(MOST_LOOKED_AT, *snr_db, seed)
    predicted = predictor.predict(features(space.tables, levels, snr))
    wanted = predicted >= predictor.base_accuracy - near
    wanted[np.isin(np.arange(MOST_LOOKED_AT), known.table["candidate"].to_numpy())] = False
    found: list[int] = np.flatnonzero(wanted)[:candidates].tolist()
    if len(found) < candidates:
        raise InputError(
            f"near: only {len(found)} of the plan's first {MOST_LOOKED_AT:,} candidates are predicted to lose at most "
            f"{near:g}; ask for fewer candidates or a larger loss"
        )
    return found
