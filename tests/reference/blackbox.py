"""The optimizers of bounded problems in plain Python: the population (SHADE's adaptation), Algorithm 1 as it is asked
and told, and MPSS.

Solutions are lists of numbers. ``ask()`` gives proposals, ``tell(objectives, violations)`` takes their answers in the
same order. Random numbers are drawn one by one: the population's from ``stream`` (``uniform()``, ``normal()``), the
others' from ``rng`` (``random()``, ``normal(mean, sigma)``), in the order in which the text of each names them.
"""

import math

INFINITE = math.inf


class Population:
    """Success-history adaptive differential evolution (Tanabe and Fukunaga, 2013) with Deb's rule, drift to one of
    the best of ``tournament``, stochastic rounding of integers, and restarts."""

    def __init__(self, low, high, integral, size, stream, *, history=6, tournament=6, collapsed=1e-10, patience=100):
        self.low, self.high, self.integral, self.size, self.stream = low, high, integral, size, stream
        self.tournament, self.collapsed, self.patience = tournament, collapsed, patience
        self.slots = history
        self.solutions = None
        self.restarts = -1

    def ask(self):
        if self.solutions is None or self._has_collapsed():
            self.restarts += 1
            self.reach_history, self.crossing_history = [0.5] * self.slots, [0.5] * self.slots
            self.slot, self.idle, self.archive = 0, 0, []
            if self.solutions is None:
                self.solutions = [[0.0] * len(self.low) for _ in range(self.size)]
                self.steps = [(0.0, 0.0)] * self.size
            self.answers = [(INFINITE, INFINITE)] * self.size  # (violation, objective): compared in this order
            self.trials = [self._anywhere() for _ in range(self.size)]
        else:
            self.trials = [self._moved(place) for place in range(self.size)]
        return [list(trial) for trial in self.trials]

    def tell(self, objectives, violations):
        successes = []
        for place, answer in enumerate(zip(violations, objectives, strict=True)):
            before = self.answers[place]
            if answer > before:
                continue
            gain = before[0] - answer[0] or before[1] - answer[1]
            if gain > 0 and before[0] < INFINITE:
                successes.append((min(gain, 1e100), *self.steps[place]))
                self._put_into_archive(list(self.solutions[place]))
            self.answers[place] = answer
            self.solutions[place] = list(self.trials[place])
        self.idle += 1
        if successes:
            weight = sum(gain for gain, _, _ in successes)
            reach = sum(gain * reach for gain, reach, _ in successes)
            square = sum(gain * reach * reach for gain, reach, _ in successes)
            self.reach_history[self.slot] = square / reach  # the Lehmer mean
            self.crossing_history[self.slot] = sum(gain * crossing for gain, _, crossing in successes) / weight
            self.slot = (self.slot + 1) % self.slots
            self.idle = 0

    def _below(self, count):
        return int(self.stream.uniform() * count)

    def _anywhere(self):
        point = []
        for low, high, whole in zip(self.low, self.high, self.integral, strict=True):
            if whole:
                point.append(min(float(math.floor(low + self.stream.uniform() * (high - low + 1))), high))
            else:
                point.append(low + self.stream.uniform() * (high - low))
        return point

    def _moved(self, place):
        slot = self._below(self.slots)
        crossing = min(1.0, max(0.0, self.crossing_history[slot] + 0.1 * self.stream.normal()))
        reach = 0.0
        while reach <= 0:  # Cauchy
            reach = self.reach_history[slot] + 0.1 * math.tan(math.pi * (self.stream.uniform() - 0.5))
        reach = min(1.0, reach)
        self.steps[place] = reach, crossing

        best = self._below(self.size)
        for _ in range(self.tournament - 1):
            other = self._below(self.size)
            if self.answers[other] <= self.answers[best]:
                best = other
        first = place
        while first == place:
            first = self._below(self.size)
        second = place
        while second in (place, first):
            second = self._below(self.size + len(self.archive))
        subtracted = (self.solutions + self.archive)[second]

        parent = self.solutions[place]
        always = self._below(len(parent))
        trial = list(parent)
        for d in range(len(parent)):
            if d == always or self.stream.uniform() < crossing:
                drift = reach * (self.solutions[best][d] - parent[d])
                spread = reach * (self.solutions[first][d] - subtracted[d])
                trial[d] = self._inside(parent[d] + (drift + spread), parent[d], d)
        if trial == parent and self.integral[always]:
            step = 1.0 if self.stream.uniform() < 0.5 else -1.0
            if not self.low[always] <= parent[always] + step <= self.high[always]:
                step = -step
            trial[always] = min(max(parent[always] + step, self.low[always]), self.high[always])
        return trial

    def _inside(self, value, parent, d):
        low, high = self.low[d], self.high[d]
        if self.integral[d]:
            below = math.floor(value)
            return min(max(float(below + (self.stream.uniform() < value - below)), low), high)
        if value < low:
            return (low + parent) / 2
        return (high + parent) / 2 if value > high else value

    def _put_into_archive(self, parent):
        if len(self.archive) < self.size:
            self.archive.append(parent)
        else:
            self.archive[self._below(self.size)] = parent

    def _has_collapsed(self):
        if self.idle > self.patience:
            return True
        widths = [max(column) - min(column) for column in zip(*self.solutions, strict=True)]
        domain = [high - low for low, high in zip(self.low, self.high, strict=True)]
        return all(width <= self.collapsed * whole for width, whole in zip(widths, domain, strict=True))


def mean_of(points):
    return [sum(column) / len(points) for column in zip(*points, strict=True)]


def spread_of(points):
    centre = mean_of(points)
    columns = zip(*points, strict=True)
    return [
        math.sqrt(sum((value - middle) ** 2 for value in column) / len(points))
        for column, middle in zip(columns, centre, strict=True)
    ]


class AlgorithmOne:
    """The paper's Algorithm 1 in the unit cube: proposals that break a constraint are drawn again, up to
    ``max_tries`` times; ``scales`` scales, each the one before over ``shrink``."""

    def __init__(self, dimensions, population, rng, *, scales=20, shrink=1.3, max_tries=1000):
        self.rng, self.dimensions, self.max_tries, self.shrink = rng, dimensions, max_tries, shrink
        self.points = [[0.0] * dimensions for _ in range(population)]
        self.values = [INFINITE] * population
        self.sigma = [0.0] * dimensions
        self.scale, self.last_scale = 1.0, shrink ** -(scales - 1) * (1 - 1e-9)
        self.step = "initialise"
        self._begin()

    def _begin(self):
        self.waiting, self.tries = list(range(len(self.points))), 0

    def ask(self):
        if self.step == "transition":
            self.proposed = [mean_of(self.points)]
        elif self.step == "initialise":
            self.proposed = [[self.rng.random() for _ in range(self.dimensions)] for _ in self.waiting]
        else:
            self.proposed = inside_cube(self.rng, [self.points[place] for place in self.waiting], self.scale)
        return [list(point) for point in self.proposed]

    def tell(self, objectives, violations):
        values = [INFINITE if v > 0 else o for o, v in zip(objectives, violations, strict=True)]
        if self.step == "transition":
            worst = self.values.index(max(self.values))
            self.points[worst], self.values[worst] = mean_of(self.points), values[0]
            self.sigma = spread_of(self.points)
            if max(self.sigma) <= self.scale:
                self.scale = max(self.scale / self.shrink, self.last_scale)
            self.step = "stabilise"
            self._begin()
            return
        left = []
        for place, point, value in zip(self.waiting, self.proposed, values, strict=True):
            if self.step == "initialise" or value < self.values[place]:
                self.points[place], self.values[place] = point, value
            if value == INFINITE:
                left.append(place)
        self.waiting = left
        self.tries += 1
        if left and self.tries < self.max_tries:
            return
        before, self.sigma = self.sigma, spread_of(self.points)
        moved = max(abs(new - old) for new, old in zip(self.sigma, before, strict=True))
        stay = self.step == "initialise" or moved > self.scale
        self.step = "stabilise" if stay else "transition"
        self._begin()


def inside_cube(rng, means, sigma):
    """Every coordinate of N(mean, sigma^2), those outside the unit interval drawn again, all together."""
    drawn = [[rng.normal(mean, sigma) for mean in point] for point in means]
    while True:
        outside = [(i, d) for i, point in enumerate(drawn) for d, value in enumerate(point) if not 0 <= value <= 1]
        if not outside:
            return drawn
        for i, d in outside:
            drawn[i][d] = rng.normal(means[i][d], sigma)


class Mpss:
    """Multi-population MQHOA: 300 samples a pass, shared by the cube of the centres' ranks."""

    def __init__(self, dimensions, population, rng, *, samples=300, shrink=1.2):
        self.rng, self.samples, self.shrink, self.scale = rng, samples, shrink, 0.5
        self.centres = [[rng.random() for _ in range(dimensions)] for _ in range(population)]
        self.answers = [(INFINITE, INFINITE)] * population
        self.next = "first"

    def ask(self):
        if self.next == "first":
            self.owners, self.proposed = list(range(len(self.centres))), [list(point) for point in self.centres]
        elif self.next == "mean":
            self.owners, self.proposed = [self.replaced], [mean_of(self.centres)]
        else:
            order = sorted(range(len(self.centres)), key=lambda place: self.answers[place])
            ranks = {place: len(order) - at for at, place in enumerate(order)}
            total = sum(rank**3 for rank in ranks.values())
            self.owners = []
            for place in range(len(self.centres)):
                self.owners += [place] * max(1, round(self.samples * ranks[place] ** 3 / total))
            self.proposed = [[self.rng.normal(c, self.scale) for c in self.centres[place]] for place in self.owners]
            for point in self.proposed:
                for d, value in enumerate(point):
                    if not 0 <= value <= 1:
                        point[d] = self.rng.random()
        return [list(point) for point in self.proposed]

    def tell(self, objectives, violations):
        answers = list(zip(violations, objectives, strict=True))
        improved = False
        for place in sorted(set(self.owners)):
            mine = [row for row, owner in enumerate(self.owners) if owner == place]
            best = min(mine, key=lambda row: answers[row])
            if answers[best] < self.answers[place] or self.next == "mean":
                self.centres[place], self.answers[place] = self.proposed[best], answers[best]
                improved = True
        if self.next != "pass":
            self.next = "pass"
        elif improved:
            self.replaced = max(range(len(self.centres)), key=lambda place: (self.answers[place], place))
            self.next = "mean"
        else:
            self.scale /= self.shrink
