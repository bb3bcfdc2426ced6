"""The paper's Algorithm 1 in plain Python.

``judge(point)`` returns (feasible, objective) of a point of the unit cube; ``streams`` one random stream for each
solution. Returns the best feasible (objective, point) and the number of evaluations.
"""

import math
import statistics

INFEASIBLE = math.inf


class NoneLeftError(Exception):
    """No evaluations are left."""


def solve(judge, variables, streams, *, scales, shrink, max_evaluations, max_tries, rule="best"):
    best = [INFEASIBLE, None]
    evaluations = 0

    def evaluate(point):
        nonlocal evaluations
        if evaluations == max_evaluations:
            raise NoneLeftError
        evaluations += 1
        feasible, objective = judge(point)
        if not feasible:
            return INFEASIBLE
        if objective < best[0]:
            best[:] = [objective, list(point)]
        return objective

    def gaussian(stream, mean, sigma):
        while True:
            u = mean + sigma * stream.normal()
            if 0 <= u <= 1:
                return u

    def spread(points):
        return [statistics.pstdev(column) for column in zip(*points, strict=True)]

    def until_feasible(draw):
        for _ in range(max_tries):
            point = draw()
            value = evaluate(point)
            if value < INFEASIBLE:
                break
        return point, value

    try:
        # 1. Initialisation.
        solutions, values = [], []
        for stream in streams:
            point, value = until_feasible(lambda stream=stream: [stream.uniform() for _ in range(variables)])
            solutions.append(point)
            values.append(value)
        sigma = spread(solutions)
        scale = 1.0
        for _ in range(scales):
            while True:
                # 2. Energy-level stabilisation.
                while True:
                    for i, stream in enumerate(streams):
                        parent = solutions[i]
                        bar = values[i] if rule == "parent" else best[0]
                        point, value = until_feasible(
                            lambda parent=parent, stream=stream, scale=scale: [
                                gaussian(stream, x, scale) for x in parent
                            ]
                        )
                        # As printed: until feasible, so the best so far is one of before this proposal.
                        if value < bar:
                            solutions[i], values[i] = point, value
                    before, sigma = sigma, spread(solutions)
                    if max(abs(now - then) for now, then in zip(sigma, before, strict=True)) <= scale:
                        break
                # 3. Energy-level transition.
                worst = values.index(max(values))
                mean = [statistics.fmean(column) for column in zip(*solutions, strict=True)]
                values[worst] = evaluate(mean)
                solutions[worst] = mean
                sigma = spread(solutions)
                if max(sigma) <= scale:
                    break
            # 4. Scale adjustment.
            scale /= shrink
    except NoneLeftError:
        pass
    return best[0], best[1], evaluations
