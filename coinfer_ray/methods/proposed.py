"""The proposed method: prune, cut and encode, by one of the optimizers, on what the predictor says."""

from __future__ import annotations

from dataclasses import dataclass

from coinfer_kernels import Scenarios

from coinfer_ray.optimizer.answers import Answers
from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.optimizer.solve import DEFAULT_OPTIMIZER, solve
from coinfer_ray.optimizer.stream import check_stream, solve_stream
from coinfer_ray.scenarios.batch import ScenarioBatch


@dataclass(frozen=True)
class Proposed:
    """See :class:`coinfer_ray.methods.registry.Method`. ``optimizer``: :data:`coinfer_ray.optimizer.solve.OPTIMIZERS`;
    ``time_limit_s`` for each scenario."""

    optimizer: str = DEFAULT_OPTIMIZER
    time_limit_s: float | None = None
    name = "coinfer"
    title = "coinfer"
    predicts = True
    plain = False
    in_paper = True

    def solve(self, problem: Problem, batch: ScenarioBatch, *, seed: int = 0) -> Answers:
        """The optimizer's strategies (:func:`coinfer_ray.optimizer.solve.solve`)."""
        scenarios = Scenarios(batch.weights, problem.base_accuracy - batch.max_loss, batch.snr_db)
        if batch.stream:
            for asked in batch.confidence:
                check_stream(asked, self.optimizer)
            return problem.answers(solve_stream(problem, scenarios, batch.confidence), batch.snr_db)
        found = solve(
            problem,
            scenarios,
            self.optimizer,
            seed,
            first_scenario=batch.first,
            confidence=batch.confidence,
            time_limit_s=self.time_limit_s,
        )
        return problem.answers(found, batch.snr_db)
