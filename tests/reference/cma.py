"""CMA-ES in plain Python, as Hansen's tutorial has it, on Cholesky's factor; of the unit cube's points.

``ask()`` gives samples as lists, ``tell(objectives, violations)`` takes their answers in the same order. Random numbers
are drawn one by one from ``stream`` (``uniform()``, ``normal()``).
"""

import math


def cholesky(matrix):
    """The lower factor; None where there is none."""
    n = len(matrix)
    lower = [[0.0] * n for _ in range(n)]
    for i in range(n):
        for j in range(i + 1):
            rest = matrix[i][j] - sum(lower[i][k] * lower[j][k] for k in range(j))
            if i == j:
                if rest <= 0:
                    return None
                lower[i][i] = math.sqrt(rest)
            else:
                lower[i][j] = rest / lower[j][j]
    return lower


def solved(lower, vector):
    """The numbers whose product with the factor is ``vector``."""
    out = []
    for i, row in enumerate(lower):
        out.append((vector[i] - sum(row[k] * out[k] for k in range(i))) / row[i])
    return out


def ranked(answers):
    """Places from the best to the worst, by Shell's method, whose gaps decide between equal ones."""
    order, gap = list(range(len(answers))), 1
    while gap < len(answers) // 3:
        gap = 3 * gap + 1
    while gap:
        for start in range(gap):
            part = order[start::gap]
            order[start::gap] = sorted(part, key=lambda i: answers[i])  # stable, as is insertion
        gap //= 3
    return order


class Gaussian:
    """One run after another; the second and later ones of BIPOP's two kinds."""

    def __init__(self, dimensions, stream, *, doublings=5, width=0.2, outside=1.0):
        self.n, self.stream, self.doublings, self.width, self.outside = dimensions, stream, doublings, width, outside
        self.first = 4 + int(3 * math.log(dimensions))
        self.runs = self.large = self.spent_large = self.spent_small = 0
        self.ended = True

    def begin(self):
        size, self.sigma, self.small = self.first, self.width, False
        if self.runs and self.spent_small < self.spent_large:
            self.small = True
            size = int(self.first * max(0.5 * 2**self.large, 1.0) ** (self.stream.uniform() ** 2))
            self.sigma *= 10 ** (-2 * self.stream.uniform())
        elif self.runs:
            self.large = min(self.large + 1, self.doublings)
            size = self.first * 2**self.large
        self.size, self.runs, self.generation, self.idle, self.ended = size, self.runs + 1, 0, 0, False
        self.mean = [self.stream.uniform() for _ in range(self.n)]
        self.path_sigma, self.path = [0.0] * self.n, [0.0] * self.n
        self.covariance = [[float(i == j) for j in range(self.n)] for i in range(self.n)]
        self.lower = cholesky(self.covariance)
        self.least = (math.inf, math.inf)
        self.set_rates()

    def set_rates(self):
        n = self.n
        raw = [math.log((self.size + 1) / 2) - math.log(i + 1) for i in range(self.size)]
        good, bad = [w for w in raw if w > 0], [w for w in raw if w <= 0]
        self.mu = sum(good) ** 2 / sum(w * w for w in good)
        mu_bad = sum(bad) ** 2 / sum(w * w for w in bad)
        self.c_one = 2 / ((n + 1.3) ** 2 + self.mu)
        self.c_mu = min(1 - self.c_one, 2 * (0.25 + self.mu + 1 / self.mu - 2) / ((n + 2) ** 2 + self.mu))
        most = min(
            1 + self.c_one / self.c_mu,
            1 + 2 * mu_bad / (self.mu + 2),
            (1 - self.c_one - self.c_mu) / (n * self.c_mu),
        )
        self.weights = [w / sum(good) if w > 0 else w * most / -sum(bad) for w in raw]
        self.c_sigma = (self.mu + 2) / (n + self.mu + 5)
        self.d_sigma = 1 + 2 * max(0, math.sqrt((self.mu - 1) / (n + 1)) - 1) + self.c_sigma
        self.c_path = (4 + self.mu / n) / (n + 4 + 2 * self.mu / n)

    def ask(self):
        if self.ended:
            self.begin()
        self.steps = []
        for _ in range(self.size):
            z = [self.stream.normal() for _ in range(self.n)]
            self.steps.append([sum(row[k] * z[k] for k in range(i + 1)) for i, row in enumerate(self.lower)])
        return [
            [min(max(m + self.sigma * y, 0.0), 1.0) for m, y in zip(self.mean, step, strict=True)]
            for step in self.steps
        ]

    def tell(self, objectives, violations):
        n, rates = self.n, (self.c_sigma, self.c_path)
        self.generation += 1
        if self.small:
            self.spent_small += self.size
        else:
            self.spent_large += self.size
        answers = list(zip(violations, objectives, strict=True))
        order = ranked(answers)
        steps = [self.steps[i] for i in order]
        taken = []
        for d in range(n):
            step = sum(w * y[d] for w, y in zip(self.weights, steps, strict=True) if w > 0)
            room = self.outside * self.sigma * math.sqrt(self.covariance[d][d])
            place = min(max(self.mean[d] + self.sigma * step, -room), 1 + room)
            taken.append((place - self.mean[d]) / self.sigma)
            self.mean[d] = place
        c_sigma, c_path = rates
        white = solved(self.lower, taken)
        longer = math.sqrt(c_sigma * (2 - c_sigma) * self.mu)
        self.path_sigma = [(1 - c_sigma) * p + longer * w for p, w in zip(self.path_sigma, white, strict=True)]
        square = sum(p * p for p in self.path_sigma)
        moving = square / n / (1 - (1 - c_sigma) ** (2 * self.generation)) < 2 + 4 / (n + 1)
        longer = moving * math.sqrt(c_path * (2 - c_path) * self.mu)
        self.path = [(1 - c_path) * p + longer * y for p, y in zip(self.path, taken, strict=True)]
        scales = []
        for weight, step in zip(self.weights, steps, strict=True):
            long = sum(z * z for z in solved(self.lower, step)) if weight < 0 else n
            scales.append(self.c_mu * weight * n / long)
        lost = 0 if moving else self.c_one * c_path * (2 - c_path)
        kept = 1 + lost - self.c_one - self.c_mu * sum(self.weights)
        self.covariance = [
            [
                kept * self.covariance[i][j]
                + self.c_one * self.path[i] * self.path[j]
                + sum(scale * step[i] * step[j] for scale, step in zip(scales, steps, strict=True))
                for j in range(n)
            ]
            for i in range(n)
        ]
        expected = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))
        self.sigma *= math.exp(min(1, c_sigma / self.d_sigma * (math.sqrt(square) / expected - 1)))
        widest = math.sqrt(max(self.covariance[d][d] for d in range(n)))
        self.sigma = min(self.sigma, 1 / widest)
        self.lower = cholesky(self.covariance)
        self.judge(answers[order[0]], answers[order[-1]], self.sigma * widest)

    def judge(self, best, worst, width):
        diagonal = [self.lower[d][d] for d in range(self.n)] if self.lower else [0.0]
        self.ended = max(diagonal) >= 1e7 * min(diagonal)
        rounding = 1e-13 * abs(best[1])
        self.idle += 1
        if best[0] < self.least[0] or (best[0] == self.least[0] and best[1] < self.least[1] - rounding):
            self.least, self.idle = best, 0
        patience = 100 + int(100 * self.n * math.sqrt(self.n) / self.size) + self.generation // 5
        settled = 10 + 30 * self.n // self.size
        flat = worst[0] == best[0] and worst[1] - best[1] <= rounding
        self.ended |= (flat and self.idle > settled) or self.idle > patience
        self.ended |= width < 1e-12
