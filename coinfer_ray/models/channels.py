"""Which channels of a network can only fall together, and which never: union-find over classes of channels."""

from __future__ import annotations

import math


class ChannelClasses:
    """Classes of channels. Each knows its number of channels, the unit in which they fall, and whether they may.

    A class of one unit alone is fixed: it would never lose any.
    """

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._channels: list[int] = []
        self._unit: list[int] = []
        self._fixed: list[bool] = []

    def new(self, channels: int, *, unit: int = 1, fixed: bool = False) -> int:
        """A class of its own."""
        self._parent.append(len(self._parent))
        self._channels.append(channels)
        self._unit.append(unit)
        self._fixed.append(fixed)
        return len(self._parent) - 1

    def find(self, item: int) -> int:
        """The class that ``item`` has become part of."""
        while self._parent[item] != item:
            item = self._parent[item]
        return item

    def tie(self, a: int, b: int) -> int:
        """One class of two, whose units are whole units of both; fixed where their numbers of channels differ."""
        a, b = sorted((self.find(a), self.find(b)))
        if a != b:
            self._parent[b] = a
            self._unit[a] = math.lcm(self._unit[a], self._unit[b])
            self._fixed[a] = self._fixed[a] or self._fixed[b] or self._channels[a] != self._channels[b]
        return a

    def fix(self, item: int) -> None:
        """Never prune these channels."""
        self._fixed[self.find(item)] = True

    def unit(self, item: int) -> int:
        return self._unit[self.find(item)]

    def is_fixed(self, item: int) -> bool:
        root = self.find(item)
        return self._fixed[root] or self._unit[root] >= self._channels[root]
