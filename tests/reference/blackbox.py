"""The population optimizer in plain Python: SHADE's adaptation.

Solutions are lists of numbers. ``ask()`` gives proposals, ``tell(objectives, violations)`` takes their answers in the
same order. Random numbers are drawn one by one from ``stream`` (``uniform()``, ``normal()``).
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
