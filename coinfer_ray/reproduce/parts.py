"""The parts of the evaluation: what each computes, as rows that JSON can hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coinfer_ray.methods.cia import EPISODES
from coinfer_ray.methods.registry import PLAIN_METHODS
from coinfer_ray.optimizer.problem import ProblemOptions, assemble
from coinfer_ray.optimizer.solve import OPTIMIZERS
from coinfer_ray.predictor.fit import fit
from coinfer_ray.records.store import read_records, shipped_file, shipped_records
from coinfer_ray.reproduce.learning import lessons
from coinfer_ray.reproduce.measured import trainings
from coinfer_ray.reproduce.optimizers import searches
from coinfer_ray.reproduce.rows import (
    MAX_LOSS,
    OURS,
    PAPER,
    SERVER,
    SETTINGS,
    Problems,
    at_one_place,
    by_link,
    by_loss,
    by_rate,
    everywhere,
    rows_of,
)
from coinfer_ray.reproduce.tables import PAPER_INPUT_PX
from coinfer_ray.scenarios.read import resolve

MODELS = ("alexnet", "regnet_x_400mf")
BANDWIDTH_MHZ = 1.0  # the paper does not say its bandwidth
SNR_DB = (0.0, 50.0)


@dataclass(frozen=True)
class Size:
    """How much of the evaluation is made: points over the rate, the SNR and the allowed loss, points to a side of the
    map, whether regressors are fitted and optimizers compared, and from how many seeds CIA's agent learns and for how
    many episodes."""

    rates: int = 41
    snrs: int = 26
    losses: int = 19
    side: int = 31
    fits: bool = True
    optimizers: tuple[str, ...] = OPTIMIZERS
    agents: int = 5
    episodes: int = EPISODES


FULL = Size()
QUICK = Size(rates=13, snrs=6, losses=7, side=13, fits=False, optimizers=(), agents=0)

Rows = list[dict[str, Any]]
Part = Callable[[Problems, Size], Rows]


def partition(problems: Problems, size: Size) -> Rows:
    """Fig. 6: AlexNet as it is at the paper's input size; no records are needed."""
    problem = assemble("alexnet", predict=False, input_px=PAPER_INPUT_PX, cuts=PAPER.cuts, codec_flops=False)
    return [row.to_json() for row in rows_of(problem, PAPER, by_link(), PLAIN_METHODS)]


def rates(problems: Problems, size: Size) -> Rows:
    """Figs. 7 and 8."""
    return _everywhere(problems, by_rate(size.rates))


def place(problems: Problems, size: Size) -> Rows:
    """Figs. 9 and 10."""
    return _everywhere(problems, at_one_place())


def links(problems: Problems, size: Size) -> Rows:
    """Every method on the paper's devices and links."""
    return _everywhere(problems, by_link())


def losses(problems: Problems, size: Size) -> Rows:
    """Latency against the allowed loss."""
    return _everywhere(problems, by_loss(np.linspace(0.005, 0.05, size.losses).tolist()))


def winners(problems: Problems, size: Size) -> Rows:
    """Who is fastest where."""
    return _everywhere(problems, everywhere(size.side))


def noise(problems: Problems, size: Size) -> Rows:
    """Fig. 11: AlexNet through a noisy channel, whose rate and noise follow from the SNR.

    What a codec encodes meets the noise; the raw input and other features are sent as bits, by every method.
    """
    if shipped_file("alexnet-64px.awgn.parquet") is None:
        return []
    scenarios = [
        resolve(device="rpi3b+", server=SERVER, bandwidth_mhz=BANDWIDTH_MHZ, snr_db=float(snr), max_loss=MAX_LOSS)
        for snr in np.linspace(*SNR_DB, size.snrs)
    ]
    found = []
    for setting in SETTINGS:
        options: ProblemOptions = {**setting.options, "records": "alexnet-64px.awgn.parquet"}
        problem = assemble("alexnet", **options)
        found += [row.to_json() for row in rows_of(problem, setting, scenarios)]
    return found


def promises(problems: Problems, size: Size) -> Rows:
    """Default answers to random scenarios, and what training them anew gave (studies/verify_answers.py)."""
    found = []
    for model in MODELS:
        problem = assemble(model)
        path = shipped_records(model).with_suffix(".verified.parquet")
        if not path.exists():
            continue
        fresh = read_records(path)
        levels = np.array([problem.space.levels(strategy) for strategy in fresh.strategies])
        place = problem.measured.find(levels)
        for split in ("validation", "test"):
            base = fresh.base_accuracy(split)
            for row in np.flatnonzero(place >= 0):
                found.append(
                    {
                        "model": model,
                        "split": split,
                        "promised_loss": float(problem.base_accuracy - problem.measured.accuracy[place[row]]),
                        "measured_loss": float(base - fresh.accuracy(split)[row]),
                        "standard_error": float(fresh.losses(split)[1][row]),
                        "cut_after": problem.graph.cut_name(fresh.strategies[row].partition_point),
                    }
                )
    return found


def optimizers(problems: Problems, size: Size) -> Rows:
    """Certified gaps and search cost of the optimizers, in the paper's scenarios."""
    found: Rows = []
    scenarios = by_link() if size.optimizers else []
    for model in MODELS:
        problem = problems.of(model, OURS)
        found += [row.to_json() for row in searches(problem, scenarios, size.optimizers)]
    return found


def learning(problems: Problems, size: Size) -> Rows:
    """CIA's agent beside random decisions, where Figs. 9 and 10 are."""
    (scenario,) = at_one_place()
    return [
        row.to_json()
        for model in MODELS
        for row in (lessons(problems.of(model, OURS), scenario, size.agents, size.episodes) if size.agents else [])
    ]


def trained(problems: Problems, size: Size) -> Rows:
    """What was trained, for every method."""
    return trainings(MODELS)


def regressors(problems: Problems, size: Size) -> Rows:
    """Table IV."""
    return [fit(shipped_records(model)).to_json() for model in MODELS] if size.fits else []


PARTS: dict[str, Part] = {
    part.__name__: part
    for part in (
        partition,
        links,
        rates,
        place,
        noise,
        losses,
        winners,
        promises,
        optimizers,
        learning,
        trained,
        regressors,
    )
}


def _everywhere(problems: Problems, scenarios: Sequence[Any]) -> Rows:
    return [
        row.to_json()
        for setting in SETTINGS
        for model in MODELS
        for row in rows_of(problems.of(model, setting), setting, scenarios)
    ]
