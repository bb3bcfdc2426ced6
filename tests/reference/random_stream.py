"""SplitMix64 and xoshiro256** in Python's integers."""

import math

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


class Stream:
    """The random numbers of (seed, scenario, solution)."""

    def __init__(self, seed, scenario, solution):
        z = mix((seed + GOLDEN) & MASK)
        z = mix(((z ^ scenario) + GOLDEN) & MASK)
        z = mix(((z ^ solution) + GOLDEN) & MASK)
        self.state = [mix((z + (word + 1) * GOLDEN) & MASK) for word in range(4)]

    def bits(self):
        def rotated(x, by):
            return ((x << by) | (x >> (64 - by))) & MASK

        s0, s1, s2, s3 = self.state
        result = (rotated((s1 * 5) & MASK, 7) * 9) & MASK
        shifted = (s1 << 17) & MASK
        s2 ^= s0
        s3 ^= s1
        s1 ^= s2
        s0 ^= s3
        self.state = [s0, s1, s2 ^ shifted, rotated(s3, 45)]
        return result

    def uniform(self):
        return (self.bits() >> 11) / (1 << 53)

    def normal(self):
        while True:
            a, b = 2 * self.uniform() - 1, 2 * self.uniform() - 1
            square = a * a + b * b
            if 0 < square < 1:
                return a * math.sqrt(-2 * math.log(square) / square)
