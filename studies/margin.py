"""How wide the margin of a measured strategy has to be: simulated measurements, and answers judged by the truth.

    python studies/margin.py [--model alexnet] [--factors 1,1.25,1.5,1.75,2] [--repeats 100]

Nothing is trained. What the records measured is taken for the truth. Each of --repeats measures it anew, with a normal
error of each strategy's own size, and answers random scenarios (:func:`coinfer_ray.refine.cases.drawn_cases`) with what
that says, at a margin of so many quantiles of the error for each of --factors. Of many strategies the cheapest that
just holds is taken, which is often one that was lucky: so the normal quantile alone keeps less than it promises.

Printed are the shares of compressed answers that keep their bound, at each allowed loss, by the truth and as
studies/verify_answers.py would see it: in the mean of two fresh trainings, on the test images, which err by an error of
their own. :data:`coinfer_ray.predictor.calibration.SELECTED` is the least quarter by which, at a confidence of 0.9, as
many keep each bound by either.
"""

from __future__ import annotations

import argparse
from statistics import NormalDist

import numpy as np
from coinfer_kernels import Scenarios, cheapest_feasible
from coverage import name_of

from coinfer_ray.cli.scripts import positive_int, run_script
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.refine.cases import DRAWN_LOSSES, drawn_cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="default: alexnet and regnet_x_400mf")
    parser.add_argument("--confidences", default="0.8,0.9,0.95")
    parser.add_argument("--factors", default="1,1.25,1.5,1.75,2")
    parser.add_argument("--repeats", type=positive_int, default=100)
    parser.add_argument(
        "--scenarios", type=positive_int, default=40, help="of each repeat, every one at 1, 2 and 5 points"
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    factors = [float(each) for each in given.factors.split(",")]
    heading = "".join(f"{f'{100 * loss:g} points':>18}" for loss in DRAWN_LOSSES)
    print(f"{'network':16}{'confidence':>11}{'factor':>8}{heading}{'all':>18}   (by the truth, by fresh trainings)")
    for model in given.model or ["alexnet", "regnet_x_400mf"]:
        problem = assemble(model)
        for confidence in (float(each) for each in given.confidences.split(",")):
            for factor in factors:
                kept, answers = simulated(problem, confidence, factor, given)
                columns = [*zip(*kept, answers, strict=True), (*kept.sum(axis=1), answers.sum())]
                shares = "".join(f"{truth / count:>10.1%}{fresh / count:>8.1%}" for truth, fresh, count in columns)
                print(f"{model:16}{confidence:11g}{factor:8g}{shares}", flush=True)


def simulated(
    problem: Problem, confidence: float, factor: float, given: argparse.Namespace
) -> tuple[np.ndarray, np.ndarray]:
    """Of the compressed answers at each loss, how many keep their bound (2, L), by the truth and by fresh trainings,
    and how many there are (L,)."""
    own, known, base = problem.measured, len(problem.known_levels), problem.base_accuracy
    names = [name_of(problem.space.strategy(levels), len(problem.graph.layers)) for levels in own.levels]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    which = np.array([numbers[name] for name in names])  # a plain network has one error at all its cuts
    costs = np.vstack([problem.known_costs, own.costs])
    images = {split: problem.predictor.settings[f"{split}_images"] for split in ("validation", "test")}
    floor = problem.predictor.noise_floor or 0.0
    unseen = np.sqrt(own.error**2 * images["validation"] / images["test"] + floor**2 / 2)
    margin = factor * NormalDist().inv_cdf(confidence) * own.error
    rng = np.random.default_rng(given.seed)
    kept, answers = np.zeros((2, len(DRAWN_LOSSES))), np.zeros(len(DRAWN_LOSSES))
    for _ in range(given.repeats):
        measured, fresh = own.accuracy + rng.standard_normal((2, len(numbers)))[:, which] * np.stack(
            [own.error, unseen]
        )
        bound = np.concatenate([np.full(known, base), measured - margin])
        seed = int(rng.integers(1 << 32))
        for column, loss in enumerate(DRAWN_LOSSES):
            cases = drawn_cases(given.scenarios, seed, (loss,))
            scenarios = Scenarios(
                np.array([case.weights for case in cases]),
                np.full(len(cases), base - loss),
                np.full(len(cases), np.nan),
            )
            found, _ = cheapest_feasible(costs, bound, scenarios)
            found = found[found >= known] - known
            answers[column] += len(found)
            kept[:, column] += [(each[found] >= base - loss - 1e-9).sum() for each in (own.accuracy, fresh)]
    return kept, answers


if __name__ == "__main__":
    run_script(main)
